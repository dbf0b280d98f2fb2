//! `cargo xtask dist`: the Debian package, made by dpkg's own tools. `cargo deb`
//! would add a tool to build and a second list of what goes where, and knows
//! nothing of pages and completions that the binary itself writes.

mod control;
mod files;
mod page;

use std::{env, io::Write as _, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::{
    process::{cargo, command, find_program, output, run, workspace},
    setup,
};

#[derive(Debug, Args)]
pub(crate) struct Dist {
    /// The package's version, as Debian writes them; the workspace's and `-1`
    /// where not said
    #[arg(long)]
    version: Option<String>,
    /// Package this `canary`, and build none
    #[arg(long)]
    binary: Option<PathBuf>,
    /// The directory that the package goes to, in place of target/dist
    #[arg(long)]
    output: Option<PathBuf>,
}

/// What is packaged.
#[derive(Debug)]
struct Package {
    version: String,
    architecture: String,
    /// Seconds since 1970, UTC: nothing in it is younger.
    epoch: u64,
    binary: PathBuf,
    /// As dpkg's tools want it: the files are below `debian/canary`.
    source: PathBuf,
}

impl Package {
    fn root(&self) -> PathBuf {
        self.source.join("debian/canary")
    }
}

/// Builds the package, and prints where it is.
///
/// # Errors
/// Where a tool is missing or fails.
pub(crate) fn dist(options: &Dist) -> Result<()> {
    for tool in ["dpkg-deb", "dpkg-shlibdeps", "strip", "gzip", "md5sum"] {
        ensure!(
            find_program(tool).is_some(),
            "{tool} is missing; a Debian package is built on Debian or a descendant, with what \
             `cargo xtask setup` installs (packages dpkg-dev and binutils)"
        );
    }
    let directory = env::current_dir().context("finding the current directory")?;
    let binary = match &options.binary {
        Some(binary) => directory.join(binary),
        None => build()?,
    };
    let to = match &options.output {
        Some(output) => directory.join(output),
        None => workspace().join("target/dist"),
    };
    let package = Package {
        version: options
            .version
            .clone()
            .unwrap_or_else(|| concat!(env!("CARGO_PKG_VERSION"), "-1").into()),
        architecture: output(command("dpkg").arg("--print-architecture"))?.trim().to_owned(),
        epoch: epoch()?,
        binary,
        source: to.join("source"),
    };
    files::fill(&package)?;
    control::write_all(&package)?;
    let file = to.join(format!("canary_{}_{}.deb", package.version, package.architecture));
    let mut pack = command("dpkg-deb");
    // Two builds of one commit are the same bytes.
    pack.env("SOURCE_DATE_EPOCH", package.epoch.to_string());
    pack.args(["--root-owner-group", "--build"]).arg(package.root()).arg(&file);
    // What it says on the standard output, we do.
    output(&mut pack)?;
    writeln!(std::io::stdout(), "{}", file.display()).context("telling where the package is")
}

fn build() -> Result<PathBuf> {
    setup::run()?;
    run(cargo().args(["build", "--release", "--package", "canary-userspace"]))?;
    Ok(workspace().join("target/release/canary"))
}

/// The commit's time, or what <https://reproducible-builds.org> has builders say.
fn epoch() -> Result<u64> {
    let text = match env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => output(command("git").args(["log", "-1", "--format=%ct"])).context(
            "the package has its commit's date; outside of a git checkout set SOURCE_DATE_EPOCH",
        )?,
    };
    text.trim().parse().with_context(|| format!("SOURCE_DATE_EPOCH is no number: {text:?}"))
}
