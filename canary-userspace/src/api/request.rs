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

/// Who asked, by `SO_PEERCRED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub uid: u32,
    pub pid: Option<i32>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {}", self.uid)?;
        self.pid.map_or(Ok(()), |pid| write!(f, " pid {pid}"))
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
    /// Right as such, but not now.
    Conflict,
    Internal,
}

impl Refusal {
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { kind: RefusalKind::NotFound, message: message.into() }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self { kind: RefusalKind::BadRequest, message: message.into() }
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
    /// `None` asks how far it is.
    DetachDrain {
        drain: Option<bool>,
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
