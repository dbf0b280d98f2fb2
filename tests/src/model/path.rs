//! What the model says becomes of a frame.

use std::net::SocketAddr;

use canary_common::{FlowFlags, FlowKey, FlowState, HashKeys, Signals, Split, Track, pick_hash};

use super::{
    FIRST_BYTE, Flow, FragmentWay, Model, Outcome, Passed, Weights, key, mac,
    orders::Ordered,
    packet::{self, Becomes, Content, Expected, IcmpError, Later, Packet},
    reply_macs, service_at,
    tcp::{Client, Connection},
    timeout,
    world::{self, SERVICES, TIMEOUTS},
};
use crate::{
    frame::RST,
    plane::{BACKEND_MAC, OWN_MAC, PASS, REDIRECT, TABLE_SIZE, TX},
};

impl Model {
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
        self.renew(&mut flow, false);
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
        self.renew(&mut flow, true);
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
}
