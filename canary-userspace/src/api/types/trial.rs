//! Rollouts, their evidence, steering and drills.

use serde::{Deserialize, Serialize};

use super::{RolloutStatus, SplitStatus};

/// Body of `POST /v1/services/{service}/rollout`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutCommand {
    /// `start`, `pause`, `resume`, `promote`, `abort`, `retry` or `undo`.
    pub command: String,
    /// Of `promote`: all the way.
    #[serde(default)]
    pub full: bool,
    /// Of `start`: who goes first follows from it.
    #[serde(default)]
    pub salt: Option<String>,
}

/// `GET /v1/services/{service}/explain`: why it holds, goes on or went back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub service: String,
    pub split: SplitStatus,
    pub rollout: RolloutStatus,
    /// In words, a line each.
    pub text: Vec<String>,
    /// The numbers behind them, by metric; `null` where nothing is on trial.
    pub judgement: serde_json::Value,
    pub gates: Vec<GateStatus>,
    pub guard: Guard,
}

/// What a gate last said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GateStatus {
    pub name: String,
    /// `pass`, `fail`, `missing` or `not-asked`.
    pub answer: String,
    pub detail: String,
    /// Seconds since 1970; `null` before the first answer.
    pub at: Option<f64>,
}

/// The kernel's own last line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    /// `armed`, `off`, `budget-spent` or `dead-man`.
    pub status: String,
    /// Failures of the canary that it still lets pass; `null` without a budget.
    pub budget_left: Option<u64>,
    /// New flows that it sent to stable instead of the canary, ever.
    pub diverted: u64,
}

/// `GET /v1/services/{service}/history?limit=…`: oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    pub service: String,
    pub entries: Vec<HistoryEntry>,
}

/// A transition of a rollout, or a change that somebody made beside it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryEntry {
    /// Seconds since 1970.
    pub at: f64,
    /// Which rollout, from 1; 0 is a split that was set by hand.
    pub rollout: u64,
    /// What happened: `start`, `step`, `hold`, `rollback`, `completion`, ….
    pub event: String,
    pub from: String,
    pub to: String,
    /// From 1; 0 of a split that was set by hand.
    pub step: u32,
    pub steps: u32,
    /// The canary's share afterwards, a fraction of 1.
    pub split: f64,
    pub reason: String,
    /// Of a backend's health alone: whose; `from` and `to` are its states.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub backend: String,
    /// The judgement at that moment, as in [`Explanation::judgement`].
    pub evidence: serde_json::Value,
    /// Who made a change that is no move of a rollout (`weight`, `drain`,
    /// `undrain`, `steer`, `drill`, `reload`, `detach`); else empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub by: String,
}

/// `GET /v1/services/{service}/plan`: how long a rollout would take.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    pub service: String,
    pub text: Vec<String>,
    pub plan: serde_json::Value,
}

/// Body of `PUT /v1/services/{service}/steer`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Steer {
    /// Networks of clients, as `192.0.2.0/24`; 1,000 at most at a time.
    pub clients: Vec<String>,
    /// `stable` or `canary`; `null` takes them out.
    pub track: Option<String>,
    /// Also while the guard keeps new flows from the canary.
    #[serde(default)]
    pub always: bool,
    /// Seconds; `null` is for ever.
    #[serde(default)]
    pub lasts: Option<f64>,
}

/// Its answer, and that of `GET /v1/services/{service}/steer?limit=…`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Steered {
    pub service: String,
    /// Networks that were put in, or taken out.
    pub changed: u64,
    /// All there are.
    pub total: u64,
    /// The first of them; of a change none.
    pub networks: Vec<SteeredNetwork>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SteeredNetwork {
    pub clients: String,
    pub track: String,
    pub always: bool,
    /// Seconds left; `null` is for ever.
    pub expires_in: Option<f64>,
    /// By the configuration, which a reload brings back.
    pub configured: bool,
}

/// Body of `PUT /v1/services/{service}/drill`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Drill {
    /// `reset`, `drop`, `refuse` or `5xx`.
    pub fault: String,
    /// Of the canary's new flows, a fraction of 1.
    pub share: f64,
    /// Seconds.
    pub lasts: f64,
    /// The clients that are hit; `null` are all.
    #[serde(default)]
    pub clients: Option<String>,
    /// Nothing fails: a copy of the controller is told that it did.
    #[serde(default)]
    pub dry: bool,
}

/// Its answer, and that of `GET` and `DELETE /v1/services/{service}/drill`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DrillReport {
    pub service: String,
    pub drill: Drill,
    /// It is over: its time, a rollback, or a person ended it.
    pub over: bool,
    /// Seconds since it began.
    pub elapsed: f64,
    /// The canary's connections that were made to fail, or would have been.
    pub faulted: u64,
    /// Connections of both versions since it began.
    pub connections: u64,
    /// Of the canary.
    pub canary_connections: u64,
    /// Whether the controller, or the kernel's guard, took the canary out.
    pub detected: bool,
    /// By whom, in words, with the numbers.
    pub by: String,
    /// Seconds and connections of both versions until then.
    pub detected_after: Option<f64>,
    pub detected_connections: Option<u64>,
    /// Failures of stable's connections since it began: none, if all is well.
    pub stable_failures: u64,
}
