//! Tests of the whole way from text to configuration or mistakes.
#![expect(clippy::unwrap_used, reason = "tests")]

mod files;
mod health;
mod mistakes;
mod rollout;
mod rollout_mistakes;
mod steer;
mod values;

use super::{Config, Mistake, Mistakes, parse};

/// The least that is a configuration, on four lines.
const SHORT: &str = "\
interfaces = [\"eth0\"]
[service.web]
listen = \"203.0.113.10:80\"
stable = [\"10.0.0.11:8080\", \"10.0.0.12:8080\"]
";

/// A service that can have a rollout, with more at its end.
fn with_canary(more: &str) -> String {
    format!("{SHORT}canary = [\"10.0.0.21:8080\"]\n{more}")
}

fn good(text: &str) -> Config {
    parse(text, "canary.toml").unwrap_or_else(|mistakes| panic!("{text}\n{mistakes}"))
}

fn bad(text: &str) -> Vec<Mistake> {
    match parse(text, "canary.toml") {
        Ok(config) => panic!("was accepted:\n{text}\n{config:?}"),
        Err(Mistakes { mistakes, .. }) => mistakes,
    }
}

/// Asserts one mistake, at the `«»` in `text`, with these pieces of message
/// and help.
#[track_caller]
fn one(marked: &str, message: &str, help: &str) {
    let found = some(marked);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].message.contains(message), "{marked}\n{found:#?}");
    assert!(found[0].help.contains(help), "{marked}\n{found:#?}");
}

/// Asserts a mistake at each `«»` in `text`, and no other.
#[track_caller]
fn some(marked: &str) -> Vec<Mistake> {
    let mut expected = Vec::new();
    for (number, line) in marked.lines().enumerate() {
        let mut plain = 0;
        let mut start = 0;
        for c in line.chars() {
            match c {
                '«' => start = plain,
                '»' => expected.push((number + 1, start + 1, plain - start)),
                _ => plain += 1,
            }
        }
    }
    let found = bad(&marked.replace(['«', '»'], ""));
    let places: Vec<_> = found.iter().map(|m| (m.line, m.column, m.length)).collect();
    assert_eq!(places, expected, "{marked}\n{found:#?}");
    found
}
