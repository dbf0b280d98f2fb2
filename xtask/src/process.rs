//! Running other programs, as this user or as root.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

/// Where administrators' tools are, which plain users have not on their path.
const SYSTEM_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Variables that a program started through sudo still needs: sudo drops them.
const KEPT_BY_SUDO: [&str; 5] = ["CARGO", "RUST", "LD_LIBRARY_PATH", "HOME", "TMPDIR"];

/// The directory of the whole project.
pub(crate) fn workspace() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// The path for programs, with the administrators' tools on it.
fn search_path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = env::split_paths(&path).collect();
    for dir in SYSTEM_DIRS {
        if !dirs.iter().any(|have| have == Path::new(dir)) {
            dirs.push(dir.into());
        }
    }
    // It fails on a directory with a colon in its name, which no path has.
    env::join_paths(dirs).unwrap_or(path)
}

/// Where a program is, or none.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    env::split_paths(&search_path()).map(|dir| dir.join(name)).find(|file| {
        fs::metadata(file)
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

/// A program to run from the workspace's root, as this user.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace()).env("PATH", search_path());
    command
}

/// The same cargo that runs us.
pub(crate) fn cargo() -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Whether we are root.
///
/// # Errors
/// Where /proc is not mounted.
pub(crate) fn is_root() -> Result<bool> {
    let own = fs::metadata("/proc/self").context("reading /proc/self: is /proc mounted?")?;
    Ok(own.uid() == 0)
}

/// A program to run as root: directly, or through sudo with the variables that
/// cargo and the tests go by.
///
/// # Errors
/// Where we are not root and sudo is missing. `why` says what root is for.
pub(crate) fn privileged(program: impl AsRef<OsStr>, why: &str) -> Result<Command> {
    if is_root()? {
        return Ok(command(program));
    }
    ensure!(
        find_program("sudo").is_some(),
        "{why} needs root, and sudo is not installed: run `cargo xtask` again as root (`su -`), \
         or install sudo"
    );
    let mut sudo = command("sudo");
    sudo.arg("env").arg(assignment("PATH", &search_path()));
    for (name, value) in env::vars_os() {
        let text = name.to_string_lossy();
        if KEPT_BY_SUDO.iter().any(|kept| text.starts_with(kept)) {
            sudo.arg(assignment(&text, &value));
        }
    }
    sudo.arg(program);
    Ok(sudo)
}

fn assignment(name: &str, value: &OsStr) -> OsString {
    let mut text = OsString::from(name);
    text.push("=");
    text.push(value);
    text
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command with our own input and output.
///
/// # Errors
/// Where it can't be started or does not succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("running `{}`", shown(command)))?;
    ensure!(status.success(), "`{}` failed ({status})", shown(command));
    Ok(())
}

/// Runs a command and gives what it printed.
///
/// # Errors
/// Where it can't be started or does not succeed, with its complaint.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running `{}`", shown(command)))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", shown(command), output.status, complaint.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_name_only_when_they_can_run() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no-such-program-anywhere"), None);
        // A directory of that name is no program.
        assert_eq!(find_program("."), None);
    }

    #[test]
    fn the_workspace_holds_its_manifest_and_ours() {
        assert!(workspace().join("xtask/Cargo.toml").is_file());
        assert!(workspace().join("Cargo.lock").is_file());
    }

    #[test]
    fn a_command_is_shown_as_typed() {
        assert_eq!(shown(Command::new("apt-get").args(["install", "jq"])), "apt-get install jq");
    }
}
