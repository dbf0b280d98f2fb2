//! From bytes to who is speaking to whom. What is not plain TCP or UDP over IP
//! in Ethernet ends here with its reason, unless its [`Layout`] is known.

use core::mem::offset_of;

use canary_common::{Address, FrameAddresses, PROTO_TCP, PROTO_UDP, Reason};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};

use crate::{
    atomic,
    fragments::Identity,
    layout::Layout,
    packet::{Header, Packet},
};

pub const ETHERTYPE_IPV4_BE: u16 = 0x0800_u16.to_be();
pub const ETHERTYPE_IPV6_BE: u16 = 0x86dd_u16.to_be();
/// More-fragments bit and fragment offset, of IPv4.
pub const V4_MORE: u16 = 0x2000;
pub const V4_OFFSET: u16 = 0x1fff;
/// Both, as they stand in memory.
pub const FRAGMENT_BE: u16 = (V4_MORE | V4_OFFSET).to_be();

/// The IP header's fixed part.
#[derive(Clone, Copy, Debug)]
pub enum Ip {
    V4(Header<{ Ipv4Hdr::LEN }>),
    V6(Header<{ Ipv6Hdr::LEN }>),
}

impl Ip {
    /// An IPv4 header found by a [`Layout`]. The compiler would remember which
    /// family it is by the layout's bit, on the stack, and Linux 6.1 does
    /// not know there what a branch on that bit said: to its verifier it could
    /// be IPv6, and too short. The number made in each branch it knows.
    #[inline(always)]
    pub fn told_v4(ip: Header<{ Ipv4Hdr::LEN }>) -> Self {
        Self::told(ip.start(), atomic::unknown(0))
    }

    /// See [`Ip::told_v4`].
    #[inline(always)]
    pub fn told_v6(ip: Header<{ Ipv6Hdr::LEN }>) -> Self {
        Self::told(ip.start(), atomic::unknown(1))
    }

    #[inline(always)]
    fn told(start: *mut u8, v6: usize) -> Self {
        match v6 {
            // SAFETY: of the callers' headers, which were that long.
            0 => Self::V4(unsafe { Header::at(start) }),
            // SAFETY: as above.
            _ => Self::V6(unsafe { Header::at(start) }),
        }
    }

    /// An IPv4-mapped address is nobody's on the wire (RFC 4291, 2.5.5.2), and
    /// ours for IPv4: it must not pass for an IPv4 service's or backend's. To
    /// be looked at when all else is in order.
    #[inline(always)]
    pub fn not_mapped(&self) -> Result<(), Reason> {
        let mapped = match self {
            Self::V4(_) => false,
            Self::V6(_) => self.source().is_v4() | self.destination().is_v4(),
        };
        if mapped { Err(Reason::NotOurs) } else { Ok(()) }
    }

    #[inline(always)]
    pub fn source(&self) -> Address {
        const V6: usize = offset_of!(Ipv6Hdr, src_addr);
        match self {
            Ip::V4(ip) => Address::from_v4_be(ip.get::<u32, { offset_of!(Ipv4Hdr, src_addr) }>()),
            Ip::V6(ip) => Address {
                words_be: [
                    ip.get::<u32, V6>(),
                    ip.get::<u32, { V6 + 4 }>(),
                    ip.get::<u32, { V6 + 8 }>(),
                    ip.get::<u32, { V6 + 12 }>(),
                ],
            },
        }
    }

    #[inline(always)]
    pub fn destination(&self) -> Address {
        const V6: usize = offset_of!(Ipv6Hdr, dst_addr);
        match self {
            Ip::V4(ip) => Address::from_v4_be(ip.get::<u32, { offset_of!(Ipv4Hdr, dst_addr) }>()),
            Ip::V6(ip) => Address {
                words_be: [
                    ip.get::<u32, V6>(),
                    ip.get::<u32, { V6 + 4 }>(),
                    ip.get::<u32, { V6 + 8 }>(),
                    ip.get::<u32, { V6 + 12 }>(),
                ],
            },
        }
    }

    /// TTL or hop limit.
    #[inline(always)]
    pub fn hop_limit(&self) -> u8 {
        match self {
            Ip::V4(ip) => ip.get::<u8, { offset_of!(Ipv4Hdr, ttl) }>(),
            Ip::V6(ip) => ip.get::<u8, { offset_of!(Ipv6Hdr, hop_limit) }>(),
        }
    }

    /// IP header and payload, as the IP header says.
    #[inline(always)]
    pub fn bytes(&self) -> u64 {
        match self {
            Ip::V4(ip) => {
                u64::from(u16::from_be(ip.get::<u16, { offset_of!(Ipv4Hdr, tot_len) }>()))
            }
            Ip::V6(ip) => {
                let payload = ip.get::<u16, { offset_of!(Ipv6Hdr, payload_len) }>();
                u64::from(u16::from_be(payload)) + Ipv6Hdr::LEN as u64
            }
        }
    }
}

/// The transport header's fixed part.
#[derive(Clone, Copy, Debug)]
pub enum Transport {
    Tcp(Header<{ TcpHdr::LEN }>),
    Udp(Header<{ UdpHdr::LEN }>),
}

/// A packet that may be ours. Fields are read where they are needed.
#[derive(Clone, Copy, Debug)]
pub struct Parsed {
    pub ethernet: Header<{ EthHdr::LEN }>,
    pub ip: Ip,
    pub transport: Transport,
    /// Of a first fragment.
    pub fragment: Identity,
}

impl Parsed {
    #[inline(always)]
    pub fn source(&self) -> Address {
        self.ip.source()
    }

    #[inline(always)]
    pub fn destination(&self) -> Address {
        self.ip.destination()
    }

    /// TTL or hop limit.
    #[inline(always)]
    pub fn hop_limit(&self) -> u8 {
        self.ip.hop_limit()
    }

    /// IP header and payload, as the IP header says.
    #[inline(always)]
    pub fn ip_bytes(&self) -> u64 {
        self.ip.bytes()
    }

    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp(_) => PROTO_TCP,
            Transport::Udp(_) => PROTO_UDP,
        }
    }

    #[inline(always)]
    pub fn source_port_be(&self) -> u16 {
        match self.transport {
            Transport::Tcp(tcp) => tcp.get::<u16, { offset_of!(TcpHdr, source) }>(),
            Transport::Udp(udp) => udp.get::<u16, { offset_of!(UdpHdr, src) }>(),
        }
    }

    #[inline(always)]
    pub fn destination_port_be(&self) -> u16 {
        match self.transport {
            Transport::Tcp(tcp) => tcp.get::<u16, { offset_of!(TcpHdr, dest) }>(),
            Transport::Udp(udp) => udp.get::<u16, { offset_of!(UdpHdr, dst) }>(),
        }
    }

    /// Transport header and payload, as the IP header says; what the headers
    /// contradict wraps.
    #[inline(always)]
    pub fn transport_bytes(&self) -> u64 {
        let before = match (self.ip, self.transport) {
            (Ip::V4(ip), Transport::Tcp(tcp)) => tcp.behind(ip),
            (Ip::V4(ip), Transport::Udp(udp)) => udp.behind(ip),
            (Ip::V6(ip), Transport::Tcp(tcp)) => tcp.behind(ip),
            (Ip::V6(ip), Transport::Udp(udp)) => udp.behind(ip),
        };
        self.ip_bytes().wrapping_sub(before as u64)
    }

    /// How the frame of a reply begins: source and destination swapped.
    #[inline(always)]
    pub fn reply_frame(&self) -> FrameAddresses {
        let frame = self.ethernet;
        let (destination, source) = (
            frame.get::<[u16; 3], { offset_of!(EthHdr, dst_addr) }>(),
            frame.get::<[u16; 3], { offset_of!(EthHdr, src_addr) }>(),
        );
        let word = |a: u16, b: u16| {
            let ([a, b], [c, d]) = (a.to_ne_bytes(), b.to_ne_bytes());
            u32::from_ne_bytes([a, b, c, d])
        };
        FrameAddresses {
            words: [
                word(source[0], source[1]),
                word(source[2], destination[0]),
                word(destination[1], destination[2]),
            ],
        }
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

/// An IPv4 header's fixed part, and the length of the whole.
#[inline(always)]
pub fn v4_header(packet: &Packet, at: usize) -> Result<(Header<{ Ipv4Hdr::LEN }>, usize), Reason> {
    let ip = packet.header::<{ Ipv4Hdr::LEN }>(at).ok_or(Reason::Truncated)?;
    let version_and_length = ip.get::<u8, { offset_of!(Ipv4Hdr, vihl) }>();
    // The header's length is in 32-bit words; options make it more than five.
    let header_len = usize::from(version_and_length & 0xf) * 4;
    if version_and_length >> 4 != 4 || header_len < Ipv4Hdr::LEN {
        return Err(Reason::Malformed);
    }
    Ok((ip, header_len))
}

/// An IPv6 header.
#[inline(always)]
pub fn v6_header(packet: &Packet, at: usize) -> Result<Header<{ Ipv6Hdr::LEN }>, Reason> {
    let ip = packet.header::<{ Ipv6Hdr::LEN }>(at).ok_or(Reason::Truncated)?;
    if ip.get::<u8, { offset_of!(Ipv6Hdr, vcf) }>() >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    Ok(ip)
}

#[inline(always)]
fn parse_v4(packet: &Packet, ethernet: Header<{ EthHdr::LEN }>) -> Result<Parsed, Reason> {
    let (ip, header_len) = v4_header(packet, EthHdr::LEN)?;
    if ip.get::<u16, { offset_of!(Ipv4Hdr, frags) }>() & FRAGMENT_BE != 0 {
        return Err(Reason::Fragment);
    }
    let protocol = ip.get::<u8, { offset_of!(Ipv4Hdr, proto) }>();
    let transport = transport(packet, EthHdr::LEN + header_len, protocol)?;
    Ok(Parsed { ethernet, ip: Ip::V4(ip), transport, fragment: Identity::WHOLE })
}

#[inline(always)]
fn parse_v6(packet: &Packet, ethernet: Header<{ EthHdr::LEN }>) -> Result<Parsed, Reason> {
    let ip = v6_header(packet, EthHdr::LEN)?;
    let protocol = ip.get::<u8, { offset_of!(Ipv6Hdr, next_hdr) }>();
    let transport = transport(packet, EthHdr::LEN + Ipv6Hdr::LEN, protocol)?;
    let ip = Ip::V6(ip);
    ip.not_mapped()?;
    Ok(Parsed { ethernet, ip, transport, fragment: Identity::WHOLE })
}

/// Ethernet and IP header of a packet whose layout is known.
#[inline(always)]
pub fn ip_at(packet: &Packet, layout: Layout) -> Result<(Header<{ EthHdr::LEN }>, Ip), Reason> {
    let ethernet = packet.header::<{ EthHdr::LEN }>(0).ok_or(Reason::Truncated)?;
    let ip = match layout.is_v6() {
        false => packet.header(layout.ip()).map(Ip::told_v4),
        true => packet.header(layout.ip()).map(Ip::told_v6),
    };
    Ok((ethernet, ip.ok_or(Reason::Truncated)?))
}

/// As [`parse_at`], and of a first fragment which packet's.
#[inline(always)]
pub fn parse_whole_or_first(packet: &Packet, layout: Layout) -> Result<Parsed, Reason> {
    let parsed = parse_at(packet, layout)?;
    Ok(Parsed { fragment: Identity::of(packet, layout, parsed.ip)?, ..parsed })
}

/// As [`parse`], for a packet whose layout is known: tags and extension headers
/// are behind us.
#[inline(always)]
pub fn parse_at(packet: &Packet, layout: Layout) -> Result<Parsed, Reason> {
    if let Some(reason) = layout.reason() {
        return Err(reason);
    }
    let transport = transport(packet, layout.transport(), layout.protocol())?;
    let (ethernet, ip) = ip_at(packet, layout)?;
    ip.not_mapped()?;
    Ok(Parsed { ethernet, ip, transport, fragment: Identity::WHOLE })
}

#[inline(always)]
fn transport(packet: &Packet, offset: usize, protocol: u8) -> Result<Transport, Reason> {
    match protocol {
        PROTO_TCP => packet.header(offset).map(Transport::Tcp).ok_or(Reason::Truncated),
        PROTO_UDP => packet.header(offset).map(Transport::Udp).ok_or(Reason::Truncated),
        _ => Err(Reason::NotTcpUdp),
    }
}
