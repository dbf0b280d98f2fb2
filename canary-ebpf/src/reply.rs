//! Answering a client in the backend's place: its own packet becomes a RST,
//! swapped and shortened where it stands. Every checksum from nothing.

use core::mem::offset_of;

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_xdp_adjust_tail, programs::XdpContext};
use canary_common::{Address, PROTO_TCP};
use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};

use crate::{
    layout::{Layout, Part},
    packet::{Header, Packet},
    parse::{Ip, Parsed, Transport, parse_at},
    rewrite::{End, rewrite_ethernet},
    tcp::{ACK, RST, Segment},
};

/// Shortest Ethernet frame, without its check sequence (IEEE 802.3, 4A.4.2).
const SHORTEST_FRAME: usize = 60;
/// What is behind the headers of the shortest frame there is.
const PADDING: usize = SHORTEST_FRAME - 14 - Ipv4Hdr::LEN - TcpHdr::LEN;
/// Hops that it has (RFC 1700's default, as most hosts have it).
const HOPS: u8 = 64;
/// Version, header length, no service; the RST's length. As it stands in memory.
const V4_FIRST: u32 = u32::from_ne_bytes([0x45, 0, 0, 40]);
/// No identification is needed where nothing is to be fragmented (RFC 6864).
const V4_SECOND: u32 = u32::from_ne_bytes([0, 0, 0x40, 0]);
const V4_THIRD: u32 = u32::from_ne_bytes([HOPS, PROTO_TCP, 0, 0]);
const V6_FIRST: u32 = u32::from_ne_bytes([0x60, 0, 0, 0]);
const V6_SECOND: u32 = u32::from_ne_bytes([0, TcpHdr::LEN as u8, PROTO_TCP, HOPS]);
/// Header length, flags, a closed window.
const TCP_FLAGS: u32 = u32::from_ne_bytes([(TcpHdr::LEN as u8 / 4) << 4, RST | ACK, 0, 0]);
/// Of the pseudo header: protocol and length.
const TCP_PSEUDO: u32 = u32::from_ne_bytes([0, PROTO_TCP, 0, TcpHdr::LEN as u8]);

/// A RST's numbers, host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rst {
    pub seq: u32,
    pub ack: u32,
}

impl Rst {
    /// In answer to a segment: where its sender expects the next byte, and
    /// acknowledging all that it sent (RFC 9293, 3.10.7.1).
    #[inline(always)]
    pub const fn to(segment: &Segment) -> Self {
        let seq = if segment.flags & ACK != 0 { segment.ack } else { 0 };
        Self { seq, ack: segment.after_all() }
    }
}

/// Whether a packet can be answered: whole, in one piece, and with nothing
/// between the IP header and TCP's.
#[inline(always)]
pub fn can_answer(packet: &Packet, layout: Layout, parsed: &Parsed) -> bool {
    let header = if layout.is_v6() { Ipv6Hdr::LEN } else { Ipv4Hdr::LEN };
    layout.part() == Part::Whole
        && layout.protocol() == PROTO_TCP
        && layout.transport() == layout.ip() + header
        && layout.ip() as u64 + parsed.ip_bytes() <= packet.bytes() as u64
}

/// Makes the packet the RST that answers it, to go out where it came in.
/// `false`: it is as it was. Whoever holds pointers into it has to let go.
#[inline(always)]
pub fn rst(ctx: *mut xdp_md, layout: Layout, rst: Rst) -> bool {
    canary_answer(ctx, layout.0, rst.seq, rst.ack) != 0
}

/// A function of its own to the verifier; and to the compiler, which would
/// leave out checks of the new bounds that follow from those of the old ones.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn canary_answer(ctx: *mut xdp_md, layout: u64, seq: u32, ack: u32) -> u32 {
    u32::from(make_rst(ctx, Layout(layout), Rst { seq, ack }))
}

#[inline(always)]
fn make_rst(ctx: *mut xdp_md, layout: Layout, rst: Rst) -> bool {
    if !shorten(ctx, layout) {
        return false;
    }
    let packet = Packet::of(&XdpContext::new(ctx));
    let Ok(parsed) = parse_at(&packet, layout) else { return false };
    let Transport::Tcp(tcp) = parsed.transport else { return false };
    let (client, vip) = (parsed.source(), parsed.destination());
    rewrite_ethernet(parsed.ethernet, &parsed.reply_frame());
    match parsed.ip {
        Ip::V4(ip) => write_v4(ip, sum_of(&client) + sum_of(&vip)),
        Ip::V6(ip) => {
            ip.set::<u32, 0>(V6_FIRST);
            ip.set::<u32, 4>(V6_SECOND);
        }
    }
    parsed.ip.set_address(End::Source, &vip);
    parsed.ip.set_address(End::Destination, &client);
    write_tcp(tcp, rst, sum_of(&client) + sum_of(&vip));
    let behind = layout.transport() + TcpHdr::LEN;
    for i in 0..PADDING {
        // What is left of the client's own.
        if let Some(byte) = packet.header::<1>(behind + i) {
            byte.set::<u8, 0>(0);
        }
    }
    true
}

/// Options and data go; an Ethernet frame's least stays.
#[inline(always)]
fn shorten(ctx: *mut xdp_md, layout: Layout) -> bool {
    let len = Packet::of(&XdpContext::new(ctx)).bytes();
    let headers = layout.transport() + TcpHdr::LEN;
    let wanted = if headers > SHORTEST_FRAME { headers } else { SHORTEST_FRAME };
    if len <= wanted {
        return true;
    }
    // SAFETY: the run's own context.
    unsafe { bpf_xdp_adjust_tail(ctx, wanted as i32 - len as i32) == 0 }
}

#[inline(always)]
fn write_v4(ip: Header<{ Ipv4Hdr::LEN }>, addresses: u64) {
    ip.set::<u32, 0>(V4_FIRST);
    ip.set::<u32, 4>(V4_SECOND);
    ip.set::<u32, 8>(V4_THIRD);
    let sum = addresses + u64::from(V4_FIRST) + u64::from(V4_SECOND) + u64::from(V4_THIRD);
    ip.set::<u16, { offset_of!(Ipv4Hdr, check) }>(checksum(sum));
}

#[inline(always)]
fn write_tcp(tcp: Header<{ TcpHdr::LEN }>, rst: Rst, addresses: u64) {
    let source = tcp.get::<u16, { offset_of!(TcpHdr, source) }>();
    let destination = tcp.get::<u16, { offset_of!(TcpHdr, dest) }>();
    let (seq, ack) = (rst.seq.to_be(), rst.ack.to_be());
    tcp.set::<u16, { offset_of!(TcpHdr, source) }>(destination);
    tcp.set::<u16, { offset_of!(TcpHdr, dest) }>(source);
    tcp.set::<u32, { offset_of!(TcpHdr, seq) }>(seq);
    tcp.set::<u32, { offset_of!(TcpHdr, ack_seq) }>(ack);
    tcp.set::<u32, { offset_of!(TcpHdr, _bitfield_1) }>(TCP_FLAGS);
    let sum = addresses
        + u64::from(source)
        + u64::from(destination)
        + u64::from(seq)
        + u64::from(ack)
        + u64::from(TCP_FLAGS)
        + u64::from(TCP_PSEUDO);
    // Neither urgent data nor what stood there before.
    tcp.set::<u16, { offset_of!(TcpHdr, urg_ptr) }>(0);
    tcp.set::<u16, { offset_of!(TcpHdr, check) }>(checksum(sum));
}

/// An address's part of a sum. What stands before a mapped one is 0xffff, the
/// other zero of one's complement.
#[inline(always)]
const fn sum_of(address: &Address) -> u64 {
    let words = &address.words_be;
    words[0] as u64 + words[1] as u64 + words[2] as u64 + words[3] as u64
}

/// The Internet checksum (RFC 1071) of what 32-bit words came to, at most 2^37;
/// all as they stand in memory.
#[inline(always)]
const fn checksum(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}
