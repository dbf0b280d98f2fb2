//! A packet to a service that no live pin speaks for: decide, pin, forward.
//!
//! It parses again what the pinned path parsed: the two are functions of their
//! own, so that neither one's stack and states weigh on the other.

use canary_common::{FlowFlags, FlowState, Reason, Service, Signals, Timeouts, Told, WeightTable};

use crate::{
    flows::{self, NewFlow},
    follow,
    maps::hash_keys,
    packet::Packet,
    parse::{Parsed, Transport, parse},
    path::{Verdict, key_of, service_of, towards_backend, way_to},
    pick::{self, NoPick, Pick, pick},
    signals,
};

/// A first packet's place in its flow.
struct Beginning {
    state: FlowState,
    flags: u16,
    /// Jiffies.
    timeout: u32,
    /// The SYN's sequence number, host byte order.
    seq: u32,
    /// The client waits for an answer from now on.
    waits: bool,
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
    let action = way_to(picked.backend, ingress)?;
    let Some(beginning) = beginning(packet, &parsed, &service.timeouts) else {
        towards_backend(&parsed, picked.backend, picked.cell, Told::NOTHING);
        return Ok(Verdict { action, reason: Reason::Unpinned });
    };
    let clock = signals::wanted(service) & Signals::LATENCY != 0 && beginning.waits;
    let new = NewFlow {
        key,
        backend: picked.number,
        cell: picked.cell,
        deadline: now.wrapping_add(beginning.timeout),
        client_ifindex: ingress,
        reply_frame: parsed.reply_frame(),
        client_seq: beginning.seq,
        waiting_since: if clock { signals::tick() } else { 0 },
        state: beginning.state as u16,
        flags: beginning.flags,
    };
    let inserted = flows::insert(&new, hash, old.is_some(), now);
    if inserted.ours {
        let told = match beginning.reason {
            Reason::Midstream => Told::MIDSTREAM,
            _ => Told::NEW_FLOW,
        };
        towards_backend(&parsed, picked.backend, picked.cell, told);
        follow::tell(&key, picked.number, picked.cell, told);
        return Ok(Verdict { action, reason: beginning.reason });
    }
    if inserted.backend == 0 {
        towards_backend(&parsed, picked.backend, picked.cell, Told::NOTHING);
        return Ok(Verdict { action, reason: Reason::Unpinned });
    }
    // Another CPU was first.
    let backend = pick::backend(inserted.backend, number).ok_or(Reason::Internal)?;
    let action = way_to(backend, ingress)?;
    towards_backend(&parsed, backend, inserted.cell, Told::NOTHING);
    Ok(Verdict { action, reason: Reason::Pinned })
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
fn beginning(packet: &Packet, parsed: &Parsed, timeouts: &Timeouts) -> Option<Beginning> {
    if let Transport::Udp(_) = parsed.transport {
        return Some(Beginning {
            state: FlowState::Unanswered,
            flags: 0,
            timeout: timeouts.unanswered,
            seq: 0,
            waits: true,
            reason: Reason::NewFlow,
        });
    }
    let segment = signals::segment(packet, parsed, false, 0);
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
        waits: segment.opens(),
        reason,
    })
}
