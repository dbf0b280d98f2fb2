//! Who an address and port is: a service (packets to it) or a backend
//! (packets from it). A perfect hash made by user space (hash and displace:
//! Belazzougui, Botelho, Dietzfelbinger 2009), so that a look-up is two array
//! reads and one comparison, without a call and without a chain.
//!
//! There are two halves; one is in force ([`Register::directory_half`]), the
//! other is where the next one is written, whole, before the switch.

use crate::{Address, Backend, HashKeys, MAX_BACKENDS, MAX_SERVICES, PROTO_UDP, Service};

/// Displacements per half. A power of two.
pub const DIRECTORY_GROUPS: u32 = 4096;
/// Entries per half. A power of two, at least twice the most keys there can be.
pub const DIRECTORY_SLOTS: u32 = 32_768;

const _: () = assert!(DIRECTORY_SLOTS >= 2 * (crate::MAX_SERVICES + crate::MAX_BACKENDS));

/// What the program is told of who is who: the one value of the map `REGISTER`.
/// In one value, because each look-up in a map is work, and this is one.
/// Written by the daemon, through a mapping.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct Register {
    /// Which half of the directory is in force: 0 or 1. One atomic write.
    pub directory_half: u32,
    pub reserved: [u32; 15],
    /// One byte for each port, by the number that its two bytes on the wire are
    /// in memory: a bit says that the directory has keys with this port, see
    /// [`DirectoryKey::port_bit`]. Most packets that are not ours are known by
    /// that alone, and so are replies not to be requests. Bits are set before a
    /// directory that wants them is in force, and cleared after.
    pub ports: [u8; PORTS],
    /// Displacements of the directory's halves, by group.
    pub displacements: [[u32; DIRECTORY_GROUPS as usize]; 2],
    /// Entries of the directory's halves.
    pub directory: [[DirectoryEntry; DIRECTORY_SLOTS as usize]; 2],
    /// By number: each whole before the directory names it, then `weights`
    /// alone, atomically.
    pub services: [Service; MAX_SERVICES as usize],
    /// By number; 0 is nobody.
    pub backends: [Backend; MAX_BACKENDS as usize],
}

/// How many ports there are.
pub const PORTS: usize = 1 << 16;

// Older kernels take no more for one value (their KMALLOC_MAX_SIZE).
const _: () = assert!(size_of::<Register>() <= 4 << 20);

/// What an entry's number counts.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// The slot is empty.
    Empty = 0,
    /// Index into `SERVICES`.
    Service = 1,
    /// Index into `BACKENDS`, the first of those with this address.
    Backend = 2,
}

/// What is looked up.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DirectoryKey {
    pub address: Address,
    pub port_be: u16,
    /// IP protocol, 6 or 17.
    pub protocol: u8,
    /// An [`EntryKind`] as `u8`.
    pub kind: u8,
}

impl DirectoryKey {
    #[inline(always)]
    #[must_use]
    pub const fn new(kind: EntryKind, address: Address, port_be: u16, protocol: u8) -> Self {
        Self { address, port_be, protocol, kind: kind as u8 }
    }

    /// All but the address in one word, as it stands in memory.
    #[inline(always)]
    #[must_use]
    pub const fn rest(&self) -> u32 {
        let [a, b] = self.port_be.to_ne_bytes();
        u32::from_ne_bytes([a, b, self.protocol, self.kind])
    }

    #[inline(always)]
    #[must_use]
    pub const fn probe(&self, keys: &HashKeys) -> Probe {
        Probe(keys.quick_hash(&self.address, self.rest()))
    }

    /// The bit of its port's byte for keys like this one.
    #[inline(always)]
    #[must_use]
    pub const fn port_bit(&self) -> u8 {
        let udp = self.protocol == PROTO_UDP;
        match (self.kind == EntryKind::Service as u8, udp) {
            (true, false) => 1,
            (true, true) => 2,
            (false, false) => 4,
            (false, true) => 8,
        }
    }
}

/// One slot: the key again, and the number it stands for.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectoryEntry {
    pub key: DirectoryKey,
    /// Index into `SERVICES` or `BACKENDS`, by `key.kind`.
    pub number: u32,
    pub reserved: u64,
}

const _: () = assert!(size_of::<DirectoryEntry>() == 32);

impl DirectoryEntry {
    /// Whether it is this key's.
    #[inline(always)]
    #[must_use]
    pub const fn is_of(&self, key: &DirectoryKey) -> bool {
        // SAFETY: its first 24 bytes, and as aligned as it is.
        let own = unsafe { &*(&raw const *self).cast::<[u64; 3]>() };
        let wide = key.address.wide();
        let rest = if cfg!(target_endian = "little") { own[2] } else { own[2] >> 32 };
        (own[0] ^ wide[0]) | (own[1] ^ wide[1]) == 0 && rest as u32 == key.rest()
    }
}

/// Where a key may stand.
#[derive(Clone, Copy, Debug)]
pub struct Probe(u64);

impl Probe {
    /// Which displacement applies, within a half.
    #[inline(always)]
    #[must_use]
    pub const fn group(self) -> u32 {
        (self.0 >> 52) as u32 & (DIRECTORY_GROUPS - 1)
    }

    /// The slot under that displacement, within a half.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self, displacement: u32) -> u32 {
        let first = (self.0 >> 37) as u32;
        let step = (self.0 >> 22) as u32 | 1;
        first.wrapping_add(displacement.wrapping_mul(step)) & (DIRECTORY_SLOTS - 1)
    }
}
