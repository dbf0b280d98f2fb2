//! How many times as often, at least and at most?

use super::{Epoch, against_ratio, harm::multiples, late::whole};

/// What the bounds are looked for between, as natural logarithms: a ratio of a
/// millionth to one of a million.
const SEARCHED: f64 = 13.8;
/// Halvings of it: to a part in a thousand.
const HALVINGS: u32 = 15;

/// The ratios of the canary's rate to stable's that are not ruled out, lowest
/// and highest: those for which neither the evidence that it is higher nor the
/// evidence that it is lower has reached `2 / alpha`. It holds the true ratio at
/// every look together with probability `1 - alpha`, where that is one ratio
/// throughout. `None` above: there is no highest.
///
/// Both kinds of evidence are monotone in the ratio that they speak against, so
/// bisection finds the ends.
#[must_use]
pub fn ratio_interval(epochs: &[Epoch], alpha: f64) -> (f64, Option<f64>) {
    let bound = (2.0 / alpha).ln();
    let too_low =
        |ratio: f64| against_ratio(epochs, ratio, multiples().map(|m| ratio * m), whole) >= bound;
    let too_high =
        |ratio: f64| against_ratio(epochs, ratio, multiples().map(|m| ratio / m), whole) >= bound;
    let low = edge(|ln| too_low(ln.exp()));
    let high = edge(|ln| too_high((-ln).exp()));
    (low.map_or(0.0, f64::exp), high.map(|ln| (-ln).exp()))
}

/// The largest value that is ruled out, where small ones are and large ones are
/// not; `None` where none is.
fn edge(ruled_out: impl Fn(f64) -> bool) -> Option<f64> {
    let (mut low, mut high) = (-SEARCHED, SEARCHED);
    if !ruled_out(low) {
        return None;
    }
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if ruled_out(middle) { low = middle } else { high = middle }
    }
    Some(low)
}
