//! A machine of its own on one of the lab's hosts: systemd is its first process,
//! its files are this system's with a layer above that goes with it. What is
//! installed in it is installed nowhere else.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{Lab, Process, wait_for};

const BOOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/machine/boot.sh");
/// What it and its users run.
const TOOLS: [&str; 4] = ["unshare", "dpkg", "systemctl", "systemd-sysusers"];

/// In the lab's own.
pub(super) const DIRECTORY: &str = "machine";
/// How its cgroup's name ends.
const CGROUP: &str = "-machine";

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Machine {
    init: Process,
    /// systemd's number, outside.
    pid: u32,
    /// How all names of the lab begin.
    prefix: String,
    directory: PathBuf,
}

impl Machine {
    /// Boots it, in the network of a host of the lab.
    ///
    /// # Errors
    /// Where a tool is missing, or systemd does not come up.
    pub fn boot(lab: &Lab, host: &str) -> Result<Self> {
        let missing: Vec<_> = TOOLS.into_iter().filter(|tool| !super::is_installed(tool)).collect();
        ensure!(
            missing.is_empty(),
            "a machine needs {}: install with `cargo xtask setup`",
            missing.join(", ")
        );
        let directory = lab.directory.join(DIRECTORY);
        fs::create_dir_all(&directory)?;
        let log = directory.join("boot.log");
        let prefix = lab.site.prefix.clone();
        let mut command = lab.on(host, "unshare");
        command.args(["--mount", "sh", BOOT]).arg(&directory);
        command.arg(format!("{prefix}{CGROUP}"));
        let output = fs::File::create(&log)?;
        command.stdout(output.try_clone()?).stderr(output);
        let init = Process::start(&mut command)?;
        let mut machine = Self { init, pid: 0, prefix, directory };
        machine.come_up().with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(machine)
    }

    fn come_up(&mut self) -> Result<()> {
        // It becomes `unshare`, which waits for the first of the new namespace.
        let list = PathBuf::from(format!("/proc/{0}/task/{0}/children", self.init.pid()));
        wait_for("systemd", Duration::from_secs(20), || {
            let text = fs::read_to_string(&list).unwrap_or_default();
            self.pid = text.trim().parse().unwrap_or(0);
            !self.init.is_running()
                || is_systemd(self.pid)
                    && self.run("systemctl", &["is-active", "cny.target"]).is_ok()
        })?;
        ensure!(self.init.is_running(), "it ended at once");
        Ok(())
    }

    /// A directory that is `/mnt` inside.
    #[must_use]
    pub fn packages(&self) -> PathBuf {
        self.directory.join("packages")
    }

    /// A program inside, to be run.
    #[must_use]
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string()]);
        command.args(["--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup"]);
        // Without a terminal, and as a package's scripts may expect it.
        command.args(["--", program]).args(arguments).stdin(Stdio::null());
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
        command.env("DEBIAN_FRONTEND", "noninteractive").current_dir("/");
        command
    }

    /// Runs a program inside to its end, however that is.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        self.command(program, arguments).output().with_context(|| format!("running {program}"))
    }

    /// Runs a program inside; what it printed, also to standard error.
    ///
    /// # Errors
    /// Where it fails.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.output(program, arguments)?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), text.trim());
        Ok(text)
    }

    /// Runs a shell's line inside.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn shell(&self, line: &str) -> Result<String> {
        self.run("sh", &["-ec", line])
    }

    /// A property of a unit, as `systemctl show` has it.
    ///
    /// # Errors
    /// Where systemd does not answer.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        let shown = self.run("systemctl", &["show", "--value", "-p", name, unit])?;
        Ok(shown.trim().to_owned())
    }

    /// Writes a file inside.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        // Its root, seen from outside.
        let file = PathBuf::from(format!("/proc/{}/root{path}", self.pid));
        fs::write(&file, text).with_context(|| format!("writing {path} in the machine"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if is_systemd(self.pid) {
            // All others go with the first, and `unshare` sees it off: nobody
            // else might.
            // SAFETY: a signal to a process of ours.
            unsafe { libc::kill(self.pid.cast_signed(), libc::SIGKILL) };
            wait_for("systemd's end", Duration::from_secs(5), || !self.init.is_running()).ok();
        }
        self.init.kill();
        clear(&self.prefix, &self.directory);
    }
}

/// Removes what systemd made in the cgroup tree, when its processes are gone:
/// the kernel ends them by and by. `directory` is any.
pub(super) fn clear(prefix: &str, directory: &Path) {
    wait_for("the machine's end", Duration::from_secs(10), || {
        in_cgroups(prefix, directory, "find \"$1\" -depth -type d -exec rmdir {} +");
        !in_cgroups(prefix, directory, "test -e \"$1\"")
    })
    .ok();
}

/// Before it, a shell makes the machine ready.
fn is_systemd(pid: u32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim() == "systemd"
}

/// Whether a shell's line succeeds, told where the cgroup of a lab is. The tree
/// is mounted for it: where this system has it, if at all, differs.
fn in_cgroups(prefix: &str, directory: &Path, line: &str) -> bool {
    let mount = "mount --make-rprivate / && mount -t cgroup2 cgroup2 \"$0\" || exit";
    let path = directory.join(format!("{prefix}{CGROUP}"));
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &format!("{mount}\n{line}")]).arg(directory).arg(path);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
