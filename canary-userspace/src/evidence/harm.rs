//! Is the canary worse?

use super::{Bet, Epoch, against_ratio, late::since_each, stake};

/// Ratios to look for, as multiples of what is tolerated: from a tenth more to
/// a hundred times, evenly in their logarithms.
const ALTERNATIVES: u32 = 24;
const LEAST: f64 = 1.1;
const MOST: f64 = 100.0;

/// Small ones for small differences: the best stake is the difference over
/// the variance (Kelly's).
const STAKES: [f64; 16] =
    [0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 0.95];

/// `ln` of the evidence that the canary's connections go bad more than
/// `tolerated` times as often as stable's. With a tolerance of 1.0 the null is
/// "no worse". Evidence is begun anew with each epoch (`late`).
#[must_use]
pub fn harm(epochs: &[Epoch], tolerated: f64) -> f64 {
    against_ratio(epochs, tolerated, multiples().map(|multiple| tolerated * multiple), since_each)
}

pub(super) fn multiples() -> impl Iterator<Item = f64> {
    let step = (MOST / LEAST).ln() / f64::from(ALTERNATIVES - 1);
    (0..ALTERNATIVES).map(move |k| LEAST * (f64::from(k) * step).exp())
}

/// `ln` of the evidence that the canary's rate of bad connections is above
/// stable's by more than `margin`, a fraction of 1.
#[must_use]
pub fn harm_beyond(epochs: &[Epoch], margin: f64) -> f64 {
    stake(epochs, &STAKES, Bet::Above, margin, since_each)
}
