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
    stable: Distribution,
    slower: Vec<Distribution>,
}

/// Shares of the buckets, and `ln` of each: logarithms are what a look costs.
#[derive(Clone, Debug)]
struct Distribution {
    shares: [f64; Histogram::BUCKETS],
    ln: [f64; Histogram::BUCKETS],
}

impl Distribution {
    fn of(weights: [f64; Histogram::BUCKETS]) -> Self {
        let sum: f64 = weights.iter().sum();
        let shares = weights.map(|weight| weight / sum);
        Self { shares, ln: shares.map(f64::ln) }
    }
}

impl Reference {
    /// Half a time is added to each bucket: none is impossible.
    #[must_use]
    pub fn new(before: &Counts) -> Self {
        let stable = Distribution::of(before.map(|count| count as f64 + 0.5));
        let mut below = 0.0;
        let ranks = stable.shares.map(|share| {
            below += share;
            below - share / 2.0
        });
        let steps = TAILS.map(|tail| ranks.map(|rank| if rank > tail { 1.0 } else { 0.0 }));
        let mut slower = Vec::new();
        for shape in steps.into_iter().chain([ranks]) {
            for tilt in TILTS {
                let mut tilted = stable.shares;
                for (share, weight) in tilted.iter_mut().zip(shape) {
                    *share *= f64::exp(tilt * weight);
                }
                slower.push(Distribution::of(tilted));
            }
        }
        Self { stable, slower }
    }
}

/// `ln` of the evidence that the canary's times are longer than stable's.
/// `tolerated` buckets, a quarter of an octave each, are taken off its own.
#[must_use]
pub fn slower(epochs: &[Epoch], reference: &Reference, tolerated: usize) -> f64 {
    let stable = &reference.stable;
    let epochs: Vec<_> = epochs.iter().filter(|epoch| compares(epoch.share)).collect();
    let counts: Vec<_> = epochs.iter().map(|epoch| counted(epoch, tolerated)).collect();
    mean_exp(reference.slower.iter().map(|slow| {
        let likelihood = |(epoch, counts): (&&Epoch, &Vec<Counted>)| -> f64 {
            let of = |seen: &Counted| {
                let bucket = seen.bucket;
                let [slow_share, stable_share] =
                    [slow, stable].map(|distribution| distribution.shares[bucket]);
                let both = (epoch.share * slow_share + (1.0 - epoch.share) * stable_share).ln();
                seen.canary * (slow.ln[bucket] - both) + seen.stable * (stable.ln[bucket] - both)
            };
            epoch.weight * counts.iter().map(of).sum::<f64>()
        };
        since_each(&epochs.iter().zip(&counts).map(likelihood).collect::<Vec<_>>())
    }))
}

/// A bucket with a time of either version.
struct Counted {
    bucket: usize,
    canary: f64,
    stable: f64,
}

fn counted(epoch: &Epoch, tolerated: usize) -> Vec<Counted> {
    let of = |(bucket, stable): (usize, &u64)| {
        let canary = shifted(&epoch.canary, bucket, tolerated);
        let seen = Counted { bucket, canary: canary as f64, stable: *stable as f64 };
        (canary + stable > 0).then_some(seen)
    };
    epoch.stable.iter().enumerate().filter_map(of).collect()
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
