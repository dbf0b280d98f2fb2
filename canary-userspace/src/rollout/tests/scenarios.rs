//! Whole rollouts, of every strategy, and what can go wrong on the way.

use super::{
    situations::{SITUATIONS, situation},
    *,
};
use crate::config::rollout::{OnFail, OnRollback, Strategy};

const MINUTE: Duration = Duration::from_secs(60);
const PROMOTE: Command = Command::Promote { full: false };

fn preset(strategy: Strategy) -> Life {
    Life::of(Rollout::preset(strategy, 2, 0.2))
}

fn harm() -> Verdict {
    Verdict::Harm { reason: "5 of 434 against 8 of 8,266".to_owned() }
}

#[test]
fn auto_from_one_percent_to_the_end() {
    let mut life = preset(Strategy::Canary);
    life.say(Command::Start);
    life.is(Phase::Baking, 0, 0.01);
    assert_eq!(
        life.done(),
        [Action::SetSplit(0.0), Action::Salt(1), Action::SetSplit(0.01), Action::ArmGuard]
    );
    for (step, split, minutes) in
        [(0, 0.01, 5), (1, 0.05, 10), (2, 0.25, 5), (3, 0.5, 5), (4, 1.0, 10)]
    {
        life.is(Phase::Baking, step, split);
        life.live(minutes * MINUTE - TICK);
        life.is(Phase::Baking, step, split);
        life.tick();
    }
    life.is(Phase::Draining, 4, 0.0);
    assert_eq!(life.done(), [Action::SwapTracks, Action::DisarmGuard]);
    assert!(life.state.promoted);
    life.tick();
    life.is(Phase::Complete, 4, 0.0);
    life.live(60 * MINUTE - 2 * TICK);
    life.is(Phase::Complete, 4, 0.0);
    life.tick();
    life.is(Phase::Idle, 4, 0.0);
    assert_eq!(life.done(), [Action::ForgetOld]);
    assert_eq!(life.state.reason, "complete: the new version serves all new connections");
}

#[test]
fn the_history_of_a_rollout_reads_as_one() {
    let mut life = preset(Strategy::Canary);
    life.say(Command::Start);
    life.live(5 * MINUTE);
    life.seen.verdict = harm();
    life.seen.canary_active = 2;
    life.tick();
    assert_eq!(life.state.reason, "5 of 434 against 8 of 8,266; 2 connections of the canary left");
    life.seen.canary_active = 0;
    life.tick();
    let line = |entry: &Entry| {
        let Entry { from, to, step, split, reason, .. } = entry;
        format!("{from} to {to}, {step} {split}: {reason}")
    };
    assert_eq!(
        life.history.iter().map(line).collect::<Vec<_>>(),
        [
            "idle to shifting, 0 0: started by alice",
            "shifting to baking, 0 0.01: step 1 of 5: 1 % of new connections",
            "baking to baking, 1 0.05: 5m at 1 %, nothing speaks against the canary",
            "baking to rolling-back, 1 0: 5 of 434 against 8 of 8,266",
            "rolling-back to idle, 1 0: rolled back in step 2: 5 of 434 against 8 of 8,266; `retry` begins again",
        ]
    );
}

#[test]
fn blue_green_checks_at_nothing_and_then_gives_everything() {
    let mut life = preset(Strategy::BlueGreen);
    life.seen.gates = Gates::NotAsked;
    life.seen.verdict = Verdict::NoTraffic;
    life.say(Command::Start);
    life.is(Phase::Shifting, 0, 0.0);
    assert!(!life.actions.contains(&Action::ArmGuard));
    life.live(MINUTE);
    life.is(Phase::Shifting, 0, 0.0);
    assert_eq!(life.state.reason, "the gates have not answered yet");
    life.seen.gates = Gates::Pass;
    life.tick();
    life.is(Phase::Baking, 1, 1.0);
    life.seen.verdict = Verdict::Safe;
    life.live(10 * MINUTE);
    life.is(Phase::Draining, 1, 0.0);
    // The way back skips the steps.
    life.seen.canary_active = 5;
    life.say(Command::Undo);
    life.is(Phase::RollingBack, 1, 0.0);
    assert_eq!(life.done(), [Action::SwapBack]);
    assert!(!life.state.promoted);
    life.tick();
    life.is(Phase::RollingBack, 1, 0.0);
    life.seen.canary_active = 0;
    life.tick();
    life.is(Phase::Idle, 1, 0.0);
    life.say(Command::Retry);
    life.is(Phase::Shifting, 0, 0.0);
    assert_eq!(life.state.id, 2);
}

#[test]
fn a_check_that_fails_ends_blue_green_at_nothing() {
    let mut life = preset(Strategy::BlueGreen);
    life.say(Command::Start);
    let reason = "no answer on /ready".to_owned();
    life.seen.gates = Gates::Failing { reason, on_fail: OnFail::Rollback };
    life.tick();
    life.is(Phase::RollingBack, 0, 0.0);
    let gave = |action: &Action| matches!(action, Action::SetSplit(split) if *split > 0.0);
    assert!(!life.actions.iter().any(gave));
}

#[test]
fn rolling_empties_one_backend_after_the_other() {
    let mut life = preset(Strategy::Rolling);
    life.say(Command::Start);
    assert_eq!(life.done(), [Action::SetSplit(0.0), Action::Salt(1), Action::Drain(1)]);
    life.is(Phase::Shifting, 0, 0.0);
    life.seen.drained_active = 3;
    life.live(MINUTE);
    life.is(Phase::Shifting, 0, 0.0);
    assert_eq!(
        life.state.reason,
        "3 connections left on the backends that the step takes out of stable"
    );
    life.seen.drained_active = 0;
    life.tick();
    life.is(Phase::Baking, 0, 0.5);
    life.live(MINUTE);
    // The count of the last step's backends says nothing of this one's.
    life.is(Phase::Shifting, 1, 0.5);
    assert_eq!(life.done(), [Action::Drain(2)]);
    life.tick();
    life.is(Phase::Baking, 1, 1.0);
    // All of stable is drained: first it must be there again.
    life.seen.verdict = harm();
    life.tick();
    assert_eq!(life.done(), [Action::Drain(0), Action::SetSplit(0.0), Action::DisarmGuard]);
}

#[test]
fn rolling_gives_the_backends_back_at_the_end() {
    let mut life = preset(Strategy::Rolling);
    life.say(Command::Start);
    // A look each until the backend is known to be empty, and the minute after.
    life.live(2 * (MINUTE + TICK) - TICK);
    life.is(Phase::Baking, 1, 1.0);
    life.tick();
    life.is(Phase::Draining, 1, 0.0);
    assert_eq!(life.done(), [Action::SwapTracks, Action::Drain(0), Action::DisarmGuard]);
}

#[test]
fn ab_stays_until_a_person_ends_it() {
    let mut life = preset(Strategy::Ab);
    life.say(Command::Start);
    life.is(Phase::Baking, 0, 0.2);
    life.live(600 * MINUTE);
    life.is(Phase::Paused, 0, 0.2);
    assert_eq!(life.refuses(Command::Resume), Refusal::WaitsForPerson);
    assert_eq!(life.state.overall, Duration::from_millis(250));
    life.say(PROMOTE);
    assert_eq!(life.done(), [Action::SwapTracks, Action::DisarmGuard]);
    life.is(Phase::Draining, 0, 0.0);
}

#[test]
fn no_traffic_is_no_verdict_and_no_time() {
    let mut life = preset(Strategy::Canary);
    life.seen.verdict = Verdict::NoTraffic;
    life.say(Command::Start);
    life.live(60 * MINUTE);
    life.is(Phase::Baking, 0, 0.01);
    assert_eq!(life.state.reason, "the canary has had no connection at 1 % yet");
    // One connection is little, but it is for a person to say how little is too little.
    life.seen.verdict = Verdict::NotYet { reason: "1 connection".to_owned() };
    life.live(5 * MINUTE - TICK);
    life.is(Phase::Baking, 0, 0.01);
    life.tick();
    life.is(Phase::Baking, 1, 0.05);
    assert_eq!(life.state.overall, 65 * MINUTE);
}

#[test]
fn a_pause_is_no_time() {
    let mut life = preset(Strategy::Canary);
    life.say(Command::Start);
    life.live(4 * MINUTE);
    life.say(Command::Pause);
    life.live(3000 * MINUTE);
    life.is(Phase::Paused, 0, 0.01);
    life.say(Command::Resume);
    life.live(MINUTE - TICK);
    life.is(Phase::Baking, 0, 0.01);
    life.tick();
    life.is(Phase::Baking, 1, 0.05);
    assert_eq!(life.state.overall, 5 * MINUTE);
}

#[test]
fn time_without_a_backend_is_not_baked() {
    let mut life = preset(Strategy::Canary);
    life.say(Command::Start);
    life.live(4 * MINUTE);
    life.seen.canary_usable = false;
    life.live(10 * MINUTE);
    life.is(Phase::Degraded, 0, 0.01);
    life.seen.canary_usable = true;
    life.live(MINUTE - TICK);
    life.is(Phase::Baking, 0, 0.01);
    life.tick();
    life.is(Phase::Baking, 1, 0.05);
}

#[test]
fn a_canary_without_backends_gets_nothing() {
    let mut life = preset(Strategy::Canary);
    life.seen.canary_usable = false;
    assert_eq!(life.refuses(Command::Start), Refusal::Unusable { phase: Phase::Idle });
    // Its hook may bring it up, or not.
    life.rollout.hooks = hooks(&[Transition::BeforeStart]);
    life.say(Command::Start);
    life.answer(Ok(()));
    life.is(Phase::Degraded, 0, 0.0);
    let said = &life.history.last().unwrap().reason;
    assert_eq!(said, "the canary has no usable backend");
    life.live(MINUTE);
    life.is(Phase::Degraded, 0, 0.0);
    life.seen.canary_usable = true;
    life.tick();
    life.is(Phase::Baking, 0, 0.01);
}

#[test]
fn a_failed_hook_holds_until_it_is_run_again() {
    let mut life = preset(Strategy::Canary);
    life.rollout.hooks = hooks(&[Transition::BeforeStep]);
    life.say(Command::Start);
    life.answer(Err("no room"));
    life.is(Phase::Degraded, 0, 0.0);
    assert_eq!(life.state.reason, "the before-step hook failed: no room");
    let refusal = life.refuses(PROMOTE);
    assert!(matches!(refusal, Refusal::HookFailed { .. }), "{refusal}");
    life.say(Command::Retry);
    life.is(Phase::Shifting, 0, 0.0);
    life.answer(Ok(()));
    life.is(Phase::Baking, 0, 0.01);
}

#[test]
fn gates_are_heard_once_more_after_a_hook() {
    for transition in [Transition::BeforeStep, Transition::BeforePromotion] {
        let mut life = preset(Strategy::Canary);
        life.rollout.steps.truncate(if transition == Transition::BeforeStep { 2 } else { 1 });
        life.say(Command::Start);
        life.rollout.hooks = hooks(&[transition]);
        life.live(5 * MINUTE);
        life.seen.gates =
            Gates::Failing { reason: "latency is up".to_owned(), on_fail: OnFail::Hold };
        life.answer(Ok(()));
        life.live(MINUTE);
        assert_eq!((life.state.split, life.state.promoted), (0.01, false), "{transition:?}");
        assert_eq!(life.state.reason, "latency is up");
        // A person may know better.
        let mut insists = Life::of(life.rollout.clone());
        insists.state = life.state.clone();
        insists.seen = life.seen.clone();
        insists.say(PROMOTE);
        assert!(insists.state.promoted || insists.state.split == 0.05, "{:?}", insists.state);
        life.seen.gates = Gates::Pass;
        life.tick();
        assert!(life.state.promoted || life.state.split == 0.05, "{:?}", life.state);
    }
}

/// Who passes over a gate once does so once.
#[test]
fn a_promotion_by_hand_is_of_one_step() {
    let mut life = preset(Strategy::Canary);
    life.say(Command::Start);
    life.say(PROMOTE);
    life.rollout.hooks = hooks(&[Transition::BeforeStep]);
    life.live(10 * MINUTE);
    life.seen.gates = Gates::Missing { reason: "no data".to_owned() };
    life.answer(Ok(()));
    life.live(MINUTE);
    life.is(Phase::Shifting, 2, 0.05);
}

#[test]
fn a_refusal_says_what_fits_instead() {
    for (name, command, says) in [
        ("baking", Command::Undo, "`abort`"),
        ("complete", Command::Abort, "`undo`"),
        ("complete", PROMOTE, "`undo`"),
        ("idle", Command::Abort, "`start`"),
        ("baking", Command::SetWeight, "`abort`"),
        ("promoting", PROMOTE, "before-promotion hook"),
        ("degraded, hook failed", Command::Resume, "`retry`"),
        ("degraded, away", Command::Retry, "`resume`"),
        ("degraded, canary unusable", Command::Resume, "no usable backend"),
        ("idle, promoted", Command::Start, "`canary reload`"),
        ("paused, until a person", Command::Resume, "`promote`"),
    ] {
        let refusal = situation(name).refuses(command).to_string();
        assert!(refusal.contains(says), "{name}, {command:?}: {refusal}");
    }
}

#[test]
fn harm_is_not_promoted() {
    for name in SITUATIONS {
        for command in [PROMOTE, Command::Promote { full: true }, Command::Resume, Command::Retry] {
            let mut life = situation(name);
            if life.state.stage.is_under_way() && life.state.split > 0.0 {
                life.seen.verdict = harm();
                let refusal = life.refuses(command);
                assert!(matches!(refusal, Refusal::Objection { .. }), "{name}: {refusal}");
            }
        }
    }
}

#[test]
fn abort_beats_all_that_comes_after_it() {
    let later = |life: &Life| {
        let ticket = life.state.tickets;
        [
            Event::Hook { ticket, result: Ok(()) },
            Event::Hook { ticket, result: Err("no".to_owned()) },
            Event::Tick { elapsed: TICK },
            Event::Tick { elapsed: 2 * MINUTE },
            restored(TICK),
            restored(2 * MINUTE),
            Event::Command(Command::Promote { full: true }, "bob".to_owned()),
            Event::Command(Command::Resume, "bob".to_owned()),
            Event::Command(Command::Retry, "bob".to_owned()),
        ]
    };
    for name in SITUATIONS {
        let mut life = situation(name);
        if !life.state.stage.is_under_way() {
            continue;
        }
        life.seen = Seen { canary_active: 1, ..fine() };
        life.say(Command::Abort);
        for event in later(&life) {
            life.try_event(&event).ok();
            assert_eq!(life.state.phase(), Phase::RollingBack, "{name}, {event:?}");
            assert!(life.state.split == 0.0 && !life.state.promoted, "{name}, {event:?}");
        }
        life.seen.canary_active = 0;
        life.tick();
        life.is(Phase::Idle, life.state.step, 0.0);
        // Nor does the answer to the old question begin the next rollout.
        let ticket = life.state.tickets;
        life.rollout.hooks = hooks(&[Transition::BeforeStart]);
        life.say(Command::Start);
        life.event(&Event::Hook { ticket, result: Ok(()) });
        life.is(Phase::Shifting, 0, 0.0);
    }
}

#[test]
fn a_reset_is_asked_for_once_the_split_is_nothing() {
    let mut life = preset(Strategy::Canary);
    life.rollout.on_rollback = OnRollback::Reset;
    life.rollout.hooks = hooks(&[Transition::Rollback]);
    life.say(Command::Start);
    life.say(Command::Abort);
    assert_eq!(
        life.done(),
        [
            Action::SetSplit(0.0),
            Action::DisarmGuard,
            Action::ResetCanary,
            Action::RunHook { transition: Transition::Rollback, ticket: 1 },
        ]
    );
}

#[test]
fn nothing_of_the_last_rollout_counts_in_the_next() {
    let mut life = preset(Strategy::Canary);
    life.say(Command::Start);
    life.seen.verdict = harm();
    life.tick();
    life.tick();
    life.is(Phase::Idle, 0, 0.0);
    life.say(Command::Start);
    life.is(Phase::Baking, 0, 0.01);
}

/// Complete, the file rewritten, and the next version.
#[test]
fn one_rollout_after_the_other() {
    let mut life = situation("complete");
    let refusal = life.refuses(Command::Start);
    assert!(matches!(refusal, Refusal::Promoted { .. }), "{refusal}");
    life.fingerprint.tracks += 1;
    life.event(&Event::Reconfigured { serving: Serving::Stable });
    life.is(Phase::Idle, 1, 0.0);
    assert_eq!(life.done(), [Action::ForgetOld]);
    life.say(Command::Start);
    life.is(Phase::Baking, 0, 0.1);
    // Before it, other backends are just that.
    let mut life = situation("idle");
    life.fingerprint.tracks += 1;
    life.event(&Event::Reconfigured { serving: Serving::Neither });
    assert_eq!(life.actions, []);
    // Steps alone are no reason to forget who is stable.
    let mut life = situation("complete");
    life.fingerprint.steps += 1;
    life.event(&Event::Reconfigured { serving: Serving::Neither });
    assert!(life.state.promoted && life.state.fingerprint == life.fingerprint);
    life.is(Phase::Complete, 1, 0.0);
}

#[test]
fn the_old_version_is_kept_while_it_has_connections() {
    let mut life = situation("draining");
    life.live(100 * MINUTE);
    assert_eq!(life.state.phase(), Phase::Draining);
    life.seen.stable_usable = false;
    let refusal = life.refuses(Command::Undo);
    assert!(matches!(refusal, Refusal::OldUnusable { .. }), "{refusal}");
    life.seen.stable_usable = true;
    life.say(Command::Undo);
    assert_eq!(life.state.phase(), Phase::RollingBack);
}
