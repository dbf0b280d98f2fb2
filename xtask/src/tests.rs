//! `cargo xtask test`: everything, as root, with nothing skipped.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    process::{cargo, is_root, privileged, run, shown},
    residue, setup,
    summary::{Summary, Tally},
    vm,
};

/// The crate whose tests share namespaces, CPUs and clocks with real traffic.
const SERIAL: &str = "canary-tests";

/// Builds and runs all tests, or those whose names contain the filter; then, if
/// `in_guests`, those in the kernels of virtual machines.
///
/// # Errors
/// Where set-up or build fails, a test fails, or something is left behind.
pub(crate) fn test(filter: Option<&str>, in_guests: bool) -> Result<()> {
    setup::run()?;
    setup::require_kernel("the tests")?;
    // Asks for sudo's password before the build, not some minutes into it.
    run(&mut privileged("true", "running the tests")?)?;
    run(cargo().args(["build", "--workspace"]))?;

    let before = residue::find()?;
    for thing in &before {
        eprintln!("test: here before the tests: {thing}");
    }
    let mut sum = cargo_test(&["--workspace", "--exclude", SERIAL], filter, &[])?;
    sum += cargo_test(&["--package", SERIAL], filter, &["--test-threads=1"])?;
    sum += check_residue(&before)?;
    if in_guests {
        sum += vm::of_ci();
    }

    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{sum}")?;
    out.flush()?;
    ensure!(sum.passed + sum.failed > 0, "no test has this in its name");
    ensure!(sum.failed == 0, "tests failed");
    Ok(())
}

/// That the tests have cleaned up: a failure where not. It adds nothing to what
/// passed, which is the tests' own number.
fn check_residue(before: &std::collections::BTreeSet<String>) -> Result<Summary> {
    let left = residue::left(before, &residue::find()?);
    if left.is_empty() {
        return Ok(Summary::default());
    }
    for thing in &left {
        eprintln!("test: left behind: {thing}");
    }
    Ok(Summary { failed: 1, ..Summary::default() })
}

/// Runs `cargo test`, passing on what it prints, and adds up the results.
fn cargo_test(what: &[&str], filter: Option<&str>, harness: &[&str]) -> Result<Summary> {
    let mut command = cargo();
    command.args(["test", "--no-fail-fast"]).args(what);
    if !is_root()? {
        command.args(["--config", &runner()?]);
    }
    command.args(filter).arg("--").args(harness);
    eprintln!("test: {}", shown(&command));
    follow(&mut command)
}

fn follow(command: &mut Command) -> Result<Summary> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("starting `cargo test`")?;
    let lines = child.stdout.take().context("`cargo test` has no output")?;
    let mut tally = Tally::default();
    let mut lines = BufReader::new(lines);
    let mut line = Vec::new();
    // Bytes, as tests may print what is no text.
    while lines.read_until(b'\n', &mut line).context("reading from `cargo test`")? > 0 {
        std::io::stdout().write_all(&line)?;
        tally.line(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    let status = child.wait().context("waiting for `cargo test`")?;
    Ok(tally.finish(status.success()))
}

/// Makes cargo, which builds as this user, start the tests through us and sudo:
/// a build as root would leave files that the user's next one can't replace.
fn runner() -> Result<String> {
    let own = env::current_exe().context("looking for xtask's own file")?;
    let own = own.to_str().context("the project's path is not UTF-8")?;
    Ok(format!("target.'cfg(all())'.runner=[{own:?}, \"as-root\"]"))
}
