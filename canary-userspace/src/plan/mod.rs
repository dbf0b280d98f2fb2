//! From what is wanted and what is there to the list of writes that makes the
//! one into the other. Pure: the data plane carries the writes out.

mod checksum;
mod desired;
mod diff;
pub mod directory;
mod numbered;
mod records;
pub mod ring;
#[cfg(test)]
mod tests;
mod uncertain;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use canary_common::{
    Backend, DirectoryKey, MAX_BACKENDS, MAX_CELLS, MAX_SERVICES, MAX_TABLES, Service, WeightTable,
};

use crate::config;

pub use checksum::checksum_deltas;
pub use desired::{Desired, DesiredService, Hop, generation_of};
pub use diff::{Planned, plan, plan_some};
pub use numbered::{Identified, Identity, Numbered};
use records::protocol_number;

/// What the maps hold. Read once at start, then kept by the daemon, which is
/// their only writer.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Records in use, by number.
    pub services: Numbered<Service>,
    pub backends: Numbered<Backend>,
    /// What stands in the Maglev tables that this daemon made: a fingerprint
    /// by number. A table that is not here is made again.
    pub tables: BTreeMap<u16, u64>,
    /// Cells that are not to be given out: current ones, and those that live
    /// flows were born under.
    pub cells: BTreeSet<u16>,
    /// Where the search for free numbers goes on, so that one is reused as
    /// late as can be.
    pub cursor: Cursor,
    /// The last number that each service's epoch was asked for by. A daemon
    /// that adopts maps enters what it remembers; what is not here is another.
    pub epochs: BTreeMap<u16, u64>,
    /// The directory as last written.
    pub directory: Vec<(DirectoryKey, u32)>,
    /// Tables that no weight word names since the last plan. The next one drops
    /// them: a packet that read the old word just before may still look there.
    pub unnamed: BTreeSet<u16>,
    /// Writes failed on the way: the maps may hold what stood before or what
    /// was to come, so the next plan writes everything.
    pub uncertain: bool,
}

/// The last number given out, by kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    pub service: u16,
    pub backend: u16,
    pub table: u16,
    pub cell: u16,
}

/// There is no number left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error("more than {MAX_SERVICES} services at once")]
    Services,
    #[error("more than {MAX_BACKENDS} backends at once")]
    Backends,
    #[error("more than {MAX_TABLES} Maglev tables at once")]
    Tables,
    #[error("more than {MAX_CELLS} counter cells at once; wait until older flows have ended")]
    Cells,
}

/// One change to the maps. Order matters; a list is carried out front to back.
#[derive(Clone, Debug, PartialEq)]
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

impl Observed {
    /// The number of a service, by what it listens on.
    #[must_use]
    pub fn service_number(&self, listen: SocketAddr, protocol: u8) -> Option<u16> {
        self.services.number_of(Identity::of_service(listen, protocol))
    }

    /// The same of one that is configured.
    #[must_use]
    pub fn service_of(&self, service: &config::Service) -> Option<u16> {
        self.service_number(service.listen, protocol_number(service.protocol))
    }

    /// The number of a backend of a service.
    #[must_use]
    pub fn backend_number(&self, service: u16, address: SocketAddr) -> Option<u16> {
        self.backends.number_of(Identity::of_backend(service, address))
    }

    /// Whether so many fresh cells are left: of one epoch each backend takes one.
    #[must_use]
    pub fn has_cells_for(&self, backends: usize) -> bool {
        // 0 is no cell.
        backends <= (MAX_CELLS as usize - 1).saturating_sub(self.cells.len())
    }

    pub(crate) fn new_service(&mut self) -> Result<u16, Full> {
        let taken = |n: u16| self.services.contains_key(&n);
        let found = next_free(self.cursor.service, 0, MAX_SERVICES, taken).ok_or(Full::Services)?;
        self.cursor.service = found;
        Ok(found)
    }

    pub(crate) fn new_backend(&mut self) -> Result<u16, Full> {
        let taken = |n: u16| self.backends.contains_key(&n);
        let found = next_free(self.cursor.backend, 1, MAX_BACKENDS, taken).ok_or(Full::Backends)?;
        self.cursor.backend = found;
        Ok(found)
    }

    pub(crate) fn new_table(&mut self) -> Result<u16, Full> {
        let taken = |n: u16| self.tables.contains_key(&n);
        let found = next_free(self.cursor.table, 1, MAX_TABLES, taken).ok_or(Full::Tables)?;
        self.cursor.table = found;
        Ok(found)
    }

    pub(crate) fn new_cell(&mut self) -> Result<u16, Full> {
        let taken = |n: u16| self.cells.contains(&n);
        let found = next_free(self.cursor.cell, 1, MAX_CELLS, taken).ok_or(Full::Cells)?;
        self.cursor.cell = found;
        self.cells.insert(found);
        Ok(found)
    }
}

/// The next number after `last` in `first..end`, going round.
fn next_free(last: u16, first: u32, end: u32, taken: impl Fn(u16) -> bool) -> Option<u16> {
    let range = end - first;
    (1..=range)
        .map(|step| first + (u32::from(last).saturating_sub(first) + step) % range)
        .map(|number| number as u16)
        .find(|&number| !taken(number))
}
