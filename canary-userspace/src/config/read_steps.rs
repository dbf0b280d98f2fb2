//! The steps of a rollout, and whether they fit to each other.

use std::{ops::Range, time::Duration};

use toml::{Spanned, de::DeValue};

use super::{
    field::{Field, field, in_percent},
    keys::{self, check_unknown},
    mistakes::Problems,
    read_rollout::{DEADLINES, STEP_TIMES, read_split},
    rollout::{Rollout, Step, Until},
};

const MAX_STEPS: usize = 100;
const EXAMPLE: &str = "{ split = \"5%\", for = \"5m\" }";
const UNTIL: [(&str, Until); 3] =
    [("time", Until::Time), ("safe", Until::Safe), ("pause", Until::Pause)];

/// What could be read of a list of steps.
#[derive(Debug, Default)]
pub(super) struct Steps {
    pub(super) steps: Vec<Step>,
    /// Where `until = "safe"` is written.
    pub(super) safe: Vec<Range<usize>>,
    /// Some could not be read.
    pub(super) incomplete: bool,
}

pub(super) fn read_steps(list: &Field<'_, '_>, problems: &mut Problems<'_>) -> Steps {
    let mut steps = Steps::default();
    let Some(elements) = list.list(problems, EXAMPLE) else {
        steps.incomplete = true;
        return steps;
    };
    if elements.is_empty() {
        let help = format!("write at least one: steps = [{EXAMPLE}], or leave it out");
        problems.add(list.at.clone(), "`steps` is empty", help);
        steps.incomplete = true;
    }
    if let Some(first_over) = elements.get(MAX_STEPS) {
        let message =
            format!("{} steps are more than the {MAX_STEPS} there may be", elements.len());
        problems.add(first_over.span(), message, "remove those from here on");
    }
    let mut splits = Vec::new();
    for element in elements {
        let step = read_step(element, &mut steps.safe, &mut splits, problems);
        steps.incomplete |= step.is_none();
        steps.steps.extend(step);
    }
    check_rise(&splits, problems);
    steps
}

fn read_step(
    element: &Spanned<DeValue<'_>>,
    safe: &mut Vec<Range<usize>>,
    splits: &mut Vec<Spanned<f64>>,
    problems: &mut Problems<'_>,
) -> Option<Step> {
    let DeValue::Table(table) = element.get_ref() else {
        let whole = Field { key: "steps", value: element.get_ref(), at: element.span() };
        whole.wrong_type(problems, "a step", format!("write each as {EXAMPLE}"));
        return None;
    };
    check_unknown(table, &keys::STEP, problems);
    let split = match field(table, "split") {
        Some(field) => {
            let split = read_split(&field, problems);
            splits.extend(split.map(|split| Spanned::new(field.at, split)));
            split
        }
        None => {
            problems.add(element.span(), "a step without `split`", format!("write {EXAMPLE}"));
            None
        }
    };
    let until = match field(table, "until") {
        None => Some(Until::Time),
        Some(field) => {
            let until = field.choice(problems, &UNTIL);
            if let (Some(Until::Safe), Some(split)) = (until, split) {
                check_safe(split, &field.at, safe, problems);
            }
            until
        }
    };
    let lasts = match field(table, "for") {
        Some(field) => field.duration(problems, STEP_TIMES),
        None if until == Some(Until::Time) => {
            let help = "write for = \"5m\", or until = \"safe\" or \"pause\"";
            problems.add(element.span(), "a step without `for`, which would end at once", help);
            None
        }
        None => Some(*STEP_TIMES.start()),
    };
    let mut at_most = None;
    if let Some(field) = field(table, "at_most") {
        at_most = Some(field.duration(problems, DEADLINES)?);
        if at_most < lasts {
            let message = "`at_most` is shorter than `for`, so the step would always fail";
            problems.add(field.at, message, "write at_most no shorter than for");
        }
    }
    Some(Step { split: split?, lasts: lasts?, until: until?, at_most, drained: 0 })
}

/// Safe is a comparison, so both versions have to get connections.
fn check_safe(
    split: f64,
    at: &Range<usize>,
    safe: &mut Vec<Range<usize>>,
    problems: &mut Problems<'_>,
) {
    if split > 0.0 && split < 1.0 {
        safe.push(at.clone());
        return;
    }
    let (lacks, split) = if split > 0.0 { ("stable", "100%") } else { ("the canary", "0%") };
    problems.add(
        at.clone(),
        format!("at a split of {split} {lacks} has no new connections to compare with"),
        "write until = \"time\" and a `for`, or until = \"pause\"; safe can be had at splits \
         between 0% and 100%",
    );
}

fn check_rise(splits: &[Spanned<f64>], problems: &mut Problems<'_>) {
    for pair in splits.windows(2) {
        let [earlier, later] = pair else { continue };
        if *earlier.get_ref() >= 1.0 {
            let message = "a step after one of 100%, where nothing is left to give";
            problems.add(later.span(), message, "remove the steps from here on");
            return;
        }
        if later.get_ref() <= earlier.get_ref() {
            let before = in_percent(*earlier.get_ref());
            problems.add(
                later.span(),
                format!(
                    "`split` is {}, and {before} in the step before",
                    in_percent(*later.get_ref())
                ),
                format!("splits rise with every step: write more than {before}"),
            );
        }
    }
}

/// A step for each of stable's backends.
pub(super) fn rolling(
    stable: &[u32],
    lasts: Duration,
    at: &Range<usize>,
    problems: &mut Problems<'_>,
) -> Vec<Step> {
    let steps = Rollout::rolling(stable, lasts);
    if steps.len() > MAX_STEPS {
        problems.add(
            at.clone(),
            format!(
                "\"rolling\" makes a step of each of the {} backends of `stable`, more than the \
                 {MAX_STEPS} there may be",
                steps.len()
            ),
            "write another strategy, for example \"canary\"",
        );
    }
    steps
}

/// A rollout that cannot be done in time would end as `on_timeout` says, always.
pub(super) fn check_deadline(rollout: &Rollout, at: &Range<usize>, problems: &mut Problems<'_>) {
    let least = rollout.steps.iter().map(|step| step.lasts).sum();
    if let Some(deadline) = rollout.deadline.filter(|deadline| *deadline < least) {
        let least = humantime::format_duration(least);
        problems.add(
            at.clone(),
            format!(
                "the steps take {least} at the least, and `deadline` is {}",
                humantime::format_duration(deadline)
            ),
            format!("write a deadline of more than {least}, or deadline = \"off\""),
        );
    }
}
