//! Who an address and port is: a service (packets to it) or a backend
//! (packets from it). A perfect hash made by user space (hash and displace:
//! Belazzougui, Botelho, Dietzfelbinger 2009), so that a look-up is two array
//! reads and one comparison, without a call and without a chain.
//!
//! There are two halves; one is in force (`Settings::directory_half`), the
//! other is where the next one is written, whole, before the switch.

use crate::{Address, HashKeys, Hashed};

/// Displacements per half. A power of two.
pub const DIRECTORY_GROUPS: u32 = 4096;
/// Entries per half. A power of two, at least twice the most keys there can be.
pub const DIRECTORY_SLOTS: u32 = 32_768;

const _: () = assert!(DIRECTORY_SLOTS >= 2 * (crate::MAX_SERVICES + crate::MAX_BACKENDS));

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

    #[inline(always)]
    #[must_use]
    pub const fn extra(&self) -> u32 {
        (self.port_be as u32) << 16 | (self.protocol as u32) << 8 | self.kind as u32
    }

    #[inline(always)]
    #[must_use]
    pub const fn probe(&self, keys: &HashKeys) -> Probe {
        Probe(keys.hash(&self.address, self.extra()))
    }
}

/// One slot: the key again, and the number it stands for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectoryEntry {
    pub key: DirectoryKey,
    /// Index into `SERVICES` or `BACKENDS`, by `key.kind`.
    pub number: u32,
    pub reserved: u64,
}

const _: () = assert!(size_of::<DirectoryEntry>() == 32);

/// Where a key may stand.
#[derive(Clone, Copy, Debug)]
pub struct Probe(Hashed);

impl Probe {
    /// Which displacement applies, within a half.
    #[inline(always)]
    #[must_use]
    pub const fn group(self) -> u32 {
        (self.0.0 as u32) & (DIRECTORY_GROUPS - 1)
    }

    /// The slot under that displacement, within a half.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self, displacement: u32) -> u32 {
        let first = (self.0.0 >> 16) as u32;
        let step = (self.0.0 >> 40) as u32 | 1;
        first.wrapping_add(displacement.wrapping_mul(step)) & (DIRECTORY_SLOTS - 1)
    }
}
