//! What a rollout would be like, before it is one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{EpochCounts, Metric, Seen, TrackCounts, Verdict, ahead, judge, percent, words::about};
use crate::config::{
    Evidence,
    rollout::{Rollout, Until},
};

/// How many more of the canary's connections fail than of stable's, in the
/// examples: fractions of 1.
const EXAMPLES: [f64; 3] = [0.001, 0.01, 0.1];

/// What is known today.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Today {
    /// New ones of the service, both versions.
    pub connections_per_second: f64,
    /// Stable's counters, which its rates are taken from.
    pub stable: TrackCounts,
}

/// Everything is computed from expected counts: each counter is what it is on
/// average. Medians of simulated rollouts are within a third of that, and most
/// below: chance is more often for a test than against it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutPlan {
    pub connections_per_second: f64,
    pub steps: Vec<StepPlan>,
    /// Of all steps together; `null` where one has no end that can be told.
    pub seconds: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepPlan {
    /// A fraction of 1.
    pub split: f64,
    /// `time`, `safe` or `pause`.
    pub until: String,
    /// Connections of both versions until a canary that is as good as stable
    /// is found safe, where the step waits for that; `null` where it never is,
    /// or where the step does not wait for it.
    pub connections: Option<u64>,
    /// How long the step takes with such a canary; `null` where it waits for
    /// what never comes.
    pub seconds: Option<f64>,
    pub found: Vec<Found>,
}

/// A canary that breaks when the step begins, and not before.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// How many more of its connections fail, a fraction of 1.
    pub excess: f64,
    /// Connections of both versions, in the step, until it is out; `null`: it
    /// never is, at this split.
    pub connections: Option<u64>,
    pub seconds: Option<f64>,
}

/// How long each step takes with a canary that is as good as stable, and how
/// soon one that fails more often is out. It fails in the way of which stable
/// has most already: that is the hardest to see.
#[must_use]
pub fn plan_rollout(today: &Today, rollout: &Rollout, rules: &Evidence) -> RolloutPlan {
    let mut seen = Seen { before: Some(today.stable), ..Seen::default() };
    let steps: Vec<StepPlan> = rollout
        .steps
        .iter()
        .map(|step| {
            seen.epochs.push(EpochCounts { share: step.split, ..EpochCounts::default() });
            let found = found(&seen, today, rules);
            let waits = step.until == Until::Safe;
            let connections =
                waits.then(|| ahead::needed_at(&seen, rules, &rates(today))).flatten();
            let least = step.lasts.as_secs_f64();
            let seconds = match connections {
                Some(connections) => seconds(today, connections).map(|time| time.max(least)),
                None => (!waits).then_some(least),
            };
            let of_step = seconds.unwrap_or(least) * today.connections_per_second;
            advance(&mut seen, today, of_step.max(connections.unwrap_or(0) as f64) as u64, None);
            let until = match step.until {
                Until::Time => "time",
                Until::Safe => "safe",
                Until::Pause => "pause",
            };
            StepPlan { split: step.split, until: until.to_owned(), connections, seconds, found }
        })
        .collect();
    let seconds = steps.iter().map(|step| step.seconds).sum();
    RolloutPlan { connections_per_second: today.connections_per_second, steps, seconds }
}

/// Stable's rate of each kind of failure, for both.
fn rates(today: &Today) -> impl Fn(Metric) -> [f64; 2] + use<> {
    let stable = today.stable;
    move |metric| {
        let outcomes = stable.outcomes(metric);
        [outcomes.bad as f64 / outcomes.connections.max(1) as f64; 2]
    }
}

fn seconds(today: &Today, connections: u64) -> Option<f64> {
    let rate = today.connections_per_second;
    (rate > 0.0).then(|| connections as f64 / rate)
}

/// Lets the current epoch have so many connections, with the canary's failures
/// of a kind above stable's.
fn advance(seen: &mut Seen, today: &Today, connections: u64, worse: Option<(Metric, f64)>) {
    let rates = rates(today);
    let with = |metric: Metric| {
        let [canary, stable] = rates(metric);
        let more = worse.filter(|(worse, _)| *worse == metric).map_or(0.0, |(_, excess)| excess);
        [(canary + more).min(1.0), stable]
    };
    if let Some(epoch) = seen.epochs.last_mut() {
        *epoch = ahead::expected(epoch, connections, &with);
    }
}

fn found(seen: &Seen, today: &Today, rules: &Evidence) -> Vec<Found> {
    let rate = rates(today);
    let watched = Metric::failures(rules).map(|(metric, _)| metric);
    let Some(metric) = watched.max_by(|a, b| rate(*a)[1].total_cmp(&rate(*b)[1])) else {
        return Vec::new();
    };
    let example = |excess| {
        let harm_after = |connections| {
            let mut then = seen.clone();
            advance(&mut then, today, connections, Some((metric, excess)));
            matches!(judge(&then, rules).verdict, Verdict::Harm { .. })
        };
        let connections = ahead::first(harm_after);
        let seconds = connections.and_then(|connections| seconds(today, connections));
        Found { excess, connections, seconds }
    };
    EXAMPLES.map(example).to_vec()
}

impl RolloutPlan {
    /// For people, a line each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "with {} new connections a second, as now; most rollouts take no longer than this:",
            super::words::significant(self.connections_per_second)
        )];
        for (number, step) in (1..).zip(&self.steps) {
            lines.push(format!("step {number}, {}: {}", percent(step.split), step.takes()));
            lines.extend(step.found.iter().map(|found| format!("  {}", found.line(step.seconds))));
        }
        let person = self.steps.iter().any(|step| step.until == "pause");
        lines.push(match self.seconds {
            Some(seconds) if person => {
                format!("in all: {}, and as long as a person takes", span(seconds))
            }
            Some(seconds) => format!("in all: {}", span(seconds)),
            None => "in all: no end in sight".to_owned(),
        });
        lines
    }
}

impl StepPlan {
    fn takes(&self) -> String {
        let time = self.seconds.map_or_else(|| "no end in sight".to_owned(), span);
        match (self.until.as_str(), self.connections) {
            ("safe", Some(0)) => format!("{time}, known to be safe by then"),
            ("safe", Some(connections)) => {
                format!("{time}, safe after about {} more connections", about(connections))
            }
            ("safe", None) => format!("{time}, it can't be found safe here"),
            ("pause", _) => format!("{time} at least, then until a person says so"),
            _ => time,
        }
    }
}

impl Found {
    fn line(&self, step: Option<f64>) -> String {
        let more = percent(self.excess);
        let Some(connections) = self.connections else {
            return format!("a canary that fails {more} more is not found here");
        };
        let time = self.seconds.map_or_else(String::new, |time| format!(", {}", span(time)));
        let late = match (self.seconds, step) {
            (Some(found), Some(step)) if found > step => ": the step is over before",
            _ => "",
        };
        let connections = about(connections);
        format!(
            "a canary that fails {more} more is out after about {connections} connections{time}{late}"
        )
    }
}

/// A time, no more exact than it is known.
fn span(seconds: f64) -> String {
    let whole = match seconds {
        s if s < 1.0 => return "under a second".to_owned(),
        s if s < 120.0 => s.round(),
        s if s < 7200.0 => (s / 60.0).round() * 60.0,
        s if s < 172_800.0 => (s / 600.0).round() * 600.0,
        s if s < 1e10 => (s / 3600.0).round() * 3600.0,
        _ => return "centuries".to_owned(),
    };
    humantime::format_duration(Duration::from_secs(whole as u64)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::rollout::Step;

    fn today(rate: f64) -> Today {
        let stable = TrackCounts { connections: 1_000_000, resets: 1000, ..Default::default() };
        Today { connections_per_second: rate, stable }
    }

    /// Medians of simulated rollouts are by `canary-simulate`.
    #[test]
    fn expected_counts_come_to_about_the_medians() {
        let mut rules = Evidence::default();
        for tolerance in [&mut rules.refused, &mut rules.handshake_timeouts, &mut rules.http_5xx] {
            tolerance.watched = false;
        }
        (rules.handshake.watched, rules.first_byte.watched) = (false, false);
        let step = |split| Step {
            split,
            lasts: Duration::from_secs(60),
            until: Until::Safe,
            at_most: None,
            drained: 0,
        };
        for (split, found, safe) in [
            (0.01, 37_000.0, None),
            (0.05, 8700.0, Some(217_000.0)),
            (0.25, 2300.0, Some(56_000.0)),
        ] {
            let rollout = Rollout { steps: vec![step(split)], ..Rollout::auto() };
            let plan = plan_rollout(&today(100.0), &rollout, &rules);
            let step = &plan.steps[0];
            let out = step.found[1].connections.expect("is found") as f64;
            assert!((0.8..1.4).contains(&(out / found)), "{split}: {out} of {found}");
            if let Some(safe) = safe {
                let needed = step.connections.expect("is safe") as f64;
                assert!((0.8..1.4).contains(&(needed / safe)), "{split}: {needed} of {safe}");
            }
        }
    }

    #[test]
    fn a_plan_in_words() {
        let plan = plan_rollout(&today(200.0), &Rollout::auto(), &Evidence::default());
        let lines = plan.lines();
        for (number, text) in [
            (1, "step 1, 1 %: 5m"),
            (4, "  a canary that fails 10 % more is out after about 2,500 connections, 12s"),
            (9, "step 3, 25 %: 5m, safe after about 40,000 more connections"),
            (13, "step 4, 50 %: 5m, known to be safe by then"),
            (18, "  a canary that fails 0.1 % more is not found here"),
            (21, "in all: 35m"),
        ] {
            assert_eq!(lines[number], text, "{lines:#?}");
        }
        assert!(lines[2].ends_with(": the step is over before"), "{lines:#?}");
    }

    #[test]
    fn without_traffic_there_is_no_end() {
        let plan = plan_rollout(&today(0.0), &Rollout::auto(), &Evidence::default());
        assert_eq!((plan.seconds, plan.steps[2].seconds), (None, None));
        assert_eq!(plan.lines().last().map(String::as_str), Some("in all: no end in sight"));
    }

    #[test]
    fn spans() {
        for (seconds, text) in [
            (0.2, "under a second"),
            (79.4, "1m 19s"),
            (3_130.0, "52m"),
            (20_000.0, "5h 30m"),
            (1e12, "centuries"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }
}
