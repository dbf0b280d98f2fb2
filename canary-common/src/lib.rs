//! Everything that crosses the border between the kernel program and user
//! space, defined once: record layouts, the words that are switched
//! atomically, the hashes both sides must agree on, and the limits.
//!
//! Records are `repr(C)`, have no implicit padding, and hold no type with
//! invalid bit patterns, so any bytes found in a map are a valid value.
#![no_std]

mod address;
mod counters;
mod directory;
mod exchange;
mod fault;
mod flow;
mod guard;
mod hash;
mod service;
mod signals;
mod steer;
mod told;
mod where_answer;

pub use address::{Address, FrameAddresses, Mac, PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP};
pub use counters::{Cell, Reason, SharedCell};
pub use directory::{
    DIRECTORY_GROUPS, DIRECTORY_SLOTS, DirectoryEntry, DirectoryKey, EntryKind, PORTS, Probe,
    Register,
};
pub use exchange::{EXCHANGE_FRAME, EXCHANGE_TURNS, Exchange, NatTarget};
pub use fault::{Fault, FaultKind};
pub use flow::{
    Bucket, Ctl, Flow, FlowFlags, FlowKey, FlowState, OverflowMarks, WAYS, deadline_passed,
};
pub use guard::{Guard, GuardStatus};
pub use hash::{HashKeys, Hashed, pick_hash};
pub use service::{
    Backend, BackendFlags, MAX_SPLIT, Service, ServiceFlags, Split, Timeouts, Track, WeightTable,
};
pub use signals::{Histogram, Latencies, Signals, Ticks, Timed};
pub use steer::{Cidr, CidrError, Steer, SteerKey};
pub use told::{FlowEvent, Told};
pub use where_answer::WhereAnswer;

/// Version of every layout in this crate. Pinned maps carry it (in
/// [`Settings`]); a daemon that finds another value carries their connections over
/// to maps of its own, where it knows how, and else does not touch them.
pub const ABI: u32 = 4;

/// Services a host can have: directory and map sizes follow from it.
pub const MAX_SERVICES: u32 = 512;
/// Backend records, over all services and tracks. Index 0 is never used, so
/// that a zeroed table slot names nobody.
pub const MAX_BACKENDS: u32 = 8192;
/// Cells, over all backends and epochs. Index 0 is never used.
pub const MAX_CELLS: u32 = 16384;
/// Maglev tables at once. Index 0 means "no usable backend". Fits the 15 bits
/// that [`WeightTable`] has for it.
pub const MAX_TABLES: u32 = 4096;
/// Services that one backend address and port may stand behind.
pub const MAX_SHARING: u32 = 8;
/// Backend numbers in one element of a Maglev table's map: array elements are
/// padded to 8 bytes, so four are kept in each. Slot `s` is word `s / 4`,
/// number `s % 4`.
pub const TABLE_WORD: usize = 4;
/// Entries of each of the steering maps: addresses and networks that have a
/// track of their own, over all services.
pub const MAX_STEERED: u32 = 1 << 20;
/// Largest prime accepted as a Maglev table's size.
pub const MAX_TABLE_SIZE: u32 = 131_071;
/// Table size where the configuration names none (Maglev wants at least
/// 100 slots a backend; this holds for 160).
pub const DEFAULT_TABLE_SIZE: u32 = 16_381;

/// The one record of the `SETTINGS` map: what the program reads on every
/// packet that it cannot have as a load-time constant.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// [`ABI`] of the daemon that made the maps. While the connections of an older
    /// layout are carried over that one's in the upper half, and the newer one's in
    /// the lower.
    pub abi: u32,
    /// Nothing; the directory's half stood here in ABI 3.
    pub reserved: u32,
    /// 1 once a flow went to the overflow map; the daemon resets it when that
    /// map is empty again.
    pub overflowed: u32,
    /// Somebody follows one flow in so many, by the flow's hash; 0: nobody.
    pub follow: u32,
    /// Secret keys of the flow table's and the directory's hash. The program
    /// has them as a load-time constant; they stand here for the daemon that
    /// adopts the maps.
    pub keys: HashKeys,
    /// Events that the ring had no room for. Added to by the program.
    pub events_dropped: u64,
}

const _: () = assert!(size_of::<Settings>() == 56);

#[cfg(feature = "aya")]
mod pod {
    use super::{
        Backend, Bucket, Cell, DirectoryEntry, Exchange, Fault, Flow, FlowKey, Guard, HashKeys,
        Latencies, NatTarget, OverflowMarks, Register, Service, Settings, SharedCell, Steer,
        WhereAnswer,
    };
    macro_rules! pod {
        ($($t:ty),+) => { $(
            // SAFETY: repr(C), no padding (sizes asserted), every bit pattern valid.
            unsafe impl aya::Pod for $t {}
        )+ };
    }
    pod!(
        Backend,
        Bucket,
        Cell,
        DirectoryEntry,
        Exchange,
        Fault,
        Flow,
        FlowKey,
        Guard,
        HashKeys,
        Latencies,
        NatTarget,
        OverflowMarks,
        Register,
        Service,
        Settings,
        SharedCell,
        Steer,
        WhereAnswer
    );
}
