//! Next hops, from the kernel's routes and neighbours, and word of their
//! changes.
//!
//! The packet path looks nothing up: a backend's record says by which
//! interface and to which Ethernet address its packets go. What is not known
//! goes to the host's stack; meanwhile the kernel is asked to find out.

use std::{net::IpAddr, time::Duration};

use canary_common::Mac;
use futures_util::{StreamExt as _, stream::TryStreamExt as _};
use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage},
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
};
use rtnetlink::{
    Handle, RouteMessageBuilder,
    constants::{
        RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE, RTMGRP_LINK,
        RTMGRP_NEIGH,
    },
};
use tokio::sync::mpsc;

/// Changes come in bursts; one look after the burst is enough.
const BURST: Duration = Duration::from_millis(20);

/// How a packet to a backend leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    pub ifindex: u32,
    pub own_mac: Mac,
    pub next_hop_mac: Mac,
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
}

/// Asks, and listens for changes.
#[derive(Debug)]
pub struct Resolver {
    handle: Handle,
    changes: mpsc::UnboundedReceiver<()>,
    /// A change was heard of and not yet told.
    changing: bool,
}

/// A route's end: the interface, and who is asked for on its link.
struct Route {
    ifindex: u32,
    neighbour: IpAddr,
}

struct Link {
    name: String,
    mac: Option<Mac>,
    mtu: u32,
    up: bool,
}

impl Resolver {
    /// Opens the socket, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Where the kernel gives no socket.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new() -> Result<Self, NetlinkError> {
        let (mut connection, handle, mut messages) = rtnetlink::new_connection()?;
        let groups = RTMGRP_LINK
            | RTMGRP_NEIGH
            | RTMGRP_IPV4_IFADDR
            | RTMGRP_IPV4_ROUTE
            | RTMGRP_IPV6_IFADDR
            | RTMGRP_IPV6_ROUTE;
        let address = netlink_sys::SocketAddr::new(0, groups);
        let socket: &mut netlink_sys::TokioSocket = connection.socket_mut();
        netlink_sys::AsyncSocket::socket_mut(socket).bind(&address)?;
        let (sender, changes) = mpsc::unbounded_channel();
        tokio::spawn(connection);
        tokio::spawn(async move {
            while messages.next().await.is_some() {
                // The daemon is gone: so is the listener.
                if sender.send(()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { handle, changes, changing: false })
    }

    /// Completes when links, routes, addresses or neighbours have changed.
    /// Losing the future loses no change.
    pub async fn changed(&mut self) {
        if !self.changing {
            if self.changes.recv().await.is_none() {
                // No socket any more: nothing will ever change.
                std::future::pending::<()>().await;
            }
            // Written down before the next wait: a future that is dropped
            // there must not take the news with it.
            self.changing = true;
        }
        tokio::time::sleep(BURST).await;
        while self.changes.try_recv().is_ok() {}
        self.changing = false;
    }

    /// The way to a backend. Where its neighbour is not known, the kernel is
    /// asked to find out; [`Resolver::changed`] tells when it has.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    pub async fn resolve(&mut self, backend: IpAddr) -> Result<Resolution, NetlinkError> {
        let unresolved = |reason: String| Ok(Resolution::Unresolved { reason });
        let route = match self.route(backend).await? {
            Ok(route) => route,
            Err(reason) => return unresolved(reason),
        };
        let Some(link) = self.link(route.ifindex).await? else {
            return unresolved(format!("the interface of the route to {backend} is gone"));
        };
        if !link.up {
            return unresolved(format!("interface {} is down", link.name));
        }
        let Some(own_mac) = link.mac else {
            return unresolved(format!(
                "interface {} has no Ethernet address; only Ethernet is supported",
                link.name
            ));
        };
        let Some(next_hop_mac) = self.neighbour(&route).await? else {
            self.ask(&route).await;
            return unresolved(format!("{} does not answer on {}", route.neighbour, link.name));
        };
        Ok(Resolution::Resolved(NextHop {
            ifindex: route.ifindex,
            own_mac,
            next_hop_mac,
            mtu: link.mtu,
        }))
    }

    /// Has the kernel look at the neighbours of these backends again: traffic
    /// that passes it by confirms none, and unconfirmed ones are forgotten.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    pub async fn refresh(&mut self, backends: &[IpAddr]) -> Result<(), NetlinkError> {
        for &backend in backends {
            if let Ok(route) = self.route(backend).await? {
                self.ask(&route).await;
            }
        }
        Ok(())
    }

    /// `ip route get`: the route, or why there is none.
    async fn route(&self, to: IpAddr) -> Result<Result<Route, String>, NetlinkError> {
        let prefix = if to.is_ipv4() { 32 } else { 128 };
        let message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to, prefix)
            .map(RouteMessageBuilder::build)
            .unwrap_or_default();
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(message));
        request.header.flags = NLM_F_REQUEST;
        let ask = |source| NetlinkError::Ask { what: "a route", source };
        let mut answers = self.handle.clone().request(request).map_err(ask)?;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
                    return Ok(route_end(&route, to));
                }
                NetlinkPayload::Error(error) => {
                    return Ok(Err(match error.code.map(|code| -code.get()) {
                        Some(libc::ENETUNREACH) => format!("no route to {to}"),
                        _ => format!("the route to {to} leads nowhere ({error})"),
                    }));
                }
                _ => {}
            }
        }
        Ok(Err(format!("no route to {to}")))
    }

    async fn link(&self, ifindex: u32) -> Result<Option<Link>, NetlinkError> {
        let mut links = self.handle.link().get().match_index(ifindex).execute();
        match links.try_next().await {
            Ok(message) => Ok(message.as_ref().map(link_of)),
            Err(rtnetlink::Error::NetlinkError(_)) => Ok(None),
            Err(source) => Err(NetlinkError::Ask { what: "an interface", source }),
        }
    }

    async fn neighbour(&self, route: &Route) -> Result<Option<Mac>, NetlinkError> {
        let version = match route.neighbour {
            IpAddr::V4(_) => rtnetlink::IpVersion::V4,
            IpAddr::V6(_) => rtnetlink::IpVersion::V6,
        };
        let request = self.handle.neighbours().get().set_family(version);
        let mut neighbours = request.execute();
        let ask = |source| NetlinkError::Ask { what: "a neighbour", source };
        let mut found = None;
        // To the end, so that no answer is left for the next request.
        while let Some(message) = neighbours.try_next().await.map_err(ask)? {
            if message.header.ifindex == route.ifindex {
                found = found.or(mac_of(&message, route.neighbour));
            }
        }
        Ok(found)
    }

    /// `ip neigh … use`: as if a packet were sent. A refusal shows as a
    /// neighbour that stays unknown.
    async fn ask(&self, route: &Route) {
        let request = self
            .handle
            .neighbours()
            .add(route.ifindex, route.neighbour)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        if let Err(error) = request.execute().await {
            tracing::debug!("asking for neighbour {}: {error}", route.neighbour);
        }
    }
}

fn route_end(route: &RouteMessage, to: IpAddr) -> Result<Route, String> {
    match route.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Err(format!("{to} is an address of this host")),
        kind => return Err(format!("the route to {to} is of kind {kind:?}")),
    }
    let mut ifindex = None;
    let mut neighbour = to;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(v4))
            | RouteAttribute::Via(RouteVia::Inet(v4)) => neighbour = (*v4).into(),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6))
            | RouteAttribute::Via(RouteVia::Inet6(v6)) => neighbour = (*v6).into(),
            _ => {}
        }
    }
    let ifindex = ifindex.ok_or_else(|| format!("the route to {to} names no interface"))?;
    Ok(Route { ifindex, neighbour })
}

fn link_of(message: &LinkMessage) -> Link {
    let mut link = Link {
        name: message.header.index.to_string(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(address) => link.mac = address.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            _ => {}
        }
    }
    link
}

/// The neighbour's address, where the message is about it and it can be used:
/// stale ones can, the kernel does the same.
fn mac_of(message: &NeighbourMessage, address: IpAddr) -> Option<Mac> {
    let usable = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    );
    let about = message.attributes.iter().any(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address == *v4,
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address == *v6,
        _ => false,
    });
    if !usable || !about {
        return None;
    }
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLocalAddress(mac) => mac.as_slice().try_into().ok(),
        _ => None,
    })
}
