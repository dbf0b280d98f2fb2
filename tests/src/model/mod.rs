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
//! * The way back is the one of a flow's first packet; of one that lasts, of the
//!   client's latest.

pub mod driver;
pub mod generate;
mod ordering;
pub mod orders;
pub mod packet;
mod path;
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

use canary_common::{Address, Cell, FlowFlags, FlowKey, FlowState, Split, Timeouts, Track};

use orders::Orders;
use packet::{Expected, FragmentOf, TCP};
use tcp::Connection;
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

    /// Each packet gives a flow its state's time again; a half-open one's runs
    /// from its first packet, and anew from each of its backend's.
    fn renew(&self, flow: &mut Flow, by_backend: bool) {
        if flow.connection.state != FlowState::HalfOpen || by_backend {
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
