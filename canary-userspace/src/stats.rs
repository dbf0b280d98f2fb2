//! Statistics.

/// Where the true share lies, given `successes` out of `n` independent trials:
/// the Wilson score interval (Wilson 1927), as `(lower, upper)`, fractions of 1.
///
/// `z` is the normal quantile of the confidence: 1.96 for 95 %, 3.29 for
/// 99.9 %. Unlike the textbook interval it holds for small `n` and for shares
/// near 0 and 1. No trials say nothing: `(0, 1)`. More successes than trials
/// count as all.
#[must_use]
pub fn binomial_interval(successes: u64, n: u64, z: f64) -> (f64, f64) {
    if n == 0 {
        return (0.0, 1.0);
    }
    let successes = successes.min(n);
    let trials = n as f64;
    let share = successes as f64 / trials;
    let z2 = z * z;
    let centre = share + z2 / (2.0 * trials);
    let spread = z * (share * (1.0 - share) / trials + z2 / (4.0 * trials * trials)).sqrt();
    let scale = 1.0 + z2 / trials;
    // At the ends the formula gives exactly 0 and 1, its rounding does not.
    let lower = if successes == 0 { 0.0 } else { (centre - spread) / scale };
    let upper = if successes == n { 1.0 } else { (centre + spread) / scale };
    (lower, upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: (f64, f64), expected: (f64, f64)) {
        assert!(
            (got.0 - expected.0).abs() < 5e-4 && (got.1 - expected.1).abs() < 5e-4,
            "{got:?}, expected {expected:?}"
        );
    }

    /// Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    #[test]
    fn published_values() {
        let z = 1.959_964;
        close(binomial_interval(81, 263, z), (0.2553, 0.3662));
        close(binomial_interval(15, 148, z), (0.0624, 0.1605));
        close(binomial_interval(0, 20, z), (0.0, 0.1611));
        close(binomial_interval(1, 29, z), (0.0061, 0.1718));
    }

    #[test]
    fn ends_and_nothing() {
        assert_eq!(binomial_interval(0, 0, 1.96), (0.0, 1.0));
        assert_eq!(binomial_interval(0, 50, 1.96).0.to_bits(), 0.0_f64.to_bits());
        assert_eq!(binomial_interval(50, 50, 1.96).1.to_bits(), 1.0_f64.to_bits());
        assert_eq!(binomial_interval(51, 50, 1.96), binomial_interval(50, 50, 1.96));
    }

    /// The interval is made to hold the true share with the confidence asked
    /// for, on average over shares; here every outcome is counted by its
    /// probability.
    #[test]
    fn covers_as_often_as_it_says() {
        let n = 200;
        let mut sum = 0.0;
        // The other half is its mirror image (and 0.01^200 is 0 in a double).
        for percent in 1..=50 {
            let share = f64::from(percent) / 100.0;
            // Binomial probabilities by their ratio, from (1 - p)^n up.
            let mut probability = (1.0 - share).powi(n);
            for k in 0..=n {
                let (lower, upper) = binomial_interval(k as u64, n as u64, 1.959_964);
                if (lower..=upper).contains(&share) {
                    sum += probability;
                }
                probability *= f64::from(n - k) / f64::from(k + 1) * share / (1.0 - share);
            }
        }
        let coverage = sum / 50.0;
        assert!((0.945..0.955).contains(&coverage), "{coverage}");
    }
}
