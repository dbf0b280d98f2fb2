//! Maps in memory that carry writes out, and say after each of them whether a
//! packet that comes now would see half a change.

use std::collections::{BTreeMap, BTreeSet};

use canary_common::{
    Backend, BackendFlags, DirectoryKey, EntryKind, MAX_SHARING, Service, ServiceFlags, Track,
    WeightTable, pick_hash,
};

use super::super::super::{Observed, Planned, Write};

#[derive(Clone, Default)]
pub(super) struct Maps {
    pub(super) services: BTreeMap<u16, Service>,
    pub(super) backends: BTreeMap<u16, Backend>,
    pub(super) tables: BTreeMap<u16, Vec<u16>>,
    pub(super) directory: BTreeMap<DirectoryKeyOrd, u32>,
    pub(super) interfaces: BTreeSet<u32>,
    /// Cleared since a record named them last.
    cleared: BTreeSet<u16>,
    /// Dropped, and their pins not forgotten yet.
    unforgotten: BTreeMap<u16, Backend>,
}

/// A directory's key in an order.
type DirectoryKeyOrd = ([u32; 4], u16, u8, u8);

fn ordered(key: &DirectoryKey) -> DirectoryKeyOrd {
    (key.address.words_be, key.port_be, key.protocol, key.kind)
}

impl Maps {
    /// Carries everything out and checks after each write.
    pub(super) fn carry_out(&mut self, planned: &Planned) {
        let before = self.named_tables();
        for write in &planned.writes {
            self.write(write, &before);
            self.check(&planned.after);
        }
        assert!(self.unforgotten.is_empty(), "pins of {:?} stay", self.unforgotten);
        self.compare(&planned.after);
    }

    /// The first so many writes, without a look at what they leave.
    pub(super) fn carry_out_part(&mut self, planned: &Planned, count: usize) {
        let before = self.named_tables();
        for write in &planned.writes[..count] {
            self.write(write, &before);
        }
    }

    fn named_tables(&self) -> BTreeSet<u16> {
        let words = self.services.values().map(|s| WeightTable::unpack(s.weights));
        words.flat_map(|word| word.tables).filter(|table| *table != 0).collect()
    }

    fn write(&mut self, write: &Write, named_before: &BTreeSet<u16>) {
        match write {
            Write::ClearCell { cell } => {
                let used = self.backends.values().any(|b| b.cells.contains(cell));
                assert!(*cell != 0 && !used, "cell {cell} is cleared while flows are born into it");
                self.cleared.insert(*cell);
            }
            Write::Backend { number, record } => self.put_backend(*number, record),
            Write::Service { number, record } => {
                let old = self.services.get(number).copied().unwrap_or_default();
                let identity = |s: &Service| (s.vip, s.port_be, s.protocol);
                let free = old.flags & ServiceFlags::PRESENT == 0;
                assert!(free || identity(&old) == identity(record), "service {number} changed");
                self.services.insert(*number, Service { weights: old.weights, ..*record });
            }
            Write::Table { number, slots } => {
                assert!(*number != 0 && !slots.is_empty());
                assert!(!self.named_tables().contains(number), "table {number} is in force");
                self.tables.insert(*number, slots.clone());
            }
            Write::DropTable { number } => {
                let named = self.named_tables().contains(number) || named_before.contains(number);
                assert!(!named, "table {number} is dropped under a packet's feet");
                assert!(self.tables.remove(number).is_some(), "table {number} is dropped twice");
            }
            Write::Directory { entries } => {
                self.directory = entries.iter().map(|(k, n)| (ordered(k), *n)).collect();
                assert_eq!(self.directory.len(), entries.len(), "a key twice");
            }
            Write::Weights { service, weights } => {
                self.services.entry(*service).or_default().weights = weights.pack();
            }
            Write::AllowInterface { ifindex } => {
                self.interfaces.insert(*ifindex);
            }
            Write::ForgetPins { backends } => {
                for number in backends {
                    assert!(!self.backends.contains_key(number), "{number} has flows to keep");
                    self.unforgotten.remove(number);
                }
            }
            Write::DropService { number } => {
                self.services.remove(number);
            }
            Write::DropBackend { number } => {
                let gone = self.backends.remove(number);
                self.unforgotten.extend(gone.map(|gone| (*number, gone)));
            }
        }
    }

    fn put_backend(&mut self, number: u16, record: &Backend) {
        assert_ne!(number, 0);
        let identity = |b: &Backend| (b.address, b.port_be, b.service);
        if let Some(gone) = self.unforgotten.get(&number) {
            assert_eq!(identity(gone), identity(record), "{number} has pins of another");
        }
        if let Some(old) = self.backends.get(&number) {
            assert_eq!(identity(old), identity(record), "backend {number} became another");
        }
        for cell in record.cells {
            let elsewhere =
                self.backends.iter().any(|(n, b)| *n != number && b.cells.contains(&cell));
            assert!(!elsewhere, "cell {cell} has two owners");
            let kept = self.backends.get(&number).is_some_and(|b| b.cells.contains(&cell));
            assert!(kept || self.cleared.contains(&cell), "cell {cell} was not cleared");
        }
        self.backends.insert(number, *record);
        for cell in record.cells {
            self.cleared.remove(&cell);
        }
    }

    /// Every service that packets find has somewhere to send them.
    fn check(&self, after: &Observed) {
        for ((address, port_be, protocol, kind), number) in &self.directory {
            if *kind != EntryKind::Service as u8 || !after.services.contains_key(&(*number as u16))
            {
                continue;
            }
            let service = self.services.get(&(*number as u16)).expect("a service of that number");
            assert_ne!(service.flags & ServiceFlags::PRESENT, 0);
            assert_eq!(
                (service.vip.words_be, service.port_be, service.protocol),
                (*address, *port_be, *protocol)
            );
            self.check_service(*number as u16, service, after);
        }
    }

    fn check_service(&self, number: u16, service: &Service, after: &Observed) {
        let word = WeightTable::unpack(service.weights);
        for table in word.tables.into_iter().filter(|table| *table != 0) {
            let slots = self.tables.get(&table).unwrap_or_else(|| panic!("no table {table}"));
            for who in slots.iter().collect::<BTreeSet<_>>() {
                let backend = self.backends.get(who).unwrap_or_else(|| panic!("no backend {who}"));
                assert_ne!(backend.flags & BackendFlags::PRESENT, 0);
                assert_eq!(backend.service, number);
                let cell = backend.cells[usize::from(word.parity)];
                assert_ne!(cell, 0, "backend {who} books nowhere");
                // Replies of a backend that goes are lost in any case.
                let stays = after.backends.contains_key(who);
                assert!(!stays || self.finds_replies(*who, service.protocol), "{who} is not found");
                let resolved = backend.flags & BackendFlags::RESOLVED != 0;
                assert!(!resolved || self.interfaces.contains(&backend.ifindex));
            }
        }
    }

    /// Whether the way back leads from the backend's address to its record.
    fn finds_replies(&self, who: u16, protocol: u8) -> bool {
        let backend = &self.backends[&who];
        let key = DirectoryKey::new(EntryKind::Backend, backend.address, backend.port_be, protocol);
        let mut number = self.directory.get(&ordered(&key)).copied().unwrap_or(0) as u16;
        for _ in 0..MAX_SHARING {
            if number == who {
                return true;
            }
            number = self.backends.get(&number).map_or(0, |b| b.next_sharing);
        }
        false
    }

    /// The maps hold what the plan says they hold.
    fn compare(&self, after: &Observed) {
        assert!(!after.uncertain);
        assert_eq!(self.services, *after.services);
        assert_eq!(self.backends, *after.backends);
        let tables: BTreeSet<u16> = self.tables.keys().copied().collect();
        assert_eq!(tables, after.tables.keys().copied().collect());
        let directory: BTreeMap<_, _> =
            after.directory.iter().map(|(k, n)| (ordered(k), *n)).collect();
        assert_eq!(self.directory, directory);
        for backend in self.backends.values() {
            assert!(backend.cells.iter().all(|cell| after.cells.contains(cell)));
        }
    }

    /// Where a client's new flow goes, as the program decides it.
    pub(super) fn pick(&self, service: u16, client: u32) -> Option<(Track, u16)> {
        let record = &self.services[&service];
        let word = WeightTable::unpack(record.weights);
        let address = canary_common::Address::from_v4_be(client.to_be());
        let hash = pick_hash(&record.pick, &address, 4711_u16.to_be());
        let track = word.track_for(hash.for_split(record.salt))?;
        let size = record.table_size[track as usize];
        let slots = &self.tables[&word.tables[track as usize]];
        Some((track, slots[hash.slot(size) as usize]))
    }
}
