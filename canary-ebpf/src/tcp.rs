//! What a TCP segment means for a pinned flow. Pure: state and segment in,
//! next state and event out; both directions.

use canary_common::{FlowFlags, FlowState};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// How far from what was last seen a RST's sequence number may lie to be
/// believed. Receivers want it inside their window (RFC 5961, 3.2), which we
/// do not track; this is wider than the windows that hosts offer by default
/// and leaves a blind forger one chance in 512.
const PLAUSIBLE_DISTANCE: u32 = 4 << 20;
/// The highest sequence number seen is written down only this often, so that
/// a bulk transfer does not write the flow's line with every packet.
const SEQ_GRAIN: u32 = 64 << 10;

#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub flags: u8,
    /// Host byte order, both.
    pub seq: u32,
    pub ack: u32,
}

impl Segment {
    /// A SYN that opens: without ACK and RST.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.flags & (SYN | ACK | RST) == SYN
    }

    #[inline(always)]
    pub const fn resets(&self) -> bool {
        self.flags & RST != 0
    }
}

/// What the segment did, to be counted once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    None,
    SynRetransmit,
    /// The handshake is done, or a flow taken over in the middle was answered.
    Established,
    /// RST by the backend before the handshake was done.
    Refused,
    ResetByBackend,
    ResetByClient,
    /// A FIN each way.
    Closed,
    /// Both at once: the FINs were there before.
    EstablishedAndClosed,
    /// A new connection from the same client port: not this flow any more.
    Reopened,
}

/// The part of a flow that segments change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    pub state: FlowState,
    pub flags: u16,
    /// See [`canary_common::Flow`].
    pub client_seq: u32,
    pub backend_seq: u32,
}

impl Tracked {
    const BOTH_FINS: u16 = FlowFlags::FIN_CLIENT | FlowFlags::FIN_BACKEND;

    #[inline(always)]
    const fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }

    /// A segment by the client.
    #[inline(always)]
    pub fn by_client(mut self, segment: &Segment) -> (Self, Event) {
        if segment.opens() {
            return self.syn(segment);
        }
        if segment.resets() {
            if self.state == FlowState::Closing || !near(segment.seq, self.client_seq) {
                return (self, Event::None);
            }
            let event = self.reset(Event::ResetByClient, Event::None);
            return (self, event);
        }
        let mut event = Event::None;
        if self.state == FlowState::HalfOpen
            && self.has(FlowFlags::ANSWERED)
            && segment.flags & ACK != 0
            && !before(segment.ack, self.backend_seq)
        {
            self.state = FlowState::Established;
            self.client_seq = segment.seq;
            event = Event::Established;
        }
        advance(&mut self.client_seq, segment.seq, self.state);
        let event = self.fin(segment, FlowFlags::FIN_CLIENT, event);
        (self, event)
    }

    /// A segment by the backend.
    #[inline(always)]
    pub fn by_backend(mut self, segment: &Segment) -> (Self, Event) {
        if segment.resets() {
            if self.state == FlowState::Closing || !self.believes_backend(segment) {
                return (self, Event::None);
            }
            let event = self.reset(Event::ResetByBackend, Event::Refused);
            return (self, event);
        }
        let midstream = self.state == FlowState::HalfOpen && self.has(FlowFlags::MIDSTREAM);
        if segment.flags & (SYN | ACK) == SYN | ACK && !midstream {
            if self.state == FlowState::HalfOpen && segment.ack == self.client_seq.wrapping_add(1) {
                self.flags |= FlowFlags::ANSWERED;
                self.backend_seq = segment.seq.wrapping_add(1);
            }
            return (self, Event::None);
        }
        let mut event = Event::None;
        // Anything but a RST answers a flow that was met in the middle.
        if midstream {
            self.state = FlowState::Established;
            self.backend_seq = segment.seq;
            event = Event::Established;
        }
        advance(&mut self.backend_seq, segment.seq, self.state);
        let event = self.fin(segment, FlowFlags::FIN_BACKEND, event);
        (self, event)
    }

    /// Retransmission (the same initial sequence number) or reuse of the port.
    #[inline(always)]
    fn syn(self, segment: &Segment) -> (Self, Event) {
        if segment.seq == self.client_seq {
            return (self, Event::SynRetransmit);
        }
        let event = match self.state {
            // The backend settles it with a challenge ACK (RFC 5961, 4.2).
            FlowState::Established => Event::None,
            _ => Event::Reopened,
        };
        (self, event)
    }

    /// A RST that is believed closes the flow; the rest is who is told.
    #[inline(always)]
    fn reset(&mut self, after: Event, before: Event) -> Event {
        let event = if self.has(FlowFlags::MIDSTREAM) || self.has(Self::BOTH_FINS) {
            Event::None
        } else if self.state == FlowState::HalfOpen {
            before
        } else {
            after
        };
        self.state = FlowState::Closing;
        self.flags |= FlowFlags::RESET;
        if matches!(event, Event::Refused | Event::ResetByBackend) {
            self.flags |= FlowFlags::BAD;
        }
        event
    }

    #[inline(always)]
    fn believes_backend(&self, segment: &Segment) -> bool {
        if self.state == FlowState::Established {
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
    fn fin(&mut self, segment: &Segment, by: u16, event: Event) -> Event {
        if segment.flags & FIN != 0 {
            self.flags |= by;
        }
        if self.state != FlowState::Established || !self.has(Self::BOTH_FINS) {
            return event;
        }
        self.state = FlowState::Closing;
        match event {
            Event::Established => Event::EstablishedAndClosed,
            _ => Event::Closed,
        }
    }
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
fn advance(seen: &mut u32, seq: u32, state: FlowState) {
    if state == FlowState::Established && seq.wrapping_sub(*seen) as i32 >= SEQ_GRAIN as i32 {
        *seen = seq;
    }
}
