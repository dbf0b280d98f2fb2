//! A packet to a service that no live pin speaks for: decide, pin, forward.
//!
//! It parses again what the pinned path parsed: the two are functions of their
//! own, so that neither one's stack and states weigh on the other.

use canary_common::{FlowFlags, FlowState, Hashed, Reason, Service, Timeouts, WeightTable};

use crate::{
    counters,
    flows::{self, NewFlow},
    maps::hash_keys,
    packet::Packet,
    parse::{Parsed, Transport, parse, segment},
    path::{Verdict, key_of, reachable, service_of, towards_backend},
    pick::{self, NoPick, Pick, pick},
    tcp::Event,
};

/// A first packet's place in its flow.
struct Beginning {
    state: FlowState,
    flags: u16,
    /// Jiffies.
    timeout: u32,
    /// The SYN's sequence number, host byte order.
    seq: u32,
    reason: Reason,
}

/// # Errors
/// The reason for which the packet goes to the host, untouched.
#[inline(always)]
pub fn open(packet: &Packet, ingress: u32) -> Result<Verdict, Reason> {
    let parsed = parse(packet)?;
    let (number, service) = service_of(&parsed).ok_or(Reason::NotOurs)?;
    let key = key_of(&parsed, number);
    let hash = key.hash(hash_keys());
    let now = flows::now();
    let old = flows::find(&key, hash, now);
    let kept = match old {
        Some(pin) => stays(pin.state(), pin.backend, number, service),
        None => None,
    };
    let picked = match kept {
        Some(picked) => picked,
        None => pick(&key, pick::hash(service, &key), service, now).map_err(|no| match no {
            NoPick::NoBackend => Reason::NoBackend,
            NoPick::Collision => Reason::Collision,
        })?,
    };
    if !reachable(picked.backend) {
        return Err(Reason::Unresolved);
    }
    let Some(beginning) = beginning(&parsed, &service.timeouts) else {
        let Pick { backend, cell, .. } = picked;
        return towards_backend(&parsed, backend, cell, Event::None, Reason::Unpinned, ingress);
    };
    let new = NewFlow {
        key,
        backend: picked.number,
        cell: picked.cell,
        deadline: now.wrapping_add(beginning.timeout),
        client_ifindex: ingress,
        reply_frame: parsed.reply_frame(),
        client_seq: beginning.seq,
        state: beginning.state as u16,
        flags: beginning.flags,
    };
    pin(&parsed, &new, &picked, hash, old.is_some(), beginning.reason, now)
}

/// Makes the record and forwards where it says: another CPU may have been
/// first.
#[inline(always)]
fn pin(
    parsed: &Parsed,
    new: &NewFlow,
    picked: &Pick,
    hash: Hashed,
    replaces: bool,
    reason: Reason,
    now: u32,
) -> Result<Verdict, Reason> {
    let ingress = new.client_ifindex;
    let inserted = flows::insert(new, hash, replaces, now);
    if inserted.ours {
        if let Some(cell) = counters::cell(picked.cell) {
            match reason {
                Reason::Midstream => cell.midstream += 1,
                _ => cell.connections += 1,
            }
        }
        return towards_backend(parsed, picked.backend, picked.cell, Event::None, reason, ingress);
    }
    if inserted.backend == 0 {
        let Pick { backend, cell, .. } = *picked;
        return towards_backend(parsed, backend, cell, Event::None, Reason::Unpinned, ingress);
    }
    let backend = pick::backend(inserted.backend, new.key.service).ok_or(Reason::Internal)?;
    if !reachable(backend) {
        return Err(Reason::Unresolved);
    }
    towards_backend(parsed, backend, inserted.cell, Event::None, Reason::Pinned, ingress)
}

/// A half-open flow's port used again: nothing closed it, so it stays where it
/// was, as long as that is configured.
#[inline(always)]
fn stays(state: FlowState, number: u16, service: u16, record: &Service) -> Option<Pick> {
    if state != FlowState::HalfOpen {
        return None;
    }
    let backend = pick::backend(number, service)?;
    let parity = WeightTable::unpack(pick::weights(record)).parity;
    Some(Pick { number, backend, cell: backend.cells[usize::from(parity & 1)], slot: 0 })
}

/// `None`: a RST of a flow that nobody knows is forwarded, not pinned.
#[inline(always)]
fn beginning(parsed: &Parsed, timeouts: &Timeouts) -> Option<Beginning> {
    let Transport::Tcp(tcp) = parsed.transport else {
        return Some(Beginning {
            state: FlowState::Unanswered,
            flags: 0,
            timeout: timeouts.unanswered,
            seq: 0,
            reason: Reason::NewFlow,
        });
    };
    let segment = segment(tcp);
    if segment.resets() {
        return None;
    }
    let (flags, reason) = match segment.opens() {
        true => (0, Reason::NewFlow),
        false => (FlowFlags::MIDSTREAM, Reason::Midstream),
    };
    Some(Beginning {
        state: FlowState::HalfOpen,
        flags,
        timeout: timeouts.half_open,
        seq: segment.seq,
        reason,
    })
}
