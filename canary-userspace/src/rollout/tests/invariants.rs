//! What holds after every event, whatever it was.

use super::*;

/// A refusal names the phase and what could be done.
pub(super) fn refusal(refusal: &Refusal, state: &State) {
    let text = refusal.to_string();
    assert!(text.contains(&format!("the phase is {}", state.phase())), "{text}");
    assert!(text.contains('`'), "{text}");
}

/// Of the event that made `life.state` out of `before`.
pub(super) fn step(before: &State, life: &Life, event: &Event) {
    let after = &life.state;
    let context = || format!("{event:?}\n{before:?}\n{after:?}\n{:?}", life.actions);
    splits(before, life, event, &context);
    records(before, life, &context);

    // All that is new comes with a question's answer, not before.
    if let Some(waiting) = &after.waiting {
        assert!(waiting.ticket <= after.tickets, "{}", context());
        assert!(after.stage.is_under_way(), "{}", context());
    }
    if !after.stage.is_under_way() {
        let rest = (&after.paused, &after.hold, after.split, after.drained);
        assert_eq!(rest, (&None, &None, 0.0, 0), "{}", context());
    }
    assert!(after.phase() == Phase::Idle || !after.reason.is_empty(), "{}", context());

    // What was decided against the canary is not taken back by itself.
    let command = matches!(event, Event::Command(..));
    if !command && matches!(before.stage, Stage::Idle | Stage::RollingBack) {
        assert!(matches!(after.stage, Stage::Idle | Stage::RollingBack), "{}", context());
    }

    let json = serde_json::to_string(after).unwrap();
    assert_eq!(serde_json::from_str::<State>(&json).unwrap(), *after);
}

fn splits(before: &State, life: &Life, event: &Event, context: &dyn Fn() -> String) {
    let (after, steps) = (&life.state, &life.rollout.steps);
    let restored = matches!(event, Event::Restored { .. });
    let entered = life.actions.iter().any(|action| {
        matches!(action, Action::Record(entry) if entry.transition == Some(Transition::Step))
    });
    let mut split = before.split;
    for action in &life.actions {
        let new = match action {
            Action::SetSplit(new) => *new,
            Action::SwapTracks | Action::SwapBack => 0.0,
            _ => continue,
        };
        if new > split {
            // Only a step is a reason to give the canary more.
            assert!(entered && life.seen.canary_usable, "{}", context());
            assert_eq!(new, steps[after.step].split, "{}", context());
            assert!(after.paused.is_none() && after.waiting.is_none(), "{}", context());
        }
        assert!(!restored || new <= split, "a restart gives the canary no more: {}", context());
        split = new;
    }
    assert_eq!(split, after.split, "{}", context());
    if after.stage == Stage::RollingBack && before.stage != Stage::RollingBack {
        out(life, event, context);
    }
    // Only the last step, or a person, completes.
    if life.actions.contains(&Action::SwapTracks) && !before.promoted {
        let person = matches!(event, Event::Command(Command::Promote { .. }, _));
        let passed = before.stage == Stage::BeforePromotion
            || (before.stage == Stage::Baking && before.step + 1 == steps.len());
        assert!(person || passed, "{}", context());
        assert!(life.seen.canary_usable, "{}", context());
        assert!(!matches!(life.seen.verdict, Verdict::Harm { .. }), "{}", context());
    }
}

/// The canary gets nothing from the first write on that has to do with it.
fn out(life: &Life, event: &Event, context: &dyn Fn() -> String) {
    let is_out = |action: &&Action| matches!(action, Action::SetSplit(0.0) | Action::SwapBack);
    let is_split = |action: &&Action| {
        matches!(action, Action::SetSplit(_) | Action::SwapTracks) || is_out(action)
    };
    assert!(life.actions.iter().find(is_split).as_ref().is_some_and(is_out), "{}", context());
    assert!(life.state.ended.is_some(), "{}", context());
    let abort = matches!(event, Event::Command(..));
    if abort || matches!(life.seen.verdict, Verdict::Harm { .. }) {
        // Nothing comes before but that stable has its backends.
        let first = life.actions.iter().find(|action| **action != Action::Drain(0));
        assert!(first.as_ref().is_some_and(is_out), "{}", context());
    }
    let drained = life.actions.iter().position(|action| *action == Action::Drain(0));
    let split = life.actions.iter().position(|action| is_out(&action));
    assert!(drained.is_none_or(|_| drained < split), "{}", context());
}

fn records(before: &State, life: &Life, context: &dyn Fn() -> String) {
    let after = &life.state;
    let mut phase = before.phase();
    for action in &life.actions {
        let Action::Record(entry) = action else { continue };
        assert_eq!(entry.from, phase, "a gap in the history: {}", context());
        assert!(!entry.reason.is_empty(), "{}", context());
        let json = serde_json::to_string(entry).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&json).unwrap(), *entry);
        phase = entry.to;
    }
    assert_eq!(phase, after.phase(), "a gap in the history: {}", context());
}
