//! Asks a backend whether it is well.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, time::timeout};

use super::{Answer, Tried, command, http, http::Target, words};
use crate::{
    config::{
        Health,
        health::{CheckKind, HttpCheck},
    },
    health::Outcome,
};

/// As much of a body is looked at.
const BODY: usize = 64 << 10;

/// A backend, and how it is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    pub service: String,
    pub track: &'static str,
    pub backend: SocketAddr,
    kind: CheckKind,
    /// Where it is asked.
    to: SocketAddr,
    http: HttpCheck,
    command: Vec<String>,
    timeout: Duration,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Probed {
    pub outcome: Outcome,
    /// For people.
    pub detail: String,
    pub took: Duration,
}

impl Probe {
    /// `None` where the backend is not asked.
    #[must_use]
    pub fn new(
        service: &str,
        track: &'static str,
        backend: SocketAddr,
        health: &Health,
    ) -> Option<Self> {
        let mut to = backend;
        to.set_port(health.port.unwrap_or(backend.port()));
        Some(Self {
            service: service.to_owned(),
            track,
            backend,
            kind: health.check?,
            to,
            http: health.http.clone(),
            command: health.command.clone(),
            timeout: health.timeout,
        })
    }

    /// Asks once. Takes no longer than the configured timeout.
    pub async fn ask(&self) -> Probed {
        let begun = Instant::now();
        let (outcome, detail) = match self.kind {
            CheckKind::Command => self.run().await,
            CheckKind::Tcp => match self.connect().await {
                Ok(_) => (Outcome::Pass, "connected".to_owned()),
                Err(detail) => (Outcome::Unreachable, detail),
            },
            CheckKind::Http | CheckKind::Https => match self.connect().await {
                Ok(stream) => self.get(stream, self.timeout.saturating_sub(begun.elapsed())).await,
                Err(detail) => (Outcome::Unreachable, detail),
            },
        };
        Probed { outcome, detail, took: begun.elapsed() }
    }

    async fn connect(&self) -> Result<TcpStream, String> {
        match timeout(self.timeout, TcpStream::connect(self.to)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(format!("connecting to {}: {}", self.to, reason(&error))),
            Err(_) => Err(format!("connecting to {}: {}", self.to, self.silence())),
        }
    }

    async fn get(&self, stream: TcpStream, left: Duration) -> (Outcome, String) {
        let tls = self.kind == CheckKind::Https;
        let trust = self.http.verify;
        let target = Target::of(self.to, tls, self.http.host.as_deref(), &self.http.path);
        let limit = if self.http.body.is_some() { BODY } else { 0 };
        let reply = match timeout(left, http::get(stream, &target, trust, limit)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => return (Outcome::Fail, words::chain(&error)),
            Err(_) => return (Outcome::Fail, self.silence()),
        };
        let status = reply.status.as_u16();
        if !self.http.status.iter().any(|range| range.has(status)) {
            return (Outcome::Fail, reply.status.to_string());
        }
        if let Some(wanted) = &self.http.body
            && !contains(&reply.body, wanted.as_bytes())
        {
            let said = words::with(reply.status, &words::said(&reply.body));
            return (Outcome::Fail, format!("no {wanted:?} in its answer: {said}"));
        }
        (Outcome::Pass, reply.status.to_string())
    }

    async fn run(&self) -> (Outcome, String) {
        let environment = [
            ("CANARY_SERVICE", self.service.clone()),
            ("CANARY_TRACK", self.track.to_owned()),
            ("CANARY_BACKEND", self.backend.to_string()),
            ("CANARY_ADDRESS", self.backend.ip().to_string()),
            ("CANARY_PORT", self.backend.port().to_string()),
        ];
        match timeout(self.timeout, command::ask(&self.command, &environment, "")).await {
            Ok(Tried::Settled(Answer::Pass { detail })) => (Outcome::Pass, detail),
            Ok(Tried::Settled(answer)) => (Outcome::Fail, answer.detail().to_owned()),
            Ok(Tried::NoAnswer(detail)) => (Outcome::Fail, detail),
            Err(_) => (Outcome::Fail, self.silence()),
        }
    }

    fn silence(&self) -> String {
        format!("no answer within {}", humantime::format_duration(self.timeout))
    }
}

/// Without the number that people do not know.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        _ => error.to_string(),
    }
}

fn contains(body: &[u8], wanted: &[u8]) -> bool {
    body.windows(wanted.len().max(1)).any(|piece| piece == wanted)
}
