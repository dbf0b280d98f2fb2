//! Orders, in the model: who goes first, who is kept from the canary, whose
//! flows are cut, and whose are made to fail.
//!
//! Rules that the docs leave open, as the tests of guard and orders have them:
//! * Of the networks that name a client, the smallest counts.
//! * A cut flow's SYN, and every datagram of one, opens a flow; its RST goes on;
//!   so does all of one that ended by itself. Anything else is answered, as
//!   often as it comes, if it can be.
//! * A drill's failures are booked as the backend's, and again: what comes after
//!   a RST that it had sent is answered, and not booked.

use std::net::IpAddr;

use canary_common::{Cidr, FaultKind, FlowFlags, FlowKey, FlowState, Track};

use super::{
    Counter, Flow, Model,
    packet::{self, Content, Expected, Packet},
    tcp::{Client, Segment},
    world,
};
use crate::{
    frame::RST,
    plane::{DROP, TX},
};

/// Clients whose numbers are alike but for their last bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clients {
    pub client: u8,
    /// How many bits.
    pub wider: u8,
}

impl Clients {
    /// As a network of a service's clients.
    ///
    /// # Panics
    /// Never: what is behind the prefix is cleared.
    #[must_use]
    pub fn network(self, service: u16) -> Cidr {
        let first = (u32::from(self.client) >> self.wider << self.wider) as u8;
        let address = world::client(service, first, 0).ip();
        let bits = if address.is_ipv4() { 32 } else { 128 };
        Cidr::new(address, bits - self.wider).expect("no bits behind the prefix")
    }
}

/// To this track; past the guard, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steered {
    pub to: Track,
    pub always: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardOrder {
    /// `failures`: what the controller counts; else some of the others.
    Arm {
        budget: Option<u8>,
        failures: bool,
    },
    Budget(u8),
    Hold,
    Disarm,
}

/// What a guard counts, by [`GuardOrder::Arm`].
pub const COUNTS: [&[Counter]; 2] = [
    &["resets_client", "http_5xx", "tls_alerts_backend"],
    &["refused", "resets_backend", "connections_5xx"],
];

#[derive(Clone, Copy, Debug, Default)]
pub struct Guard {
    armed: bool,
    held: bool,
    limit: Option<u64>,
    counts: &'static [Counter],
    pub bad: u64,
    pub diverted: u64,
}

impl Guard {
    #[must_use]
    pub fn stops(&self) -> bool {
        self.armed && (self.held || self.limit.is_some_and(|limit| self.bad >= limit))
    }

    /// A packet is one event at most.
    pub fn hears(&mut self, counted: &[Counter]) {
        let bad = self.armed && counted.iter().any(|counter| self.counts.contains(counter));
        self.bad += u64::from(bad);
    }

    pub fn takes(&mut self, order: GuardOrder) {
        match order {
            GuardOrder::Arm { budget, failures } => {
                self.limit = budget.map(|budget| self.bad + u64::from(budget));
                self.counts = COUNTS[usize::from(failures)];
                (self.armed, self.held) = (true, false);
            }
            GuardOrder::Budget(more) => self.limit = Some(self.bad + u64::from(more)),
            GuardOrder::Hold => {
                if !self.armed {
                    (self.limit, self.counts) = (None, &[]);
                }
                (self.armed, self.held) = (true, true);
            }
            GuardOrder::Disarm => self.armed = false,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Drill {
    kind: FaultKind,
    clients: Clients,
    pub faulted: u64,
    over: bool,
}

/// Those of one service.
#[derive(Clone, Debug)]
pub struct Orders {
    pub guard: Guard,
    steering: Vec<(Clients, Steered)>,
    pub generation: u8,
    pub drill: Option<Drill>,
}

impl Default for Orders {
    fn default() -> Self {
        Self { guard: Guard::default(), steering: Vec::new(), generation: 1, drill: None }
    }
}

impl Orders {
    pub fn steer(&mut self, clients: Clients, to: Option<Steered>) {
        // The service's family plays no part in which networks are the same.
        let network = |clients: &Clients| clients.network(0);
        self.steering.retain(|(other, _)| network(other) != network(&clients));
        self.steering.extend(to.map(|to| (clients, to)));
    }

    /// Where a client goes whatever the split.
    #[must_use]
    pub fn steered(&self, key: &FlowKey) -> Option<Steered> {
        if !world::SERVICES[usize::from(key.service)].steered {
            return None;
        }
        let client = IpAddr::from(key.client);
        let named = self
            .steering
            .iter()
            .filter(|(clients, _)| clients.network(key.service).contains(client));
        named.min_by_key(|(clients, _)| clients.wider).map(|(_, steered)| *steered)
    }

    pub const fn next_generation(&mut self) -> u8 {
        self.generation = self.generation % 15 + 1;
        self.generation
    }

    pub fn drill(&mut self, kind: Option<FaultKind>, clients: Clients) {
        match (kind, &mut self.drill) {
            (Some(kind), drill) => *drill = Some(Drill { kind, clients, faulted: 0, over: false }),
            (None, Some(drill)) => drill.over = true,
            (None, None) => {}
        }
    }

    /// What the guard has heard, and whom it has kept from the canary.
    #[must_use]
    pub const fn counted(&self) -> [u64; 2] {
        [self.guard.bad, self.guard.diverted]
    }

    fn fails_by(&self) -> Option<FaultKind> {
        self.drill.filter(|drill| !drill.over).map(|drill| drill.kind)
    }
}

/// What comes of a client's packet by order.
pub(super) enum Ordered {
    Done((u32, &'static str, Expected)),
    GoesOn,
    Opens,
}

impl Model {
    fn orders_of(&mut self, key: &FlowKey) -> &mut Orders {
        &mut self.orders[usize::from(key.service)]
    }

    fn is_outdated(&self, key: &FlowKey, flow: &Flow) -> bool {
        let born = flow.connection.flags & FlowFlags::GENERATION;
        let now = self.orders[usize::from(key.service)].generation;
        born != 0
            && born != FlowFlags::of_generation(now)
            && world::backend_of(flow.backend).track == Track::Canary
    }

    /// A half-open flow's port used again: whether it stays where it was.
    pub(super) fn stays(&self, key: &FlowKey, flow: &Flow) -> bool {
        let canary = world::backend_of(flow.backend).track == Track::Canary;
        let stopped = canary && self.orders[usize::from(key.service)].guard.stops();
        flow.connection.state == FlowState::HalfOpen && !stopped && !self.is_outdated(key, flow)
    }

    /// Whether a new flow is to fail: of connections from those clients, to the
    /// canary, all.
    pub(super) fn draws(&self, bytes: &[u8], packet: &Packet, key: &FlowKey, to: u16) -> bool {
        let opens = packet.tcp.as_ref().is_some_and(Segment::opens);
        let orders = &self.orders[usize::from(key.service)];
        let drill = orders.drill.filter(|drill| !drill.over);
        let client = IpAddr::from(key.client);
        opens
            && world::backend_of(to).track == Track::Canary
            && packet::can_be_answered(bytes, packet)
            && drill.is_some_and(|drill| drill.clients.network(key.service).contains(client))
    }

    pub(super) fn fails_by_its_syn(&self, key: &FlowKey) -> bool {
        let kind = self.orders[usize::from(key.service)].fails_by();
        matches!(kind, Some(FaultKind::Drop | FaultKind::Refuse))
    }

    /// `born`: the flow was made for this packet.
    pub(super) fn ordered(
        &mut self,
        bytes: &[u8],
        packet: &Packet,
        key: &FlowKey,
        mut flow: Flow,
        born: bool,
    ) -> Ordered {
        let outdated = !born && self.is_outdated(key, &flow);
        let Some(segment) = &packet.tcp else {
            return if outdated { Ordered::Opens } else { Ordered::GoesOn };
        };
        if outdated && segment.opens() {
            return Ordered::Opens;
        }
        if segment.has(RST) || !packet::can_be_answered(bytes, packet) {
            return Ordered::GoesOn;
        }
        let answer = || Ordered::Done((TX, "reset", packet::answer(bytes, packet)));
        if outdated {
            let was_reset = flow.connection.flags & FlowFlags::RESET != 0;
            if flow.connection.state == FlowState::Closing && !was_reset {
                return Ordered::GoesOn;
            }
            flow.connection.cut_by_order();
            self.renew(&mut flow, false);
            self.flows.insert(*key, flow);
            return answer();
        }
        let kind = self.orders_of(key).fails_by();
        let Some(kind) = kind.filter(|_| flow.connection.flags & FlowFlags::FAULTED != 0) else {
            return Ordered::GoesOn;
        };
        let mut counted = Vec::new();
        if !born {
            match flow.connection.client(segment) {
                Client::Follows(told) => counted = told,
                Client::Anew => return Ordered::GoesOn,
            }
        }
        let is = |flag| flow.connection.flags & flag != 0;
        let (state, opens, cut) = (flow.connection.state, segment.opens(), is(FlowFlags::RESET));
        let unanswered = state == FlowState::HalfOpen && !is(FlowFlags::ANSWERED);
        let (fails, dropped) = match kind {
            FaultKind::Drop => (opens && unanswered, true),
            FaultKind::Refuse => (opens && (born || cut), false),
            FaultKind::Reset => {
                let asks = state == FlowState::Established && segment.len > 0;
                (asks || cut && !opens, false)
            }
            FaultKind::Http5xx => (false, false),
        };
        if !fails {
            return Ordered::GoesOn;
        }
        let first = born || !dropped && !cut;
        if !dropped && !cut {
            counted.extend(flow.connection.cut_as_by_backend());
        }
        if let Some(drill) = &mut self.orders_of(key).drill {
            drill.faulted += u64::from(first);
        }
        self.renew(&mut flow, false);
        self.flows.insert(*key, flow);
        self.count(flow.cell, &counted);
        match dropped {
            true => Ordered::Done((DROP, "fault_dropped", packet::as_it_came(bytes))),
            false => answer(),
        }
    }

    /// A backend's packet of a flow that is to fail, if it is a response: what
    /// it says instead.
    pub(super) fn failing(
        &mut self,
        bytes: &[u8],
        packet: &Packet,
        key: &FlowKey,
    ) -> Option<(Vec<u8>, Packet)> {
        let connection = self.flows[key].connection;
        let faulted = connection.flags & FlowFlags::FAULTED != 0;
        let kind = self.orders_of(key).fails_by();
        let class = packet.tcp.as_ref()?.status_class()?;
        let answers = matches!(class, "http_2xx" | "http_3xx" | "http_4xx");
        if !faulted || kind != Some(FaultKind::Http5xx) || !answers {
            return None;
        }
        let first = connection.flags & FlowFlags::HTTP_5XX == 0;
        if let Some(drill) = &mut self.orders_of(key).drill {
            drill.faulted += u64::from(first);
        }
        let bytes = packet::with_status(bytes, packet, b'5');
        match packet::parse(&bytes) {
            Ok(Content::Packet(packet)) => Some((bytes, packet)),
            _ => None,
        }
    }
}
