//! What the judge says; `canary explain --json` shows it as it is.

use serde::{Deserialize, Serialize};

use super::Metric;
use crate::evidence::Outcomes;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    pub verdict: Verdict,
    /// The current split, a fraction of 1.
    pub split: f64,
    /// Born under it.
    pub connections: Connections,
    /// `ln` of the evidence of harm, of all metrics together: the mean of what
    /// each contributes. The verdict is `harm` from `ln_harm_bound` on.
    pub ln_harm: f64,
    /// `ln(1/α)`.
    pub ln_harm_bound: f64,
    /// Whether every kind of failure that is watched is.
    pub safe: bool,
    /// `ln(1/β)`.
    pub ln_safe_bound: f64,
    /// `ln` of the evidence that the current split is not kept; `null` where
    /// that can't be told: at 0 and 100 %, and where clients stay with their
    /// version.
    pub ln_mismatch: Option<f64>,
    pub failures: Vec<Failures>,
    pub times: Vec<Times>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    pub canary: u64,
    pub stable: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Verdict {
    /// Take the canary out; this is what speaks against it most.
    Harm { metric: Metric },
    /// Connections are not shared as the split says: hold, nothing can be
    /// concluded.
    Mismatch,
    /// The canary is good enough to go on.
    Safe,
    /// Neither; this is farthest from being safe, unless no failure is watched.
    NotYet { metric: Option<Metric> },
    /// The canary had no connection under the current split.
    NoTraffic,
}

/// A kind of failure. Counts are of the epochs in which both versions had a
/// chance; `ln` are natural logarithms of evidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failures {
    pub metric: Metric,
    pub canary: Outcomes,
    pub stable: Outcomes,
    /// How many times as often the canary's fail, and bounds of it that hold
    /// at every look together with probability 1 - α. `null` above: unbounded.
    pub ratio: Option<f64>,
    pub ratio_low: f64,
    pub ratio_high: Option<f64>,
    /// That it fails too many times as often.
    pub ln_ratio: f64,
    /// That it is above stable by too much, where a margin is tolerated.
    pub ln_margin: Option<f64>,
    /// Of the time at 100 %, once there is one.
    pub last: Option<Last>,
    /// All of this: what it contributes to the evidence of harm.
    pub ln_harm: f64,
    pub ln_safe: f64,
    pub safe: bool,
}

/// The canary alone, at a split of 100 %, against stable's record: a weaker
/// comparison, since what changes for both counts against the canary.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Last {
    pub canary: Outcomes,
    /// Stable's, from before and during the rollout.
    pub recorded: Outcomes,
    /// A rate of up to this is no harm, a fraction of 1: the most that stable's
    /// can be by its record, and the margin.
    pub allowed: f64,
    pub ln: f64,
}

/// A time. Quantiles are in seconds, upper bounds of their buckets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Times {
    pub metric: Metric,
    pub canary: Quantiles,
    pub stable: Quantiles,
    /// So many times as long is tolerated; the test resolves a quarter octave.
    pub tolerated: f64,
    /// Seconds; up to this all are as good as each other.
    pub floor: f64,
    /// Times that stable's distribution from before the rollout was made from;
    /// without any nothing is found.
    pub reference: u64,
    /// That the canary's are longer.
    pub ln_harm: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    pub count: u64,
    pub p50: Option<f64>,
    pub p99: Option<f64>,
}
