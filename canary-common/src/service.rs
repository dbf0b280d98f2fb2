//! Services, backends, and the word that says how new flows are divided.

use crate::{Address, FrameAddresses, HashKeys};

/// A version behind a service.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Track {
    Stable = 0,
    Canary = 1,
}

impl Track {
    pub const ALL: [Self; 2] = [Self::Stable, Self::Canary];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Canary => "canary",
        }
    }
}

/// All new flows.
pub const MAX_SPLIT: u64 = 1 << 32;

/// The canary's share of new flows, in parts of 2^32: 0 is none, 2^32 is all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Split(u64);

impl Split {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self(MAX_SPLIT);

    /// Saturates at [`MAX_SPLIT`].
    #[inline(always)]
    #[must_use]
    pub const fn from_parts(parts: u64) -> Self {
        if parts > MAX_SPLIT { Self::ALL } else { Self(parts) }
    }

    #[inline(always)]
    #[must_use]
    pub const fn parts(self) -> u64 {
        self.0
    }

    /// Nearest split to a fraction of 1; what is outside of 0..=1, or no
    /// number, gives `None`.
    #[must_use]
    pub fn from_fraction(fraction: f64) -> Option<Self> {
        // Written so that NaN is refused.
        if !(0.0..=1.0).contains(&fraction) {
            return None;
        }
        Some(Self((fraction * MAX_SPLIT as f64 + 0.5) as u64))
    }

    #[must_use]
    pub fn fraction(self) -> f64 {
        self.0 as f64 / MAX_SPLIT as f64
    }

    /// Whether a flow with this hash (`Hashed::for_split`) goes to the canary.
    #[inline(always)]
    #[must_use]
    pub const fn takes(self, hash: u32) -> bool {
        (hash as u64) < self.0
    }
}

/// Split, both Maglev tables and the epoch's parity of one service in 64
/// bits: a flow is decided from one read of it, and any change is one write.
///
/// Bits 0–32 split, 33–47 stable's table, 48–62 canary's table, 63 parity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightTable {
    pub split: Split,
    /// Index into `TABLES` by [`Track`]; 0 is a track without usable backend.
    pub tables: [u16; 2],
    /// Which of a backend's two cells flows born now are booked to, 0 or 1.
    pub parity: u8,
}

impl WeightTable {
    const TABLE_MASK: u64 = 0x7fff;

    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        self.split.parts()
            | (self.tables[0] as u64 & Self::TABLE_MASK) << 33
            | (self.tables[1] as u64 & Self::TABLE_MASK) << 48
            | (self.parity as u64) << 63
    }

    #[inline(always)]
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self {
            split: Split::from_parts(word & ((1 << 33) - 1)),
            tables: [
                (word >> 33 & Self::TABLE_MASK) as u16,
                (word >> 48 & Self::TABLE_MASK) as u16,
            ],
            parity: (word >> 63) as u8,
        }
    }

    /// The split, taken to a track that has a table: a track without usable
    /// backends never gets a flow, and `None` means that neither has one.
    #[inline(always)]
    #[must_use]
    pub const fn track_for(self, split_hash: u32) -> Option<Track> {
        let wants_canary = self.split.takes(split_hash);
        if self.tables[1] != 0 && (wants_canary || self.tables[0] == 0 && self.split.parts() > 0) {
            return Some(Track::Canary);
        }
        if self.tables[0] != 0 {
            return Some(Track::Stable);
        }
        None
    }

    /// A track that was asked for by name, whatever the split; the other one
    /// where it has no usable backend.
    #[inline(always)]
    #[must_use]
    pub const fn track_or_other(self, canary: bool) -> Option<Track> {
        if self.tables[1] != 0 && (canary || self.tables[0] == 0) {
            return Some(Track::Canary);
        }
        if self.tables[0] != 0 {
            return Some(Track::Stable);
        }
        None
    }
}

/// Bits of [`Service::flags`].
#[derive(Clone, Copy, Debug)]
pub struct ServiceFlags;

impl ServiceFlags {
    /// The record is in use.
    pub const PRESENT: u16 = 1;
    /// Split and pick by the client's address alone.
    pub const CLIENT_AFFINITY: u16 = 2;
    /// Some clients have a track of their own: new flows are looked up there.
    pub const STEERED: u16 = 4;
}

/// How long a flow lives without a packet, in jiffies, by state.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the SYN, or from the first packet of a flow taken over in the middle.
    pub half_open: u32,
    pub established: u32,
    /// After a FIN each way, or a RST.
    pub closing: u32,
    /// UDP, no answer yet.
    pub unanswered: u32,
    /// UDP, answered.
    pub answered: u32,
}

/// One service. Two cache lines: the first is what an established flow needs.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// A packed [`WeightTable`]; written with one atomic store.
    pub weights: u64,
    pub vip: Address,
    pub port_be: u16,
    /// IP protocol, 6 or 17.
    pub protocol: u8,
    /// The generation of flows born to the canary now, 1 to
    /// [`crate::FlowFlags::GENERATIONS`]; where it changes, those born before
    /// are cut at their next packet. 0: none ever is.
    pub generation: u8,
    /// [`ServiceFlags`].
    pub flags: u16,
    /// [`crate::Signals`] that are read for this service.
    pub signals: u16,
    pub timeouts: Timeouts,
    pub reserved2: [u32; 3],
    /// Keys of the pick, the same on every host with the same configuration.
    pub pick: HashKeys,
    /// Slots of each track's table.
    pub table_size: [u32; 2],
    /// Of the split's hash, see [`crate::Hashed::for_split`].
    pub salt: u32,
    pub reserved3: [u32; 5],
}

const _: () = assert!(size_of::<Service>() == 128);
const _: () = assert!(core::mem::offset_of!(Service, generation) == 27);
const _: () = assert!(core::mem::offset_of!(Service, salt) == 104);

/// Bits of [`Backend::flags`].
#[derive(Clone, Copy, Debug)]
pub struct BackendFlags;

impl BackendFlags {
    /// Configured: pins to it hold. Without it they are picked again.
    pub const PRESENT: u16 = 1;
    /// The next hop is known.
    pub const RESOLVED: u16 = 2;
    /// In the canary's track.
    pub const CANARY: u16 = 4;
}

/// One backend of one service, one cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    pub address: Address,
    pub port_be: u16,
    /// [`BackendFlags`].
    pub flags: u16,
    /// Where packets to it leave: interface number, and how the frame begins
    /// (to the next hop, from this host).
    pub ifindex: u32,
    pub frame: FrameAddresses,
    /// The service it belongs to.
    pub service: u16,
    /// Another backend record with the same address, port and protocol, of
    /// another service; 0 ends the list.
    pub next_sharing: u16,
    /// The cell for flows born now, by the epoch's parity.
    pub cells: [u16; 2],
    /// What translating VIP to backend adds to a checksum over the addresses
    /// (IPv4 header), and over addresses and ports (TCP, UDP), RFC 1624.
    /// The way back adds the complement.
    pub address_delta: u16,
    pub transport_delta: u16,
    /// The cell of flows that were steered here, in every epoch: they were not
    /// drawn, so they say nothing of the split's two halves. 0: there is none,
    /// and they are booked with the others.
    pub steered_cell: u16,
    pub reserved0: u16,
    pub reserved: [u32; 3],
}

impl Backend {
    /// All cells that flows born now may be booked to; 0 is none.
    #[must_use]
    pub const fn current_cells(&self) -> [u16; 3] {
        [self.cells[0], self.cells[1], self.steered_cell]
    }

    /// Whether a flow of this cell was steered here.
    #[inline(always)]
    #[must_use]
    pub const fn is_steered(&self, cell: u16) -> bool {
        self.steered_cell != 0 && cell == self.steered_cell
    }
}

const _: () = assert!(size_of::<Backend>() == 64);
const _: () = assert!(core::mem::offset_of!(Backend, steered_cell) == 48);
