//! The machine as a whole: a table of all that can happen in all stages, whole
//! rollouts from beginning to end, and random events.

#![allow(clippy::unwrap_used, reason = "tests")]

mod invariants;
mod matrix;
mod random;
mod scenarios;
mod situations;
mod trouble;

use std::time::Duration;

use super::*;
use crate::config::{
    Rollout,
    rollout::{Hook, HookKind, Transition},
};

const TICK: Duration = Duration::from_millis(250);
const FINGERPRINT: Fingerprint = Fingerprint { tracks: 1, steps: 2 };

/// Asks before everything.
fn hooks(on: &[Transition]) -> Vec<Hook> {
    vec![Hook {
        name: "scale".to_owned(),
        on: on.to_vec(),
        tells: HookKind::Command { argv: vec!["true".to_owned()] },
        timeout: Duration::from_secs(10),
        retries: 0,
    }]
}

/// All is well, and there are no connections of stable and canary left.
fn fine() -> Seen {
    Seen {
        verdict: Verdict::Safe,
        gates: Gates::Pass,
        guard: Guard::Armed,
        canary_usable: true,
        stable_usable: true,
        ..Seen::default()
    }
}

/// With the file as it was.
fn restored(away: Duration) -> Event {
    Event::Restored { away, serving: Serving::Stable }
}

/// A rollout that is being lived through.
struct Life {
    rollout: Rollout,
    fingerprint: Fingerprint,
    state: State,
    seen: Seen,
    /// Of the last event.
    actions: Vec<Action>,
    /// Of all.
    history: Vec<Entry>,
}

impl Life {
    fn of(rollout: Rollout) -> Self {
        Self {
            rollout,
            fingerprint: FINGERPRINT,
            state: State::default(),
            seen: fine(),
            actions: Vec::new(),
            history: Vec::new(),
        }
    }

    fn try_event(&mut self, event: &Event) -> Result<(), Refusal> {
        let plan = Plan { rollout: &self.rollout, fingerprint: self.fingerprint };
        let next = next(&self.state, &plan, &self.seen, event)?;
        for action in &next.actions {
            if let Action::Record(entry) = action {
                self.history.push(entry.clone());
            }
        }
        self.state = next.state;
        self.actions = next.actions;
        Ok(())
    }

    fn event(&mut self, event: &Event) {
        if let Err(refusal) = self.try_event(event) {
            panic!("{event:?} refused: {refusal}; {:?}", self.state);
        }
    }

    fn say(&mut self, command: Command) {
        self.event(&Event::Command(command, "alice".to_owned()));
    }

    fn refuses(&mut self, command: Command) -> Refusal {
        self.try_event(&Event::Command(command, "alice".to_owned())).unwrap_err()
    }

    fn tick(&mut self) {
        self.event(&Event::Tick { elapsed: TICK });
    }

    /// Ticks for so long.
    fn live(&mut self, time: Duration) {
        for _ in 0..time.as_millis() / TICK.as_millis() {
            self.tick();
        }
    }

    fn answer(&mut self, result: Result<(), &str>) {
        let ticket = self.state.waiting.as_ref().unwrap().ticket;
        self.event(&Event::Hook { ticket, result: result.map_err(str::to_owned) });
    }

    /// Actions of the last event without the lines of the history.
    fn done(&self) -> Vec<Action> {
        let all = self.actions.iter();
        all.filter(|action| !matches!(action, Action::Record(_))).cloned().collect()
    }

    #[track_caller]
    fn is(&self, phase: Phase, step: usize, split: f64) {
        let now = (self.state.phase(), self.state.step, self.state.split);
        assert_eq!(now, (phase, step, split), "{}", self.state.reason);
    }
}
