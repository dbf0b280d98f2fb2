//! Frames of ever other senders, by the million: a template, and what of it
//! changes.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use crate::frame::{Frame, Transport};

const IP: usize = 14;
const TRANSPORT: usize = IP + 20;

/// A frame of IPv4 without options, all but its source and its numbers.
#[derive(Clone, Debug)]
pub(super) struct Template {
    bytes: Vec<u8>,
    tcp: bool,
    /// Sums of all words that do not change.
    ip_sum: u32,
    transport_sum: u32,
}

impl Template {
    /// To `to`, with these flags of TCP; a datagram without.
    pub(super) fn new(to: SocketAddr, flags: Option<u8>, macs: ([u8; 6], [u8; 6])) -> Self {
        let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0).into();
        let frame = match flags {
            Some(flags) => Frame::tcp(from, to, flags, 0, 0),
            None => Frame::udp(from, to),
        };
        let tcp = matches!(frame.transport, Transport::Tcp { .. });
        let bytes = frame.macs(macs.0, macs.1).bytes();
        let sum = |at: usize| u32::from(!u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        let (ip_sum, transport_sum) = (sum(IP + 10), sum(TRANSPORT + checksum_at(tcp)));
        Self { bytes, tcp, ip_sum, transport_sum }
    }

    /// The frame of this sender. Numbers are TCP's; a datagram has none.
    pub(super) fn frame(&self, from: SocketAddrV4, seq: u32, ack: u32) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(IP + 12, &from.ip().octets());
        put(TRANSPORT, &from.port().to_be_bytes());
        let mut sum = self.transport_sum + words(from.ip().to_bits()) + u32::from(from.port());
        if self.tcp {
            put(TRANSPORT + 4, &seq.to_be_bytes());
            put(TRANSPORT + 8, &ack.to_be_bytes());
            sum += words(seq) + words(ack);
        }
        put(IP + 10, &folded(self.ip_sum + words(from.ip().to_bits())).to_be_bytes());
        // Of UDP 0 would say that there is none.
        let sum = match folded(sum) {
            0 if !self.tcp => 0xffff,
            sum => sum,
        };
        put(TRANSPORT + checksum_at(self.tcp), &sum.to_be_bytes());
        bytes
    }
}

const fn checksum_at(tcp: bool) -> usize {
    if tcp { 16 } else { 6 }
}

const fn words(value: u32) -> u32 {
    (value >> 16) + (value & 0xffff)
}

const fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A TCP segment over IPv4 that was heard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) from: SocketAddrV4,
    pub(super) to: SocketAddrV4,
}

impl Segment {
    /// `None`: it is something else.
    pub(super) fn read(frame: &[u8]) -> Option<Self> {
        let four = |at: usize| Some(*frame.get(at..)?.first_chunk::<4>()?);
        let two = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk::<2>()?));
        let is_plain = frame.get(IP) == Some(&0x45) && frame.get(IP + 9) == Some(&6);
        if two(12)? != 0x0800 || !is_plain {
            return None;
        }
        let at = |ip: usize, port: usize| {
            Some(SocketAddrV4::new(four(IP + ip)?.into(), two(TRANSPORT + port)?))
        };
        Some(Self { from: at(12, 0)?, to: at(16, 2)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{ACK, SYN};

    #[test]
    fn a_template_makes_the_frames_that_are_made_from_nothing() {
        let to: SocketAddr = "203.0.113.10:80".parse().expect("an address");
        let macs = ([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
        for number in 0..1000_u32 {
            let from = Ipv4Addr::from_bits(0xc612_0000 + number * 977);
            let from = SocketAddrV4::new(from, (number * 61) as u16);
            let (seq, ack) = (number.wrapping_mul(0x9e37_79b9), number.wrapping_mul(0x85eb_ca6b));
            let tcp = Template::new(to, Some(SYN | ACK), macs).frame(from, seq, ack);
            assert_eq!(tcp, Frame::tcp(from.into(), to, SYN | ACK, seq, ack).bytes());
            let read = Segment::read(&tcp).expect("a segment");
            assert_eq!((read.from, SocketAddr::from(read.to)), (from, to));
            let udp = Template::new(to, None, macs).frame(from, seq, ack);
            assert_eq!(udp, Frame::udp(from.into(), to).bytes());
            assert!(Segment::read(&udp).is_none());
        }
    }
}
