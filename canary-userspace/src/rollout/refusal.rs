//! Why a command does not fit. Each sentence names the phase and what could be
//! done instead.

use super::state::Phase;
use crate::config::rollout::Transition;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the phase is idle, no rollout is under way: `start` begins one")]
    NothingUnderWay,
    #[error("the phase is idle and the last rollout was not taken back: `start` begins one")]
    NothingToRetry,
    #[error(
        "the phase is {phase} and no older version is kept: `undo` is for a rollout that \
         completed, within `keep_old`"
    )]
    NothingToUndo { phase: Phase },
    #[error(
        "the phase is {phase}, this rollout is not complete: `abort` takes the canary out at once"
    )]
    NotComplete { phase: Phase },
    #[error("the phase is {phase}, a rollout is under way: let it end, or `abort` it first")]
    UnderWay { phase: Phase },
    #[error(
        "the phase is rolling-back, the canary gets no new connections: wait until its last ones \
         have ended (`canary flows` shows them), or set `canary weight` to 0 to wait no longer"
    )]
    RollingBack,
    #[error(
        "the phase is {phase}, the new version serves all new connections: `undo` goes back to \
         the old one"
    )]
    Completed { phase: Phase },
    #[error(
        "the phase is {phase} and the new version serves, but the configuration still calls it \
         canary: write its backends as `stable` and those of the next version as `canary`, then \
         `canary reload`"
    )]
    Promoted { phase: Phase },
    #[error("the phase is {phase}, it was paused by {by} already: `resume` goes on")]
    AlreadyPaused { phase: Phase, by: String },
    #[error("the phase is {phase}, nothing is paused: `pause` stays at this step")]
    NotPaused { phase: Phase },
    #[error("the phase is paused, this step is one that a person ends: `promote` does that")]
    WaitsForPerson,
    #[error(
        "the phase is {phase}, {reason}: it goes on by itself when this is over; `abort` takes \
         the canary out"
    )]
    EndsByItself { phase: Phase, reason: String },
    #[error(
        "the phase is {phase}, the {} hook has not answered: wait for it, or `abort`",
        .transition.name()
    )]
    HookOut { phase: Phase, transition: Transition },
    #[error(
        "the phase is {phase}, the {} hook failed: `retry` runs it again, `promote --full` passes \
         over it, `abort` ends the rollout",
        .transition.name()
    )]
    HookFailed { phase: Phase, transition: Transition },
    #[error("the phase is {phase}, no hook failed: {instead}")]
    NoFailedHook { phase: Phase, instead: &'static str },
    #[error(
        "the phase is {phase}, the configuration changed: `resume` begins at the first step, \
         `abort` does not"
    )]
    Changed { phase: Phase },
    #[error(
        "the phase is {phase} and the canary has no usable backend: put one into use first \
         (`canary status` shows what is wrong with each)"
    )]
    Unusable { phase: Phase },
    #[error(
        "the phase is {phase} and the old version has no usable backend: bring one back first \
         (`canary status` shows what is wrong with each)"
    )]
    OldUnusable { phase: Phase },
    #[error(
        "the phase is {phase} and the canary is about to be taken out ({reason}): `abort` does it \
         now"
    )]
    Objection { phase: Phase, reason: String },
    #[error("the phase is {phase}, the rollout sets the split: `abort` it first")]
    HandsOff { phase: Phase },
    #[error(
        "the phase is {phase}: other backends, steps or evidence cannot come into force while a \
         rollout is under way; `abort` it first, or reload when it is over"
    )]
    Configuration { phase: Phase },
    #[error(
        "the phase is {phase}: the version that serves now is in neither track of the file and \
         would lose its connections; write its backends as `stable`, or `undo` first"
    )]
    WouldRevert { phase: Phase },
}
