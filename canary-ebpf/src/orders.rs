//! What is done to flows by order: those of a generation that was ended are
//! cut, and in a drill those that were drawn are made to fail. The path leaves
//! a marked flow's packets to this, and has them back where there is nothing
//! to do.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{
        xdp_action::{XDP_DROP, XDP_TX},
        xdp_md,
    },
    helpers::bpf_get_prandom_u32,
    programs::XdpContext,
};
use canary_common::{
    Backend, BackendFlags, Fault, FaultKind, FlowFlags, FlowKey, FlowState, Reason, Service, Told,
};
use network_types::tcp::TcpHdr;

use crate::{
    atomic, counters,
    directory::Host,
    flows::{self, Pin},
    follow,
    layout::Layout,
    maps::{FAULTS, hash_keys},
    packet::Packet,
    parse::{Transport, parse_at},
    path::{Verdict, key_of, service_of},
    pick,
    reply::{self, Rst},
    rewrite::update_checksum,
    signals::{self, http_status_class},
    tcp::{Segment, Tracked},
};

/// What comes of a packet.
#[derive(Clone, Copy, Debug)]
pub enum Ordered {
    Out(Verdict),
    /// Forwarded like any other.
    GoesOn,
    /// It opens a flow.
    Opens,
}

/// What is done with a client's packet, once the flow has been taken along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Nothing,
    Answer,
    Drop,
}

/// Whether a new flow is to fail.
#[derive(Clone, Copy, Debug)]
pub struct Drawn(u32);

impl Drawn {
    pub const NOT: Self = Self(0);
    const FAILS: u32 = 1;
    const FAILS_NOW: u32 = 2;

    /// Already by what becomes of its SYN.
    #[inline(always)]
    pub const fn fails_now(self) -> bool {
        self.0 & Self::FAILS_NOW != 0
    }

    #[inline(always)]
    pub const fn flags(self) -> u16 {
        FlowFlags::FAULTED * (self.0 & Self::FAILS) as u16
    }
}

/// Draws a new flow to the canary, opened by a SYN that can be answered.
#[inline(always)]
pub fn draw(key: &FlowKey) -> Drawn {
    Drawn(canary_draw(key))
}

/// A function of its own to the verifier. `key` is never null.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn canary_draw(key: *const FlowKey) -> u32 {
    if key.is_null() {
        return Drawn::NOT.0;
    }
    // SAFETY: not null, and the caller's reference otherwise.
    let (client, service) = unsafe { ((*key).client, (*key).service) };
    let Some(fault) = FAULTS.get(u32::from(service)) else { return Drawn::NOT.0 };
    let Some(kind) = kind_of(fault) else { return Drawn::NOT.0 };
    // SAFETY: no arguments, no preconditions.
    let random = u64::from(unsafe { bpf_get_prandom_u32() });
    if random >= fault.share || !fault.hits(&client) {
        return Drawn::NOT.0;
    }
    match kind {
        FaultKind::Drop | FaultKind::Refuse => Drawn::FAILS | Drawn::FAILS_NOW,
        FaultKind::Reset | FaultKind::Http5xx => Drawn::FAILS,
    }
}

/// Whether a drill goes on.
#[inline(always)]
pub fn is_drilled(service: u16) -> bool {
    FAULTS.get(u32::from(service)).is_none_or(|fault| kind_of(fault).is_some())
}

/// How flows fail now; `None` where there is no drill, or it is over.
#[inline(always)]
fn kind_of(fault: &Fault) -> Option<FaultKind> {
    // SAFETY: a field of a live map value.
    let until = unsafe { atomic::load(&raw const fault.until) };
    if until < flows::jiffies() {
        return None;
    }
    FaultKind::from_number(fault.kind)
}

#[inline(always)]
fn faulted(service: u16) {
    if let Some(fault) = FAULTS.get_ptr_mut(u32::from(service)) {
        // SAFETY: a field of a live map value.
        unsafe { atomic::add(&raw mut (*fault).faulted, 1) };
    }
}

/// A client's packet of a marked flow; `born` where the flow was pinned for it.
///
/// # Errors
/// The reason for which the packet goes to the host, untouched.
#[inline(always)]
pub fn of_client(ctx: *mut xdp_md, layout: Layout, born: bool) -> Result<Ordered, Reason> {
    let packet = Packet::of(&XdpContext::new(ctx));
    let parsed = parse_at(&packet, layout)?;
    let host = Host::get().ok_or(Reason::Internal)?;
    let (number, service) = service_of(host, &parsed).ok_or(Reason::NotOurs)?;
    let key = key_of(&parsed, number);
    let now = flows::now();
    let Some(pin) = flows::find(&key, key.hash(hash_keys()), now) else {
        return Ok(Ordered::Opens);
    };
    let Some(backend) = pick::backend(host, pin.backend, number) else { return Ok(Ordered::Opens) };
    let segment = signals::segment(&packet, &parsed, false, signals::wanted(service));
    if !born && is_outdated(&pin, backend, service) {
        // What opens begins anew, and so does every datagram.
        if segment.opens() || matches!(parsed.transport, Transport::Udp(_)) {
            return Ok(Ordered::Opens);
        }
        if segment.resets() || has_ended(&pin) || !reply::can_answer(&packet, layout, &parsed) {
            return Ok(Ordered::GoesOn);
        }
        cut(pin, service, now);
        return Ok(answer(ctx, layout, &segment));
    }
    if pin.flags() & FlowFlags::FAULTED == 0
        || segment.resets()
        || !reply::can_answer(&packet, layout, &parsed)
    {
        return Ok(Ordered::GoesOn);
    }
    Ok(match fail((pin, backend), service, &segment, &key, (born, now)) {
        Deed::Nothing => Ordered::GoesOn,
        Deed::Answer => answer(ctx, layout, &segment),
        Deed::Drop => Ordered::Out(Verdict { action: XDP_DROP, reason: Reason::FaultDropped }),
    })
}

/// Whether a flow was born to the canary before its generation was ended, and
/// is there still.
#[inline(always)]
pub fn is_outdated(pin: &Pin, backend: &Backend, service: &Service) -> bool {
    FlowFlags::is_outdated(pin.flags(), service.generation)
        && backend.flags & BackendFlags::CANARY != 0
}

/// By a FIN each way: there is nothing to cut.
#[inline(always)]
fn has_ended(pin: &Pin) -> bool {
    pin.state() == FlowState::Closing && pin.flags() & FlowFlags::RESET == 0
}

#[inline(always)]
fn answer(ctx: *mut xdp_md, layout: Layout, segment: &Segment) -> Ordered {
    if reply::rst(ctx, layout, Rst::to(segment)) {
        Ordered::Out(Verdict { action: XDP_TX, reason: Reason::Reset })
    } else {
        Ordered::GoesOn
    }
}

/// Ends a flow by our order: nobody's failure, so nothing is booked.
#[inline(always)]
fn cut(mut pin: Pin, service: &Service, now: u32) {
    let before = pin.tracked();
    let mut next = before;
    next.close_by_reset(0);
    // Another CPU was at it: the next packet is answered too.
    pin.commit(&before, &next);
    pin.extend(service.timeouts.closing, now);
}

/// Has a flow fail as the backend would have it fail, and books it so.
#[inline(always)]
fn fail(
    (mut pin, backend): (Pin, &Backend),
    service: &Service,
    segment: &Segment,
    key: &FlowKey,
    (born, now): (bool, u32),
) -> Deed {
    let Some(fault) = FAULTS.get(u32::from(key.service)) else { return Deed::Nothing };
    let Some(kind) = kind_of(fault) else { return Deed::Nothing };
    let before = pin.tracked();
    let mut next = before;
    let mut told = Told::NOTHING;
    if !born {
        told = signals::step(&mut next, segment, service.signals);
    }
    if told.has(Told::REOPENED) {
        return Deed::Nothing;
    }
    let deed = deed(kind, &next, segment, born);
    if deed == Deed::Nothing {
        return Deed::Nothing;
    }
    let begins = deed == Deed::Answer && next.flags & FlowFlags::RESET == 0;
    if begins {
        let refusal = Segment::refusal(&next);
        told = told.and(signals::step(&mut next, &refusal, service.signals));
    }
    if !pin.commit(&before, &next) {
        return Deed::Nothing;
    }
    if next.state == FlowState::Closing {
        pin.extend(service.timeouts.closing, now);
    }
    if begins || born {
        faulted(key.service);
    }
    counters::book(backend, pin.cell, told);
    follow::tell(key, pin.backend, told);
    deed
}

/// What is done with a client's segment, by the flow as it is behind it.
#[inline(always)]
fn deed(kind: FaultKind, flow: &Tracked, segment: &Segment, born: bool) -> Deed {
    let is_cut = flow.flags & FlowFlags::RESET != 0;
    match kind {
        FaultKind::Drop
            if segment.opens()
                && flow.state == FlowState::HalfOpen
                && flow.flags & FlowFlags::ANSWERED == 0 =>
        {
            Deed::Drop
        }
        FaultKind::Refuse if segment.opens() && (born || is_cut) => Deed::Answer,
        FaultKind::Reset
            if is_cut && !segment.opens()
                || flow.state == FlowState::Established && segment.len > 0 =>
        {
            Deed::Answer
        }
        _ => Deed::Nothing,
    }
}

/// A backend's packet of a flow that is to fail: a response in it says 5xx from
/// now on. `first`: the flow has had none.
#[inline(always)]
pub fn of_backend(packet: &Packet, layout: Layout, service: u16, first: bool) -> Option<()> {
    /// Space and first digit of a status line.
    const STATUS: usize = 8;
    const FAILED: u16 = u16::from_ne_bytes(*b" 5");
    let kind = kind_of(FAULTS.get(u32::from(service))?)?;
    let parsed = parse_at(packet, layout).ok()?;
    // What goes to the host goes there untouched.
    if parsed.hop_limit() <= 1 {
        return None;
    }
    let Transport::Tcp(tcp) = parsed.transport else { return None };
    let data = signals::data::<12>(packet, &parsed, tcp)?;
    let head = [data.get::<u32, 0>(), data.get::<u32, 4>(), data.get::<u32, 8>()];
    // An interim response is not the answer yet.
    if kind != FaultKind::Http5xx || !matches!(http_status_class(&head), 2..=4) {
        return None;
    }
    let was = data.get::<u16, STATUS>();
    data.set::<u16, STATUS>(FAILED);
    let check = tcp.get::<u16, { offset_of!(TcpHdr, check) }>();
    let updated = update_checksum(check, u32::from(!was) + u32::from(FAILED));
    tcp.set::<u16, { offset_of!(TcpHdr, check) }>(updated);
    if first {
        faulted(service);
    }
    Some(())
}
