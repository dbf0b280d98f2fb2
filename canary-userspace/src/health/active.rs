//! Checks: results in a row.

use std::time::Duration;

use crate::config::{Health, health::Initial};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Pass,
    /// Somebody is there, and does not say what was expected.
    Fail,
    /// No connection came about: refused, no way there, or nobody answers.
    Unreachable,
}

impl Outcome {
    pub const ALL: [Self; 3] = [Self::Pass, Self::Fail, Self::Unreachable];

    /// As metrics and the status write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Unreachable => "unreachable",
        }
    }
}

/// What a result changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Up,
    Down,
}

/// A backend by its checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Active {
    pub is_up: bool,
    /// Results in a row that speak against that.
    against: u32,
    /// How long nothing but [`Outcome::Unreachable`] was found, up to the last
    /// result. Summed up check by check: time in which the daemon itself did not
    /// run proves nothing.
    unreachable_for: Duration,
    /// When that was last found.
    unreachable_at: Option<Duration>,
}

impl Active {
    /// A backend that was never asked.
    #[must_use]
    pub const fn new(rules: &Health) -> Self {
        Self::known(matches!(rules.initial, Initial::Up))
    }

    /// One that is known from before.
    #[must_use]
    pub const fn known(is_up: bool) -> Self {
        Self { is_up, against: 0, unreachable_for: Duration::ZERO, unreachable_at: None }
    }

    /// Takes a check's result.
    pub fn heard(&mut self, outcome: Outcome, rules: &Health, now: Duration) -> Option<Change> {
        self.measure(outcome, rules, now);
        if (outcome == Outcome::Pass) == self.is_up {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = if self.is_up { rules.fall } else { rules.rise };
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.is_up = !self.is_up;
        Some(if self.is_up { Change::Up } else { Change::Down })
    }

    fn measure(&mut self, outcome: Outcome, rules: &Health, now: Duration) {
        if outcome != Outcome::Unreachable {
            self.unreachable_for = Duration::ZERO;
            self.unreachable_at = None;
            return;
        }
        if let Some(last) = self.unreachable_at {
            // Twice what lies between two results; more was a pause of ours.
            let most = (rules.interval + rules.timeout) * 2;
            self.unreachable_for += now.saturating_sub(last).min(most);
        }
        self.unreachable_at = Some(now);
    }

    /// Whether nobody is there any more: down, and out of reach for
    /// `gone_after`. `silent_for`: how long it sent nothing to any client.
    #[must_use]
    pub fn is_gone(&self, rules: &Health, silent_for: Duration) -> bool {
        let Some(after) = rules.gone_after else { return false };
        !self.is_up && self.unreachable_for.min(silent_for) >= after
    }

    /// Results in a row that speak against what it counts as.
    #[must_use]
    pub const fn against(&self) -> u32 {
        self.against
    }
}
