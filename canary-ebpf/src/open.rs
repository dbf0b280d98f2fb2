//! A packet to a service that no live pin speaks for: decide, pin, forward.
//!
//! It parses again what the pinned path parsed, by its layout: the two are
//! functions of their own, so that neither one's stack and states weigh on the
//! other.

use canary_common::{
    Backend, BackendFlags, FlowFlags, FlowKey, FlowState, Reason, Service, Signals, Timeouts, Told,
    WeightTable,
};

use crate::{
    counters,
    directory::Host,
    flows::{self, NewFlow, Pin},
    follow, guard,
    layout::Layout,
    maps::hash_keys,
    orders::{self, Drawn},
    packet::Packet,
    parse::{Parsed, Transport, parse_at, parse_whole_or_first},
    path::{Verdict, key_of, service_of, towards_backend, way_to},
    pick::{self, NoPick, pick},
    refusal, reply, signals,
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

/// Pins a flow where it was decided, and forwards. `None`: it is pinned, and
/// its SYN is to fail, which is for [`crate::orders::of_client`].
///
/// # Errors
/// The reason for which the packet goes to the host, untouched.
#[inline(always)]
pub fn open(
    packet: &Packet,
    layout: Layout,
    decided: Decided,
    ingress: u32,
) -> Result<Option<Verdict>, Reason> {
    if let Some(reason) = decided.reason() {
        return Err(reason);
    }
    let parsed = parse_whole_or_first(packet, layout)?;
    let host = Host::get().ok_or(Reason::Internal)?;
    let (number, service) = service_of(host, &parsed).ok_or(Reason::NotOurs)?;
    let key = key_of(&parsed, number);
    let hash = key.hash(hash_keys());
    let now = flows::now();
    let picked = pick::backend(host, decided.backend(), number).ok_or(Reason::Internal)?;
    let action = way_to(picked, ingress)?;
    let Some(beginning) = beginning(packet, &parsed, &service.timeouts) else {
        towards_backend(&parsed, decided.backend(), picked, decided.cell(), Told::NOTHING);
        return Ok(Some(Verdict { action, reason: Reason::Unpinned }));
    };
    let drawn = drawn(&key, picked, &beginning, (packet, layout, &parsed));
    let choice = Choice { number: decided.backend(), cell: decided.cell(), backend: picked };
    let flags = marks(service, picked, drawn);
    let new = new_flow(&parsed, (key, service), &choice, &beginning, (flags, ingress, now));
    let inserted = flows::insert(&new, hash, decided.replaces(), now);
    if inserted.ours {
        if decided.guarded() {
            guard::diverted(number);
        }
        let told = match beginning.reason {
            Reason::Midstream => Told::MIDSTREAM,
            _ => Told::NEW_FLOW,
        };
        follow::tell(&key, decided.backend(), told);
        if drawn.fails_now() {
            counters::book(picked, decided.cell(), told);
            return Ok(None);
        }
        towards_backend(&parsed, decided.backend(), picked, decided.cell(), told);
        return Ok(Some(Verdict { action, reason: beginning.reason }));
    }
    if inserted.backend == 0 {
        towards_backend(&parsed, decided.backend(), picked, decided.cell(), Told::NOTHING);
        return Ok(Some(Verdict { action, reason: Reason::Unpinned }));
    }
    // Another CPU was first.
    let backend = pick::backend(host, inserted.backend, number).ok_or(Reason::Internal)?;
    let action = way_to(backend, ingress)?;
    towards_backend(&parsed, inserted.backend, backend, inserted.cell, Told::NOTHING);
    Ok(Some(Verdict { action, reason: Reason::Pinned }))
}

/// A new flow's backend, and the cell it is booked to.
struct Choice {
    number: u16,
    cell: u16,
    backend: &'static Backend,
}

/// A plain SYN from what has no record yet, all in one go: most new flows.
/// `None`: nothing was done, and the packet is for [`crate::path::follow_pin`],
/// [`decide`] and [`open`].
#[inline(always)]
pub fn at_once(packet: &Packet, parsed: &Parsed, number: u16, ingress: u32) -> Option<Verdict> {
    let host = Host::get()?;
    let service = host.service(number)?;
    let key = key_of(parsed, number);
    let hash = key.hash(hash_keys());
    let now = flows::now();
    let vacancy = flows::vacancy(hash, now)?;
    let picked = pick(host, &key, pick::hash(service, &key), service, now).ok()?;
    let choice = Choice { number: picked.number, cell: picked.cell, backend: picked.backend };
    let is_canary = choice.backend.flags & BackendFlags::CANARY != 0;
    if parsed.hop_limit() <= 1 || is_canary && orders::is_drilled(number) {
        return None;
    }
    let action = way_to(choice.backend, ingress).ok()?;
    let beginning = beginning(packet, parsed, &service.timeouts)?;
    let flags = marks(service, choice.backend, Drawn::NOT);
    let new = new_flow(parsed, (key, service), &choice, &beginning, (flags, ingress, now));
    if !flows::take(vacancy, &new, hash, now) {
        return None;
    }
    if picked.guarded {
        guard::diverted(number);
    }
    follow::tell(&key, choice.number, Told::NEW_FLOW);
    towards_backend(parsed, choice.number, choice.backend, choice.cell, Told::NEW_FLOW);
    Some(Verdict { action, reason: Reason::NewFlow })
}

/// The record of a flow that begins now.
#[inline(always)]
fn new_flow(
    parsed: &Parsed,
    (key, service): (FlowKey, &Service),
    choice: &Choice,
    beginning: &Beginning,
    (flags, ingress, now): (u16, u32, u32),
) -> NewFlow {
    let clock = signals::wanted(service) & Signals::LATENCY != 0 && beginning.waits;
    NewFlow {
        key,
        backend: choice.number,
        cell: choice.cell,
        deadline: now.wrapping_add(beginning.timeout),
        client_ifindex: ingress,
        reply_frame: parsed.reply_frame(),
        client_seq: beginning.seq,
        waiting_since: if clock { signals::tick() } else { 0 },
        state: beginning.state as u16,
        flags: beginning.flags | flags,
    }
}

/// Whether it is to fail: of new connections of the canary's, some.
#[inline(always)]
fn drawn(
    key: &FlowKey,
    backend: &Backend,
    beginning: &Beginning,
    (packet, layout, parsed): (&Packet, Layout, &Parsed),
) -> Drawn {
    let opens = beginning.state == FlowState::HalfOpen && beginning.reason == Reason::NewFlow;
    if opens
        && backend.flags & BackendFlags::CANARY != 0
        && reply::can_answer(packet, layout, parsed)
    {
        return orders::draw(key);
    }
    Drawn::NOT
}

/// What a flow is known by that is cut or made to fail later.
#[inline(always)]
fn marks(service: &Service, backend: &Backend, drawn: Drawn) -> u16 {
    if backend.flags & BackendFlags::CANARY == 0 {
        return 0;
    }
    FlowFlags::of_generation(service.generation) | drawn.flags()
}

/// Where a new flow goes, in one word, for it comes out of a function of its
/// own: bits 0–15 the backend, 16–31 the cell, 32 whether it takes the place of a
/// live pin, 33 whether the guard took it from the canary; or a [`refusal`].
#[derive(Clone, Copy, Debug)]
pub struct Decided(pub u64);

impl Decided {
    const REPLACES: u64 = 1 << 32;
    const GUARDED: u64 = 1 << 33;

    const fn new(backend: u16, cell: u16, replaces: bool) -> Self {
        Self((replaces as u64) << 32 | (cell as u64) << 16 | backend as u64)
    }

    /// With another bit, where `condition` holds.
    const fn with(self, bit: u64, condition: bool) -> Self {
        Self(self.0 | (bit * condition as u64))
    }

    const fn refused(reason: Reason) -> Self {
        Self(refusal::word(reason))
    }

    const fn backend(self) -> u16 {
        self.0 as u16
    }

    const fn cell(self) -> u16 {
        (self.0 >> 16) as u16
    }

    const fn replaces(self) -> bool {
        self.0 & Self::REPLACES != 0
    }

    const fn guarded(self) -> bool {
        self.0 & Self::GUARDED != 0
    }

    const fn reason(self) -> Option<Reason> {
        refusal::reason(self.0)
    }
}

/// Steer, guard, split and pick, for a flow without a live pin, or with one that it ends.
#[inline(always)]
pub fn decide(packet: &Packet, layout: Layout) -> Decided {
    try_to_decide(packet, layout).unwrap_or_else(Decided::refused)
}

#[inline(always)]
fn try_to_decide(packet: &Packet, layout: Layout) -> Result<Decided, Reason> {
    let parsed = parse_at(packet, layout)?;
    let host = Host::get().ok_or(Reason::Internal)?;
    let (number, service) = service_of(host, &parsed).ok_or(Reason::NotOurs)?;
    let key = key_of(&parsed, number);
    let now = flows::now();
    let old = flows::find(&key, key.hash(hash_keys()), now);
    let replaces = old.is_some();
    if let Some(pin) = old
        && pin.state() == FlowState::HalfOpen
        && let Some(cell) = stays(host, &pin, number, service)
    {
        return Ok(Decided::new(pin.backend, cell, replaces));
    }
    match pick(host, &key, pick::hash(service, &key), service, now) {
        Ok(picked) => Ok(Decided::new(picked.number, picked.cell, replaces)
            .with(Decided::GUARDED, picked.guarded)),
        Err(NoPick::NoBackend) => Err(Reason::NoBackend),
        Err(NoPick::Collision) => Err(Reason::Collision),
    }
}

/// A half-open flow's port used again: nothing closed it, so it stays where it
/// was, as long as that is configured, its generation was not ended, and no
/// guard stands before it. With the cell that it is booked to now.
#[inline(always)]
fn stays(host: Host, pin: &Pin, service: u16, record: &Service) -> Option<u16> {
    let backend = pick::backend(host, pin.backend, service)?;
    if orders::is_outdated(pin, backend, record)
        || backend.flags & BackendFlags::CANARY != 0 && guard::stops(service)
    {
        return None;
    }
    let parity = WeightTable::unpack(pick::weights(record)).parity;
    Some(pick::cell(backend, parity, backend.is_steered(pin.cell)))
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
