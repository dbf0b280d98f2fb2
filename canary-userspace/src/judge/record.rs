//! Counters as they are recorded: a line of JSON for each look.

use std::collections::BTreeMap;

use canary_common::Histogram;
use serde::{Deserialize, Serialize};

use super::{EpochCounts, TrackCounts};

/// A look at one epoch. Counters are of the epoch's connections since it began;
/// a later line of an earlier epoch tells what became of them since.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Seconds since 1970.
    pub at: f64,
    /// Its number: any that is higher than those of the epochs before it.
    pub epoch: u64,
    /// The canary's share, a fraction of 1.
    pub split: f64,
    pub canary: RecordedTrack,
    pub stable: RecordedTrack,
    /// Of stable's, those that the guard took from the canary.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub diverted: u64,
    /// Stable's from before the rollout; once is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<RecordedTrack>,
    /// Clients stay with their version (`affinity = "client"`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sticky: bool,
}

/// Counters are named as in the API; one that is left out is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedTrack {
    pub connections: u64,
    #[serde(default)]
    pub refused: u64,
    /// By the backend.
    #[serde(default)]
    pub resets: u64,
    #[serde(default)]
    pub handshake_timeouts: u64,
    #[serde(default)]
    pub connections_5xx: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handshake: Option<RecordedTimes>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte: Option<RecordedTimes>,
}

/// A histogram: its sum in ticks of 256 ns, and the buckets that are not 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedTimes {
    pub sum: u64,
    pub counts: BTreeMap<usize, u64>,
}

/// A bucket that there is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no bucket {0} of times; the last is {last}", last = Histogram::BUCKETS - 1)]
pub struct NoSuchBucket(pub usize);

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Record {
    #[must_use]
    pub fn of(at: f64, epoch: u64, counts: &EpochCounts) -> Self {
        Self {
            at,
            epoch,
            split: counts.share,
            canary: RecordedTrack::of(&counts.canary),
            stable: RecordedTrack::of(&counts.stable),
            diverted: counts.diverted,
            before: None,
            sticky: false,
        }
    }

    /// # Errors
    /// A bucket that there is not.
    pub fn counts(&self) -> Result<EpochCounts, NoSuchBucket> {
        let (canary, stable) = (self.canary.counts()?, self.stable.counts()?);
        Ok(EpochCounts { share: self.split, canary, stable, diverted: self.diverted })
    }
}

impl RecordedTrack {
    #[must_use]
    pub fn of(counts: &TrackCounts) -> Self {
        let times =
            |histogram: &Histogram| (histogram.count() > 0).then(|| RecordedTimes::of(histogram));
        Self {
            connections: counts.connections,
            refused: counts.refused,
            resets: counts.resets,
            handshake_timeouts: counts.handshake_timeouts,
            connections_5xx: counts.http_5xx,
            handshake: times(&counts.handshake),
            first_byte: times(&counts.first_byte),
        }
    }

    /// # Errors
    /// A bucket that there is not.
    pub fn counts(&self) -> Result<TrackCounts, NoSuchBucket> {
        let times = |times: &Option<RecordedTimes>| {
            times.as_ref().map_or(Ok(Histogram::default()), RecordedTimes::histogram)
        };
        Ok(TrackCounts {
            connections: self.connections,
            refused: self.refused,
            resets: self.resets,
            handshake_timeouts: self.handshake_timeouts,
            http_5xx: self.connections_5xx,
            handshake: times(&self.handshake)?,
            first_byte: times(&self.first_byte)?,
        })
    }
}

impl RecordedTimes {
    #[must_use]
    pub fn of(histogram: &Histogram) -> Self {
        let counts = histogram.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0);
        Self { sum: histogram.sum, counts: counts.collect() }
    }

    /// # Errors
    /// A bucket that there is not.
    pub fn histogram(&self) -> Result<Histogram, NoSuchBucket> {
        let mut histogram = Histogram { sum: self.sum, ..Histogram::default() };
        for (bucket, count) in &self.counts {
            let place = histogram.counts.get_mut(*bucket).ok_or(NoSuchBucket(*bucket))?;
            *place = *count;
        }
        Ok(histogram)
    }
}
