//! The plan itself.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use canary_common::{Address, Backend, BackendFlags, Service, ServiceFlags, Track, WeightTable};

use super::{
    Desired, DesiredService, Full, Observed, Write,
    records::{
        self, Numbers, Sharing, backend_record, fingerprint, protocol_number, service_record,
    },
};

#[cfg(test)]
mod tests;

/// The writes, and what the maps hold once they are carried out.
#[derive(Clone, Debug)]
pub struct Planned {
    /// In the order in which no packet sees half a change.
    pub writes: Vec<Write>,
    pub after: Observed,
    /// There were too few free cells for a new epoch: new flows are booked
    /// together with earlier ones, until older flows have ended.
    pub short_of_cells: bool,
}

/// Writes by the step they belong to.
#[derive(Default)]
struct Steps {
    interfaces: BTreeSet<u32>,
    cells: Vec<Write>,
    /// By number.
    backends: BTreeMap<u16, Write>,
    tables: Vec<Write>,
    services: Vec<Write>,
    /// Of services that no packet finds yet.
    first_weights: Vec<Write>,
    /// What is found from now on, and all that was.
    wider_directory: Option<Write>,
    weights: Vec<Write>,
    /// Without what is gone.
    directory: Option<Write>,
    drops: Vec<Write>,
    forgets: Vec<u16>,
}

impl Steps {
    /// Front to back: what nothing names yet; then what names it. A new service
    /// is found when it has somewhere to send packets, and a backend gets its
    /// first flow when its answers are known as its own. What nothing names any
    /// more goes last.
    fn in_order(self) -> Vec<Write> {
        let interfaces = self.interfaces.into_iter();
        let mut writes: Vec<Write> =
            interfaces.map(|ifindex| Write::AllowInterface { ifindex }).collect();
        writes.extend(self.cells);
        // From the end of a chain of sharing backends: who is named next is there.
        writes.extend(self.backends.into_values().rev());
        writes.extend(self.tables);
        writes.extend(self.services);
        writes.extend(self.first_weights);
        writes.extend(self.wider_directory);
        writes.extend(self.weights);
        writes.extend(self.directory);
        writes.extend(self.drops);
        if !self.forgets.is_empty() {
            writes.push(Write::ForgetPins { backends: self.forgets });
        }
        writes
    }
}

/// Makes the plan.
///
/// # Errors
/// Where there are more of a kind than there are numbers; nothing is planned.
pub fn plan(desired: &Desired, observed: &Observed) -> Result<Planned, Full> {
    let mut after = observed.clone();
    after.uncertain = false;
    // Tables of an earlier daemon: in use, content unknown.
    for table in named_tables(observed) {
        after.tables.entry(table).or_insert(0);
    }
    let numbers = assign(desired, &mut after)?;
    let sharing = records::sharing(desired, &numbers);
    let mut planning = Planning::new(desired, observed, after, numbers, sharing);
    planning.services()?;
    planning.drop_gone();
    planning.drop_unnamed();
    planning.directory();
    Ok(planning.done())
}

/// The same for a change to services, the only ones in `desired`, that leaves
/// everybody where they are: of a split, of drains, of who is steered. A
/// host's other services are not looked at. `None` where it takes more.
///
/// # Errors
/// Where there are more of a kind than there are numbers; nothing is planned.
pub fn plan_some(desired: &Desired, observed: &Observed) -> Result<Option<Planned>, Full> {
    if observed.uncertain {
        return Ok(None);
    }
    let Some((numbers, sharing)) = known(desired, observed) else { return Ok(None) };
    let mut planning = Planning::new(desired, observed, observed.clone(), numbers, sharing);
    planning.services()?;
    planning.drop_unnamed();
    Ok(Some(planning.done()))
}

/// The numbers of services and all their backends, and who shares an address
/// with them, where all are in use.
fn known(desired: &Desired, observed: &Observed) -> Option<(Numbers, Sharing)> {
    let (mut numbers, mut sharing) = (Numbers::default(), Sharing::new());
    for service in &desired.services {
        let protocol = protocol_number(service.config.protocol);
        let number = observed.service_of(&service.config)?;
        let record = observed.services.get(&number)?;
        let named = WeightTable::unpack(record.weights).tables;
        if named.iter().any(|table| *table != 0 && !observed.tables.contains_key(table)) {
            return None;
        }
        numbers.services.push(number);
        for (_, backend) in service.backends() {
            let who = observed.backend_number(number, backend.address)?;
            let next = observed.backends.get(&who)?.next_sharing;
            let chain = [who].into_iter().chain((next != 0).then_some(next));
            sharing.entry((backend.address, protocol)).or_default().extend(chain);
            numbers.backends.insert((number, backend.address), who);
        }
        let theirs = observed.backends.values().filter(|record| record.service == number);
        if theirs.count() != service.backends().count() {
            return None;
        }
    }
    Some((numbers, sharing))
}

/// The tables that weight words name.
fn named_tables(observed: &Observed) -> BTreeSet<u16> {
    let words = observed.services.values().map(|service| WeightTable::unpack(service.weights));
    words.flat_map(|word| word.tables).filter(|table| *table != 0).collect()
}

fn assign(desired: &Desired, after: &mut Observed) -> Result<Numbers, Full> {
    let mut numbers = Numbers::default();
    for service in &desired.services {
        let number = match after.service_of(&service.config) {
            Some(number) => number,
            None => {
                let number = after.new_service()?;
                // Who it is; not in use yet.
                let record = service_record(desired, service);
                after.services.insert(number, Service { flags: 0, ..record });
                number
            }
        };
        numbers.services.push(number);
        for (_, backend) in service.backends() {
            let found = match after.backend_number(number, backend.address) {
                Some(found) => found,
                None => {
                    let found = after.new_backend()?;
                    let address = Address::from(backend.address.ip());
                    let port_be = backend.address.port().to_be();
                    let record =
                        Backend { service: number, address, port_be, ..Backend::default() };
                    after.backends.insert(found, record);
                    found
                }
            };
            numbers.backends.insert((number, backend.address), found);
        }
    }
    Ok(numbers)
}

struct Planning<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    numbers: Numbers,
    sharing: Sharing,
    after: Observed,
    steps: Steps,
    short_of_cells: bool,
}

impl<'a> Planning<'a> {
    fn new(
        desired: &'a Desired,
        observed: &'a Observed,
        after: Observed,
        numbers: Numbers,
        sharing: Sharing,
    ) -> Self {
        let (steps, short_of_cells) = (Steps::default(), false);
        Self { desired, observed, numbers, sharing, after, steps, short_of_cells }
    }

    fn done(self) -> Planned {
        Planned {
            writes: self.steps.in_order(),
            after: self.after,
            short_of_cells: self.short_of_cells,
        }
    }

    fn services(&mut self) -> Result<(), Full> {
        for (index, service) in self.desired.services.iter().enumerate() {
            self.service(service, self.numbers.services[index])?;
        }
        Ok(())
    }

    fn service(&mut self, service: &DesiredService, number: u16) -> Result<(), Full> {
        let current = self.after.services.get(&number).copied().unwrap_or_default();
        // A record that may be half written is written as if it were new.
        let is_known = current.flags & ServiceFlags::PRESENT != 0;
        let old = is_known.then(|| WeightTable::unpack(current.weights));
        let tables = self.tables(service, number, old)?;
        let mut weights =
            WeightTable { split: service.split, tables, parity: old.map_or(0, |old| old.parity) };
        let asked = service.epoch != 0 && self.after.epochs.get(&number) != Some(&service.epoch);
        let changes = old != Some(weights);
        let new_epoch = (changes || asked) && self.has_cells_for_epoch(service, number);
        if new_epoch {
            weights.parity ^= 1;
            self.after.epochs.insert(number, service.epoch);
        }
        self.backends(service, number, weights.parity, new_epoch)?;

        let record = Service { weights: weights.pack(), ..service_record(self.desired, service) };
        if (Service { weights: current.weights, ..record }) != current {
            self.steps.services.push(Write::Service { number, record });
        }
        if changes || new_epoch {
            let write = Write::Weights { service: number, weights };
            if self.observed.services.contains_key(&number) {
                self.steps.weights.push(write);
            } else {
                self.steps.first_weights.push(write);
            }
        }
        self.after.services.insert(number, record);
        Ok(())
    }

    /// Another split or other tables are a new epoch, booked apart; but rather
    /// booked together than not carried out.
    fn has_cells_for_epoch(&mut self, service: &DesiredService, number: u16) -> bool {
        let enough = self.after.has_cells_for(service.backends().count());
        if !enough && self.observed.services.contains_key(&number) {
            self.short_of_cells = true;
        }
        enough
    }

    fn backends(
        &mut self,
        service: &DesiredService,
        number: u16,
        parity: u8,
        new_epoch: bool,
    ) -> Result<(), Full> {
        for (track, backend) in service.backends() {
            let who = self.numbers.backends[&(number, backend.address)];
            let current = self.after.backends.get(&who).copied().unwrap_or_default();
            let is_new = current.flags & BackendFlags::PRESENT == 0;
            let mut record = backend_record(
                self.desired,
                service,
                (number, who),
                (track, backend),
                &self.sharing,
                &current,
            );
            if new_epoch || is_new {
                self.new_cell(&mut record, parity, is_new)?;
            }
            if service.steered && record.steered_cell == 0 {
                self.steered_cell(&mut record);
            }
            if record != current {
                self.steps.backends.insert(who, Write::Backend { number: who, record });
            }
            if record.ifindex != 0 && (is_new || record.ifindex != current.ifindex) {
                self.steps.interfaces.insert(record.ifindex);
            }
            self.after.backends.insert(who, record);
        }
        Ok(())
    }

    fn new_cell(&mut self, record: &mut Backend, parity: u8, is_new: bool) -> Result<(), Full> {
        let cell = match self.after.new_cell() {
            Ok(cell) => cell,
            // It has one from before, see `Observed::uncertain`.
            Err(Full::Cells) if record.cells.iter().all(|cell| *cell != 0) => {
                self.short_of_cells = true;
                return Ok(());
            }
            Err(full) => return Err(full),
        };
        self.steps.cells.push(Write::ClearCell { cell });
        record.cells[usize::from(parity)] = cell;
        if is_new {
            record.cells[usize::from(parity ^ 1)] = cell;
        }
        Ok(())
    }

    /// Kept for as long as the backend is there, also when nobody is steered any
    /// more: flows that were are known by it. Without a free one they are booked
    /// with the others, until the next plan.
    fn steered_cell(&mut self, record: &mut Backend) {
        match self.after.new_cell() {
            Ok(cell) => {
                self.steps.cells.push(Write::ClearCell { cell });
                record.steered_cell = cell;
            }
            Err(_) => self.short_of_cells = true,
        }
    }

    /// Both tracks' tables; a table whose content did not change keeps its
    /// number.
    fn tables(
        &mut self,
        service: &DesiredService,
        number: u16,
        old: Option<WeightTable>,
    ) -> Result<[u16; 2], Full> {
        let mut tables = [0; 2];
        for track in Track::ALL {
            let members = records::members(service, track, number, &self.numbers);
            if members.is_empty() {
                continue;
            }
            let fingerprint = fingerprint(service, &members);
            let former = old.map_or(0, |old| old.tables[track as usize]);
            if self.after.tables.get(&former) == Some(&fingerprint) {
                tables[track as usize] = former;
                continue;
            }
            let table = self.after.new_table()?;
            if let Some(write) = records::table(service, &members, table) {
                self.after.tables.insert(table, fingerprint);
                self.steps.tables.push(write);
                tables[track as usize] = table;
            }
        }
        Ok(tables)
    }

    /// Who comes is found before the first flow, who goes until after the last.
    fn directory(&mut self) {
        let wanted = records::directory(self.desired, &self.numbers, &self.sharing);
        let mut wider = wanted.clone();
        let keys: HashSet<_> = wanted.iter().map(|(key, _)| *key).collect();
        let former = &self.observed.directory;
        wider.extend(former.iter().filter(|(key, _)| !keys.contains(key)));
        let there: HashSet<_> = former.iter().copied().collect();
        let is_there = wider.len() == there.len() && wider.iter().all(|e| there.contains(e));
        let only_adds = wider.len() == wanted.len();
        if self.observed.uncertain || !is_there {
            self.steps.wider_directory = Some(Write::Directory { entries: wider });
        }
        if !only_adds {
            self.steps.directory = Some(Write::Directory { entries: wanted.clone() });
        }
        self.after.directory = wanted;
    }

    fn drop_gone(&mut self) {
        let wanted: BTreeSet<u16> = self.numbers.backends.values().copied().collect();
        let is_gone = |number: &u16| !wanted.contains(number);
        let gone: Vec<u16> = self.after.backends.keys().copied().filter(is_gone).collect();
        for number in gone {
            self.after.backends.remove(number);
            self.steps.drops.push(Write::DropBackend { number });
            self.steps.forgets.push(number);
        }
        let kept: BTreeSet<u16> = self.numbers.services.iter().copied().collect();
        let is_gone = |number: &u16| !kept.contains(number);
        let gone: Vec<u16> = self.after.services.keys().copied().filter(is_gone).collect();
        for number in gone {
            self.after.services.remove(number);
            self.after.epochs.remove(&number);
            self.steps.drops.push(Write::DropService { number });
        }
    }

    /// Tables that were not named before this plan already are dropped by it,
    /// those that it stops naming by the next.
    fn drop_unnamed(&mut self) {
        for &number in &self.observed.unnamed {
            self.after.tables.remove(&number);
            self.steps.drops.push(Write::DropTable { number });
        }
        let named = named_tables(&self.after);
        self.after.unnamed =
            self.after.tables.keys().copied().filter(|table| !named.contains(table)).collect();
    }
}
