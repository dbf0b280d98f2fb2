//! What happens by itself: time goes on, hooks answer, a daemon comes back, the
//! configuration changes.

use std::time::Duration;

use super::{
    event::{Action, Gates, Guard, Serving, Verdict},
    refusal::Refusal,
    state::{How, Stage, Why},
    walk::Walk,
    words,
};
use crate::config::rollout::{OnRollback, OnTimeout, Transition, Until};

impl Walk<'_> {
    pub(super) fn tick(&mut self, elapsed: Duration) {
        match self.state.stage {
            Stage::Idle => {}
            Stage::RollingBack => {
                if self.seen.canary_active == 0 {
                    self.state.stage = Stage::Idle;
                }
            }
            Stage::Draining | Stage::Complete => self.keep_old(elapsed),
            _ => self.tick_under_way(elapsed),
        }
    }

    /// Old connections are never cut: the way back is kept while there are any.
    fn keep_old(&mut self, elapsed: Duration) {
        self.state.since_completion += elapsed;
        if self.state.stage == Stage::Draining {
            if self.seen.stable_active == 0 {
                self.state.stage = Stage::Complete;
            }
        } else if self.state.since_completion >= self.plan.rollout.keep_old {
            self.act(Action::ForgetOld);
            self.state.stage = Stage::Idle;
        }
    }

    fn tick_under_way(&mut self, elapsed: Duration) {
        if let Some(reason) = self.objection() {
            return self.roll_back(How::RolledBack, reason);
        }
        if elapsed > self.plan.rollout.max_away {
            return self.hold_after_absence(elapsed);
        }
        self.mind_guard();
        self.look();
        self.count(elapsed);
        if !self.go_on() {
            self.watch_the_clock();
        }
    }

    fn hold_after_absence(&mut self, away: Duration) {
        if self.state.held_by() == Some(Why::Changed) {
            return;
        }
        if self.state.split > 0.0 {
            self.act(Action::HoldGuard);
        }
        if self.state.held_by() != Some(Why::Guard) {
            self.hold(Why::Away, words::away(away, self.plan));
        }
    }

    /// Sets and lifts the holds that end by themselves.
    fn look(&mut self) {
        if self.state.hold.as_ref().is_some_and(|hold| !hold.why.ends_by_itself()) {
            return;
        }
        let state = &self.state;
        // A hook may be bringing it up.
        let coming = state.waiting.is_none() && state.stage != Stage::BeforeStart;
        let needed = state.split > 0.0 || coming;
        let found = match &self.seen.verdict {
            _ if needed && !self.seen.canary_usable => Some((Why::Unusable, words::unusable())),
            Verdict::Mismatch { reason } if self.has_begun() && state.split > 0.0 => {
                Some((Why::Mismatch, reason.clone()))
            }
            _ => None,
        };
        if let Some((why, reason)) = found {
            self.hold(why, reason);
        } else if let Some(hold) = self.state.hold.take_if(|hold| hold.why != Why::Person) {
            self.record(None, words::over(hold.why));
        }
    }

    fn waits_for_person(&self) -> bool {
        let step = self.step();
        self.state.stage == Stage::Baking
            && step.until == Until::Pause
            && self.state.in_step >= step.lasts
    }

    fn clock_runs(&self) -> bool {
        let stage = self.state.stage;
        let in_step = matches!(stage, Stage::BeforeStep | Stage::Emptying | Stage::Baking);
        in_step && self.state.paused.is_none()
    }

    /// Time that nothing speaks against counts as baked; pauses count as nothing.
    fn count(&mut self, elapsed: Duration) {
        if !self.clock_runs() {
            return;
        }
        let state = &self.state;
        let person = state.held_by() == Some(Why::Person);
        let guarded = matches!(self.seen.guard, Guard::BudgetSpent | Guard::DeadMan);
        let met = state.split <= 0.0 || (!guarded && self.seen.verdict != Verdict::NoTraffic);
        let baked = state.stage == Stage::Baking && (state.hold.is_none() || person) && met;
        let state = &mut self.state;
        state.step_for += elapsed;
        if !person {
            state.overall += elapsed;
        }
        if baked {
            state.in_step += elapsed;
        }
    }

    /// Whether there was a way to go.
    fn go_on(&mut self) -> bool {
        if !self.is_free() {
            return false;
        }
        let before = (self.state.stage, self.state.step);
        match self.state.stage {
            Stage::Emptying if self.seen.drained_active == 0 && !self.gates_hold() => self.enter(),
            Stage::Baking if self.waits_for_person() => {
                self.hold(Why::Person, words::person(&self.state, self.plan));
            }
            Stage::Baking if words::obstacle(&self.state, self.plan, self.seen).is_none() => {
                self.because = Some(words::passed(&self.state));
                self.end_step();
            }
            _ => self.proceed(),
        }
        (self.state.stage, self.state.step) != before
    }

    fn watch_the_clock(&mut self) {
        if !self.clock_runs() {
            return;
        }
        let state = &self.state;
        let step = self.step();
        let at_most = step.at_most.filter(|most| state.step_for >= *most);
        let deadline = self.plan.rollout.deadline.filter(|most| state.overall >= *most);
        if at_most.is_none() && deadline.is_none() {
            return;
        }
        let reason = words::timeout(state, self.plan, self.seen, at_most, deadline);
        match self.plan.rollout.on_timeout {
            OnTimeout::Rollback => self.roll_back(How::RolledBack, reason),
            OnTimeout::Hold => {
                let rests = state.hold.as_ref().is_some_and(|hold| !hold.why.ends_by_itself());
                if !rests {
                    self.hold(Why::Timeout, reason);
                }
            }
            // All steps' time being over, each still takes its own.
            OnTimeout::Promote if at_most.is_some() || state.step_for >= step.lasts => {
                self.promote_late(reason);
            }
            OnTimeout::Promote => {}
        }
    }

    /// A time that is over takes the place of an answer that does not come, or of
    /// a person; never of one that speaks against the canary.
    fn promote_late(&mut self, reason: String) {
        let abnormal = self.state.held_by().is_some_and(|why| why != Why::Person);
        let refused = matches!(self.seen.gates, Gates::Failing { .. });
        let entered = matches!(self.state.stage, Stage::Emptying | Stage::Baking);
        if abnormal || refused || !entered {
            return;
        }
        self.state.hold = None;
        self.state.insisted = true;
        self.because = Some(reason);
        if self.state.stage == Stage::Emptying {
            self.enter();
        } else {
            self.end_step();
        }
    }

    /// A hook's answer. Whoever is not waited for is not heard.
    pub(super) fn answered(&mut self, ticket: u64, result: &Result<(), String>) {
        let Some(waiting) = &mut self.state.waiting else { return };
        if waiting.ticket != ticket || waiting.failed.is_some() {
            return;
        }
        match result {
            Err(why) => {
                waiting.failed = Some(why.clone());
                let reason = words::hook_failed(waiting.transition, why);
                self.announce(Transition::Hold, reason);
            }
            Ok(()) => {
                self.because = Some(words::agreed(waiting.transition));
                self.state.waiting = None;
                self.proceed();
            }
        }
    }

    /// Says again what is in force: the last daemon may have died before it had
    /// done it.
    pub(super) fn restored(&mut self, away: Duration, serving: Serving) {
        let other = self.state.fingerprint != self.plan.fingerprint;
        let past_end = self.state.step >= self.plan.rollout.steps.len();
        match self.state.stage {
            stage if stage.is_under_way() => {
                if other || past_end {
                    return self.start_over();
                }
                self.restore_under_way(away);
            }
            _ => {
                if other {
                    self.adopt_configuration(serving);
                }
                self.restore_rest();
            }
        }
    }

    fn restore_under_way(&mut self, away: Duration) {
        let tripped = self.state.held_by().is_some_and(Why::keeps_guard);
        let split = self.state.split;
        if split > 0.0 && (tripped || away > self.plan.rollout.max_away) {
            self.act(Action::HoldGuard);
        }
        self.act(Action::Salt(self.state.id));
        self.act(Action::Drain(self.state.drained));
        self.act(Action::SetSplit(split));
        if away > self.plan.rollout.max_away
            && !tripped
            && self.state.held_by() != Some(Why::Changed)
        {
            self.hold(Why::Away, words::away(away, self.plan));
        }
        if let Some(waiting) = self.state.waiting.clone()
            && waiting.failed.is_none()
        {
            self.state.waiting = None;
            self.because = Some(words::asked_again(waiting.transition));
            self.ask(waiting.transition);
        }
    }

    fn restore_rest(&mut self) {
        match self.state.stage {
            Stage::RollingBack => {
                self.act(Action::SwapBack);
                self.act(Action::Drain(0));
                self.act(Action::SetSplit(0.0));
                self.act(Action::DisarmGuard);
                if self.plan.rollout.on_rollback == OnRollback::Reset {
                    self.act(Action::ResetCanary);
                }
            }
            stage if self.state.promoted => {
                self.act(Action::SwapTracks);
                self.act(Action::Drain(0));
                self.act(Action::DisarmGuard);
                if stage == Stage::Idle {
                    self.act(Action::ForgetOld);
                }
            }
            _ => {}
        }
    }

    /// Another configuration than the steps walked so far were of.
    fn start_over(&mut self) {
        self.act(Action::Drain(0));
        self.act(Action::SetSplit(0.0));
        self.act(Action::DisarmGuard);
        self.state.split = 0.0;
        self.state.drained = 0;
        self.state.fingerprint = self.plan.fingerprint;
        self.rewind();
        self.hold(Why::Changed, words::changed());
    }

    pub(super) fn reconfigured(&mut self, serving: Serving) -> Result<(), Refusal> {
        let (old, new) = (self.state.fingerprint, self.plan.fingerprint);
        if old == new {
            return Ok(());
        }
        super::accepts_new_configuration(&self.state)?;
        if self.state.promoted && old.tracks != new.tracks && serving == Serving::Neither {
            return Err(Refusal::WouldRevert { phase: self.state.phase() });
        }
        self.adopt_configuration(serving);
        Ok(())
    }

    /// With other backends the file has the last word on who is stable, unless it
    /// still calls what serves the canary: then it is only behind.
    fn adopt_configuration(&mut self, serving: Serving) {
        let other = self.state.fingerprint.tracks != self.plan.fingerprint.tracks;
        if self.state.promoted && other && serving != Serving::Canary {
            self.state.promoted = false;
            if self.state.stage.keeps_old() {
                self.act(Action::ForgetOld);
                self.state.stage = Stage::Idle;
            }
            self.because = Some(words::file_rules());
        }
        self.state.fingerprint = self.plan.fingerprint;
    }
}
