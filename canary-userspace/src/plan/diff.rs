//! The plan itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::SocketAddr,
};

use canary_common::{
    Address, Backend, BackendFlags, DirectoryKey, EntryKind, HashKeys, PROTO_TCP, PROTO_UDP,
    Service, ServiceFlags, Track, WeightTable,
};

use super::{Desired, DesiredService, Full, Observed, Write, checksum_deltas, ring};
use crate::config;

/// The writes, and what the maps hold once they are carried out.
#[derive(Clone, Debug)]
pub struct Planned {
    /// In the order in which no packet sees half a change.
    pub writes: Vec<Write>,
    pub after: Observed,
}

/// IP protocol number.
pub(crate) const fn protocol_number(protocol: config::Protocol) -> u8 {
    match protocol {
        config::Protocol::Tcp => PROTO_TCP,
        config::Protocol::Udp => PROTO_UDP,
    }
}

/// Writes by the step they belong to.
#[derive(Default)]
struct Steps {
    interfaces: Vec<Write>,
    cells: Vec<Write>,
    backends: Vec<Write>,
    tables: Vec<Write>,
    services: Vec<Write>,
    weights: Vec<Write>,
    drops: Vec<Write>,
    forgets: Vec<u16>,
}

/// Makes the plan: fresh cells and tables and records first, then one weight
/// word a service, then the directory, and only then is dropped what nothing
/// names any more.
///
/// # Errors
/// Where there are more of a kind than there are numbers; nothing is planned.
pub fn plan(desired: &Desired, observed: &Observed) -> Result<Planned, Full> {
    let mut after = observed.clone();
    let mut steps = Steps::default();
    let numbers = assign(desired, &mut after)?;
    let sharing = sharing(desired, &numbers);
    let kept: BTreeSet<u16> = numbers.services.iter().copied().collect();

    for (desired_service, &number) in desired.services.iter().zip(&numbers.services) {
        plan_service(
            desired,
            desired_service,
            number,
            &numbers,
            &sharing,
            observed,
            &mut after,
            &mut steps,
        )?;
    }
    drop_gone(&kept, &numbers, &mut after, &mut steps);
    let directory = directory(desired, &numbers, &sharing);
    let mut writes = steps.interfaces;
    writes.append(&mut steps.cells);
    writes.append(&mut steps.backends);
    writes.append(&mut steps.tables);
    writes.append(&mut steps.services);
    // A service is named when it has somewhere to send packets.
    writes.append(&mut steps.weights);
    if directory != observed.directory {
        after.directory.clone_from(&directory);
        writes.push(Write::Directory { entries: directory });
    }
    writes.append(&mut steps.drops);
    if !steps.forgets.is_empty() {
        writes.push(Write::ForgetPins { backends: steps.forgets });
    }
    Ok(Planned { writes, after })
}

/// The numbers of services, in the order of `Desired::services`, and of
/// backends.
struct Numbers {
    services: Vec<u16>,
    backends: BTreeMap<(u16, SocketAddr), u16>,
}

fn assign(desired: &Desired, after: &mut Observed) -> Result<Numbers, Full> {
    let mut numbers = Numbers { services: Vec::new(), backends: BTreeMap::new() };
    for service in &desired.services {
        let protocol = protocol_number(service.config.protocol);
        let number = match after.service_number(service.config.listen, protocol) {
            Some(number) => number,
            None => {
                let number = after.new_service()?;
                after.services.insert(number, Service::default());
                number
            }
        };
        numbers.services.push(number);
        for (_, backend) in service.backends() {
            let found = match after.backend_number(number, backend.address) {
                Some(found) => found,
                None => {
                    let found = after.new_backend()?;
                    after.backends.insert(found, Backend { service: number, ..Backend::default() });
                    found
                }
            };
            numbers.backends.insert((number, backend.address), found);
        }
    }
    Ok(numbers)
}

/// Who stands behind the same address, port and protocol, in order.
type Sharing = BTreeMap<(SocketAddr, u8), Vec<u16>>;

fn sharing(desired: &Desired, numbers: &Numbers) -> Sharing {
    let mut sharing = Sharing::new();
    for (service, number) in desired.services.iter().zip(&numbers.services) {
        let protocol = protocol_number(service.config.protocol);
        for (_, backend) in service.backends() {
            let who = numbers.backends[&(*number, backend.address)];
            sharing.entry((backend.address, protocol)).or_default().push(who);
        }
    }
    sharing
}

fn directory(desired: &Desired, numbers: &Numbers, sharing: &Sharing) -> Vec<(DirectoryKey, u32)> {
    let mut entries = Vec::new();
    for (service, number) in desired.services.iter().zip(&numbers.services) {
        let listen = service.config.listen;
        let key = DirectoryKey::new(
            EntryKind::Service,
            Address::from(listen.ip()),
            listen.port().to_be(),
            protocol_number(service.config.protocol),
        );
        entries.push((key, u32::from(*number)));
    }
    for ((address, protocol), who) in sharing {
        let key = DirectoryKey::new(
            EntryKind::Backend,
            Address::from(address.ip()),
            address.port().to_be(),
            *protocol,
        );
        entries.push((key, u32::from(who[0])));
    }
    entries
}

#[expect(clippy::too_many_arguments, reason = "the parts of one plan")]
fn plan_service(
    desired: &Desired,
    service: &DesiredService,
    number: u16,
    numbers: &Numbers,
    sharing: &Sharing,
    observed: &Observed,
    after: &mut Observed,
    steps: &mut Steps,
) -> Result<(), Full> {
    let old = observed.services.get(&number).map(|s| WeightTable::unpack(s.weights));
    let tables = plan_tables(service, number, numbers, old, after, steps)?;
    let mut weights = WeightTable { split: service.split, tables, parity: 0 };
    if let Some(old) = old {
        weights.parity = old.parity;
    }
    // Another split or other tables: a new epoch, booked apart.
    let new_epoch = old.is_none_or(|old| old != weights);
    if new_epoch {
        weights.parity ^= 1;
    }
    for (track, backend) in service.backends() {
        let who = numbers.backends[&(number, backend.address)];
        let mut record = backend_record(desired, service, number, track, backend, sharing, who);
        let current = after.backends.get(&who).copied().unwrap_or_default();
        record.cells = current.cells;
        let is_new = current.flags & BackendFlags::PRESENT == 0;
        if new_epoch || is_new {
            let cell = after.new_cell()?;
            steps.cells.push(Write::ClearCell { cell });
            record.cells[usize::from(weights.parity)] = cell;
            if is_new {
                record.cells[usize::from(weights.parity ^ 1)] = cell;
            }
        }
        if record != current {
            steps.backends.push(Write::Backend { number: who, record });
        }
        if record.ifindex != 0 && record.ifindex != current.ifindex {
            steps.interfaces.push(Write::AllowInterface { ifindex: record.ifindex });
        }
        after.backends.insert(who, record);
    }
    let mut record = service_record(desired, service);
    record.weights = weights.pack();
    let current = after.services.get(&number).copied().unwrap_or_default();
    if (Service { weights: current.weights, ..record }) != current {
        steps.services.push(Write::Service { number, record });
    }
    if new_epoch {
        steps.weights.push(Write::Weights { service: number, weights });
    }
    after.services.insert(number, record);
    Ok(())
}

/// Both tracks' tables; a table whose content did not change keeps its number.
fn plan_tables(
    service: &DesiredService,
    number: u16,
    numbers: &Numbers,
    old: Option<WeightTable>,
    after: &mut Observed,
    steps: &mut Steps,
) -> Result<[u16; 2], Full> {
    let mut tables = [0; 2];
    for track in Track::ALL {
        let former = old.map_or(0, |old| old.tables[track as usize]);
        let members: Vec<_> = service
            .track(track)
            .iter()
            .filter(|backend| service.is_usable(backend))
            .map(|backend| ring::RingBackend {
                number: numbers.backends[&(number, backend.address)],
                name: backend.address.to_string().into(),
                weight: backend.weight,
            })
            .collect();
        let fingerprint = fingerprint(service, &members);
        let unchanged = former != 0 && after.tables.get(&former) == Some(&fingerprint);
        if unchanged && !members.is_empty() {
            tables[track as usize] = former;
            continue;
        }
        let seed = ring::name_hash(&service.config.seed, 0);
        if let Some(slots) = ring::build(&members, service.config.table_size, seed) {
            let used = after
                .services
                .values()
                .flat_map(|s| WeightTable::unpack(s.weights).tables)
                .collect();
            let table = after.new_table(&used)?;
            after.tables.insert(table, fingerprint);
            steps.tables.push(Write::Table { number: table, slots });
            tables[track as usize] = table;
        }
        if former != 0 {
            after.tables.remove(&former);
            steps.drops.push(Write::DropTable { number: former });
        }
    }
    Ok(tables)
}

fn fingerprint(service: &DesiredService, members: &[ring::RingBackend<'_>]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (service.config.table_size, &service.config.seed).hash(&mut hasher);
    for member in members {
        (member.number, &member.name, member.weight).hash(&mut hasher);
    }
    hasher.finish()
}

fn service_record(desired: &Desired, service: &DesiredService) -> Service {
    let mut flags = ServiceFlags::PRESENT;
    if service.config.affinity == config::Affinity::Client {
        flags |= ServiceFlags::CLIENT_AFFINITY;
    }
    Service {
        vip: Address::from(service.config.listen.ip()),
        port_be: service.config.listen.port().to_be(),
        protocol: protocol_number(service.config.protocol),
        flags,
        timeouts: service.timeouts(desired.jiffies_per_second),
        pick: HashKeys::from_seed(ring::name_hash(&service.config.seed, 1)),
        table_size: [service.config.table_size; 2],
        ..Service::default()
    }
}

fn backend_record(
    desired: &Desired,
    service: &DesiredService,
    number: u16,
    track: Track,
    backend: &config::Backend,
    sharing: &Sharing,
    who: u16,
) -> Backend {
    let mut flags = BackendFlags::PRESENT;
    if track == Track::Canary {
        flags |= BackendFlags::CANARY;
    }
    let hop = desired.hops.get(&backend.address.ip());
    if hop.is_some() {
        flags |= BackendFlags::RESOLVED;
    }
    let key = (backend.address, protocol_number(service.config.protocol));
    let chain = sharing.get(&key).map_or(&[][..], Vec::as_slice);
    let next = chain.iter().skip_while(|&&n| n != who).nth(1).copied();
    let (address_delta, transport_delta) = checksum_deltas(service.config.listen, backend.address);
    Backend {
        address: Address::from(backend.address.ip()),
        port_be: backend.address.port().to_be(),
        flags,
        ifindex: hop.map_or(0, |hop| hop.ifindex),
        frame: hop.map_or_else(Default::default, |hop| hop.frame),
        service: number,
        next_sharing: next.unwrap_or(0),
        address_delta,
        transport_delta,
        ..Backend::default()
    }
}

fn drop_gone(kept: &BTreeSet<u16>, numbers: &Numbers, after: &mut Observed, steps: &mut Steps) {
    let wanted: BTreeSet<u16> = numbers.backends.values().copied().collect();
    let gone: Vec<u16> =
        after.backends.keys().filter(|number| !wanted.contains(number)).copied().collect();
    for number in gone {
        after.backends.remove(&number);
        steps.drops.push(Write::DropBackend { number });
        steps.forgets.push(number);
    }
    let gone: Vec<u16> =
        after.services.keys().filter(|number| !kept.contains(number)).copied().collect();
    for number in gone {
        if let Some(service) = after.services.remove(&number) {
            for table in WeightTable::unpack(service.weights).tables {
                if table != 0 {
                    after.tables.remove(&table);
                    steps.drops.push(Write::DropTable { number: table });
                }
            }
        }
        steps.drops.push(Write::DropService { number });
    }
}
