//! Where the headers of a packet are that is not plain TCP or UDP over IP in
//! Ethernet: VLAN tags, IPv6 extension headers, fragments, ICMP.

use core::mem::offset_of;

use aya_ebpf::bindings::xdp_md;
use canary_common::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, Reason};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    packet::Packet,
    parse::{ETHERTYPE_IPV4_BE, ETHERTYPE_IPV6_BE, V4_MORE, V4_OFFSET, v4_header, v6_header},
    refusal,
};

const ETHERTYPE_VLAN_BE: u16 = 0x8100_u16.to_be();
const ETHERTYPE_SERVICE_VLAN_BE: u16 = 0x88a8_u16.to_be();
const VLAN_TAG: usize = 4;
/// Tags that are looked behind.
const MAX_TAGS: usize = 2;
/// Extension headers that are looked behind.
const MAX_EXTENSIONS: usize = 4;
/// Above all offsets there can be: with all extension headers as long as can
/// be, a transport header begins at 8254. For the verifier.
const MAX_OFFSET: usize = 0x3fff;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// Of the fragment header, and of the fixed part of the others.
const EXTENSION: usize = 8;
/// Unit of an extension header's length.
const EXTENSION_UNIT: usize = 8;

/// More-fragments bit and fragment offset, of IPv6.
const V6_MORE: u16 = 1;
const V6_OFFSET: u16 = 0xfff8;

/// A packet's layout in one word, for it comes out of a global function: bits
/// 0–7 where the IP header begins, 8–23 where what is behind it begins, 24–39
/// where IPv6's fragment header begins, 40–47 the protocol, 48 whether it is
/// IPv6, 49–50 which fragment it is; or a [`refusal`].
/// The offsets are not at the top: the compiler would leave out a mask there
/// that the verifier wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout(pub u64);

/// What part of its packet a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    First,
    Later,
}

impl Layout {
    const fn new(
        v6: bool,
        ip: usize,
        transport: usize,
        protocol: u8,
        (part, fragment_header): (Part, usize),
    ) -> Self {
        Self(
            (part as u64) << 49
                | (v6 as u64) << 48
                | (protocol as u64) << 40
                | (fragment_header as u64) << 24
                | (transport as u64) << 8
                | ip as u64,
        )
    }

    const fn refused(reason: Reason) -> Self {
        Self(refusal::word(reason))
    }

    /// Why it has none.
    #[inline(always)]
    pub const fn reason(self) -> Option<Reason> {
        refusal::reason(self.0)
    }

    #[inline(always)]
    pub const fn is_v6(self) -> bool {
        self.0 >> 48 & 1 != 0
    }

    #[inline(always)]
    pub const fn ip(self) -> usize {
        self.0 as usize & 0x1f
    }

    #[inline(always)]
    pub const fn transport(self) -> usize {
        (self.0 >> 8) as usize & MAX_OFFSET
    }

    /// IPv6's fragment header.
    #[inline(always)]
    pub const fn fragment_header(self) -> usize {
        (self.0 >> 24) as usize & MAX_OFFSET
    }

    #[inline(always)]
    pub const fn part(self) -> Part {
        match self.0 >> 49 & 3 {
            0 => Part::Whole,
            1 => Part::First,
            _ => Part::Later,
        }
    }

    /// Of a later fragment, what its header says of the first one's content.
    #[inline(always)]
    pub const fn protocol(self) -> u8 {
        (self.0 >> 40) as u8
    }
}

/// The layout of the packet behind `ctx`. A global function: the verifier walks
/// it once, and its callers know nothing of how it came to what it says.
#[inline(always)]
pub fn of(ctx: *mut xdp_md) -> Layout {
    Layout(canary_layout(ctx))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn canary_layout(ctx: *mut xdp_md) -> u64 {
    // SAFETY: the program's context, and the kernel's own bounds of the frame.
    let packet = unsafe { Packet::new((*ctx).data as usize, (*ctx).data_end as usize) };
    walk(&packet).0
}

/// See [`of`]; for a packet that is at hand.
#[inline(always)]
pub fn walk(packet: &Packet) -> Layout {
    walk_ethernet(packet).unwrap_or_else(Layout::refused)
}

#[inline(always)]
fn walk_ethernet(packet: &Packet) -> Result<Layout, Reason> {
    let ethernet = packet.header::<{ EthHdr::LEN }>(0).ok_or(Reason::Truncated)?;
    let mut ether_type = ethernet.get::<u16, { offset_of!(EthHdr, ether_type) }>();
    let mut at = EthHdr::LEN;
    for _ in 0..MAX_TAGS {
        if ether_type != ETHERTYPE_VLAN_BE && ether_type != ETHERTYPE_SERVICE_VLAN_BE {
            break;
        }
        let tag = packet.header::<VLAN_TAG>(at).ok_or(Reason::Truncated)?;
        ether_type = tag.get::<u16, 2>();
        at += VLAN_TAG;
    }
    match ether_type {
        ETHERTYPE_IPV4_BE => walk_v4(packet, at),
        ETHERTYPE_IPV6_BE => walk_v6(packet, at),
        _ => Err(Reason::NotIp),
    }
}

#[inline(always)]
fn walk_v4(packet: &Packet, at: usize) -> Result<Layout, Reason> {
    let (ip, header_len) = v4_header(packet, at)?;
    let protocol = ip.get::<u8, { offset_of!(Ipv4Hdr, proto) }>();
    let fragment = u16::from_be(ip.get::<u16, { offset_of!(Ipv4Hdr, frags) }>());
    let part = if fragment & V4_OFFSET != 0 {
        Part::Later
    } else if fragment & V4_MORE != 0 {
        Part::First
    } else {
        Part::Whole
    };
    if part != Part::Later && !matches!(protocol, PROTO_TCP | PROTO_UDP | PROTO_ICMP) {
        return Err(Reason::NotTcpUdp);
    }
    Ok(Layout::new(false, at, at + header_len, protocol, (part, 0)))
}

#[inline(always)]
fn walk_v6(packet: &Packet, ip_at: usize) -> Result<Layout, Reason> {
    let ip = v6_header(packet, ip_at)?;
    let mut protocol = ip.get::<u8, { offset_of!(Ipv6Hdr, next_hdr) }>();
    let mut at = ip_at + Ipv6Hdr::LEN;
    let mut part = (Part::Whole, 0);
    for _ in 0..MAX_EXTENSIONS {
        if !matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
            break;
        }
        let header = packet.header::<EXTENSION>(at).ok_or(Reason::Truncated)?;
        let next = header.get::<u8, 0>();
        if protocol == FRAGMENT {
            let fragment = u16::from_be(header.get::<u16, 2>());
            if fragment & V6_OFFSET != 0 {
                return Ok(Layout::new(true, ip_at, at, next, (Part::Later, at)));
            }
            if fragment & V6_MORE != 0 {
                part = (Part::First, at);
            }
            at += EXTENSION;
        } else {
            // What has segments left is not for the address it has now
            // (RFC 8200, 4.4).
            if protocol == ROUTING && header.get::<u8, 3>() != 0 {
                return Err(Reason::NotTcpUdp);
            }
            at += (usize::from(header.get::<u8, 1>()) + 1) * EXTENSION_UNIT;
        }
        protocol = next;
    }
    if !matches!(protocol, PROTO_TCP | PROTO_UDP | PROTO_ICMPV6) {
        return Err(Reason::NotTcpUdp);
    }
    Ok(Layout::new(true, ip_at, at, protocol, part))
}
