//! Next hops, from the kernel's routes and neighbours, and word of their
//! changes.
//!
//! The packet path looks nothing up: a backend's record says by which
//! interface and to which Ethernet address its packets go. What is not known
//! goes to the host's stack; meanwhile the kernel is asked to find out.

mod many;
mod message;
#[cfg(test)]
mod tests;
mod xdp;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use canary_common::Mac;
use futures_util::{Stream, StreamExt as _};
use message::{Link, Neighbour};
use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{NeighbourMessage, NeighbourState},
};
use rtnetlink::{
    Handle,
    constants::{
        RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE, RTMGRP_LINK,
        RTMGRP_NEIGH,
    },
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

pub use xdp::xdp_programs;

/// Changes come in bursts; one look after the burst is enough.
const BURST: Duration = Duration::from_millis(20);
/// The kernel answers in microseconds. An answer that was lost must not hold
/// up the daemon.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between attempts to get new sockets.
const REOPEN: Duration = Duration::from_secs(1);

/// How a packet to a backend leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Of the interface that it leaves by.
    pub ifindex: u32,
    /// That interface's own address, the frame's source.
    pub own_mac: Mac,
    /// The gateway's or the backend's own address, the frame's destination.
    pub next_hop_mac: Mac,
    /// Of the interface, in bytes from the IP header on.
    pub mtu: u32,
}

/// What the kernel knows of a way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    Resolved(NextHop),
    /// In words, for the operator.
    Unresolved {
        reason: String,
    },
}

/// The conversation with the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("opening a route socket: {0}")]
    Open(#[from] std::io::Error),
    #[error("asking the kernel for {what}: {source}")]
    Ask { what: &'static str, source: rtnetlink::Error },
    #[error("asking the kernel for {what}: no answer within {} s", PATIENCE.as_secs())]
    Silent { what: &'static str },
}

/// What the kernel says to one question.
trait Answers: Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Unpin {}
impl<T: Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Unpin> Answers for T {}

/// The Ethernet address that was last answered for a neighbour.
type Told = Arc<Mutex<BTreeMap<Neighbour, Option<Mac>>>>;

/// Asks, and listens for changes.
#[derive(Debug)]
pub struct Resolver {
    sockets: Sockets,
    /// Only grows: by the next hops of all configurations since the start.
    told: Told,
    /// Who is asked for the way to a backend, as last found.
    ways: BTreeMap<IpAddr, Neighbour>,
    /// When a change that was heard of is to be told.
    due: Option<Instant>,
}

/// One for questions, one for news: a flood of news (a full table from a
/// routing daemon) overflows its socket, and answers must not go with it.
#[derive(Debug)]
struct Sockets {
    handle: Handle,
    /// One place: all that happened before a look is one change.
    news: mpsc::Receiver<()>,
    /// None ends while its socket lives; all end with this.
    tasks: JoinSet<()>,
}

impl Sockets {
    fn open(told: Told) -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let (mut listening, _, mut messages) = rtnetlink::new_connection()?;
        let groups = RTMGRP_LINK
            | RTMGRP_NEIGH
            | RTMGRP_IPV4_IFADDR
            | RTMGRP_IPV4_ROUTE
            | RTMGRP_IPV6_IFADDR
            | RTMGRP_IPV6_ROUTE;
        let socket: &mut netlink_sys::TokioSocket = listening.socket_mut();
        netlink_sys::AsyncSocket::socket_mut(socket)
            .bind(&netlink_sys::SocketAddr::new(0, groups))?;
        let (sender, news) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        tasks.spawn(listening);
        tasks.spawn(async move {
            while let Some((message, _)) = messages.next().await {
                let told = |neighbour: &Neighbour| lock(&told).get(neighbour).copied();
                if message::matters(&message.payload, told) {
                    // Full: it will be told already.
                    sender.try_send(()).ok();
                }
            }
        });
        Ok(Self { handle, news, tasks })
    }
}

fn lock(told: &Told) -> std::sync::MutexGuard<'_, BTreeMap<Neighbour, Option<Mac>>> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Resolver {
    /// Opens the sockets, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Where the kernel gives no socket.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new() -> Result<Self, NetlinkError> {
        let told = Told::default();
        let sockets = Sockets::open(told.clone())?;
        Ok(Self { sockets, told, ways: BTreeMap::new(), due: None })
    }

    /// Completes when links, routes or addresses have changed, or a neighbour
    /// is no longer as [`Resolver::resolve`] answered. Losing the future loses
    /// no change.
    pub async fn changed(&mut self) {
        // The time is kept outside of the future: one that is dropped must not
        // take the news with it, nor begin the wait anew.
        let due = match self.due {
            Some(due) => due,
            None => {
                self.news().await;
                *self.due.insert(Instant::now() + BURST)
            }
        };
        sleep_until(due).await;
        self.sockets.news.try_recv().ok();
        self.due = None;
    }

    /// Waits for news. That the sockets were lost and replaced is news too:
    /// nobody listened meanwhile.
    async fn news(&mut self) {
        tokio::select! {
            Some(()) = self.sockets.news.recv() => return,
            _ = self.sockets.tasks.join_next() => {}
        }
        tracing::warn!("the route sockets are lost; opening new ones");
        loop {
            match Sockets::open(self.told.clone()) {
                Ok(sockets) => {
                    self.sockets = sockets;
                    return;
                }
                Err(error) => tracing::error!("{error}"),
            }
            sleep(REOPEN).await;
        }
    }

    /// The way to a backend. Where its neighbour is not known, the kernel is
    /// asked to find out; [`Resolver::changed`] tells when it has.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    pub async fn resolve(&mut self, backend: IpAddr) -> Result<Resolution, NetlinkError> {
        let mut found = self.resolve_all(&[backend]).await;
        // One question, one answer.
        found.pop().map_or(Err(NetlinkError::Silent { what: "a route" }), |(_, found)| found)
    }

    async fn link(&self, ifindex: u32) -> Result<Result<Link, String>, NetlinkError> {
        Ok(match self.question(message::get_link(ifindex), "an interface").await? {
            Ok(RouteNetlinkMessage::NewLink(link)) => message::link_of(&link),
            // Gone since the route was asked for.
            _ => Err(format!("there is no interface {ifindex} any more")),
        })
    }

    /// None where the kernel never heard of it.
    async fn entry(&self, neighbour: Neighbour) -> Result<Option<NeighbourMessage>, NetlinkError> {
        let answer = self.question(message::get_neighbour(neighbour), "a neighbour").await?;
        Ok(match answer {
            Ok(RouteNetlinkMessage::NewNeighbour(entry)) => Some(entry),
            _ => None,
        })
    }

    /// A question with one answer: a message, or the kernel's error number.
    async fn question(
        &self,
        message: RouteNetlinkMessage,
        what: &'static str,
    ) -> Result<Result<RouteNetlinkMessage, i32>, NetlinkError> {
        Self::answer(self.ask(message, what)?, what).await
    }

    /// Sends a question.
    fn ask(
        &self,
        message: RouteNetlinkMessage,
        what: &'static str,
    ) -> Result<impl Answers + use<>, NetlinkError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST;
        let asked = self.sockets.handle.clone().request(request);
        asked.map_err(|source| NetlinkError::Ask { what, source })
    }

    async fn answer(
        mut answers: impl Answers,
        what: &'static str,
    ) -> Result<Result<RouteNetlinkMessage, i32>, NetlinkError> {
        let answer =
            timeout(PATIENCE, answers.next()).await.map_err(|_| NetlinkError::Silent { what })?;
        match answer.map(|answer| answer.payload) {
            Some(NetlinkPayload::InnerMessage(message)) => Ok(Ok(message)),
            Some(NetlinkPayload::Error(error)) => Ok(Err(error.code.map_or(0, |code| -code.get()))),
            _ => Err(NetlinkError::Ask { what, source: rtnetlink::Error::RequestFailed }),
        }
    }

    /// `ip neigh … use`: as if a packet were sent; where the entry wants it. A
    /// refusal shows as a neighbour that stays unknown.
    async fn ask_for(&self, neighbour: Neighbour, entry: Option<&NeighbourMessage>) {
        let Some(flags) = message::flags_to_ask(entry) else { return };
        let request = self
            .sockets
            .handle
            .neighbours()
            .add(neighbour.ifindex, neighbour.address)
            .state(NeighbourState::None)
            .flags(flags)
            .replace();
        match timeout(PATIENCE, request.execute()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("asking for {}: {error}", neighbour.address),
            Err(_) => tracing::debug!("asking for {}: no answer", neighbour.address),
        }
    }
}
