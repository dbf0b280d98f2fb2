//! What it would take.

use super::{Judgement, Metric, Seen, Verdict, failures, judge};
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
    first(MOST, |failed| {
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
    let current = *seen.current()?;
    if !current.compares() || Metric::failures(rules).next().is_none() {
        return None;
    }
    let mut then = seen.clone();
    let mut safe_after = |more: u64| {
        let canary = (more as f64 * current.share).round() as u64;
        let epoch = &current;
        if let Some(last) = then.epochs.last_mut() {
            last.canary = ahead(seen, |e| &e.canary, &epoch.canary, canary);
            last.stable = ahead(seen, |e| &e.stable, &epoch.stable, more - canary);
        }
        Metric::failures(rules).all(|(metric, tolerance)| {
            let harm = failures::judge_harm(&then, metric, tolerance, rules);
            failures::judge_safe(&then, metric, tolerance, rules, harm.ln).1
        })
    };
    if safe_after(0) { Some(0) } else { first(MOST, safe_after) }
}

/// A track after so many more connections at the rates of all epochs.
fn ahead(
    seen: &Seen,
    track: fn(&super::EpochCounts) -> &super::TrackCounts,
    now: &super::TrackCounts,
    more: u64,
) -> super::TrackCounts {
    let mut then = *now;
    then.connections += more;
    for metric in Metric::FAILURES {
        let all = super::counts::sum(seen.epochs.iter().map(|e| track(e).outcomes(metric)));
        if let Some(count) = then.failures_mut(metric)
            && all.connections > 0
        {
            let rate = all.bad as f64 / all.connections as f64;
            *count += (rate * more as f64).round() as u64;
        }
    }
    then
}

/// The least number from 1 to `most` for which `enough` holds, which it does
/// for all above it: by doubling, then by halving what is between.
fn first(most: u64, mut enough: impl FnMut(u64) -> bool) -> Option<u64> {
    let mut high = 1;
    while !enough(high) {
        if high >= most {
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
