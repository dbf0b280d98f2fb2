//! How a service brings in new versions: `rollout`, a word or a table.

use std::{
    ops::{Range, RangeInclusive},
    time::Duration,
};

use canary_common::Split;
use toml::de::{DeTable, DeValue};

use super::{
    field::{Field, field, time_or},
    keys::{self, check_unknown},
    mistakes::Problems,
    read_outside::{Names, read_gates, read_hooks},
    read_steps::{Steps, check_deadline, read_steps, rolling},
    rollout::{Evidence, HOUR, MINUTE, OnRollback, OnTimeout, Rollout, Strategy, Until},
    service::{DraftTrack, NAME_HELP, is_name},
};

/// The first is what messages take for an example.
const STRATEGIES: [(&str, Strategy); 5] = {
    let [a, b, c, d] = Strategy::NAMES;
    [("auto", Strategy::Canary), a, b, c, d]
};
const ON_TIMEOUT: [(&str, OnTimeout); 3] =
    [("hold", OnTimeout::Hold), ("rollback", OnTimeout::Rollback), ("promote", OnTimeout::Promote)];
const ON_ROLLBACK: [(&str, OnRollback); 2] =
    [("drain", OnRollback::Drain), ("reset", OnRollback::Reset)];

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = HOUR.saturating_mul(24);
pub(super) const STEP_TIMES: RangeInclusive<Duration> = Duration::ZERO..=DAY.saturating_mul(30);
pub(super) const DEADLINES: RangeInclusive<Duration> = MINUTE..=DAY.saturating_mul(90);
const KEEP_OLD: RangeInclusive<Duration> = Duration::ZERO..=DAY.saturating_mul(30);
/// The daemon gives a sign of life four times a second.
const DEAD_MAN: RangeInclusive<Duration> = SECOND.saturating_mul(2)..=HOUR;
const MAX_AWAY: RangeInclusive<Duration> = SECOND..=DAY;

/// What `ab` keeps where nothing is said.
const HALF: f64 = 0.5;

/// A rollout, with the places that later checks point at.
#[derive(Debug)]
pub(super) struct DraftRollout {
    pub(super) at: Range<usize>,
    pub(super) rollout: Rollout,
    /// Where `until = "safe"` is written.
    pub(super) safe: Vec<Range<usize>>,
}

impl DraftRollout {
    /// The strategies' own steps ask for safety only where it can be found.
    pub(super) fn finish(mut self, evidence: &Evidence) -> Rollout {
        if !evidence.can_find_safe() {
            for step in &mut self.rollout.steps {
                if step.until == Until::Safe {
                    step.until = Until::Time;
                }
            }
        }
        self.rollout
    }
}

/// The key `rollout` of a service whose stable backends are known.
pub(super) fn read_rollout(
    service: &DeTable<'_>,
    stable: &DraftTrack,
    problems: &mut Problems<'_>,
) -> Option<DraftRollout> {
    let field = field(service, "rollout")?;
    let stable: Vec<u32> = stable.backends.iter().map(|backend| backend.get_ref().weight).collect();
    let mut safe = Vec::new();
    let rollout = match field.value {
        DeValue::String(_) => {
            let strategy = field.choice(problems, &STRATEGIES)?;
            let mut rollout = Rollout::preset(strategy, stable.len(), HALF);
            if strategy == Strategy::Rolling {
                rollout.steps = rolling(&stable, MINUTE, &field.at, problems);
                check_deadline(&rollout, &field.at, problems);
            }
            rollout
        }
        DeValue::Table(table) => read_table(table, &field.at, &stable, &mut safe, problems),
        _ => {
            let help = "write rollout = \"auto\", or a table [service.NAME.rollout]";
            field.wrong_type(problems, "a strategy or a table", help.to_owned());
            return None;
        }
    };
    Some(DraftRollout { at: field.at, rollout, safe })
}

fn read_table(
    table: &DeTable<'_>,
    at: &Range<usize>,
    stable: &[u32],
    safe: &mut Vec<Range<usize>>,
    problems: &mut Problems<'_>,
) -> Rollout {
    check_unknown(table, &keys::ROLLOUT, problems);
    let strategy = field(table, "strategy")
        .map_or(Some(Strategy::Canary), |field| field.choice(problems, &STRATEGIES));
    // What is a mistake with one strategy may be none with the one that is meant.
    if let Some(strategy) = strategy {
        check_strategy_keys(table, strategy, problems);
    }
    let strategy = strategy.unwrap_or_default();
    let split = field(table, "split").and_then(|field| read_kept_split(&field, problems));
    let mut rollout = Rollout::preset(strategy, stable.len(), split.unwrap_or(HALF));
    let mut whole = true;
    if strategy == Strategy::Rolling {
        let lasts = time_or(MINUTE, table, "for", STEP_TIMES, problems);
        let at = field(table, "strategy").map_or_else(|| at.clone(), |field| field.at);
        rollout.steps = rolling(stable, lasts, &at, problems);
    } else if let Some(field) = field(table, "steps") {
        let Steps { steps, safe: written, incomplete } = read_steps(&field, problems);
        (rollout.steps, *safe, whole) = (steps, written, !incomplete);
    }
    read_times(table, &mut rollout, problems);
    if whole {
        let written = field(table, "deadline").or_else(|| field(table, "steps"));
        check_deadline(&rollout, &written.map_or_else(|| at.clone(), |field| field.at), problems);
    }
    if let Some(field) = field(table, "on_timeout") {
        rollout.on_timeout = field.choice(problems, &ON_TIMEOUT).unwrap_or_default();
    }
    if let Some(field) = field(table, "on_rollback") {
        rollout.on_rollback = field.choice(problems, &ON_ROLLBACK).unwrap_or_default();
    }
    rollout.salt = field(table, "salt").and_then(|field| read_salt(&field, problems));
    let mut names = Names::new();
    rollout.gates = read_gates(table, &mut names, problems);
    rollout.hooks = read_hooks(table, &mut names, problems);
    rollout
}

/// Keys that mean nothing to a strategy.
fn check_strategy_keys(table: &DeTable<'_>, strategy: Strategy, problems: &mut Problems<'_>) {
    let mut refuse = |key: &str, message: &str, help: &str| {
        if let Some(field) = field(table, key) {
            problems.add(field.at, message, help);
        }
    };
    if strategy == Strategy::Rolling {
        refuse(
            "steps",
            "`steps` stands beside strategy = \"rolling\"",
            "its steps follow from the backends of `stable`: write `for`, the time of each, or \
             another strategy",
        );
    } else {
        refuse(
            "for",
            "`for` stands beside a strategy that is not \"rolling\"",
            "write it in each of the `steps`: { split = \"5%\", for = \"5m\" }",
        );
    }
    if strategy != Strategy::Ab {
        refuse(
            "split",
            "`split` stands beside a strategy that is not \"ab\"",
            "write strategy = \"ab\", or `steps`",
        );
    } else if field(table, "steps").is_some() {
        refuse("split", "`split` stands beside `steps`", "remove one of them");
    }
}

/// The split that `ab` keeps: both versions have something of it.
fn read_kept_split(field: &Field<'_, '_>, problems: &mut Problems<'_>) -> Option<f64> {
    let split = read_split(field, problems)?;
    if split > 0.0 && split < 1.0 {
        return Some(split);
    }
    problems.add(
        field.at.clone(),
        "`split` leaves one of the two versions without connections",
        "write a share above 0% and below 100%, for example \"50%\"",
    );
    None
}

/// A share that the kernel's program can keep.
pub(super) fn read_split(field: &Field<'_, '_>, problems: &mut Problems<'_>) -> Option<f64> {
    let split = field.share(problems)?;
    if split > 0.0 && Split::from_fraction(split).is_none_or(|split| split == Split::NONE) {
        let message = "`split` is smaller than one part in 2^32 and would come to nothing";
        problems.add(field.at.clone(), message, "write 0%, or 0.0000001% or more");
        return None;
    }
    Some(split)
}

fn read_times(table: &DeTable<'_>, rollout: &mut Rollout, problems: &mut Problems<'_>) {
    if let Some(field) = field(table, "deadline") {
        if matches!(field.value, DeValue::String(text) if text == "off") {
            rollout.deadline = None;
        } else if let Some(deadline) = field.duration(problems, DEADLINES) {
            rollout.deadline = Some(deadline);
        }
    }
    let places = [
        ("keep_old", KEEP_OLD, &mut rollout.keep_old),
        ("dead_man", DEAD_MAN, &mut rollout.dead_man),
        ("max_away", MAX_AWAY, &mut rollout.max_away),
    ];
    for (key, range, place) in places {
        *place = time_or(*place, table, key, range, problems);
    }
}

fn read_salt(field: &Field<'_, '_>, problems: &mut Problems<'_>) -> Option<String> {
    let salt = field.string(problems, "spring")?;
    if !is_name(salt) {
        problems.add(field.at.clone(), format!("\"{salt}\" cannot be a salt"), NAME_HELP);
        return None;
    }
    Some(salt.to_owned())
}
