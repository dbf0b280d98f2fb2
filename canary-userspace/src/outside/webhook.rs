//! Webhooks, of gates and of hooks.

use std::time::Duration;

use super::{
    Answer, Tried,
    http::{self, Post, Reply, Target},
    words,
};

/// Enough for the words that are shown.
const LIMIT: usize = 4 << 10;

pub(super) async fn ask(url: &str, json: &str, timeout: Duration) -> Tried<Answer> {
    let target = match Target::parse(url) {
        Ok(target) => target,
        Err(error) => return Tried::Settled(Answer::missing(format!("its url: {error}"))),
    };
    let post = Post { content_type: "application/json", body: json, limit: LIMIT };
    match http::post(&target, post, timeout).await {
        Ok(reply) => judge(&reply),
        Err(error) => Tried::NoAnswer(words::chain(&error)),
    }
}

fn judge(reply: &Reply) -> Tried<Answer> {
    let status = reply.status;
    let detail = reply.words();
    if status.is_success() {
        Tried::Settled(Answer::Pass { detail })
    } else if reply.is_no_answer() {
        Tried::NoAnswer(detail)
    } else if status.is_client_error() {
        Tried::Settled(Answer::Fail { detail })
    } else if status.is_redirection() {
        Tried::Settled(Answer::missing(reply.redirect()))
    } else {
        Tried::NoAnswer(detail)
    }
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::*;

    #[test]
    #[expect(clippy::unwrap_used, reason = "tests")]
    fn each_status_has_a_meaning() {
        for (status, expected) in [
            (200, "pass"),
            (204, "pass"),
            (299, "pass"),
            (301, "missing"),
            (307, "missing"),
            (400, "fail"),
            (404, "fail"),
            (408, "again"),
            (425, "again"),
            (429, "again"),
            (451, "fail"),
            (500, "again"),
            (503, "again"),
            (600, "again"),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let reply = Reply { status, location: None, body: b"why".to_vec(), whole: true };
            let meaning = match judge(&reply) {
                Tried::Settled(Answer::Pass { .. }) => "pass",
                Tried::Settled(Answer::Fail { .. }) => "fail",
                Tried::Settled(Answer::Missing { .. }) => "missing",
                Tried::NoAnswer(_) => "again",
            };
            assert_eq!(meaning, expected, "{status}");
        }
    }
}
