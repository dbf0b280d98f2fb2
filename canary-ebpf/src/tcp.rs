//! What a packet means for a pinned flow. Pure: state and segment in, next
//! state and what is told out; both directions.

use core::mem::offset_of;

use canary_common::{FlowFlags, FlowState, Signals, Ticks, Timed, Told, told};
use network_types::tcp::TcpHdr;

use crate::signals::{http_status_class, is_fatal_alert};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// Where a TCP header has its flags.
pub const TCP_FLAGS: usize = offset_of!(TcpHdr, _bitfield_1) + 1;

/// Whether these are the flags of a SYN that opens: without ACK and RST.
#[inline(always)]
pub const fn opens(flags: u8) -> bool {
    flags & (SYN | ACK | RST) == SYN
}

/// How far from what was last seen a RST's sequence number may lie to be
/// believed. Receivers want it inside their window (RFC 5961, 3.2), which we
/// do not track; this is wider than the windows that hosts offer by default
/// and leaves a blind forger one chance in 512.
const PLAUSIBLE_DISTANCE: u32 = 4 << 20;
/// Where no signal needs the highest sequence number it is written down only
/// this often: a bulk transfer need not write the flow's line each packet.
const SEQ_GRAIN: i32 = 64 << 10;
/// Signals that must know whether a segment's data is new.
const EXACT: u16 = Signals::RETRANSMITS | Signals::LATENCY | Signals::HTTP;

/// Who sent a packet, in which protocol.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Client = 0,
    Backend = 1,
    ClientDatagram = 2,
    BackendDatagram = 3,
}

/// What is read of a packet. Of a datagram nothing but who sent it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Host byte order, both.
    pub seq: u32,
    pub ack: u32,
    /// Bytes of data.
    pub len: u32,
    /// The first twelve bytes of the data, as they stand in memory; of shorter
    /// data, or where no signal wants them, zeroes.
    pub head: [u32; 3],
    /// The window offered, unscaled.
    pub window: u16,
    pub flags: u8,
    pub by: By,
}

impl Segment {
    pub const fn datagram(by: By) -> Self {
        Self { seq: 0, ack: 0, len: 0, head: [0; 3], window: 0, flags: 0, by }
    }

    /// The sequence number after it.
    #[inline(always)]
    const fn end(&self) -> u32 {
        self.seq.wrapping_add(self.len).wrapping_add((self.flags & FIN) as u32)
    }

    /// What acknowledges all of it: of a SYN too, which [`Self::end`] is never
    /// asked about.
    #[inline(always)]
    pub const fn after_all(&self) -> u32 {
        self.end().wrapping_add((self.flags & SYN != 0) as u32)
    }

    /// The RST that a backend would cut a flow with, or refuse it.
    #[inline(always)]
    pub const fn refusal(flow: &Tracked) -> Self {
        Self {
            seq: flow.backend_seq,
            ack: flow.client_seq.wrapping_add(1),
            flags: RST | ACK,
            ..Self::datagram(By::Backend)
        }
    }

    /// See [`opens`].
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        opens(self.flags)
    }

    #[inline(always)]
    pub const fn resets(&self) -> bool {
        self.flags & RST != 0
    }
}

/// The part of a flow that packets change.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// See [`canary_common::Flow`].
    pub client_seq: u32,
    pub backend_seq: u32,
    pub waiting_since: u32,
    pub flags: u16,
    pub state: FlowState,
    pub reserved: u8,
}

impl Tracked {
    const BOTH_FINS: u16 = FlowFlags::FIN_CLIENT | FlowFlags::FIN_BACKEND;

    /// Takes the flow along with a packet; `wanted` are the [`Signals`] to
    /// read.
    #[inline(always)]
    pub fn step(&mut self, segment: &Segment, wanted: u16) -> Told {
        match segment.by {
            By::Client => self.by_client(segment, wanted),
            By::Backend => self.by_backend(segment, wanted),
            By::ClientDatagram => self.asked(wanted),
            By::BackendDatagram => self.answered(),
        }
    }

    /// By a datagram. Its sender waits from the first one on.
    #[inline(always)]
    const fn asked(&self, wanted: u16) -> Told {
        Told::STARTS.when(wanted & Signals::LATENCY != 0 && self.waiting_since == 0)
    }

    /// By a datagram.
    #[inline(always)]
    fn answered(&mut self) -> Told {
        let first = self.state == FlowState::Unanswered;
        if first {
            self.state = FlowState::Answered;
        }
        told!(established).when(first).and(Told::FIRST_BYTE.when(self.waiting_since != 0))
    }

    /// Whether [`Self::carry`] is all that [`Self::step`] would do: nothing in
    /// the segment's flags changes an established flow, or it is a datagram.
    #[inline(always)]
    pub const fn only_carries(&self, segment: &Segment) -> bool {
        match segment.by {
            By::Client | By::Backend => {
                segment.flags & (FIN | SYN | RST) == 0
                    && matches!(self.state, FlowState::Established)
            }
            By::ClientDatagram | By::BackendDatagram => true,
        }
    }

    /// See [`Self::only_carries`].
    #[inline(always)]
    pub fn carry(&mut self, segment: &Segment, wanted: u16) -> Told {
        match segment.by {
            By::Client => self.carry_to_backend(segment, wanted),
            By::Backend => self.carry_to_client(segment, wanted),
            By::ClientDatagram => self.asked(wanted),
            By::BackendDatagram => self.answered(),
        }
    }

    #[inline(always)]
    const fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }

    #[inline(always)]
    fn by_client(&mut self, segment: &Segment, wanted: u16) -> Told {
        if segment.opens() {
            return self.syn(segment);
        }
        if segment.resets() {
            return self.reset_by_client(segment);
        }
        let mut told = Told::NOTHING;
        if self.state == FlowState::HalfOpen
            && self.has(FlowFlags::ANSWERED)
            && segment.flags & ACK != 0
            && !before(segment.ack, self.backend_seq)
        {
            self.state = FlowState::Established;
            self.client_seq = segment.seq;
            told = told!(established);
        }
        told.and(self.carry_to_backend(segment, wanted))
            .and(self.fin(segment, FlowFlags::FIN_CLIENT))
    }

    /// What a client's segment carries, its flags aside.
    #[inline(always)]
    fn carry_to_backend(&mut self, segment: &Segment, wanted: u16) -> Told {
        let old = self.is_old(segment, self.client_seq, wanted);
        let alert = self.is_first_alert(segment, FlowFlags::ALERT_CLIENT, wanted);
        let asks = segment.len > 0 && !old && self.waiting_since == 0;
        let waits = asks && self.state == FlowState::Established && wanted & Signals::LATENCY != 0;
        let timed = !self.has(FlowFlags::DATA) || Timed::is_drawn(segment.seq);
        if waits && !timed {
            self.waiting_since = Ticks::UNTIMED;
        }
        self.note_data(segment);
        advance(&mut self.client_seq, segment, self.state, wanted);
        Told::STARTS
            .when(waits && timed)
            .and(told!(retransmits_client).when(wanted & Signals::RETRANSMITS != 0 && old))
            .and(told!(zero_windows_client).when(is_closed_window(segment, wanted)))
            .and(told!(tls_alerts_client).when(alert))
    }

    #[inline(always)]
    fn by_backend(&mut self, segment: &Segment, wanted: u16) -> Told {
        if segment.resets() {
            return self.reset_by_backend(segment);
        }
        let midstream = self.state == FlowState::HalfOpen && self.has(FlowFlags::MIDSTREAM);
        if segment.flags & (SYN | ACK) == SYN | ACK && !midstream {
            return self.syn_ack(segment);
        }
        let mut told = Told::NOTHING;
        // Anything but a RST answers a flow that was met in the middle.
        if midstream {
            self.state = FlowState::Established;
            self.backend_seq = segment.seq;
            told = told!(established);
        }
        told.and(self.carry_to_client(segment, wanted))
            .and(self.fin(segment, FlowFlags::FIN_BACKEND))
    }

    /// What a backend's segment carries, its flags aside.
    #[inline(always)]
    fn carry_to_client(&mut self, segment: &Segment, wanted: u16) -> Told {
        let old = self.is_old(segment, self.backend_seq, wanted);
        let answers = self.state != FlowState::HalfOpen && segment.len > 0 && !old;
        let timed = self.waiting_since > Ticks::UNTIMED;
        if answers && self.waiting_since == Ticks::UNTIMED {
            self.waiting_since = 0;
        }
        let alert = self.is_first_alert(segment, FlowFlags::ALERT_BACKEND, wanted);
        let mut told = Told::FIRST_BYTE
            .when(answers && timed)
            .and(told!(retransmits_backend).when(wanted & Signals::RETRANSMITS != 0 && old))
            .and(told!(zero_windows_backend).when(is_closed_window(segment, wanted)))
            .and(told!(tls_alerts_backend).when(alert));
        if wanted & Signals::HTTP != 0 && segment.len > 0 && !old {
            told = told.and(self.response(segment));
        }
        self.note_data(segment);
        advance(&mut self.backend_seq, segment, self.state, wanted);
        told
    }

    /// A response's status, where the data begins with one.
    #[inline(always)]
    fn response(&mut self, segment: &Segment) -> Told {
        let class = http_status_class(&segment.head);
        let first_5xx = class == 5 && !self.has(FlowFlags::HTTP_5XX);
        self.flags |= FlowFlags::HTTP_5XX * u16::from(class == 5);
        told!(http_1xx)
            .when(class == 1)
            .and(told!(http_2xx).when(class == 2))
            .and(told!(http_3xx).when(class == 3))
            .and(told!(http_4xx).when(class == 4))
            .and(told!(http_5xx).when(class == 5))
            .and(told!(connections_5xx).when(first_5xx))
    }

    /// Whether the data, or its beginning, was sent before; `next` is what
    /// this side sends next.
    #[inline(always)]
    fn is_old(&self, segment: &Segment, next: u32, wanted: u16) -> bool {
        // A keep-alive probe may carry the last byte again (RFC 9293, 3.8.4).
        let probe = segment.len == 1 && segment.seq.wrapping_add(1) == next;
        wanted & EXACT != 0
            && segment.len > 0
            && self.state != FlowState::HalfOpen
            && before(segment.seq, next)
            && !probe
    }

    #[inline(always)]
    fn is_first_alert(&mut self, segment: &Segment, by: u16, wanted: u16) -> bool {
        let alert = wanted & Signals::TLS != 0
            && segment.len >= TLS_ALERT_LEN
            && is_fatal_alert(&segment.head)
            && !self.has(by);
        self.flags |= by * u16::from(alert);
        alert
    }

    #[inline(always)]
    fn note_data(&mut self, segment: &Segment) {
        self.flags |= FlowFlags::DATA * u16::from(segment.len > 0);
    }

    #[inline(always)]
    fn syn_ack(&mut self, segment: &Segment) -> Told {
        if self.state != FlowState::HalfOpen || segment.ack != self.client_seq.wrapping_add(1) {
            return Told::NOTHING;
        }
        let first = !self.has(FlowFlags::ANSWERED);
        self.flags |= FlowFlags::ANSWERED;
        self.backend_seq = segment.seq.wrapping_add(1);
        Told::HANDSHAKE.when(first && self.waiting_since != 0)
    }

    /// Retransmission (the same initial sequence number) or reuse of the port.
    #[inline(always)]
    fn syn(&self, segment: &Segment) -> Told {
        if segment.seq == self.client_seq {
            return told!(syn_retransmits);
        }
        // What is established the backend settles with a challenge ACK
        // (RFC 5961, 4.2).
        Told::REOPENED.when(self.state != FlowState::Established)
    }

    #[inline(always)]
    fn reset_by_client(&mut self, segment: &Segment) -> Told {
        if self.has(FlowFlags::RESET) {
            return Told::NOTHING;
        }
        if !near(segment.seq, self.client_seq) {
            return told!(resets_client_implausible);
        }
        let after_data = told!(resets_client_after_data).when(self.has(FlowFlags::DATA));
        let told = match self.stage() {
            Stage::Unknown | Stage::HalfOpen => Told::NOTHING,
            Stage::Open => told!(resets_client).and(after_data),
            Stage::Ended => told!(resets_client_after_fin),
        };
        self.close_by_reset(0);
        told
    }

    #[inline(always)]
    fn reset_by_backend(&mut self, segment: &Segment) -> Told {
        if self.has(FlowFlags::RESET) {
            return Told::NOTHING;
        }
        if !self.believes_backend(segment) {
            return told!(resets_backend_implausible);
        }
        let after_data = told!(resets_backend_after_data).when(self.has(FlowFlags::DATA));
        let (told, flags) = match self.stage() {
            Stage::Unknown => (Told::NOTHING, 0),
            Stage::HalfOpen => (told!(refused), FlowFlags::BAD),
            Stage::Open => (told!(resets_backend).and(after_data), FlowFlags::BAD),
            Stage::Ended => (told!(resets_backend_after_fin), 0),
        };
        self.close_by_reset(flags);
        told
    }

    #[inline(always)]
    pub fn close_by_reset(&mut self, flags: u16) {
        self.state = FlowState::Closing;
        self.flags |= FlowFlags::RESET | flags;
    }

    /// Where in its life a RST meets the flow.
    #[inline(always)]
    fn stage(&self) -> Stage {
        if self.has(FlowFlags::MIDSTREAM) {
            Stage::Unknown
        } else if self.has(Self::BOTH_FINS) {
            Stage::Ended
        } else if self.state == FlowState::HalfOpen {
            Stage::HalfOpen
        } else {
            Stage::Open
        }
    }

    #[inline(always)]
    fn believes_backend(&self, segment: &Segment) -> bool {
        if self.state != FlowState::HalfOpen {
            return near(segment.seq, self.backend_seq);
        }
        // Before the handshake is done a RST must acknowledge the SYN
        // (RFC 9293, 3.10.7.3), or continue what the SYN-ACK began. Of a flow
        // first seen in the middle nothing is known yet.
        self.has(FlowFlags::MIDSTREAM)
            || segment.flags & ACK != 0 && segment.ack == self.client_seq.wrapping_add(1)
            || self.has(FlowFlags::ANSWERED) && near(segment.seq, self.backend_seq)
    }

    /// Notes a FIN. One each way closes what is established, also where the
    /// second came before the handshake's last segment, or with it.
    #[inline(always)]
    fn fin(&mut self, segment: &Segment, by: u16) -> Told {
        if segment.flags & FIN != 0 {
            self.flags |= by;
        }
        if self.state != FlowState::Established || !self.has(Self::BOTH_FINS) {
            return Told::NOTHING;
        }
        self.state = FlowState::Closing;
        told!(closed)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// First seen in the middle: its failures are not the version's.
    Unknown,
    HalfOpen,
    Open,
    /// A FIN each way: a RST is nobody's failure.
    Ended,
}

/// Bytes of a TLS alert record: header, level, description.
const TLS_ALERT_LEN: u32 = 7;

#[inline(always)]
const fn is_closed_window(segment: &Segment, wanted: u16) -> bool {
    wanted & Signals::ZERO_WINDOWS != 0 && segment.window == 0
}

#[inline(always)]
const fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[inline(always)]
const fn near(seq: u32, seen: u32) -> bool {
    seq.wrapping_sub(seen).wrapping_add(PLAUSIBLE_DISTANCE) <= 2 * PLAUSIBLE_DISTANCE
}

#[inline(always)]
fn advance(next: &mut u32, segment: &Segment, state: FlowState, wanted: u16) {
    let ahead = segment.end().wrapping_sub(*next) as i32;
    let grain = if wanted & EXACT != 0 { 1 } else { SEQ_GRAIN };
    // Until the handshake is done, the client's initial number stands there.
    if state != FlowState::HalfOpen && ahead >= grain {
        *next = segment.end();
    }
}
