//! All tests, and what they may not leave behind.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    run::{become_root, cargo, cargo_command, output},
    setup::setup,
    tally::Tally,
};

/// Names of everything that tests make.
const PREFIX: &str = "cny-";

/// Sets up, builds, tests. Closes with the count of all runs together.
pub(crate) fn test() -> Result<()> {
    become_root("test")?;
    setup()?;
    // The namespace tests run the daemon itself.
    cargo(&["build"])?;
    let mut tally = Tally::default();
    // Pure tests side by side; those on the kernel one at a time.
    let pure =
        ["--package", "canary-common", "--package", "canary-userspace", "--package", "xtask"];
    let mut sound = run(
        &[&pure[..], &["--package", "canary-ebpf", "--lib", "--bins", "--tests"]].concat(),
        None,
        &mut tally,
    )?;
    sound &= run(&["--package", "canary-tests"], Some("1"), &mut tally)?;
    let residue = residue()?;
    for left in &residue {
        eprintln!("left behind by the tests: {left}");
    }
    tally.failed += residue.len() as u64;
    tally.passed += u64::from(residue.is_empty());
    match tally.ignored {
        0 => println!("{} passed, {} failed", tally.passed, tally.failed),
        ignored => println!("{} passed, {} failed, {ignored} skipped", tally.passed, tally.failed),
    }
    ensure!(sound && tally.failed == 0 && tally.ignored == 0, "not all tests passed");
    Ok(())
}

/// Whether `cargo test` was content; its lines are passed on and counted.
fn run(arguments: &[&str], threads: Option<&str>, tally: &mut Tally) -> Result<bool> {
    let mut command = cargo_command();
    command.args(["test", "--no-fail-fast"]).args(arguments).stdin(Stdio::null());
    if let Some(threads) = threads {
        command.env("RUST_TEST_THREADS", threads);
    }
    let mut child = command.stdout(Stdio::piped()).spawn().context("running cargo test")?;
    let stdout = child.stdout.take().context("cargo test has no output")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        tally.read(&line);
        println!("{line}");
    }
    Ok(child.wait()?.success())
}

/// Namespaces, interfaces and pins of tests that are still there.
fn residue() -> Result<Vec<String>> {
    let mut left = Vec::new();
    for list in [["netns", "list"], ["-brief", "link"]] {
        let names = output("ip", &list)?;
        let names = names.lines().filter_map(|line| line.split_whitespace().next());
        left.extend(names.filter(|name| name.starts_with(PREFIX)).map(str::to_owned));
    }
    if let Ok(pins) = fs::read_dir("/sys/fs/bpf") {
        let names = pins.filter_map(|pin| pin.ok()?.file_name().into_string().ok());
        left.extend(names.filter(|name| name.starts_with(PREFIX)));
    }
    Ok(left)
}
