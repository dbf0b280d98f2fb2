//! Counters per backend, over all the cells it ever had.
//!
//! A cell belongs to one backend in one epoch. It is read for as long as a
//! flow born under it may live; then its counts go into the backend's base and
//! its number is free.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use canary_common::{Backend, Cell, Latencies, SharedCell};

use super::{
    ledger::Lived,
    store::{SavedBook, SavedTimes},
};
use crate::{api::types::Counters, plan::Observed};

/// A backend of a service, by name.
pub(super) type Key = (String, SocketAddr);

/// What a cell counted.
pub(super) type Counts = (Cell, SharedCell);

#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    base: (Cell, SharedCell),
    /// Large, and of nothing for most.
    base_times: Option<Box<Latencies>>,
    cells: BTreeSet<u16>,
}

/// By service and backend.
#[derive(Clone, Debug, Default)]
pub(super) struct Books(BTreeMap<String, BTreeMap<SocketAddr, Book>>);

impl Books {
    /// Enters the cells that the backends have now.
    pub(super) fn enter(&mut self, (service, backend): &Key, cells: [u16; 3]) {
        let book = self.0.entry(service.clone()).or_default().entry(*backend).or_default();
        book.cells.extend(cells.into_iter().filter(|cell| *cell != 0));
    }

    fn all(&self) -> impl Iterator<Item = &Book> {
        self.0.values().flat_map(BTreeMap::values)
    }

    fn get(&self, (service, backend): &Key) -> Option<&Book> {
        self.0.get(service)?.get(backend)
    }

    /// All cells that are still read.
    pub(super) fn cells(&self) -> BTreeSet<u16> {
        self.all().flat_map(|book| book.cells.iter().copied()).collect()
    }

    /// Those of some backends, by service and address.
    pub(super) fn cells_of<'a>(
        &'a self,
        backends: impl Iterator<Item = (&'a str, SocketAddr)>,
    ) -> impl Iterator<Item = u16> {
        let books = backends.filter_map(|(service, backend)| self.0.get(service)?.get(&backend));
        books.flat_map(|book| book.cells.iter().copied())
    }

    /// Some of a service's backends over all epochs. `living`: of cells that
    /// counted anything.
    pub(super) fn lived(
        &self,
        service: &str,
        backends: impl Iterator<Item = SocketAddr>,
        living: impl Fn(u16) -> Option<Lived>,
    ) -> Lived {
        let mut sum = Lived::default();
        let books = self.0.get(service);
        for book in backends.filter_map(|backend| books?.get(&backend)) {
            add(&mut sum.counts, &book.base);
            if let Some(times) = &book.base_times {
                sum.times.add(times);
            }
            book.cells.iter().filter_map(|cell| living(*cell)).for_each(|lived| sum.add(&lived));
        }
        sum
    }

    /// Connections of some of a service's backends over all epochs. `counts`: of
    /// cells that counted anything.
    pub(super) fn connections(
        &self,
        service: &str,
        backends: impl Iterator<Item = SocketAddr>,
        counts: &BTreeMap<u16, Counts>,
    ) -> u64 {
        let Some(books) = self.0.get(service) else { return 0 };
        let of_book = |book: &Book| {
            let living = book.cells.iter().filter_map(|cell| counts.get(cell));
            book.base.0.connections + living.map(|(cell, _)| cell.connections).sum::<u64>()
        };
        backends.filter_map(|backend| books.get(&backend)).map(of_book).sum()
    }

    /// A backend's counts over all epochs.
    pub(super) fn total<E>(
        &self,
        key: &Key,
        read: impl Fn(u16) -> Result<Counts, E>,
    ) -> Result<Counts, E> {
        let Some(book) = self.get(key) else { return Ok(Counts::default()) };
        let mut sum = book.base;
        for &cell in &book.cells {
            add(&mut sum, &read(cell)?);
        }
        Ok(sum)
    }

    /// Cells that no backend books new flows to any more.
    pub(super) fn retired(&self, observed: &Observed) -> BTreeSet<u16> {
        let current: BTreeSet<u16> =
            observed.backends.values().flat_map(Backend::current_cells).collect();
        self.cells().difference(&current).copied().collect()
    }

    /// Folds cells that are [retired](Self::retired): their counts go into the
    /// base, their numbers are free. Whether there were any.
    pub(super) fn fold(
        &mut self,
        observed: &mut Observed,
        over: &BTreeSet<u16>,
        lived: impl Fn(u16) -> Lived,
    ) -> bool {
        let mut folded = false;
        for book in self.0.values_mut().flat_map(BTreeMap::values_mut) {
            let cells: Vec<u16> = book.cells.intersection(over).copied().collect();
            for cell in cells {
                let Lived { counts, times } = lived(cell);
                add(&mut book.base, &counts);
                if times != Latencies::default() {
                    book.base_times.get_or_insert_default().add(&times);
                }
                book.cells.remove(&cell);
                observed.cells.remove(&cell);
                folded = true;
            }
        }
        folded
    }

    /// Forgets backends that are not configured and have no cell left.
    pub(super) fn retain(&mut self, configured: &BTreeSet<Key>) {
        for (service, books) in &mut self.0 {
            let mut key = (service.clone(), SocketAddr::from(([0; 4], 0)));
            books.retain(|backend, book| {
                key.1 = *backend;
                !book.cells.is_empty() || configured.contains(&key)
            });
        }
        self.0.retain(|_, books| !books.is_empty());
    }

    pub(super) fn save(&self) -> Vec<SavedBook> {
        let mut saved = Vec::new();
        for (service, books) in &self.0 {
            saved.extend(books.iter().map(|(backend, book)| SavedBook {
                service: service.clone(),
                backend: backend.to_string(),
                cells: book.cells.clone(),
                base: numbers(&book.base),
                times: book.base_times.as_deref().map(SavedTimes::both).unwrap_or_default(),
            }));
        }
        saved
    }

    /// What was saved; entries that make no sense are left out.
    pub(super) fn restore(saved: &[SavedBook]) -> Self {
        let mut books = Self::default();
        for saved in saved {
            let Ok(backend) = saved.backend.parse() else { continue };
            let base_times = SavedTimes::latencies(&saved.times);
            let base_times = (base_times != Latencies::default()).then(|| Box::new(base_times));
            let base = from_numbers(&saved.base);
            let book = Book { base, base_times, cells: saved.cells.clone() };
            books.0.entry(saved.service.clone()).or_default().insert(backend, book);
        }
        books
    }
}

pub(super) fn add(sum: &mut Counts, counts: &Counts) {
    sum.0.add(&counts.0);
    sum.1.add(&counts.1);
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
        resets_backend_after_data: cell.resets_backend_after_data,
        resets_client_after_data: cell.resets_client_after_data,
        resets_backend_after_fin: cell.resets_backend_after_fin,
        resets_client_after_fin: cell.resets_client_after_fin,
        resets_backend_implausible: cell.resets_backend_implausible,
        resets_client_implausible: cell.resets_client_implausible,
        retransmits_backend: cell.retransmits_backend,
        retransmits_client: cell.retransmits_client,
        zero_windows_backend: cell.zero_windows_backend,
        zero_windows_client: cell.zero_windows_client,
        http_1xx: cell.http_1xx,
        http_2xx: cell.http_2xx,
        http_3xx: cell.http_3xx,
        http_4xx: cell.http_4xx,
        http_5xx: cell.http_5xx,
        connections_5xx: cell.connections_5xx,
        tls_alerts_backend: cell.tls_alerts_backend,
        tls_alerts_client: cell.tls_alerts_client,
        idle_cuts: shared.idle_cuts,
        // Not of one cell: the caller knows which are.
        steered: 0,
    }
}

/// By name, so that an upgrade may add some.
pub(super) fn numbers((cell, shared): &Counts) -> BTreeMap<String, u64> {
    let cell = Cell::NAMES.iter().zip(cell.values());
    let shared = SharedCell::NAMES.iter().zip(shared.values());
    let counted = cell.chain(shared).filter(|(_, value)| *value > 0);
    counted.map(|(name, value)| ((*name).to_owned(), value)).collect()
}

pub(super) fn from_numbers(numbers: &BTreeMap<String, u64>) -> Counts {
    let mut counts = Counts::default();
    for (name, value) in numbers {
        let (cell, shared) = &mut counts;
        if let Some(field) = cell.field_mut(name).or_else(|| shared.field_mut(name)) {
            *field = *value;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_keeps_totals_and_frees_the_cell() {
        let key = ("web".to_owned(), "10.0.0.1:80".parse().expect("an address"));
        let mut books = Books::default();
        books.enter(&key, [1, 2, 0]);
        let counts = |cell: u16| {
            let cell = Cell { connections: 10 * u64::from(cell), ..Cell::default() };
            (cell, SharedCell::default())
        };
        let read = |cell: u16| Ok::<_, ()>(counts(cell));
        let times = |cell: u16| {
            let mut times = Latencies::default();
            times.first_byte.counts[7] = u64::from(cell);
            times.first_byte.sum = 10 * u64::from(cell);
            times
        };
        let lived = |cell: u16| Lived { counts: counts(cell), times: times(cell) };
        let mut observed = Observed { cells: [1, 2].into(), ..Observed::default() };
        let owner = canary_common::Backend { cells: [1, 2], ..Default::default() };
        observed.backends.insert(7, owner);
        assert_eq!(books.retired(&observed), BTreeSet::new());
        observed.backends.remove(7);
        assert_eq!(books.retired(&observed), [1, 2].into());
        // Cell 1 still has a flow, cell 2 has none.
        let over = [2].into();
        assert!(books.fold(&mut observed, &over, lived));
        assert_eq!(observed.cells, [1].into());
        for books in [&books, &Books::restore(&books.save())] {
            let total = books.total(&key, read).map(|counts| counts.0.connections);
            assert_eq!(total, Ok(30));
            let only = || std::iter::once(key.1);
            let all = books.lived(&key.0, only(), |cell| Some(lived(cell)));
            assert_eq!(all.counts.0.connections, 30);
            let first_byte = all.times.first_byte;
            assert_eq!((first_byte.counts[7], first_byte.sum), (3, 30));
        }
    }
}
