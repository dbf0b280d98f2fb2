//! The configuration: from text to a checked [`Config`], with every mistake at
//! once. `docs/configuration.md` is its reference.
//!
//! A file is parsed into a tree that knows its places (`toml`), read key by key
//! into a draft (`read…`, `service`, `field`, `address`, `reach`), then checked across
//! values (`check`). Each step notes what is wrong (`mistakes`) and goes on.
//! Only [`load`] does I/O.

mod address;
mod check;
mod field;
pub mod health;
mod host;
mod keys;
mod mistakes;
mod reach;
mod read;
mod read_evidence;
mod read_health;
mod read_outside;
mod read_rollout;
mod read_socket;
mod read_steer;
mod read_steps;
pub mod rollout;
mod service;
mod suggest;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use canary_common::{Cidr, Signals, Track};
use toml::de::DeTable;

use self::{mistakes::Problems, read::Draft, service::DraftService};

pub use self::{
    health::Health,
    host::{LoadError, check_host, load, load_to_run},
    mistakes::{Mistake, Mistakes},
    rollout::{Evidence, Rollout},
};

/// Backends over all services: half of the kernel's records, so that a reload
/// that replaces every backend has room for the new ones beside the old.
pub const MAX_CONFIGURED_BACKENDS: usize = canary_common::MAX_BACKENDS as usize / 2;

/// Largest weight of a backend inside its track.
pub const MAX_BACKEND_WEIGHT: u32 = 1000;

/// Smallest table that is accepted: a slot is then less than half a percent of
/// its track.
pub const MIN_TABLE_SIZE: u32 = 251;

/// Reads a configuration and checks all that can be checked without a look at
/// the host. `path` is for the messages only.
pub fn parse(text: &str, path: &str) -> Result<Config, Mistakes> {
    let mut problems = Problems::new(text);
    let draft = draft(text, &mut problems);
    problems.finish(path)?;
    Ok(draft.config)
}

/// Everything that can be read of `text`, nothing if it is no TOML. Whatever is
/// wrong is in `problems`, and if nothing is, the draft is whole.
fn draft(text: &str, problems: &mut Problems<'_>) -> Draft {
    let (tree, errors) = DeTable::parse_recoverable(text);
    // What follows the first error is often only its echo.
    let place = |error: &toml::de::Error| error.span().unwrap_or(0..0);
    if let Some(error) = errors.iter().min_by_key(|error| place(error).start) {
        problems.add(
            place(error),
            format!("not TOML: {}", error.message()),
            "mend this first; the rest is checked after that (strings stand in quotes, lists \
             in [ ], a key once in its table)",
        );
        return Draft::default();
    }
    let mut draft = read::read(tree.get_ref(), problems);
    check::check(&draft, problems);
    draft.config.services =
        std::mem::take(&mut draft.services).into_iter().filter_map(DraftService::finish).collect();
    draft.config.services.sort_by(|a, b| a.name.cmp(&b.name));
    draft
}

/// A whole configuration, every default filled in and every rule checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub interfaces: Vec<String>,
    pub xdp_mode: XdpMode,
    /// Flows the table has room for.
    pub flows: u32,
    pub socket: PathBuf,
    pub socket_access: SocketAccess,
    /// Where maps and links are pinned.
    pub bpffs: PathBuf,
    pub state_dir: PathBuf,
    pub metrics: Metrics,
    pub log: Log,
    /// [`Signals`] that the kernel program reads at all.
    pub signals: u16,
    /// By name, sorted.
    pub services: Vec<Service>,
}

/// Who may use the daemon's socket. Groups are names or numbers, and looked up
/// by the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketAccess {
    /// May do everything, beside root; `None`: the daemon's own group.
    pub group: Option<String>,
    /// May only ask.
    pub read_group: Option<String>,
    /// Permission bits, as the file has them.
    pub configured_mode: Option<u32>,
}

impl SocketAccess {
    /// Permission bits of the socket. With a `read_group` everybody gets as far
    /// as the daemon, which then looks who it is: a file has one group only.
    #[must_use]
    pub fn mode(&self) -> u32 {
        let default = if self.read_group.is_some() { 0o666 } else { 0o660 };
        self.configured_mode.unwrap_or(default)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// Native where the driver has it, else generic with a warning.
    #[default]
    Auto,
    Native,
    Generic,
}

impl XdpMode {
    /// As the file has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// `None`: no HTTP listener.
    pub listen: Option<SocketAddr>,
    /// A file for node_exporter's textfile collector.
    pub textfile: Option<PathBuf>,
    pub textfile_interval: Duration,
    pub histograms: Histograms,
}

/// How many of the histograms' buckets are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Histograms {
    /// All four of each octave.
    #[default]
    Full,
    /// One of each octave.
    Coarse,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// As the configuration and the API write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
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
    /// How a new version is brought in by itself; without it by hand only.
    pub rollout: Option<Rollout>,
    pub evidence: Evidence,
    /// How backends are watched, by [`Track`].
    pub health: [Health; 2],
    /// Clients with a track of their own.
    pub steer: Vec<Steer>,
    /// [`Signals`] that are read for this service.
    pub signals: u16,
}

/// A network of clients whose new connections go to one track, whatever the
/// split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steer {
    pub clients: Cidr,
    pub track: Track,
    /// Also while the guard, or a rollback, keeps others from the canary.
    pub always: bool,
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

/// What a file that says nothing would give; without interfaces and services
/// it is of no use by itself.
impl Default for Config {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            xdp_mode: XdpMode::Auto,
            flows: 262_144,
            socket: PathBuf::from("/run/canary/canary.sock"),
            socket_access: SocketAccess::default(),
            bpffs: PathBuf::from("/sys/fs/bpf/canary"),
            state_dir: PathBuf::from("/var/lib/canary"),
            metrics: Metrics::default(),
            log: Log::default(),
            signals: Signals::ALL,
            services: Vec::new(),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 9871))),
            textfile: None,
            textfile_interval: Duration::from_secs(15),
            histograms: Histograms::Full,
        }
    }
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
