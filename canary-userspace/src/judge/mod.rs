//! From counters to a verdict, with the numbers that it follows from. Pure: no
//! time, no I/O; four times a second for each rollout.
//!
//! **Harm.** Each metric that is watched contributes one e-value. A failure's is
//! `0.9 C + 0.1 L`: `C` the lesser of the evidence against the tolerated ratio
//! and, where there is one, against the tolerated margin, since harm is to be
//! above both; `L` that of the time at 100 %, 1 until then. Their mean over all
//! metrics is an e-value again, so it ever reaches `1/α` with probability α at
//! most while the canary does no harm: over all metrics, looks and splits.
//!
//! **Safe** is asked of each kind of failure at level β; all must be, so nothing
//! is corrected. Evidence of harm above `1/β` forbids it.
//!
//! **Mismatch** is of the current split alone, at a level of its own.

mod ahead;
mod counts;
mod failures;
mod forecast;
mod judgement;
mod last;
mod metric;
mod record;
mod replay;
mod slow;
#[cfg(test)]
mod tests;
mod words;

pub use ahead::{budget, needed};
pub use counts::{EpochCounts, Seen, TrackCounts};
pub use forecast::{Found, RolloutPlan, StepPlan, Today, plan_rollout};
pub use judgement::{Connections, Failures, Judgement, Last, Quantiles, Times, Verdict};
pub use last::last;
pub use metric::Metric;
pub use record::{NoSuchBucket, Record, RecordedTimes, RecordedTrack};
pub use replay::{Look, Replay, ReplayError, replay};
pub use words::{about, grouped, percent, still_needed};

use crate::{
    config::Evidence,
    evidence::{mean_exp, mismatch},
};

/// The probability with which a split that is kept is said not to be, while it
/// lasts. A controller that holds for nothing is a nuisance, and a broken split
/// is soon beyond doubt.
pub const MISMATCH_LEVEL: f64 = 0.001;

/// What the counters say under these rules.
#[must_use]
pub fn judge(seen: &Seen, rules: &Evidence) -> Judgement {
    let failures: Vec<Failures> = Metric::failures(rules)
        .map(|(metric, tolerance)| failures::judge(seen, metric, tolerance, rules))
        .collect();
    let times: Vec<Times> = Metric::times(rules)
        .map(|(metric, slowness)| slow::judge(seen, metric, slowness))
        .collect();
    let all = || {
        let failures = failures.iter().map(|f| (f.metric, f.ln_harm));
        failures.chain(times.iter().map(|t| (t.metric, t.ln_harm)))
    };
    let ln_harm = mean_exp(all().map(|(_, ln)| ln));
    let ln_harm_bound = -rules.alpha.ln();
    let current = seen.under_split();
    let ln_mismatch = current.as_ref().and_then(|epoch| ln_mismatch(epoch, seen.sticky));
    let safe = !failures.is_empty() && failures.iter().all(|f| f.safe);
    let worst = all().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(metric, _)| metric);
    let verdict = match worst {
        Some(metric) if ln_harm >= ln_harm_bound => Verdict::Harm { metric },
        _ if ln_mismatch.is_some_and(|ln| ln >= -MISMATCH_LEVEL.ln()) => Verdict::Mismatch,
        _ if current.is_none_or(|epoch| epoch.canary.connections == 0) => Verdict::NoTraffic,
        _ if safe => Verdict::Safe,
        _ => {
            let least = failures.iter().min_by(|a, b| a.ln_safe.total_cmp(&b.ln_safe));
            Verdict::NotYet { metric: least.map(|f| f.metric) }
        }
    };
    Judgement {
        verdict,
        split: current.map_or(0.0, |epoch| epoch.share),
        connections: current.map_or_else(Connections::default, |epoch| Connections {
            canary: epoch.canary.connections,
            stable: epoch.stable.connections,
        }),
        ln_harm,
        ln_harm_bound,
        safe,
        ln_safe_bound: -rules.beta.ln(),
        ln_mismatch,
        failures,
        times,
    }
}

fn ln_mismatch(epoch: &EpochCounts, sticky: bool) -> Option<f64> {
    // Where they went after the draw is the guard's doing.
    let [canary, stable] = epoch.drawn();
    let told = epoch.compares() && !sticky;
    told.then(|| mismatch(canary, stable, epoch.share))
}
