//! The packet path: parse, pin, (steer, guard, split, pick: see
//! [`crate::open`],) rewrite, out.

use aya_ebpf::bindings::xdp_action::{XDP_REDIRECT, XDP_TX};
use canary_common::{
    Address, Backend, BackendFlags, DirectoryKey, EntryKind, FlowFlags, FlowKey, FlowState, Reason,
    Service, ServiceFlags, Timeouts, Told,
};

use crate::{
    counters,
    directory::Host,
    flows::{self, Pin, WayBack},
    follow,
    fragments::{self, FragmentWay},
    maps::{INTERFACES, hash_keys},
    packet::Packet,
    parse::{Parsed, parse},
    pick,
    rewrite::{End, Translation, rewrite},
    signals,
    tcp::{By, Segment},
};

/// How a packet leaves: an XDP action, and why. An `Err` of the functions
/// below is a packet for the host, untouched.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    pub action: u32,
    pub reason: Reason,
}

/// What a packet comes to that has a pin, or should have one.
#[derive(Clone, Copy, Debug)]
pub enum Followed {
    Out(Verdict),
    /// To a service, without a live pin: for [`crate::open::open`].
    Opens,
    /// Of a marked flow, not looked at yet: for [`crate::orders::of_client`],
    Asks,
    /// and for [`crate::orders::of_backend`].
    Answers {
        service: u16,
        first: bool,
    },
}

/// How often a state is read again when two CPUs change it at once.
const COMMIT_TRIES: usize = 2;

/// Packets of pinned flows, and those that are not ours.
///
/// # Errors
/// The reason for which the packet goes to the host, untouched.
#[inline(always)]
pub fn follow_pin(packet: &Packet, ingress: u32) -> Result<Followed, Reason> {
    follow_parsed(packet, &parse(packet)?, ingress, false)
}

/// See [`follow_pin`]. `settled`: nothing is done by order any more.
#[inline(always)]
pub fn follow_parsed(
    packet: &Packet,
    parsed: &Parsed,
    ingress: u32,
    settled: bool,
) -> Result<Followed, Reason> {
    let host = Host::get().ok_or(Reason::Internal)?;
    if let Some((number, service)) = service_of(host, parsed) {
        return from_client(host, packet, parsed, (number, service), ingress, settled);
    }
    let (address, port_be) = (parsed.source(), parsed.source_port_be());
    if let Some(head) = backend_at(host, address, port_be, parsed.protocol()) {
        return from_backend(host, packet, parsed, head, ingress, settled);
    }
    Err(Reason::NotOurs)
}

/// The service that the packet is addressed to.
#[inline(always)]
pub fn service_of(host: Host, parsed: &Parsed) -> Option<(u16, &'static Service)> {
    service_at(host, parsed.destination(), parsed.destination_port_be(), parsed.protocol())
}

/// The service at an address and port.
#[inline(always)]
pub fn service_at(
    host: Host,
    address: Address,
    port_be: u16,
    protocol: u8,
) -> Option<(u16, &'static Service)> {
    let key = DirectoryKey::new(EntryKind::Service, address, port_be, protocol);
    let number = host.find(&key)?;
    let service = host.service(number)?;
    (service.flags & ServiceFlags::PRESENT != 0).then_some((number, service))
}

/// The first of the backend records at an address and port.
#[inline(always)]
pub fn backend_at(host: Host, address: Address, port_be: u16, protocol: u8) -> Option<u16> {
    let key = DirectoryKey::new(EntryKind::Backend, address, port_be, protocol);
    host.find(&key)
}

/// A flow as the client's packets name it.
#[inline(always)]
pub fn key_of(parsed: &Parsed, service: u16) -> FlowKey {
    FlowKey { client: parsed.source(), client_port_be: parsed.source_port_be(), service }
}

#[inline(always)]
fn from_client(
    host: Host,
    packet: &Packet,
    parsed: &Parsed,
    (number, service): (u16, &'static Service),
    ingress: u32,
    settled: bool,
) -> Result<Followed, Reason> {
    if parsed.hop_limit() <= 1 {
        return Err(Reason::TtlExpired);
    }
    let key = key_of(parsed, number);
    let hash = key.hash(hash_keys());
    let now = flows::now();
    if let Some(mut pin) = flows::find(&key, hash, now)
        && let Some(backend) = pick::backend(host, pin.backend, number)
    {
        if FlowFlags::is_marked(pin.flags(), service.generation) && !settled {
            return Ok(Followed::Asks);
        }
        let segment = signals::segment(packet, parsed, false, signals::wanted(service));
        let action = way_to(backend, ingress);
        let told = take_along(&mut pin, &segment, service, action, now)?;
        if !told.has(Told::REOPENED) {
            pin.follow_client(parsed, ingress);
            towards_backend(parsed, pin.backend, backend, pin.cell, told);
            follow::tell(&key, pin.backend, told);
            return Ok(Followed::Out(Verdict { action: action?, reason: Reason::Pinned }));
        }
    }
    Ok(Followed::Opens)
}

#[inline(always)]
fn from_backend(
    host: Host,
    packet: &Packet,
    parsed: &Parsed,
    head: u16,
    ingress: u32,
    settled: bool,
) -> Result<Followed, Reason> {
    let now = flows::now();
    let mut number = head;
    // The first record of this address, else the one among those that share
    // the address which has the pin.
    for _ in 0..2 {
        let backend = host.backend(number).ok_or(Reason::Internal)?;
        let key = FlowKey {
            client: parsed.destination(),
            client_port_be: parsed.destination_port_be(),
            service: backend.service,
        };
        if let Some(pin) = flows::find(&key, key.hash(hash_keys()), now)
            && pin.backend == number
        {
            if pin.flags() & FlowFlags::FAULTED != 0 && !settled {
                let first = pin.flags() & FlowFlags::HTTP_5XX == 0;
                return Ok(Followed::Answers { service: key.service, first });
            }
            return reply(host, (packet, parsed), &key, pin, backend, now, ingress)
                .map(Followed::Out);
        }
        if number != head || backend.next_sharing == 0 {
            break;
        }
        number = pick::sharer(&key, head, None, now);
        if number == 0 {
            break;
        }
    }
    Err(Reason::NoPin)
}

/// The action that takes packets to a backend.
///
/// # Errors
/// There is no way at present: the packet goes to the host.
#[inline(always)]
pub fn way_to(backend: &Backend, ingress: u32) -> Result<u32, Reason> {
    if backend.flags & BackendFlags::RESOLVED == 0 {
        return Err(Reason::Unresolved);
    }
    out(backend.ifindex, ingress)
}

/// Takes a pinned flow's state along; the caller books what was told. A packet
/// without a way out goes to the host and leaves no trace, and what begins
/// anew leaves the flow that it ends as it is.
#[inline(always)]
fn take_along(
    pin: &mut Pin,
    segment: &Segment,
    service: &Service,
    way: Result<u32, Reason>,
    now: u32,
) -> Result<Told, Reason> {
    for _ in 0..COMMIT_TRIES {
        let before = pin.tracked();
        let mut next = before;
        let told = signals::step(&mut next, segment, service.signals);
        if told.has(Told::REOPENED) {
            return Ok(told);
        }
        way?;
        if pin.commit(&before, &next) {
            if let Some(timeout) = renewed_timeout(next.state, &service.timeouts) {
                pin.extend(timeout, now);
            } else if matches!(segment.by, By::Backend) {
                pin.restart(service.timeouts.half_open, now);
            }
            return Ok(told);
        }
        if !pin.again() {
            break;
        }
    }
    Ok(Told::NOTHING)
}

/// How long the flow lives on after this packet; `None` leaves its time as it
/// is. A handshake's runs from its first SYN, so that one nobody answers is over
/// however often it is sent again, and anew from each answer: where packets were
/// lost that comes late, and the ACK that follows it must find the pin.
#[inline(always)]
fn renewed_timeout(state: FlowState, timeouts: &Timeouts) -> Option<u32> {
    match state {
        FlowState::Established => Some(timeouts.established),
        FlowState::Closing => Some(timeouts.closing),
        FlowState::Unanswered => Some(timeouts.unanswered),
        FlowState::Answered => Some(timeouts.answered),
        FlowState::Free | FlowState::Claimed | FlowState::HalfOpen => None,
    }
}

/// Counts and translates; the caller has the way, by [`way_to`].
#[inline(always)]
pub fn towards_backend(parsed: &Parsed, number: u16, backend: &Backend, cell: u16, told: Told) {
    if let Some(cell) = counters::cell(cell) {
        cell.packets_in += 1;
        cell.bytes_in += parsed.ip_bytes();
    }
    counters::book(backend, cell, told);
    let way = FragmentWay { service: backend.service, backend: number, cell, to_client: 0 };
    fragments::note(parsed, parsed.source_port_be(), way);
    rewrite(parsed, &Translation::to_backend(End::Destination, backend));
}

#[inline(always)]
fn reply(
    host: Host,
    (packet, parsed): (&Packet, &Parsed),
    key: &FlowKey,
    mut pin: Pin,
    backend: &Backend,
    now: u32,
    ingress: u32,
) -> Result<Verdict, Reason> {
    if parsed.hop_limit() <= 1 {
        return Err(Reason::TtlExpired);
    }
    let service = host.service(backend.service).ok_or(Reason::Internal)?;
    let way_back = pin.way_back().ok_or(Reason::NoPin)?;
    let action = out(way_back.ifindex, ingress)?;
    let segment = signals::segment(packet, parsed, true, signals::wanted(service));
    let told = take_along(&mut pin, &segment, service, Ok(action), now)?;
    towards_client(parsed, key, &pin, (service, backend), told, &way_back);
    Ok(Verdict { action, reason: Reason::Reply })
}

/// Counts and translates; the caller has the way.
#[inline(always)]
pub fn towards_client(
    parsed: &Parsed,
    key: &FlowKey,
    pin: &Pin,
    (service, backend): (&Service, &Backend),
    told: Told,
    way_back: &WayBack,
) {
    if let Some(cell) = counters::cell(pin.cell) {
        cell.packets_out += 1;
        cell.bytes_out += parsed.ip_bytes();
    }
    counters::book(backend, pin.cell, told);
    follow::tell(key, pin.backend, told);
    let way =
        FragmentWay { service: key.service, backend: pin.backend, cell: pin.cell, to_client: 1 };
    fragments::note(parsed, key.client_port_be, way);
    rewrite(parsed, &Translation::to_vip(End::Source, service, backend, &way_back.frame));
}

/// `XDP_TX` goes out of the interface a packet came in by; to any other it is
/// redirected. Before anything is rewritten: without a way out the packet
/// goes to the host as it came.
#[inline(always)]
pub fn out(ifindex: u32, ingress: u32) -> Result<u32, Reason> {
    if ifindex == ingress {
        return Ok(XDP_TX);
    }
    match INTERFACES.redirect(ifindex, 0) {
        Ok(_) => Ok(XDP_REDIRECT),
        Err(_) => Err(Reason::NoInterface),
    }
}
