//! Is the split what it is said to be?

use super::compares;

/// Connections that the prior is worth, shared as the split says.
const PRIOR: f64 = 100.0;

/// `ln` of the evidence that connections are not shared as `share` says: the
/// Bayes factor of a beta-binomial against it, both sides. A split of all or
/// nothing that is not kept is certain.
#[must_use]
pub fn mismatch(canary: u64, stable: u64, share: f64) -> f64 {
    let (canary, stable) = (canary as f64, stable as f64);
    if !compares(share) {
        let astray = if share <= 0.0 { canary } else { stable };
        return if astray > 0.0 { f64::INFINITY } else { 0.0 };
    }
    let (a, b) = (PRIOR * share, PRIOR * (1.0 - share));
    ln_beta(a + canary, b + stable)
        - ln_beta(a, b)
        - canary * share.ln()
        - stable * (1.0 - share).ln()
}

fn ln_beta(a: f64, b: f64) -> f64 {
    libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b)
}
