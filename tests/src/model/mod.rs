//! A model of the data plane in plain Rust, written from the design and not
//! from the program. It shares with the program the types of the kernel's
//! border, the pick's hash, and Maglev's tables.
//!
//! Rules that the docs leave open, as the conformance table has them:
//! * A packet that goes to the host, whatever for, leaves no trace but its
//!   reason: no state, no time, no counter.
//! * To a service, the hop limit is looked at before the pin; from a backend
//!   after it, because a packet of no flow is not ours to judge.
//! * A half-open flow's port used again begins anew on the same backend, in
//!   the cell of now; a closed one's is picked again, as is one whose backend
//!   is not configured any more.
//! * A new flow looks at four slots of its table from its hash on, and takes
//!   the first whose backend does not serve this client's address and port for
//!   another service.
//! * The way back is the one of a flow's first packet.

pub mod driver;
pub mod generate;
mod ordering;
pub mod orders;
pub mod packet;
pub mod real;
pub mod shrink;
pub mod step;
pub mod tcp;
pub mod tiny;
pub mod world;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use canary_common::{
    Address, Cell, FlowFlags, FlowKey, FlowState, HashKeys, Signals, Split, Timeouts, Track,
    pick_hash,
};

use crate::{
    frame::RST,
    plane::{BACKEND_MAC, OWN_MAC, PASS, REDIRECT, TABLE_SIZE, TX},
};
use orders::{Ordered, Orders};
use packet::{Becomes, Content, Expected, FragmentOf, IcmpError, Later, Packet, TCP};
use tcp::{Client, Connection};
use world::{BACKENDS, QUANTUM, SERVICES, TIMEOUTS};

/// A counter of [`Cell`], by its name, or one of the two times.
pub type Counter = &'static str;
pub const HANDSHAKE: Counter = "handshake times";
pub const FIRST_BYTE: Counter = "first-byte times";

/// What is booked in a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Booked {
    pub cell: Cell,
    /// How many handshakes and first bytes were timed.
    pub times: [u64; 2],
}

impl Booked {
    /// What came on top of `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let times = [0, 1].map(|i| self.times[i] - before.times[i]);
        Self { cell: self.cell.since(&before.cell), times }
    }
}

/// What is booked when the time of a flow is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    pub handshake_timeouts: u64,
    pub idle_cuts: u64,
}

/// Over all backends' cells, by the cell's number; 0 and 1 are unused.
pub const CELLS: usize = 3 * BACKENDS.len() + 2;

/// A pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub backend: u16,
    pub cell: u16,
    pub connection: Connection,
    /// In the model's jiffies.
    pub deadline: i64,
    /// How a reply's frame begins.
    pub reply_macs: [[u8; 6]; 2],
}

#[derive(Clone, Copy, Debug)]
struct Weights {
    split: Split,
    /// By track, as bits of [`world::chosen`].
    masks: [u8; 2],
    parity: u8,
}

/// What must come of a packet.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub action: u32,
    pub reason: &'static str,
    /// `None`: as it came.
    pub bytes: Option<Expected>,
    /// The flow it spoke of.
    pub key: Option<FlowKey>,
}

#[derive(Debug)]
pub struct Model {
    pub now: i64,
    pub flows: HashMap<FlowKey, Flow>,
    pub booked: [Booked; CELLS],
    /// Found so far by a sweep, and those that whoever takes the way will find.
    pub found: [Ends; CELLS],
    pub unfound: [Ends; CELLS],
    /// Flows that are no more: their time was over, they were forgotten, or
    /// another took their place.
    pub ended: u64,
    weights: [Weights; SERVICES.len()],
    configured: [bool; BACKENDS.len()],
    resolved: [bool; BACKENDS.len()],
    tables: HashMap<u16, Vec<u16>>,
    /// Where first fragments went.
    fragments: HashMap<(IpAddr, IpAddr, FragmentOf), FragmentWay>,
    pub orders: [Orders; SERVICES.len()],
}

#[derive(Clone, Copy, Debug)]
struct FragmentWay {
    key: FlowKey,
    backend: u16,
    cell: u16,
    to_client: bool,
}

type Passed = &'static str;

impl Model {
    #[must_use]
    pub fn new(tables: HashMap<u16, Vec<u16>>) -> Self {
        Self {
            now: 0,
            flows: HashMap::new(),
            booked: [Booked::default(); CELLS],
            found: [Ends::default(); CELLS],
            unfound: [Ends::default(); CELLS],
            ended: 0,
            weights: [Weights { split: Split::NONE, masks: [3, 1], parity: 0 }; SERVICES.len()],
            configured: [true; BACKENDS.len()],
            resolved: [true; BACKENDS.len()],
            tables,
            fragments: HashMap::new(),
            orders: Default::default(),
        }
    }

    #[must_use]
    pub fn live(&self, key: &FlowKey) -> Option<&Flow> {
        self.flows.get(key).filter(|flow| flow.deadline >= self.now)
    }

    pub fn split(&mut self, service: u16, permille: u16) -> canary_common::WeightTable {
        let split = Split::from_fraction(f64::from(permille) / 1000.0).unwrap_or(Split::ALL);
        self.weights[usize::from(service)].split = split;
        self.word(service)
    }

    /// New tables; an epoch begins. What is not configured gets no slot.
    pub fn switch(&mut self, service: u16, masks: [u8; 2]) -> canary_common::WeightTable {
        let usable = Track::ALL.map(|track| {
            let all = world::track(service, track).into_iter().enumerate();
            let configured = all.filter(|(_, n)| self.configured[usize::from(*n) - 1]);
            configured.fold(0, |mask, (i, _)| mask | 1_u8 << i) & masks[track as usize]
        });
        let weights = &mut self.weights[usize::from(service)];
        weights.masks = usable;
        weights.parity ^= 1;
        self.word(service)
    }

    #[must_use]
    pub fn word(&self, service: u16) -> canary_common::WeightTable {
        let Weights { split, masks, parity } = self.weights[usize::from(service)];
        let tables =
            Track::ALL.map(|track| world::table_number(service, track, masks[track as usize]));
        canary_common::WeightTable { split, tables, parity }
    }

    #[must_use]
    pub fn masks(&self, service: u16) -> [u8; 2] {
        self.weights[usize::from(service)].masks
    }

    pub fn configure(&mut self, backend: u16, configured: bool) {
        self.configured[usize::from(backend) - 1] = configured;
    }

    #[must_use]
    pub fn is_configured(&self, backend: u16) -> bool {
        self.configured[usize::from(backend) - 1]
    }

    pub fn resolve(&mut self, backend: u16, resolved: bool) {
        self.resolved[usize::from(backend) - 1] = resolved;
    }

    #[must_use]
    pub fn is_resolved(&self, backend: u16) -> bool {
        self.resolved[usize::from(backend) - 1]
    }

    /// A removed backend's pins are given back.
    pub fn forget(&mut self, backend: u16) {
        let before = self.flows.len();
        self.flows.retain(|_, flow| flow.backend != backend);
        self.ended += (before - self.flows.len()) as u64;
    }

    pub fn pass_time(&mut self, quanta: u8) {
        self.now += i64::from(quanta) * i64::from(QUANTUM);
        let (now, unfound, ended) = (self.now, &mut self.unfound, &mut self.ended);
        self.flows.retain(|_, flow| {
            let over = flow.deadline < now;
            if over {
                unfound[usize::from(flow.cell)].book(&flow.connection);
                *ended += 1;
            }
            !over
        });
    }

    /// All that is over is found, and booked once.
    pub fn sweep(&mut self) {
        for (found, unfound) in self.found.iter_mut().zip(&mut self.unfound) {
            found.handshake_timeouts += unfound.handshake_timeouts;
            found.idle_cuts += unfound.idle_cuts;
            *unfound = Ends::default();
        }
    }

    /// What must come of a frame.
    pub fn frame(&mut self, bytes: &[u8]) -> Outcome {
        let passed = |reason| Outcome { action: PASS, reason, bytes: None, key: None };
        match packet::parse(bytes) {
            Ok(Content::Packet(packet)) => self.packet(bytes, &packet),
            Ok(Content::Later(later)) => self.later(bytes, &later).unwrap_or_else(passed),
            Ok(Content::Error(error)) => self.error(bytes, &error).unwrap_or_else(passed),
            Err(reason) => passed(reason),
        }
    }

    fn packet(&mut self, bytes: &[u8], packet: &Packet) -> Outcome {
        let passed = |reason, key| Outcome { action: PASS, reason, bytes: None, key };
        if let Some(service) = service_at(packet.to, packet.protocol) {
            let key = key(packet.from, service);
            return match self.asked(bytes, packet, &key) {
                Ok((action, reason, expected)) => {
                    Outcome { action, reason, bytes: Some(expected), key: Some(key) }
                }
                Err(reason) => passed(reason, Some(key)),
            };
        }
        let candidates = self.backends_at(packet.from, packet.protocol);
        if candidates.is_empty() {
            return passed("not_ours", None);
        }
        let pinned = candidates.into_iter().find_map(|number| {
            let key = key(packet.to, world::backend_of(number).service);
            self.live(&key).is_some_and(|flow| flow.backend == number).then_some(key)
        });
        let Some(key) = pinned else { return passed("no_pin", None) };
        if packet.ip.ttl <= 1 {
            return passed("ttl_expired", Some(key));
        }
        let expected = self.reply(bytes, packet, &key);
        Outcome { action: TX, reason: "reply", bytes: Some(expected), key: Some(key) }
    }

    fn backends_at(&self, at: SocketAddr, protocol: u8) -> Vec<u16> {
        let there = |number: &u16| {
            let backend = world::backend_of(*number);
            self.is_configured(*number)
                && world::address(backend.address) == at
                && SERVICES[usize::from(backend.service)].protocol == protocol
        };
        world::numbers().filter(there).collect()
    }

    /// A later fragment goes where its first went, if that is still there.
    fn later(&mut self, bytes: &[u8], later: &Later) -> Result<Outcome, Passed> {
        let ip = &later.ip;
        let way = self.fragments.get(&(ip.from, ip.to, later.of));
        let way = *way.ok_or("fragment_unknown")?;
        if ip.ttl <= 1 {
            return Err("ttl_expired");
        }
        if !self.is_configured(way.backend) {
            return Err("fragment_unknown");
        }
        let at = |ip| SocketAddr::new(ip, 0);
        let (action, becomes, counted) = if way.to_client {
            let flow = self.live(&way.key).filter(|flow| flow.backend == way.backend);
            let [to_mac, from_mac] = flow.ok_or("fragment_unknown")?.reply_macs;
            let from = world::address(SERVICES[usize::from(way.key.service)].vip);
            let becomes = Becomes { from, to: at(ip.to), to_mac, from_mac };
            (TX, becomes, ["packets_out", "bytes_out"])
        } else {
            let (action, becomes) = self.towards(way.backend, at(ip.from))?;
            (action, becomes, ["packets_in", "bytes_in"])
        };
        self.add(way.cell, counted[0], 1);
        self.add(way.cell, counted[1], ip.bytes);
        let expected = packet::fragment(bytes, later, &becomes);
        Ok(Outcome { action, reason: "fragment", bytes: Some(expected), key: None })
    }

    /// An error goes to who sent what it is about, as that was sent.
    fn error(&self, bytes: &[u8], error: &IcmpError) -> Result<Outcome, Passed> {
        let (sender, receiver) = (error.from, error.to);
        if error.ip.to != sender.ip() {
            return Err("not_ours");
        }
        let outcome = |action, expected| Outcome {
            action,
            reason: "icmp_error",
            bytes: Some(expected),
            key: None,
        };
        if let Some(service) = service_at(sender, error.protocol) {
            let flow = self.live(&key(receiver, service));
            let flow = flow.filter(|flow| self.is_configured(flow.backend)).ok_or("no_pin")?;
            if error.ip.ttl <= 1 {
                return Err("ttl_expired");
            }
            let (action, becomes) =
                self.towards(flow.backend, SocketAddr::new(error.ip.from, 0))?;
            let about = (becomes.to, receiver);
            return Ok(outcome(action, packet::error_about(bytes, error, about, &becomes)));
        }
        let candidates = self.backends_at(receiver, error.protocol);
        if candidates.is_empty() {
            return Err("not_ours");
        }
        let pinned = candidates.into_iter().find_map(|number| {
            let key = key(sender, world::backend_of(number).service);
            self.live(&key).filter(|flow| flow.backend == number).map(|flow| (key, *flow))
        });
        let (key, flow) = pinned.ok_or("no_pin")?;
        if error.ip.ttl <= 1 {
            return Err("ttl_expired");
        }
        let vip = world::address(SERVICES[usize::from(key.service)].vip);
        // A router's address stays.
        let from = match error.ip.from == receiver.ip() {
            true => vip,
            false => SocketAddr::new(error.ip.from, 0),
        };
        let [to_mac, from_mac] = flow.reply_macs;
        let becomes = Becomes { from, to: sender, to_mac, from_mac };
        let expected = packet::error_about(bytes, error, (sender, vip), &becomes);
        Ok(outcome(TX, expected))
    }

    /// What a packet to a backend becomes, and how it leaves.
    fn towards(&self, backend: u16, from: SocketAddr) -> Result<(u32, Becomes), Passed> {
        if !self.is_resolved(backend) {
            return Err("unresolved");
        }
        let record = world::backend_of(backend);
        let to = world::address(record.address);
        let becomes = Becomes { from, to, to_mac: BACKEND_MAC, from_mac: OWN_MAC };
        Ok((if record.elsewhere { REDIRECT } else { TX }, becomes))
    }

    /// Leaves word for later fragments.
    fn note(&mut self, packet: &Packet, way: FragmentWay) {
        if let Some(of) = packet.first {
            self.fragments.insert((packet.ip.from, packet.ip.to, of), way);
        }
    }

    fn asked(
        &mut self,
        bytes: &[u8],
        packet: &Packet,
        key: &FlowKey,
    ) -> Result<(u32, &'static str, Expected), Passed> {
        if packet.ip.ttl <= 1 {
            return Err("ttl_expired");
        }
        let pin = self.live(key).copied().filter(|flow| self.is_configured(flow.backend));
        let Some(mut flow) = pin else { return self.open(bytes, packet, key, None) };
        match self.ordered(bytes, packet, key, flow, false) {
            Ordered::Done(outcome) => return Ok(outcome),
            Ordered::Opens => return self.open(bytes, packet, key, pin),
            Ordered::GoesOn => {}
        }
        let counted = match &packet.tcp {
            None => {
                flow.connection.waits |= flow.connection.signals & Signals::LATENCY != 0;
                Vec::new()
            }
            Some(segment) => match flow.connection.client(segment) {
                Client::Follows(counted) => counted,
                Client::Anew => return self.open(bytes, packet, key, pin),
            },
        };
        let (action, expected) = self.forward(bytes, packet, key, (flow.backend, flow.cell))?;
        self.renew(&mut flow);
        // Others may have made room for another by the time it is written.
        let lasts = matches!(flow.connection.state, FlowState::Established | FlowState::Answered);
        if lasts && flow.reply_macs[0] != mac(bytes, 6) {
            flow.reply_macs = reply_macs(bytes);
        }
        self.flows.insert(*key, flow);
        self.count(flow.cell, &counted);
        Ok((action, "pinned", expected))
    }

    /// A packet that no live pin speaks for; `old` is the one it ends.
    fn open(
        &mut self,
        bytes: &[u8],
        packet: &Packet,
        key: &FlowKey,
        old: Option<Flow>,
    ) -> Result<(u32, &'static str, Expected), Passed> {
        let parity = usize::from(self.weights[usize::from(key.service)].parity);
        let stays = old.filter(|flow| self.stays(key, flow));
        let (backend, steered, diverted) = match stays {
            Some(flow) => (flow.backend, world::drawn_to(flow.cell).is_none(), false),
            None => self.pick(key)?,
        };
        let cell = match steered {
            true => world::steered_cell(backend),
            false => world::cells(backend)[parity],
        };
        let fails = self.draws(bytes, packet, key, backend);
        let fails_now = fails && self.fails_by_its_syn(key);
        let (action, expected) = match fails_now {
            false => self.forward(bytes, packet, key, (backend, cell))?,
            true => (self.towards(backend, packet.from)?.0, packet::answer(bytes, packet)),
        };
        let signals = SERVICES[usize::from(key.service)].signals;
        let mut connection = Connection {
            state: FlowState::Unanswered,
            flags: 0,
            client_seq: 0,
            backend_seq: 0,
            waits: signals & Signals::LATENCY != 0,
            timed: true,
            signals,
        };
        let mut reason = "new_flow";
        if let Some(segment) = &packet.tcp {
            if segment.has(RST) {
                return Ok((action, "unpinned", expected));
            }
            connection.state = FlowState::HalfOpen;
            connection.client_seq = segment.seq;
            if !segment.opens() {
                connection.flags = FlowFlags::MIDSTREAM;
                connection.waits = false;
                reason = "midstream";
            }
        }
        if world::backend_of(backend).track == Track::Canary {
            let generation = self.orders[usize::from(key.service)].generation;
            connection.flags |= FlowFlags::of_generation(generation);
            connection.flags |= if fails { FlowFlags::FAULTED } else { 0 };
        }
        self.orders[usize::from(key.service)].guard.diverted += u64::from(diverted);
        let born = if reason == "midstream" { "midstream" } else { "connections" };
        self.count(cell, &[born]);
        let deadline = self.now + i64::from(timeout(connection.state, &TIMEOUTS));
        let reply_macs = reply_macs(bytes);
        let new = Flow { backend, cell, connection, deadline, reply_macs };
        self.ended += u64::from(self.flows.insert(*key, new).is_some());
        if fails_now && let Ordered::Done(outcome) = self.ordered(bytes, packet, key, new, true) {
            return Ok(outcome);
        }
        Ok((action, reason, expected))
    }

    /// Steer, guard, split, then Maglev: the backend, whether the client was
    /// steered, and whether the guard kept it from the canary.
    fn pick(&self, key: &FlowKey) -> Result<(u16, bool, bool), Passed> {
        let Weights { split, masks, .. } = self.weights[usize::from(key.service)];
        let alone = SERVICES[usize::from(key.service)].by_client_alone;
        let port_be = if alone { 0 } else { key.client_port_be };
        let keys = HashKeys::from_seed(u64::from(key.service));
        let hash = pick_hash(&keys, &key.client, port_be);
        let [stable, canary] = masks.map(|mask| mask != 0);
        // A track without backends gets nothing; a split of nothing gives the
        // canary nothing, even where stable has none.
        let orders = &self.orders[usize::from(key.service)];
        let steered = orders.steered(key);
        let drawn = match u64::from(hash.for_split(SERVICES[usize::from(key.service)].salt))
            < split.parts()
        {
            true if canary => Some(Track::Canary),
            false if !stable && canary && split != Split::NONE => Some(Track::Canary),
            _ if stable => Some(Track::Stable),
            _ => None,
        };
        let named = |to: Track| match to {
            Track::Canary if canary => Some(Track::Canary),
            _ if stable => Some(Track::Stable),
            _ => canary.then_some(Track::Canary),
        };
        let wish = steered.map_or(drawn, |steered| named(steered.to)).ok_or("no_backend")?;
        let always = steered.is_some_and(|steered| steered.always);
        let diverted = wish == Track::Canary && stable && !always && orders.guard.stops();
        let track = if diverted { Track::Stable } else { wish };
        let number = world::table_number(key.service, track, masks[track as usize]);
        let slots = &self.tables[&number];
        let first = hash.slot(TABLE_SIZE) as usize;
        (first..first + 4)
            .map(|slot| slots[slot % slots.len()])
            .find(|&backend| !self.collides(key, backend))
            .map(|backend| (backend, steered.is_some(), diverted))
            .ok_or("collision")
    }

    /// Replies of two services' flows could not be told apart.
    fn collides(&self, key: &FlowKey, backend: u16) -> bool {
        let address = world::backend_of(backend).address;
        world::numbers().any(|other| {
            let record = world::backend_of(other);
            let theirs = FlowKey { service: record.service, ..*key };
            record.service != key.service
                && record.address == address
                && SERVICES[usize::from(record.service)].protocol
                    == SERVICES[usize::from(key.service)].protocol
                && self.live(&theirs).is_some_and(|flow| flow.backend == other)
        })
    }

    /// To a backend, counted in a cell.
    fn forward(
        &mut self,
        bytes: &[u8],
        packet: &Packet,
        key: &FlowKey,
        (backend, cell): (u16, u16),
    ) -> Result<(u32, Expected), Passed> {
        let (action, becomes) = self.towards(backend, packet.from)?;
        self.note(packet, FragmentWay { key: *key, backend, cell, to_client: false });
        self.add(cell, "packets_in", 1);
        self.add(cell, "bytes_in", packet.ip.bytes);
        Ok((action, packet::translated(bytes, packet, &becomes)))
    }

    fn reply(&mut self, bytes: &[u8], packet: &Packet, key: &FlowKey) -> Expected {
        let failing = self.failing(bytes, packet, key);
        let (bytes, packet) = failing.as_ref().map_or((bytes, packet), |(b, p)| (b, p));
        let mut flow = self.flows[key];
        let counted = match &packet.tcp {
            Some(segment) => flow.connection.backend(segment),
            None => {
                let waited = std::mem::take(&mut flow.connection.waits).then_some(FIRST_BYTE);
                let first = flow.connection.state == FlowState::Unanswered;
                flow.connection.state = FlowState::Answered;
                first.then_some("established").into_iter().chain(waited).collect()
            }
        };
        self.renew(&mut flow);
        self.flows.insert(*key, flow);
        self.count(flow.cell, &counted);
        self.add(flow.cell, "packets_out", 1);
        self.add(flow.cell, "bytes_out", packet.ip.bytes);
        let way =
            FragmentWay { key: *key, backend: flow.backend, cell: flow.cell, to_client: true };
        self.note(packet, way);
        let [to_mac, from_mac] = flow.reply_macs;
        let from = world::address(SERVICES[usize::from(key.service)].vip);
        packet::translated(bytes, packet, &Becomes { from, to: packet.to, to_mac, from_mac })
    }

    /// Each packet gives a flow its state's time again; a half-open one's runs
    /// from its first packet.
    fn renew(&self, flow: &mut Flow) {
        if flow.connection.state != FlowState::HalfOpen {
            flow.deadline = self.now + i64::from(timeout(flow.connection.state, &TIMEOUTS));
        }
    }

    fn count(&mut self, cell: u16, counted: &[Counter]) {
        for counter in counted {
            self.add(cell, counter, 1);
        }
        // Of the canary's, but of those that the split gave it.
        if let Some(backend) = world::drawn_to(cell).map(world::backend_of)
            && backend.track == Track::Canary
        {
            self.orders[usize::from(backend.service)].guard.hears(counted);
        }
    }

    fn add(&mut self, cell: u16, counter: Counter, by: u64) {
        let booked = &mut self.booked[usize::from(cell)];
        let place = match counter {
            HANDSHAKE => &mut booked.times[0],
            FIRST_BYTE => &mut booked.times[1],
            name => booked.cell.field_mut(name).expect("a counter's name"),
        };
        *place += by;
    }
}

impl Ends {
    /// A flow whose time is over.
    fn book(&mut self, connection: &Connection) {
        let begun = connection.flags & FlowFlags::MIDSTREAM == 0;
        let answered = connection.flags & FlowFlags::ANSWERED != 0;
        match connection.state {
            FlowState::HalfOpen if begun && !answered => self.handshake_timeouts += 1,
            FlowState::Established if begun && connection.waits => self.idle_cuts += 1,
            _ => {}
        }
    }
}

const fn timeout(state: FlowState, timeouts: &Timeouts) -> u32 {
    match state {
        FlowState::Established => timeouts.established,
        FlowState::Closing => timeouts.closing,
        FlowState::Unanswered => timeouts.unanswered,
        FlowState::Answered => timeouts.answered,
        FlowState::HalfOpen | FlowState::Free | FlowState::Claimed => timeouts.half_open,
    }
}

fn service_at(at: SocketAddr, protocol: u8) -> Option<u16> {
    let found = SERVICES
        .iter()
        .position(|service| service.protocol == protocol && world::address(service.vip) == at);
    found.map(|number| number as u16)
}

/// A flow as its client names it.
#[must_use]
pub fn key(client: SocketAddr, service: u16) -> FlowKey {
    FlowKey { client: Address::from(client.ip()), client_port_be: client.port().to_be(), service }
}

/// Of what goes back where this came from: to, and from.
fn reply_macs(bytes: &[u8]) -> [[u8; 6]; 2] {
    [mac(bytes, 6), mac(bytes, 0)]
}

fn mac(bytes: &[u8], at: usize) -> [u8; 6] {
    let mut mac = [0; 6];
    mac.copy_from_slice(&bytes[at..at + 6]);
    mac
}

/// Whether it is a protocol with a state machine.
#[must_use]
pub fn is_tcp(service: u16) -> bool {
    SERVICES[usize::from(service)].protocol == TCP
}
