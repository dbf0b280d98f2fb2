//! Every situation × every command and event. What is expected stands in
//! `docs/rollouts.md`, for operators as well.

use super::{
    invariants,
    situations::{SITUATIONS, situation},
    *,
};
use crate::config::rollout::{OnFail, OnTimeout};

const DOCS: &str = include_str!("../../../../docs/rollouts.md");

const COMMANDS: [(&str, Command); 9] = [
    ("start", Command::Start),
    ("pause", Command::Pause),
    ("resume", Command::Resume),
    ("promote", Command::Promote { full: false }),
    ("--full", Command::Promote { full: true }),
    ("abort", Command::Abort),
    ("retry", Command::Retry),
    ("undo", Command::Undo),
    ("weight", Command::SetWeight),
];

/// What is seen at a tick.
const SIGHTS: [&str; 12] = [
    "all is well",
    "harm",
    "mismatch",
    "no traffic",
    "gate: no",
    "gate: no, hold",
    "no backend",
    "dead man",
    "budget",
    "too long, hold",
    "too long, rollback",
    "too long, promote",
];

const HAPPENINGS: [&str; 10] = [
    "hook agrees",
    "hook fails",
    "late answer",
    "late tick",
    "restart",
    "late restart",
    "changed restart",
    "reload",
    "reload, behind",
    "reload, neither",
];

/// What a reload's file calls the version that serves.
fn called(reload: &str) -> Serving {
    match reload {
        "reload" => Serving::Stable,
        "reload, behind" => Serving::Canary,
        _ => Serving::Neither,
    }
}

fn happening(name: &str, life: &mut Life) -> Event {
    let tick = Event::Tick { elapsed: TICK };
    let reason = || "because".to_owned();
    let waited = life.state.waiting.as_ref().map(|waiting| waiting.ticket);
    let too_long = |life: &mut Life, what| {
        life.rollout.on_timeout = what;
        life.seen.verdict = Verdict::NotYet { reason: reason() };
        for step in &mut life.rollout.steps {
            step.at_most = Some(TICK);
        }
    };
    match name {
        "all is well" => life.seen = fine(),
        "harm" => life.seen.verdict = Verdict::Harm { reason: reason() },
        "mismatch" => life.seen.verdict = Verdict::Mismatch { reason: reason() },
        "no traffic" => life.seen.verdict = Verdict::NoTraffic,
        "gate: no" => {
            life.seen.gates = Gates::Failing { reason: reason(), on_fail: OnFail::Rollback };
        }
        "gate: no, hold" => {
            life.seen.gates = Gates::Failing { reason: reason(), on_fail: OnFail::Hold };
        }
        "no backend" => life.seen.canary_usable = false,
        "dead man" => life.seen.guard = Guard::DeadMan,
        "budget" => life.seen.guard = Guard::BudgetSpent,
        "too long, hold" => too_long(life, OnTimeout::Hold),
        "too long, rollback" => too_long(life, OnTimeout::Rollback),
        "too long, promote" => too_long(life, OnTimeout::Promote),
        "hook agrees" => return Event::Hook { ticket: waited.unwrap_or(99), result: Ok(()) },
        "hook fails" => {
            return Event::Hook { ticket: waited.unwrap_or(99), result: Err(reason()) };
        }
        "late answer" => return Event::Hook { ticket: 0, result: Ok(()) },
        "late tick" => {
            return Event::Tick { elapsed: life.rollout.max_away + TICK };
        }
        "restart" => return restored(TICK),
        "late restart" => return restored(life.rollout.max_away + TICK),
        "changed restart" => {
            life.fingerprint.tracks += 1;
            return restored(TICK);
        }
        "reload" | "reload, behind" | "reload, neither" => {
            life.fingerprint.tracks += 1;
            return Event::Reconfigured { serving: called(name) };
        }
        _ => panic!("{name}"),
    }
    tick
}

/// What comes of it, in a word: `no` for a refusal, `=` where phase and step
/// stay, else the new phase, with a `+` in the next step.
fn outcome(before: &State, result: &Result<(), Refusal>, life: &Life) -> String {
    let after = &life.state;
    if result.is_err() {
        assert_eq!(before, after, "a refusal changes nothing");
        return "no".to_owned();
    }
    let phase = after.phase();
    if before.phase() == phase && before.step == after.step {
        return "=".to_owned();
    }
    let next = if after.step > before.step { "+" } else { "" };
    format!("{phase}{next}")
}

fn table(columns: &[&str], event: impl Fn(&str, &mut Life) -> Event) -> String {
    let mut text =
        format!("| | {} |\n|---|{}\n", columns.join(" | "), "---|".repeat(columns.len()));
    for row in SITUATIONS {
        text += &format!("| {row} |");
        for column in columns {
            let mut life = situation(row);
            let event = event(column, &mut life);
            let before = life.state.clone();
            let result = life.try_event(&event);
            if let Err(refusal) = &result {
                invariants::refusal(refusal, &before);
            } else {
                invariants::step(&before, &life, &event);
            }
            text += &format!(" {} |", outcome(&before, &result, &life));
        }
        text += "\n";
    }
    text
}

fn check(actual: &str) {
    assert!(DOCS.contains(actual), "docs/rollouts.md should have this table:\n\n{actual}");
}

#[test]
fn every_command_in_every_situation() {
    let names = COMMANDS.map(|(name, _)| name);
    check(&table(&names, |name, _| {
        let (_, command) = COMMANDS.iter().find(|(other, _)| *other == name).unwrap();
        Event::Command(*command, "alice".to_owned())
    }));
}

#[test]
fn every_sight_in_every_situation() {
    check(&table(&SIGHTS, happening));
}

#[test]
fn every_other_event_in_every_situation() {
    check(&table(&HAPPENINGS, happening));
}
