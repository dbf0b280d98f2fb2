//! The records, as they should stand in the maps.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::SocketAddr,
};

use canary_common::{
    Address, Backend, BackendFlags, DirectoryKey, EntryKind, HashKeys, PROTO_TCP, PROTO_UDP,
    Service, ServiceFlags, Track,
};

use super::{Desired, DesiredService, Hop, Write, checksum_deltas, ring};
use crate::config;

/// IP protocol number.
pub(crate) const fn protocol_number(protocol: config::Protocol) -> u8 {
    match protocol {
        config::Protocol::Tcp => PROTO_TCP,
        config::Protocol::Udp => PROTO_UDP,
    }
}

/// The numbers of services, in the order of `Desired::services`, and of
/// backends.
#[derive(Default)]
pub(super) struct Numbers {
    pub(super) services: Vec<u16>,
    pub(super) backends: BTreeMap<(u16, SocketAddr), u16>,
}

/// Who stands behind the same address, port and protocol, in the order of
/// their numbers, which never changes between those that stay.
pub(super) type Sharing = BTreeMap<(SocketAddr, u8), Vec<u16>>;

pub(super) fn sharing(desired: &Desired, numbers: &Numbers) -> Sharing {
    let mut sharing = Sharing::new();
    for (service, number) in desired.services.iter().zip(&numbers.services) {
        let protocol = protocol_number(service.config.protocol);
        for (_, backend) in service.backends() {
            let who = numbers.backends[&(*number, backend.address)];
            sharing.entry((backend.address, protocol)).or_default().push(who);
        }
    }
    sharing.values_mut().for_each(|chain| chain.sort_unstable());
    sharing
}

/// The directory's entries.
pub(super) fn directory(
    desired: &Desired,
    numbers: &Numbers,
    sharing: &Sharing,
) -> Vec<(DirectoryKey, u32)> {
    let key = |kind, address: SocketAddr, protocol| {
        let (ip, port_be) = (Address::from(address.ip()), address.port().to_be());
        DirectoryKey::new(kind, ip, port_be, protocol)
    };
    let services = desired.services.iter().zip(&numbers.services).map(|(service, number)| {
        let protocol = protocol_number(service.config.protocol);
        (key(EntryKind::Service, service.config.listen, protocol), u32::from(*number))
    });
    let backends = sharing.iter().map(|((address, protocol), who)| {
        (key(EntryKind::Backend, *address, *protocol), u32::from(who[0]))
    });
    services.chain(backends).collect()
}

/// A service's record without its weights.
pub(super) fn service_record(desired: &Desired, service: &DesiredService) -> Service {
    let mut flags = ServiceFlags::PRESENT;
    if service.config.affinity == config::Affinity::Client {
        flags |= ServiceFlags::CLIENT_AFFINITY;
    }
    if service.steered {
        flags |= ServiceFlags::STEERED;
    }
    Service {
        vip: Address::from(service.config.listen.ip()),
        port_be: service.config.listen.port().to_be(),
        protocol: protocol_number(service.config.protocol),
        generation: service.record_generation(),
        flags,
        signals: service.config.signals,
        timeouts: service.timeouts(desired.jiffies_per_second),
        pick: HashKeys::from_seed(ring::name_hash(&service.config.seed, 1)),
        table_size: [service.config.table_size; 2],
        salt: service.salt,
        ..Service::default()
    }
}

/// A backend's record; cells are those of `current`, and the next hop too
/// where none is known: packets of flows that are pinned to a backend whose
/// neighbour is silent for a while would meet the host's stack, which may
/// answer them with a RST. A dead backend must look dead, not refusing.
pub(super) fn backend_record(
    desired: &Desired,
    service: &DesiredService,
    (number, who): (u16, u16),
    (track, backend): (Track, &config::Backend),
    sharing: &Sharing,
    current: &Backend,
) -> Backend {
    let mut flags = BackendFlags::PRESENT;
    if track == Track::Canary {
        flags |= BackendFlags::CANARY;
    }
    let known = current.flags & BackendFlags::RESOLVED != 0;
    let last = known.then_some(Hop { ifindex: current.ifindex, frame: current.frame });
    let hop = desired.hops.get(&backend.address.ip()).copied().or(last);
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
        cells: current.cells,
        steered_cell: current.steered_cell,
        address_delta,
        transport_delta,
        ..Backend::default()
    }
}

/// Who has slots in a track's table.
pub(super) fn members<'a>(
    service: &'a DesiredService,
    track: Track,
    number: u16,
    numbers: &Numbers,
) -> Vec<ring::RingBackend<'a>> {
    let usable = service.track(track).iter().filter(|backend| service.is_usable(backend));
    usable
        .map(|backend| ring::RingBackend {
            number: numbers.backends[&(number, backend.address)],
            name: backend.address.to_string().into(),
            weight: backend.weight,
        })
        .collect()
}

/// Tells a table's content; 0 is no table's.
pub(super) fn fingerprint(service: &DesiredService, members: &[ring::RingBackend<'_>]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (service.config.table_size, &service.config.seed).hash(&mut hasher);
    for member in members {
        (member.number, &member.name, member.weight).hash(&mut hasher);
    }
    hasher.finish().max(1)
}

/// A Maglev table's write; `None` where nobody would have a slot.
pub(super) fn table(
    service: &DesiredService,
    members: &[ring::RingBackend<'_>],
    number: u16,
) -> Option<Write> {
    let seed = ring::name_hash(&service.config.seed, 0);
    let slots = ring::build(members, service.config.table_size, seed)?;
    Some(Write::Table { number, slots })
}
