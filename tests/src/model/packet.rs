//! What a frame is, and what it becomes: a plain parser over bytes, and
//! checksums over the whole packet.
//!
//! Rules that the docs leave open, as the conformance table has them:
//! * Only the fixed part of each header must be in the frame. The lengths that
//!   headers claim (total, payload, UDP, data offset) are not held against it.
//! * An error is found front to back: Ethernet, IP, then transport; within an
//!   IP header first its length, then version, then fragment, then protocol.
//! * An IPv6 header with an IPv4-mapped address is nobody's: not ours, after all
//!   other errors.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::tcp::Segment;
use crate::frame::{checksum, octets};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

const ETHERNET: usize = 14;

/// A TCP or UDP packet, by offsets into its frame.
#[derive(Clone, Debug)]
pub struct Packet {
    pub ip: usize,
    pub transport: usize,
    pub protocol: u8,
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// As the IP header says: header and payload.
    pub ip_bytes: u64,
    pub tcp: Option<Segment>,
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
pub fn parse(bytes: &[u8]) -> Result<Packet, &'static str> {
    let ethertype = word(bytes, 12).ok_or("truncated")?;
    match ethertype {
        0x0800 => v4(bytes, ETHERNET),
        0x86dd => v6(bytes, ETHERNET),
        _ => Err("not_ip"),
    }
}

fn v4(bytes: &[u8], ip: usize) -> Result<Packet, &'static str> {
    let header = bytes.get(ip..ip + 20).ok_or("truncated")?;
    let header_len = usize::from(header[0] & 15) * 4;
    if header[0] >> 4 != 4 || header_len < 20 {
        return Err("malformed");
    }
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    if fragment & 0x3fff != 0 {
        return Err("fragment");
    }
    let address = |at: usize| {
        IpAddr::V4(Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]))
    };
    let total = u16::from_be_bytes([header[2], header[3]]);
    let ends = (address(12), address(16));
    let packet = transport(bytes, ip + header_len, ip + usize::from(total), header[9], ends)?;
    Ok(Packet { ip, ttl: header[8], ip_bytes: u64::from(total), ..packet })
}

fn v6(bytes: &[u8], ip: usize) -> Result<Packet, &'static str> {
    let header = bytes.get(ip..ip + 40).ok_or("truncated")?;
    if header[0] >> 4 != 6 {
        return Err("malformed");
    }
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[at..at + 16]);
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    let payload = u16::from_be_bytes([header[4], header[5]]);
    let ends = (address(8), address(24));
    let packet = transport(bytes, ip + 40, ip + 40 + usize::from(payload), header[6], ends)?;
    let mapped = |ip| matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    if mapped(ends.0) || mapped(ends.1) {
        return Err("not_ours");
    }
    Ok(Packet { ip, ttl: header[7], ip_bytes: u64::from(payload) + 40, ..packet })
}

fn transport(
    bytes: &[u8],
    at: usize,
    end: usize,
    protocol: u8,
    ends: (IpAddr, IpAddr),
) -> Result<Packet, &'static str> {
    let len = match protocol {
        TCP => 20,
        UDP => 8,
        _ => return Err("not_tcp_udp"),
    };
    let header = bytes.get(at..at + len).ok_or("truncated")?;
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let long = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let tcp = (protocol == TCP).then(|| {
        let data = at + usize::from(header[12] >> 4) * 4;
        Segment {
            flags: header[13],
            seq: long(4),
            ack: long(8),
            window: u16::from_be_bytes([header[14], header[15]]),
            len: end.saturating_sub(data) as u32,
            data: bytes.get(data..).unwrap_or_default().to_vec(),
        }
    });
    Ok(Packet {
        ip: 0,
        transport: at,
        protocol,
        from: SocketAddr::new(ends.0, port(0)),
        to: SocketAddr::new(ends.1, port(2)),
        ttl: 0,
        ip_bytes: 0,
        tcp,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
}

/// The frame after translation: one hop less, checksums computed anew. A
/// checksum that was wrong stays wrong by the same difference, and none at all
/// (UDP's zero) stays none.
#[must_use]
pub fn translated(bytes: &[u8], packet: &Packet, becomes: &Becomes) -> Expected {
    let mut out = bytes.to_vec();
    out[..6].copy_from_slice(&becomes.to_mac);
    out[6..12].copy_from_slice(&becomes.from_mac);
    let mut expected = Expected { bytes: out, doubtful: Vec::new() };
    match (becomes.from.ip(), becomes.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = packet.ip..(packet.ip + header_len(bytes, packet.ip)).min(bytes.len());
            expected.change(header, &[], packet.ip + 10, false, |out| {
                out[packet.ip + 8] -= 1;
                out[packet.ip + 12..packet.ip + 16].copy_from_slice(&from.octets());
                out[packet.ip + 16..packet.ip + 20].copy_from_slice(&to.octets());
            });
        }
        (from, to) => {
            expected.bytes[packet.ip + 7] -= 1;
            expected.bytes[packet.ip + 8..packet.ip + 24].copy_from_slice(&octets(from));
            expected.bytes[packet.ip + 24..packet.ip + 40].copy_from_slice(&octets(to));
        }
    }
    let pseudo = |bytes: &[u8]| match becomes.to.ip() {
        IpAddr::V4(_) => bytes[packet.ip + 12..packet.ip + 20].to_vec(),
        IpAddr::V6(_) => bytes[packet.ip + 8..packet.ip + 40].to_vec(),
    };
    let at = packet.transport;
    let check = at + if packet.protocol == TCP { 16 } else { 6 };
    let rest = rest(packet, bytes, becomes);
    let [before, after] = [pseudo(bytes), pseudo(&expected.bytes)]
        .map(|addresses| [addresses, rest.clone()].concat());
    let ports = |out: &mut [u8]| {
        out[at..at + 2].copy_from_slice(&becomes.from.port().to_be_bytes());
        out[at + 2..at + 4].copy_from_slice(&becomes.to.port().to_be_bytes());
    };
    let udp = packet.protocol == UDP;
    if udp && word(bytes, check) == Some(0) {
        ports(&mut expected.bytes);
    } else {
        expected.change_with(at..end(packet, bytes), (&before, &after), check, udp, ports);
    }
    expected
}

/// Where the IP packet ends: a frame may be padded, or lack its end.
fn end(packet: &Packet, bytes: &[u8]) -> usize {
    let end = packet.ip + packet.ip_bytes as usize;
    let header = if packet.protocol == TCP { 20 } else { 8 };
    end.clamp(packet.transport + header, bytes.len())
}

/// The pseudo header's end: length and protocol.
fn rest(packet: &Packet, bytes: &[u8], becomes: &Becomes) -> Vec<u8> {
    let header = if becomes.to.is_ipv4() { header_len(bytes, packet.ip) } else { 40 };
    let len = packet.ip_bytes.saturating_sub(header as u64) as u32;
    let mut rest = len.to_be_bytes().to_vec();
    rest.extend([0, 0, 0, packet.protocol]);
    rest
}

fn header_len(bytes: &[u8], ip: usize) -> usize {
    usize::from(bytes[ip] & 15) * 4
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
