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

#[test]
fn the_body_of_a_hook() {
    let about = about();
    let body = Body::new(Sender::Hook("chat"), Some(Transition::BeforeStep), &about);
    let expected = json!({
        "hook": "chat",
        "transition": "before-step",
        "rollout": "web-17",
        "service": "web",
        "phase": "baking",
        "step": 2,
        "steps": 5,
        "split": 0.05,
        "strategy": "blue-green",
        "reason": "step 2 began",
        "started_at": "2023-11-14T22:13:20.250Z",
        "at": "2023-11-14T22:23:20.250Z",
        "canary": ["10.0.0.21:8080"],
        "stable": ["10.0.0.11:8080", "[2001:db8::1]:80"],
        "evidence": { "harm": { "refused": 3.5 } },
    });
    assert_eq!(serde_json::from_str::<Value>(&body.json()).unwrap(), expected);
    let environment = [
        ("CANARY_SERVICE", "web"),
        ("CANARY_PHASE", "baking"),
        ("CANARY_STEP", "2"),
        ("CANARY_SPLIT", "0.05"),
        ("CANARY_TRANSITION", "before-step"),
    ];
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
    assert_eq!(body.environment()[4], ("CANARY_TRANSITION", String::new()));
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
        "The rollout of *web* is at step 2 of 5, 30 % of new connections go to the canary: step 2 \
         began"
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
