//! Set-up, build, tests, demo and benchmark of canary: `cargo xtask --help`.

mod bench;
mod dist;
mod process;
mod residue;
mod setup;
mod summary;
mod tests;
mod vm;

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use process::{cargo, command, output, privileged, run, workspace};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what building, testing and the demo take; quick where all is there
    Setup,
    /// Build everything
    Build {
        /// With optimizations, as for use
        #[arg(long)]
        release: bool,
    },
    /// Run all tests, those of the data plane as root
    Test {
        /// Only tests with this in their names
        filter: Option<String>,
        /// Then the kernels of `vm` as well, counted with the others
        #[arg(long, conflicts_with = "filter")]
        vm: bool,
    },
    /// Load the program into other kernels, each in a virtual machine, and run
    /// the packet table and real traffic there
    Vm(vm::Arguments),
    /// Show canary at work in network namespaces, under load
    Demo {
        /// For the demo itself, such as --keep
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Measure what canary costs, beside others; --quick takes a minute
    Bench {
        /// For the benchmark itself, such as --quick or --only packets
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Hold connections through kills, upgrades and floods, and print what
    /// became of them; a quarter of an hour
    Fire {
        /// For the runs themselves, such as floods or --short
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Build the Debian package, under target/dist
    Dist(dist::Dist),
    /// Check format and lints; warnings are errors
    Lint,
    /// Start a program as root (how `test` starts the tests)
    #[command(hide = true)]
    AsRoot {
        program: OsString,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match perform(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        // Its causes in a line; the backtraces of some environments would bury
        // what to do about it.
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    match task {
        Task::Setup => setup::run_and_judge(),
        Task::Build { release } => build(release),
        Task::Test { filter, vm } => tests::test(filter.as_deref(), vm),
        Task::Vm(arguments) => vm::vm(&arguments),
        Task::Demo { arguments } => become_tool("canary-demo", "the demo", &arguments),
        Task::Fire { arguments } => become_tool("canary-fire", "the runs", &arguments),
        Task::Bench { arguments } => bench::bench(&arguments),
        Task::Dist(options) => dist::dist(&options),
        Task::Lint => lint(),
        Task::AsRoot { program, arguments } => as_root(&program, &arguments),
    }
}

fn build(release: bool) -> Result<()> {
    setup::run()?;
    let mut build = cargo();
    build.args(["build", "--workspace"]);
    if release {
        build.arg("--release");
    }
    run(&mut build)
}

/// Builds a program of the tests' crate, and the daemon that it starts, and
/// becomes it as root.
fn become_tool(program: &str, what: &str, arguments: &[OsString]) -> Result<()> {
    setup::run()?;
    setup::require_kernel(what)?;
    let packages = ["--package", "canary-tests", "--package", "canary-userspace"];
    run(cargo().args(["build", "--release"]).args(packages))?;
    let path = workspace().join("target/release").join(program);
    let mut tool = privileged(path, what)?;
    // In our place, so that Ctrl-C and the exit code are its own.
    Err(tool.args(arguments).exec()).with_context(|| format!("starting {program}"))
}

fn lint() -> Result<()> {
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        // rustup's minimal profile has neither.
        if output(cargo().args([subcommand, "--version"])).is_err() {
            eprintln!("lint: installing rustup's component {component}");
            run(command("rustup").args(["component", "add", component]))?;
        }
    }
    setup::run()?;
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn as_root(program: &OsString, arguments: &[OsString]) -> Result<()> {
    let mut root = privileged(program, "running a test")?;
    // Tests look for their files from where cargo starts them.
    root.current_dir(std::env::current_dir().context("finding the current directory")?);
    Err(root.args(arguments).exec()).context("starting it as root")
}
