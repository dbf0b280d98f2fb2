//! The guard: what takes the canary out between two looks of the daemon.

/// What stands between the split and the canary of one service, one cache
/// line. All zero, nothing is guarded.
///
/// The daemon writes all fields but `bad`, `spent_at` and `diverted`, each in
/// one atomic store.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Bad events of the canary so far. Added to by the program after it has
    /// raised the cell's counter: who reads this first and the cells then has
    /// them all. Never reset, also not by arming.
    pub bad: u64,
    /// The budget is spent where `bad` has come to this; `u64::MAX`: there is
    /// none.
    pub limit: u64,
    /// Past it new flows go to stable: jiffies, all 64 bits. `u64::MAX`: no
    /// end; 0: held by the daemon.
    pub deadline: u64,
    /// Which events count: a mask over [`crate::Told`]'s lower half, within
    /// [`crate::Told::FAILURES`]. A packet is one event at most.
    pub counts: u64,
    /// When `bad` came to `limit`: `CLOCK_MONOTONIC`, nanoseconds. Written by
    /// the CPU that brought it there; 0 before.
    pub spent_at: u64,
    /// New flows of the canary's that went to stable by the guard.
    pub diverted: u64,
    /// 1 where there is a guard at all.
    pub armed: u32,
    pub reserved0: u32,
    pub reserved1: u64,
}

const _: () = assert!(size_of::<Guard>() == 64);

/// How a guard stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardStatus {
    Off,
    Armed,
    /// More bad events than it had a budget for.
    BudgetSpent,
    /// The daemon has not been heard of for too long.
    DeadMan,
    /// The daemon lets no new flow to the canary.
    Held,
}

impl GuardStatus {
    /// Whether new flows of the canary's go to stable.
    #[must_use]
    pub const fn stops(self) -> bool {
        matches!(self, Self::BudgetSpent | Self::DeadMan | Self::Held)
    }
}

impl Guard {
    /// No budget, or no end.
    pub const NEVER: u64 = u64::MAX;
    /// A deadline that has always passed.
    pub const HELD: u64 = 0;

    /// Whether new flows of the canary's go to stable; `now` in jiffies, all
    /// 64 bits.
    #[inline(always)]
    #[must_use]
    pub const fn stops(armed: u32, bad: u64, limit: u64, deadline: u64, now: u64) -> bool {
        armed != 0 && (bad >= limit || deadline < now)
    }

    /// The first of the reasons why it stops the canary, in the order in which
    /// somebody has to do something about them.
    #[must_use]
    pub const fn status(&self, now: u64) -> GuardStatus {
        if self.armed == 0 {
            GuardStatus::Off
        } else if self.deadline == Self::HELD {
            GuardStatus::Held
        } else if self.bad >= self.limit {
            GuardStatus::BudgetSpent
        } else if self.deadline < now {
            GuardStatus::DeadMan
        } else {
            GuardStatus::Armed
        }
    }
}
