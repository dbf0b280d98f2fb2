use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP protocol numbers (IANA), as they stand in the IPv4 and IPv6 headers.
pub const PROTO_ICMP: u8 = 1;
pub const PROTO_TCP: u8 = 6;
pub const PROTO_UDP: u8 = 17;
pub const PROTO_ICMPV6: u8 = 58;

/// An IP address of either family in network byte order; IPv4 as the mapped
/// `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2), so that the families never collide.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address {
    /// Four 32-bit words as they stand in memory (big-endian on the wire).
    pub words_be: [u32; 4],
}

impl Address {
    /// The third word of every IPv4-mapped address, in network byte order.
    pub const MAPPED_BE: u32 = 0x0000_ffff_u32.to_be();

    /// `address_be` as read from an IPv4 header.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4_be(address_be: u32) -> Self {
        Self { words_be: [0, 0, Self::MAPPED_BE, address_be] }
    }

    /// Equality without a call (`==` may become one to `bcmp`).
    #[inline(always)]
    #[must_use]
    pub const fn same(&self, other: &Self) -> bool {
        let (a, b) = (&self.words_be, &other.words_be);
        (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) == 0
    }

    /// In two words, as they stand in memory.
    #[inline(always)]
    #[must_use]
    pub const fn wide(&self) -> [u64; 2] {
        // SAFETY: the same size, and any bytes are words.
        unsafe { core::mem::transmute::<[u32; 4], [u64; 2]>(self.words_be) }
    }

    /// Bit by bit, under a mask.
    #[inline(always)]
    #[must_use]
    pub const fn and(&self, mask: &Self) -> Self {
        let (a, m) = (&self.words_be, &mask.words_be);
        Self { words_be: [a[0] & m[0], a[1] & m[1], a[2] & m[2], a[3] & m[3]] }
    }

    /// In one comparison: each branch more is walked by the verifier.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        let words = &self.words_be;
        words[0] | words[1] | (words[2] ^ Self::MAPPED_BE) == 0
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        let octets = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let mut words_be = [0; 4];
        for (word, bytes) in words_be.iter_mut().zip(octets.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Self { words_be }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        if address.is_v4() {
            return Self::V4(Ipv4Addr::from(u32::from_be(address.words_be[3])));
        }
        let mut octets = [0; 16];
        for (bytes, word) in octets.chunks_exact_mut(4).zip(address.words_be) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        Self::V6(Ipv6Addr::from(octets))
    }
}

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The first twelve bytes of an Ethernet frame, destination and source, as
/// three words as they stand in memory: copied in three moves.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameAddresses {
    pub words: [u32; 3],
}

impl FrameAddresses {
    #[must_use]
    pub const fn new(destination: Mac, source: Mac) -> Self {
        let (d, s) = (destination, source);
        Self {
            words: [
                u32::from_ne_bytes([d[0], d[1], d[2], d[3]]),
                u32::from_ne_bytes([d[4], d[5], s[0], s[1]]),
                u32::from_ne_bytes([s[2], s[3], s[4], s[5]]),
            ],
        }
    }

    #[must_use]
    pub const fn destination(&self) -> Mac {
        let [a, b, c, d] = self.words[0].to_ne_bytes();
        let [e, f, ..] = self.words[1].to_ne_bytes();
        [a, b, c, d, e, f]
    }

    #[must_use]
    pub const fn source(&self) -> Mac {
        let [.., a, b] = self.words[1].to_ne_bytes();
        let [c, d, e, f] = self.words[2].to_ne_bytes();
        [a, b, c, d, e, f]
    }
}
