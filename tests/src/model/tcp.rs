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
//! * A flow met in the middle ends without being counted by a RST; so does one
//!   that its client gives up half-open. After a FIN each way the first RST is
//!   counted as such. One that is not believed is counted, unless there was one
//!   that was.
//! * The next number of each side is noted at the handshake, then with each
//!   segment that goes on; where no signal asks for it, where it is 64 KiB on.
//! * Data that begins before that number was sent before, but for one byte just
//!   before it, which a keep-alive probe may have.
//! * The client waits from the first new data it sends on an established flow,
//!   until new data comes back. It is timed where nobody has sent data before,
//!   and where its sequence number is drawn.

use canary_common::{FlowFlags, FlowState, Signals, Timed};

use super::{Counter, FIRST_BYTE, HANDSHAKE};
use crate::frame::{ACK, FIN, RST, SYN};

const BELIEVED_WITHIN: i64 = 4 << 20;
const COARSELY: i64 = 64 << 10;

#[derive(Clone, Debug)]
pub struct Segment {
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    /// Bytes of data, as the headers say.
    pub len: u32,
    /// What the frame has of it, and maybe of what follows.
    pub data: Vec<u8>,
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

    pub const fn next(&self) -> u32 {
        self.seq.wrapping_add(self.len).wrapping_add(self.has(FIN) as u32)
    }

    /// The first bytes of the data, where headers and frame have so many.
    fn begins<const N: usize>(&self) -> Option<&[u8; N]> {
        (self.len as usize >= N).then(|| self.data.first_chunk()).flatten()
    }

    /// The class of an HTTP response's status (RFC 9112).
    pub fn status_class(&self) -> Option<Counter> {
        let line = self.begins::<12>()?;
        let (version, status) = line.split_at(9);
        let known = version == b"HTTP/1.0 " || version == b"HTTP/1.1 ";
        let number = str::from_utf8(status).ok().filter(|_| known)?;
        match number.parse::<u16>().ok()? {
            100..200 => Some("http_1xx"),
            200..300 => Some("http_2xx"),
            300..400 => Some("http_3xx"),
            400..500 => Some("http_4xx"),
            500..600 => Some("http_5xx"),
            _ => None,
        }
    }

    /// A fatal alert (RFC 8446).
    fn is_fatal_alert(&self) -> bool {
        matches!(self.begins(), Some([21, 3, 0..=4, 0, 2, 2, _]))
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
    /// The client waits for an answer,
    pub waits: bool,
    /// and it is timed.
    pub timed: bool,
    /// [`Signals`] that are read.
    pub signals: u16,
}

/// A side, as the counters name it.
#[derive(Clone, Copy)]
struct Side {
    retransmits: Counter,
    zero_windows: Counter,
    alerts: Counter,
    alert: u16,
    resets: Counter,
    after_data: Counter,
    after_fin: Counter,
    implausible: Counter,
}

const CLIENT: Side = Side {
    retransmits: "retransmits_client",
    zero_windows: "zero_windows_client",
    alerts: "tls_alerts_client",
    alert: FlowFlags::ALERT_CLIENT,
    resets: "resets_client",
    after_data: "resets_client_after_data",
    after_fin: "resets_client_after_fin",
    implausible: "resets_client_implausible",
};

const BACKEND: Side = Side {
    retransmits: "retransmits_backend",
    zero_windows: "zero_windows_backend",
    alerts: "tls_alerts_backend",
    alert: FlowFlags::ALERT_BACKEND,
    resets: "resets_backend",
    after_data: "resets_backend_after_data",
    after_fin: "resets_backend_after_fin",
    implausible: "resets_backend_implausible",
};

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

    const fn reads(&self, signal: u16) -> bool {
        self.signals & signal != 0
    }

    fn half_open(&self) -> bool {
        self.state == FlowState::HalfOpen
    }

    pub fn client(&mut self, segment: &Segment) -> Client {
        if segment.opens() {
            if segment.seq == self.client_seq {
                return Client::Follows(vec!["syn_retransmits"]);
            }
            let settled_by_backend = self.state == FlowState::Established;
            return if settled_by_backend { Client::Follows(vec![]) } else { Client::Anew };
        }
        if segment.has(RST) {
            let believed = within(segment.seq, self.client_seq);
            return Client::Follows(self.reset(&CLIENT, believed, None));
        }
        let mut counted = Vec::new();
        let acknowledges = segment.has(ACK) && ahead(segment.ack, self.backend_seq) >= 0;
        if self.half_open() && self.is(FlowFlags::ANSWERED) && acknowledges {
            self.state = FlowState::Established;
            self.client_seq = segment.seq;
            counted.push("established");
        }
        let first = !self.is(FlowFlags::DATA);
        let new = self.listen(&CLIENT, segment, self.client_seq, &mut counted);
        let asks = new && self.state == FlowState::Established && self.reads(Signals::LATENCY);
        if asks && !self.waits {
            self.waits = true;
            self.timed = first || Timed::is_drawn(segment.seq);
        }
        self.client_seq = self.noted(self.client_seq, segment);
        self.fin(segment, FlowFlags::FIN_CLIENT, &mut counted);
        Client::Follows(counted)
    }

    pub fn backend(&mut self, segment: &Segment) -> Vec<Counter> {
        if segment.has(RST) {
            let refused = self.half_open().then_some("refused");
            return self.reset(&BACKEND, self.believes_backend(segment), refused);
        }
        let mut counted = Vec::new();
        if self.half_open() && self.is(FlowFlags::MIDSTREAM) {
            // Anything but a RST is an answer to a flow met in the middle.
            self.state = FlowState::Established;
            self.backend_seq = segment.seq;
            counted.push("established");
        } else if segment.has(SYN | ACK) {
            if self.half_open() && segment.ack == self.client_seq.wrapping_add(1) {
                if !self.is(FlowFlags::ANSWERED) && self.waits {
                    counted.push(HANDSHAKE);
                    self.waits = false;
                }
                self.flags |= FlowFlags::ANSWERED;
                self.backend_seq = segment.seq.wrapping_add(1);
            }
            return counted;
        }
        let new = self.listen(&BACKEND, segment, self.backend_seq, &mut counted);
        if new && self.waits && !self.half_open() {
            self.waits = false;
            if self.timed {
                counted.push(FIRST_BYTE);
            }
        }
        if new && self.reads(Signals::HTTP) {
            self.response(segment, &mut counted);
        }
        self.backend_seq = self.noted(self.backend_seq, segment);
        self.fin(segment, FlowFlags::FIN_BACKEND, &mut counted);
        counted
    }

    /// What both sides can give away; whether there is data, and it is new.
    fn listen(&mut self, by: &Side, segment: &Segment, next: u32, to: &mut Vec<Counter>) -> bool {
        let back = -ahead(segment.seq, next);
        let probe = back == 1 && segment.len == 1;
        let exact = self.reads(Signals::RETRANSMITS | Signals::LATENCY | Signals::HTTP);
        let old = exact && !self.half_open() && back > 0 && !probe;
        if segment.len > 0 {
            self.flags |= FlowFlags::DATA;
            if old && self.reads(Signals::RETRANSMITS) {
                to.push(by.retransmits);
            }
        }
        if segment.window == 0 && self.reads(Signals::ZERO_WINDOWS) {
            to.push(by.zero_windows);
        }
        if segment.is_fatal_alert() && self.reads(Signals::TLS) && !self.is(by.alert) {
            self.flags |= by.alert;
            to.push(by.alerts);
        }
        segment.len > 0 && !old
    }

    fn response(&mut self, segment: &Segment, to: &mut Vec<Counter>) {
        let Some(class) = segment.status_class() else { return };
        to.push(class);
        if class == "http_5xx" && !self.is(FlowFlags::HTTP_5XX) {
            self.flags |= FlowFlags::HTTP_5XX;
            to.push("connections_5xx");
        }
    }

    /// By the other end, which did nothing: as the backend's RST would.
    pub fn cut_as_by_backend(&mut self) -> Vec<Counter> {
        let refused = self.half_open().then_some("refused");
        self.reset(&BACKEND, true, refused)
    }

    /// By order: nobody's failure.
    pub fn cut_by_order(&mut self) {
        self.state = FlowState::Closing;
        self.flags |= FlowFlags::RESET;
    }

    fn believes_backend(&self, segment: &Segment) -> bool {
        let continues = within(segment.seq, self.backend_seq);
        if !self.half_open() {
            return continues;
        }
        let acknowledges = segment.has(ACK) && segment.ack == self.client_seq.wrapping_add(1);
        self.is(FlowFlags::MIDSTREAM) || acknowledges || self.is(FlowFlags::ANSWERED) && continues
    }

    /// `refused`: what it counts as before the handshake is done.
    fn reset(&mut self, by: &Side, believed: bool, refused: Option<Counter>) -> Vec<Counter> {
        if self.is(FlowFlags::RESET) {
            return Vec::new();
        }
        if !believed {
            return vec![by.implausible];
        }
        let half_open = self.half_open();
        self.state = FlowState::Closing;
        self.flags |= FlowFlags::RESET;
        if self.is(FlowFlags::MIDSTREAM) {
            return Vec::new();
        }
        if self.is(FlowFlags::FIN_CLIENT | FlowFlags::FIN_BACKEND) {
            return vec![by.after_fin];
        }
        if by.resets == BACKEND.resets {
            self.flags |= FlowFlags::BAD;
        }
        if half_open {
            return refused.into_iter().collect();
        }
        let after_data = self.is(FlowFlags::DATA).then_some(by.after_data);
        std::iter::once(by.resets).chain(after_data).collect()
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
            counted.push("closed");
        }
    }

    fn noted(&self, noted: u32, segment: &Segment) -> u32 {
        let exact = self.reads(Signals::RETRANSMITS | Signals::LATENCY | Signals::HTTP);
        let grain = if exact { 1 } else { COARSELY };
        let on = !self.half_open() && ahead(segment.next(), noted) >= grain;
        if on { segment.next() } else { noted }
    }
}

/// How far `a` is ahead of `b`, in sequence space.
fn ahead(a: u32, b: u32) -> i64 {
    i64::from(a.wrapping_sub(b) as i32)
}

fn within(seq: u32, seen: u32) -> bool {
    ahead(seq, seen).abs() <= BELIEVED_WITHIN
}
