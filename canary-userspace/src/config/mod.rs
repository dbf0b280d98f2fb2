//! The configuration, checked. `docs/configuration.md` is its reference.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// A whole configuration, every default filled in and every rule checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub interfaces: Vec<String>,
    pub xdp_mode: XdpMode,
    /// Flows the table has room for.
    pub flows: u32,
    pub socket: PathBuf,
    /// Where maps and links are pinned.
    pub bpffs: PathBuf,
    pub state_dir: PathBuf,
    pub metrics: Metrics,
    pub log: Log,
    /// By name, sorted.
    pub services: Vec<Service>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// Native where the driver has it, else generic with a warning.
    #[default]
    Auto,
    Native,
    Generic,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// `None`: no HTTP listener.
    pub listen: Option<SocketAddr>,
    /// A file for node_exporter's textfile collector.
    pub textfile: Option<PathBuf>,
    pub textfile_interval: Duration,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    pub target: LogTarget,
    /// Sampled messages of the kernel program.
    pub data_plane: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogTarget {
    #[default]
    Stderr,
    Journald,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Affinity {
    #[default]
    Flow,
    Client,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub name: String,
    pub listen: SocketAddr,
    pub protocol: Protocol,
    /// At least one in `stable`.
    pub stable: Vec<Backend>,
    pub canary: Vec<Backend>,
    /// The canary's share when the service is first set up, a fraction of 1.
    /// Later values are set by command and are not undone by a reload.
    pub weight: f64,
    pub affinity: Affinity,
    /// Seed of the pick: every host with the same one picks alike. Defaults
    /// to the service's name.
    pub seed: String,
    /// Slots of a Maglev table, a prime.
    pub table_size: u32,
    pub timeouts: Timeouts,
    pub rollback: Rollback,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    pub address: SocketAddr,
    /// Share inside its track; 0 takes no new flows.
    pub weight: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub half_open: Duration,
    pub established: Duration,
    pub closing: Duration,
    pub unanswered: Duration,
    pub answered: Duration,
}

/// When the daemon takes the canary out by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rollback {
    pub enabled: bool,
    /// How much larger the canary's share of bad connections may be than
    /// stable's, as a fraction of 1.
    pub max_excess: f64,
    /// Canary connections before a verdict.
    pub min_connections: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            // Past the third retransmission of a SYN (1 + 2 + 4 s).
            half_open: Duration::from_secs(10),
            // RFC 5382, REQ-5: not less than 2 hours 4 minutes.
            established: Duration::from_secs(7440),
            // Twice Linux's TIME_WAIT.
            closing: Duration::from_secs(120),
            unanswered: Duration::from_secs(30),
            // RFC 4787, REQ-5: not less than two minutes, five recommended.
            answered: Duration::from_secs(300),
        }
    }
}

impl Default for Rollback {
    fn default() -> Self {
        Self { enabled: true, max_excess: 0.05, min_connections: 20 }
    }
}

impl Service {
    /// The address family is the listener's and all backends'.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.listen.ip()
    }
}
