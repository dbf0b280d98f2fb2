//! Which backend a new flow gets. The same functions decide for packets and
//! answer `canary where`.

use canary_common::{
    Backend, BackendFlags, DirectoryKey, EntryKind, FlowKey, Hashed, MAX_SHARING, Service,
    ServiceFlags, TABLE_WORD, Track, WeightTable, pick_hash,
};

use crate::{
    atomic,
    directory::Host,
    flows, guard,
    maps::{TABLES, hash_keys},
    steer::{self, Steered},
};

/// Slots looked at when the first one's backend cannot be had: it is shared
/// with another service that already has this client's address and port there.
const SLOTS_TRIED: u32 = 4;

/// A decision, and what it was made of.
#[derive(Clone, Copy, Debug)]
pub struct Pick {
    /// Index into `BACKENDS`.
    pub number: u16,
    pub backend: &'static Backend,
    /// The cell that flows born now are booked to.
    pub cell: u16,
    pub slot: u32,
    /// The guard took it from the canary.
    pub guarded: bool,
    pub steered: Steered,
}

#[derive(Clone, Copy, Debug)]
pub enum NoPick {
    /// Neither track has a table.
    NoBackend,
    /// All candidates are taken by this client's other connections.
    Collision,
}

/// The weight table in force: one read.
#[inline(always)]
pub fn weights(service: &Service) -> u64 {
    // SAFETY: a live map value.
    unsafe { atomic::load(&raw const service.weights) }
}

/// The hash behind split and pick.
#[inline(always)]
pub fn hash(service: &Service, key: &FlowKey) -> Hashed {
    let port_be = match service.flags & ServiceFlags::CLIENT_AFFINITY {
        0 => key.client_port_be,
        _ => 0,
    };
    pick_hash(&service.pick, &key.client, port_be)
}

/// A backend record that is configured, and whose it should be.
#[inline(always)]
pub fn backend(host: Host, number: u16, service: u16) -> Option<&'static Backend> {
    let backend = host.backend(number)?;
    (backend.flags & BackendFlags::PRESENT != 0 && backend.service == service).then_some(backend)
}

/// Steer, guard, split, then Maglev. `key` is the flow's; its protocol follows from the
/// service.
#[inline(always)]
pub fn pick(
    host: Host,
    key: &FlowKey,
    hash: Hashed,
    service: &'static Service,
    now: u32,
) -> Result<Pick, NoPick> {
    let weights = WeightTable::unpack(weights(service));
    let steered = steer::of(service, key);
    let wish = match steered.track() {
        Some(track) => weights.track_or_other(track as u8 != 0),
        None => weights.track_for(hash.for_split(service.salt)),
    };
    let wish = wish.ok_or(NoPick::NoBackend)?;
    let guarded = wish == Track::Canary
        && weights.tables[0] != 0
        && !steered.is_always()
        && guard::stops(key.service);
    let track = if guarded { Track::Stable } else { wish };
    let (table, size) = match track {
        Track::Stable => (weights.tables[0], service.table_size[0]),
        Track::Canary => (weights.tables[1], service.table_size[1]),
    };
    let mut slot = hash.slot(size);
    let mut passed_over = 0;
    for _ in 0..SLOTS_TRIED {
        let number = slot_of(table, slot).ok_or(NoPick::NoBackend)?;
        let backend = backend(host, number, key.service).ok_or(NoPick::NoBackend)?;
        if number != passed_over && !collides(host, key, backend, service.protocol, now) {
            let cell = cell(backend, weights.parity, steered.is_steered());
            return Ok(Pick { number, backend, cell, slot, guarded, steered });
        }
        passed_over = number;
        slot = if slot + 1 < size { slot + 1 } else { 0 };
    }
    Err(NoPick::Collision)
}

/// The cell that flows born now are booked to. Who was steered was not drawn,
/// and is kept out of the epoch's.
#[inline(always)]
pub fn cell(backend: &Backend, parity: u8, steered: bool) -> u16 {
    if steered && backend.steered_cell != 0 {
        return backend.steered_cell;
    }
    backend.cells[usize::from(parity & 1)]
}

/// The backend in a table's slot.
#[inline(always)]
fn slot_of(table: u16, slot: u32) -> Option<u16> {
    // A slot past the end: the size is of another table than the word named,
    // for the moment of a change of size. Any slot is right then.
    let word = TABLES
        .get_value(u32::from(table), &(slot / TABLE_WORD as u32))
        .or_else(|| TABLES.get_value(u32::from(table), &0))?;
    // Selected, not indexed: the verifier has no bound for a pointer that a
    // variable was added to.
    Some(match slot % TABLE_WORD as u32 {
        0 => word[0],
        1 => word[1],
        2 => word[2],
        _ => word[3],
    })
}

/// Whether another service has this client's address and port on the same
/// backend: the replies could not be told apart.
#[inline(always)]
fn collides(host: Host, key: &FlowKey, backend: &Backend, protocol: u8, now: u32) -> bool {
    let address = DirectoryKey::new(EntryKind::Backend, backend.address, backend.port_be, protocol);
    let Some(head) = host.find(&address) else { return false };
    let alone = host.backend(head).is_none_or(|first| first.next_sharing == 0);
    !alone && sharer(key, head, Some(key.service), now) != 0
}

/// No service has this number.
const NO_SERVICE: u32 = u32::MAX;

/// Of the backend records that share an address and port, beginning with
/// `head`: the one that this client's address and port is pinned to, or 0.
/// The key's service plays no part; `but` is one whose pins do not count.
#[inline(always)]
pub fn sharer(key: &FlowKey, head: u16, but: Option<u16>, now: u32) -> u16 {
    let but = but.map_or(NO_SERVICE, u32::from);
    canary_sharer(key, u32::from(head), but, now) as u16
}

/// A function of its own to the verifier, walked once and not once a caller.
/// It takes what C takes; `key` is never null.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn canary_sharer(key: *const FlowKey, head: u32, but: u32, now: u32) -> u32 {
    if key.is_null() {
        return 0;
    }
    let Some(host) = Host::get() else { return 0 };
    let mut number = head;
    for _ in 0..MAX_SHARING {
        let Some(backend) = host.backend(number as u16) else { return 0 };
        if u32::from(backend.service) != but {
            // SAFETY: not null, and the caller's reference otherwise.
            let key = FlowKey { service: backend.service, ..unsafe { *key } };
            // No `is_some_and`: made branchless it reads the absent pin, which
            // the verifier refuses.
            let pinned = flows::find(&key, key.hash(hash_keys()), now)
                .map_or(0, |pin| u32::from(pin.backend));
            if pinned == number {
                return number;
            }
        }
        number = u32::from(backend.next_sharing);
        if number == 0 {
            break;
        }
    }
    0
}
