//! Steering: clients that have a track of their own, by address or network.

use core::{
    fmt,
    net::{AddrParseError, IpAddr},
    num::ParseIntError,
    str::FromStr,
};

use crate::Address;

/// What the steering maps hold for a service and a network.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steer {
    /// Jiffies, all 64 bits; past it the entry does not count. 0: for ever.
    pub until: u64,
    /// A [`crate::Track`].
    pub track: u8,
    /// 1: to the canary also where the guard stops it.
    pub always: u8,
    /// The key's own prefix length: the program goes on with the network around
    /// it where its time is over.
    pub prefix: u8,
    pub reserved: [u8; 5],
}

const _: () = assert!(size_of::<Steer>() == 16);

/// Keys of the steering maps: longest-prefix-match tries, which compare bits
/// in the order of memory. The service's number stands in front, so a prefix
/// is that much longer.
#[derive(Clone, Copy, Debug)]
pub struct SteerKey;

impl SteerKey {
    /// Bits of the service's number.
    pub const SERVICE_BITS: u32 = 16;
    /// Prefix lengths of a single address.
    pub const WHOLE_V4: u32 = Self::SERVICE_BITS + 32;
    pub const WHOLE_V6: u32 = Self::SERVICE_BITS + 128;

    /// Of an IPv4 address, in its mapped form.
    #[inline(always)]
    #[must_use]
    pub const fn v4(service: u16, address: &Address) -> [u16; 3] {
        let [a, b] = halves(address.words_be[3]);
        [service, a, b]
    }

    /// Of an IPv6 address.
    #[inline(always)]
    #[must_use]
    pub const fn v6(service: u16, address: &Address) -> [u16; 9] {
        let words = &address.words_be;
        let ([a, b], [c, d]) = (halves(words[0]), halves(words[1]));
        let ([e, f], [g, h]) = (halves(words[2]), halves(words[3]));
        [service, a, b, c, d, e, f, g, h]
    }

    /// The inverse of [`SteerKey::v4`].
    #[must_use]
    pub const fn address_v4(key: [u16; 3]) -> Address {
        Address::from_v4_be(whole(key[1], key[2]))
    }

    /// The inverse of [`SteerKey::v6`].
    #[must_use]
    pub const fn address_v6(key: [u16; 9]) -> Address {
        let [_, a, b, c, d, e, f, g, h] = key;
        Address { words_be: [whole(a, b), whole(c, d), whole(e, f), whole(g, h)] }
    }
}

/// A word's halves as they stand in memory.
#[inline(always)]
const fn halves(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_ne_bytes();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

const fn whole(first: u16, second: u16) -> u32 {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// An address and how many of its bits are the network's. What is behind them
/// is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// What is wrong with a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CidrError {
    Address(AddrParseError),
    Prefix(ParseIntError),
    /// Longer than the address: the most there can be.
    TooLong(u8),
    /// Address bits beyond the prefix; the network that is meant, maybe.
    HostBits(Cidr),
}

impl fmt::Display for CidrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(error) => write!(f, "{error}"),
            Self::Prefix(error) => write!(f, "the prefix's length: {error}"),
            Self::TooLong(most) => write!(f, "the prefix's length is at most {most}"),
            Self::HostBits(meant) => {
                write!(f, "the address has bits beyond the prefix; the network is {meant}")
            }
        }
    }
}

impl core::error::Error for CidrError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Address(error) => Some(error),
            Self::Prefix(error) => Some(error),
            Self::TooLong(_) | Self::HostBits(_) => None,
        }
    }
}

impl Cidr {
    /// # Errors
    /// Where the prefix is longer than the address, or the address has bits
    /// beyond it. An IPv4-mapped IPv6 address is an IPv4 address.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, CidrError> {
        let (address, prefix) = match (address.to_canonical(), prefix.checked_sub(96)) {
            (IpAddr::V4(v4), Some(rest)) if address.is_ipv6() => (IpAddr::V4(v4), rest),
            _ => (address, prefix),
        };
        let most = bits(address);
        if prefix > most {
            return Err(CidrError::TooLong(most));
        }
        let network = masked(address, prefix);
        let cidr = Self { address: network, prefix };
        if network == address { Ok(cidr) } else { Err(CidrError::HostBits(cidr)) }
    }

    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// How many of the address's bits are the network's.
    #[must_use]
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && masked(address, self.prefix) == self.address
    }

    /// The network as [`Address`]es: what it is under which mask.
    #[must_use]
    pub fn network_and_mask(&self) -> (Address, Address) {
        // IPv4's addresses are mapped: everything before them is fixed.
        let before = u32::from(128 - bits(self.address));
        let length = before + u32::from(self.prefix);
        let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
        (Address::from(self.address), Address::from(IpAddr::V6(mask.into())))
    }
}

const fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address without what is behind the prefix.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

impl From<IpAddr> for Cidr {
    /// This address alone.
    fn from(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, prefix: bits(address) }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    /// An address, alone or with the length of a prefix: `192.0.2.0/24`.
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let Some((address, prefix)) = text.split_once('/') else {
            return Ok(text.parse::<IpAddr>().map_err(CidrError::Address)?.into());
        };
        let address = address.parse().map_err(CidrError::Address)?;
        Self::new(address, prefix.parse().map_err(CidrError::Prefix)?)
    }
}

impl fmt::Display for Cidr {
    /// As it is parsed: of an address alone without the prefix.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix == bits(self.address) {
            return write!(f, "{}", self.address);
        }
        write!(f, "{}/{}", self.address, self.prefix)
    }
}
