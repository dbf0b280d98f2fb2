//! Most packets: ordinary segments of established flows, datagrams, what is not
//! ours, and what opens a connection. They are taken to their end here, in one
//! piece and next to without a call. Whatever is not so plain is left as it is,
//! for [`crate::path`]: it decides by the same functions, and would come to the
//! same with these.

use core::mem::offset_of;

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use canary_common::{FlowFlags, FlowKey, FlowState, PROTO_TCP, PROTO_UDP, Reason, Service, Told};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    directory::Host,
    flows::{self, Pin},
    follow,
    fragments::Identity,
    maps::hash_keys,
    open,
    packet::{Header, Packet},
    parse::{ETHERTYPE_IPV4_BE, ETHERTYPE_IPV6_BE, FRAGMENT_BE, Ip, Parsed, Transport},
    path::{self, Verdict, backend_at, key_of, out, service_at, way_to},
    pick, signals,
    tcp::{self, TCP_FLAGS},
};

/// IPv4 without options: version and length in words.
const PLAIN_V4: u8 = 0x45;

/// What a plain packet comes to.
#[derive(Clone, Copy, Debug)]
pub enum Plain {
    Out(Verdict),
    /// A SYN to this service, for [`open`].
    Opens {
        service: u16,
        v6: bool,
    },
    /// For [`datagram`].
    Datagram(Datagram),
}

/// A datagram of ours.
#[derive(Clone, Copy, Debug)]
pub struct Datagram {
    /// Of the service that it is to, or of the backend that it is from.
    pub number: u16,
    pub from_backend: bool,
    pub v6: bool,
}

/// `None`: the packet is as it was, and so is everything else.
#[inline(always)]
pub fn follow(packet: &Packet, ingress: u32) -> Option<Plain> {
    let ethernet = packet.header::<{ EthHdr::LEN }>(0)?;
    match ethernet.get::<u16, { offset_of!(EthHdr, ether_type) }>() {
        ETHERTYPE_IPV4_BE => {
            let ip = packet.header::<{ Ipv4Hdr::LEN }>(EthHdr::LEN)?;
            if ip.get::<u8, { offset_of!(Ipv4Hdr, vihl) }>() != PLAIN_V4
                || ip.get::<u16, { offset_of!(Ipv4Hdr, frags) }>() & FRAGMENT_BE != 0
            {
                return None;
            }
            let tcp = packet.header(EthHdr::LEN + Ipv4Hdr::LEN)?;
            let protocol = ip.get::<u8, { offset_of!(Ipv4Hdr, proto) }>();
            along(packet, plain(ethernet, Ip::V4(ip), Transport::Tcp(tcp)), protocol, ingress)
        }
        ETHERTYPE_IPV6_BE => {
            let ip = packet.header::<{ Ipv6Hdr::LEN }>(EthHdr::LEN)?;
            if ip.get::<u8, { offset_of!(Ipv6Hdr, vcf) }>() >> 4 != 6 {
                return None;
            }
            let tcp = packet.header(EthHdr::LEN + Ipv6Hdr::LEN)?;
            let protocol = ip.get::<u8, { offset_of!(Ipv6Hdr, next_hdr) }>();
            let ip = Ip::V6(ip);
            ip.not_mapped().ok()?;
            along(packet, plain(ethernet, ip, Transport::Tcp(tcp)), protocol, ingress)
        }
        _ => None,
    }
}

#[inline(always)]
const fn plain(ethernet: Header<{ EthHdr::LEN }>, ip: Ip, transport: Transport) -> Parsed {
    Parsed { ethernet, ip, transport, fragment: Identity::WHOLE }
}

#[inline(always)]
fn along(packet: &Packet, parsed: Parsed, protocol: u8, ingress: u32) -> Option<Plain> {
    if protocol != PROTO_TCP && protocol != PROTO_UDP {
        return None;
    }
    let host = Host::get()?;
    let v6 = matches!(parsed.ip, Ip::V6(_));
    // The ports of both stand at the same place.
    let (source, destination) = (parsed.source_port_be(), parsed.destination_port_be());
    if let Some(service) = service_at(host, parsed.destination(), destination, protocol) {
        if protocol != PROTO_TCP {
            return Some(Plain::Datagram(Datagram { number: service.0, from_backend: false, v6 }));
        }
        if opens(&parsed) {
            return Some(Plain::Opens { service: service.0, v6 });
        }
        return from_client(host, packet, &parsed, service, ingress).map(Plain::Out);
    }
    if let Some(head) = backend_at(host, parsed.source(), source, protocol) {
        if protocol != PROTO_TCP {
            return Some(Plain::Datagram(Datagram { number: head, from_backend: true, v6 }));
        }
        return from_backend(host, packet, &parsed, head, ingress).map(Plain::Out);
    }
    Some(Plain::Out(Verdict { action: XDP_PASS, reason: Reason::NotOurs }))
}

/// Whether it is a SYN that opens a connection.
#[inline(always)]
fn opens(parsed: &Parsed) -> bool {
    let Transport::Tcp(tcp) = parsed.transport else { return false };
    tcp::opens(tcp.get::<u8, { TCP_FLAGS }>())
}

/// A SYN to a service, which [`follow`] has found plain.
#[inline(always)]
pub fn open(packet: &Packet, service: u16, v6: bool, ingress: u32) -> Option<Verdict> {
    let parsed = match v6 {
        false => plain_v4(packet, Transport::Tcp)?,
        true => plain_v6(packet, Transport::Tcp)?,
    };
    open::at_once(packet, &parsed, service, ingress)
}

/// The same of a datagram that begins a flow.
#[inline(always)]
pub fn open_datagram(packet: &Packet, service: u16, v6: bool, ingress: u32) -> Option<Verdict> {
    let parsed = match v6 {
        false => plain_v4(packet, Transport::Udp)?,
        true => plain_v6(packet, Transport::Udp)?,
    };
    open::at_once(packet, &parsed, service, ingress)
}

/// A datagram, of a packet which [`follow`] has found plain. `None`: as there.
#[inline(always)]
pub fn datagram(packet: &Packet, datagram: Datagram, ingress: u32) -> Option<Verdict> {
    match datagram.v6 {
        false => datagram_along(packet, &plain_v4(packet, Transport::Udp)?, datagram, ingress),
        true => datagram_along(packet, &plain_v6(packet, Transport::Udp)?, datagram, ingress),
    }
}

/// What [`follow`] has found plain.
#[inline(always)]
fn plain_v4<const N: usize>(
    packet: &Packet,
    transport: fn(Header<N>) -> Transport,
) -> Option<Parsed> {
    let transport = transport(packet.header(EthHdr::LEN + Ipv4Hdr::LEN)?);
    Some(plain(packet.header(0)?, Ip::V4(packet.header(EthHdr::LEN)?), transport))
}

#[inline(always)]
fn plain_v6<const N: usize>(
    packet: &Packet,
    transport: fn(Header<N>) -> Transport,
) -> Option<Parsed> {
    let transport = transport(packet.header(EthHdr::LEN + Ipv6Hdr::LEN)?);
    Some(plain(packet.header(0)?, Ip::V6(packet.header(EthHdr::LEN)?), transport))
}

#[inline(always)]
fn datagram_along(
    packet: &Packet,
    parsed: &Parsed,
    Datagram { number, from_backend, .. }: Datagram,
    ingress: u32,
) -> Option<Verdict> {
    let host = Host::get()?;
    if from_backend {
        return self::from_backend(host, packet, parsed, number, ingress);
    }
    from_client(host, packet, parsed, (number, host.service(number)?), ingress)
}

/// Those in which a flow's packets are plain; of UDP, all.
#[inline(always)]
const fn states(parsed: &Parsed) -> (FlowState, FlowState) {
    match parsed.transport {
        Transport::Tcp(_) => (FlowState::Established, FlowState::Established),
        Transport::Udp(_) => (FlowState::Unanswered, FlowState::Answered),
    }
}

#[inline(always)]
fn from_client(
    host: Host,
    packet: &Packet,
    parsed: &Parsed,
    (number, service): (u16, &'static Service),
    ingress: u32,
) -> Option<Verdict> {
    let key = key_of(parsed, number);
    let now = flows::now();
    let mut pin = flows::find_in(states(parsed), &key, key.hash(hash_keys()), now)?;
    let backend = pick::backend(host, pin.backend, number)?;
    if parsed.hop_limit() <= 1
        || FlowFlags::is_marked(pin.flags(), service.generation)
        || !pin.comes_by(&parsed.ethernet, ingress)
    {
        return None;
    }
    let action = way_to(backend, ingress).ok()?;
    let told = carry(packet, parsed, &mut pin, service, false, now)?;
    path::towards_backend(parsed, pin.backend, backend, pin.cell, told);
    follow::tell(&key, pin.backend, told);
    Some(Verdict { action, reason: Reason::Pinned })
}

#[inline(always)]
fn from_backend(
    host: Host,
    packet: &Packet,
    parsed: &Parsed,
    head: u16,
    ingress: u32,
) -> Option<Verdict> {
    let backend = host.backend(head)?;
    let service = host.service(backend.service)?;
    let key = FlowKey {
        client: parsed.destination(),
        client_port_be: parsed.destination_port_be(),
        service: backend.service,
    };
    let now = flows::now();
    let mut pin = flows::find_in(states(parsed), &key, key.hash(hash_keys()), now)?;
    if pin.backend != head || parsed.hop_limit() <= 1 || pin.flags() & FlowFlags::FAULTED != 0 {
        return None;
    }
    let way_back = pin.way_back()?;
    let action = out(way_back.ifindex, ingress).ok()?;
    let told = carry(packet, parsed, &mut pin, service, true, now)?;
    path::towards_client(parsed, &key, &pin, (service, backend), told, &way_back);
    Some(Verdict { action, reason: Reason::Reply })
}

/// Takes the flow along with a segment that changes nothing of its state, or a
/// datagram.
#[inline(always)]
fn carry(
    packet: &Packet,
    parsed: &Parsed,
    pin: &mut Pin,
    service: &Service,
    from_backend: bool,
    now: u32,
) -> Option<Told> {
    let wanted = signals::wanted(service);
    let segment = signals::segment(packet, parsed, from_backend, wanted);
    let before = pin.tracked();
    if !before.only_carries(&segment) {
        return None;
    }
    let mut next = before;
    let told = signals::carry(&mut next, &segment, wanted);
    if !pin.commit(&before, &next) {
        return None;
    }
    let timeouts = &service.timeouts;
    let timeout = match (parsed.transport, next.state) {
        (Transport::Tcp(_), _) => timeouts.established,
        (Transport::Udp(_), FlowState::Unanswered) => timeouts.unanswered,
        (Transport::Udp(_), _) => timeouts.answered,
    };
    pin.extend(timeout, now);
    Some(told)
}
