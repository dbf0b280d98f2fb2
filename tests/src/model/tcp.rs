//! What a TCP segment means for a flow: design.md's half-open, established and
//! closing, and what is counted on the way.
//!
//! Rules that the docs leave open, as the conformance table has them:
//! * A SYN with the number noted for the client is a retransmission, whatever
//!   the state. With another: an established flow's backend settles it; any
//!   other flow's is a new connection from the same port.
//! * A RST before the handshake is done is believed where it acknowledges the
//!   SYN or continues the SYN-ACK; a flow met in the middle has neither, so
//!   there the backend's is always believed. Otherwise within 4 MiB.
//! * A flow met in the middle, and one with a FIN each way, ends without being
//!   counted by a RST; so does one that its client gives up half-open.
//! * Sequence numbers are noted at the handshake, then where they are 64 KiB on.

use canary_common::{FlowFlags, FlowState};

use super::Counter;
use crate::frame::{ACK, FIN, RST, SYN};

const BELIEVED_WITHIN: i64 = 4 << 20;
const NOTED_EVERY: i64 = 64 << 10;

#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
}

impl Segment {
    #[must_use]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// A SYN alone, whatever stands beside it but ACK and RST.
    #[must_use]
    pub const fn opens(&self) -> bool {
        self.has(SYN) && !self.has(ACK) && !self.has(RST)
    }
}

/// A connection as seen from the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    pub state: FlowState,
    /// [`FlowFlags`].
    pub flags: u16,
    pub client_seq: u32,
    pub backend_seq: u32,
}

/// What a client's segment asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Client {
    Follows(Vec<Counter>),
    /// A new connection: not this flow any more.
    Anew,
}

impl Connection {
    const fn is(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }

    fn half_open(&self) -> bool {
        self.state == FlowState::HalfOpen
    }

    pub fn client(&mut self, segment: &Segment) -> Client {
        if segment.opens() {
            if segment.seq == self.client_seq {
                return Client::Follows(vec![Counter::SynRetransmits]);
            }
            let settled_by_backend = self.state == FlowState::Established;
            return if settled_by_backend { Client::Follows(vec![]) } else { Client::Anew };
        }
        if segment.has(RST) {
            let believed = within(segment.seq, self.client_seq);
            let counter = (!self.half_open()).then_some(Counter::ResetsClient);
            return Client::Follows(self.reset(believed, counter));
        }
        let mut counted = Vec::new();
        let acknowledges = segment.has(ACK) && ahead(segment.ack, self.backend_seq) >= 0;
        if self.half_open() && self.is(FlowFlags::ANSWERED) && acknowledges {
            self.state = FlowState::Established;
            self.client_seq = segment.seq;
            counted.push(Counter::Established);
        }
        self.client_seq = self.noted(self.client_seq, segment.seq);
        self.fin(segment, FlowFlags::FIN_CLIENT, &mut counted);
        Client::Follows(counted)
    }

    pub fn backend(&mut self, segment: &Segment) -> Vec<Counter> {
        if segment.has(RST) {
            let counter = if self.half_open() { Counter::Refused } else { Counter::ResetsBackend };
            return self.reset(self.believes_backend(segment), Some(counter));
        }
        let mut counted = Vec::new();
        if self.half_open() && self.is(FlowFlags::MIDSTREAM) {
            // Anything but a RST is an answer to a flow met in the middle.
            self.state = FlowState::Established;
            self.backend_seq = segment.seq;
            counted.push(Counter::Established);
        } else if segment.has(SYN | ACK) {
            if self.half_open() && segment.ack == self.client_seq.wrapping_add(1) {
                self.flags |= FlowFlags::ANSWERED;
                self.backend_seq = segment.seq.wrapping_add(1);
            }
            return counted;
        }
        self.backend_seq = self.noted(self.backend_seq, segment.seq);
        self.fin(segment, FlowFlags::FIN_BACKEND, &mut counted);
        counted
    }

    fn believes_backend(&self, segment: &Segment) -> bool {
        let continues = within(segment.seq, self.backend_seq);
        if !self.half_open() {
            return continues;
        }
        let acknowledges = segment.has(ACK) && segment.ack == self.client_seq.wrapping_add(1);
        self.is(FlowFlags::MIDSTREAM) || acknowledges || self.is(FlowFlags::ANSWERED) && continues
    }

    fn reset(&mut self, believed: bool, counter: Option<Counter>) -> Vec<Counter> {
        if self.state == FlowState::Closing || !believed {
            return Vec::new();
        }
        let nobodys = self.is(FlowFlags::MIDSTREAM)
            || self.is(FlowFlags::FIN_CLIENT | FlowFlags::FIN_BACKEND);
        self.state = FlowState::Closing;
        self.flags |= FlowFlags::RESET;
        let counted: Vec<_> = counter.filter(|_| !nobodys).into_iter().collect();
        if counted.iter().any(|by| *by != Counter::ResetsClient) {
            self.flags |= FlowFlags::BAD;
        }
        counted
    }

    /// A FIN each way ends an established connection, in whatever order they
    /// and the handshake's last segment came.
    fn fin(&mut self, segment: &Segment, by: u16, counted: &mut Vec<Counter>) {
        if segment.has(FIN) {
            self.flags |= by;
        }
        if self.state == FlowState::Established
            && self.is(FlowFlags::FIN_CLIENT | FlowFlags::FIN_BACKEND)
        {
            self.state = FlowState::Closing;
            counted.push(Counter::Closed);
        }
    }

    fn noted(&self, noted: u32, seq: u32) -> u32 {
        let on = self.state == FlowState::Established && ahead(seq, noted) >= NOTED_EVERY;
        if on { seq } else { noted }
    }
}

/// How far `a` is ahead of `b`, in sequence space.
fn ahead(a: u32, b: u32) -> i64 {
    i64::from(a.wrapping_sub(b) as i32)
}

fn within(seq: u32, seen: u32) -> bool {
    ahead(seq, seen).abs() <= BELIEVED_WITHIN
}
