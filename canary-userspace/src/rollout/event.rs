//! What happens to a rollout, what is known at that moment, and what is to be
//! done about it.
//!
//! "Canary" is the version that is brought in and "stable" the one it takes the
//! place of, also after promotion, when the data plane has swapped them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    name,
    state::{Fingerprint, Phase},
};
use crate::config::{
    Rollout,
    rollout::{OnFail, Transition},
};

/// What the configuration says.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    pub rollout: &'a Rollout,
    pub fingerprint: Fingerprint,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// By a person; who it was is for the record.
    Command(Command, String),
    /// Time went on by this, on a clock that does not jump.
    Tick { elapsed: Duration },
    /// A hook's answer, after its retries. One that nobody waits for (any more)
    /// changes nothing.
    Hook { ticket: u64, result: Result<(), String> },
    /// A daemon started and found this state; `plan` is what its configuration
    /// says now.
    Restored { away: Duration, serving: Serving },
    /// `plan` is about to come into force.
    Reconfigured { serving: Serving },
}

/// What `plan`'s configuration calls the version that has new connections now,
/// or has all but the canary's. Asked after a promotion only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serving {
    #[default]
    Stable,
    Canary,
    /// None of its backends is in either track.
    Neither,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Start,
    Pause,
    Resume,
    /// Ends the present step, or with `full` all of them, whatever evidence and
    /// gates say.
    Promote {
        full: bool,
    },
    Abort,
    Retry,
    Undo,
    /// Whether a person may set the split by hand now. The split itself is the
    /// caller's business.
    SetWeight,
}

/// What is known at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub verdict: Verdict,
    pub gates: Gates,
    pub guard: Guard,
    /// Whether the canary has a backend that can take flows.
    pub canary_usable: bool,
    /// Whether stable has one, or would have if it were not kept aside after a
    /// promotion.
    pub stable_usable: bool,
    /// Live flows.
    pub canary_active: u64,
    pub stable_active: u64,
    /// Live flows of those of stable's backends that [`Action::Drain`] named.
    pub drained_active: u64,
}

/// The evidence of this rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Harm {
        reason: String,
    },
    /// Connections are not shared as the split says.
    Mismatch {
        reason: String,
    },
    Safe,
    /// Neither harm nor safe.
    NotYet {
        reason: String,
    },
    /// The canary had no connection under this step's split.
    NoTraffic,
}

impl Default for Verdict {
    fn default() -> Self {
        Self::NotYet { reason: "no evidence yet".to_owned() }
    }
}

/// All gates together, since the step began; the worst counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Gates {
    #[default]
    NotAsked,
    /// Or there are none.
    Pass,
    Failing {
        reason: String,
        on_fail: OnFail,
    },
    /// No answer, where `on_missing` says to wait for one.
    Missing {
        reason: String,
    },
}

/// The kernel's guard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    #[default]
    Off,
    Armed,
    BudgetSpent,
    DeadMan,
}

/// Something to be done. Each says how things should be, so that doing it twice
/// does no harm.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The canary's share of new connections, a fraction of 1.
    SetSplit(f64),
    /// The first so many of stable's backends, in the order of the
    /// configuration, take no new flows; the others do.
    Drain(usize),
    /// Count in new cells from now on.
    NewEpoch,
    /// With a full budget, and both of its switches undone.
    ArmGuard,
    DisarmGuard,
    /// New flows go to stable until [`Action::ArmGuard`], whatever the split.
    HoldGuard,
    /// Existing flows of the canary get a RST on their next packet.
    ResetCanary,
    /// The salt of a rollout, by its number: the same number is the same salt.
    Salt(u64),
    /// In one write: what the configuration calls canary is stable and takes
    /// all new connections; the other is kept aside, and the split is 0.
    SwapTracks,
    /// In one write: tracks are as the configuration calls them, and the split
    /// is 0.
    SwapBack,
    RunHook {
        transition: Transition,
        ticket: u64,
    },
    /// For the history.
    Record(Entry),
    /// The old version need not be kept ready any more.
    ForgetOld,
}

/// A line of the history, without its time and its evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// [`State::id`](super::State::id).
    pub rollout: u64,
    pub from: Phase,
    pub to: Phase,
    /// What hooks know it by, where they do.
    #[serde(with = "name::maybe_transition")]
    pub transition: Option<Transition>,
    /// From 0.
    pub step: usize,
    /// A fraction of 1.
    pub split: f64,
    pub reason: String,
}
