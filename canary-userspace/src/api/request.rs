//! What is asked of the daemon. Handlers hold no state: they send one of
//! these to the task that owns it, and wait for the answer.

use std::{fmt, net::IpAddr};

use canary_common::Split;
use tokio::sync::{mpsc, oneshot};

use super::types::{
    DetachDrain, DrainStatus, Drill, DrillReport, Explanation, Flows, FollowedFlow, Forecast,
    History, Reloaded, RolloutCommand, RolloutStatus, Status, Steer, Steered, Weight, Where,
};

/// Where the answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// Who changes something. User and process are the kernel's word
/// (`SO_PEERCRED`); the command is what the process says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// `None` where the number has no name.
    pub user: Option<String>,
    pub uid: u32,
    pub pid: Option<i32>,
    /// `None` where it is over already, or hidden from the daemon.
    pub command: Option<String>,
}

impl Peer {
    /// The user alone: `alice (uid 1000)`.
    #[must_use]
    pub fn whose(&self) -> String {
        match &self.user {
            Some(user) => format!("{user} (uid {})", self.uid),
            None => format!("uid {}", self.uid),
        }
    }
}

/// `alice (uid 1000), pid 4711, canary weight web 10`.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.whose())?;
        if let Some(pid) = self.pid {
            write!(f, ", pid {pid}")?;
        }
        self.command.as_ref().map_or(Ok(()), |command| write!(f, ", {command}"))
    }
}

/// Why not, and what kind of mistake it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub kind: RefusalKind,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    NotFound,
    BadRequest,
    /// Not for whoever asked.
    Forbidden,
    /// It did not come whole in time.
    TooLate,
    /// Right as such, but not now.
    Conflict,
    /// Others ask for too much at present.
    Busy,
    Internal,
}

impl Refusal {
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { kind: RefusalKind::NotFound, message: message.into() }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self { kind: RefusalKind::BadRequest, message: message.into() }
    }

    pub fn forbidden(message: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Forbidden, message: message.into() }
    }

    #[must_use]
    pub fn too_late() -> Self {
        let message = "the request did not come whole in time; send it again".to_owned();
        Self { kind: RefusalKind::TooLate, message }
    }

    pub fn busy(message: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Busy, message: message.into() }
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Conflict, message: message.into() }
    }

    pub fn internal(message: impl fmt::Display) -> Self {
        Self { kind: RefusalKind::Internal, message: message.to_string() }
    }
}

/// One request.
#[derive(Debug)]
pub enum Request {
    Status {
        service: Option<String>,
        reply: Reply<Status>,
    },
    GetWeight {
        service: String,
        reply: Reply<Weight>,
    },
    SetWeight {
        service: String,
        split: Split,
        by: Peer,
        reply: Reply<Weight>,
    },
    SetDrain {
        service: String,
        target: String,
        drain: bool,
        by: Peer,
        reply: Reply<DrainStatus>,
    },
    DrainStatus {
        service: String,
        target: String,
        reply: Reply<DrainStatus>,
    },
    Where {
        service: String,
        client: IpAddr,
        port: Option<u16>,
        reply: Reply<Where>,
    },
    Flows {
        service: String,
        filter: FlowFilter,
        /// How many at most.
        limit: usize,
        reply: Reply<Flows>,
    },
    Follow {
        service: String,
        filter: FlowFilter,
        one_in: u32,
        reply: Reply<mpsc::Receiver<FollowedFlow>>,
    },
    Rollout {
        service: String,
        command: RolloutCommand,
        by: Peer,
        reply: Reply<RolloutStatus>,
    },
    Explain {
        service: String,
        reply: Reply<Explanation>,
    },
    History {
        service: String,
        /// How many at most, the latest.
        limit: usize,
        reply: Reply<History>,
    },
    Plan {
        service: String,
        reply: Reply<Forecast>,
    },
    Steer {
        service: String,
        steer: Steer,
        by: Peer,
        reply: Reply<Steered>,
    },
    Steered {
        service: String,
        limit: usize,
        reply: Reply<Steered>,
    },
    StartDrill {
        service: String,
        drill: Drill,
        by: Peer,
        reply: Reply<DrillReport>,
    },
    EndDrill {
        service: String,
        by: Peer,
        reply: Reply<DrillReport>,
    },
    Drill {
        service: String,
        reply: Reply<DrillReport>,
    },
    Reload {
        by: Peer,
        reply: Reply<Reloaded>,
    },
    /// `None` asks how far it is, and has it go on where whoever `waits` for it
    /// may end it, too.
    DetachDrain {
        drain: Option<bool>,
        waits: bool,
        by: Peer,
        reply: Reply<DetachDrain>,
    },
    Detach {
        by: Peer,
        reply: Reply<Vec<String>>,
    },
    Metrics {
        reply: Reply<String>,
    },
}

/// Which flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    pub track: Option<String>,
    pub backend: Option<String>,
}
