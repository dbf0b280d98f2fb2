//! Checks of backends, against servers on loopback.

use std::{net::SocketAddr, time::Instant};

use tokio::net::TcpListener;

use super::{Does, Server, answer};
use crate::{
    config::{Health, parse},
    health::Outcome,
    outside::{Probe, Probed},
};

/// As the file would have it.
fn health(keys: &str) -> Health {
    let text = format!(
        "interfaces = ['eth0']\n[service.web]\nlisten = '203.0.113.10:80'\n\
         stable = ['10.0.0.11:8080']\n[service.web.health]\n{keys}\n"
    );
    let mut config = parse(&text, "test").unwrap();
    let [stable, _] = config.services.remove(0).health;
    stable
}

async fn ask(backend: SocketAddr, keys: &str) -> Probed {
    Probe::new("web", "stable", backend, &health(keys)).unwrap().ask().await
}

fn at(server: &Server) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], server.port))
}

#[tokio::test]
async fn answers_by_status_and_body() {
    let http = "check = 'http'\n";
    for (keys, does, outcome, detail) in [
        ("", answer("200 OK", ""), Outcome::Pass, "200 OK"),
        ("", answer("302 Found", ""), Outcome::Pass, "302 Found"),
        ("", answer("404 Not Found", ""), Outcome::Fail, "404 Not Found"),
        ("", answer("503 Service Unavailable", "x"), Outcome::Fail, "503 Service Unavailable"),
        ("status = [503]", answer("503 Service Unavailable", ""), Outcome::Pass, "503"),
        ("status = [200, '204-206']", answer("203 Other", ""), Outcome::Fail, "203"),
        ("body = 'well'", answer("200 OK", "all is well."), Outcome::Pass, "200 OK"),
        ("body = 'well'", answer("200 OK", "ill"), Outcome::Fail, "no \"well\" in its answer: 200"),
        ("", Does::Say("SSH-2.0-x\r\n".into()), Outcome::Fail, "talking HTTP to http://127.0.0.1"),
        // The status is all that is asked for, so a body without an end is no harm.
        (
            "",
            Does::SayAndHang("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".into()),
            Outcome::Pass,
            "200 OK",
        ),
        (
            "body = 'well'\ntimeout = '100ms'",
            Does::SayAndHang("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".into()),
            Outcome::Fail,
            "no answer within 100ms",
        ),
    ] {
        let server = Server::new(vec![does]).await;
        let probed = ask(at(&server), &format!("{http}{keys}")).await;
        assert_eq!(probed.outcome, outcome, "{keys}: {probed:?}");
        assert!(probed.detail.contains(detail), "{keys}: {probed:?}");
    }
}

#[tokio::test]
async fn what_is_asked() {
    let server = Server::new(vec![answer("200 OK", "")]).await;
    let keys = "check = 'http'\npath = '/healthz?deep=1'\nhost = 'shop.example:81'";
    assert_eq!(ask(at(&server), keys).await.outcome, Outcome::Pass);
    assert_eq!(ask(at(&server), "check = 'http'").await.outcome, Outcome::Pass);
    let [first, second] = &server.requests()[..] else { panic!("{:?}", server.requests()) };
    assert!(first.starts_with("GET /healthz?deep=1 HTTP/1.1\r\n"), "{first}");
    assert!(first.contains("\r\nhost: shop.example:81\r\n"), "{first}");
    assert!(first.contains("\r\nuser-agent: canary/"), "{first}");
    assert!(second.starts_with("GET / HTTP/1.1\r\n"), "{second}");
    assert!(second.contains(&format!("\r\nhost: {}\r\n", at(&server))), "{second}");
}

/// A connection, or none.
#[tokio::test]
async fn tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let there = listener.local_addr().unwrap();
    let probed = ask(there, "check = 'tcp'").await;
    assert_eq!((probed.outcome, probed.detail.as_str()), (Outcome::Pass, "connected"));
    // Another port than clients are sent to.
    let other = SocketAddr::from(([127, 0, 0, 1], 1));
    let keys = format!("check = 'tcp'\nport = {}", there.port());
    assert_eq!(ask(other, &keys).await.outcome, Outcome::Pass);
    drop(listener);
    for check in ["tcp", "http", "https"] {
        let probed = ask(there, &format!("check = '{check}'")).await;
        assert_eq!(probed.outcome, Outcome::Unreachable);
        assert_eq!(probed.detail, format!("connecting to {there}: refused"));
    }
}

#[tokio::test]
async fn a_server_that_hangs_fails_in_time() {
    let server = Server::new(vec![Does::SayAndHang(String::new())]).await;
    let begun = Instant::now();
    let probed = ask(at(&server), "check = 'http'\ntimeout = '100ms'").await;
    // Somebody took the connection.
    assert_eq!(probed.outcome, Outcome::Fail);
    assert_eq!(probed.detail, "no answer within 100ms");
    assert!(begun.elapsed().as_secs() < 5);
}

#[tokio::test]
async fn commands() {
    let backend = "[2001:db8::1]:81".parse().unwrap();
    let run = async |script: &str| {
        let keys =
            format!("check = 'command'\ntimeout = '2s'\ncommand = ['/bin/sh', '-c', \"{script}\"]");
        ask(backend, &keys).await
    };
    let told =
        run("echo $CANARY_SERVICE $CANARY_TRACK $CANARY_BACKEND $CANARY_ADDRESS $CANARY_PORT");
    let probed = told.await;
    assert_eq!(probed.outcome, Outcome::Pass);
    assert!(probed.detail.ends_with("web stable [2001:db8::1]:81 2001:db8::1 81"), "{probed:?}");
    let probed = run("echo ill; exit 1").await;
    assert_eq!(probed.outcome, Outcome::Fail);
    assert!(probed.detail.ends_with("ill"), "{probed:?}");
    // It never means that nobody is there.
    assert_eq!(run("exit 127").await.outcome, Outcome::Fail);
    assert_eq!(run("sleep 9").await.outcome, Outcome::Fail);
}
