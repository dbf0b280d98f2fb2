//! What the kernel's counters tell: who fails clients' connections is ejected
//! for a while.
//!
//! In the manner of Envoy's outlier detection, but by the counters, which are
//! read once in a while and have no order among themselves: failures count as
//! consecutive from a look that saw failures and nothing else on, until one that
//! saw a success.

use std::{collections::VecDeque, time::Duration};

use crate::config::health::Eject;

/// A window is kept in so many pieces.
const PIECES: u32 = 10;

/// A backend's counters, ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Handshakes done, and not reset by the backend before any data.
    pub good: u64,
    /// Refused, never answered, or reset by the backend before any data.
    pub bad: u64,
    /// Packets towards clients.
    pub sent: u64,
}

impl Counted {
    const fn since(self, before: Self) -> Self {
        Self {
            good: self.good.saturating_sub(before.good),
            bad: self.bad.saturating_sub(before.bad),
            sent: self.sent.saturating_sub(before.sent),
        }
    }
}

/// Why a backend is ejected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reason {
    /// So many failures, and no success in between.
    Consecutive(u64),
    /// So many failures of so many connections, within the window.
    Share(u64, u64),
}

/// An ejection under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejected {
    pub since: Duration,
    pub until: Duration,
}

/// A backend by what its clients met.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Passive {
    last: Option<Counted>,
    /// Failures since the last success.
    run: u64,
    /// Looks of the window, oldest first.
    window: VecDeque<(Duration, Counted)>,
    pub ejected: Option<Ejected>,
    /// Ejections that the next one is longer for.
    pub times: u32,
    /// From then on in use; what it behaves for is forgiven.
    forgiven: Duration,
    /// When a packet of it was last seen to have come.
    spoke: Option<Duration>,
}

impl Passive {
    /// One that is known from before.
    #[must_use]
    pub fn known(ejected: Option<Ejected>, times: u32) -> Self {
        Self { ejected, times, ..Self::default() }
    }

    /// Looks at the counters; whether there is a reason to eject it.
    pub fn look(&mut self, counted: Counted, rules: &Eject, now: Duration) -> Option<Reason> {
        let before = *self.last.get_or_insert(counted);
        self.last = Some(counted);
        let new = counted.since(before);
        if new.sent > 0 || self.spoke.is_none() {
            self.spoke = Some(now);
        }
        if !rules.enabled || self.ejected.is_some() {
            return None;
        }
        self.forgive(rules, now);
        self.run = if new.good > 0 { 0 } else { self.run + new.bad };
        let within = self.slide(counted, rules, now);
        if self.run >= u64::from(rules.consecutive) {
            return Some(Reason::Consecutive(self.run));
        }
        let all = within.good + within.bad;
        let many = all >= u64::from(rules.min_connections);
        let is_bad = within.bad > 0 && within.bad as f64 >= rules.share * all as f64;
        (many && is_bad).then_some(Reason::Share(within.bad, all))
    }

    /// Moves the window on; what is in it.
    fn slide(&mut self, counted: Counted, rules: &Eject, now: Duration) -> Counted {
        let piece = rules.window / PIECES;
        let is_due = |(last, _): &(Duration, Counted)| now.saturating_sub(*last) >= piece;
        if self.window.back().is_none_or(is_due) {
            self.window.push_back((now, counted));
        }
        // The oldest stays for as long as the next is not as old as the window.
        while let Some((next, _)) = self.window.get(1)
            && now.saturating_sub(*next) >= rules.window
        {
            self.window.pop_front();
        }
        self.window.front().map_or_else(Counted::default, |(_, oldest)| counted.since(*oldest))
    }

    /// Takes it out of use; for how long.
    pub fn eject(&mut self, rules: &Eject, now: Duration) -> Duration {
        let lasts = length(rules, self.times);
        self.times = self.times.saturating_add(1);
        self.ejected = Some(Ejected { since: now, until: now + lasts });
        self.forget();
        lasts
    }

    /// Whether it comes back into use now.
    pub fn returns(&mut self, rules: &Eject, now: Duration) -> bool {
        let over = self.ejected.take_if(|ejected| !rules.enabled || ejected.until <= now);
        if over.is_some() {
            self.forgiven = now;
            self.forget();
        }
        over.is_some()
    }

    /// What came before does not speak for or against what comes.
    fn forget(&mut self) {
        self.run = 0;
        self.window.clear();
    }

    /// A backend that stayed in use for as long as it was out the last time has
    /// one ejection less behind it.
    fn forgive(&mut self, rules: &Eject, now: Duration) {
        while self.times > 0 {
            let last = length(rules, self.times - 1);
            if now.saturating_sub(self.forgiven) < last {
                return;
            }
            self.forgiven += last;
            self.times -= 1;
        }
    }

    /// How long it sent nothing to any client, as far as was looked.
    #[must_use]
    pub fn silent_for(&self, now: Duration) -> Duration {
        self.spoke.map_or(Duration::ZERO, |spoke| now.saturating_sub(spoke))
    }
}

/// Of an ejection after so many.
fn length(rules: &Eject, times: u32) -> Duration {
    rules.base.saturating_mul(2_u32.saturating_pow(times)).min(rules.longest)
}
