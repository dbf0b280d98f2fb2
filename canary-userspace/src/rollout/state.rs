//! Where a rollout stands: plain data that the state file keeps as it is.

use std::{
    fmt::{self, Display, Formatter},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::name;
use crate::config::rollout::Transition;

/// By default nothing is under way and nothing ever was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    pub stage: Stage,
    /// From 0. Means something while steps are walked, and after: where it ended.
    pub step: usize,
    /// Rollouts begun so far. Evidence belongs to one of them: another number
    /// starts with none.
    pub id: u64,
    /// The canary's share of new connections that was last asked for by the
    /// rollout, a fraction of 1.
    pub split: f64,
    /// So many of stable's backends take no new flows.
    pub drained: usize,
    /// How long the step's split has been in force with nothing in its way;
    /// begins with the canary's first connection.
    pub in_step: Duration,
    /// How long the step has taken in all but pauses; what `at_most` is about.
    pub step_for: Duration,
    /// How long all steps have taken, without pauses and without waiting for a
    /// person; what `deadline` is about.
    pub overall: Duration,
    /// Who paused it.
    pub paused: Option<String>,
    /// The move under way was ordered, or its time is over: gates are not heard
    /// before it.
    pub insisted: bool,
    /// A hook that goes before what comes next.
    pub waiting: Option<Waiting>,
    /// Why it does not go on.
    pub hold: Option<Hold>,
    /// How often the guard's budget was refilled in this step.
    pub rearmed: u32,
    /// The canary's version serves everything: what the configuration calls
    /// canary is stable, and the other way round.
    pub promoted: bool,
    pub since_completion: Duration,
    /// How the last rollout ended, from the moment that this is settled.
    pub ended: Option<Ended>,
    /// Of the configuration that it began with.
    pub fingerprint: Fingerprint,
    /// Hooks told so far; the last one's number.
    pub tickets: u64,
    /// Why it is where it is, for people.
    pub reason: String,
}

/// What of the configuration a rollout rests on, as hashes that the caller
/// makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fingerprint {
    /// Both tracks' backends.
    pub tracks: u64,
    /// Steps and evidence.
    pub steps: u64,
}

/// The places on a rollout's way. What operators see is the [`Phase`], which
/// depends on pauses and holds too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Nothing is under way.
    #[default]
    Idle,
    /// Before all, at a split of 0.
    BeforeStart,
    /// The split is still that of the step before.
    BeforeStep,
    /// The flows of the backends that the step drains are ending; the split is
    /// still that of the step before.
    Emptying,
    /// The step's split is in force.
    Baking,
    /// All steps are passed; the split is still that of the last.
    BeforePromotion,
    /// At a split of 0, while flows of the canary live.
    RollingBack,
    /// The canary's version serves all new connections, while flows of the old
    /// one live.
    Draining,
    /// The old version has no flows and is kept ready.
    Complete,
}

impl Stage {
    pub const ALL: [Self; 9] = [
        Self::Idle,
        Self::BeforeStart,
        Self::BeforeStep,
        Self::Emptying,
        Self::Baking,
        Self::BeforePromotion,
        Self::RollingBack,
        Self::Draining,
        Self::Complete,
    ];

    /// Whether steps are walked: there is something to pause, promote or abort.
    #[must_use]
    pub const fn is_under_way(self) -> bool {
        match self {
            Self::BeforeStart
            | Self::BeforeStep
            | Self::Emptying
            | Self::Baking
            | Self::BeforePromotion => true,
            Self::Idle | Self::RollingBack | Self::Draining | Self::Complete => false,
        }
    }

    /// Whether it is left as soon as nothing has to be waited for.
    pub(super) const fn is_before(self) -> bool {
        matches!(self, Self::BeforeStart | Self::BeforeStep | Self::BeforePromotion)
    }

    /// Whether the old version is kept, to go back to.
    #[must_use]
    pub const fn keeps_old(self) -> bool {
        matches!(self, Self::Draining | Self::Complete)
    }
}

/// What `canary status` shows as `phase`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    #[default]
    Idle,
    /// A step is being entered, or checked at a split of 0.
    Shifting,
    /// A step's split is in force.
    Baking,
    /// By a person, or a step waits for one.
    Paused,
    Promoting,
    RollingBack,
    Draining,
    Complete,
    /// Under way, but something abnormal is in the way.
    Degraded,
}

impl Phase {
    pub const NAMES: [(&str, Self); 9] = [
        ("idle", Self::Idle),
        ("shifting", Self::Shifting),
        ("baking", Self::Baking),
        ("paused", Self::Paused),
        ("promoting", Self::Promoting),
        ("rolling-back", Self::RollingBack),
        ("draining", Self::Draining),
        ("complete", Self::Complete),
        ("degraded", Self::Degraded),
    ];

    /// As status and history write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        name::of(&Self::NAMES, self)
    }
}

impl Display for Phase {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A hook that is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    #[serde(with = "name::transition")]
    pub transition: Transition,
    /// An answer with another number is to an earlier question.
    pub ticket: u64,
    /// What it said when it failed. `None`: it has not answered.
    pub failed: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub why: Why,
    pub reason: String,
}

/// What holds a rollout. The first three end with `resume` only, and nothing
/// else takes their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The daemon was away for longer than `max_away`.
    Away,
    /// The kernel's budget was spent again and again, and it is no harm.
    Guard,
    /// Another configuration than the rollout began with.
    Changed,
    /// A step's `at_most` or the `deadline` is over.
    Timeout,
    /// The canary has no usable backend; ends by itself.
    Unusable,
    /// Connections are not shared as the split says; ends by itself.
    Mismatch,
    /// The step is one that a person ends.
    Person,
}

impl Why {
    /// Whether it is looked at anew at each tick.
    pub(super) const fn ends_by_itself(self) -> bool {
        matches!(self, Self::Unusable | Self::Mismatch | Self::Person)
    }

    /// Whether the guard is to stay tripped.
    pub(super) const fn keeps_guard(self) -> bool {
        matches!(self, Self::Away | Self::Guard)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub how: How,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// By what was seen of the canary.
    RolledBack,
    /// By a person, on the way.
    Aborted,
    Completed,
    /// By a person, after completion.
    Undone,
}

impl State {
    #[must_use]
    pub fn phase(&self) -> Phase {
        let phase = match self.stage {
            Stage::Idle => Phase::Idle,
            Stage::BeforeStart | Stage::BeforeStep | Stage::Emptying => Phase::Shifting,
            // Nothing is in force yet: its checks are.
            Stage::Baking if self.split <= 0.0 => Phase::Shifting,
            Stage::Baking => Phase::Baking,
            Stage::BeforePromotion => Phase::Promoting,
            Stage::RollingBack => Phase::RollingBack,
            Stage::Draining => Phase::Draining,
            Stage::Complete => Phase::Complete,
        };
        let why = self.hold.as_ref().map(|hold| hold.why);
        match why {
            _ if !self.stage.is_under_way() => phase,
            _ if self.failed_hook().is_some() => Phase::Degraded,
            Some(Why::Person) => Phase::Paused,
            Some(_) => Phase::Degraded,
            None if self.paused.is_some() => Phase::Paused,
            None => phase,
        }
    }

    /// The hook before what comes next that failed, and what it said.
    #[must_use]
    pub fn failed_hook(&self) -> Option<(Transition, &str)> {
        let waiting = self.waiting.as_ref()?;
        Some((waiting.transition, waiting.failed.as_deref()?))
    }

    pub(super) fn held_by(&self) -> Option<Why> {
        self.hold.as_ref().map(|hold| hold.why)
    }
}
