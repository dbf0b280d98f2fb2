//! Most packets: ordinary segments of established flows, what is not ours, and
//! what opens a connection. They are taken to their end here, in one piece and
//! next to without a call. Whatever is not so plain is left as it is, for
//! [`crate::path`]: it decides by the same functions, and would come to the
//! same with these.

use core::mem::offset_of;

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use canary_common::{FlowFlags, FlowKey, PROTO_TCP, PROTO_UDP, Reason, Service, Told};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
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
    tcp::{self, By, TCP_FLAGS},
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
            along(packet, plain(ethernet, Ip::V4(ip), tcp), protocol, ingress)
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
            along(packet, plain(ethernet, ip, tcp), protocol, ingress)
        }
        _ => None,
    }
}

#[inline(always)]
fn plain(ethernet: Header<{ EthHdr::LEN }>, ip: Ip, tcp: Header<{ TcpHdr::LEN }>) -> Parsed {
    Parsed { ethernet, ip, transport: Transport::Tcp(tcp), fragment: Identity::WHOLE }
}

#[inline(always)]
fn along(packet: &Packet, parsed: Parsed, protocol: u8, ingress: u32) -> Option<Plain> {
    if protocol != PROTO_TCP && protocol != PROTO_UDP {
        return None;
    }
    let host = Host::get()?;
    // The ports of both stand at the same place.
    let (source, destination) = (parsed.source_port_be(), parsed.destination_port_be());
    if let Some(service) = service_at(host, parsed.destination(), destination, protocol) {
        if protocol != PROTO_TCP {
            return None;
        }
        if opens(&parsed) {
            return Some(Plain::Opens { service: service.0, v6: matches!(parsed.ip, Ip::V6(_)) });
        }
        return from_client(host, packet, &parsed, service, ingress).map(Plain::Out);
    }
    if let Some(head) = backend_at(host, parsed.source(), source, protocol) {
        if protocol != PROTO_TCP {
            return None;
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
    let ethernet = packet.header::<{ EthHdr::LEN }>(0)?;
    let parsed = match v6 {
        false => {
            let tcp = packet.header(EthHdr::LEN + Ipv4Hdr::LEN)?;
            plain(ethernet, Ip::V4(packet.header(EthHdr::LEN)?), tcp)
        }
        true => {
            let tcp = packet.header(EthHdr::LEN + Ipv6Hdr::LEN)?;
            plain(ethernet, Ip::V6(packet.header(EthHdr::LEN)?), tcp)
        }
    };
    open::at_once(packet, &parsed, service, ingress)
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
    let mut pin = flows::established(&key, key.hash(hash_keys()), now)?;
    let backend = pick::backend(host, pin.backend, number)?;
    if parsed.hop_limit() <= 1
        || FlowFlags::is_marked(pin.flags(), service.generation)
        || !pin.comes_by(&parsed.ethernet, ingress)
    {
        return None;
    }
    let action = way_to(backend, ingress).ok()?;
    let told = carry(packet, parsed, &mut pin, service, By::Client, now)?;
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
    let mut pin = flows::established(&key, key.hash(hash_keys()), now)?;
    if pin.backend != head || parsed.hop_limit() <= 1 || pin.flags() & FlowFlags::FAULTED != 0 {
        return None;
    }
    let way_back = pin.way_back()?;
    let action = out(way_back.ifindex, ingress).ok()?;
    let told = carry(packet, parsed, &mut pin, service, By::Backend, now)?;
    path::towards_client(parsed, &key, &pin, (service, backend), told, &way_back);
    Some(Verdict { action, reason: Reason::Reply })
}

/// Takes the flow along with a segment that changes nothing of its state.
#[inline(always)]
fn carry(
    packet: &Packet,
    parsed: &Parsed,
    pin: &mut Pin,
    service: &Service,
    by: By,
    now: u32,
) -> Option<Told> {
    let wanted = signals::wanted(service);
    let segment = signals::segment(packet, parsed, by == By::Backend, wanted);
    let before = pin.tracked();
    if !before.only_carries(&segment) {
        return None;
    }
    let mut next = before;
    let told = signals::carry(&mut next, &segment, wanted);
    if !pin.commit(&before, &next) {
        return None;
    }
    pin.extend(service.timeouts.established, now);
    Some(told)
}
