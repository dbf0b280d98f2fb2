//! Every place where a rollout can be, reached as it is reached in life.

use super::*;
use crate::config::rollout::{Step, Until};

const MINUTE: Duration = Duration::from_secs(60);

const BEFORE: [Transition; 3] =
    [Transition::BeforeStart, Transition::BeforeStep, Transition::BeforePromotion];

/// The rows of the tables in `docs/rollouts.md`, in their order.
pub(super) const SITUATIONS: [&str; 23] = [
    "idle",
    "idle, taken back",
    "idle, promoted",
    "shifting, before the start",
    "shifting, before a step",
    "shifting, emptying",
    "shifting, at 0 %",
    "baking",
    "paused",
    "paused, before a step",
    "paused, until a person",
    "promoting",
    "degraded, hook failed",
    "degraded, promotion's hook failed",
    "degraded, canary unusable",
    "degraded, mismatch",
    "degraded, budget",
    "degraded, time over",
    "degraded, away",
    "degraded, changed",
    "rolling-back",
    "draining",
    "complete",
];

/// 10 %, 30 %, 60 %; the second asks for safety.
fn steps() -> Vec<Step> {
    let step = |split, until| Step { split, lasts: MINUTE, until, at_most: None, drained: 0 };
    vec![step(0.1, Until::Time), step(0.3, Until::Safe), step(0.6, Until::Time)]
}

fn plan() -> Rollout {
    Rollout { steps: steps(), ..Rollout::auto() }
}

/// In the second step, one tick before its time is over.
fn baking(rollout: Rollout) -> Life {
    let mut life = Life::of(rollout);
    life.say(Command::Start);
    life.live(MINUTE);
    life.is(Phase::Baking, 1, 0.3);
    life.live(MINUTE - TICK);
    life.is(Phase::Baking, 1, 0.3);
    life
}

/// With hooks before everything, the first step in force.
fn hooked() -> Life {
    let mut life = Life::of(Rollout { hooks: hooks(&BEFORE), ..plan() });
    life.say(Command::Start);
    life.answer(Ok(()));
    life.answer(Ok(()));
    life.is(Phase::Baking, 0, 0.1);
    life
}

fn promoting() -> Life {
    let mut life = hooked();
    life.say(Command::Promote { full: true });
    life
}

fn completed() -> Life {
    let mut life = baking(plan());
    life.say(Command::Promote { full: true });
    life.seen.stable_active = 3;
    life
}

pub(super) fn situation(name: &str) -> Life {
    let mut life = match name {
        "idle" => Life::of(plan()),
        "shifting, before the start" => Life::of(Rollout { hooks: hooks(&BEFORE), ..plan() }),
        "shifting, before a step" | "paused, before a step" | "degraded, hook failed" => hooked(),
        "shifting, emptying" => {
            let mut rollout = plan();
            rollout.steps[1].drained = 1;
            let mut life = Life::of(rollout);
            life.seen.drained_active = 3;
            life
        }
        "shifting, at 0 %" => {
            let mut rollout = plan();
            rollout.steps[0].split = 0.0;
            Life::of(rollout)
        }
        "paused, until a person" => {
            let mut rollout = plan();
            rollout.steps[1].until = Until::Pause;
            baking(rollout)
        }
        "promoting" | "degraded, promotion's hook failed" => promoting(),
        "idle, promoted" | "draining" | "complete" => completed(),
        _ => baking(plan()),
    };
    settle(name, &mut life);
    life
}

/// The last move to a situation.
fn settle(name: &str, life: &mut Life) {
    match name {
        "shifting, before the start" => life.say(Command::Start),
        "shifting, before a step" => life.say(Command::Promote { full: false }),
        "shifting, emptying" => {
            life.say(Command::Start);
            life.say(Command::Promote { full: false });
        }
        "shifting, at 0 %" => {
            life.say(Command::Start);
            life.live(MINUTE - TICK);
        }
        "paused" => life.say(Command::Pause),
        "paused, before a step" => {
            life.say(Command::Promote { full: false });
            life.say(Command::Pause);
            life.answer(Ok(()));
        }
        "paused, until a person" => life.tick(),
        "degraded, hook failed" => {
            life.say(Command::Promote { full: false });
            life.answer(Err("no room"));
        }
        "degraded, promotion's hook failed" => life.answer(Err("no room")),
        "degraded, canary unusable" => {
            life.seen.canary_usable = false;
            life.tick();
        }
        "degraded, mismatch" => {
            life.seen.verdict = Verdict::Mismatch { reason: "shared otherwise".to_owned() };
            life.tick();
        }
        "degraded, budget" => {
            life.seen.guard = Guard::BudgetSpent;
            life.live(TICK * (MAX_REARMED + 1));
        }
        "degraded, time over" => {
            let lasts = life.rollout.steps[1].lasts;
            life.rollout.steps[1].at_most = Some(lasts);
            life.seen.verdict = Verdict::NotYet { reason: "38,000 more".to_owned() };
            life.tick();
        }
        "degraded, away" => life.event(&restored(2 * MINUTE)),
        "degraded, changed" => {
            life.fingerprint.steps += 1;
            life.event(&restored(TICK));
        }
        "rolling-back" => {
            life.seen.canary_active = 3;
            life.say(Command::Abort);
        }
        "idle, taken back" => {
            life.say(Command::Abort);
            life.tick();
        }
        "idle, promoted" | "complete" => {
            life.seen.stable_active = 0;
            life.tick();
            if name != "complete" {
                life.rollout.keep_old = Duration::ZERO;
                life.tick();
            }
        }
        _ => {}
    }
    // The word before the comma is the phase.
    let phase = name.split(',').next().unwrap_or_default();
    assert_eq!(life.state.phase().name(), phase, "{name}: {}", life.state.reason);
}
