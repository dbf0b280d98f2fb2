//! One kind of time.

use canary_common::Histogram;

use super::{
    EpochCounts, Metric, Seen,
    judgement::{Quantiles, Times},
};
use crate::{
    config::rollout::Slowness,
    evidence::{LatencyEpoch, Reference, slower},
};

/// Buckets an octave of [`Histogram`].
const SUB_BUCKETS: f64 = 4.0;

pub(super) fn judge(seen: &Seen, metric: Metric, slowness: &Slowness) -> Times {
    let reference = seen.before.as_ref().and_then(|track| track.times(metric));
    let count = reference.map_or(0, Histogram::count);
    let ln_harm = match reference {
        Some(before) if count > 0 => {
            let epochs: Vec<_> =
                seen.epochs.iter().filter_map(|epoch| times(epoch, metric, seen.sticky)).collect();
            slower(&epochs, &Reference::new(&before.counts), buckets(slowness.ratio))
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
    let realised = sticky || all > connections;
    Some(LatencyEpoch {
        share: epoch.tested_share(realised, counts[0], counts[1]),
        weight: if all > connections { connections / all } else { 1.0 },
        canary: canary.counts,
        stable: stable.counts,
    })
}

/// Rounded up, so that no more than what is tolerated is ever held against it.
fn buckets(ratio: f64) -> usize {
    (SUB_BUCKETS * ratio.max(1.0).log2()).ceil() as usize
}
