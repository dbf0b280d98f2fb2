//! Counters per backend, over all the cells it ever had.
//!
//! A cell belongs to one backend in one epoch. It is read for as long as a
//! flow born under it may live; then its counts go into the backend's base and
//! its number is free.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use canary_common::{Cell, SharedCell};

use super::store::SavedBook;
use crate::{api::types::Counters, controller::Tally, plan::Observed};

/// A backend of a service, by name.
pub(super) type Key = (String, SocketAddr);

/// What a cell counted.
pub(super) type Counts = (Cell, SharedCell);

#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    base: (Cell, SharedCell),
    cells: BTreeSet<u16>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Books(BTreeMap<Key, Book>);

impl Books {
    /// Enters the cells that the backends have now.
    pub(super) fn enter(&mut self, key: &Key, cells: [u16; 2]) {
        let book = self.0.entry(key.clone()).or_default();
        book.cells.extend(cells.into_iter().filter(|cell| *cell != 0));
    }

    /// All cells that are still read.
    pub(super) fn cells(&self) -> BTreeSet<u16> {
        self.0.values().flat_map(|book| book.cells.iter().copied()).collect()
    }

    /// A backend's counts over all epochs.
    pub(super) fn total<E>(
        &self,
        key: &Key,
        read: impl Fn(u16) -> Result<Counts, E>,
    ) -> Result<Counts, E> {
        let Some(book) = self.0.get(key) else { return Ok(Counts::default()) };
        let mut sum = book.base;
        for &cell in &book.cells {
            add(&mut sum, &read(cell)?);
        }
        Ok(sum)
    }

    /// Cells that no backend books new flows to any more.
    pub(super) fn retired(&self, observed: &Observed) -> BTreeSet<u16> {
        let current: BTreeSet<u16> = observed.backends.values().flat_map(|b| b.cells).collect();
        self.cells().difference(&current).copied().collect()
    }

    /// Folds those cells of `over` that are retired: their counts go into the
    /// base, their numbers are free.
    pub(super) fn fold<E>(
        &mut self,
        observed: &mut Observed,
        over: &BTreeSet<u16>,
        read: impl Fn(u16) -> Result<Counts, E>,
    ) -> Result<bool, E> {
        let retired = self.retired(observed);
        let mut folded = false;
        for book in self.0.values_mut() {
            let over = over.intersection(&retired).filter(|cell| book.cells.contains(cell));
            for cell in over.copied().collect::<Vec<u16>>() {
                let counts = read(cell)?;
                add(&mut book.base, &counts);
                book.cells.remove(&cell);
                observed.cells.remove(&cell);
                folded = true;
            }
        }
        Ok(folded)
    }

    /// Forgets backends that are not configured and have no cell left.
    pub(super) fn retain(&mut self, configured: &BTreeSet<Key>) {
        self.0.retain(|key, book| !book.cells.is_empty() || configured.contains(key));
    }

    pub(super) fn save(&self) -> Vec<SavedBook> {
        self.0
            .iter()
            .map(|((service, backend), book)| SavedBook {
                service: service.clone(),
                backend: backend.to_string(),
                cells: book.cells.clone(),
                base: numbers(&book.base).to_vec(),
            })
            .collect()
    }

    /// What was saved; entries that make no sense are left out.
    pub(super) fn restore(saved: &[SavedBook]) -> Self {
        let book = |saved: &SavedBook| {
            let key = (saved.service.clone(), saved.backend.parse().ok()?);
            let base = from_numbers(&saved.base)?;
            Some((key, Book { base, cells: saved.cells.clone() }))
        };
        Self(saved.iter().filter_map(book).collect())
    }
}

pub(super) fn add(sum: &mut Counts, counts: &Counts) {
    sum.0.add(&counts.0);
    sum.1.handshake_timeouts += counts.1.handshake_timeouts;
    sum.1.evicted += counts.1.evicted;
}

/// One connection, one failure: the program books each flow as bad once.
pub(super) fn tally((cell, shared): &Counts) -> Tally {
    Tally {
        connections: cell.connections,
        bad: cell.refused + cell.resets_backend + shared.handshake_timeouts,
    }
}

pub(super) fn counters((cell, shared): &Counts, active: u64) -> Counters {
    Counters {
        connections: cell.connections,
        active,
        packets_in: cell.packets_in,
        packets_out: cell.packets_out,
        bytes_in: cell.bytes_in,
        bytes_out: cell.bytes_out,
        refused: cell.refused,
        resets_backend: cell.resets_backend,
        resets_client: cell.resets_client,
        syn_retransmits: cell.syn_retransmits,
        handshake_timeouts: shared.handshake_timeouts,
        established: cell.established,
        closed: cell.closed,
        midstream: cell.midstream,
        evicted: shared.evicted,
    }
}

fn numbers((cell, shared): &Counts) -> [u64; 14] {
    [
        cell.packets_in,
        cell.bytes_in,
        cell.packets_out,
        cell.bytes_out,
        cell.connections,
        cell.established,
        cell.midstream,
        cell.refused,
        cell.resets_backend,
        cell.resets_client,
        cell.syn_retransmits,
        cell.closed,
        shared.handshake_timeouts,
        shared.evicted,
    ]
}

fn from_numbers(numbers: &[u64]) -> Option<Counts> {
    let n: [u64; 14] = numbers.try_into().ok()?;
    let cell = Cell {
        packets_in: n[0],
        bytes_in: n[1],
        packets_out: n[2],
        bytes_out: n[3],
        connections: n[4],
        established: n[5],
        midstream: n[6],
        refused: n[7],
        resets_backend: n[8],
        resets_client: n[9],
        syn_retransmits: n[10],
        closed: n[11],
        ..Cell::default()
    };
    Some((cell, SharedCell { handshake_timeouts: n[12], evicted: n[13] }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_keeps_totals_and_frees_the_cell() {
        let key = ("web".to_owned(), "10.0.0.1:80".parse().expect("an address"));
        let mut books = Books::default();
        books.enter(&key, [1, 2]);
        let read = |cell: u16| {
            let cell = Cell { connections: 10 * u64::from(cell), ..Cell::default() };
            Ok::<_, ()>((cell, SharedCell::default()))
        };
        let mut observed = Observed { cells: [1, 2].into(), ..Observed::default() };
        // Cell 1 still has a flow, cell 2 has none.
        let over = [2].into();
        let owner = canary_common::Backend { cells: [1, 2], ..Default::default() };
        observed.backends.insert(7, owner);
        assert_eq!(books.fold(&mut observed, &over, read), Ok(false), "2 is current");
        observed.backends.clear();
        assert_eq!(books.retired(&observed), [1, 2].into());
        assert_eq!(books.fold(&mut observed, &over, read), Ok(true));
        assert_eq!(observed.cells, [1].into());
        let total = books.total(&key, read).map(|counts| counts.0.connections);
        assert_eq!(total, Ok(30));
        let restored = Books::restore(&books.save());
        assert_eq!(restored.total(&key, read).map(|c| c.0.connections), Ok(30));
    }
}
