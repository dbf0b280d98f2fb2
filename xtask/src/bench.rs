//! `cargo xtask bench`: what canary costs, measured on this machine.

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result};

use crate::{
    process::{cargo, privileged, run, workspace},
    setup,
};

/// Builds the benchmark and becomes it; the arguments are its own.
///
/// # Errors
/// Where set-up or build fails, or this kernel can't run it.
pub(crate) fn bench(arguments: &[OsString]) -> Result<()> {
    // The quick run measures nothing that wants other people's programs.
    if arguments.iter().any(|argument| argument == "--quick") {
        setup::run()?;
    } else {
        setup::for_bench()?;
    }
    setup::require_kernel("the benchmark")?;
    let programs = ["--bin", "canary-bench", "--bin", "canary"];
    let packages = ["--package", "canary-tests", "--package", "canary-userspace"];
    run(cargo().args(["build", "--release"]).args(packages).args(programs))?;
    let bench = workspace().join("target/release/canary-bench");
    let mut bench = privileged(bench, "the benchmark")?;
    // Where its files are meant to be, which may not be the workspace's root.
    bench.current_dir(std::env::current_dir().context("finding the current directory")?);
    Err(bench.args(arguments).exec()).context("starting the benchmark")
}
