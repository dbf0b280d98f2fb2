//! What the configuration says of backends' health: how they are asked, and
//! what of their answers to clients takes them out for a while.

use std::{fmt, time::Duration};

/// `[health]`, `[service.NAME.health]` and that of a track. Without `check` and
/// `eject` nothing is watched.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// How a backend is asked; `None`: it is not.
    pub check: Option<CheckKind>,
    /// Asked on another port than clients are sent to.
    pub port: Option<u16>,
    pub http: HttpCheck,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// From the end of one check to the beginning of the next, on average.
    pub interval: Duration,
    pub timeout: Duration,
    /// Each interval is longer or shorter by up to this fraction of it.
    pub jitter: f64,
    /// Passes in a row that bring a backend back.
    pub rise: u32,
    /// Failures in a row that take it out.
    pub fall: u32,
    /// What a backend counts as that was never asked.
    pub initial: Initial,
    /// A backend that cannot be connected to, and is silent towards clients, for
    /// so long is gone: its flows are picked again. `None`: never.
    pub gone_after: Option<Duration>,
    pub eject: Eject,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// It takes a connection.
    Tcp,
    Http,
    Https,
    /// A program says so.
    Command,
}

impl CheckKind {
    /// As the file and the status write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Https => "https",
            Self::Command => "command",
        }
    }

    /// Whether it asks by HTTP.
    #[must_use]
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }
}

/// What is asked by HTTP, and what a good answer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    /// With its query.
    pub path: String,
    /// The `Host` header, and whose the certificate must be; by default the
    /// backend's address.
    pub host: Option<String>,
    /// Good ones.
    pub status: Vec<StatusRange>,
    /// The body's beginning contains this.
    pub body: Option<String>,
    /// Whether the certificate must be good.
    pub verify: bool,
}

/// From the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange(pub u16, pub u16);

impl StatusRange {
    #[must_use]
    pub const fn has(self, status: u16) -> bool {
        self.0 <= status && status <= self.1
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == self.1 { write!(f, "{}", self.0) } else { write!(f, "{}-{}", self.0, self.1) }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Initial {
    #[default]
    Up,
    Down,
}

/// When the kernel's counters alone take a backend out for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Eject {
    pub enabled: bool,
    /// Failures without a handshake done in between.
    pub consecutive: u32,
    /// Or so many of the connections of a window, a fraction of 1 …
    pub share: f64,
    /// … if there were so many.
    pub min_connections: u32,
    pub window: Duration,
    /// How long the first time; each time in a row twice as long …
    pub base: Duration,
    /// … but no longer than this.
    pub longest: Duration,
    /// Of a track's backends that take new flows, how many may be out at once
    /// because of this, a fraction of 1. One stays always.
    pub most: f64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            check: None,
            port: None,
            http: HttpCheck::default(),
            command: Vec::new(),
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            jitter: 0.1,
            rise: 2,
            fall: 3,
            initial: Initial::Up,
            gone_after: Some(Duration::from_secs(30)),
            eject: Eject::default(),
        }
    }
}

impl Default for HttpCheck {
    fn default() -> Self {
        Self {
            path: "/".to_owned(),
            host: None,
            // Who redirects answers.
            status: vec![StatusRange(200, 399)],
            body: None,
            verify: true,
        }
    }
}

impl Default for Eject {
    fn default() -> Self {
        Self {
            enabled: false,
            consecutive: 5,
            share: 0.5,
            min_connections: 20,
            window: Duration::from_secs(10),
            base: Duration::from_secs(30),
            longest: Duration::from_secs(300),
            most: 0.5,
        }
    }
}

impl Health {
    /// Whether anything is watched.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.check.is_some() || self.eject.enabled
    }
}
