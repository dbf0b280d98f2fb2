//! Under fire, the long versions: prints the tables of docs/reliability.md.
//! `cargo xtask fire`; or, as root, after
//! `cargo build --release -p canary-userspace`:
//! `cargo run --release -p canary-tests --bin canary-fire`.
#![allow(clippy::print_stdout, reason = "its output is for people")]

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use canary_tests::fire::{self, FloodPlan, Plan, Row, Silence, SoakPlan};
use serde::Serialize;

const USAGE: &str = "\
usage: canary-fire [restarts|floods|faults|soak]... [--short] [--minutes N]
                   [--seed N] [--json FILE]

restarts: 2,000 keep-alive connections through whatever is done to the daemon.
floods: 10 million SYNs, ACKs and datagrams of as many senders, against 100,000
established connections. faults: tables, ring and disk full, state read-only, no
bpffs, no BTF, little memory to lock, another clock, a daemon that stands, a
backend's host that falls silent, a link that loses packets. soak: N minutes (30
by default) of faults by chance; the seed names them. All of them by default;
--short as CI does them. Prints Markdown, and writes the same to FILE. Exit code
1: a connection was cut or moved.";

struct Arguments {
    parts: Vec<Part>,
    how: How,
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug)]
struct How {
    short: bool,
    minutes: u64,
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Part {
    Restarts,
    Floods,
    Faults,
    Soak,
}

impl Part {
    const ALL: [Self; 4] = [Self::Restarts, Self::Floods, Self::Faults, Self::Soak];

    fn rows(self, how: How) -> Result<Vec<Row>> {
        match (self, how.short) {
            (Self::Restarts, false) => fire::restarts(&Plan::LONG),
            (Self::Restarts, true) => fire::restarts(&Plan::SHORT),
            (Self::Floods, false) => fire::floods(&FloodPlan::LONG),
            (Self::Floods, true) => fire::floods(&FloodPlan::SHORT),
            (Self::Faults, _) => {
                let all = [fire::full, fire::disks, fire::surroundings, fire::suspended];
                let mut rows = all.into_iter().map(|fault| fault()).collect::<Result<Vec<_>>>()?;
                rows.push(fire::silent(&[Silence::CHECKED, Silence::NOTICED])?);
                rows.push(fire::lossy(Duration::from_secs(60))?);
                Ok(rows.concat())
            }
            (Self::Soak, false) => fire::soak(&SoakPlan::of_minutes(how.minutes, how.seed)),
            (Self::Soak, true) => fire::soak(&SoakPlan::short()),
        }
    }
}

#[derive(Debug, Serialize)]
struct Table {
    part: Part,
    rows: Vec<Row>,
}

fn arguments() -> Result<Arguments> {
    let how = How { short: false, minutes: 30, seed: 1 };
    let mut read = Arguments { parts: Vec::new(), how, json: None };
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().with_context(|| format!("{argument} what?\n{USAGE}"));
        match argument.as_str() {
            "restarts" => read.parts.push(Part::Restarts),
            "floods" => read.parts.push(Part::Floods),
            "faults" => read.parts.push(Part::Faults),
            "soak" => read.parts.push(Part::Soak),
            "--short" => read.how.short = true,
            "--minutes" => read.how.minutes = value()?.parse().context("--minutes")?,
            "--seed" => read.how.seed = value()?.parse().context("--seed")?,
            "--json" => read.json = Some(value()?.into()),
            _ => bail!("{USAGE}"),
        }
    }
    if read.parts.is_empty() {
        read.parts = Part::ALL.into();
    }
    Ok(read)
}

fn main() -> Result<ExitCode> {
    let Arguments { parts, how, json } = arguments()?;
    let mut tables = Vec::new();
    for part in parts {
        let rows = part.rows(how)?;
        println!("{}", fire::markdown(&rows));
        tables.push(Table { part, rows });
    }
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&tables)?;
        std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    let all_fine = tables.iter().flat_map(|table| &table.rows).all(Row::is_fine);
    Ok(if all_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
