//! How a packet's cost grows: with flows, with services and backends, and with
//! steering entries.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use canary::dataplane::Steering;
use canary_common::{Cidr, MAX_STEERED, ServiceFlags, Signals, Track};

use super::{
    beds::{Bed, HOLDS, ROOM, STEERED, STEERED_SERVICE},
    counted::{Expected, Kind},
    machine,
    many::Many,
    report::{By, Section, Wanted},
    rivals::Rivals,
    rounds::{Case, Field, alternate, section},
    wrapper::{Clients, Shot, Wrapper},
};
use crate::{netns::in_new_namespace, plane::INGRESS};

/// Flows that there are, as a power of two.
const BITS: u32 = 20;
/// Directions, and what rows call them.
const WAYS: [(Kind, &str); 2] =
    [(Kind::ToBackend, "to the backend"), (Kind::ToClient, "to the client")];

/// # Errors
/// Without root, or where a packet was not what it should be.
pub fn sections(quick: bool) -> Result<Vec<Section>> {
    in_new_namespace(["cny-a", "cny-b"], || {
        machine::pin()?;
        Ok(vec![flows(quick)?, services(quick)?, steering(quick)?])
    })
}

/// Rounds, and packets of a round.
const fn size(quick: bool) -> (usize, u32) {
    if quick { (5, 1 << 17) } else { (21, 1 << 18) }
}

/// Packets of so many of the flows of a table that is as full for all rows.
fn flows(quick: bool) -> Result<Section> {
    let (rounds, runs) = size(quick);
    let most = if quick { BITS } else { 22 };
    let mut wrapper = Wrapper::load()?;
    let mut bed = Bed::new(ROOM, false, false)?;
    bed.fill(&mut wrapper, most)?;
    let mut cases = Vec::new();
    for (kind, way) in WAYS {
        for (bits, flows) in [(0, "1 flow"), (16, "64k flows"), (20, "1M flows"), (22, "4M flows")]
        {
            if bits <= most {
                let name = format!("{way}, {flows}");
                let case = Case::on(&name, 0, Expected::new(kind, HOLDS), bed.pinned(kind, bits)?);
                cases.push(match bits {
                    0 => case,
                    _ => case.against(&format!("{way}, 1 flow"), By::Ratio, None),
                });
            }
        }
    }
    let mut field = field(wrapper, vec![bed])?;
    alternate(&mut field, &mut cases, rounds, runs)?;
    let about = format!(
        "packets of so many of 2^{most} flows that a table for 4 M holds ({rounds} rounds of {runs})"
    );
    section("growth-flows", about, "ns", &cases)
}

const MANY: [(Many, &str); 4] = [
    (Many { services: 1, each: 3 }, "1 service, 3 backends"),
    (Many { services: 8, each: 8 }, "8 services, 64 backends"),
    (Many { services: 64, each: 8 }, "64 services, 512 backends"),
    (Many { services: 512, each: 8 }, "512 services, 4096 backends"),
];

/// One hot flow of one of so many services; and a million, spread over all
/// services and backends.
fn services(quick: bool) -> Result<Section> {
    let (rounds, runs) = size(quick);
    let mut beds = Vec::new();
    let mut list = Vec::new();
    for (many, _) in MANY {
        let bed = many.bed(ROOM / 2)?;
        list.extend(many.picks(&bed, &many.opening(&bed, BITS, 0)?)?);
        beds.push(bed);
    }
    let mut wrapper = Wrapper::with_backends(&list)?;
    let mut cases = Vec::new();
    let begins = |number: usize| (number as u32) << BITS;
    for (number, (many, _)) in MANY.into_iter().enumerate() {
        let mut shot = many.opening(&beds[number], BITS, begins(number))?;
        beds[number].open_all(&mut wrapper, &mut shot)?;
    }
    for (bits, flows) in [(0, "1 flow"), (BITS, "1M flows")] {
        for (kind, way) in WAYS {
            for (number, (many, services)) in MANY.into_iter().enumerate() {
                let shot = many.pinned(&beds[number], kind, (bits, begins(number)))?;
                let name = |services| format!("{flows} {way}, {services}");
                let case = Case::on(&name(services), number, Expected::new(kind, HOLDS), shot);
                let wanted = (number + 1 == MANY.len()).then_some(Wanted::AtMost(1.1));
                cases.push(match number {
                    0 => case,
                    _ => case.against(&name(MANY[0].1), By::Ratio, wanted),
                });
            }
        }
    }
    let mut field = field(wrapper, beds)?;
    alternate(&mut field, &mut cases, rounds, runs)?;
    let about = format!(
        "1 hot flow, and 1 M over all services and backends, in tables for 2 M; the wrapper \
         draws service and backend too ({rounds} rounds of {runs})"
    );
    section("growth-services", about, "ns", &cases)
}

/// New flows of a million clients, of which so many are steered.
fn steering(quick: bool) -> Result<Section> {
    let (rounds, runs) = size(quick);
    let first = Ipv4Addr::from(0x0a40_0000);
    let clients = Clients { first: SocketAddr::from((first, 0x4000)), bits: BITS, shift: 0 };
    let address = |i: u32| Cidr::from(IpAddr::from(Ipv4Addr::from(u32::from(first) + i)));
    let all = Cidr::new(first.into(), 32 - BITS as u8)
        .map_err(|error| anyhow::anyhow!("the clients' network: {error:?}"))?;
    let lists: [(&str, Vec<Cidr>); 4] = [
        ("no steering", Vec::new()),
        ("1 network", vec![all]),
        ("1024 addresses", (0..1024).map(|i| address(i << (BITS - 10))).collect()),
        ("1048576 addresses", (0..MAX_STEERED).map(address).collect()),
    ];
    let (mut beds, mut cases) = (Vec::new(), Vec::new());
    for (number, (name, networks)) in lists.iter().enumerate() {
        let bed = steered(networks)?;
        let frame = bed.frame(&clients, Kind::Opens, STEERED_SERVICE);
        let shot = Shot::of(&frame, &clients)?;
        let case = Case::on(name, number, Expected::new(Kind::Opens, STEERED), shot);
        cases.push(match number {
            0 => case,
            _ => case.against(lists[0].0, By::Ratio, None),
        });
        beds.push(bed);
    }
    let mut field = field(Wrapper::load()?, beds)?;
    alternate(&mut field, &mut cases, rounds, runs)?;
    let about = format!(
        "new flows of a million clients, with so many of them steered ({rounds} rounds of {runs})"
    );
    section("growth-steering", about, "ns", &cases)
}

fn steered(networks: &[Cidr]) -> Result<Bed> {
    let mut bed = Bed::bare(ROOM / 4, (false, false), Signals::ALL, INGRESS)?;
    let flags = if networks.is_empty() { 0 } else { ServiceFlags::STEERED };
    let tracks = [(STEERED - 1, Track::Stable), (STEERED, Track::Canary)];
    bed.service(STEERED_SERVICE, flags, &tracks)?;
    bed.plane.weights(STEERED_SERVICE, 0.0, &[STEERED - 1], &[STEERED])?;
    let to = Steering { track: Track::Canary, always: false, expires_in: None };
    let plane = bed.plane.get();
    plane.steer_all(STEERED_SERVICE, networks.iter().map(|&network| (network, to)))?;
    let (_, total) = plane.steered(STEERED_SERVICE, 1)?;
    ensure!(total == networks.len(), "{total} steered");
    bed.together = Some(STEERED - 1..=STEERED);
    Ok(bed)
}

/// No reference is measured here.
fn field(wrapper: Wrapper, beds: Vec<Bed>) -> Result<Field> {
    let rivals = Rivals::load(1, SocketAddr::from((Ipv4Addr::LOCALHOST, 80)))?;
    Ok(Field { wrapper, rivals, beds })
}
