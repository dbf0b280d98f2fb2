//! How others decide, on the same traffic: 20 connections of the canary's a
//! minute, at 5 %, for an hour.

use canary::evidence::{Epoch, Outcomes, harm};

use super::{ALPHA, binomial, each, median, percentage};

const MINUTES: u64 = 60;
const CANARY: u64 = 20;
const STABLE: u64 = 380;
const BASE: f64 = 0.005;

/// Rates of both in a minute.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    pub name: &'static str,
    pub rates: fn(u64) -> [f64; 2],
}

pub const TRAFFIC: [Traffic; 4] = [
    Traffic { name: "equal, 0.5 % bad", rates: |_| [BASE; 2] },
    Traffic {
        name: "10 minutes with both 20 % bad",
        rates: |minute| if (20..30).contains(&minute) { [0.2; 2] } else { [BASE; 2] },
    },
    Traffic { name: "canary 5 % bad", rates: |_| [0.05, BASE] },
    Traffic { name: "canary all bad", rates: |_| [1.0, BASE] },
];

/// What a rule sees after each minute: each minute's counts so far.
type Rule = fn(&[[Outcomes; 2]]) -> bool;

pub const RULES: [(&str, Rule); 2] = [("evidence", evidence), ("5 failed checks", failed_checks)];

fn evidence(minutes: &[[Outcomes; 2]]) -> bool {
    let sum = |track: usize| {
        minutes.iter().fold(Outcomes::default(), |sum, minute| Outcomes {
            connections: sum.connections + minute[track].connections,
            bad: sum.bad + minute[track].bad,
        })
    };
    let share = CANARY as f64 / (CANARY + STABLE) as f64;
    harm(&[Epoch { share, canary: sum(0), stable: sum(1) }], 1.0) >= -ALPHA.ln()
}

/// As Flagger does: a check fails where less than 99 % of a minute's
/// connections were good; five that failed, at any time, end the rollout.
fn failed_checks(minutes: &[[Outcomes; 2]]) -> bool {
    let failed = |m: &&[Outcomes; 2]| m[0].bad as f64 > 0.01 * m[0].connections as f64;
    minutes.iter().filter(failed).count() >= 5
}

/// As Kayenta does, but with a look each minute: a measure of the canary's in
/// each minute against one of a stable of the same size, one-sided Mann-Whitney
/// at 2 % by its normal approximation (Lehmann 1975), from five minutes on.
fn rank_test(canary: &[f64], stable: &[f64]) -> bool {
    const CRITICAL: f64 = 2.0537;
    let above = |c: &f64| stable.iter().filter(|s| c > s).count();
    let statistic = canary.iter().map(above).sum::<usize>() as f64;
    let each = canary.len() as f64;
    let deviation = (each * each * (2.0 * each + 1.0) / 12.0).sqrt();
    canary.len() >= 5 && (statistic - 0.5 - each * each / 2.0) / deviation >= CRITICAL
}

/// Percentage of rollouts that the rank test ends although both versions'
/// measures are from one distribution: at the end of the hour, and at any
/// minute up to then.
pub fn ended_by_ranks(rollouts: u32) -> [f64; 2] {
    let outcomes = each(rollouts, 12, |random| {
        let (mut canary, mut stable) = (Vec::new(), Vec::new());
        let ended = (1..=MINUTES).map(|_| {
            // Only ranks count: any distribution will do.
            canary.push(random.unit());
            stable.push(random.unit());
            rank_test(&canary, &stable)
        });
        let ended: Vec<bool> = ended.collect();
        [ended.last() == Some(&true), ended.contains(&true)]
    });
    [0, 1].map(|which| percentage(&outcomes.iter().map(|o| o[which]).collect::<Vec<_>>()))
}

/// Percentage of rollouts that are rolled back within the hour, and the minute
/// by which half of all were.
pub fn rolled_back(traffic: &Traffic, rule: Rule, rollouts: u32) -> (f64, Option<u64>) {
    let when = each(rollouts, 11, |random| {
        let mut minutes = Vec::new();
        (1..=MINUTES).find(|minute| {
            let [canary, stable] = (traffic.rates)(*minute);
            minutes.push([
                Outcomes { connections: CANARY, bad: binomial(random, CANARY, canary) },
                Outcomes { connections: STABLE, bad: binomial(random, STABLE, stable) },
            ]);
            rule(&minutes)
        })
    });
    let out: Vec<bool> = when.iter().map(Option::is_some).collect();
    (percentage(&out), median(when))
}
