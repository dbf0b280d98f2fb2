//! ICMP and ICMPv6 errors about packets of pinned flows: who sent the quoted
//! packet must find in it what it sent (RFC 5508, 4.2 does the same for NAT).
//! Path-MTU discovery works through the balancer by this.

use core::mem::offset_of;

use canary_common::{Address, FlowKey, PROTO_TCP, PROTO_UDP, Reason};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    directory::Host,
    flows,
    layout::Layout,
    maps::hash_keys,
    packet::{Header, Packet},
    parse::{Ip, V4_OFFSET, ip_at, v4_header, v6_header},
    path::{Verdict, backend_at, out, service_at, way_to},
    pick,
    rewrite::{End, Translation, rewrite_frame_and_ip, update_checksum, update_udp_checksum},
};

/// Type, code, checksum, and a word that depends on the type; in both families.
const HEADER: usize = 8;
/// Destination unreachable, time exceeded, parameter problem (RFC 792).
const ERRORS_V4: [u8; 3] = [3, 11, 12];
/// Unreachable, too big, time exceeded, parameter problem (RFC 4443).
const ERRORS_V6: core::ops::RangeInclusive<u8> = 1..=4;
/// As much of the transport header as every error has (RFC 792).
const PORTS: usize = 8;

/// An error's parts.
struct IcmpError {
    ethernet: Header<{ EthHdr::LEN }>,
    outer: Ip,
    icmp: Header<HEADER>,
    /// The quoted packet.
    inner: Ip,
    ports: Header<PORTS>,
    is_udp: bool,
    /// TCP's header up to its checksum, where that is quoted.
    tcp: Option<Header<18>>,
}

/// What becomes of the two packets.
struct Becomes<'a> {
    /// The end that is ours in the quoted packet, and what it becomes.
    inner: Translation<'a>,
    /// The same of the packet around it.
    outer: Translation<'a>,
}

/// # Errors
/// The reason for which it goes to the host, untouched: other messages, and
/// errors about nothing of ours.
#[inline(always)]
pub fn translate(packet: &Packet, layout: Layout, ingress: u32) -> Result<Verdict, Reason> {
    let error = read(packet, layout)?;
    let host = Host::get().ok_or(Reason::Internal)?;
    // An error goes to who sent what it is about.
    let sender = error.inner.source();
    if !sender.same(&error.outer.destination()) {
        return Err(Reason::NotOurs);
    }
    let (sport_be, dport_be) = (error.ports.get::<u16, 0>(), error.ports.get::<u16, 2>());
    let protocol = if error.is_udp { PROTO_UDP } else { PROTO_TCP };
    let receiver = error.inner.destination();
    if let Some((service, _)) = service_at(host, sender, sport_be, protocol) {
        let flow = FlowKey { client: receiver, client_port_be: dport_be, service };
        return towards_backend(host, &error, &flow, ingress);
    }
    let head = backend_at(host, receiver, dport_be, protocol).ok_or(Reason::NotOurs)?;
    towards_client(host, &error, (sender, sport_be), head, ingress)
}

/// About a packet from the VIP to the client: the backend sent it.
#[inline(always)]
fn towards_backend(
    host: Host,
    error: &IcmpError,
    key: &FlowKey,
    ingress: u32,
) -> Result<Verdict, Reason> {
    let pin = flows::find(key, key.hash(hash_keys()), flows::now()).ok_or(Reason::NoPin)?;
    let backend = pick::backend(host, pin.backend, key.service).ok_or(Reason::NoPin)?;
    if error.outer.hop_limit() <= 1 {
        return Err(Reason::TtlExpired);
    }
    let action = way_to(backend, ingress)?;
    let inner = Translation::to_backend(End::Source, backend);
    let outer = Translation { end: End::Destination, ..inner };
    rewrite(error, &Becomes { inner, outer });
    Ok(Verdict { action, reason: Reason::IcmpError })
}

/// About a packet from the client to the backend: the client sent it, to the
/// VIP. A router that tells of it keeps its own address.
#[inline(always)]
fn towards_client(
    host: Host,
    error: &IcmpError,
    (client, client_port_be): (Address, u16),
    head: u16,
    ingress: u32,
) -> Result<Verdict, Reason> {
    let now = flows::now();
    let first = host.backend(head).ok_or(Reason::Internal)?;
    let mut key = FlowKey { client, client_port_be, service: first.service };
    // As replies do: see `path::from_backend`.
    let mut number = head;
    if first.next_sharing != 0 {
        number = match flows::find(&key, key.hash(hash_keys()), now) {
            Some(pin) if pin.backend == head => head,
            _ => pick::sharer(&key, head, None, now),
        };
    }
    let backend = host.backend(number).ok_or(Reason::NoPin)?;
    key.service = backend.service;
    let pin = flows::find(&key, key.hash(hash_keys()), now).ok_or(Reason::NoPin)?;
    if pin.backend != number {
        return Err(Reason::NoPin);
    }
    if error.outer.hop_limit() <= 1 {
        return Err(Reason::TtlExpired);
    }
    let service = host.service(backend.service).ok_or(Reason::Internal)?;
    let way_back = pin.way_back().ok_or(Reason::NoPin)?;
    let action = out(way_back.ifindex, ingress)?;
    let source = error.outer.source();
    let inner = Translation::to_vip(End::Destination, service, backend, &way_back.frame);
    let outer = Translation { end: End::Source, ..inner };
    let outer = match source.same(&backend.address) {
        true => outer,
        false => Translation { address: &source, address_delta: 0, ..outer },
    };
    rewrite(error, &Becomes { inner, outer });
    Ok(Verdict { action, reason: Reason::IcmpError })
}

#[inline(always)]
fn read(packet: &Packet, layout: Layout) -> Result<IcmpError, Reason> {
    let icmp = packet.header::<HEADER>(layout.transport()).ok_or(Reason::Truncated)?;
    let kind = icmp.get::<u8, 0>();
    let is_error =
        if layout.is_v6() { ERRORS_V6.contains(&kind) } else { ERRORS_V4.contains(&kind) };
    if !is_error {
        return Err(Reason::NotTcpUdp);
    }
    let at = layout.transport() + HEADER;
    let (inner, transport, protocol) =
        if layout.is_v6() { quoted_v6(packet, at) } else { quoted_v4(packet, at) }?;
    if protocol != PROTO_TCP && protocol != PROTO_UDP {
        return Err(Reason::NotTcpUdp);
    }
    let (ethernet, outer) = ip_at(packet, layout)?;
    // What the frame has beyond the packet is nobody's.
    let end = layout.ip() as u64 + outer.bytes();
    if end < (transport + PORTS) as u64 {
        return Err(Reason::Truncated);
    }
    let ports = packet.header::<PORTS>(transport).ok_or(Reason::Truncated)?;
    let is_udp = protocol == PROTO_UDP;
    let tcp = match is_udp || end < transport as u64 + 18 {
        true => None,
        false => packet.header::<18>(transport),
    };
    outer.not_mapped()?;
    inner.not_mapped()?;
    Ok(IcmpError { ethernet, outer, icmp, inner, ports, is_udp, tcp })
}

/// The quoted header, where the transport header behind it begins, and whose
/// that is.
#[inline(always)]
fn quoted_v4(packet: &Packet, at: usize) -> Result<(Ip, usize, u8), Reason> {
    let (ip, header_len) = v4_header(packet, at)?;
    // A later fragment has no ports.
    if ip.get::<u16, { offset_of!(Ipv4Hdr, frags) }>() & V4_OFFSET.to_be() != 0 {
        return Err(Reason::NotTcpUdp);
    }
    let protocol = ip.get::<u8, { offset_of!(Ipv4Hdr, proto) }>();
    Ok((Ip::told_v4(ip), at + header_len, protocol))
}

/// See [`quoted_v4`].
#[inline(always)]
fn quoted_v6(packet: &Packet, at: usize) -> Result<(Ip, usize, u8), Reason> {
    let ip = v6_header(packet, at)?;
    let protocol = ip.get::<u8, { offset_of!(Ipv6Hdr, next_hdr) }>();
    Ok((Ip::told_v6(ip), at + Ipv6Hdr::LEN, protocol))
}

/// What changes add to a checksum (RFC 1624, eqn. 3), before it is folded.
#[derive(Clone, Copy)]
struct Delta(u64);

impl Delta {
    #[inline(always)]
    fn word(&mut self, old: u16, new: u16) {
        self.0 += u64::from(!old) + u64::from(new);
    }

    #[inline(always)]
    fn words(&mut self, old: &Address, new: &Address, v6: bool) {
        let first = if v6 { 0 } else { 3 };
        for (old, new) in old.words_be[first..].iter().zip(&new.words_be[first..]) {
            self.word((old >> 16) as u16, (new >> 16) as u16);
            self.word(*old as u16, *new as u16);
        }
    }

    #[inline(always)]
    const fn folded(self) -> u32 {
        let sum = (self.0 & 0xffff) + (self.0 >> 16);
        ((sum & 0xffff) + (sum >> 16)) as u32
    }
}

#[inline(always)]
fn rewrite(error: &IcmpError, becomes: &Becomes<'_>) {
    let mut delta = rewrite_quoted(error, &becomes.inner);
    if let Ip::V6(_) = error.outer {
        // Its checksum covers the addresses around it (RFC 4443, 2.3).
        let old = match becomes.outer.end {
            End::Source => error.outer.source(),
            End::Destination => error.outer.destination(),
        };
        delta.words(&old, becomes.outer.address, true);
    }
    let check = error.icmp.get::<u16, 2>();
    error.icmp.set::<u16, 2>(update_checksum(check, delta.folded()));
    rewrite_frame_and_ip(error.ethernet, error.outer, &becomes.outer);
}

/// One end of the quoted packet; what that adds to the checksum around it.
#[inline(always)]
fn rewrite_quoted(error: &IcmpError, to: &Translation<'_>) -> Delta {
    let mut delta = Delta(0);
    let old = match to.end {
        End::Source => error.inner.source(),
        End::Destination => error.inner.destination(),
    };
    match error.inner {
        Ip::V4(ip) => {
            const CHECK: usize = offset_of!(Ipv4Hdr, check);
            let check = ip.get::<u16, CHECK>();
            let new = update_checksum(check, u32::from(to.address_delta));
            ip.set::<u16, CHECK>(new);
            delta.word(check, new);
            delta.words(&old, to.address, false);
        }
        Ip::V6(_) => delta.words(&old, to.address, true),
    }
    error.inner.set_address(to.end, to.address);
    let port = match to.end {
        End::Source => error.ports.get::<u16, 0>(),
        End::Destination => error.ports.get::<u16, 2>(),
    };
    delta.word(port, to.port_be);
    match to.end {
        End::Source => error.ports.set::<u16, 0>(to.port_be),
        End::Destination => error.ports.set::<u16, 2>(to.port_be),
    }
    if error.is_udp {
        let check = error.ports.get::<u16, 6>();
        let new = update_udp_checksum(check, to.transport_delta);
        error.ports.set::<u16, 6>(new);
        delta.word(check, new);
    } else if let Some(tcp) = error.tcp {
        let check = tcp.get::<u16, 16>();
        let new = update_checksum(check, u32::from(to.transport_delta));
        tcp.set::<u16, 16>(new);
        delta.word(check, new);
    }
    delta
}
