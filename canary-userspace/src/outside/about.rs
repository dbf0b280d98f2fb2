//! What gates and hooks are told of a rollout.

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use crate::config::rollout::{Strategy, Transition};

/// A rollout's state, as somebody outside sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct About {
    /// Names one rollout of one service among all.
    pub rollout: String,
    pub service: String,
    /// As `canary status --json` writes it.
    pub phase: String,
    /// From 1 on; before a step it is the one to come.
    pub step: usize,
    pub steps: usize,
    /// The canary's share of new connections that is in force, a fraction of 1.
    pub split: f64,
    /// The step's own share, a fraction of 1: before a step the one to come.
    pub step_split: f64,
    #[serde(serialize_with = "strategy")]
    pub strategy: Strategy,
    /// Why it is as it is, in words.
    pub reason: String,
    /// In JSON as RFC 3339, in UTC.
    #[serde(serialize_with = "time")]
    pub started_at: SystemTime,
    /// The time of this state; in JSON as RFC 3339, in UTC.
    #[serde(serialize_with = "time")]
    pub at: SystemTime,
    /// Addresses with ports.
    pub canary: Vec<String>,
    /// Addresses with ports.
    pub stable: Vec<String>,
    /// What the controller's tests say, passed on as it is.
    pub evidence: serde_json::Value,
}

fn strategy<S: Serializer>(strategy: &Strategy, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(strategy_name(*strategy))
}

/// As the configuration writes it.
pub(super) fn strategy_name(strategy: Strategy) -> &'static str {
    Strategy::NAMES.iter().find(|(_, other)| *other == strategy).map_or("", |(name, _)| name)
}

/// The last second that RFC 3339 can write, the end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

fn time<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    // A clock that is far off is no reason to panic.
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let since = since.min(Duration::from_secs(LAST_SECOND));
    serializer.collect_str(&humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since))
}

/// Who gets a body: its entry's name in the configuration.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Sender<'a> {
    Gate(&'a str),
    Hook(&'a str),
}

/// The JSON that is sent; docs/hooks.md shows it.
#[derive(Debug, Serialize)]
pub(super) struct Body<'a> {
    #[serde(flatten)]
    sender: Sender<'a>,
    /// None is a question.
    transition: Option<&'static str>,
    #[serde(flatten)]
    about: &'a About,
}

impl<'a> Body<'a> {
    pub(super) fn new(
        sender: Sender<'a>,
        transition: Option<Transition>,
        about: &'a About,
    ) -> Self {
        Self { sender, transition: transition.map(Transition::name), about }
    }

    pub(super) fn json(&self) -> String {
        // Fails on maps whose keys are no strings, of which there are none.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What commands get besides the JSON. All of it is set always, so that a
    /// script may run under `set -u`.
    pub(super) fn environment(&self) -> [(&'static str, String); 6] {
        [
            ("CANARY_SERVICE", self.about.service.clone()),
            ("CANARY_PHASE", self.about.phase.clone()),
            ("CANARY_STEP", self.about.step.to_string()),
            ("CANARY_SPLIT", self.about.split.to_string()),
            ("CANARY_STEP_SPLIT", self.about.step_split.to_string()),
            ("CANARY_TRANSITION", self.transition.unwrap_or_default().to_owned()),
        ]
    }
}
