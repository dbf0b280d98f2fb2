//! Fuzzes one target, or all of them:
//! `cargo run --release -p canary-tests --bin canary-fuzz -- --runs 1000000`.
#![allow(clippy::print_stdout, reason = "its output is for people")]

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use canary_tests::fuzz::{
    TARGETS, Target,
    campaign::{Finding, campaign},
};

const USAGE: &str = "\
usage: canary-fuzz [TARGET]... [--runs N] [--seed S]
       canary-fuzz TARGET --input FILE

Mutates the inputs in tests/corpus/TARGET (all targets by default) N times
(100000 by default) and gives each to the target. The same seed (1 by default)
makes the same inputs. --input gives it one file, to see a finding again.
A finding is written to a file, which is named. Exit code 1: something was found.";

struct Arguments {
    targets: Vec<&'static Target>,
    runs: u64,
    seed: u64,
    input: Option<PathBuf>,
}

fn arguments() -> Result<Arguments> {
    let mut read = Arguments { targets: Vec::new(), runs: 100_000, seed: 1, input: None };
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().with_context(|| format!("{argument} what?\n{USAGE}"));
        match argument.as_str() {
            "--runs" => read.runs = value()?.replace('_', "").parse().context("--runs")?,
            "--seed" => read.seed = value()?.parse().context("--seed")?,
            "--input" => read.input = Some(value()?.into()),
            option if option.starts_with('-') => bail!("{USAGE}"),
            name => read.targets.push(Target::find(name)?),
        }
    }
    if read.targets.is_empty() {
        read.targets.extend(TARGETS);
    }
    Ok(read)
}

/// The input of the run that is going on, for a target that takes the whole
/// process with it (a stack that overflows, an abort).
struct Running {
    file: File,
    path: PathBuf,
}

impl Running {
    fn new(target: &Target) -> Result<Self> {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/fuzz");
        fs::create_dir_all(&directory)?;
        let path = directory.join(format!("{}-running", target.name));
        let file = File::create(&path).with_context(|| format!("writing {}", path.display()))?;
        Ok(Self { file, path: path.canonicalize()? })
    }

    fn note(&self, input: &[u8]) -> Result<()> {
        self.file.write_all_at(input, 0)?;
        Ok(self.file.set_len(input.len() as u64)?)
    }
}

/// Whether nothing was found.
fn fuzz(target: &Target, runs: u64, seed: u64) -> Result<bool> {
    let running = Running::new(target)?;
    println!("{}: seed {seed}; should the process die: {}", target.name, running.path.display());
    let outcome = campaign(target, runs, seed, |input| running.note(input))?;
    fs::remove_file(&running.path)?;
    println!(
        "{}: {} runs in {:.1} s, {:.0} a second; {} inputs kept",
        target.name,
        outcome.runs,
        outcome.took.as_secs_f64(),
        outcome.per_second(),
        outcome.kept,
    );
    let Some(finding) = outcome.finding else { return Ok(true) };
    let path = finding.save(target)?;
    let Finding { input, why, origin } = &finding;
    println!("{}: FOUND by {origin}, {} bytes: {why}", target.name, input.len());
    println!(
        "the input is in {0}; again: canary-fuzz {1} --input {0}",
        path.display(),
        target.name
    );
    Ok(false)
}

fn main() -> Result<ExitCode> {
    let Arguments { targets, runs, seed, input } = arguments()?;
    if let Some(path) = input {
        let [target] = targets[..] else { bail!("--input is for one target\n{USAGE}") };
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        return Ok(match (target.check)(&bytes) {
            Ok(marks) => {
                println!("{}: fine, showing {} things", target.name, marks.len());
                ExitCode::SUCCESS
            }
            Err(why) => {
                println!("{}: {why}", target.name);
                ExitCode::FAILURE
            }
        });
    }
    let mut clean = true;
    for target in targets {
        clean &= fuzz(target, runs, seed)?;
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
