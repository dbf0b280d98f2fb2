//! Is the canary good enough to go on? Not "no harm was seen": the nulls are
//! the other way round.

use super::{Bet, Epoch, against_ratio, late::whole, mean_exp, stake};

/// Shares of the tolerated ratio to look for.
const BETTER: [f64; 10] = [0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95];

/// Large ones: without failures the largest wins.
const STAKES: [f64; 10] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99];

/// `ln` of the evidence that the damage is bounded: that the canary's
/// connections go bad less than `tolerated` times as often as stable's, or
/// that its rate is above stable's by less than `margin`. The mean of both:
/// its null is that neither is so.
#[must_use]
pub fn safe(epochs: &[Epoch], tolerated: f64, margin: f64) -> f64 {
    let by_ratio =
        against_ratio(epochs, tolerated, BETTER.iter().map(|share| tolerated * share), whole);
    let by_margin = stake(epochs, &STAKES, Bet::Below, margin, whole);
    mean_exp([by_ratio, by_margin].into_iter())
}
