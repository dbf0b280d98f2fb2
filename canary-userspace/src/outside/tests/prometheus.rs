//! Gates that ask Prometheus, with answers written by hand; a real one is asked
//! in `tests/prometheus.rs` of the crate.

use super::{Does, Server, about, answer, gate};
use crate::{
    config::rollout::{Bound, GateKind},
    outside::{Answer, ask},
};

async fn asked(server: &Server, relative: bool, retries: u32) -> Answer {
    let query = r#"sum(rate(x{track="{{track}}"}[1m])) / 2 + 1"#.into();
    let url = format!("{}/prefix/?dedup=true", server.url());
    let asks = GateKind::Prometheus { url, query, bound: Bound::Max(1.5), relative };
    ask(&gate(asks, 2000, retries), &about()).await
}

fn vector(value: &str) -> Does {
    let body = format!(
        r#"{{"status":"success","data":{{"resultType":"vector","result":[{{"metric":{{}},"value":[1700000000.1,"{value}"]}}]}}}}"#
    );
    answer("200 OK", &body)
}

#[tokio::test]
async fn one_question_of_an_absolute_bound_and_two_of_a_relative_one() {
    let server = Server::new(vec![vector("1.25")]).await;
    let got = asked(&server, false, 0).await;
    assert_eq!(got, Answer::Pass { detail: "canary 1.25 ≤ 1.5".into() });
    let requests = server.requests();
    let (head, body) = requests[0].split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /prefix/api/v1/query?dedup=true HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("\r\ncontent-type: application/x-www-form-urlencoded"), "{head}");
    // The plus, the slash and the quotes survive.
    assert_eq!(
        body,
        "query=sum%28rate%28x%7Btrack%3D%22canary%22%7D%5B1m%5D%29%29+%2F+2+%2B+1&timeout=2000ms"
    );

    let server = Server::new(vec![vector("3")]).await;
    let got = asked(&server, true, 0).await;
    assert_eq!(got, Answer::Pass { detail: "canary 3 ≤ 1.5 × stable 3".into() });
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    for track in ["canary", "stable"] {
        assert!(requests.iter().any(|request| request.contains(&format!("%22{track}%22"))));
    }
}

#[tokio::test]
async fn only_what_may_change_is_asked_again() {
    let error = r#"{"status":"error","errorType":"timeout","error":"query timed out"}"#;
    let script = vec![answer("503 Service Unavailable", error), vector("7")];
    let server = Server::new(script).await;
    let got = asked(&server, false, 3).await;
    assert_eq!(got, Answer::Fail { detail: "canary 7 > 1.5".into() });
    assert_eq!(server.requests().len(), 2);

    let error = r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
    let server = Server::new(vec![answer("400 Bad Request", error)]).await;
    let got = asked(&server, false, 3).await;
    let expected = "canary: Prometheus says 400 Bad Request: bad_data: parse error";
    assert_eq!(got, Answer::missing(expected));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_body_without_an_end_is_refused() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into();
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    let server = Server::new(vec![Does::Flood(head, chunk)]).await;
    let got = asked(&server, false, 0).await;
    let Answer::Missing { detail } = &got else { panic!("{got:?}") };
    assert!(detail.starts_with("canary: more than 1 MiB came back"), "{detail}");
}

#[tokio::test]
async fn a_relative_bound_needs_two_tracks() {
    let asks = GateKind::Prometheus {
        url: "http://127.0.0.1:9".into(),
        query: "sum(x)".into(),
        bound: Bound::Max(1.0),
        relative: true,
    };
    let got = ask(&gate(asks, 1000, 0), &about()).await;
    assert_eq!(got, Answer::missing("a relative bound needs a query with {{track}}"));
}
