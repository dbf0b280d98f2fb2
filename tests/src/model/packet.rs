//! What a frame is, and what it becomes: a plain parser over bytes, and
//! checksums over the whole packet.
//!
//! Rules that the docs leave open, as the conformance table and Scapy's cases
//! have them:
//! * Only the fixed part of each header must be in the frame. The lengths that
//!   headers claim (total, payload, UDP, data offset) are not held against it,
//!   but for an ICMP error's, which says how much of it is quoted.
//! * An error is found front to back: Ethernet, tags, IP, then what is behind
//!   it; within an IP header first its length, then version, then protocol.
//! * An IPv6 header with an IPv4-mapped address is nobody's: not ours, after all
//!   other errors.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::tcp::Segment;
use crate::frame::{ACK, RST, SYN, checksum, octets};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

type Passed = &'static str;

/// What a frame is.
#[derive(Clone, Debug)]
pub enum Content {
    Packet(Packet),
    Later(Later),
    Error(IcmpError),
}

/// An IP header, by its offset into the frame.
#[derive(Clone, Copy, Debug)]
pub struct Ip {
    pub at: usize,
    pub from: IpAddr,
    pub to: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// As it says: header and payload.
    pub bytes: u64,
}

/// Which packet a fragment is of, beside its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentOf {
    pub id: u32,
    pub protocol: u8,
}

/// A TCP or UDP packet, or a first fragment of one.
#[derive(Clone, Debug)]
pub struct Packet {
    pub ip: Ip,
    pub transport: usize,
    pub protocol: u8,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub first: Option<FragmentOf>,
    pub tcp: Option<Segment>,
}

/// A later fragment.
#[derive(Clone, Copy, Debug)]
pub struct Later {
    pub ip: Ip,
    pub of: FragmentOf,
}

/// An ICMP error about a TCP or UDP packet.
#[derive(Clone, Copy, Debug)]
pub struct IcmpError {
    pub ip: Ip,
    /// Where its ICMP header begins, and the two headers quoted.
    icmp: usize,
    quoted: usize,
    transport: usize,
    pub protocol: u8,
    pub from: SocketAddr,
    pub to: SocketAddr,
}

/// What a packet becomes.
#[derive(Clone, Copy, Debug)]
pub struct Becomes {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub to_mac: [u8; 6],
    pub from_mac: [u8; 6],
}

/// # Errors
/// The name of the reason for which the frame goes to the host.
pub fn parse(bytes: &[u8]) -> Result<Content, Passed> {
    let mut at = 12;
    let mut tags = 0;
    loop {
        let ethertype = word(bytes, at).ok_or("truncated")?;
        match ethertype {
            0x8100 | 0x88a8 if tags < 2 => {
                tags += 1;
                at += 4;
            }
            0x0800 => return v4(bytes, at + 2),
            0x86dd => return v6(bytes, at + 2),
            _ => return Err("not_ip"),
        }
    }
}

/// Where a header's content is, and what.
#[derive(Clone, Copy)]
struct Inside {
    at: usize,
    protocol: u8,
    first: Option<FragmentOf>,
}

fn v4_header(bytes: &[u8], at: usize) -> Result<(Ip, u8, usize), Passed> {
    let header = bytes.get(at..at + 20).ok_or("truncated")?;
    let header_len = usize::from(header[0] & 15) * 4;
    if header[0] >> 4 != 4 || header_len < 20 {
        return Err("malformed");
    }
    let address = |i: usize| {
        IpAddr::V4(Ipv4Addr::new(header[i], header[i + 1], header[i + 2], header[i + 3]))
    };
    let total = u16::from_be_bytes([header[2], header[3]]);
    let (from, to) = (address(12), address(16));
    let ip = Ip { at, from, to, ttl: header[8], bytes: u64::from(total) };
    Ok((ip, header[9], at + header_len))
}

fn v6_header(bytes: &[u8], at: usize) -> Result<(Ip, u8, usize), Passed> {
    let header = bytes.get(at..at + 40).ok_or("truncated")?;
    if header[0] >> 4 != 6 {
        return Err("malformed");
    }
    let address = |i: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[i..i + 16]);
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    let payload = u16::from_be_bytes([header[4], header[5]]);
    let (from, to) = (address(8), address(24));
    let ip = Ip { at, from, to, ttl: header[7], bytes: u64::from(payload) + 40 };
    Ok((ip, header[6], at + 40))
}

fn v4(bytes: &[u8], at: usize) -> Result<Content, Passed> {
    let (ip, protocol, behind) = v4_header(bytes, at)?;
    let fragment = word(bytes, at + 6).unwrap_or(0);
    let of = FragmentOf { id: u32::from(word(bytes, at + 4).unwrap_or(0)), protocol };
    if fragment & 0x1fff != 0 {
        return Ok(Content::Later(Later { ip, of }));
    }
    let first = (fragment & 0x2000 != 0).then_some(of);
    inside(bytes, ip, Inside { at: behind, protocol, first })
}

fn v6(bytes: &[u8], at: usize) -> Result<Content, Passed> {
    let (ip, mut protocol, mut behind) = v6_header(bytes, at)?;
    let mut first = None;
    // Hop by hop, routing, fragment, destination options: four at most.
    for _ in 0..4 {
        if !matches!(protocol, 0 | 43 | 44 | 60) {
            break;
        }
        let header = bytes.get(behind..behind + 8).ok_or("truncated")?;
        if protocol == 44 {
            let fragment = u16::from_be_bytes([header[2], header[3]]);
            let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            let of = FragmentOf { id, protocol: header[0] };
            if fragment & 0xfff8 != 0 {
                not_mapped(&ip)?;
                return Ok(Content::Later(Later { ip, of }));
            }
            if fragment & 1 != 0 {
                first = Some(of);
            }
            behind += 8;
        } else {
            if protocol == 43 && header[3] != 0 {
                return Err("not_tcp_udp");
            }
            behind += 8 * (1 + usize::from(header[1]));
        }
        protocol = header[0];
    }
    inside(bytes, ip, Inside { at: behind, protocol, first })
}

fn inside(bytes: &[u8], ip: Ip, inside: Inside) -> Result<Content, Passed> {
    let whole = inside.first.is_none();
    match (inside.protocol, ip.from.is_ipv4()) {
        (TCP | UDP, _) => transport(bytes, ip, inside).map(Content::Packet),
        (ICMP, true) | (ICMPV6, false) if whole => error(bytes, ip, inside.at).map(Content::Error),
        _ => Err("not_tcp_udp"),
    }
}

fn transport(bytes: &[u8], ip: Ip, inside: Inside) -> Result<Packet, Passed> {
    let Inside { at, protocol, first } = inside;
    let len = if protocol == TCP { 20 } else { 8 };
    let header = bytes.get(at..at + len).ok_or("truncated")?;
    let port = |i: usize| u16::from_be_bytes([header[i], header[i + 1]]);
    let long =
        |i: usize| u32::from_be_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
    let tcp = (protocol == TCP).then(|| {
        let data = at + usize::from(header[12] >> 4) * 4;
        let end = ip.at + ip.bytes as usize;
        Segment {
            flags: header[13],
            seq: long(4),
            ack: long(8),
            window: port(14),
            len: end.saturating_sub(data) as u32,
            data: bytes.get(data..).unwrap_or_default().to_vec(),
        }
    });
    not_mapped(&ip)?;
    let (from, to) = (SocketAddr::new(ip.from, port(0)), SocketAddr::new(ip.to, port(2)));
    Ok(Packet { ip, transport: at, protocol, from, to, first, tcp })
}

fn error(bytes: &[u8], ip: Ip, icmp: usize) -> Result<IcmpError, Passed> {
    let header = bytes.get(icmp..icmp + 8).ok_or("truncated")?;
    let kinds: &[u8] = if ip.from.is_ipv4() { &[3, 11, 12] } else { &[1, 2, 3, 4] };
    if !kinds.contains(&header[0]) {
        return Err("not_tcp_udp");
    }
    let quoted = icmp + 8;
    let (inner, protocol, at) = match ip.from {
        IpAddr::V4(_) => {
            let found = v4_header(bytes, quoted)?;
            if word(bytes, quoted + 6).unwrap_or(0) & 0x1fff != 0 {
                return Err("not_tcp_udp");
            }
            found
        }
        IpAddr::V6(_) => v6_header(bytes, quoted)?,
    };
    if protocol != TCP && protocol != UDP {
        return Err("not_tcp_udp");
    }
    if ip.at + (ip.bytes as usize) < at + 8 {
        return Err("truncated");
    }
    let ports = bytes.get(at..at + 8).ok_or("truncated")?;
    not_mapped(&ip)?;
    not_mapped(&inner)?;
    let port = |i: usize| u16::from_be_bytes([ports[i], ports[i + 1]]);
    let (from, to) = (SocketAddr::new(inner.from, port(0)), SocketAddr::new(inner.to, port(2)));
    Ok(IcmpError { ip, icmp, quoted, transport: at, protocol, from, to })
}

fn not_mapped(ip: &Ip) -> Result<(), Passed> {
    let mapped = |ip| matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    if mapped(ip.from) || mapped(ip.to) { Err("not_ours") } else { Ok(()) }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
}

/// The frame after translation: one hop less, checksums computed anew. A
/// checksum that was wrong stays wrong by the same difference, and none at all
/// (UDP's zero) stays none.
#[must_use]
pub fn translated(bytes: &[u8], packet: &Packet, becomes: &Becomes) -> Expected {
    let (from, to) = (becomes.from.ip(), becomes.to.ip());
    let mut expected = readdressed(bytes, &packet.ip, (from, to), becomes);
    let at = packet.transport;
    let check = at + if packet.protocol == TCP { 16 } else { 6 };
    let ports = |out: &mut [u8]| {
        out[at..at + 2].copy_from_slice(&becomes.from.port().to_be_bytes());
        out[at + 2..at + 4].copy_from_slice(&becomes.to.port().to_be_bytes());
    };
    let udp = packet.protocol == UDP;
    if udp && word(bytes, check) == Some(0) {
        ports(&mut expected.bytes);
        return expected;
    }
    let len = (packet.ip.at + packet.ip.bytes as usize).saturating_sub(at) as u32;
    let rest = [&len.to_be_bytes()[..], &[0, 0, 0, packet.protocol]].concat();
    let [before, after] = [(packet.ip.from, packet.ip.to), (from, to)]
        .map(|(from, to)| [&octets(from)[..], &octets(to), &rest].concat());
    // A frame may be padded, or lack its end; of a fragment's checksum nobody
    // has all that it covers. What is not there changes nothing.
    let end =
        (packet.ip.at + packet.ip.bytes as usize).clamp(at + if udp { 8 } else { 20 }, bytes.len());
    expected.change_with(at..end, (&before, &after), check, udp, ports);
    if packet.first.is_some() {
        expected.doubtful.push(check);
    }
    expected
}

/// Whether a client's packet can be answered where it stands: whole, in the
/// frame, and with nothing between the IP header and TCP's.
#[must_use]
pub fn can_be_answered(bytes: &[u8], packet: &Packet) -> bool {
    let header = if packet.ip.from.is_ipv4() { 20 } else { 40 };
    packet.tcp.is_some()
        && packet.first.is_none()
        && packet.transport == packet.ip.at + header
        && packet.ip.at + packet.ip.bytes as usize <= bytes.len()
}

/// The RST that answers it (RFC 9293, 3.10.7.1), made from nothing but the two
/// ends; the frame keeps its tags, and no more of its length than it must.
///
/// # Panics
/// Of what cannot be answered.
#[must_use]
pub fn answer(bytes: &[u8], packet: &Packet) -> Expected {
    let segment = packet.tcp.as_ref().expect("it can be answered");
    let (from, to) = (packet.to, packet.from);
    let mut tcp = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let seq = if segment.has(ACK) { segment.ack } else { 0 };
    let ack = segment.next().wrapping_add(u32::from(segment.has(SYN)));
    tcp.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
    tcp.extend([5 << 4, RST | ACK, 0, 0, 0, 0, 0, 0]);
    let mut covered = [&octets(from.ip())[..], &octets(to.ip()), &[0, 20, 0, TCP]].concat();
    covered.extend(&tcp);
    tcp[16..18].copy_from_slice(&checksum(&covered).to_be_bytes());
    let mut out = [&bytes[6..12], &bytes[..6], &bytes[12..packet.ip.at]].concat();
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, TCP, 0, 0];
            ip.extend([from.octets(), to.octets()].concat());
            let sum = checksum(&ip).to_be_bytes();
            ip[10..12].copy_from_slice(&sum);
            out.extend(ip);
        }
        (from, to) => {
            out.extend([0x60, 0, 0, 0, 0, 20, TCP, 64]);
            out.extend([octets(from), octets(to)].concat());
        }
    }
    out.extend(tcp);
    // An Ethernet frame has at least so many bytes, if it had them.
    out.resize(bytes.len().min(60).max(out.len()), 0);
    Expected { bytes: out, doubtful: Vec::new() }
}

/// A backend's response with another first digit of its status, at this place.
#[must_use]
pub fn with_status(bytes: &[u8], packet: &Packet, class: u8) -> Vec<u8> {
    let at = packet.transport + usize::from(bytes[packet.transport + 12] >> 4) * 4 + 8;
    let (old, new) = ([bytes[at], bytes[at + 1]], [bytes[at], class]);
    let mut out = bytes.to_vec();
    out[at + 1] = class;
    adjust(&mut out, packet.transport + 16, &old, &new);
    out
}

/// Nothing becomes of it.
#[must_use]
pub fn as_it_came(bytes: &[u8]) -> Expected {
    Expected { bytes: bytes.to_vec(), doubtful: Vec::new() }
}

/// A later fragment after translation.
#[must_use]
pub fn fragment(bytes: &[u8], later: &Later, becomes: &Becomes) -> Expected {
    readdressed(bytes, &later.ip, (becomes.from.ip(), becomes.to.ip()), becomes)
}

/// An error after translation: `about` are the ends of the quoted packet.
#[must_use]
pub fn error_about(
    bytes: &[u8],
    error: &IcmpError,
    about: (SocketAddr, SocketAddr),
    becomes: &Becomes,
) -> Expected {
    let (from, to) = (becomes.from.ip(), becomes.to.ip());
    let mut expected = readdressed(bytes, &error.ip, (from, to), becomes);
    let end = (error.ip.at + error.ip.bytes as usize).min(bytes.len());
    let pseudo = |from, to| match error.ip.from {
        IpAddr::V4(_) => Vec::new(),
        IpAddr::V6(_) => [octets(from), octets(to)].concat(),
    };
    let (before, after) = (pseudo(error.ip.from, error.ip.to), pseudo(from, to));
    let check = error.icmp + 2;
    expected.change_with(error.icmp..end, (&before, &after), check, false, |out| {
        requote(out, error, end, about);
    });
    expected
}

/// The quoted packet with other ends, its checksums by what that changes in
/// them (RFC 1624): what they cover is not all there.
fn requote(out: &mut [u8], error: &IcmpError, end: usize, about: (SocketAddr, SocketAddr)) {
    let ends = |from: SocketAddr, to: SocketAddr| {
        let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        ([octets(from.ip()), octets(to.ip())].concat(), ports)
    };
    let (old_addresses, old_ports) = ends(error.from, error.to);
    let (addresses, ports) = ends(about.0, about.1);
    let at = error.quoted;
    if error.from.is_ipv4() {
        adjust(out, at + 10, &old_addresses, &addresses);
        out[at + 12..at + 16].copy_from_slice(&addresses[12..16]);
        out[at + 16..at + 20].copy_from_slice(&addresses[28..32]);
    } else {
        out[at + 8..at + 40].copy_from_slice(&addresses);
    }
    out[error.transport..error.transport + 4].copy_from_slice(&ports);
    let check = error.transport + if error.protocol == TCP { 16 } else { 6 };
    let none = error.protocol == UDP && out[check..check + 2] == [0, 0];
    if check + 2 > end || none {
        return;
    }
    let (old, new) = ([old_addresses, old_ports].concat(), [addresses, ports].concat());
    adjust(out, check, &old, &new);
    if error.protocol == UDP && out[check..check + 2] == [0, 0] {
        out[check..check + 2].fill(0xff);
    }
}

/// The checksum at `at` after `old` has become `new` somewhere in what it covers.
fn adjust(out: &mut [u8], at: usize, old: &[u8], new: &[u8]) {
    let was = u16::from_be_bytes([out[at], out[at + 1]]);
    // The sum of a complement is the complement of the sum.
    let sum = add(add(!was, checksum(old)), !checksum(new));
    out[at..at + 2].copy_from_slice(&(!sum).to_be_bytes());
}

/// Ethernet and IP header after translation.
fn readdressed(bytes: &[u8], ip: &Ip, (from, to): (IpAddr, IpAddr), becomes: &Becomes) -> Expected {
    let mut out = bytes.to_vec();
    out[..6].copy_from_slice(&becomes.to_mac);
    out[6..12].copy_from_slice(&becomes.from_mac);
    let mut expected = Expected { bytes: out, doubtful: Vec::new() };
    let at = ip.at;
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header_len = usize::from(bytes[at] & 15) * 4;
            let header = at..(at + header_len).min(bytes.len());
            expected.change(header, &[], at + 10, false, |out| {
                out[at + 8] -= 1;
                out[at + 12..at + 16].copy_from_slice(&from.octets());
                out[at + 16..at + 20].copy_from_slice(&to.octets());
            });
        }
        (from, to) => {
            expected.bytes[at + 7] -= 1;
            expected.bytes[at + 8..at + 24].copy_from_slice(&octets(from));
            expected.bytes[at + 24..at + 40].copy_from_slice(&octets(to));
        }
    }
    expected
}

/// Bytes to expect.
#[derive(Clone, Debug)]
pub struct Expected {
    pub bytes: Vec<u8>,
    /// Where a checksum stands that was wrong already: zero has two forms in
    /// one's complement, and either is right there.
    doubtful: Vec<usize>,
}

impl Expected {
    fn change(
        &mut self,
        range: std::ops::Range<usize>,
        pseudo: &[u8],
        check: usize,
        udp: bool,
        edit: impl FnOnce(&mut [u8]),
    ) {
        self.change_with(range, (pseudo, pseudo), check, udp, edit);
    }

    /// Edits, and renews the checksum at `check` over `range` and the pseudo
    /// headers before and after.
    fn change_with(
        &mut self,
        range: std::ops::Range<usize>,
        pseudo: (&[u8], &[u8]),
        check: usize,
        udp: bool,
        edit: impl FnOnce(&mut [u8]),
    ) {
        let was = u16::from_be_bytes([self.bytes[check], self.bytes[check + 1]]);
        let right = self.sum(&range, pseudo.0, check);
        edit(&mut self.bytes);
        let mut sum = self.sum(&range, pseudo.1, check);
        let usual = if udp && right == 0 { 0xffff } else { right };
        if was != usual {
            self.doubtful.push(check);
            sum = add(sum, add(was, !right));
        }
        if udp && sum == 0 {
            sum = 0xffff;
        }
        self.bytes[check..check + 2].copy_from_slice(&sum.to_be_bytes());
    }

    fn sum(&self, range: &std::ops::Range<usize>, pseudo: &[u8], check: usize) -> u16 {
        let mut covered = pseudo.to_vec();
        let from = covered.len();
        covered.extend(&self.bytes[range.clone()]);
        let check = from + check - range.start;
        covered[check..check + 2].fill(0);
        checksum(&covered)
    }

    #[must_use]
    pub fn matches(&self, bytes: &[u8]) -> bool {
        if bytes == self.bytes {
            return true;
        }
        let mut canonical = [bytes.to_vec(), self.bytes.clone()];
        for bytes in &mut canonical {
            for &at in &self.doubtful {
                if bytes.get(at..at + 2) == Some(&[0xff, 0xff]) {
                    bytes[at..at + 2].fill(0);
                }
            }
        }
        canonical[0] == canonical[1]
    }
}

/// One's complement sum.
const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}
