//! `canary run` on the balancer, and the command line beside it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use canary::api::{client::Client, types::Status};

use super::{Lab, Process, VIP_V4, VIP_V6, wait_for};

/// Until it answers: the verifier's walk takes a minute where the machine is
/// emulated, and more than two beside connections that ask all the while.
const PATIENCE: Duration = Duration::from_secs(300);

/// The daemon of a lab.
#[derive(Debug)]
pub struct Daemon {
    process: Option<Process>,
    /// Which canary it is.
    pub binary: PathBuf,
    pub config: PathBuf,
    pub socket: PathBuf,
    pub log: PathBuf,
    /// What it is started by, and that one's arguments; nothing: by itself.
    pub by: Vec<String>,
}

/// A program of this project, as it was built beside the running test or demo.
///
/// # Errors
/// Where it has not been.
pub fn built(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    let found = me.ancestors().skip(1).map(|dir| dir.join(name)).find(|file| file.is_file());
    found.with_context(|| format!("no {name} binary beside this one: run `cargo build` first"))
}

/// A configuration with a service of each family; `extra` is added to both.
#[must_use]
pub fn config(lab: &Lab, top: &str, extra: &str) -> String {
    let directory = lab.directory.display();
    let interfaces: Vec<_> = lab.interfaces.iter().map(|name| format!("{name:?}")).collect();
    let service = |name: &str, listen: &str, v6: bool| {
        let [s1, s2, c1] = ["s1", "s2", "c1"].map(|host| Lab::backend(host, v6));
        format!(
            "[service.{name}]\nlisten = {listen:?}\nstable = [{s1:?}, {s2:?}]\ncanary = [{c1:?}]\n{extra}\n"
        )
    };
    format!(
        "interfaces = [{}]\nsocket = \"{directory}/canary.sock\"\nbpffs = {:?}\n\
         state_dir = \"{directory}/state\"\n{top}\n\
         [metrics]\nlisten = \"127.0.0.1:9871\"\ntextfile = \"{directory}/textfile/canary.prom\"\n\
         textfile_interval = \"1s\"\n\n{}\n{}",
        interfaces.join(", "),
        lab.bpffs(),
        service("web", VIP_V4, false),
        service("web6", VIP_V6, true)
    )
}

/// Whether a warning of status says that an earlier daemon's state was lost.
#[must_use]
pub fn is_of_lost_state(warning: &str) -> bool {
    warning.contains("drains and rollouts under way are forgotten")
}

impl Daemon {
    /// Starts it with this configuration and waits until it answers.
    ///
    /// # Errors
    /// Where it does not come up; its log is part of the error.
    pub fn start(lab: &Lab, text: &str) -> Result<Self> {
        let mut daemon = Self::prepare(lab, text)?;
        daemon.restart(lab)?;
        Ok(daemon)
    }

    /// Starts it again, after [`Daemon::kill`].
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn restart(&mut self, lab: &Lab) -> Result<()> {
        self.launch(lab)?;
        let up = wait_for("the daemon", PATIENCE, || self.status().is_ok());
        up.with_context(|| self.said())?;
        // All backends' neighbours have answered; a lost state stays lost.
        let resolved = wait_for("the backends", Duration::from_secs(10), || {
            self.status().is_ok_and(|status| status.warnings.iter().all(|w| is_of_lost_state(w)))
        });
        resolved.with_context(|| self.said())
    }

    /// Writes the configuration down and does not start anything yet.
    ///
    /// # Errors
    /// Where there is no binary, or the file cannot be written.
    pub fn prepare(lab: &Lab, text: &str) -> Result<Self> {
        fs::create_dir_all(lab.directory.join("textfile"))?;
        let daemon = Self {
            process: None,
            binary: built("canary")?,
            config: lab.directory.join("canary.toml"),
            socket: lab.directory.join("canary.sock"),
            log: lab.directory.join("canary.log"),
            by: Vec::new(),
        };
        fs::write(&daemon.config, text)?;
        Ok(daemon)
    }

    /// Starts the process, and waits for nothing.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn launch(&mut self, lab: &Lab) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(&self.log)?;
        let binary = self.binary.display().to_string();
        let mut words = self.by.iter().chain([&binary]);
        let mut command = lab.on("lb", words.next().unwrap_or(&binary));
        command.args(words).arg("run").arg("--config").arg(&self.config);
        command.stderr(log).stdout(Stdio::null());
        self.process = Some(Process::start(&mut command)?);
        Ok(())
    }

    /// Stops or continues it (`SIGSTOP`, `SIGCONT`).
    ///
    /// # Errors
    /// Where it does not run.
    pub fn signal(&self, signal: libc::c_int) -> Result<()> {
        let pid = self.pid()?.cast_signed();
        // SAFETY: a signal to a child of ours.
        let failed = unsafe { libc::kill(pid, signal) } != 0;
        ensure!(!failed, "signal {signal} to {pid}: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// The same by way of another program, which runs it: who it runs as, say.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn launch_by(&mut self, lab: &Lab, program: &str, arguments: &[&str]) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(&self.log)?;
        // Whoever that is may not get at where it was built.
        let copy = lab.directory.join("canary");
        fs::copy(&self.binary, &copy)?;
        let mut command = lab.on("lb", program);
        command.args(arguments).arg(copy).arg("run").arg("--config").arg(&self.config);
        command.stderr(log).stdout(Stdio::null());
        self.process = Some(Process::start(&mut command)?);
        Ok(())
    }

    /// Its log.
    #[must_use]
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// As a service manager stops it: it says goodbye.
    ///
    /// # Errors
    /// Where it does not run, or does not end.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(libc::SIGTERM)?;
        let mut process = self.process.take().context("the daemon does not run")?;
        wait_for("the daemon to end", Duration::from_secs(10), || !process.is_running())
    }

    /// Its process number.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn pid(&self) -> Result<u32> {
        self.process.as_ref().map(Process::pid).context("the daemon does not run")
    }

    /// Over the API, as fast as it goes.
    ///
    /// # Errors
    /// Where the daemon does not answer.
    pub fn status(&self) -> Result<Status> {
        Ok(Client::new(&self.socket).get("/v1/status")?)
    }

    /// The command line: its output.
    ///
    /// # Errors
    /// With what it printed, where it fails.
    pub fn cli(&self, arguments: &[&str]) -> Result<String> {
        self.cli_with(&self.socket, arguments)
    }

    /// The same, asking at another socket.
    ///
    /// # Errors
    /// As [`Daemon::cli`].
    pub fn cli_with(&self, socket: &Path, arguments: &[&str]) -> Result<String> {
        let output = self.command_with(socket, arguments).output()?;
        ensure!(
            output.status.success(),
            "canary {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The command line, to be run.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_with(&self.socket, arguments)
    }

    fn command_with(&self, socket: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--socket").arg(socket).args(arguments);
        command
    }
}
