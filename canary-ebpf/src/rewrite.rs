//! Translating a packet in place. Checksums are updated from what changed
//! (RFC 1624), so a packet that came in with a bad one leaves with a bad one.

use core::mem::offset_of;

use canary_common::{Address, Backend, FrameAddresses, Service};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};

use crate::{
    packet::Header,
    parse::{Ip, Parsed, Transport},
};

/// What decrementing the TTL adds: TTL is the high byte of its 16-bit word,
/// and less 0x0100 is plus its one's complement.
const TTL_DELTA: u16 = (!0x0100_u16).to_be();

/// Which end of the packet is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Source,
    Destination,
}

/// What a packet becomes.
#[derive(Clone, Copy, Debug)]
pub struct Translation<'a> {
    pub end: End,
    pub address: &'a Address,
    pub port_be: u16,
    /// See [`canary_common::Backend`].
    pub address_delta: u16,
    pub transport_delta: u16,
    pub frame: &'a FrameAddresses,
}

impl<'a> Translation<'a> {
    /// From the VIP to a backend; `end` is whose address that is.
    #[inline(always)]
    pub const fn to_backend(end: End, backend: &'a Backend) -> Self {
        Self {
            end,
            address: &backend.address,
            port_be: backend.port_be,
            address_delta: backend.address_delta,
            transport_delta: backend.transport_delta,
            frame: &backend.frame,
        }
    }

    /// And back: from a backend to the VIP, in a client's frame.
    #[inline(always)]
    pub const fn to_vip(
        end: End,
        service: &'a Service,
        backend: &Backend,
        frame: &'a FrameAddresses,
    ) -> Self {
        Self {
            end,
            address: &service.vip,
            port_be: service.port_be,
            address_delta: !backend.address_delta,
            transport_delta: !backend.transport_delta,
            frame,
        }
    }
}

#[inline(always)]
pub fn rewrite(parsed: &Parsed, to: &Translation<'_>) {
    match parsed.transport {
        Transport::Tcp(tcp) => rewrite_tcp(tcp, to),
        Transport::Udp(udp) => rewrite_udp(udp, to),
    }
    rewrite_frame_and_ip(parsed.ethernet, parsed.ip, to);
}

/// Of a packet without a transport header.
#[inline(always)]
pub fn rewrite_frame_and_ip(ethernet: Header<{ EthHdr::LEN }>, ip: Ip, to: &Translation<'_>) {
    match ip {
        Ip::V4(ip) => rewrite_v4(ip, to),
        Ip::V6(ip) => rewrite_v6(ip),
    }
    ip.set_address(to.end, to.address);
    rewrite_ethernet(ethernet, to.frame);
}

impl Ip {
    /// One end's address, and nothing else.
    #[inline(always)]
    pub fn set_address(self, end: End, address: &Address) {
        const SRC: usize = offset_of!(Ipv6Hdr, src_addr);
        const DST: usize = offset_of!(Ipv6Hdr, dst_addr);
        let words = &address.words_be;
        match (self, end) {
            (Self::V4(ip), End::Source) => {
                ip.set::<u32, { offset_of!(Ipv4Hdr, src_addr) }>(words[3]);
            }
            (Self::V4(ip), End::Destination) => {
                ip.set::<u32, { offset_of!(Ipv4Hdr, dst_addr) }>(words[3]);
            }
            (Self::V6(ip), End::Source) => {
                ip.set::<u32, SRC>(words[0]);
                ip.set::<u32, { SRC + 4 }>(words[1]);
                ip.set::<u32, { SRC + 8 }>(words[2]);
                ip.set::<u32, { SRC + 12 }>(words[3]);
            }
            (Self::V6(ip), End::Destination) => {
                ip.set::<u32, DST>(words[0]);
                ip.set::<u32, { DST + 4 }>(words[1]);
                ip.set::<u32, { DST + 8 }>(words[2]);
                ip.set::<u32, { DST + 12 }>(words[3]);
            }
        }
    }
}

/// A checksum after a change that adds `delta` to the sum (RFC 1624, eqn. 3).
#[inline(always)]
pub const fn update_checksum(checksum: u16, delta: u32) -> u16 {
    let sum = (!checksum) as u32 + delta;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// The same of UDP's. Zero says "no checksum" (RFC 768; over IPv6, RFC 6935), so
/// it stays, and a sum that comes out as zero is written as its other form.
#[inline(always)]
pub const fn update_udp_checksum(checksum: u16, delta: u16) -> u16 {
    if checksum == 0 {
        return 0;
    }
    match update_checksum(checksum, delta as u32) {
        0 => 0xffff,
        updated => updated,
    }
}

#[inline(always)]
fn rewrite_v4(ip: Header<{ Ipv4Hdr::LEN }>, to: &Translation<'_>) {
    let check = ip.get::<u16, { offset_of!(Ipv4Hdr, check) }>();
    let delta = u32::from(to.address_delta) + u32::from(TTL_DELTA);
    ip.set::<u16, { offset_of!(Ipv4Hdr, check) }>(update_checksum(check, delta));
    let ttl = ip.get::<u8, { offset_of!(Ipv4Hdr, ttl) }>();
    ip.set::<u8, { offset_of!(Ipv4Hdr, ttl) }>(ttl.wrapping_sub(1));
}

#[inline(always)]
fn rewrite_v6(ip: Header<{ Ipv6Hdr::LEN }>) {
    let hops = ip.get::<u8, { offset_of!(Ipv6Hdr, hop_limit) }>();
    ip.set::<u8, { offset_of!(Ipv6Hdr, hop_limit) }>(hops.wrapping_sub(1));
}

#[inline(always)]
fn rewrite_tcp(tcp: Header<{ TcpHdr::LEN }>, to: &Translation<'_>) {
    let check = tcp.get::<u16, { offset_of!(TcpHdr, check) }>();
    tcp.set::<u16, { offset_of!(TcpHdr, check) }>(update_checksum(
        check,
        u32::from(to.transport_delta),
    ));
    match to.end {
        End::Source => tcp.set::<u16, { offset_of!(TcpHdr, source) }>(to.port_be),
        End::Destination => tcp.set::<u16, { offset_of!(TcpHdr, dest) }>(to.port_be),
    }
}

#[inline(always)]
fn rewrite_udp(udp: Header<{ UdpHdr::LEN }>, to: &Translation<'_>) {
    let check = udp.get::<u16, { offset_of!(UdpHdr, check) }>();
    let updated = update_udp_checksum(check, to.transport_delta);
    udp.set::<u16, { offset_of!(UdpHdr, check) }>(updated);
    match to.end {
        End::Source => udp.set::<u16, { offset_of!(UdpHdr, src) }>(to.port_be),
        End::Destination => udp.set::<u16, { offset_of!(UdpHdr, dst) }>(to.port_be),
    }
}

#[inline(always)]
pub fn rewrite_ethernet(ethernet: Header<{ EthHdr::LEN }>, frame: &FrameAddresses) {
    let words = &frame.words;
    ethernet.set::<u32, 0>(words[0]);
    ethernet.set::<u32, 4>(words[1]);
    ethernet.set::<u32, 8>(words[2]);
}
