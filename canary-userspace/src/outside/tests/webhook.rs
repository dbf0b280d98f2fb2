//! Webhooks, and what every HTTP request here has in common.

use std::time::{Duration, Instant};

use super::{Does, Server, about, answer, gate};
use crate::{
    config::rollout::{GateKind, Hook, HookKind, Transition},
    outside::{Answer, OutsideError, ask, tell},
};

async fn asked(url: String, timeout: u64, retries: u32) -> Answer {
    ask(&gate(GateKind::Webhook { url }, timeout, retries), &about()).await
}

fn hook(url: String, slack: bool, retries: u32) -> Hook {
    Hook {
        name: "chat".into(),
        on: vec![Transition::Rollback],
        tells: HookKind::Webhook { url, slack },
        timeout: Duration::from_secs(2),
        retries,
    }
}

#[tokio::test]
async fn each_kind_of_answer() {
    for (does, expected) in [
        (answer("200 OK", "go\n"), Answer::Pass { detail: "200 OK: go".into() }),
        (answer("204 No Content", ""), Answer::Pass { detail: "204 No Content".into() }),
        (answer("409 Conflict", "freeze"), Answer::Fail { detail: "409 Conflict: freeze".into() }),
        (
            Does::Say("HTTP/1.1 307 Temporary Redirect\r\nLocation: /there\r\n\r\n".into()),
            Answer::missing(
                "307 Temporary Redirect to /there: redirects are not followed, name the last address",
            ),
        ),
        (answer("502 Bad Gateway", "down"), Answer::missing("502 Bad Gateway: down")),
    ] {
        let server = Server::new(vec![does]).await;
        assert_eq!(asked(format!("{}/gate?x=1", server.url()), 2000, 0).await, expected);
        let requests = server.requests();
        assert_eq!(requests.len(), 1, "{expected:?}");
        assert!(requests[0].starts_with("POST /gate?x=1 HTTP/1.1\r\n"), "{}", requests[0]);
        let (head, body) = requests[0].split_once("\r\n\r\n").unwrap();
        let host = format!("\r\nhost: 127.0.0.1:{}", server.port);
        assert!(head.contains(&host), "{head}");
        assert!(head.contains("\r\ncontent-type: application/json"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!([&body["gate"], &body["service"]], ["errors", "web"]);
    }
}

#[tokio::test]
async fn what_is_no_http_is_no_answer() {
    let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
    let long = "x".repeat(1 << 20);
    for (does, word) in [
        (Does::Say("220 mail.example ESMTP\r\n".into()), "talking HTTP to http://127.0.0.1"),
        (Does::Say(String::new()), "talking HTTP to http://127.0.0.1"),
        (Does::Say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".into()), "talking HTTP to"),
        (Does::Say(format!("HTTP/1.1 200 OK\r\n{many}\r\n")), "talking HTTP to"),
        (Does::Say(format!("HTTP/1.1 200 OK\r\nX: {long}\r\n\r\n")), "talking HTTP to"),
    ] {
        let server = Server::new(vec![does]).await;
        let got = asked(server.url(), 2000, 0).await;
        assert!(matches!(&got, Answer::Missing { detail } if detail.contains(word)), "{got:?}");
    }
}

#[tokio::test]
async fn a_server_that_hangs_costs_the_timeout_and_no_more() {
    for begun in ["", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"] {
        let server = Server::new(vec![Does::SayAndHang(begun.into())]).await;
        let start = Instant::now();
        let got = asked(server.url(), 200, 2).await;
        let took = start.elapsed();
        assert_eq!(got.detail(), "no answer within 200ms (the last of 3 tries)");
        assert!(matches!(got, Answer::Missing { .. }), "{got:?}");
        assert_eq!(server.requests().len(), 3);
        assert!(took >= Duration::from_millis(600 + 100 + 200), "{took:?}");
        assert!(took < 3 * Duration::from_millis(1200), "{took:?}");
    }
}

#[tokio::test]
async fn another_try_finds_an_answer() {
    let script = vec![
        answer("500 Internal Server Error", ""),
        answer("429 Too Many Requests", ""),
        answer("200 OK", "now"),
    ];
    let server = Server::new(script).await;
    let got = asked(server.url(), 2000, 5).await;
    assert_eq!(got, Answer::Pass { detail: "200 OK: now".into() });
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn a_no_is_not_asked_again() {
    let server = Server::new(vec![answer("403 Forbidden", ""), answer("200 OK", "")]).await;
    assert_eq!(asked(server.url(), 2000, 5).await, Answer::Fail { detail: "403 Forbidden".into() });
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn an_endless_body_is_cut() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into();
    let server = Server::new(vec![Does::Flood(head, "5\r\nyes. \r\n".into())]).await;
    let got = asked(server.url(), 5000, 0).await;
    let Answer::Pass { detail } = &got else { panic!("{got:?}") };
    assert_eq!(detail.len(), "200 OK: ".len() + 200 + "…".len(), "{detail}");
}

#[tokio::test]
async fn nobody_there() {
    // The port was free a moment ago, and nobody else binds it on loopback.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let got = asked(format!("http://127.0.0.1:{port}/secret"), 2000, 0).await;
    let expected =
        format!("connecting to http://127.0.0.1:{port}: Connection refused (os error 111)");
    assert_eq!(got, Answer::Missing { detail: expected });
    let got = asked("http://no-such-host.invalid/secret".into(), 10_000, 0).await;
    assert!(got.detail().starts_with("finding the address of no-such-host.invalid: "), "{got:?}");
    let got = asked("ftp://example.com".into(), 2000, 5).await;
    assert_eq!(got, Answer::missing("its url: its scheme is neither http nor https"));
}

#[tokio::test]
async fn a_login_is_sent_and_not_shown() {
    let server = Server::new(vec![answer("401 Unauthorized", "")]).await;
    let url = format!("http://me:p%40ss@127.0.0.1:{}/", server.port);
    let got = asked(url, 2000, 0).await;
    assert_eq!(got, Answer::Fail { detail: "401 Unauthorized".into() });
    let request = &server.requests()[0];
    // base64 of "me:p@ss"
    assert!(request.contains("\r\nauthorization: Basic bWU6cEBzcw==\r\n"), "{request}");
    assert!(request.contains(&format!("\r\nhost: 127.0.0.1:{}\r\n", server.port)), "{request}");
}

#[tokio::test]
async fn hooks_are_told() {
    let server = Server::new(vec![answer("503 Later", ""), answer("200 OK", "ok")]).await;
    let told = tell(&hook(server.url(), true, 1), Transition::Rollback, &about()).await;
    assert_eq!(told.unwrap(), "200 OK: ok");
    let request = &server.requests()[1];
    let (_, body) = request.split_once("\r\n\r\n").unwrap();
    let text = "The rollout of *web* was rolled back at step 2 of 5, new connections go to \
                stable: step 1 is over";
    assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["text"], text);

    let server = Server::new(vec![answer("403 Forbidden", "no_service")]).await;
    let told = tell(&hook(server.url(), false, 3), Transition::BeforeStep, &about()).await;
    let error = told.unwrap_err();
    assert_eq!(error.to_string(), "hook chat refused before-step: 403 Forbidden: no_service");
    assert!(matches!(error, OutsideError::Refused { .. }));

    let server = Server::new(vec![answer("500 Internal Server Error", "")]).await;
    let told = tell(&hook(server.url(), false, 1), Transition::Start, &about()).await;
    let error = told.unwrap_err();
    let expected =
        "hook chat could not be told of start: 500 Internal Server Error (the last of 2 tries)";
    assert_eq!(error.to_string(), expected);
    assert!(matches!(error, OutsideError::NoAnswer { .. }));
}
