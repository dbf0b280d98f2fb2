//! The small world that model and program share: few clients, so that flows
//! meet themselves again often.

use std::net::SocketAddr;

use canary_common::{Signals, Timeouts, Track};

use super::packet::{TCP, UDP};
use crate::plane::table_of;

/// The unit in which time passes, in jiffies: so long that what a run takes in
/// real time does not matter.
pub const QUANTUM: u32 = 100_000;

/// Between whole quanta, so that no decision is a close one.
pub const TIMEOUTS: Timeouts = Timeouts {
    half_open: QUANTUM + QUANTUM / 2,
    established: 5 * QUANTUM + QUANTUM / 2,
    closing: 2 * QUANTUM + QUANTUM / 2,
    unanswered: QUANTUM + QUANTUM / 2,
    answered: 3 * QUANTUM + QUANTUM / 2,
};

pub const CLIENTS: u8 = 40;
pub const PORTS: u8 = 4;

#[derive(Clone, Copy, Debug)]
pub struct Service {
    pub vip: &'static str,
    pub protocol: u8,
    pub by_client_alone: bool,
    /// [`Signals`] that are read.
    pub signals: u16,
    /// Of the split's hash.
    pub salt: u32,
    /// Clients may have a track of their own.
    pub steered: bool,
}

const fn service(vip: &'static str, protocol: u8, signals: u16) -> Service {
    Service { vip, protocol, by_client_alone: protocol == UDP, signals, salt: 0, steered: true }
}

/// Numbered from 0, as the program numbers them.
pub const SERVICES: [Service; 5] = [
    service("203.0.113.10:80", TCP, Signals::ALL),
    Service { salt: 0x5a17_5a17, ..service("[2001:db8::10]:80", TCP, Signals::ALL) },
    service("203.0.113.10:53", UDP, Signals::ALL),
    service("203.0.113.20:80", TCP, Signals::ZERO_WINDOWS | Signals::TLS),
    Service { steered: false, ..service("[2001:db8::10]:53", UDP, Signals::ALL) },
];

#[derive(Clone, Copy, Debug)]
pub struct Backend {
    pub service: u16,
    pub track: Track,
    pub address: &'static str,
    /// Not behind the interface that packets come in by.
    pub elsewhere: bool,
}

const fn backend(service: u16, track: Track, address: &'static str) -> Backend {
    Backend { service, track, address, elsewhere: false }
}

/// Numbered from 1. The first and the tenth are one server behind two services.
pub const BACKENDS: [Backend; 15] = [
    backend(0, Track::Stable, "10.0.0.11:8080"),
    backend(0, Track::Stable, "10.0.0.12:8080"),
    backend(0, Track::Canary, "10.0.0.21:8081"),
    backend(1, Track::Stable, "[fd00::11]:8080"),
    backend(1, Track::Stable, "[fd00::12]:8080"),
    backend(1, Track::Canary, "[fd00:0:0:1::21]:8081"),
    backend(2, Track::Stable, "10.0.0.11:5353"),
    backend(2, Track::Stable, "10.0.0.12:53"),
    backend(2, Track::Canary, "10.0.0.21:5353"),
    backend(3, Track::Stable, "10.0.0.11:8080"),
    Backend { elsewhere: true, ..backend(3, Track::Stable, "10.0.0.13:80") },
    backend(3, Track::Canary, "10.0.0.21:8082"),
    backend(4, Track::Stable, "[fd00::11]:8080"),
    backend(4, Track::Stable, "[fd00::12]:53"),
    Backend { elsewhere: true, ..backend(4, Track::Canary, "[fd00:0:0:1::21]:5353") },
];

/// The two numbers of the server behind two services.
pub const SHARED: [u16; 2] = [1, 10];

#[must_use]
pub fn numbers() -> std::ops::RangeInclusive<u16> {
    1..=BACKENDS.len() as u16
}

#[must_use]
pub fn backend_of(number: u16) -> &'static Backend {
    &BACKENDS[usize::from(number) - 1]
}

/// # Panics
/// Where the world's text is no address.
#[must_use]
pub fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address of the model's world")
}

/// The cells of a backend, by the epoch's parity.
#[must_use]
pub const fn cells(number: u16) -> [u16; 2] {
    [2 * number, 2 * number + 1]
}

/// The cell of those who were steered to a backend, behind all others.
#[must_use]
pub const fn steered_cell(number: u16) -> u16 {
    2 * BACKENDS.len() as u16 + 1 + number
}

/// Whose a cell is; `None` of those who were steered.
#[must_use]
pub const fn drawn_to(cell: u16) -> Option<u16> {
    if cell < steered_cell(1) { Some(cell / 2) } else { None }
}

/// The backends of a track, ascending; bit `i` of a mask is the `i`-th.
#[must_use]
pub fn track(service: u16, track: Track) -> Vec<u16> {
    let of = |n: &u16| backend_of(*n).service == service && backend_of(*n).track == track;
    numbers().filter(of).collect()
}

/// Those that a mask names.
#[must_use]
pub fn chosen(service: u16, of: Track, mask: u8) -> Vec<u16> {
    let all = track(service, of).into_iter().enumerate();
    all.filter(|(i, _)| mask >> i & 1 == 1).map(|(_, number)| number).collect()
}

/// The number of the Maglev table over these backends; 0 is none.
#[must_use]
pub const fn table_number(service: u16, track: Track, mask: u8) -> u16 {
    if mask == 0 { 0 } else { 1 + service * 8 + track as u16 * 4 + mask as u16 }
}

/// A Maglev table: what Maglev must do is tested where it is made; here only
/// what the program does with one.
#[must_use]
pub fn table(service: u16, of: Track, mask: u8) -> Option<Vec<u16>> {
    table_of(&chosen(service, of, mask))
}

/// A client's address and port, of the service's family.
#[must_use]
pub fn client(service: u16, client: u8, port: u8) -> SocketAddr {
    let port = 40_000 + u16::from(port);
    if address(SERVICES[usize::from(service)].vip).is_ipv4() {
        SocketAddr::from(([198, 51, 100, client], port))
    } else {
        SocketAddr::from(([0x2001, 0xdb8, 1, 0, 0, 0, 0, u16::from(client)], port))
    }
}
