//! Messages for Slack's incoming webhooks, and for what understands them
//! (Mattermost, Rocket.Chat, Discord below `/slack`).

use serde_json::json;

use super::{
    about::{About, strategy_name},
    words::brief,
};
use crate::config::rollout::Transition;

pub(super) fn message(transition: Transition, about: &About) -> String {
    json!({ "text": sentence(transition, about) }).to_string()
}

fn sentence(transition: Transition, about: &About) -> String {
    let About { step, steps, .. } = about;
    let strategy = strategy_name(about.strategy);
    let at = format!("step {step} of {steps}");
    let share = |split: f64| format!("{} % of new connections", brief(split * 100.0));
    let (share, coming) = (share(about.split), share(about.step_split));
    let what = match transition {
        Transition::BeforeStart => format!("is about to start ({strategy}, {steps} steps)"),
        Transition::BeforeStep => format!("is about to take {at}, {coming} to the canary"),
        Transition::BeforePromotion => "is about to be promoted".into(),
        Transition::Start => format!("has started ({strategy}, {steps} steps)"),
        Transition::Step => format!("is at {at}, {share} go to the canary"),
        Transition::Hold => format!("holds at {at}, {share} go to the canary"),
        Transition::Rollback => format!("was rolled back at {at}, new connections go to stable"),
        Transition::Completion => "is complete, the canary has taken over".into(),
        Transition::Undo => "was undone, new connections go to the old version".into(),
    };
    let what = format!("The rollout of *{}* {what}", escape(&about.service));
    if about.reason.is_empty() {
        format!("{what}.")
    } else {
        format!("{what}: {}", escape(&about.reason))
    }
}

/// The three characters that Slack gives a meaning: a reason that quotes
/// somebody must not link or call anybody.
/// <https://docs.slack.dev/messaging/formatting-message-text>
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
