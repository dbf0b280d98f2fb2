//! Set-up, build, test and demo of canary.
#![allow(clippy::print_stdout, reason = "its output is for people and CI")]

mod run;
mod setup;
mod tally;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Everything canary's developers type.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find or install the eBPF toolchain and the tools that tests use
    Setup,
    /// Set up, and build the daemon for release
    Build,
    /// Set up, build, and run all tests (needs root: namespaces and XDP)
    Test,
    /// Set up, build, and show a canary release on this machine (needs root)
    Demo {
        /// For the demo: --keep leaves its lab up, --clean removes that
        arguments: Vec<String>,
    },
    /// Formatting and lints, warnings are errors
    Lint,
}

fn main() -> ExitCode {
    let outcome = dispatch(&Cli::parse().command);
    if let Err(error) = outcome {
        eprintln!("xtask: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn dispatch(command: &Command) -> Result<()> {
    match command {
        Command::Setup => setup::setup(),
        Command::Build => {
            setup::setup()?;
            run::cargo(&["build", "--release", "--package", "canary-userspace"])
        }
        Command::Test => test::test(),
        Command::Demo { arguments } => {
            run::become_root("demo")?;
            setup::setup()?;
            run::cargo(&["build", "--release", "--package", "canary-userspace"])?;
            run::cargo(&["build", "--release", "--package", "canary-tests", "--bins"])?;
            run::exec(&run::workspace().join("target/release/canary-demo"), arguments)
        }
        Command::Lint => {
            run::cargo(&["fmt", "--all", "--check"])?;
            run::cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])
        }
    }
}
