//! What it would take.

use super::{EpochCounts, Judgement, Metric, Seen, TrackCounts, Verdict, counts, failures, judge};
use crate::config::{Evidence, rollout::Tolerance};

/// No service sees more connections than this in a rollout.
const MOST: u64 = 1 << 40;

/// How many of the canary's next connections must fail, all in the same way
/// and with nothing else happening, until [`judge`] says harm: at least 1. The
/// kernel takes the canary out by itself when so many have, between two looks.
/// `None` where no number would do: at a split of 0, or with nothing watched.
#[must_use]
pub fn budget(seen: &Seen, rules: &Evidence) -> Option<u64> {
    let now = judge(seen, rules);
    if matches!(now.verdict, Verdict::Harm { .. }) {
        return Some(1);
    }
    let of = |(metric, tolerance)| budget_of(seen, rules, &now, metric, tolerance);
    Metric::failures(rules).filter_map(of).min()
}

/// The same of one metric. The others' evidence stays: what this one must
/// contribute is what is missing.
fn budget_of(
    seen: &Seen,
    rules: &Evidence,
    now: &Judgement,
    metric: Metric,
    tolerance: &Tolerance,
) -> Option<u64> {
    let lns = now.failures.iter().map(|f| (f.metric, f.ln_harm));
    let lns: Vec<_> = lns.chain(now.times.iter().map(|t| (t.metric, t.ln_harm))).collect();
    let others: f64 = lns.iter().filter(|(m, _)| *m != metric).map(|(_, ln)| ln.exp()).sum();
    let missing = (lns.len() as f64 * now.ln_harm_bound.exp() - others).ln();
    let mut then = seen.clone();
    first(|failed| {
        if let (Some(epoch), Some(before)) = (then.epochs.last_mut(), seen.current()) {
            epoch.canary = before.canary;
            epoch.canary.connections += failed;
            if let Some(count) = epoch.canary.failures_mut(metric) {
                *count += failed;
            }
        }
        failures::judge_harm(&then, metric, tolerance, rules).ln >= missing
    })
}

/// How many more connections, the canary's and stable's, it takes at the current
/// split until the canary is safe, if both go on failing as often as they did.
/// 0 where it is; `None` where it never would be.
#[must_use]
pub fn needed(seen: &Seen, rules: &Evidence) -> Option<u64> {
    let rate = |metric, track: fn(&EpochCounts) -> &TrackCounts| {
        let all = counts::sum(seen.epochs.iter().map(|epoch| track(epoch).outcomes(metric)));
        all.bad as f64 / all.connections.max(1) as f64
    };
    needed_at(seen, rules, &|metric| [rate(metric, |e| &e.canary), rate(metric, |e| &e.stable)])
}

/// The same at other rates, the canary's and stable's.
pub(super) fn needed_at(
    seen: &Seen,
    rules: &Evidence,
    rates: &impl Fn(Metric) -> [f64; 2],
) -> Option<u64> {
    let current = seen.current().filter(|epoch| epoch.compares())?;
    Metric::failures(rules).next()?;
    let mut then = seen.clone();
    let mut safe_after = |more: u64| {
        if let Some(epoch) = then.epochs.last_mut() {
            *epoch = expected(current, more, rates);
        }
        Metric::failures(rules).all(|(metric, tolerance)| {
            let harm = failures::judge_harm(&then, metric, tolerance, rules);
            failures::judge_safe(&then, metric, tolerance, rules, harm.ln).1
        })
    };
    if safe_after(0) { Some(0) } else { first(safe_after) }
}

/// An epoch after so many more connections, shared as its split says and failing
/// at these rates, the canary's and stable's.
pub(super) fn expected(
    epoch: &EpochCounts,
    more: u64,
    rates: &impl Fn(Metric) -> [f64; 2],
) -> EpochCounts {
    let mut then = *epoch;
    let canary = (more as f64 * epoch.share).round() as u64;
    for (index, (track, more)) in
        [(&mut then.canary, canary), (&mut then.stable, more - canary)].into_iter().enumerate()
    {
        track.connections += more;
        for metric in Metric::FAILURES {
            if let Some(count) = track.failures_mut(metric) {
                *count += (rates(metric)[index] * more as f64).round() as u64;
            }
        }
    }
    then
}

/// The least number from 1 for which `enough` holds, which it does for all
/// above it: by doubling, then by halving what is between.
pub(super) fn first(mut enough: impl FnMut(u64) -> bool) -> Option<u64> {
    let mut high = 1;
    while !enough(high) {
        if high >= MOST {
            return None;
        }
        high *= 2;
    }
    let mut low = high / 2;
    while high - low > 1 {
        let middle = u64::midpoint(low, high);
        if enough(middle) { high = middle } else { low = middle }
    }
    Some(high)
}
