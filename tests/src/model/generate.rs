//! Random steps, weighted so that flows go through their lives and meet
//! themselves again.

use canary_common::{FaultKind, FlowState, Track};

use super::{
    Model, key,
    orders::{Clients, GuardOrder, Steered},
    step::{By, Data, Edit, Pkt, Step},
    world::{self, CLIENTS, PORTS, SERVICES, SHARED},
};
use crate::{
    frame::{ACK, FIN, RST, SYN},
    random::Random,
};

const PSH: u8 = 8;

/// Distances in sequence space: the usual, and both sides of every border.
const DISTANCES: [i32; 16] = [
    0,
    1,
    1,
    -1,
    2,
    1400,
    0xffff,
    0x1_0000,
    0x1_0001,
    4 << 20,
    (4 << 20) + 1,
    -(4 << 20),
    -(4 << 20) - 1,
    8 << 20,
    -(64 << 20),
    i32::MIN,
];

/// Service, client, port.
type Who = (u16, u8, u8);

#[derive(Debug)]
pub struct Generator {
    random: Random,
    mutated: bool,
    orders: bool,
    /// Those who are speaking just now.
    talking: [Who; 6],
}

impl Generator {
    #[must_use]
    pub const fn new(seed: u64, mutated: bool) -> Self {
        Self { random: Random::new(seed), mutated, orders: true, talking: [(0, 1, 0); 6] }
    }

    /// Nobody is steered, guarded, cut or made to fail.
    #[must_use]
    pub const fn without_orders(mut self) -> Self {
        self.orders = false;
        self
    }

    pub fn next(&mut self, model: &Model) -> Step {
        if self.random.one_in(if self.mutated { 100 } else { 20 }) {
            return self.configuration(model);
        }
        let pkt = self.packet(model);
        if self.random.one_in(4) {
            let edits = self.shape();
            return Step::Mutated(pkt, edits.into());
        }
        if self.mutated && !self.random.one_in(3) {
            let edits: Vec<_> = (0..=self.random.below(3)).map(|_| self.edit()).collect();
            return Step::Mutated(pkt, edits.into());
        }
        Step::Packet(pkt)
    }

    fn configuration(&mut self, model: &Model) -> Step {
        let random = &mut self.random;
        let service = random.below(SERVICES.len() as u64) as u16;
        let backend = 1 + random.below(world::BACKENDS.len() as u64) as u16;
        match random.below(if self.orders { 34 } else { 24 }) {
            0..5 => {
                let permille = random.of(&[0, 1, 10, 250, 500, 999, 1000]);
                Step::Split { service, permille }
            }
            5..10 => {
                let stable = random.weighted(&[(4, 3), (1, 2), (1, 1), (1, 0)]);
                let canary = random.weighted(&[(4, 1), (1, 0)]);
                Step::Switch { service, masks: [stable, canary] }
            }
            10 | 11 if !SHARED.contains(&backend) && model.is_configured(backend) => {
                Step::Remove { backend, forget: random.one_in(2) }
            }
            12..15 => match world::numbers().find(|n| !model.is_configured(*n)) {
                Some(backend) => Step::Restore { backend },
                None => Step::Switch { service, masks: [3, 1] },
            },
            15 => Step::NextHop { backend, known: false },
            24.. => self.order(service),
            16..19 => match world::numbers().find(|n| !model.is_resolved(*n)) {
                Some(backend) => Step::NextHop { backend, known: true },
                None => Step::Split { service, permille: 300 },
            },
            _ => {
                let quanta = random.weighted(&[(4, 1), (3, 2), (1, 3), (1, 6)]);
                Step::Time { quanta, sweep: random.one_in(2) }
            }
        }
    }

    fn order(&mut self, service: u16) -> Step {
        let random = &mut self.random;
        let client = 1 + random.below(u64::from(CLIENTS)) as u8;
        let clients = Clients { client, wider: random.of(&[0, 0, 3, 8]) };
        match random.below(10) {
            0..3 => {
                let failures = random.one_in(2);
                let order = random.of(&[
                    GuardOrder::Arm { budget: None, failures },
                    GuardOrder::Arm { budget: Some(1), failures },
                    GuardOrder::Arm { budget: Some(5), failures },
                    GuardOrder::Budget(3),
                    GuardOrder::Hold,
                    GuardOrder::Disarm,
                ]);
                Step::Guard { service, order }
            }
            3..6 => {
                let to = random.of(&[Track::Canary, Track::Canary, Track::Stable]);
                let to = Steered { to, always: random.one_in(3) };
                let to = random.below(4).checked_sub(1).map(|_| to);
                Step::Steer { service, clients, to }
            }
            6..8 => Step::Generation { service },
            _ => {
                let kind = random.of(&FaultKind::ALL);
                let kind = random.below(3).checked_sub(1).map(|_| kind);
                let clients = Clients { wider: random.of(&[3, 8]), ..clients };
                Step::Fault { service, kind, clients }
            }
        }
    }

    /// Mostly one of those who are speaking.
    fn who(&mut self) -> Who {
        let random = &mut self.random;
        let place = random.below(self.talking.len() as u64) as usize;
        if random.one_in(8) {
            let service = random.weighted(&[(3, 0), (2, 1), (2, 2), (2, 3), (2, 4)]);
            let client = 1 + random.below(u64::from(CLIENTS)) as u8;
            self.talking[place] = (service, client, random.below(u64::from(PORTS)) as u8);
        } else if random.one_in(16) {
            // The same address and port, to the service that shares a server.
            self.talking[place].0 = random.of(&[0, 3]);
        }
        self.talking[place]
    }

    fn packet(&mut self, model: &Model) -> Pkt {
        let (service, client, port) = self.who();
        let flow = model.live(&key(world::client(service, client, port), service));
        let state = flow.map(|flow| flow.connection.state);
        let random = &mut self.random;
        let by = match state {
            None => random.weighted(&[(12, 0), (1, 1), (1, 2), (1, 3)]),
            Some(_) => random.weighted(&[(10, 0), (10, 1), (1, 2), (1, 3)]),
        };
        let by = match by {
            0 => By::Client,
            1 => By::Pinned,
            2 => By::Backend(random.below(3) as u8),
            _ => By::Astray,
        };
        let flags = if random.one_in(30) {
            random.bits() as u8
        } else if matches!(by, By::Client | By::Astray) {
            client_flags(random, state)
        } else {
            backend_flags(random, state)
        };
        Pkt {
            service,
            client,
            port,
            by,
            flags,
            seq: distance(random, is_next(state, flags, by, false)),
            ack: distance(random, is_next(state, flags, by, true)),
            len: random.weighted(&[(6, 0), (2, 1), (1, 7), (1, 12), (2, 100), (1, 511), (1, 1400)]),
            data: data(random),
            window: random.weighted(&[(20, 0x2000), (1, 0), (1, 1)]),
            ttl: random.weighted(&[(40, 64), (1, 0), (1, 1), (1, 2), (1, 255)]),
            options: random.weighted(&[(20, 0), (1, 1), (1, 10)]),
            router: random.below(3) as u8,
            checksum_error: random.weighted(&[(20, 0), (1, 1), (1, 0x8001)]),
            unchecked: random.one_in(8),
        }
    }

    /// Something that real networks have: an error or a fragment, extension
    /// headers, tags. In the order in which they are put around each other.
    fn shape(&mut self) -> Vec<Edit> {
        let random = &mut self.random;
        let mut edits = Vec::new();
        match random.below(4) {
            0 => edits.push(Edit::Error {
                kind: random.of(&[3, 11, 12, 1, 2, 4, 8]),
                quoted: random.of(&[7, 8, 16, 17, 18, 28, 60]),
                router: random.one_in(2),
            }),
            1 | 2 => {
                let offset = random.of(&[0, 0, 0, 3, 8, 0x1fff]);
                let more = random.below(4) > 0;
                edits.push(Edit::Fragment(offset, more, random.below(4) as u16));
            }
            _ => {}
        }
        while random.one_in(3) {
            let kind = random.of(&[0, 43, 60, 60, 51]);
            edits.push(Edit::Extension(kind, random.of(&[0, 0, 1, 12]), random.of(&[0, 0, 1])));
        }
        while random.one_in(3) {
            edits.push(Edit::Tag(random.of(&[0x8100, 0x88a8, 0x8100, 0x9100])));
        }
        edits
    }

    fn edit(&mut self) -> Edit {
        let random = &mut self.random;
        let at = |random: &mut Random| random.below(90) as u16;
        match random.below(20) {
            0..6 => Edit::Xor(at(random), 1 << random.below(8)),
            6..8 => Edit::Xor(at(random), random.bits() as u8),
            8..11 => Edit::Cut(14 + random.below(80) as u16),
            11 => Edit::Grow(random.below(64) as u16),
            // EtherType; lengths and fragment of IPv4; payload length and next
            // header of IPv6; ports.
            12 => Edit::Word(12, random.of(&[0x800, 0x86dd, 0x8100, 0x88a8, 0x806])),
            13 => Edit::Word(16, random.bits() as u16),
            14 => Edit::Word(20, random.of(&[0x2000, 1, 0x4000, 0x8000, 0x3fff, 0x1fff])),
            15 => Edit::Xor(14, random.bits() as u8),
            16 => Edit::Word(18, random.bits() as u16),
            17 => Edit::Xor(23, random.of(&[6 ^ 17, 6 ^ 1, 6 ^ 58, 17 ^ 1])),
            18 => Edit::Xor(20, random.of(&[6, 6 ^ 44, 6 ^ 43, 6 ^ 60, 6 ^ 58, 6 ^ 17])),
            _ => Edit::Mapped,
        }
    }
}

fn client_flags(random: &mut Random, state: Option<FlowState>) -> u8 {
    match state {
        None => random.weighted(&[(14, SYN), (3, ACK), (1, FIN | ACK), (1, RST)]),
        Some(FlowState::HalfOpen) => random.weighted(&[
            (3, SYN),
            (8, ACK),
            (2, FIN | ACK),
            (1, FIN),
            (1, RST),
            (1, SYN | ACK),
        ]),
        Some(FlowState::Closing) => {
            random.weighted(&[(4, SYN), (2, ACK), (1, FIN | ACK), (1, RST | ACK)])
        }
        Some(_) => random.weighted(&[
            (1, SYN),
            (8, ACK),
            (4, ACK | PSH),
            (3, FIN | ACK),
            (1, RST),
            (1, RST | ACK),
        ]),
    }
}

fn backend_flags(random: &mut Random, state: Option<FlowState>) -> u8 {
    match state {
        Some(FlowState::HalfOpen) => random.weighted(&[
            (10, SYN | ACK),
            (2, ACK),
            (1, FIN | ACK),
            (1, RST),
            (2, RST | ACK),
            (1, SYN),
        ]),
        _ => random.weighted(&[
            (8, ACK),
            (4, ACK | PSH),
            (3, FIN | ACK),
            (1, SYN | ACK),
            (1, RST),
            (1, RST | ACK),
        ]),
    }
}

/// Whether a number is one after what the record holds: until the handshake is
/// done that is the client's initial one.
fn is_next(state: Option<FlowState>, flags: u8, by: By, ack: bool) -> bool {
    let clients = matches!(by, By::Client | By::Astray) != ack;
    clients && flags != SYN && matches!(state, None | Some(FlowState::HalfOpen))
}

/// From what the record holds.
fn distance(random: &mut Random, next: bool) -> i32 {
    if random.one_in(4) { random.of(&DISTANCES) } else { i32::from(next) }
}

fn data(random: &mut Random) -> Data {
    match random.below(8) {
        0..3 => Data::Filler,
        3 => Data::Alert(1 + random.below(2) as u8),
        4 => Data::Response(random.below(1000) as u16),
        _ => Data::Response(random.of(&[100, 200, 200, 301, 404, 500, 503])),
    }
}
