//! Services whose packets are measured, their flow tables filled by real
//! handshakes, and what every run must have counted.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use canary::{
    dataplane::{GuardOrder, Steering},
    plan::Write,
};
use canary_common::{Cell, Cidr, Exchange, Reason, ServiceFlags, Signals, Timeouts, Told, Track};

use super::wrapper::{Clients, Shot, Wrapper};
use crate::{
    frame::{ACK, Frame, SYN, Transport},
    plane::{INGRESS, NewBackend, PASS, Plane, TX},
};

/// Flows that the tables have room for, as the map of the reference.
pub const ROOM: u32 = 4 << 20;

/// Numbers of the first bytes that each side of a connection sends, and so
/// acknowledges.
pub const CLIENT_SEQ: u32 = 1001;
pub const SERVER_SEQ: u32 = 9001;

/// Backends of the bed's service: the one of the flows that are there, and the
/// one that new flows go to, by which they are found and forgotten.
pub const HOLDS: u16 = 1;
pub const OPENS: u16 = 2;
/// Of new flows of the steered and of the guarded service.
pub const STEERED: u16 = 4;
pub const GUARDED: u16 = 6;

/// Whose first bytes say what they are.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

const SERVICE: u16 = 1;
const STEERED_SERVICE: u16 = 2;
const GUARDED_SERVICE: u16 = 3;

/// Flows of one client's address: 256.
const SHIFT: u32 = 8;
const FIRST_PORT: u16 = 0x4000;
/// Jiffies: longer than any benchmark.
const LONG: u32 = 1 << 28;

/// A service and its flows.
#[derive(Debug)]
pub struct Bed {
    pub plane: Plane,
    pub v6: bool,
    pub udp: bool,
    /// Where frames to the backends leave.
    out: u32,
}

/// What the packets of a run must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of a pinned flow, to the backend.
    ToBackend,
    /// Of a pinned flow, from the backend.
    ToClient,
    /// A flow's first.
    Opens,
    NotOurs,
    /// Requests and responses with data in turns, of which these signals are
    /// read.
    Exchange(u16),
}

/// And who is counted at.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub kind: Kind,
    pub backend: u16,
    /// What the last packet is answered by.
    pub action: u32,
}

/// Counters, before and after.
#[derive(Clone, Debug)]
pub struct Counters {
    reasons: Vec<u64>,
    pub cell: Cell,
    /// First-byte times of the cell.
    times: u64,
}

impl Bed {
    /// With nothing but the program in it. `flows`: what the table has room for.
    ///
    /// # Errors
    /// Without root, or where the kernel refuses.
    pub fn bare(flows: u32, (v6, udp): (bool, bool), signals: u16, out: u32) -> Result<Self> {
        Ok(Self { plane: Plane::with_signals(flows, signals)?, v6, udp, out })
    }

    /// Has frames to the backend of the table's flows leave by another interface.
    ///
    /// # Errors
    /// The kernel's.
    pub fn leave_by(&mut self, ifindex: u32) -> Result<()> {
        let new = NewBackend {
            number: HOLDS,
            service: SERVICE,
            track: Track::Stable,
            vip: self.vip(SERVICE),
            address: self.backend(HOLDS),
            udp: self.udp,
            ifindex,
            resolved: true,
            shares_with: None,
        };
        Ok(self.plane.get().apply(&[
            Write::AllowInterface { ifindex },
            Write::Backend { number: HOLDS, record: new.record() },
        ])?)
    }

    /// With one service, all of whose flows are the first backend's.
    ///
    /// # Errors
    /// As [`Bed::bare`].
    pub fn new(flows: u32, v6: bool, udp: bool) -> Result<Self> {
        Self::with_signals(flows, (v6, udp), Signals::ALL)
    }

    /// # Errors
    /// As [`Bed::bare`].
    pub fn with_signals(flows: u32, kind: (bool, bool), signals: u16) -> Result<Self> {
        let mut bed = Self::bare(flows, kind, signals, INGRESS)?;
        bed.one_service()?;
        Ok(bed)
    }

    /// One service, see [`Bed::new`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn one_service(&mut self) -> Result<()> {
        self.service(SERVICE, 0, &[(HOLDS, Track::Stable), (OPENS, Track::Stable)])?;
        self.plane.weights(SERVICE, 0.0, &[HOLDS], &[])
    }

    /// One service, whose second backend is the canary's.
    ///
    /// # Errors
    /// As [`Bed::bare`].
    pub fn of_two_tracks(flows: u32) -> Result<Self> {
        let mut bed = Self::bare(flows, (false, false), Signals::ALL, INGRESS)?;
        bed.service(SERVICE, 0, &[(HOLDS, Track::Stable), (OPENS, Track::Canary)])?;
        Ok(bed)
    }

    /// Gives the canary so much of the new flows.
    ///
    /// # Errors
    /// The kernel's.
    pub fn split(&mut self, fraction: f64) -> Result<()> {
        self.plane.weights(SERVICE, fraction, &[HOLDS], &[OPENS])
    }

    /// And two more: one whose clients are steered, and one with a guard.
    ///
    /// # Errors
    /// The kernel's.
    pub fn steered_and_guarded(&mut self) -> Result<()> {
        let tracks = |stable| [(stable, Track::Stable), (stable + 1, Track::Canary)];
        self.service(STEERED_SERVICE, ServiceFlags::STEERED, &tracks(STEERED - 1))?;
        self.plane.weights(STEERED_SERVICE, 0.0, &[STEERED - 1], &[STEERED])?;
        let to = Steering { track: Track::Canary, always: false, expires_in: None };
        let clients = Cidr::new(self.clients(0).first.ip(), if self.v6 { 104 } else { 8 })
            .map_err(|error| anyhow::anyhow!("the clients' network: {error:?}"))?;
        self.plane.get().steer(STEERED_SERVICE, clients, &to)?;
        self.service(GUARDED_SERVICE, 0, &tracks(GUARDED - 1))?;
        self.plane.weights(GUARDED_SERVICE, 1.0, &[GUARDED - 1], &[GUARDED])?;
        let order = GuardOrder { budget: Some(1 << 40), dead_man: None, counts: Told::FAILURES };
        Ok(self.plane.get().arm_guard(GUARDED_SERVICE, &order)?)
    }

    fn service(&mut self, number: u16, flags: u16, backends: &[(u16, Track)]) -> Result<()> {
        let vip = self.vip(number);
        self.plane.service(number, vip, self.udp, flags)?;
        self.plane.change(number, |record| record.timeouts = LASTING)?;
        for &(backend, track) in backends {
            self.plane.backend(&NewBackend {
                number: backend,
                service: number,
                track,
                vip,
                address: self.backend(backend),
                udp: self.udp,
                ifindex: self.out,
                resolved: true,
                shares_with: None,
            })?;
        }
        Ok(())
    }

    /// A service's address and port.
    #[must_use]
    pub fn vip(&self, service: u16) -> SocketAddr {
        SocketAddr::new(address(self.v6, 0xcb00_7100 + u32::from(service)), 80)
    }

    /// A backend's.
    #[must_use]
    pub fn backend(&self, number: u16) -> SocketAddr {
        SocketAddr::new(address(self.v6, 0xac10_0000 + u32::from(number)), 8080)
    }

    /// The flows that the table holds: `1 << bits`.
    #[must_use]
    pub fn clients(&self, bits: u32) -> Clients {
        let first = SocketAddr::new(address(self.v6, 0x0a00_0000), FIRST_PORT);
        Clients { first, bits, shift: SHIFT.min(bits) }
    }

    /// Flows that it does not.
    fn newcomers(&self, bits: u32) -> Clients {
        let first = SocketAddr::new(address(self.v6, 0x0a40_0000), FIRST_PORT);
        Clients { first, ..self.clients(bits) }
    }

    fn frame(&self, clients: &Clients, kind: Kind, service: u16) -> Frame {
        let (client, vip, backend) = (clients.first, self.vip(service), self.backend(HOLDS));
        match (kind, self.udp) {
            (Kind::ToClient, false) => Frame::tcp(backend, client, ACK, SERVER_SEQ, CLIENT_SEQ),
            (Kind::Opens, false) => Frame::tcp(client, vip, SYN, CLIENT_SEQ - 1, 0),
            (_, false) => Frame::tcp(client, vip, ACK, CLIENT_SEQ, SERVER_SEQ),
            (Kind::ToClient, true) => Frame::udp(backend, client).payload(b"an answer"),
            (_, true) => Frame::udp(client, vip).payload(b"a question"),
        }
    }

    /// Packets of the flows that the table holds.
    ///
    /// # Errors
    /// Where the wrapper has no such frame.
    pub fn pinned(&self, kind: Kind, bits: u32) -> Result<Shot> {
        let clients = self.clients(bits);
        Shot::of(&self.frame(&clients, kind, SERVICE), &clients)
    }

    /// First packets of flows that never were before.
    ///
    /// # Errors
    /// Where the wrapper has no such frame.
    pub fn opening(&self, backend: u16, bits: u32) -> Result<Shot> {
        let service = match backend {
            STEERED => STEERED_SERVICE,
            GUARDED => GUARDED_SERVICE,
            _ => SERVICE,
        };
        let clients = self.newcomers(bits);
        Ok(Shot::of(&self.frame(&clients, Kind::Opens, service), &clients)?.afresh())
    }

    /// Packets to somewhere else.
    ///
    /// # Errors
    /// Where the wrapper has no such frame.
    pub fn elsewhere(&self, to: SocketAddr, bits: u32) -> Result<Shot> {
        let clients = self.clients(bits);
        Shot::of(&Frame { to, ..self.frame(&clients, Kind::ToBackend, SERVICE) }, &clients)
    }

    /// Opens all flows of these, from the first packet to where both sides
    /// have spoken. Those before are forgotten; new ones go elsewhere.
    ///
    /// # Errors
    /// Where one was not opened as it should.
    pub fn fill(&mut self, wrapper: &mut Wrapper, bits: u32) -> Result<()> {
        self.forget(&[HOLDS, OPENS]);
        self.plane.weights(SERVICE, 0.0, &[HOLDS], &[])?;
        let clients = self.clients(bits);
        let mut shot = Shot::in_turns(&self.handshake(&clients), &clients)?;
        let flows = u64::from(shot.flows());
        let before = self.counters(HOLDS)?;
        let packets = if self.udp { 2 } else { 3 };
        let packets = shot.flows() * packets;
        let ran = wrapper.run(self.plane.path()?, &mut shot, packets)?;
        ran.answered(TX).context("filling the table")?;
        let after = self.counters(HOLDS)?;
        let pinned = if self.udp { 0 } else { flows };
        let reasons = [(Reason::NewFlow, flows), (Reason::Reply, flows), (Reason::Pinned, pinned)];
        reasons_are(&before, &after, &reasons)?;
        let cell = after.cell.since(&before.cell);
        ensure!(cell.established == flows, "{} of {flows} handshakes", cell.established);
        self.plane.weights(SERVICE, 0.0, &[OPENS], &[])
    }

    /// A request and its response, each as long as the wrapper's frames.
    ///
    /// # Errors
    /// Where the wrapper has no such frames.
    pub fn exchange(&self) -> Result<Shot> {
        let clients = self.clients(0);
        let len = Exchange::data_len(self.v6);
        let frame = |kind, ack, words: &[u8]| {
            let mut data = words.to_vec();
            data.resize(len, b' ');
            let mut frame = self.frame(&clients, kind, SERVICE).payload(&data);
            if let Transport::Tcp { ack: number, .. } = &mut frame.transport {
                *number = ack;
            }
            frame
        };
        let frames = [
            frame(Kind::ToBackend, SERVER_SEQ, REQUEST),
            frame(Kind::ToClient, CLIENT_SEQ + len as u32, RESPONSE),
        ];
        Ok(Shot::in_turns(&frames, &clients)?.advancing())
    }

    /// What opens a flow and ends with both sides having spoken.
    #[must_use]
    pub fn handshake(&self, clients: &Clients) -> Vec<Frame> {
        let (client, vip, backend) = (clients.first, self.vip(SERVICE), self.backend(HOLDS));
        if self.udp {
            return vec![
                self.frame(clients, Kind::ToBackend, SERVICE),
                self.frame(clients, Kind::ToClient, SERVICE),
            ];
        }
        vec![
            Frame::tcp(client, vip, SYN, CLIENT_SEQ - 1, 0),
            Frame::tcp(backend, client, SYN | ACK, SERVER_SEQ - 1, CLIENT_SEQ),
            Frame::tcp(client, vip, ACK, CLIENT_SEQ, SERVER_SEQ),
        ]
    }

    /// Gives back the ways of all flows of these backends.
    pub fn forget(&mut self, backends: &[u16]) {
        self.plane.get().flow_table().forget(backends);
        self.plane.get().reset_overflow_mark();
    }

    /// # Errors
    /// The kernel's.
    pub fn counters(&mut self, backend: u16) -> Result<Counters> {
        let reasons = self.plane.get().verdicts()?;
        let (cell, _) = self.plane.counters(backend)?;
        let times = self.plane.get().latencies(2 * backend).first_byte.count();
        Ok(Counters { reasons, cell, times })
    }

    /// Nanoseconds a packet; an error where one of them was anything else than
    /// what is expected.
    ///
    /// # Errors
    /// See above, and the kernel's.
    pub fn run(
        &mut self,
        wrapper: &mut Wrapper,
        shot: &mut Shot,
        runs: u32,
        expected: &Expected,
    ) -> Result<f64> {
        let before = self.counters(expected.backend)?;
        let ran = wrapper.run(self.plane.path()?, shot, runs)?;
        ran.answered(expected.action)?;
        self.counted(&before, u64::from(runs), shot.ip_bytes(0), expected)?;
        Ok(ran.nanoseconds)
    }

    /// That so many packets since `before` were what is expected.
    ///
    /// # Errors
    /// Where they were not.
    pub fn counted(
        &mut self,
        before: &Counters,
        runs: u64,
        ip_bytes: u64,
        expected: &Expected,
    ) -> Result<()> {
        let after = self.counters(expected.backend)?;
        let (reasons, cell, times) = expected.kind.counts(runs, ip_bytes);
        reasons_are(before, &after, &reasons)?;
        let counted = after.cell.since(&before.cell);
        ensure!(counted == cell, "counted {counted:?}\ninstead of {cell:?}");
        let timed = after.times - before.times;
        ensure!(timed == times, "{timed} of {times} times");
        Ok(())
    }
}

impl Kind {
    /// What so many packets come to: reasons, counters, and times.
    fn counts(self, runs: u64, ip_bytes: u64) -> (Vec<(Reason, u64)>, Cell, u64) {
        let towards =
            |packets| Cell { packets_in: packets, bytes_in: packets * ip_bytes, ..Cell::default() };
        let back = |packets| Cell {
            packets_out: packets,
            bytes_out: packets * ip_bytes,
            ..Cell::default()
        };
        match self {
            Self::ToBackend => (vec![(Reason::Pinned, runs)], towards(runs), 0),
            Self::ToClient => (vec![(Reason::Reply, runs)], back(runs), 0),
            Self::Opens => {
                let cell = Cell { connections: runs, ..towards(runs) };
                (vec![(Reason::NewFlow, runs)], cell, 0)
            }
            Self::NotOurs => (vec![(Reason::NotOurs, runs)], Cell::default(), 0),
            Self::Exchange(signals) => {
                let each = runs / 2;
                let read = |signal| if signals & signal != 0 { each } else { 0 };
                let mut cell = Cell { http_2xx: read(Signals::HTTP), ..towards(each) };
                cell.add(&back(each));
                let reasons = vec![(Reason::Pinned, each), (Reason::Reply, each)];
                (reasons, cell, read(Signals::LATENCY))
            }
        }
    }
}

impl Expected {
    #[must_use]
    pub const fn new(kind: Kind, backend: u16) -> Self {
        let action = if matches!(kind, Kind::NotOurs) { PASS } else { TX };
        Self { kind, backend, action }
    }
}

const LASTING: Timeouts = Timeouts {
    half_open: LONG,
    established: LONG,
    closing: LONG,
    unanswered: LONG,
    answered: LONG,
};

/// That these, and no others, were counted between.
///
/// # Errors
/// Where not.
pub fn reasons_are(before: &Counters, after: &Counters, reasons: &[(Reason, u64)]) -> Result<()> {
    for &reason in Reason::ALL {
        let number = reason as usize;
        let counted = after.reasons[number] - before.reasons[number];
        let wanted: u64 =
            reasons.iter().filter(|(which, _)| *which == reason).map(|(_, runs)| runs).sum();
        ensure!(counted == wanted, "{counted} packets of {}, not {wanted}", reason.name());
    }
    Ok(())
}

/// An address by its last 32 bits, one way in each family.
fn address(v6: bool, word: u32) -> IpAddr {
    const PREFIX: u128 = 0x2001_0db8 << 96;
    if v6 { IpAddr::V6((PREFIX | u128::from(word)).into()) } else { IpAddr::V4(word.into()) }
}
