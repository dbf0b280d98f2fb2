//! What the kernel's messages say, and how it is asked. No I/O.

use std::net::IpAddr;

use canary_common::Mac;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage},
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
    route::{RouteAddress, RouteAttribute, RouteLwEnCapType, RouteMessage, RouteType, RouteVia},
};
use rtnetlink::{RouteMessageBuilder, packet_utils::nla::Nla as _};

/// The attribute with the flags that found no place in the header, and the one
/// of a neighbour that the kernel keeps fresh by itself
/// (include/uapi/linux/neighbour.h).
const NDA_FLAGS_EXT: u16 = 15;
const NTF_EXT_MANAGED: u32 = 1;

/// A neighbour: the interface, and who is asked for on its link. Not always of
/// the backend's family: IPv4 routes may have IPv6 gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Neighbour {
    pub(super) ifindex: u32,
    pub(super) address: IpAddr,
}

/// An interface that Ethernet frames can leave by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) mac: Mac,
    pub(super) mtu: u32,
}

pub(super) fn get_route(to: IpAddr) -> RouteNetlinkMessage {
    let prefix = if to.is_ipv4() { 32 } else { 128 };
    RouteNetlinkMessage::GetRoute(
        RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to, prefix)
            .map(RouteMessageBuilder::build)
            .unwrap_or_default(),
    )
}

pub(super) fn get_link(ifindex: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    RouteNetlinkMessage::GetLink(message)
}

/// Asks for the one entry: a table of thousands is not read for each backend.
pub(super) fn get_neighbour(neighbour: Neighbour) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = neighbour.ifindex;
    let (family, address) = match neighbour.address {
        IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
    };
    message.header.family = family;
    message.attributes.push(NeighbourAttribute::Destination(address));
    RouteNetlinkMessage::GetNeighbour(message)
}

/// Who is asked for a packet to `to`, or in words why nobody is.
pub(super) fn neighbour_of(route: &RouteMessage, to: IpAddr) -> Result<Neighbour, String> {
    let kind = match route.header.kind {
        RouteType::Unicast => None,
        RouteType::Local => return Err(format!("{to} is an address of this host")),
        RouteType::BlackHole => Some("blackhole"),
        RouteType::Unreachable => Some("unreachable"),
        RouteType::Prohibit => Some("prohibit"),
        RouteType::Broadcast => Some("broadcast"),
        RouteType::Multicast => Some("multicast"),
        _ => Some("special"),
    };
    if let Some(kind) = kind {
        return Err(no_way(kind, to));
    }
    let mut ifindex = None;
    let mut address = to;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(v4))
            | RouteAttribute::Via(RouteVia::Inet(v4)) => address = (*v4).into(),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6))
            | RouteAttribute::Via(RouteVia::Inet6(v6)) => address = (*v6).into(),
            RouteAttribute::EncapType(encapsulation)
                if *encapsulation != RouteLwEnCapType::None =>
            {
                return Err(format!(
                    "the route to {to} encapsulates packets ({encapsulation:?}); give it a plain \
                     route"
                ));
            }
            _ => {}
        }
    }
    let ifindex = ifindex.ok_or_else(|| format!("the route to {to} names no interface"))?;
    Ok(Neighbour { ifindex, address })
}

/// Why a route was refused. IPv4 says so of what leads nowhere by an error
/// number, where IPv6 answers with the route (`fib_props` in the kernel's
/// net/ipv4/fib_semantics.c).
pub(super) fn refused(errno: i32, to: IpAddr) -> String {
    match errno {
        libc::ENETUNREACH => format!("no route to {to}"),
        libc::EINVAL => no_way("blackhole", to),
        libc::EHOSTUNREACH => no_way("unreachable", to),
        libc::EACCES => no_way("prohibit", to),
        _ => {
            let error = std::io::Error::from_raw_os_error(errno);
            format!("the kernel gives no route to {to}: {error}")
        }
    }
}

fn no_way(kind: &str, to: IpAddr) -> String {
    match kind {
        "blackhole" => format!("the route to {to} is a blackhole"),
        kind => format!("the route to {to} is of type {kind}"),
    }
}

/// The interface, or in words why no frame can leave by it.
pub(super) fn link_of(message: &LinkMessage) -> Result<Link, String> {
    let mut name = message.header.index.to_string();
    let mut mac = None;
    let mut mtu = 0;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name.clone_from(text),
            LinkAttribute::Address(address) => mac = address.as_slice().try_into().ok(),
            LinkAttribute::Mtu(bytes) => mtu = *bytes,
            _ => {}
        }
    }
    // Loopback has six zero bytes for an address and is no Ethernet.
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let Some(mac) = mac.filter(|_| ethernet) else {
        return Err(format!(
            "interface {name} has no Ethernet address; only Ethernet is supported"
        ));
    };
    if !message.header.flags.contains(LinkFlags::Up) {
        return Err(format!("interface {name} is down"));
    }
    if !message.header.flags.contains(LinkFlags::LowerUp) {
        return Err(format!("interface {name} has no carrier"));
    }
    Ok(Link { name, mac, mtu })
}

/// Stale ones can be used, as the kernel itself does while it asks again.
pub(super) fn usable(state: NeighbourState) -> bool {
    matches!(
        state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    )
}

/// The neighbour's Ethernet address, where it is known.
pub(super) fn mac_of(message: &NeighbourMessage) -> Option<Mac> {
    if !usable(message.header.state) {
        return None;
    }
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLocalAddress(mac) => mac.as_slice().try_into().ok(),
        _ => None,
    })
}

/// With which flags the kernel is to be asked for a neighbour, or None where
/// it must not be: what is asked for becomes an ordinary entry (the kernel's
/// commit 3dc20f4762c6 of 2021, in stable kernels too), so that an operator's
/// static one would be lost, and one that the kernel manages would be let go.
/// What is fresh or being asked for needs it not.
pub(super) fn flags_to_ask(entry: Option<&NeighbourMessage>) -> Option<NeighbourFlags> {
    let Some(entry) = entry else {
        return Some(NeighbourFlags::Use);
    };
    let faded = matches!(
        entry.header.state,
        NeighbourState::None | NeighbourState::Stale | NeighbourState::Failed
    );
    if !faded || managed(entry) {
        return None;
    }
    // Not said again, it is taken away, and a routing daemon loses its entry.
    Some(NeighbourFlags::Use | (entry.header.flags & NeighbourFlags::ExtLearned))
}

fn managed(entry: &NeighbourMessage) -> bool {
    entry.attributes.iter().any(|attribute| match attribute {
        NeighbourAttribute::Other(other) if other.kind() == NDA_FLAGS_EXT => {
            let mut value = [0; size_of::<u32>()];
            if other.value_len() != value.len() {
                return false;
            }
            other.emit_value(&mut value);
            u32::from_ne_bytes(value) & NTF_EXT_MANAGED != 0
        }
        _ => false,
    })
}

/// Whom a message is about. None for the entries of bridges.
pub(super) fn about(message: &NeighbourMessage) -> Option<Neighbour> {
    let ifindex = message.header.ifindex;
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
            Some(Neighbour { ifindex, address: (*v4).into() })
        }
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
            Some(Neighbour { ifindex, address: (*v6).into() })
        }
        _ => None,
    })
}

/// Whether news can change an answer that was given. `told` has what was
/// answered for a neighbour; the outer None is that nobody asked. Neighbours
/// of others come and go all day, and ours are confirmed every few seconds.
pub(super) fn matters(
    news: &NetlinkPayload<RouteNetlinkMessage>,
    told: impl Fn(&Neighbour) -> Option<Option<Mac>>,
) -> bool {
    let (message, mac) = match news {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => {
            (message, mac_of(message))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(message)) => (message, None),
        // Links, routes, addresses; and that news were lost.
        _ => return true,
    };
    about(message).and_then(|neighbour| told(&neighbour)).is_some_and(|told| told != mac)
}
