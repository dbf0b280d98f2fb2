//! Which backend a new flow gets. The same functions decide for packets and
//! answer `canary where`.

use canary_common::{
    Backend, BackendFlags, DirectoryKey, EntryKind, FlowKey, MAX_SHARING, Service, ServiceFlags,
    TABLE_WORD, Track, WeightTable, pick_hash,
};

use crate::{
    atomic, directory, flows,
    maps::{BACKENDS, TABLES, hash_keys},
    parse::Parsed,
};

/// Slots looked at when the first one's backend cannot be had: it is shared
/// with another service that already has this client's address and port there.
const SLOTS_TRIED: u32 = 8;

/// A decision, and what it was made of.
#[derive(Clone, Copy, Debug)]
pub struct Pick {
    /// Index into `BACKENDS`.
    pub number: u16,
    pub backend: &'static Backend,
    /// The cell that flows born now are booked to.
    pub cell: u16,
    pub slot: u32,
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
pub fn hash(service: &Service, parsed: &Parsed) -> canary_common::Hashed {
    let port_be = match service.flags & ServiceFlags::CLIENT_AFFINITY {
        0 => parsed.source_port_be,
        _ => 0,
    };
    pick_hash(&service.pick, &parsed.source, port_be)
}

/// A backend record that is configured, and whose it should be.
#[inline(always)]
pub fn backend(number: u16, service: u16) -> Option<&'static Backend> {
    let backend = BACKENDS.get(u32::from(number))?;
    (backend.flags & BackendFlags::PRESENT != 0 && backend.service == service).then_some(backend)
}

/// Split, then Maglev.
#[inline(always)]
pub fn pick(
    parsed: &Parsed,
    key: &FlowKey,
    service: &'static Service,
    now: u32,
) -> Result<Pick, NoPick> {
    let weights = WeightTable::unpack(weights(service));
    let hash = hash(service, parsed);
    let track = weights.track_for(hash.for_split()).ok_or(NoPick::NoBackend)?;
    let (table, size) = match track {
        Track::Stable => (weights.tables[0], service.table_size[0]),
        Track::Canary => (weights.tables[1], service.table_size[1]),
    };
    let mut slot = hash.slot(size);
    let mut passed_over = 0;
    for _ in 0..SLOTS_TRIED {
        let number = slot_of(table, slot).ok_or(NoPick::NoBackend)?;
        let backend = backend(number, key.service).ok_or(NoPick::NoBackend)?;
        if number != passed_over && !collides(parsed, key, backend, now) {
            let cell = backend.cells[usize::from(weights.parity & 1)];
            return Ok(Pick { number, backend, cell, slot });
        }
        passed_over = number;
        slot = if slot + 1 < size { slot + 1 } else { 0 };
    }
    Err(NoPick::Collision)
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
fn collides(parsed: &Parsed, key: &FlowKey, backend: &Backend, now: u32) -> bool {
    let address =
        DirectoryKey::new(EntryKind::Backend, backend.address, backend.port_be, parsed.protocol());
    let Some(head) = directory::find(&address) else { return false };
    let mut number = head as u16;
    for _ in 0..MAX_SHARING {
        let Some(other) = BACKENDS.get(u32::from(number)) else { return false };
        if other.service != key.service {
            let other_key = FlowKey { service: other.service, ..*key };
            let pin = flows::find(&other_key, other_key.hash(&hash_keys()), now);
            if pin.is_some_and(|pin| pin.backend == number) {
                return true;
            }
        }
        number = other.next_sharing;
        if number == 0 {
            return false;
        }
    }
    false
}
