//! Under fire, the long versions: prints the tables of docs/reliability.md.
//! `cargo xtask fire`; or, as root, after
//! `cargo build --release -p canary-userspace`:
//! `cargo run --release -p canary-tests --bin canary-fire`.
#![allow(clippy::print_stdout, reason = "its output is for people")]

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use canary_tests::fire::{self, FloodPlan, Plan, Row};
use serde::Serialize;

const USAGE: &str = "\
usage: canary-fire [restarts|floods]... [--short] [--json FILE]

restarts: 2,000 keep-alive connections through whatever is done to the daemon.
floods: 10 million SYNs, ACKs and datagrams of as many senders, against 100,000
established connections. All of them by default; --short as CI does them. Prints
Markdown, and writes the same to FILE. Exit code 1: a connection was cut or
moved.";

struct Arguments {
    parts: Vec<Part>,
    short: bool,
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Part {
    Restarts,
    Floods,
}

impl Part {
    const ALL: [Self; 2] = [Self::Restarts, Self::Floods];

    fn rows(self, short: bool) -> Result<Vec<Row>> {
        match (self, short) {
            (Self::Restarts, false) => fire::restarts(&Plan::LONG),
            (Self::Restarts, true) => fire::restarts(&Plan::SHORT),
            (Self::Floods, false) => fire::floods(&FloodPlan::LONG),
            (Self::Floods, true) => fire::floods(&FloodPlan::SHORT),
        }
    }
}

#[derive(Debug, Serialize)]
struct Table {
    part: Part,
    rows: Vec<Row>,
}

fn arguments() -> Result<Arguments> {
    let mut read = Arguments { parts: Vec::new(), short: false, json: None };
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "restarts" => read.parts.push(Part::Restarts),
            "floods" => read.parts.push(Part::Floods),
            "--short" => read.short = true,
            "--json" => {
                let file = rest.next().with_context(|| format!("--json what?\n{USAGE}"))?;
                read.json = Some(file.into());
            }
            _ => bail!("{USAGE}"),
        }
    }
    if read.parts.is_empty() {
        read.parts = Part::ALL.into();
    }
    Ok(read)
}

fn main() -> Result<ExitCode> {
    let Arguments { parts, short, json } = arguments()?;
    let mut tables = Vec::new();
    for part in parts {
        let rows = part.rows(short)?;
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
