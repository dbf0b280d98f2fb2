//! From what is wanted and what is there to the list of writes that makes the
//! one into the other. Pure: the data plane carries the writes out.

pub mod directory;
pub mod ring;

use std::collections::BTreeMap;

use canary_common::{Backend, DirectoryKey, Service, WeightTable};

/// What the maps hold. Read once at start, then kept by the daemon, which is
/// their only writer.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Records in use, by number.
    pub services: BTreeMap<u16, Service>,
    pub backends: BTreeMap<u16, Backend>,
}

/// One change to the maps. Order matters; a list is carried out front to back.
#[derive(Clone, Debug)]
pub enum Write {
    /// Zero a cell on all CPUs, before a backend's record names it.
    ClearCell { cell: u16 },
    /// A whole record. The program may read it half old, half new, so a number
    /// in use only changes in words that stand alone.
    Backend { number: u16, record: Backend },
    /// A whole record but for `weights`, which keeps its value.
    Service { number: u16, record: Service },
    /// A Maglev table as a new map, put in place whole. `slots` are backend numbers.
    Table { number: u16, slots: Vec<u16> },
    /// A table that no weight word names any more.
    DropTable { number: u16 },
    /// All entries; written to the half not in force, then switched.
    Directory { entries: Vec<(DirectoryKey, u32)> },
    /// One atomic store.
    Weights { service: u16, weights: WeightTable },
    /// An interface packets may be redirected to.
    AllowInterface { ifindex: u32 },
    /// Give back every way pinned to these backends, which are gone.
    ForgetPins { backends: Vec<u16> },
    /// The record is free for another service (`flags` 0).
    DropService { number: u16 },
    /// The record is free for another backend (`flags` 0).
    DropBackend { number: u16 },
}
