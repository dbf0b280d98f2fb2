//! What the judge sees.

use canary_common::{Cell, Histogram, Latencies, SharedCell};

use super::Metric;
use crate::evidence::{self, Outcomes};

/// Counters of a track: of its connections that were born in one epoch, or in
/// several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrackCounts {
    pub connections: u64,
    pub refused: u64,
    pub resets: u64,
    pub handshake_timeouts: u64,
    /// Connections with at least one.
    pub http_5xx: u64,
    pub handshake: Histogram,
    pub first_byte: Histogram,
}

impl TrackCounts {
    /// What a cell's counters mean to the judge.
    #[must_use]
    pub const fn of(cell: &Cell, shared: &SharedCell, times: &Latencies) -> Self {
        Self {
            connections: cell.connections,
            refused: cell.refused,
            resets: cell.resets_backend,
            handshake_timeouts: shared.handshake_timeouts,
            http_5xx: cell.connections_5xx,
            handshake: times.handshake,
            first_byte: times.first_byte,
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.refused += other.refused;
        self.resets += other.resets;
        self.handshake_timeouts += other.handshake_timeouts;
        self.http_5xx += other.http_5xx;
        self.handshake.add(&other.handshake);
        self.first_byte.add(&other.first_byte);
    }

    /// What came on top of `before`. Counters are not read at one instant, so
    /// one of the two may be a little ahead: nothing goes below 0.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut since = *self;
        for (now, before) in [
            (&mut since.connections, before.connections),
            (&mut since.refused, before.refused),
            (&mut since.resets, before.resets),
            (&mut since.handshake_timeouts, before.handshake_timeouts),
            (&mut since.http_5xx, before.http_5xx),
        ] {
            *now = now.saturating_sub(before);
        }
        since.handshake.saturating_take(&before.handshake);
        since.first_byte.saturating_take(&before.first_byte);
        since
    }

    /// Connections, and how many of them failed so; none by a time.
    #[must_use]
    pub const fn outcomes(&self, metric: Metric) -> Outcomes {
        let bad = match metric {
            Metric::Refused => self.refused,
            Metric::Resets => self.resets,
            Metric::HandshakeTimeouts => self.handshake_timeouts,
            Metric::Http5xx => self.http_5xx,
            Metric::Handshake | Metric::FirstByte => 0,
        };
        Outcomes { connections: self.connections, bad }
    }

    pub(super) const fn failures_mut(&mut self, metric: Metric) -> Option<&mut u64> {
        match metric {
            Metric::Refused => Some(&mut self.refused),
            Metric::Resets => Some(&mut self.resets),
            Metric::HandshakeTimeouts => Some(&mut self.handshake_timeouts),
            Metric::Http5xx => Some(&mut self.http_5xx),
            Metric::Handshake | Metric::FirstByte => None,
        }
    }

    /// Times of this metric; of a failure there are none.
    pub(super) const fn times(&self, metric: Metric) -> Option<&Histogram> {
        match metric {
            Metric::Handshake => Some(&self.handshake),
            Metric::FirstByte => Some(&self.first_byte),
            _ => None,
        }
    }
}

/// Both tracks in a time of one split. A long one may be cut into several with
/// the same split, by the difference of its counters at two looks; each is
/// another chance to find a canary that broke late.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EpochCounts {
    /// The split that was configured: the canary's share, a fraction of 1.
    pub share: f64,
    pub canary: TrackCounts,
    pub stable: TrackCounts,
    /// Connections of `stable` that the split gave to the canary, and the guard
    /// to stable.
    pub diverted: u64,
}

impl EpochCounts {
    /// What came on top of `before`, of the same split.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            share: self.share,
            canary: self.canary.since(&before.canary),
            stable: self.stable.since(&before.stable),
            diverted: self.diverted.saturating_sub(before.diverted),
        }
    }

    /// Whether both versions had a chance.
    pub(super) const fn compares(&self) -> bool {
        self.share > 0.0 && self.share < 1.0
    }

    /// The canary's and stable's connections as the split drew them.
    pub(super) const fn drawn(&self) -> [u64; 2] {
        [
            self.canary.connections + self.diverted,
            self.stable.connections.saturating_sub(self.diverted),
        ]
    }

    /// The canary's share for a test: what was configured or, with clients that
    /// stay where they are or a guard that took some away, what `canary` and
    /// `stable` came to.
    pub(super) fn tested_share(&self, realised: bool, canary: u64, stable: u64) -> f64 {
        let realised = realised || self.diverted > 0;
        if realised && self.compares() && canary + stable > 0 {
            canary as f64 / (canary + stable) as f64
        } else {
            self.share
        }
    }
}

/// All that a judgement follows from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Of this rollout, oldest first; the last is the current one.
    pub epochs: Vec<EpochCounts>,
    /// Stable's from before the rollout: what its times are compared by, and
    /// part of the record for a split of 100 %.
    pub before: Option<TrackCounts>,
    /// A client stays with its version. Clients differ in how many connections
    /// they make, so the realised share stands for the configured one.
    pub sticky: bool,
}

impl Seen {
    #[must_use]
    pub fn current(&self) -> Option<&EpochCounts> {
        self.epochs.last()
    }

    /// The epochs, however they are cut: neighbours of one split are one.
    #[must_use]
    pub fn by_split(&self) -> Vec<EpochCounts> {
        let mut all: Vec<EpochCounts> = Vec::new();
        for part in &self.epochs {
            match all.last_mut().filter(|last| last.share == part.share) {
                Some(last) => {
                    last.canary.add(&part.canary);
                    last.stable.add(&part.stable);
                    last.diverted += part.diverted;
                }
                None => all.push(*part),
            }
        }
        all
    }

    /// All since the current split came into force.
    #[must_use]
    pub fn under_split(&self) -> Option<EpochCounts> {
        self.by_split().pop()
    }

    /// For the tests of failures.
    pub(super) fn outcomes(&self, metric: Metric) -> Vec<evidence::Epoch> {
        let epoch = |epoch: &EpochCounts| {
            let (canary, stable) = (epoch.canary.outcomes(metric), epoch.stable.outcomes(metric));
            let share = epoch.tested_share(self.sticky, canary.connections, stable.connections);
            evidence::Epoch { share, canary, stable }
        };
        self.epochs.iter().map(epoch).collect()
    }

    /// Stable's connections on record, for where there are none to compare with.
    pub(super) fn recorded(&self, metric: Metric) -> Outcomes {
        let during = self.epochs.iter().map(|epoch| &epoch.stable);
        sum(self.before.iter().chain(during).map(|track| track.outcomes(metric)))
    }
}

pub(super) fn sum(outcomes: impl Iterator<Item = Outcomes>) -> Outcomes {
    outcomes.fold(Outcomes::default(), |sum, more| Outcomes {
        connections: sum.connections + more.connections,
        bad: sum.bad + more.bad,
    })
}
