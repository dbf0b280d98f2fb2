//! Is the canary slower?

use canary_common::Histogram;

use super::{compares, late::since_each, mean_exp};

type Counts = [u64; Histogram::BUCKETS];

/// How much more often the canary is said to be in the slow buckets.
const TILTS: [f64; 6] = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2];
/// Where a slow tail may begin.
const TAILS: [f64; 3] = [0.5, 0.9, 0.99];

/// The times of connections that were born in an epoch, by bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epoch {
    /// The canary's share of the times, a fraction of 1.
    pub share: f64,
    /// What each time counts for: 1 where they are independent, less where
    /// several are of the same connection. With `m` of each connection and
    /// `1/m` the mean stays at 1 at most however they depend on each other
    /// (Hölder's inequality).
    pub weight: f64,
    pub canary: Counts,
    pub stable: Counts,
}

/// Stable's times from before the rollout, and what slower ones would look
/// like: each alternative is the reference tilted towards its slow end.
#[derive(Clone, Debug)]
pub struct Reference {
    stable: [f64; Histogram::BUCKETS],
    slower: Vec<[f64; Histogram::BUCKETS]>,
}

impl Reference {
    /// Half a time is added to each bucket: none is impossible.
    #[must_use]
    pub fn new(before: &Counts) -> Self {
        let stable = normal(before.map(|count| count as f64 + 0.5));
        let mut below = 0.0;
        let ranks = stable.map(|share| {
            below += share;
            below - share / 2.0
        });
        let steps = TAILS.map(|tail| ranks.map(|rank| if rank > tail { 1.0 } else { 0.0 }));
        let mut slower = Vec::new();
        for shape in steps.into_iter().chain([ranks]) {
            for tilt in TILTS {
                let mut tilted = stable;
                for (share, weight) in tilted.iter_mut().zip(shape) {
                    *share *= f64::exp(tilt * weight);
                }
                slower.push(normal(tilted));
            }
        }
        Self { stable, slower }
    }
}

/// `ln` of the evidence that the canary's times are longer than stable's.
/// `tolerated` buckets, a quarter of an octave each, are taken off its own.
#[must_use]
pub fn slower(epochs: &[Epoch], reference: &Reference, tolerated: usize) -> f64 {
    mean_exp(reference.slower.iter().map(|slow| {
        let likelihood = |epoch: &Epoch| -> f64 {
            let mut sum = 0.0;
            for (bucket, (slow, stable)) in slow.iter().zip(reference.stable).enumerate() {
                let canary = shifted(&epoch.canary, bucket, tolerated);
                if canary + epoch.stable[bucket] > 0 {
                    let both = epoch.share * slow + (1.0 - epoch.share) * stable;
                    sum += canary as f64 * (slow / both).ln()
                        + epoch.stable[bucket] as f64 * (stable / both).ln();
                }
            }
            epoch.weight * sum
        };
        let compare = epochs.iter().filter(|epoch| compares(epoch.share));
        since_each(&compare.map(likelihood).collect::<Vec<_>>())
    }))
}

/// What a bucket has once the times are so many buckets shorter; what would be
/// below the first is in it.
fn shifted(counts: &Counts, bucket: usize, by: usize) -> u64 {
    if bucket == 0 {
        counts.iter().take(by + 1).sum()
    } else {
        counts.get(bucket + by).copied().unwrap_or(0)
    }
}

fn normal(mut weights: [f64; Histogram::BUCKETS]) -> [f64; Histogram::BUCKETS] {
    let sum: f64 = weights.iter().sum();
    for weight in &mut weights {
        *weight /= sum;
    }
    weights
}
