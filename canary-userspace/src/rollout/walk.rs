//! One event's way through the machine: the moves that change the stage, each
//! with its actions and its line in the history.

use std::time::Duration;

use super::{
    MAX_REARMED, Next,
    event::{Action, Entry, Gates, Guard, Plan, Seen, Verdict},
    state::{Ended, Hold, How, Phase, Stage, State, Waiting, Why},
    words,
};
use crate::config::rollout::{OnFail, OnRollback, Step, Transition};

/// A state that is being changed, and what is to be done about it so far.
pub(super) struct Walk<'a> {
    pub(super) state: State,
    pub(super) plan: &'a Plan<'a>,
    pub(super) seen: &'a Seen,
    pub(super) actions: Vec<Action>,
    /// The phase that the history knows of.
    known: Phase,
    /// What the next line of the history should say.
    pub(super) because: Option<String>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(state: &State, plan: &'a Plan<'a>, seen: &'a Seen) -> Self {
        Self {
            state: state.clone(),
            plan,
            seen,
            actions: Vec::new(),
            known: state.phase(),
            because: None,
        }
    }

    /// No phase changes without a line in the history.
    pub(super) fn finish(mut self) -> Next {
        self.state.reason = words::reason(&self.state, self.plan, self.seen);
        if self.state.phase() != self.known || self.because.is_some() {
            let reason = self.state.reason.clone();
            self.record(None, reason);
        }
        Next { state: self.state, actions: self.actions }
    }

    pub(super) fn step(&self) -> Step {
        self.plan.step(self.state.step)
    }

    pub(super) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(super) fn record(&mut self, transition: Option<Transition>, reason: String) {
        let entry = Entry {
            rollout: self.state.id,
            from: self.known,
            to: self.state.phase(),
            transition,
            step: self.state.step,
            split: self.state.split,
            reason: self.because.take().unwrap_or(reason),
        };
        self.known = entry.to;
        self.act(Action::Record(entry));
    }

    fn run_hook(&mut self, transition: Transition) {
        if self.plan.tells(transition) {
            self.state.tickets += 1;
            let ticket = self.state.tickets;
            self.act(Action::RunHook { transition, ticket });
        }
    }

    /// Records a transition and tells those who want to know.
    pub(super) fn announce(&mut self, transition: Transition, reason: String) {
        self.record(Some(transition), reason);
        self.run_hook(transition);
    }

    /// Puts a question before what comes next, where somebody wants to be asked.
    pub(super) fn ask(&mut self, transition: Transition) {
        if !self.plan.tells(transition) {
            return;
        }
        let ticket = self.state.tickets + 1;
        self.state.waiting = Some(Waiting { transition, ticket, failed: None });
        self.record(Some(transition), words::waits_for(transition));
        self.run_hook(transition);
    }

    /// Nothing keeps it from what comes next.
    pub(super) fn is_free(&self) -> bool {
        let state = &self.state;
        state.paused.is_none() && state.waiting.is_none() && state.hold.is_none()
    }

    /// Whether traffic of this rollout has met the canary, or its checks: what is
    /// seen before is of another time.
    pub(super) fn has_begun(&self) -> bool {
        self.state.step > 0 || matches!(self.state.stage, Stage::Baking | Stage::BeforePromotion)
    }

    /// What takes the canary out now.
    pub(super) fn objection(&self) -> Option<String> {
        if !self.state.stage.is_under_way() || !self.has_begun() {
            return None;
        }
        match (&self.seen.verdict, &self.seen.gates) {
            (Verdict::Harm { reason }, _) if self.seen.guard == Guard::BudgetSpent => {
                Some(words::budget_and_harm(reason))
            }
            (Verdict::Harm { reason }, _)
            | (_, Gates::Failing { reason, on_fail: OnFail::Rollback }) => Some(reason.clone()),
            _ => None,
        }
    }

    /// Whether gates that no longer pass keep it from more traffic. What they said
    /// when the step was passed may be long ago: hooks take their time.
    pub(super) fn gates_hold(&self) -> bool {
        self.has_begun()
            && !self.state.insisted
            && matches!(self.seen.gates, Gates::Failing { .. } | Gates::Missing { .. })
    }

    /// Through all that waits for nothing. A step's end is looked for at ticks
    /// only, when what is seen is of that step.
    pub(super) fn proceed(&mut self) {
        while self.is_free() && self.state.stage.is_before() {
            if let Some(reason) = self.objection() {
                return self.roll_back(How::RolledBack, reason);
            }
            if self.gates_hold() {
                return;
            }
            match self.state.stage {
                Stage::BeforeStart => {
                    self.announce(Transition::Start, words::started());
                    self.approach(0);
                }
                Stage::BeforeStep if self.step().drained != self.state.drained => self.empty(),
                Stage::BeforeStep => self.enter(),
                Stage::BeforePromotion => self.promote(),
                _ => return,
            }
        }
    }

    /// Towards a step: its clocks begin, its split is not in force.
    fn approach(&mut self, step: usize) {
        let state = &mut self.state;
        state.step = step;
        state.stage = Stage::BeforeStep;
        state.in_step = Duration::ZERO;
        state.step_for = Duration::ZERO;
        state.rearmed = 0;
        self.ask(Transition::BeforeStep);
    }

    fn empty(&mut self) {
        let drained = self.step().drained;
        self.state.stage = Stage::Emptying;
        self.state.drained = drained;
        self.act(Action::Drain(drained));
        self.record(None, words::empties(drained));
    }

    /// Puts the step's split into force.
    pub(super) fn enter(&mut self) {
        let split = self.step().split;
        if split > 0.0 && !self.seen.canary_usable {
            return self.hold(Why::Unusable, words::unusable());
        }
        self.state.stage = Stage::Baking;
        self.state.insisted = false;
        self.state.split = split;
        self.act(Action::SetSplit(split));
        if split > 0.0 {
            self.act(Action::ArmGuard);
        }
        self.announce(Transition::Step, words::entered(&self.state, self.plan));
    }

    /// On from this step, to the next or to promotion.
    pub(super) fn end_step(&mut self) {
        if self.plan.is_last(self.state.step) {
            self.approach_promotion();
        } else {
            self.approach(self.state.step + 1);
            self.proceed();
        }
    }

    pub(super) fn approach_promotion(&mut self) {
        self.state.stage = Stage::BeforePromotion;
        self.ask(Transition::BeforePromotion);
        self.proceed();
    }

    fn promote(&mut self) {
        if !self.seen.canary_usable {
            return self.hold(Why::Unusable, words::unusable());
        }
        self.act(Action::SwapTracks);
        self.undrain();
        self.act(Action::DisarmGuard);
        self.leave(Stage::Draining);
        self.state.promoted = true;
        self.state.since_completion = Duration::ZERO;
        let reason = words::completed();
        self.state.ended = Some(Ended { how: How::Completed, reason: reason.clone() });
        self.announce(Transition::Completion, reason);
    }

    /// Takes the canary out. Nothing is waited for.
    pub(super) fn roll_back(&mut self, how: How, reason: String) {
        // A split of 0 needs stable's backends.
        self.undrain();
        self.act(Action::SetSplit(0.0));
        self.act(Action::DisarmGuard);
        if self.plan.rollout.on_rollback == OnRollback::Reset {
            self.act(Action::ResetCanary);
        }
        self.leave(Stage::RollingBack);
        self.because = None;
        self.state.ended = Some(Ended { how, reason: reason.clone() });
        self.announce(Transition::Rollback, reason);
    }

    /// Back to the old version after promotion.
    pub(super) fn swap_back(&mut self, reason: String) {
        self.act(Action::SwapBack);
        if self.plan.rollout.on_rollback == OnRollback::Reset {
            self.act(Action::ResetCanary);
        }
        self.leave(Stage::RollingBack);
        self.state.promoted = false;
        self.state.ended = Some(Ended { how: How::Undone, reason: reason.clone() });
        self.announce(Transition::Undo, reason);
    }

    fn undrain(&mut self) {
        if self.state.drained > 0 {
            self.act(Action::Drain(0));
        }
    }

    /// For a stage where no steps are walked.
    fn leave(&mut self, stage: Stage) {
        let state = &mut self.state;
        state.stage = stage;
        state.split = 0.0;
        state.drained = 0;
        state.insisted = false;
        state.paused = None;
        state.waiting = None;
        state.hold = None;
    }

    /// Does not go on, and says so once.
    pub(super) fn hold(&mut self, why: Why, reason: String) {
        let said = self.state.held_by() == Some(why);
        self.state.hold = Some(Hold { why, reason: reason.clone() });
        if !said {
            // What came before it is no reason to hold, but belongs to it.
            let reason = words::after(self.because.take(), reason);
            self.announce(Transition::Hold, reason);
        }
    }

    /// What the kernel's guard says. It is undone here only.
    pub(super) fn mind_guard(&mut self) {
        if self.state.split <= 0.0 || self.state.held_by().is_some_and(Why::keeps_guard) {
            return;
        }
        match self.seen.guard {
            Guard::Armed => {}
            // With maps that are new, or a write that failed.
            Guard::Off => self.act(Action::ArmGuard),
            Guard::DeadMan => self.rearm(words::dead_man()),
            Guard::BudgetSpent if self.state.rearmed >= MAX_REARMED => {
                self.hold(Why::Guard, words::budget_again());
            }
            Guard::BudgetSpent => {
                self.state.rearmed += 1;
                self.rearm(words::budget(self.state.rearmed));
            }
        }
    }

    /// In an epoch of its own: connections of the time when the guard had tripped
    /// were not shared as the split says.
    pub(super) fn rearm(&mut self, reason: String) {
        self.act(Action::NewEpoch);
        self.act(Action::ArmGuard);
        self.record(None, reason);
    }
}
