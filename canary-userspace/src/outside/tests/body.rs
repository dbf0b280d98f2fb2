//! What is sent: docs/hooks.md shows it, and scripts rely on it.

use serde_json::{Value, json};

use super::about;
use crate::{
    config::rollout::{Strategy, Transition},
    outside::{
        about::{Body, Sender},
        slack,
    },
};

const DOCS: &str = include_str!("../../../../docs/hooks.md");

#[test]
fn the_body_of_a_hook() {
    let about = about();
    let body = Body::new(Sender::Hook("chat"), Some(Transition::BeforeStep), &about);
    let (_, shown) = DOCS.split_once("```json\n").unwrap();
    let (shown, _) = shown.split_once("```").unwrap();
    let expected: Value = serde_json::from_str(shown).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&body.json()).unwrap(), expected);
    let environment = [
        ("CANARY_SERVICE", "web"),
        ("CANARY_PHASE", "shifting"),
        ("CANARY_STEP", "2"),
        ("CANARY_SPLIT", "0.05"),
        ("CANARY_STEP_SPLIT", "0.25"),
        ("CANARY_TRANSITION", "before-step"),
    ];
    for (name, _) in environment {
        assert!(DOCS.contains(&format!("| `{name}` |")), "{name}");
    }
    assert_eq!(body.environment(), environment.map(|(name, value)| (name, value.to_owned())));
}

#[test]
fn the_body_of_a_question() {
    let about = about();
    let body = Body::new(Sender::Gate("errors"), None, &about);
    let sent: Value = serde_json::from_str(&body.json()).unwrap();
    assert_eq!(
        [&sent["gate"], &sent["transition"], &sent["hook"]],
        [&json!("errors"), &Value::Null, &Value::Null]
    );
    assert_eq!(body.environment()[5], ("CANARY_TRANSITION", String::new()));
}

#[test]
fn every_strategy_has_its_name() {
    for (name, strategy) in Strategy::NAMES {
        let about = super::About { strategy, ..about() };
        assert_eq!(serde_json::to_value(&about).unwrap()["strategy"], name);
    }
}

#[test]
fn a_clock_that_is_far_off_does_no_harm() {
    use std::time::{Duration, SystemTime};
    for (at, expected) in [
        (SystemTime::UNIX_EPOCH - Duration::from_secs(9), "1970-01-01T00:00:00.000Z"),
        (SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 45), "9999-12-31T23:59:59.000Z"),
    ] {
        let about = super::About { at, ..about() };
        assert_eq!(serde_json::to_value(&about).unwrap()["at"], expected);
    }
}

#[test]
fn slack_gets_a_sentence() {
    let mut about = about();
    about.split = 0.1 + 0.2;
    let text = |transition, about: &_| -> String {
        let message: Value = serde_json::from_str(&slack::message(transition, about)).unwrap();
        message["text"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        text(Transition::Step, &about),
        "The rollout of *web* is at step 2 of 5, 30 % of new connections go to the canary: step 1 is over"
    );
    assert_eq!(
        text(Transition::BeforeStep, &about),
        "The rollout of *web* is about to take step 2 of 5, 25 % of new connections to the \
         canary: step 1 is over"
    );
    about.reason = "<!channel> 3 > 2 & \"more\"".into();
    assert!(
        text(Transition::Hold, &about).ends_with(": &lt;!channel&gt; 3 &gt; 2 &amp; \"more\""),
        "{}",
        text(Transition::Hold, &about)
    );
    about.reason.clear();
    for (_, transition) in Transition::NAMES {
        let text = text(transition, &about);
        assert!(text.starts_with("The rollout of *web* ") && text.ends_with('.'), "{text}");
    }
}
