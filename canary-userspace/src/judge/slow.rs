//! One kind of time.

use std::time::Duration;

use canary_common::{Histogram, Ticks};

use super::{
    EpochCounts, Metric, Seen,
    judgement::{Quantiles, Times},
};
use crate::{
    config::rollout::Slowness,
    evidence::{LatencyEpoch, Reference, slower},
};

type Counts = [u64; Histogram::BUCKETS];

/// Buckets an octave of [`Histogram`].
const SUB_BUCKETS: f64 = 4.0;

pub(super) fn judge(seen: &Seen, metric: Metric, slowness: &Slowness) -> Times {
    let reference = seen.before.as_ref().and_then(|track| track.times(metric));
    let count = reference.map_or(0, Histogram::count);
    let (floor, tolerated) = (floor(slowness.floor), buckets(slowness.ratio));
    let ln_harm = match reference {
        Some(before) if count > 0 => {
            let times = |epoch| {
                let mut times = times(epoch, metric, seen.sticky)?;
                times.stable = raised(&times.stable, floor);
                // Once what is tolerated is taken off, at the floor too.
                times.canary = raised(&times.canary, floor + tolerated);
                Some(times)
            };
            let epochs: Vec<_> = seen.epochs.iter().filter_map(times).collect();
            slower(&epochs, &Reference::new(&raised(&before.counts, floor)), tolerated)
        }
        _ => 0.0,
    };
    let of = |track: fn(&EpochCounts) -> &super::TrackCounts| {
        let mut all = Histogram::default();
        for times in seen.epochs.iter().filter_map(|epoch| track(epoch).times(metric)) {
            all.add(times);
        }
        Quantiles { count: all.count(), p50: all.quantile(0.5), p99: all.quantile(0.99) }
    };
    Times {
        metric,
        canary: of(|epoch| &epoch.canary),
        stable: of(|epoch| &epoch.stable),
        tolerated: slowness.ratio,
        floor: slowness.floor.as_secs_f64(),
        reference: count,
        ln_harm,
    }
}

/// An epoch's times. Connections with several are not several witnesses: what
/// slows one answer slows the next. Each time then counts for a part, so that
/// all together count as their connections do, and their own share stands for
/// the split: they are not shared as it says.
fn times(epoch: &EpochCounts, metric: Metric, sticky: bool) -> Option<LatencyEpoch> {
    if !epoch.compares() {
        return None;
    }
    let (canary, stable) = (epoch.canary.times(metric)?, epoch.stable.times(metric)?);
    let counts = [canary.count(), stable.count()];
    let all = (counts[0] + counts[1]) as f64;
    let connections = (epoch.canary.connections + epoch.stable.connections) as f64;
    let [configured, realised] =
        [false, true].map(|realised| epoch.tested_share(realised, counts[0], counts[1]));
    Some(LatencyEpoch {
        // A canary with fewer times than its share, as one that loses
        // connections has, is not slower for that.
        share: if sticky || all > connections { realised } else { configured.min(realised) },
        weight: if all > connections { connections / all } else { 1.0 },
        canary: canary.counts,
        stable: stable.counts,
    })
}

/// The bucket of the longest time that is as good as none.
fn floor(floor: Duration) -> usize {
    let ticks = floor.as_nanos() / u128::from(Ticks::NANOSECONDS);
    Histogram::bucket(u32::try_from(ticks).unwrap_or(u32::MAX))
}

/// The same times, none in a bucket below `floor`. Which of them are told apart
/// does not depend on what is seen, so the evidence stays valid.
fn raised(counts: &Counts, floor: usize) -> Counts {
    let floor = floor.min(counts.len() - 1);
    let mut raised = *counts;
    for bucket in 0..floor {
        raised[floor] += std::mem::take(&mut raised[bucket]);
    }
    raised
}

/// Rounded up, so that no more than what is tolerated is ever held against it.
fn buckets(ratio: f64) -> usize {
    (SUB_BUCKETS * ratio.max(1.0).log2()).ceil() as usize
}
