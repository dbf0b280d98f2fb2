//! What people say. A command that does not fit is refused and changes nothing.

use std::time::Duration;

use super::{
    event::{Action, Command, Verdict},
    refusal::Refusal,
    state::{How, Stage, Why},
    walk::Walk,
    words,
};
use crate::config::rollout::Transition;

impl Walk<'_> {
    pub(super) fn command(&mut self, command: Command, by: &str) -> Result<(), Refusal> {
        match command {
            Command::Start => self.start(by),
            Command::Pause => {
                self.is_walked()?;
                self.pause(by)
            }
            Command::Resume => {
                self.may_go_on()?;
                self.resume(by)
            }
            Command::Promote { full } => {
                self.may_go_on()?;
                self.promote_by_hand(full, by)
            }
            Command::Abort => {
                self.is_walked()?;
                self.roll_back(How::Aborted, words::aborted(by));
                Ok(())
            }
            Command::Retry if self.state.stage == Stage::Idle => self.start_again(by),
            Command::Retry => {
                self.may_go_on()?;
                self.retry(by)
            }
            Command::Undo => self.undo(by),
            Command::SetWeight => self.set_weight(by),
        }
    }

    /// Whether there are steps to speak of.
    fn is_walked(&self) -> Result<(), Refusal> {
        match self.state.stage {
            Stage::Idle => Err(Refusal::NothingUnderWay),
            Stage::RollingBack => Err(Refusal::RollingBack),
            Stage::Draining | Stage::Complete => {
                Err(Refusal::Completed { phase: self.state.phase() })
            }
            _ => Ok(()),
        }
    }

    /// The next tick takes out a canary that is objected to; nothing may come
    /// before that.
    fn may_go_on(&self) -> Result<(), Refusal> {
        self.is_walked()?;
        match self.objection() {
            Some(reason) => Err(Refusal::Objection { phase: self.state.phase(), reason }),
            None => Ok(()),
        }
    }

    fn set_weight(&mut self, by: &str) -> Result<(), Refusal> {
        let phase = self.state.phase();
        match self.state.stage {
            Stage::Idle if self.state.promoted => Err(Refusal::Promoted { phase }),
            Stage::Idle => Ok(()),
            Stage::RollingBack => {
                self.state.stage = Stage::Idle;
                self.because = Some(words::taken_over(by));
                Ok(())
            }
            Stage::Draining | Stage::Complete => Err(Refusal::Completed { phase }),
            _ => Err(Refusal::HandsOff { phase }),
        }
    }

    fn start(&mut self, by: &str) -> Result<(), Refusal> {
        let phase = self.state.phase();
        match self.state.stage {
            Stage::RollingBack => return Err(Refusal::RollingBack),
            Stage::Idle | Stage::Draining | Stage::Complete if self.state.promoted => {
                return Err(Refusal::Promoted { phase });
            }
            Stage::Idle => {}
            _ => return Err(Refusal::UnderWay { phase }),
        }
        // The hook may be what brings the canary up.
        if !self.seen.canary_usable && !self.plan.tells(Transition::BeforeStart) {
            return Err(Refusal::Unusable { phase });
        }
        // It may have been set by hand.
        self.act(Action::SetSplit(0.0));
        self.because = Some(words::started_by(by));
        self.begin();
        Ok(())
    }

    fn start_again(&mut self, by: &str) -> Result<(), Refusal> {
        let taken_back = self.state.ended.as_ref().is_some_and(|e| e.how != How::Completed);
        if taken_back { self.start(by) } else { Err(Refusal::NothingToRetry) }
    }

    /// From the first step, with new evidence.
    fn begin(&mut self) {
        self.state.id += 1;
        self.state.fingerprint = self.plan.fingerprint;
        self.state.ended = None;
        self.rewind();
        self.act(Action::Salt(self.state.id));
        self.ask(Transition::BeforeStart);
        self.proceed();
    }

    /// Before the first step; nothing is in force.
    pub(super) fn rewind(&mut self) {
        let state = &mut self.state;
        state.stage = Stage::BeforeStart;
        state.step = 0;
        state.overall = Duration::ZERO;
        state.in_step = Duration::ZERO;
        state.step_for = Duration::ZERO;
        state.rearmed = 0;
        state.insisted = false;
        state.paused = None;
        state.waiting = None;
        state.hold = None;
    }

    fn pause(&mut self, by: &str) -> Result<(), Refusal> {
        if let Some(by) = self.state.paused.clone() {
            return Err(Refusal::AlreadyPaused { phase: self.state.phase(), by });
        }
        if self.state.held_by() == Some(Why::Person) {
            return Err(Refusal::WaitsForPerson);
        }
        self.state.paused = Some(by.to_owned());
        self.because = Some(words::paused(by));
        Ok(())
    }

    /// Lifts a pause, and what else waits for a person to say that it may go on.
    fn resume(&mut self, by: &str) -> Result<(), Refusal> {
        let phase = self.state.phase();
        let paused = self.state.paused.take().is_some();
        self.because = Some(words::resumed(by));
        match self.state.hold.clone() {
            Some(hold) if !hold.why.ends_by_itself() => {
                self.state.hold = None;
                self.let_go(hold.why);
            }
            _ if paused => {}
            Some(hold) if hold.why == Why::Person => return Err(Refusal::WaitsForPerson),
            Some(hold) => return Err(Refusal::EndsByItself { phase, reason: hold.reason }),
            None => return Err(self.hook_in_the_way().unwrap_or(Refusal::NotPaused { phase })),
        }
        self.proceed();
        Ok(())
    }

    /// What a hold kept from happening.
    fn let_go(&mut self, why: Why) {
        match why {
            Why::Changed => self.begin(),
            Why::Away | Why::Guard => {
                self.state.rearmed = 0;
                if self.state.split > 0.0 {
                    self.rearm(String::new());
                }
            }
            // What is over gets the same time once more.
            Why::Timeout => {
                if self.plan.rollout.deadline.is_some_and(|most| self.state.overall >= most) {
                    self.state.overall = Duration::ZERO;
                }
                self.state.step_for = Duration::ZERO;
            }
            Why::Unusable | Why::Mismatch | Why::Person => {}
        }
    }

    fn retry(&mut self, by: &str) -> Result<(), Refusal> {
        let phase = self.state.phase();
        let Some((transition, _)) = self.state.failed_hook() else {
            let instead = words::instead_of_retry(&self.state);
            return Err(Refusal::NoFailedHook { phase, instead });
        };
        self.because = Some(words::retried(transition, by));
        self.ask(transition);
        // It may not be in the configuration any more.
        if self.state.failed_hook().is_some() {
            self.state.waiting = None;
            self.proceed();
        }
        Ok(())
    }

    fn promote_by_hand(&mut self, full: bool, by: &str) -> Result<(), Refusal> {
        let phase = self.state.phase();
        // Also before the first step: after this it would count.
        if let Verdict::Harm { reason } = &self.seen.verdict {
            return Err(Refusal::Objection { phase, reason: reason.clone() });
        }
        if !self.seen.canary_usable {
            return Err(Refusal::Unusable { phase });
        }
        let stage = self.state.stage;
        let last = stage == Stage::BeforePromotion;
        match self.hook_in_the_way() {
            Some(refusal @ Refusal::HookOut { .. }) if last || !full => return Err(refusal),
            Some(refusal) if !full => return Err(refusal),
            _ => {}
        }
        if self.state.held_by() == Some(Why::Changed) {
            return Err(Refusal::Changed { phase });
        }
        self.state.paused = None;
        self.state.hold = None;
        self.state.waiting = None;
        self.state.insisted = true;
        self.because = Some(words::promoted(full, by));
        match stage {
            Stage::Baking if !full => self.end_step(),
            Stage::Emptying if !full => self.enter(),
            _ if full && !last => self.approach_promotion(),
            _ => self.proceed(),
        }
        Ok(())
    }

    fn hook_in_the_way(&self) -> Option<Refusal> {
        let phase = self.state.phase();
        let waiting = self.state.waiting.as_ref()?;
        let transition = waiting.transition;
        Some(match waiting.failed {
            Some(_) => Refusal::HookFailed { phase, transition },
            None => Refusal::HookOut { phase, transition },
        })
    }

    fn undo(&mut self, by: &str) -> Result<(), Refusal> {
        let phase = self.state.phase();
        if self.state.stage.is_under_way() {
            return Err(Refusal::NotComplete { phase });
        }
        if !self.state.stage.keeps_old() {
            return Err(Refusal::NothingToUndo { phase });
        }
        if !self.seen.stable_usable {
            return Err(Refusal::OldUnusable { phase });
        }
        self.swap_back(words::undone(by));
        Ok(())
    }
}
