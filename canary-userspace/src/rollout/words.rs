//! What a rollout says of itself. In one place, so that status, history and
//! hooks use the same words.

use std::time::Duration;

use super::{
    event::{Gates, Plan, Seen, Verdict},
    state::{How, Stage, State, Why},
};
use crate::config::rollout::{Transition, Until};

/// Why it is where it is.
pub(super) fn reason(state: &State, plan: &Plan<'_>, seen: &Seen) -> String {
    if let Some((transition, why)) = state.failed_hook() {
        return hook_failed(transition, why);
    }
    if let Some(hold) = &state.hold {
        return hold.reason.clone();
    }
    if let Some(by) = &state.paused {
        return paused(by);
    }
    if let Some(waiting) = &state.waiting {
        return waits_for(waiting.transition);
    }
    if let Gates::Failing { reason, .. } | Gates::Missing { reason } = &seen.gates
        && matches!(state.stage, Stage::BeforeStep | Stage::BeforePromotion)
    {
        return reason.clone();
    }
    let ended = state.ended.as_ref().map(|ended| ended.reason.clone()).unwrap_or_default();
    match state.stage {
        Stage::Idle if state.ended.as_ref().is_some_and(|ended| ended.how == How::RolledBack) => {
            format!("rolled back in step {}: {ended}; `retry` begins again", state.step + 1)
        }
        Stage::Idle => ended,
        Stage::BeforeStart | Stage::BeforeStep => "the next step is being entered".to_owned(),
        Stage::Emptying => format!(
            "{} left on the backends that the step takes out of stable",
            connections(seen.drained_active)
        ),
        Stage::Baking => {
            obstacle(state, plan, seen).unwrap_or_else(|| "the step is passed".to_owned())
        }
        Stage::BeforePromotion => "all steps are passed".to_owned(),
        Stage::RollingBack => {
            format!("{ended}; {} of the canary left", connections(seen.canary_active))
        }
        Stage::Draining => {
            format!("{ended}; {} of the old version left", connections(seen.stable_active))
        }
        Stage::Complete => {
            let left = plan.rollout.keep_old.saturating_sub(state.since_completion);
            format!("{ended}; the old version is kept for {}", time(left))
        }
    }
}

/// What keeps the step in force from ending by itself.
pub(super) fn obstacle(state: &State, plan: &Plan<'_>, seen: &Seen) -> Option<String> {
    let step = plan.step(state.step);
    let at = percent(state.split);
    if state.split > 0.0 && seen.verdict == Verdict::NoTraffic {
        return Some(format!("the canary has had no connection at {at} yet"));
    }
    if state.in_step < step.lasts {
        let (baked, lasts) = (time(state.in_step), time(step.lasts));
        return Some(format!("{baked} of {lasts} at {at}"));
    }
    match &seen.gates {
        Gates::Pass => {}
        Gates::NotAsked => return Some("the gates have not answered yet".to_owned()),
        Gates::Failing { reason, .. } | Gates::Missing { reason } => return Some(reason.clone()),
    }
    match (step.until, &seen.verdict) {
        (Until::Pause, _) => Some(person(state, plan)),
        (_, Verdict::Harm { reason } | Verdict::Mismatch { reason })
        | (Until::Safe, Verdict::NotYet { reason }) => Some(reason.clone()),
        // At a split of 0 there is nothing to be had of it.
        (Until::Safe, Verdict::NoTraffic) => {
            Some("the canary has no connections to be called safe by".to_owned())
        }
        (Until::Time | Until::Safe, _) => None,
    }
}

/// Why it stays although its time is over.
pub(super) fn timeout(
    state: &State,
    plan: &Plan<'_>,
    seen: &Seen,
    at_most: Option<Duration>,
    deadline: Option<Duration>,
) -> String {
    let still = reason(state, plan, seen);
    match (at_most, deadline) {
        (Some(most), _) => format!("this step may take {} at most: {still}", time(most)),
        (None, most) => {
            let most = time(most.unwrap_or_default());
            format!("the deadline of {most} is over: {still}")
        }
    }
}

pub(super) fn passed(state: &State) -> String {
    let (at, baked) = (percent(state.split), time(state.in_step));
    format!("{baked} at {at}, nothing speaks against the canary")
}

pub(super) fn entered(state: &State, plan: &Plan<'_>) -> String {
    let (step, steps) = (state.step + 1, plan.rollout.steps.len());
    format!("step {step} of {steps}: {} of new connections", percent(state.split))
}

pub(super) fn empties(drained: usize) -> String {
    let backends = if drained == 1 { "backend takes" } else { "backends take" };
    format!("{drained} of stable's {backends} no new connections")
}

pub(super) fn started_by(by: &str) -> String {
    format!("started by {by}")
}

pub(super) fn started() -> String {
    "the rollout begins".to_owned()
}

pub(super) fn completed() -> String {
    "complete: the new version serves all new connections".to_owned()
}

pub(super) fn paused(by: &str) -> String {
    format!("paused by {by}")
}

pub(super) fn resumed(by: &str) -> String {
    format!("resumed by {by}")
}

pub(super) fn promoted(full: bool, by: &str) -> String {
    let all = if full { ", all steps" } else { "" };
    format!("promoted by {by}{all}")
}

pub(super) fn aborted(by: &str) -> String {
    format!("aborted by {by}")
}

pub(super) fn undone(by: &str) -> String {
    format!("undone by {by}: the old version serves all new connections")
}

pub(super) fn retried(transition: Transition, by: &str) -> String {
    format!("the {} hook is run again by {by}", transition.name())
}

pub(super) fn taken_over(by: &str) -> String {
    format!("the split is set by hand by {by}")
}

pub(super) fn waits_for(transition: Transition) -> String {
    format!("waits for the {} hook", transition.name())
}

pub(super) fn asked_again(transition: Transition) -> String {
    format!("the {} hook is run again after the daemon's restart", transition.name())
}

pub(super) fn agreed(transition: Transition) -> String {
    format!("the {} hook agreed", transition.name())
}

pub(super) fn hook_failed(transition: Transition, why: &str) -> String {
    format!("the {} hook failed: {why}", transition.name())
}

pub(super) fn after(what: Option<String>, reason: String) -> String {
    match what {
        Some(what) => format!("{what}; {reason}"),
        None => reason,
    }
}

pub(super) fn unusable() -> String {
    "the canary has no usable backend".to_owned()
}

pub(super) fn person(state: &State, plan: &Plan<'_>) -> String {
    let (step, steps) = (state.step + 1, plan.rollout.steps.len());
    format!("step {step} of {steps} is one that a person ends: `promote` goes on")
}

pub(super) fn over(why: Why) -> String {
    match why {
        Why::Unusable => "the canary has a usable backend again",
        Why::Mismatch => "connections are shared as the split says again",
        Why::Person | Why::Away | Why::Guard | Why::Changed | Why::Timeout => "it may go on",
    }
    .to_owned()
}

pub(super) fn away(away: Duration, plan: &Plan<'_>) -> String {
    let (away, most) = (time(away), time(plan.rollout.max_away));
    format!("the daemon was away for {away}, more than {most}: `resume` goes on")
}

pub(super) fn changed() -> String {
    "the configuration changed while the daemon was away: `resume` begins at the first step"
        .to_owned()
}

pub(super) fn file_rules() -> String {
    "the configuration has other backends: its tracks are in force".to_owned()
}

pub(super) fn dead_man() -> String {
    "the kernel's dead-man switch gave new connections to stable; armed again".to_owned()
}

pub(super) fn budget(times: u32) -> String {
    format!(
        "the kernel's error budget was spent, but the evidence is none of harm; refilled \
         (time {times} in this step)"
    )
}

pub(super) fn budget_again() -> String {
    "the kernel's error budget was spent once more, but the evidence is none of harm: `resume` \
     refills it"
        .to_owned()
}

pub(super) fn budget_and_harm(reason: &str) -> String {
    format!("the kernel's error budget was spent, and: {reason}")
}

/// What to do where no hook failed.
pub(super) fn instead_of_retry(state: &State) -> &'static str {
    match (state.held_by(), &state.waiting, &state.paused) {
        (Some(Why::Unusable | Why::Mismatch), ..) => {
            "it goes on by itself when this is over, `abort` ends it"
        }
        (Some(Why::Person), ..) => "`promote` goes on",
        (Some(_), ..) | (None, None, Some(_)) => "`resume` goes on",
        (None, Some(_), _) => "one is waited for, `abort` does not wait",
        (None, None, None) => "the rollout goes on by itself, `promote` ends the step now",
    }
}

fn connections(count: u64) -> String {
    if count == 1 { "1 connection".to_owned() } else { format!("{count} connections") }
}

/// A share, with as many digits as it needs, six decimals at most.
fn percent(share: f64) -> String {
    format!("{} %", (share * 1e8).round() / 1e6)
}

/// In whole seconds.
fn time(time: Duration) -> String {
    humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
}
