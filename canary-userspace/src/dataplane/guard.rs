//! Guards: orders to the part of the program that takes the canary out by
//! itself, and what came of them. Each order is one atomic store, or is made
//! of some in an order in which no flow meets half of it.

use std::{mem::offset_of, sync::atomic::Ordering, time::Duration};

use canary_common::{Guard, GuardStatus, Told};

use super::{Dataplane, error::DataplaneError};

/// What a guard is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardOrder {
    /// Bad events from now on that the canary is taken out by; 0 takes it out
    /// at once. `None`: any number is borne.
    pub budget: Option<u64>,
    /// How long the daemon may be silent, see [`Dataplane::heartbeat`]. `None`:
    /// as long as it likes.
    pub dead_man: Option<Duration>,
    /// Which events count; those of [`Told::FAILURES`] can.
    pub counts: Told,
}

/// How a guard stands, and its counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardState {
    pub status: GuardStatus,
    /// Bad events ever counted, and the number at which the canary is taken
    /// out; `None`: there is no budget.
    pub bad: u64,
    pub limit: Option<u64>,
    /// New flows that went to stable by the guard, ever.
    pub diverted: u64,
    /// When the budget was spent: `CLOCK_MONOTONIC`, nanoseconds.
    pub spent_at: Option<u64>,
}

impl GuardState {
    /// A record as it stands at `now`, in jiffies ([`Dataplane::clock`]).
    #[must_use]
    pub fn of(guard: &Guard, now: u64) -> Self {
        Self {
            status: guard.status(now),
            bad: guard.bad,
            limit: (guard.limit != Guard::NEVER).then_some(guard.limit),
            diverted: guard.diverted,
            spent_at: (guard.spent_at != 0).then_some(guard.spent_at),
        }
    }
}

macro_rules! store {
    ($plane:expr, $service:expr, $field:ident, $value:expr) => {
        $plane
            .guards
            .word(u32::from($service), offset_of!(Guard, $field))
            .store($value, Ordering::SeqCst)
    };
}

impl Dataplane {
    /// Arms a service's guard, whatever it was before. What `bad` has counted
    /// so far stays, and the budget is counted from there.
    ///
    /// # Errors
    /// Where the kernel does not tell its clock; the guard is as it was.
    pub fn arm_guard(&mut self, service: u16, order: &GuardOrder) -> Result<(), DataplaneError> {
        let deadline = self.dead_man(order.dead_man)?;
        // Nothing counts while the limit is found out.
        store!(self, service, counts, 0);
        let bad = self.read_guard(service).bad;
        let limit = order.budget.map_or(Guard::NEVER, |budget| bad.saturating_add(budget));
        store!(self, service, spent_at, 0);
        store!(self, service, limit, limit);
        store!(self, service, deadline, deadline);
        store!(self, service, counts, order.counts.0 & Told::FAILURES.0);
        self.armed(service, 1);
        Ok(())
    }

    /// Gives a guard another budget: `more` events beyond the `seen_bad` that
    /// the caller knew of when it decided; those since are spent already.
    pub fn set_budget(&mut self, service: u16, seen_bad: u64, more: u64) {
        store!(self, service, spent_at, 0);
        store!(self, service, limit, seen_bad.saturating_add(more).min(Guard::NEVER - 1));
    }

    /// The daemon lives: new flows may go to the canary for so long. A deadline
    /// that has passed, and a hold, stay: they end by arming anew. How it stood
    /// before.
    ///
    /// # Errors
    /// Where the kernel does not tell its clock; the deadline stays.
    pub fn heartbeat(
        &mut self,
        service: u16,
        dead_man: Duration,
    ) -> Result<GuardStatus, DataplaneError> {
        let now = self.clock()?;
        let guard = self.read_guard(service);
        if guard.armed != 0 && guard.deadline >= now {
            store!(self, service, deadline, self.deadline(now, dead_man));
        }
        Ok(guard.status(now))
    }

    /// Lets no new flow to the canary, until the guard is armed anew or
    /// disarmed. One that was off is armed by it, without a budget.
    pub fn hold_guard(&mut self, service: u16) {
        if self.read_guard(service).armed == 0 {
            store!(self, service, counts, 0);
            store!(self, service, limit, Guard::NEVER);
        }
        store!(self, service, deadline, Guard::HELD);
        self.armed(service, 1);
    }

    /// The split alone decides.
    pub fn disarm_guard(&mut self, service: u16) {
        self.armed(service, 0);
    }

    /// How a service's guard stands. Asks the kernel's clock; who looks often
    /// does it once for [`Dataplane::read_guard`] of many.
    ///
    /// # Errors
    /// Where the kernel does not tell its clock.
    pub fn guard(&self, service: u16) -> Result<GuardState, DataplaneError> {
        // The record first: what it says is at most as old as the time.
        let guard = self.read_guard(service);
        Ok(GuardState::of(&guard, self.clock()?))
    }

    /// A guard's record, at memory speed.
    pub fn read_guard(&self, service: u16) -> Guard {
        self.guards.read(u32::from(service))
    }

    fn armed(&mut self, service: u16, armed: u32) {
        let word = self.guards.half_word(u32::from(service), offset_of!(Guard, armed));
        word.store(armed, Ordering::SeqCst);
    }

    fn dead_man(&self, dead_man: Option<Duration>) -> Result<u64, DataplaneError> {
        Ok(match dead_man {
            Some(dead_man) => self.deadline(self.clock()?, dead_man),
            None => Guard::NEVER,
        })
    }
}
