//! Running other programs.

use std::{
    env,
    ffi::OsStr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

/// The workspace's root.
pub(crate) fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// Whether a program is on the path, or where administrators' programs are.
pub(crate) fn has(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(usual).any(|dir| dir.join(program).exists())
}

pub(crate) fn is_root() -> bool {
    output("id", &["-u"]).is_ok_and(|uid| uid.trim() == "0")
}

/// What a program prints.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("running {program}"))?;
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end.
pub(crate) fn finish(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let status =
        command.stdin(Stdio::null()).status().with_context(|| format!("running {shown}"))?;
    ensure!(status.success(), "{shown}: {status}");
    Ok(())
}

pub(crate) fn cargo_command() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

pub(crate) fn cargo(arguments: &[&str]) -> Result<()> {
    finish(cargo_command().args(arguments))
}

/// Runs a command as root: as it is, or by sudo.
pub(crate) fn as_root(program: &str, arguments: &[&str]) -> Result<()> {
    let mut command = match (is_root(), has("sudo")) {
        (true, _) => Command::new(program),
        (false, true) => {
            let mut sudo = Command::new("sudo");
            sudo.arg("--preserve-env=DEBIAN_FRONTEND,RUNLEVEL").arg(program);
            sudo
        }
        (false, false) => bail!(
            "`{program} {}` needs root and there is no sudo; run it as root, then try again",
            arguments.join(" ")
        ),
    };
    // Daemons among the packages are for tests: none is to be started.
    command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    finish(command.args(arguments))
}

/// Goes on as root by sudo, where this is not root already.
pub(crate) fn become_root(task: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    ensure!(
        has("sudo"),
        "`cargo xtask {task}` makes network namespaces and loads XDP programs: run it as root"
    );
    eprintln!("`cargo xtask {task}` makes network namespaces and loads XDP programs: using sudo");
    let kept = ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "CARGO", "CARGO_TARGET_DIR"].join(",");
    let error =
        Command::new("sudo").arg(format!("--preserve-env={kept}")).args(env::args_os()).exec();
    Err(error).context("running sudo")
}

/// Becomes another program.
pub(crate) fn exec(program: &Path, arguments: &[impl AsRef<OsStr>]) -> Result<()> {
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("running {}", program.display()))
}
