//! Rollouts on real connections, in network namespaces: what a canary that
//! fails costs until it is out, and how many as good as stable are taken back.
//! docs/evidence.md has the tables. As root, after
//! `cargo build --release -p canary-userspace`:
//! `cargo run --release -p canary-tests --bin canary-rollouts`.
#![allow(clippy::print_stdout, reason = "its output is for people")]

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use canary_tests::rollouts::{
    equal::{self, FIVE, Plan},
    failing::{self, Fault, PER_SECOND},
};
use serde::Serialize;

const USAGE: &str = "\
usage: canary-rollouts [failing|equal] [--repeat N] [--rollouts N]
                       [--step SECONDS] [--failures-alone] [--json]

failing: canaries that reset 1, 5 or 100 % of their connections or refuse all,
at 5 and 50 %, N rollouts of each (5 by default), and as many with the daemon
stopped. equal: N rollouts (50 by default) of a canary that is equal to stable,
four steps of 5 seconds or as --step says; with --failures-alone its times do
not count, as those of failing ones never do. Both by default, 500 connections a
second in all. Exit code 1: an equal canary was taken back, or a failing one
was not.";

const SPLITS: [&str; 2] = ["5%", "50%"];

struct Arguments {
    failing: bool,
    equal: bool,
    repeat: u32,
    rollouts: u64,
    step: Duration,
    times: bool,
    json: bool,
}

fn arguments() -> Result<Arguments> {
    let mut read = Arguments {
        failing: true,
        equal: true,
        repeat: 5,
        rollouts: 50,
        step: Duration::from_secs(5),
        times: true,
        json: false,
    };
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().with_context(|| format!("{argument} what?\n{USAGE}"));
        match argument.as_str() {
            "failing" => read.equal = false,
            "equal" => read.failing = false,
            "--repeat" => read.repeat = value()?.parse().context("--repeat")?,
            "--rollouts" => read.rollouts = value()?.parse().context("--rollouts")?,
            "--step" => read.step = Duration::from_secs(value()?.parse().context("--step")?),
            "--failures-alone" => read.times = false,
            "--json" => read.json = true,
            _ => bail!("{USAGE}"),
        }
    }
    if !(read.failing || read.equal) || read.repeat == 0 || read.rollouts == 0 {
        bail!("{USAGE}");
    }
    Ok(read)
}

/// Rollouts of one kind.
#[derive(Debug, Serialize)]
struct Row {
    split: &'static str,
    fault: String,
    stopped: bool,
    runs: Vec<failing::Run>,
}

#[derive(Debug, Serialize)]
struct Output {
    per_second: u32,
    failing: Vec<Row>,
    equal: Vec<equal::Run>,
}

/// The median of what there is, and its range.
fn spread(values: impl Iterator<Item = f64>, digits: usize) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (values.first(), values.last()) else {
        return "-".to_owned();
    };
    let median = values[values.len() / 2];
    format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
}

fn measure(repeat: u32, json: bool) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for split in SPLITS {
        let mut stage = failing::stage("failing", split)?;
        for fault in Fault::ALL {
            failing::make(&mut stage, fault)?;
            for stopped in [false, true] {
                let runs = (0..repeat).map(|_| failing::run(&stage, stopped));
                let runs = runs.collect::<Result<Vec<_>>>();
                let runs = runs.with_context(|| format!("{} at {split}", fault.name()))?;
                rows.push(Row { split, fault: fault.name(), stopped, runs });
                if !json {
                    rows.iter().last().map(print_row);
                }
            }
        }
        stage.end()?;
    }
    Ok(rows)
}

fn print_head() {
    println!(
        "A canary that fails, {PER_SECOND} connections a second in all. From the first failure that a client saw:"
    );
    println!(
        "  {:<6}{:<14}{:>8}  {:>21} {:>17}  {:>21} {:>17}  {:>14}",
        "split", "", "first", "kernel, s", "connections", "split 0, s", "connections", "failed"
    );
}

fn print_row(row: &Row) {
    let runs = &row.runs;
    let start = format!("  {:<6}{:<14}", row.split, row.fault);
    if row.stopped {
        let alone = || runs.iter().filter_map(|run| run.stopped.as_ref());
        println!(
            "{start} daemon stopped: budget {}, failed {}, late {}; then {} connections, none failed; going on, split 0 in {} s",
            spread(alone().map(|s| s.budget as f64), 0),
            spread(alone().map(|s| s.failed as f64), 0),
            spread(alone().map(|s| s.late as f64), 0),
            alone().map(|s| s.quiet).sum::<u64>(),
            spread(alone().map(|s| s.daemon_seconds), 2),
        );
        return;
    }
    let by_kernel = || runs.iter().filter_map(|run| run.kernel.as_ref());
    println!(
        "{start}{:>8}  {:>21} {:>17}  {:>21} {:>17}  {:>14}",
        format!("{}/{}", by_kernel().count(), runs.len()),
        spread(by_kernel().map(|when| when.seconds), 3),
        spread(by_kernel().map(|when| when.connections as f64), 0),
        spread(runs.iter().map(|run| run.daemon.seconds), 3),
        spread(runs.iter().map(|run| run.daemon.connections as f64), 0),
        spread(runs.iter().map(|run| run.failed as f64), 0),
    );
}

fn walk(rollouts: u64, step: Duration, times: bool) -> Result<Vec<equal::Run>> {
    let services = FIVE.len() as u64;
    equal::walk(
        "equal",
        &Plan {
            fronts: &FIVE,
            rollouts: rollouts.div_ceil(services),
            per_second: PER_SECOND / FIVE.len() as u32,
            step,
            before: Duration::from_secs(5),
            times,
        },
    )
}

fn print_equal(runs: &[equal::Run]) {
    let completed = runs.iter().filter(|run| run.completed).count();
    let rolled_back = runs.len() - completed;
    let held = runs.iter().filter(|run| !run.trouble.is_empty()).count();
    let over = |bound: f64| runs.iter().filter(|run| run.harm >= bound).count();
    println!(
        "\nA canary equal to stable, {} rollouts on {} services, {PER_SECOND} connections a second in all: {completed} completed, {rolled_back} rolled back, {held} held or rolled back on the way",
        runs.len(),
        FIVE.len(),
    );
    println!("  seconds each                  {}", spread(runs.iter().map(|r| r.seconds), 1));
    println!(
        "  connections each              {}, {} in all, {} failed",
        spread(runs.iter().map(|r| r.connections as f64), 0),
        runs.iter().map(|r| r.connections).sum::<u64>(),
        runs.iter().map(|r| r.failed).sum::<u64>(),
    );
    println!(
        "  largest evidence of harm      {}; 10 or more in {}, harm is from 100 on",
        spread(runs.iter().map(|r| r.harm), 2),
        over(10.0),
    );
    println!(
        "  largest evidence of mismatch  {}; held from 1000 on",
        spread(runs.iter().map(|r| r.mismatch), 2)
    );
    if let Some(worst) = runs.iter().max_by(|a, b| a.harm.total_cmp(&b.harm)) {
        println!(
            "  the worst: {}'s rollout {}, by {} ({:.2} by itself)",
            worst.service, worst.number, worst.most, worst.most_harm
        );
    }
    for run in runs.iter().filter(|run| !run.completed || !run.trouble.is_empty()) {
        println!("  {}, rollout {}: {}", run.service, run.number, run.trouble.join("; "));
    }
}

fn main() -> Result<ExitCode> {
    let Arguments { failing, equal, repeat, rollouts, step, times, json } = arguments()?;
    let mut output = Output { per_second: PER_SECOND, failing: Vec::new(), equal: Vec::new() };
    if failing {
        if !json {
            print_head();
        }
        output.failing = measure(repeat, json)?;
    }
    if equal {
        output.equal = walk(rollouts, step, times)?;
        if !json {
            print_equal(&output.equal);
        }
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&output)?);
    }
    let all_completed = output.equal.iter().all(|run| run.completed);
    Ok(if all_completed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
