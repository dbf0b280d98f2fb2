//! Ethernet frames with TCP or UDP, every checksum computed from scratch: what
//! the packet path updates incrementally is compared with these.

use std::net::{IpAddr, SocketAddr};

/// TCP flags.
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

const ETHERNET: usize = 14;

/// What a frame is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub to_mac: [u8; 6],
    pub from_mac: [u8; 6],
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub ttl: u8,
    pub transport: Transport,
    /// IPv4 options, a multiple of four bytes.
    pub ip_options: Vec<u8>,
    pub payload: Vec<u8>,
    /// Wrong by this much, for what comes in broken.
    pub checksum_error: u16,
    /// TCP's window.
    pub window: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp {
        flags: u8,
        seq: u32,
        ack: u32,
    },
    Udp,
    /// UDP over IPv4 without a checksum.
    UdpUnchecked,
}

impl Frame {
    #[must_use]
    pub fn tcp(from: SocketAddr, to: SocketAddr, flags: u8, seq: u32, ack: u32) -> Self {
        Self::new(from, to, Transport::Tcp { flags, seq, ack })
    }

    #[must_use]
    pub fn udp(from: SocketAddr, to: SocketAddr) -> Self {
        Self::new(from, to, Transport::Udp)
    }

    fn new(from: SocketAddr, to: SocketAddr, transport: Transport) -> Self {
        Self {
            to_mac: [2, 0, 0, 0, 0, 2],
            from_mac: [2, 0, 0, 0, 0, 1],
            from,
            to,
            ttl: 64,
            transport,
            ip_options: Vec::new(),
            payload: Vec::new(),
            checksum_error: 0,
            window: 0x2000,
        }
    }

    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// With a sequence number so much higher.
    #[must_use]
    pub fn later(mut self, bytes: u32) -> Self {
        if let Transport::Tcp { seq, .. } = &mut self.transport {
            *seq = seq.wrapping_add(bytes);
        }
        self
    }

    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        assert!(options.len().is_multiple_of(4) && self.from.is_ipv4());
        self.ip_options = options.to_vec();
        self
    }

    #[must_use]
    pub fn macs(mut self, to: [u8; 6], from: [u8; 6]) -> Self {
        self.to_mac = to;
        self.from_mac = from;
        self
    }

    /// Bytes of the IP packet.
    #[must_use]
    pub fn ip_bytes(&self) -> u64 {
        (self.bytes().len() - ETHERNET) as u64
    }

    #[must_use]
    pub const fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => 6,
            Transport::Udp | Transport::UdpUnchecked => 17,
        }
    }

    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let segment = self.segment();
        let mut bytes = [self.to_mac, self.from_mac].concat();
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                bytes.extend(0x0800_u16.to_be_bytes());
                let header_len = 20 + self.ip_options.len();
                let total = (header_len + segment.len()) as u16;
                let mut header = vec![0x40 | (header_len / 4) as u8, 0];
                header.extend(total.to_be_bytes());
                header.extend([0x12, 0x34, 0x40, 0, self.ttl, self.protocol(), 0, 0]);
                header.extend(from.octets());
                header.extend(to.octets());
                header.extend(&self.ip_options);
                let sum = checksum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                bytes.extend(header);
            }
            (from, to) => {
                bytes.extend(0x86dd_u16.to_be_bytes());
                bytes.extend([0x60, 0x01, 0x02, 0x03]);
                bytes.extend((segment.len() as u16).to_be_bytes());
                bytes.extend([self.protocol(), self.ttl]);
                bytes.extend(octets(from));
                bytes.extend(octets(to));
            }
        }
        bytes.extend(segment);
        bytes
    }

    /// Transport header and payload.
    fn segment(&self) -> Vec<u8> {
        let mut segment = [self.from.port().to_be_bytes(), self.to.port().to_be_bytes()].concat();
        let at = match self.transport {
            Transport::Tcp { flags, seq, ack } => {
                segment.extend(seq.to_be_bytes());
                segment.extend(ack.to_be_bytes());
                segment.extend([5 << 4, flags]);
                segment.extend(self.window.to_be_bytes());
                segment.extend([0; 4]);
                16
            }
            Transport::Udp | Transport::UdpUnchecked => {
                segment.extend((8 + self.payload.len() as u16).to_be_bytes());
                segment.extend([0, 0]);
                6
            }
        };
        segment.extend(&self.payload);
        let mut pseudo = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
            (from, to) => [octets(from), octets(to)].concat(),
        };
        pseudo.extend((segment.len() as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, self.protocol()]);
        pseudo.extend(&segment);
        let sum = match (self.transport, checksum(&pseudo)) {
            (Transport::UdpUnchecked, _) => 0,
            (Transport::Udp, 0) => 0xffff,
            (_, sum) => sum,
        };
        segment[at..at + 2].copy_from_slice(&sum.wrapping_add(self.checksum_error).to_be_bytes());
        segment
    }
}

/// The Internet checksum (RFC 1071) of whole bytes.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// As IPv6 has them; IPv4's are mapped (RFC 4291, 2.5.5.2).
#[must_use]
pub const fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
