//! From bytes to who is speaking to whom. Everything that is not plain TCP or
//! UDP over IP in Ethernet ends here, with its reason.

use core::mem::offset_of;

use canary_common::{Address, Mac, PROTO_TCP, PROTO_UDP, Reason};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};

use crate::{
    packet::{Header, Packet},
    tcp::Segment,
};

const ETHERTYPE_IPV4_BE: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6_BE: u16 = 0x86dd_u16.to_be();
/// More-fragments bit and fragment offset.
const FRAGMENT_BE: u16 = 0x3fff_u16.to_be();

/// The IP header's fixed part.
#[derive(Clone, Copy, Debug)]
pub enum Ip {
    V4(Header<{ Ipv4Hdr::LEN }>),
    V6(Header<{ Ipv6Hdr::LEN }>),
}

/// The transport header's fixed part.
#[derive(Clone, Copy, Debug)]
pub enum Transport {
    Tcp(Header<{ TcpHdr::LEN }>),
    Udp(Header<{ UdpHdr::LEN }>),
}

/// A packet that may be ours.
#[derive(Clone, Copy, Debug)]
pub struct Parsed {
    pub ethernet: Header<{ EthHdr::LEN }>,
    pub ip: Ip,
    pub transport: Transport,
    pub source: Address,
    pub destination: Address,
    pub source_port_be: u16,
    pub destination_port_be: u16,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// IP header and payload, as the IP header says.
    pub ip_bytes: u32,
}

impl Parsed {
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp(_) => PROTO_TCP,
            Transport::Udp(_) => PROTO_UDP,
        }
    }

    /// The frame's source and destination.
    #[inline(always)]
    pub fn macs(&self) -> (Mac, Mac) {
        const SRC: usize = offset_of!(EthHdr, src_addr);
        const DST: usize = offset_of!(EthHdr, dst_addr);
        let mac = |words: [u16; 3]| {
            let [a, b, c] = words.map(u16::to_ne_bytes);
            [a[0], a[1], b[0], b[1], c[0], c[1]]
        };
        let frame = self.ethernet;
        (
            mac([
                frame.get::<u16, SRC>(),
                frame.get::<u16, { SRC + 2 }>(),
                frame.get::<u16, { SRC + 4 }>(),
            ]),
            mac([
                frame.get::<u16, DST>(),
                frame.get::<u16, { DST + 2 }>(),
                frame.get::<u16, { DST + 4 }>(),
            ]),
        )
    }
}

#[inline(always)]
pub fn parse(packet: &Packet) -> Result<Parsed, Reason> {
    let ethernet = packet.header::<{ EthHdr::LEN }>(0).ok_or(Reason::Truncated)?;
    match ethernet.get::<u16, { offset_of!(EthHdr, ether_type) }>() {
        ETHERTYPE_IPV4_BE => parse_v4(packet, ethernet),
        ETHERTYPE_IPV6_BE => parse_v6(packet, ethernet),
        _ => Err(Reason::NotIp),
    }
}

#[inline(always)]
fn parse_v4(packet: &Packet, ethernet: Header<{ EthHdr::LEN }>) -> Result<Parsed, Reason> {
    let ip = packet.header::<{ Ipv4Hdr::LEN }>(EthHdr::LEN).ok_or(Reason::Truncated)?;
    let version_and_length = ip.get::<u8, { offset_of!(Ipv4Hdr, vihl) }>();
    // The header's length is in 32-bit words; options make it more than five.
    let header_len = usize::from(version_and_length & 0xf) * 4;
    if version_and_length >> 4 != 4 || header_len < Ipv4Hdr::LEN {
        return Err(Reason::Malformed);
    }
    if ip.get::<u16, { offset_of!(Ipv4Hdr, frags) }>() & FRAGMENT_BE != 0 {
        return Err(Reason::Fragment);
    }
    let protocol = ip.get::<u8, { offset_of!(Ipv4Hdr, proto) }>();
    let (transport, ports_be) = transport(packet, EthHdr::LEN + header_len, protocol)?;
    Ok(Parsed {
        ethernet,
        ip: Ip::V4(ip),
        transport,
        source: Address::from_v4_be(ip.get::<u32, { offset_of!(Ipv4Hdr, src_addr) }>()),
        destination: Address::from_v4_be(ip.get::<u32, { offset_of!(Ipv4Hdr, dst_addr) }>()),
        source_port_be: ports_be.0,
        destination_port_be: ports_be.1,
        hop_limit: ip.get::<u8, { offset_of!(Ipv4Hdr, ttl) }>(),
        ip_bytes: u32::from(u16::from_be(ip.get::<u16, { offset_of!(Ipv4Hdr, tot_len) }>())),
    })
}

#[inline(always)]
fn parse_v6(packet: &Packet, ethernet: Header<{ EthHdr::LEN }>) -> Result<Parsed, Reason> {
    const SRC: usize = offset_of!(Ipv6Hdr, src_addr);
    const DST: usize = offset_of!(Ipv6Hdr, dst_addr);
    let ip = packet.header::<{ Ipv6Hdr::LEN }>(EthHdr::LEN).ok_or(Reason::Truncated)?;
    if ip.get::<u8, { offset_of!(Ipv6Hdr, vcf) }>() >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    let protocol = ip.get::<u8, { offset_of!(Ipv6Hdr, next_hdr) }>();
    let (transport, ports_be) = transport(packet, EthHdr::LEN + Ipv6Hdr::LEN, protocol)?;
    let payload = u16::from_be(ip.get::<u16, { offset_of!(Ipv6Hdr, payload_len) }>());
    Ok(Parsed {
        ethernet,
        ip: Ip::V6(ip),
        transport,
        source: Address {
            words_be: [
                ip.get::<u32, SRC>(),
                ip.get::<u32, { SRC + 4 }>(),
                ip.get::<u32, { SRC + 8 }>(),
                ip.get::<u32, { SRC + 12 }>(),
            ],
        },
        destination: Address {
            words_be: [
                ip.get::<u32, DST>(),
                ip.get::<u32, { DST + 4 }>(),
                ip.get::<u32, { DST + 8 }>(),
                ip.get::<u32, { DST + 12 }>(),
            ],
        },
        source_port_be: ports_be.0,
        destination_port_be: ports_be.1,
        hop_limit: ip.get::<u8, { offset_of!(Ipv6Hdr, hop_limit) }>(),
        ip_bytes: u32::from(payload) + Ipv6Hdr::LEN as u32,
    })
}

#[inline(always)]
fn transport(
    packet: &Packet,
    offset: usize,
    protocol: u8,
) -> Result<(Transport, (u16, u16)), Reason> {
    match protocol {
        PROTO_TCP => {
            let tcp = packet.header::<{ TcpHdr::LEN }>(offset).ok_or(Reason::Truncated)?;
            let source = tcp.get::<u16, { offset_of!(TcpHdr, source) }>();
            Ok((Transport::Tcp(tcp), (source, tcp.get::<u16, { offset_of!(TcpHdr, dest) }>())))
        }
        PROTO_UDP => {
            let udp = packet.header::<{ UdpHdr::LEN }>(offset).ok_or(Reason::Truncated)?;
            let source = udp.get::<u16, { offset_of!(UdpHdr, src) }>();
            Ok((Transport::Udp(udp), (source, udp.get::<u16, { offset_of!(UdpHdr, dst) }>())))
        }
        _ => Err(Reason::NotTcpUdp),
    }
}

/// What the state machine needs of a TCP header.
#[inline(always)]
pub fn segment(tcp: Header<{ TcpHdr::LEN }>) -> Segment {
    /// The byte with FIN, SYN, RST, ACK: after the data offset's byte.
    const FLAGS: usize = offset_of!(TcpHdr, _bitfield_1) + 1;
    Segment {
        flags: tcp.get::<u8, FLAGS>(),
        seq: u32::from_be(tcp.get::<u32, { offset_of!(TcpHdr, seq) }>()),
        ack: u32::from_be(tcp.get::<u32, { offset_of!(TcpHdr, ack_seq) }>()),
    }
}
