//! Guards that trip, times that are over, daemons that die.

use super::{
    situations::{SITUATIONS, situation},
    *,
};
use crate::config::rollout::{OnFail, OnTimeout};

const MINUTE: Duration = Duration::from_secs(60);

fn arms(life: &Life) -> bool {
    life.done() == [Action::NewEpoch, Action::ArmGuard]
}

#[test]
fn a_budget_that_was_bad_luck_is_refilled_three_times() {
    let mut life = situation("baking");
    let baked = life.state.in_step;
    life.seen.guard = Guard::BudgetSpent;
    for _ in 0..MAX_REARMED {
        life.tick();
        assert!(arms(&life), "{:?}", life.actions);
    }
    assert_eq!(life.state.in_step, baked);
    life.tick();
    life.is(Phase::Degraded, 1, 0.3);
    assert_eq!(life.done(), []);
    // New maps, perhaps: nothing else says that it had tripped.
    life.event(&restored(TICK));
    let all = [Action::HoldGuard, Action::Salt(1), Action::Drain(0), Action::SetSplit(0.3)];
    assert_eq!(life.done(), all);
    life.say(Command::Resume);
    assert!(arms(&life), "{:?}", life.actions);
    life.tick();
    assert!(arms(&life), "{:?}", life.actions);
    // Each step has its own.
    life.seen.guard = Guard::Armed;
    life.live(MINUTE);
    life.is(Phase::Baking, 2, 0.6);
    assert_eq!(life.state.rearmed, 0);
}

#[test]
fn a_budget_that_was_harm_is_named() {
    let mut life = situation("baking");
    life.seen.guard = Guard::BudgetSpent;
    life.seen.verdict = Verdict::Harm { reason: "9 of 300".to_owned() };
    life.tick();
    assert_eq!(life.state.phase(), Phase::RollingBack);
    let ended = life.state.ended.clone().unwrap();
    assert_eq!(ended.reason, "the kernel's error budget was spent, and: 9 of 300");
}

#[test]
fn a_dead_man_of_a_short_absence_is_no_hold() {
    let mut life = situation("baking");
    life.event(&restored(Duration::from_secs(30)));
    // It may not be armed again before it is known what it did.
    assert_eq!(life.done(), [Action::Salt(1), Action::Drain(0), Action::SetSplit(0.3)]);
    life.seen.guard = Guard::DeadMan;
    life.tick();
    assert!(arms(&life), "{:?}", life.actions);
    life.is(Phase::Baking, 1, 0.3);
}

#[test]
fn a_long_absence_holds_until_resume() {
    let mut life = situation("baking");
    life.event(&restored(2 * MINUTE));
    assert_eq!(life.done()[0], Action::HoldGuard);
    life.seen.guard = Guard::DeadMan;
    life.live(5 * MINUTE);
    life.is(Phase::Degraded, 1, 0.3);
    assert_eq!(life.done(), []);
    life.say(Command::Resume);
    assert!(arms(&life), "{:?}", life.actions);
    life.is(Phase::Baking, 1, 0.3);
}

#[test]
fn a_guard_that_is_off_is_armed() {
    let mut life = situation("paused");
    life.seen.guard = Guard::Off;
    life.tick();
    assert_eq!(life.done(), [Action::ArmGuard]);
    let mut life = situation("shifting, at 0 %");
    life.seen.guard = Guard::Off;
    life.seen.gates = Gates::NotAsked;
    life.tick();
    assert_eq!(life.done(), []);
}

/// Whatever was lived through, a restart in between changes nothing of it but
/// what is said again: the same events lead to the same end.
#[test]
fn a_restart_anywhere_goes_on_as_if_nothing_was() {
    for name in SITUATIONS {
        let mut plain = situation(name);
        plain.seen = Seen { stable_active: 1, ..fine() };
        let mut died = situation(name);
        died.seen = plain.seen.clone();
        // As the state file has it.
        died.state = serde_json::from_str(&serde_json::to_string(&died.state).unwrap()).unwrap();
        died.event(&restored(TICK));
        let said = |action: &Action| match action {
            Action::SetSplit(split) => *split == died.state.split,
            Action::Drain(count) => *count == died.state.drained,
            Action::SwapTracks => died.state.promoted,
            Action::SwapBack => !died.state.promoted,
            _ => true,
        };
        assert!(died.actions.iter().all(said), "{name}: {:?}", died.actions);
        if died.state.stage.is_under_way() {
            let again = Action::SetSplit(died.state.split);
            assert!(died.actions.contains(&again), "{name}: {:?}", died.actions);
        }
        for minute in 0..20 {
            for life in [&mut plain, &mut died] {
                if life.state.waiting.as_ref().is_some_and(|hook| hook.failed.is_none()) {
                    life.answer(Ok(()));
                }
                life.event(&Event::Tick { elapsed: MINUTE });
            }
            let place = |life: &Life| {
                let State { stage, step, split, .. } = life.state;
                (stage, step, split, life.state.phase(), life.state.in_step)
            };
            assert_eq!(place(&plain), place(&died), "{name}, minute {minute}");
        }
    }
}

#[test]
fn a_hook_that_was_out_is_run_again_after_a_restart() {
    let mut life = situation("promoting");
    let ticket = life.state.tickets;
    life.event(&restored(TICK));
    let again = Action::RunHook { transition: Transition::BeforePromotion, ticket: ticket + 1 };
    assert!(life.actions.contains(&again), "{:?}", life.actions);
    life.event(&Event::Hook { ticket, result: Ok(()) });
    assert_eq!(life.state.phase(), Phase::Promoting);
    life.answer(Ok(()));
    assert_eq!(life.state.phase(), Phase::Draining);
}

/// Died after the state was stored, and before anything was done about it.
#[test]
fn what_was_decided_is_done_after_a_restart() {
    let mut life = situation("baking");
    life.rollout.on_rollback = crate::config::rollout::OnRollback::Reset;
    life.say(Command::Abort);
    life.event(&restored(5 * MINUTE));
    for action in [Action::SetSplit(0.0), Action::DisarmGuard, Action::ResetCanary] {
        assert!(life.actions.contains(&action), "{action:?} in {:?}", life.actions);
    }
    let mut life = situation("baking");
    life.say(Command::Promote { full: true });
    life.event(&restored(5 * MINUTE));
    assert_eq!(life.actions[0], Action::SwapTracks);
    let mut life = situation("idle, promoted");
    life.event(&restored(5 * MINUTE));
    assert!(life.actions.contains(&Action::SwapTracks), "{:?}", life.actions);
    assert!(life.actions.contains(&Action::ForgetOld), "{:?}", life.actions);
}

#[test]
fn another_configuration_begins_anew_when_a_person_says_so() {
    let mut life = situation("baking");
    let id = life.state.id;
    life.fingerprint.steps += 1;
    life.rollout.steps.truncate(1);
    life.event(&restored(TICK));
    life.is(Phase::Degraded, 0, 0.0);
    assert_eq!(life.done()[..2], [Action::Drain(0), Action::SetSplit(0.0)]);
    life.live(10 * MINUTE);
    life.is(Phase::Degraded, 0, 0.0);
    life.say(Command::Resume);
    life.is(Phase::Baking, 0, 0.1);
    assert_eq!(life.state.id, id + 1);
}

/// A start can't be refused: what serves goes on serving where the file knows it.
#[test]
fn who_is_stable_after_a_restart_with_other_backends() {
    for (serving, promoted) in
        [(Serving::Stable, false), (Serving::Canary, true), (Serving::Neither, false)]
    {
        for name in ["draining", "complete", "idle, promoted"] {
            let mut life = situation(name);
            life.fingerprint.tracks += 1;
            let stage = life.state.stage;
            life.event(&Event::Restored { away: TICK, serving });
            assert_eq!(life.state.promoted, promoted, "{name}, {serving:?}");
            let kept = if promoted { stage } else { Stage::Idle };
            assert_eq!(life.state.stage, kept, "{name}, {serving:?}");
            assert_eq!(life.actions.contains(&Action::SwapTracks), promoted);
            assert_eq!(life.state.fingerprint, life.fingerprint);
        }
    }
}

/// A configuration that is the same is no change, whatever the phase.
#[test]
fn a_reload_of_the_same_is_never_refused() {
    for name in SITUATIONS {
        let mut life = situation(name);
        let before = life.state.clone();
        life.event(&Event::Reconfigured { serving: Serving::Neither });
        assert_eq!((life.state.stage, life.done()), (before.stage, vec![]), "{name}");
        let accepted = accepts_new_configuration(&before).is_ok();
        assert_eq!(accepted, !before.stage.is_under_way(), "{name}");
    }
}

/// In the second step of three, never called safe.
fn late(on_timeout: OnTimeout) -> Life {
    let mut life = situation("baking");
    life.rollout.on_timeout = on_timeout;
    life.rollout.deadline = Some(3 * MINUTE);
    life.seen.verdict = Verdict::NotYet { reason: "38,000 more".to_owned() };
    life.live(MINUTE);
    life.is(Phase::Baking, 1, 0.3);
    life.tick();
    life
}

#[test]
fn the_deadline_holds() {
    let mut life = late(OnTimeout::Hold);
    life.is(Phase::Degraded, 1, 0.3);
    assert_eq!(life.state.reason, "the deadline of 3m is over: 38,000 more");
    life.seen.verdict = Verdict::Safe;
    life.live(5 * MINUTE);
    life.is(Phase::Degraded, 1, 0.3);
    life.say(Command::Resume);
    life.tick();
    life.is(Phase::Baking, 2, 0.6);
    assert_eq!(life.state.overall, TICK);
}

#[test]
fn the_deadline_rolls_back() {
    let life = late(OnTimeout::Rollback);
    assert_eq!(life.state.phase(), Phase::RollingBack);
    assert_eq!(life.state.ended.as_ref().unwrap().how, How::RolledBack);
}

#[test]
fn the_deadline_promotes_but_hurries_nothing() {
    let mut life = late(OnTimeout::Promote);
    life.is(Phase::Baking, 2, 0.6);
    // Its own time is not cut short.
    life.seen.verdict = Verdict::NoTraffic;
    life.live(MINUTE - TICK);
    life.is(Phase::Baking, 2, 0.6);
    life.tick();
    assert!(life.state.promoted);
}

#[test]
fn no_time_that_is_over_passes_over_a_no() {
    let mut life = late(OnTimeout::Promote);
    life.seen.gates = Gates::Failing { reason: "latency".to_owned(), on_fail: OnFail::Hold };
    life.live(10 * MINUTE);
    life.is(Phase::Baking, 2, 0.6);
    assert_eq!(life.state.reason, "latency");
    // No answer is none.
    life.seen.gates = Gates::Missing { reason: "no data".to_owned() };
    life.tick();
    assert!(life.state.promoted);
}

#[test]
fn a_backend_that_never_empties_ends_as_timeouts_do() {
    for (on_timeout, phase) in [
        (OnTimeout::Hold, Phase::Degraded),
        (OnTimeout::Rollback, Phase::RollingBack),
        (OnTimeout::Promote, Phase::Baking),
    ] {
        let mut life = situation("shifting, emptying");
        life.rollout.steps[1].at_most = Some(MINUTE);
        life.rollout.on_timeout = on_timeout;
        life.live(MINUTE - TICK);
        assert_eq!(life.state.phase(), Phase::Shifting);
        life.tick();
        assert_eq!(life.state.phase(), phase);
        assert_eq!(life.state.drained, if phase == Phase::RollingBack { 0 } else { 1 });
    }
}
