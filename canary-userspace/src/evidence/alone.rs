//! One version alone against a fixed rate.

use super::{Outcomes, late::since_each, mean_exp};

/// Few: each costs the others its share.
const STAKES: [f64; 7] = [0.003, 0.01, 0.03, 0.1, 0.3, 0.6, 0.99];

/// `ln` of the evidence that connections go bad at a rate above `rate`, a
/// fraction of 1: bets on each connection, as in [`super::harm_beyond`], begun
/// anew with each epoch.
#[must_use]
pub fn above(epochs: &[Outcomes], rate: f64) -> f64 {
    if rate >= 1.0 {
        return 0.0;
    }
    // Below this a single failure would be a proof.
    let rate = rate.max(1e-9);
    mean_exp(STAKES.iter().map(|stake| {
        let won = |seen: &Outcomes| {
            let good = seen.connections.saturating_sub(seen.bad) as f64;
            seen.bad as f64 * f64::ln_1p(stake * (1.0 - rate) / rate) + good * f64::ln_1p(-stake)
        };
        since_each(&epochs.iter().map(won).collect::<Vec<_>>())
    }))
}

/// The highest rate that `seen` is still believable for, a fraction of 1: with
/// probability `level` at most the true one is higher. Chernoff's bound for
/// binomials (Hoeffding 1963, theorem 1): the rate whose relative entropy to
/// what was seen is `ln(1/level)` over all connections. For one look.
#[must_use]
pub fn highest_believable(seen: Outcomes, level: f64) -> f64 {
    if seen.bad >= seen.connections {
        return 1.0;
    }
    let (n, bad) = (seen.connections as f64, seen.bad as f64);
    let seen = bad / n;
    let believable = |rate: f64| {
        let of_bad = if bad > 0.0 { seen * (seen / rate).ln() } else { 0.0 };
        n * (of_bad + (1.0 - seen) * ((1.0 - seen) / (1.0 - rate)).ln()) <= (1.0 / level).ln()
    };
    let (mut low, mut high) = (seen, 1.0);
    for _ in 0..50 {
        let middle = f64::midpoint(low, high);
        if believable(middle) { low = middle } else { high = middle }
    }
    high
}
