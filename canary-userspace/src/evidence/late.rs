//! A canary that was good for an hour and breaks now must not be judged by the
//! hour: what speaks for it since the beginning would hide what speaks against
//! it since. So evidence is also begun anew with each epoch.
//!
//! Evidence that begins later is 1 until then and an e-value from then on, and
//! a mean of e-values with weights that were fixed before is one too. Shin,
//! Ramdas and Rinaldo, "E-detectors" (2022, arXiv:2203.03532), do so with every
//! observation, and forever; here it is for a rollout, whose level holds.

/// The weight of the evidence since the beginning. The rest is for all later
/// beginnings; the second gets half of it, the third a sixth, … What is taken
/// off costs a failure more where four are just enough, as at 25 %; a hundredth
/// does not, and is worth two failures more to those that begin later.
const WHOLE: f64 = 0.99;

/// How the evidence of an alternative, `ln` of each epoch's, is put together.
pub(super) type Join = fn(&[f64]) -> f64;

pub(super) fn whole(epochs: &[f64]) -> f64 {
    epochs.iter().sum()
}

/// `ln` of the weighted mean of the evidence since every epoch's beginning.
pub(super) fn since_each(epochs: &[f64]) -> f64 {
    let mut since = whole(epochs);
    let mut terms = vec![WHOLE.ln() + since];
    for (before, epoch) in (1..).zip(epochs) {
        let before = f64::from(before);
        since -= epoch;
        // What has not begun is 1, and its weights add up to 1/n.
        let begun = epochs.len() as f64 > before;
        let weight = if begun { 1.0 / (before * (before + 1.0)) } else { 1.0 / before };
        terms.push(((1.0 - WHOLE) * weight).ln() + if begun { since } else { 0.0 });
    }
    if epochs.is_empty() {
        return 0.0;
    }
    super::ln_sum_exp(&terms)
}
