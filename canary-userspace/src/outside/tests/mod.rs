//! Real connections and real commands; the pure parts have their tests beside
//! them.
#![expect(clippy::unwrap_used, reason = "tests")]

mod body;
mod command;
mod probe;
mod prometheus;
mod webhook;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::About;
use crate::config::rollout::{Gate, GateKind, OnFail, OnMissing, Strategy};

fn about() -> About {
    let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 250);
    About {
        rollout: "web-17".into(),
        service: "web".into(),
        phase: "shifting".into(),
        step: 2,
        steps: 5,
        split: 0.05,
        step_split: 0.25,
        strategy: Strategy::Canary,
        reason: "step 1 is over".into(),
        started_at: at(1_700_000_000),
        at: at(1_700_000_600),
        canary: vec!["10.0.0.21:8080".into()],
        stable: vec!["10.0.0.11:8080".into(), "[2001:db8::1]:80".into()],
        evidence: serde_json::json!({ "harm": { "refused": 3.5 } }),
    }
}

fn gate(asks: GateKind, timeout: u64, retries: u32) -> Gate {
    Gate {
        name: "errors".into(),
        asks,
        every: Duration::from_secs(10),
        timeout: Duration::from_millis(timeout),
        retries,
        on_fail: OnFail::Rollback,
        on_missing: OnMissing::Hold,
    }
}

/// What a server does with one request.
#[derive(Clone, Debug)]
enum Does {
    /// Writes this, and hangs up.
    Say(String),
    /// Writes this, and keeps the connection open without another word.
    SayAndHang(String),
    /// Writes this over and over, for as long as somebody reads.
    Flood(String, String),
}

/// A whole answer.
fn answer(status: &str, body: &str) -> Does {
    let length = body.len();
    Does::Say(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}"))
}

/// An HTTP server on loopback that does one thing after the other, the last of
/// them for ever, and keeps what it was asked. It ends with its runtime.
struct Server {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn new(script: Vec<Does>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = requests.clone();
        tokio::spawn(async move {
            let mut script = script.into_iter().peekable();
            let mut does = script.next().unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, does.clone(), kept.clone()));
                does = script.next().unwrap_or(does);
            }
        });
        Self { port, requests }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, does: Does, kept: Arc<Mutex<Vec<String>>>) {
    let request = request(&mut stream).await;
    kept.lock().unwrap().push(request);
    match does {
        Does::Say(text) => stream.write_all(text.as_bytes()).await.unwrap(),
        Does::SayAndHang(text) => {
            stream.write_all(text.as_bytes()).await.unwrap();
            std::future::pending::<()>().await;
        }
        Does::Flood(head, again) => {
            stream.write_all(head.as_bytes()).await.unwrap();
            while stream.write_all(again.as_bytes()).await.is_ok() {}
        }
    }
}

/// One request as it came, its body included.
async fn request(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await.unwrap();
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if read == 0 || body.len() == length.map_or(0, |length| length.parse().unwrap()) {
            return text;
        }
    }
}
