//! A rollout's state machine. Pure: [`next`] takes where a rollout stands, what
//! the configuration plans, what is seen of traffic at this moment and what
//! happened, and gives where it stands now and what is to be done, or a refusal
//! that changes nothing. Time is what ticks bring along; there is no clock.
//!
//! The caller stores the new state first and carries the actions out after.
//! Should it die in between, [`Event::Restored`] says again what the state
//! stands for: every action may be carried out twice.
//!
//! `docs/rollouts.md` has the phases and commands as operators see them.

mod command;
mod event;
mod name;
mod refusal;
mod state;
#[cfg(test)]
mod tests;
mod tick;
mod walk;
mod words;

use std::time::Duration;

use self::walk::Walk;
pub use self::{
    event::{Action, Command, Entry, Event, Gates, Guard, Plan, Seen, Serving, Verdict},
    refusal::Refusal,
    state::{Ended, Fingerprint, Hold, How, Phase, Stage, State, Waiting, Why},
};
use crate::config::rollout::{Step, Transition, Until};

/// How often the kernel's error budget may be refilled within a step without
/// the evidence calling it harm.
pub const MAX_REARMED: u32 = 3;

/// What follows from an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Next {
    pub state: State,
    /// In the order to be carried out.
    pub actions: Vec<Action>,
}

/// One event. `seen` is what is known at this moment, of the step that `state`
/// is in; a rollout that begins does not look at it but for usable backends.
///
/// # Errors
/// A command or a new configuration that does not fit the phase, in words that
/// name the phase and what could be done. Other events are never refused.
pub fn next(state: &State, plan: &Plan<'_>, seen: &Seen, event: &Event) -> Result<Next, Refusal> {
    let mut walk = Walk::new(state, plan, seen);
    match event {
        Event::Command(command, by) => walk.command(*command, by)?,
        Event::Tick { elapsed } => walk.tick(*elapsed),
        Event::Hook { ticket, result } => walk.answered(*ticket, result),
        Event::Restored { away, serving } => walk.restored(*away, *serving),
        Event::Reconfigured { serving } => walk.reconfigured(*serving)?,
    }
    Ok(walk.finish())
}

/// Whether other backends, steps or evidence than those of
/// [`State::fingerprint`] may come into force now.
///
/// # Errors
/// While steps are walked: what to do first.
pub fn accepts_new_configuration(state: &State) -> Result<(), Refusal> {
    if state.stage.is_under_way() {
        return Err(Refusal::Configuration { phase: state.phase() });
    }
    Ok(())
}

impl Plan<'_> {
    /// The step of this number; a number past the end is the last one.
    fn step(&self, number: usize) -> Step {
        let steps = &self.rollout.steps;
        steps.get(number).or(steps.last()).copied().unwrap_or(NO_STEP)
    }

    /// Whether somebody is told of a transition.
    fn tells(&self, transition: Transition) -> bool {
        self.rollout.hooks.iter().any(|hook| hook.on.contains(&transition))
    }

    fn is_last(&self, number: usize) -> bool {
        number + 1 >= self.rollout.steps.len()
    }
}

/// A configuration has one step at least. This one would give the canary
/// nothing and wait for a person.
const NO_STEP: Step =
    Step { split: 0.0, lasts: Duration::ZERO, until: Until::Pause, at_most: None, drained: 0 };
