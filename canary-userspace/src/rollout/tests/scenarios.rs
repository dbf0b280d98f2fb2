//! Whole rollouts.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn auto_from_one_percent_to_the_end() {
    let mut life = Life::of(Rollout::auto());
    life.say(Command::Start);
    life.is(Phase::Baking, 0, 0.01);
    assert_eq!(
        life.done(),
        [Action::Salt, Action::SetSplit(0.0), Action::SetSplit(0.01), Action::ArmGuard]
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
    life.live(60 * MINUTE);
    life.is(Phase::Idle, 4, 0.0);
    assert_eq!(life.done(), []);
    assert!(life.state.promoted);
}

#[test]
fn abort_beats_the_hook_that_answers_later() {
    let rollout = Rollout { hooks: hooks(&[Transition::BeforeStart]), ..Rollout::auto() };
    let mut life = Life::of(rollout);
    life.say(Command::Start);
    life.is(Phase::Shifting, 0, 0.0);
    let refusal = life.refuses(Command::Promote { full: false });
    assert!(matches!(refusal, Refusal::HookOut { .. }), "{refusal}");
    let ticket = life.state.tickets;
    life.say(Command::Abort);
    life.is(Phase::RollingBack, 0, 0.0);
    life.event(&Event::Hook { ticket, result: Ok(()) });
    life.is(Phase::RollingBack, 0, 0.0);
    assert_eq!(life.done(), []);
    life.tick();
    life.is(Phase::Idle, 0, 0.0);
}

#[test]
fn a_failed_hook_holds_until_it_is_run_again() {
    let rollout = Rollout { hooks: hooks(&[Transition::BeforeStep]), ..Rollout::auto() };
    let mut life = Life::of(rollout);
    life.say(Command::Start);
    life.answer(Err("no room"));
    life.is(Phase::Degraded, 0, 0.0);
    let refusal = life.refuses(Command::Promote { full: false });
    assert!(matches!(refusal, Refusal::HookFailed { .. }), "{refusal}");
    life.say(Command::Retry);
    life.is(Phase::Shifting, 0, 0.0);
    life.answer(Ok(()));
    life.is(Phase::Baking, 0, 0.01);
}
