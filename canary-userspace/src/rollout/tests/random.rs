//! Random events in random configurations: what holds after every event, and
//! that all roads lead somewhere.

use super::{invariants, *};
use crate::config::rollout::{OnFail, OnRollback, OnTimeout, Step, Strategy, Until};
use crate::random::Random;

impl Random {
    fn upto(&mut self, most: usize) -> usize {
        self.below(most as u64) as usize
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.upto(choices.len())].clone()
    }

    fn in_ten(&mut self, times: usize) -> bool {
        self.upto(10) < times
    }
}

const SERVING: [Serving; 3] = [Serving::Stable, Serving::Canary, Serving::Neither];

fn seconds(count: usize) -> Duration {
    Duration::from_secs(count as u64)
}

fn some_rollout(random: &mut Random) -> Rollout {
    let strategy = random.of(&Strategy::NAMES).1;
    let mut rollout = Rollout::preset(strategy, 3, 0.2);
    if random.in_ten(5) {
        let count = 1 + random.upto(4);
        let step = |number: usize| Step {
            split: (number as f64 - if count > 2 { 1.0 } else { 0.0 }) / count as f64,
            lasts: seconds(number),
            until: Until::Time,
            at_most: None,
            drained: 0,
        };
        rollout.steps = (1..=count).map(step).collect();
    }
    for step in &mut rollout.steps {
        step.lasts = seconds(random.upto(4));
        step.until = random.of(&[Until::Time, Until::Time, Until::Safe, Until::Pause]);
        step.at_most = random.in_ten(3).then(|| step.lasts + seconds(random.upto(5)));
    }
    let all = Transition::NAMES.map(|(_, transition)| transition);
    let told: Vec<_> = all.into_iter().filter(|_| random.in_ten(3)).collect();
    Rollout {
        deadline: random.in_ten(3).then(|| seconds(5 + random.upto(20))),
        on_timeout: random.of(&[OnTimeout::Hold, OnTimeout::Rollback, OnTimeout::Promote]),
        on_rollback: random.of(&[OnRollback::Drain, OnRollback::Reset]),
        keep_old: seconds(random.upto(5)),
        max_away: seconds(3),
        hooks: hooks(&told),
        ..rollout
    }
}

fn some_sight(random: &mut Random) -> Seen {
    let reason = || "because".to_owned();
    let fine = Verdict::Safe;
    let not_yet = Verdict::NotYet { reason: reason() };
    let verdict = match random.upto(60) {
        0 => Verdict::Harm { reason: reason() },
        1..=3 => Verdict::Mismatch { reason: reason() },
        4..=9 => Verdict::NoTraffic,
        10..=30 => not_yet,
        _ => fine,
    };
    let gates = match random.upto(60) {
        0 => Gates::Failing { reason: reason(), on_fail: OnFail::Rollback },
        1..=3 => Gates::Failing { reason: reason(), on_fail: OnFail::Hold },
        4..=6 => Gates::Missing { reason: reason() },
        7..=9 => Gates::NotAsked,
        _ => Gates::Pass,
    };
    let guard = match random.upto(30) {
        0 => Guard::BudgetSpent,
        1 => Guard::DeadMan,
        2 => Guard::Off,
        _ => Guard::Armed,
    };
    let some = [0, 0, 3];
    Seen {
        verdict,
        gates,
        guard,
        canary_usable: !random.in_ten(1),
        stable_usable: !random.in_ten(1),
        canary_active: random.of(&some),
        stable_active: random.of(&some),
        drained_active: random.of(&some),
    }
}

fn some_event(random: &mut Random, life: &mut Life) -> Event {
    let commands = [
        Command::Start,
        Command::Start,
        Command::Pause,
        Command::Resume,
        Command::Resume,
        Command::Promote { full: false },
        Command::Promote { full: true },
        Command::Abort,
        Command::Retry,
        Command::Undo,
        Command::SetWeight,
    ];
    match random.upto(40) {
        0..=5 => Event::Command(random.of(&commands), "alice".to_owned()),
        6..=11 => {
            let result = if random.in_ten(2) { Err("no".to_owned()) } else { Ok(()) };
            let ticket = life.state.tickets.saturating_sub(random.upto(3) as u64);
            Event::Hook { ticket, result }
        }
        12 => {
            let other = random.upto(6) as u64;
            life.fingerprint.steps += u64::from(other == 0);
            life.fingerprint.tracks += u64::from(other == 1);
            Event::Restored { away: seconds(random.upto(5)), serving: random.of(&SERVING) }
        }
        13 => Event::Reconfigured { serving: random.of(&SERVING) },
        14 => Event::Tick { elapsed: seconds(4) },
        _ => Event::Tick { elapsed: random.of(&[TICK, Duration::from_secs(1)]) },
    }
}

/// Which stages and ends were reached, so that nobody mistakes silence for
/// soundness.
fn lives(seeds: std::ops::Range<u64>, events: usize) -> std::collections::BTreeSet<String> {
    let mut reached = std::collections::BTreeSet::new();
    for seed in seeds {
        let mut random = Random(seed);
        let mut life = Life::of(some_rollout(&mut random));
        for _ in 0..events {
            life.seen = some_sight(&mut random);
            let fingerprint = life.fingerprint;
            let mut event = some_event(&mut random, &mut life);
            if let Event::Reconfigured { .. } = event {
                life.fingerprint.tracks += random.upto(2) as u64;
                life.fingerprint.steps += random.upto(2) as u64;
            }
            let before = life.state.clone();
            if let Err(refusal) = life.try_event(&event) {
                invariants::refusal(&refusal, &before);
                life.fingerprint = fingerprint;
                continue;
            }
            invariants::step(&before, &life, &event);
            reached.insert(format!("{:?} {}", life.state.stage, life.state.phase()));
            if let Some(ended) = &life.state.ended {
                reached.insert(format!("{:?}", ended.how));
            }
            // With what was seen just now, doing it once more changes nothing.
            if matches!(event, Event::Restored { .. }) {
                event = restored(TICK);
                let state = life.state.clone();
                life.event(&event);
                invariants::step(&state, &life, &event);
                let again = (life.state.stage, life.state.step, life.state.split);
                assert_eq!(again, (state.stage, state.step, state.split));
            }
        }
    }
    reached
}

#[test]
fn random_events() {
    let reached = lives(0..1000, 150);
    for name in ["RolledBack", "Aborted", "Completed", "Undone"] {
        assert!(reached.contains(name), "{name} never happened: {reached:?}");
    }
    for stage in Stage::ALL {
        let found = reached.iter().any(|name| name.starts_with(&format!("{stage:?} ")));
        assert!(found, "{stage:?} never happened: {reached:?}");
    }
}

/// Left alone with a canary that is well, a person who promotes where one is
/// waited for and resumes what is held, and hooks that agree, a rollout
/// completes from wherever it is.
#[test]
fn nothing_is_stuck() {
    for seed in 0..1000 {
        let mut random = Random(seed);
        let mut life = Life::of(some_rollout(&mut random));
        life.rollout.deadline = None;
        life.say(Command::Start);
        for _ in 0..random.upto(60) {
            life.seen = some_sight(&mut random);
            let event = some_event(&mut random, &mut life);
            life.try_event(&event).ok();
        }
        life.seen = fine();
        if !life.state.stage.is_under_way() {
            continue;
        }
        for _ in 0..200 {
            if !life.state.stage.is_under_way() {
                break;
            }
            let hook = life.state.waiting.clone();
            match (life.state.held_by(), hook) {
                (_, Some(hook)) if hook.failed.is_some() => life.say(Command::Retry),
                (_, Some(hook)) => {
                    life.event(&Event::Hook { ticket: hook.ticket, result: Ok(()) });
                }
                (Some(Why::Person), None) => life.say(Command::Promote { full: false }),
                // More time does not help a step that a person ends.
                (Some(Why::Timeout), None) if life.state.stage == Stage::Baking => {
                    life.say(Command::Promote { full: false });
                }
                (Some(why), None) if !why.ends_by_itself() => life.say(Command::Resume),
                _ if life.state.paused.is_some() => life.say(Command::Resume),
                _ => life.event(&Event::Tick { elapsed: Duration::from_secs(1) }),
            }
        }
        let stage = life.state.stage;
        assert!(matches!(stage, Stage::Draining | Stage::RollingBack), "{seed}: {:?}", life.state);
        assert!(stage != Stage::RollingBack || life.rollout.on_timeout == OnTimeout::Rollback);
    }
}
