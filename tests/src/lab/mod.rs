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
mod delay;
mod far;
mod machine;
mod nginx;
mod owner;
mod server;
mod stage;
mod traffic;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use canary::dataplane::{Dataplane, OpenOptions};

pub use clients::{Cut, Holders, HoldersReport, Load, LoadReport, Outcome, at, fetch};
pub(crate) use clients::{connected, enter};
pub use daemon::{Daemon, built, config, is_of_lost_state};
pub use delay::DelayLine;
pub use far::FAR;
pub use machine::Machine;
pub use nginx::{Behaviour, Nginx};
pub use server::Server;
pub use stage::{Stage, address, all_answered, answered, find};
pub use traffic::{Traffic, TrafficReport};

use crate::netns::ip;
use owner::Claim;

/// Hosts behind the balancer, in the order of their networks.
pub const HOSTS: [&str; 4] = ["client", "s1", "s2", "c1"];
/// What a lab and its tests run.
const TOOLS: [&str; 12] = [
    "ip",
    "nsenter",
    "ethtool",
    "sysctl",
    "nginx",
    "curl",
    "ping",
    "python3",
    "tcpdump",
    "nft",
    "promtool",
    "prometheus-node-exporter",
];
/// Of them, what the lab itself does not do without.
const PLAIN_TOOLS: [&str; 4] = ["ip", "nsenter", "ethtool", "sysctl"];
/// What clients connect to.
pub const VIP_V4: &str = "203.0.113.10:80";
pub const VIP_V6: &str = "[2001:db8:cafe::10]:80";
/// The servers' port.
pub const PORT: u16 = 8080;

/// The namespaces, and a directory for files. All goes when this is dropped,
/// or its process is interrupted.
#[derive(Debug)]
pub struct Lab {
    site: Site,
    pub directory: PathBuf,
    /// The balancer's interfaces.
    pub interfaces: Vec<String>,
    keep: AtomicBool,
    _claim: Claim,
}

/// What a lab takes up on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Site {
    /// How all its names begin.
    prefix: String,
    directory: PathBuf,
}

impl Lab {
    /// Makes the lab; `name`, if there is one, is a part of all names in it:
    /// `cny-NAME-client` or `cny-client`. What an earlier lab of the same name
    /// left is removed first; one that is in use is waited for.
    ///
    /// # Errors
    /// Without root, or where a tool is missing.
    pub fn new(name: &str) -> Result<Self> {
        let lab = Self::empty(name, HOSTS.map(Self::interface).to_vec(), &TOOLS)?;
        lab.build()?;
        Ok(lab)
    }

    /// The same for tests that have clients and servers of their own, and run
    /// where little else is installed.
    ///
    /// # Errors
    /// As [`Lab::new`].
    pub fn plain(name: &str) -> Result<Self> {
        let lab = Self::empty(name, HOSTS.map(Self::interface).to_vec(), &PLAIN_TOOLS)?;
        lab.build()?;
        Ok(lab)
    }

    /// The same hosts on one bridge, the balancer among them: packets leave it
    /// by the interface they came in by.
    ///
    /// # Errors
    /// Without root, or where a tool is missing.
    pub fn one_arm(name: &str) -> Result<Self> {
        let lab = Self::empty(name, vec![Self::interface("arm")], &TOOLS)?;
        lab.build_one_arm()?;
        Ok(lab)
    }

    fn empty(name: &str, interfaces: Vec<String>, tools: &[&str]) -> Result<Self> {
        // SAFETY: no arguments, no preconditions.
        let root = unsafe { libc::geteuid() } == 0;
        ensure!(root, "the lab makes network namespaces: run this as root");
        let missing: Vec<_> = tools.iter().copied().filter(|tool| !is_installed(tool)).collect();
        ensure!(
            missing.is_empty(),
            "the lab needs {}: install with `cargo xtask setup`",
            missing.join(", ")
        );
        let site = Site::of(name);
        let claim = Claim::take(&site.prefix)?;
        site.clear();
        owner::register(&site);
        let directory = site.directory.clone();
        let lab = Self { site, directory, interfaces, keep: AtomicBool::new(false), _claim: claim };
        fs::create_dir_all(&lab.directory)?;
        for host in Site::all_hosts() {
            let namespace = lab.namespace(host);
            ip(&["netns", "add", &namespace])?;
            ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        }
        Ok(lab)
    }

    /// Whether a process has the lab of this name.
    #[must_use]
    pub fn is_in_use(name: &str) -> bool {
        Claim::is_taken(&Site::of(name).prefix)
    }

    /// Removes the lab of this name that an earlier process left.
    ///
    /// # Errors
    /// Where something cannot be removed.
    pub fn remove_leftovers(name: &str) -> Result<()> {
        let site = Site::of(name);
        let _claim = Claim::take(&site.prefix)?;
        site.clear();
        let left = site.residue();
        ensure!(left.is_empty(), "could not remove {}: run this as root", left.join(", "));
        Ok(())
    }

    fn build_one_arm(&self) -> Result<()> {
        let (net, arm) = (self.namespace("net"), Self::interface("arm"));
        ip(&["-n", &net, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &net, "link", "set", "br0", "up"])?;
        for host in HOSTS.into_iter().chain(["lb"]) {
            let namespace = self.namespace(host);
            let device = if host == "lb" { arm.as_str() } else { "eth0" };
            let port = Self::interface(host);
            ip(&[
                "-n", &net, "link", "add", &port, "type", "veth", "peer", "name", device, "netns",
                &namespace,
            ])?;
            ip(&["-n", &net, "link", "set", &port, "master", "br0", "up"])?;
            let (v4, v6) = match host {
                "lb" => ("10.77.255.1".to_owned(), "fd77:ffff::1".to_owned()),
                _ => (Self::address(host, false), Self::address(host, true)),
            };
            ip(&["-n", &namespace, "addr", "add", &format!("{v4}/16"), "dev", device])?;
            let v6 = format!("{v6}/16");
            ip(&["-n", &namespace, "-6", "addr", "add", &v6, "dev", device, "nodad"])?;
            ip(&["-n", &namespace, "link", "set", device, "up"])?;
            if host != "lb" {
                self.command(host, "ethtool", &["-K", "eth0", "tx", "off"])?;
                ip(&["-n", &namespace, "route", "add", "default", "via", "10.77.255.1"])?;
                ip(&["-n", &namespace, "-6", "route", "add", "default", "via", "fd77:ffff::1"])?;
            }
            if !matches!(host, "lb" | "client") {
                // On the same wire replies would go straight to the client.
                let (v4, v6) = (Self::address("client", false), Self::address("client", true));
                ip(&["-n", &namespace, "route", "add", &v4, "via", "10.77.255.1"])?;
                ip(&["-n", &namespace, "-6", "route", "add", &v6, "via", "fd77:ffff::1"])?;
            }
        }
        self.wake_switch_port()
    }

    /// What a veth sends back by `XDP_TX` is picked up by its peer only where
    /// that has an XDP program (drivers/net/veth.c, `veth_xdp_flush`). Ours
    /// without a service passes everything.
    fn wake_switch_port(&self) -> Result<()> {
        let options = OpenOptions {
            bpffs: self.site.switch_bpffs(),
            flows: 1024,
            log: false,
            signals: 0,
            sole: true,
        };
        at(self, "net", || {
            let (mut plane, _) = Dataplane::open(&options)?;
            plane.attach(&Self::interface("lb"), canary::config::XdpMode::Native)
        })??;
        Ok(())
    }

    fn build(&self) -> Result<()> {
        for (number, host) in HOSTS.iter().enumerate() {
            self.plug(host, number, None)?;
        }
        for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            self.sysctl("lb", key, "1")?;
        }
        Ok(())
    }

    /// The wire between the balancer and a host, by which the host has all else.
    /// `mac`: the host's address on it, where that is not to be drawn.
    ///
    /// # Errors
    /// Where something of it cannot be made.
    pub fn plug(&self, host: &str, number: usize, mac: Option<&str>) -> Result<()> {
        let there = self.namespace(host);
        self.wire(host, (&Self::interface(host), "eth0"), number, mac)?;
        let (v4, v6) = (format!("10.77.{number}.1"), format!("fd77:{number}::1"));
        ip(&["-n", &there, "route", "add", "default", "via", &v4])?;
        ip(&["-n", &there, "-6", "route", "add", "default", "via", &v6])?;
        Ok(())
    }

    /// A pair of veths with a network of its own: the balancer's end and the
    /// host's.
    ///
    /// # Errors
    /// Where something of it cannot be made.
    pub fn wire(
        &self,
        host: &str,
        (here, there): (&str, &str),
        number: usize,
        mac: Option<&str>,
    ) -> Result<()> {
        let (lb, namespace) = (self.namespace("lb"), self.namespace(host));
        let pair = ["type", "veth", "peer", "name", there, "netns", &namespace];
        ip(&[["-n", &lb, "link", "add", here].as_slice(), &pair].concat())?;
        if let Some(mac) = mac {
            ip(&["-n", &namespace, "link", "set", there, "address", mac])?;
        }
        for (ns, dev, end) in [(&lb, here, 1), (&namespace, there, 2)] {
            let v4 = format!("10.77.{number}.{end}/24");
            let v6 = format!("fd77:{number}::{end}/64");
            ip(&["-n", ns, "addr", "add", &v4, "dev", dev])?;
            ip(&["-n", ns, "-6", "addr", "add", &v6, "dev", dev, "nodad"])?;
            ip(&["-n", ns, "link", "set", dev, "up"])?;
        }
        // Packets of local sockets have half a checksum, which native XDP does
        // not carry on; and a redirect to a veth needs its peer's GRO.
        self.command(host, "ethtool", &["-K", there, "tx", "off"])?;
        self.command(host, "ethtool", &["-K", there, "gro", "on"])?;
        Ok(())
    }

    /// The namespace of a host.
    #[must_use]
    pub fn namespace(&self, host: &str) -> String {
        self.site.namespace(host)
    }

    /// The balancer's interface towards a host.
    #[must_use]
    pub fn interface(host: &str) -> String {
        format!("cny{host}")
    }

    /// A host's address.
    #[must_use]
    pub fn address(host: &str, v6: bool) -> String {
        let number = Self::number(host);
        if v6 { format!("fd77:{number}::2") } else { format!("10.77.{number}.2") }
    }

    /// Of a host's network.
    fn number(host: &str) -> usize {
        let far = FAR.iter().position(|name| *name == host).map(|number| 100 + number);
        let near = HOSTS.iter().position(|name| *name == host);
        near.or(far).unwrap_or(HOSTS.len())
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

    /// Sets a kernel parameter of a host's network.
    ///
    /// # Errors
    /// Where there is none of that name, or it does not take the value.
    pub fn sysctl(&self, host: &str, key: &str, value: &str) -> Result<()> {
        self.command(host, "sysctl", &["-qw", &format!("{key}={value}")]).map(drop)
    }

    /// Leaves everything in place when this is dropped.
    pub fn keep(&self) {
        owner::forget(&self.site);
        self.keep.store(true, Ordering::Relaxed);
    }

    /// Where the lab's daemon pins its maps.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        self.site.bpffs()
    }

    /// What is pinned there, in order.
    ///
    /// # Errors
    /// Where there is no such directory.
    pub fn pins(&self) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(self.bpffs())?;
        let mut names: Vec<_> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// Ends all processes in the namespaces, and removes these, pins and files.
    pub fn remove(&self) {
        self.site.clear();
    }

    /// Names of what the lab would leave behind.
    #[must_use]
    pub fn residue(&self) -> Vec<String> {
        self.site.residue()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.keep.load(Ordering::Relaxed) {
            self.remove();
        }
        owner::forget(&self.site);
    }
}

impl Site {
    fn of(name: &str) -> Self {
        let prefix = if name.is_empty() { "cny".to_owned() } else { format!("cny-{name}") };
        let directory = std::env::temp_dir().join(format!("{prefix}-lab"));
        Self { prefix, directory }
    }

    /// All hosts there may be; `net` is the bridge.
    fn all_hosts() -> impl Iterator<Item = &'static str> {
        HOSTS.into_iter().chain(FAR).chain(["lb", "net"])
    }

    fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    fn bpffs(&self) -> PathBuf {
        Path::new("/sys/fs/bpf").join(format!("{}-maps", self.prefix))
    }

    /// Pins of the one-armed lab's switch port.
    fn switch_bpffs(&self) -> PathBuf {
        Path::new("/sys/fs/bpf").join(format!("{}-switch", self.prefix))
    }

    /// Failures show in the residue check.
    fn clear(&self) {
        for host in Self::all_hosts() {
            let namespace = self.namespace(host);
            if !Path::new("/run/netns").join(&namespace).exists() {
                continue;
            }
            for pid in ip(&["netns", "pids", &namespace]).unwrap_or_default().lines() {
                // Threads of this process visit the client's namespace.
                if pid != std::process::id().to_string() {
                    Command::new("kill").args(["-9", pid]).stderr(Stdio::null()).status().ok();
                }
            }
            ip(&["netns", "del", &namespace]).ok();
        }
        if self.directory.join(machine::DIRECTORY).exists() {
            machine::clear(&self.prefix, &self.directory);
        }
        for pins in [self.bpffs(), self.switch_bpffs()] {
            canary::dataplane::remove_pins(&pins).ok();
        }
        // A test may have mounted a disk of its own there.
        unmount(&self.directory.join("state"));
        fs::remove_dir_all(&self.directory).ok();
    }

    fn residue(&self) -> Vec<String> {
        let mut left: Vec<String> = Self::all_hosts()
            .map(|host| self.namespace(host))
            .filter(|name| Path::new("/run/netns").join(name).exists())
            .collect();
        let paths = [self.bpffs(), self.switch_bpffs(), self.directory.clone()];
        left.extend(paths.iter().filter(|p| p.exists()).map(|p| p.display().to_string()));
        left
    }
}

/// Nothing where nothing is mounted.
pub(crate) fn unmount(path: &Path) {
    use std::os::unix::ffi::OsStrExt as _;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
    // SAFETY: a terminated string.
    unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
}

/// Whether a program is on the path.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
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
