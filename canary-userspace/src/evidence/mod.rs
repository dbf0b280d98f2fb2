//! Anytime-valid evidence on a canary: numbers that may be looked at after
//! every connection, under any rule for stopping and for changing the split
//! that uses only the past.
//!
//! Each test gives the natural logarithm of an *e-value*: a product that, while
//! its null hypothesis holds, is a non-negative supermartingale with a mean of
//! one or less. It reaches `1 / α` with probability `α` at most, ever (Ville's
//! inequality), so the level holds for a whole rollout and not for one look.
//! All depend on the counts per epoch alone and are the same after a restart.
//!
//! Sources: Lindon and Malek, "Anytime-Valid Inference for Multinomial Count
//! Data" (NeurIPS 2022, arXiv:2011.03567) for counts given the assignment;
//! Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
//! betting" (JRSS-B 2024, arXiv:2010.09686) for the absolute margins, which
//! are bets on a bounded mean.

mod alone;
mod harm;
mod interval;
mod late;
mod latency;
mod mismatch;
mod safety;

#[cfg(test)]
mod tests;

pub use alone::{above, highest_believable};
pub use harm::{harm, harm_beyond};
pub use interval::ratio_interval;
pub use latency::{Epoch as LatencyEpoch, Reference, slower};
pub use mismatch::mismatch;
pub use safety::safe;

use late::Join;
use serde::{Deserialize, Serialize};

/// Connections of one track that were born in an epoch, and how many of them
/// went bad; a connection at most once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes {
    pub connections: u64,
    pub bad: u64,
}

/// A time in which the canary's share of new connections was one and the same.
/// Every connection is booked in the epoch of its birth, whenever it goes bad.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Epoch {
    /// The canary's share, a fraction of 1.
    pub share: f64,
    pub canary: Outcomes,
    pub stable: Outcomes,
}

impl Epoch {
    /// Whether both versions had a chance.
    pub(crate) const fn compares(&self) -> bool {
        compares(self.share)
    }

    /// Connections that stayed good.
    const fn good(&self) -> u64 {
        (self.canary.connections + self.stable.connections)
            .saturating_sub(self.canary.bad + self.stable.bad)
    }
}

/// The share of bad connections that falls on the canary where one of its
/// connections goes bad `ratio` times as often as one of stable's.
fn expected_share(share: f64, ratio: f64) -> f64 {
    let canary = share * ratio;
    canary / (canary + 1.0 - share)
}

/// By bad connections alone: the likelihood of each of `alternatives` against
/// `null`, both ratios of the canary's rate to stable's, averaged. The rate
/// itself may drift: given that a connection went bad, only whose it was counts.
fn against_ratio(
    epochs: &[Epoch],
    null: f64,
    alternatives: impl Iterator<Item = f64>,
    join: Join,
) -> f64 {
    mean_exp(alternatives.map(|alternative| {
        let likelihood = |epoch: &Epoch| {
            let [null, other] = [null, alternative].map(|r| expected_share(epoch.share, r));
            epoch.canary.bad as f64 * (other / null).ln()
                + epoch.stable.bad as f64 * ((1.0 - other) / (1.0 - null)).ln()
        };
        join_comparable(epochs, likelihood, join)
    }))
}

/// Which way a bet on the difference of the rates goes.
#[derive(Clone, Copy)]
enum Bet {
    /// That it is above the margin.
    Above,
    /// That it is below.
    Below,
}

/// A bet on each connection, that the canary's rate of bad connections is above
/// stable's by more, or by less, than `margin`: the product of what is won,
/// averaged over `stakes`, which are fractions of the most that may be staked
/// without going below nothing.
///
/// A connection is worth `1 / share` where it is the canary's and bad,
/// `-1 / (1 - share)` where it is stable's and bad, and nothing else: on
/// average the difference of the rates.
fn stake(epochs: &[Epoch], stakes: &[f64], bet: Bet, margin: f64, join: Join) -> f64 {
    mean_exp(stakes.iter().map(|fraction| {
        let won = |epoch: &Epoch| {
            let worth = [1.0 / epoch.share, -1.0 / (1.0 - epoch.share), 0.0];
            let gains = worth.map(|worth| match bet {
                Bet::Above => worth - margin,
                Bet::Below => margin - worth,
            });
            let most = -1.0 / gains.into_iter().fold(0.0, f64::min);
            let counts = [epoch.canary.bad, epoch.stable.bad, epoch.good()];
            let won = |(gain, count)| count as f64 * f64::ln_1p(fraction * most * gain);
            gains.into_iter().zip(counts).map(won).sum::<f64>()
        };
        join_comparable(epochs, won, join)
    }))
}

fn join_comparable(epochs: &[Epoch], of: impl Fn(&Epoch) -> f64, join: Join) -> f64 {
    let all: Vec<f64> = epochs.iter().filter(|epoch| epoch.compares()).map(of).collect();
    join(&all)
}

/// Whether both versions had a chance: an epoch without says nothing of one
/// against the other.
const fn compares(share: f64) -> bool {
    share > 0.0 && share < 1.0
}

/// `ln` of the mean of what these are the logarithms of. Of nothing it is 0:
/// no evidence.
pub(crate) fn mean_exp(logarithms: impl Iterator<Item = f64>) -> f64 {
    let all: Vec<f64> = logarithms.collect();
    if all.is_empty() { 0.0 } else { ln_sum_exp(&all) - (all.len() as f64).ln() }
}

/// `ln` of the sum of what these are the logarithms of, of which there is one.
fn ln_sum_exp(logarithms: &[f64]) -> f64 {
    let most = logarithms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logarithms.iter().map(|logarithm| (logarithm - most).exp()).sum();
    most + sum.ln()
}
