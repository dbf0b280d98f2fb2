//! A laboratory of network namespaces: a client, a load balancer, two stable
//! backends and a canary, each a host of its own, with real servers.
//!
//! ```text
//! client ── lb ──┬── s1   stable
//!                ├── s2   stable
//!                └── c1   canary
//! ```

mod clients;
mod daemon;
mod nginx;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

pub use clients::{Holders, HoldersReport, Load, LoadReport, Outcome, at, fetch};
pub use daemon::{Daemon, config};
pub use nginx::{Behaviour, Nginx};

use crate::netns::ip;

/// Hosts behind the balancer, in the order of their networks.
pub const HOSTS: [&str; 4] = ["client", "s1", "s2", "c1"];
/// What clients connect to.
pub const VIP_V4: &str = "203.0.113.10:80";
pub const VIP_V6: &str = "[2001:db8:cafe::10]:80";
/// The servers' port.
pub const PORT: u16 = 8080;

/// The namespaces, and a directory for files. All goes when this is dropped.
#[derive(Debug)]
pub struct Lab {
    /// How all its names begin.
    prefix: String,
    pub directory: PathBuf,
    keep: bool,
}

impl Lab {
    /// Makes the lab; `name`, if there is one, is a part of all names in it:
    /// `cny-NAME-client` or `cny-client`. What an earlier lab of the same name
    /// left is removed first.
    ///
    /// # Errors
    /// Without root, or where a tool is missing.
    pub fn new(name: &str) -> Result<Self> {
        // SAFETY: no arguments, no preconditions.
        let root = unsafe { libc::geteuid() } == 0;
        ensure!(root, "the lab makes network namespaces: run this as root");
        let prefix = if name.is_empty() { "cny".to_owned() } else { format!("cny-{name}") };
        let directory = std::env::temp_dir().join(format!("{prefix}-lab"));
        let lab = Self { prefix, directory, keep: false };
        lab.remove();
        fs::create_dir_all(&lab.directory)?;
        lab.build()?;
        Ok(lab)
    }

    fn build(&self) -> Result<()> {
        let lb = self.namespace("lb");
        for host in HOSTS.iter().chain(&["lb"]) {
            let namespace = self.namespace(host);
            ip(&["netns", "add", &namespace])?;
            ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        }
        for (number, host) in HOSTS.iter().enumerate() {
            let namespace = self.namespace(host);
            let device = Self::interface(host);
            ip(&[
                "-n", &lb, "link", "add", &device, "type", "veth", "peer", "name", "eth0", "netns",
                &namespace,
            ])?;
            for (ns, dev, end) in [(&lb, device.as_str(), 1), (&namespace, "eth0", 2)] {
                let v4 = format!("10.77.{number}.{end}/24");
                let v6 = format!("fd77:{number}::{end}/64");
                ip(&["-n", ns, "addr", "add", &v4, "dev", dev])?;
                ip(&["-n", ns, "-6", "addr", "add", &v6, "dev", dev, "nodad"])?;
                ip(&["-n", ns, "link", "set", dev, "up"])?;
            }
            let (v4, v6) = (format!("10.77.{number}.1"), format!("fd77:{number}::1"));
            ip(&["-n", &namespace, "route", "add", "default", "via", &v4])?;
            ip(&["-n", &namespace, "-6", "route", "add", "default", "via", &v6])?;
            // Packets of local sockets have half a checksum, which native XDP
            // does not carry on; and a redirect to a veth needs its peer's GRO.
            self.command(host, "ethtool", &["-K", "eth0", "tx", "off"])?;
            self.command(host, "ethtool", &["-K", "eth0", "gro", "on"])?;
        }
        for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            self.command("lb", "sysctl", &["-qw", &format!("{key}=1")])?;
        }
        Ok(())
    }

    /// The namespace of a host.
    #[must_use]
    pub fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// The balancer's interface towards a host.
    #[must_use]
    pub fn interface(host: &str) -> String {
        format!("cny{host}")
    }

    /// A host's address.
    #[must_use]
    pub fn address(host: &str, v6: bool) -> String {
        let number = HOSTS.iter().position(|name| *name == host).unwrap_or(HOSTS.len());
        if v6 { format!("fd77:{number}::2") } else { format!("10.77.{number}.2") }
    }

    /// A backend as the configuration writes it.
    #[must_use]
    pub fn backend(host: &str, v6: bool) -> String {
        let address = Self::address(host, v6);
        if v6 { format!("[{address}]:{PORT}") } else { format!("{address}:{PORT}") }
    }

    /// A command that runs on a host.
    #[must_use]
    pub fn on(&self, host: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        // Not `ip netns exec`: it hides the bpffs behind another /sys.
        command.arg(format!("--net=/run/netns/{}", self.namespace(host))).arg(program.as_ref());
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command on a host to its end; its output.
    ///
    /// # Errors
    /// Where it fails or is missing.
    pub fn command(&self, host: &str, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self
            .on(host, program)
            .args(arguments)
            .output()
            .with_context(|| format!("running {program} (see `cargo xtask setup`)"))?;
        ensure!(
            output.status.success(),
            "{program} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Leaves everything in place when this is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Where the lab's daemon pins its maps.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        Path::new("/sys/fs/bpf").join(format!("{}-maps", self.prefix))
    }

    /// Ends all processes in the namespaces, and removes these, pins and files.
    pub fn remove(&self) {
        for host in HOSTS.iter().chain(&["lb"]) {
            let namespace = self.namespace(host);
            if !Path::new("/run/netns").join(&namespace).exists() {
                continue;
            }
            // Failures show in the residue check.
            for pid in ip(&["netns", "pids", &namespace]).unwrap_or_default().lines() {
                Command::new("kill").args(["-9", pid]).status().ok();
            }
            ip(&["netns", "del", &namespace]).ok();
        }
        canary::dataplane::remove_pins(&self.bpffs()).ok();
        fs::remove_dir_all(&self.directory).ok();
    }

    /// Names of what the lab would leave behind.
    #[must_use]
    pub fn residue(&self) -> Vec<String> {
        let mut left: Vec<String> = HOSTS
            .iter()
            .chain(&["lb"])
            .map(|host| self.namespace(host))
            .filter(|name| Path::new("/run/netns").join(name).exists())
            .collect();
        if self.bpffs().exists() {
            left.push(self.bpffs().display().to_string());
        }
        left
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.keep {
            self.remove();
        }
    }
}

/// A process that ends with its owner.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// # Errors
    /// Where it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let shown = format!("{command:?}");
        Ok(Self(command.spawn().with_context(|| format!("starting {shown}"))?))
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// Process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until something is so.
///
/// # Errors
/// When it is not, after `within`.
pub fn wait_for(what: &str, within: Duration, mut so: impl FnMut() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !so() {
        if begun.elapsed() > within {
            bail!("waited {within:?} in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
