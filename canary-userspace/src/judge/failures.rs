//! One kind of failure.

use super::{Metric, Seen, counts, judgement::Failures, last::last};
use crate::{
    config::{Evidence, rollout::Tolerance},
    evidence::{self, Outcomes, harm, harm_beyond, ratio_interval, safe},
};

/// The part of α that is kept for a split of 100 %.
const FOR_THE_LAST: f64 = 0.1;

/// What speaks for harm, apart and together.
pub(super) struct Harm {
    ln_ratio: f64,
    ln_margin: Option<f64>,
    last: Option<super::Last>,
    pub(super) ln: f64,
}

pub(super) fn judge_harm(
    seen: &Seen,
    metric: Metric,
    tolerance: &Tolerance,
    rules: &Evidence,
) -> Harm {
    let epochs = seen.outcomes(metric);
    let ln_ratio = harm(&epochs, tolerance.ratio);
    let ln_margin = (tolerance.margin > 0.0).then(|| harm_beyond(&epochs, tolerance.margin));
    let compared = ln_margin.map_or(ln_ratio, |ln| ln_ratio.min(ln));
    let alone = epochs.iter().filter(|epoch| epoch.share >= 1.0).map(|epoch| epoch.canary);
    let alone: Vec<Outcomes> = alone.collect();
    let last = alone.iter().any(|canary| canary.connections > 0).then(|| {
        let margin = tolerance.margin.max(rules.last_margin);
        last(&alone, seen.recorded(metric), tolerance.ratio, margin, rules.alpha)
    });
    let ln = mix(compared, last.map_or(0.0, |last| last.ln));
    Harm { ln_ratio, ln_margin, last, ln }
}

/// `ln` of the evidence that it is safe, and whether that is enough. While there
/// is as much for harm, which a good past can't outweigh, it is not.
pub(super) fn judge_safe(
    seen: &Seen,
    metric: Metric,
    tolerance: &Tolerance,
    rules: &Evidence,
    ln_harm: f64,
) -> (f64, bool) {
    let ln = safe(&seen.outcomes(metric), tolerance.safe_ratio, tolerance.safe_margin);
    let bound = -rules.beta.ln();
    (ln, ln >= bound && ln_harm < bound)
}

pub(super) fn judge(
    seen: &Seen,
    metric: Metric,
    tolerance: &Tolerance,
    rules: &Evidence,
) -> Failures {
    let harm = judge_harm(seen, metric, tolerance, rules);
    let (ln_safe, safe) = judge_safe(seen, metric, tolerance, rules, harm.ln);
    let epochs: Vec<evidence::Epoch> =
        seen.outcomes(metric).into_iter().filter(evidence::Epoch::compares).collect();
    let (ratio_low, ratio_high) = ratio_interval(&epochs, rules.alpha);
    Failures {
        metric,
        canary: counts::sum(epochs.iter().map(|epoch| epoch.canary)),
        stable: counts::sum(epochs.iter().map(|epoch| epoch.stable)),
        ratio: ratio(&epochs),
        ratio_low,
        ratio_high,
        ln_ratio: harm.ln_ratio,
        ln_margin: harm.ln_margin,
        last: harm.last,
        ln_harm: harm.ln,
        ln_safe,
        safe,
    }
}

/// How many times as often the canary's fail: the estimate of Mantel and
/// Haenszel (1959), which is not fooled by a rate that changes along with the
/// split. `None` while stable has no failure.
fn ratio(epochs: &[evidence::Epoch]) -> Option<f64> {
    let (mut canary, mut stable) = (0.0, 0.0);
    for epoch in epochs {
        let Outcomes { connections: n_c, bad: x_c } = epoch.canary;
        let Outcomes { connections: n_s, bad: x_s } = epoch.stable;
        let all = (n_c + n_s).max(1) as f64;
        canary += x_c as f64 * n_s as f64 / all;
        stable += x_s as f64 * n_c as f64 / all;
    }
    (stable > 0.0).then(|| canary / stable)
}

/// `ln` of the mean of both, each with its part.
fn mix(compared: f64, alone: f64) -> f64 {
    let [a, b] = [(1.0 - FOR_THE_LAST).ln() + compared, FOR_THE_LAST.ln() + alone];
    a.max(b) + f64::ln_1p((-(a - b).abs()).exp())
}
