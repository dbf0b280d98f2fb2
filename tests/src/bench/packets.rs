//! What a packet costs, by the kernel's own measure of test runs, beside
//! programs that do less.

use anyhow::{Result, ensure};

use super::{
    beds::{Bed, GUARDED, HOLDS, OPENS, ROOM, STEERED},
    counted::{Expected, Kind},
    machine,
    report::{By, Section, Wanted},
    rivals::{Rival, Rivals},
    rounds::{Case, Field, alternate, section},
    wrapper::Wrapper,
};
use crate::netns::in_new_namespace;

pub(super) const ALONE: &str = "XDP_PASS, without the wrapper";
pub(super) const WRAPPED: &str = "XDP_PASS";
pub(super) const SWAP: &str = "parse, swap, transmit";
pub(super) const LRU: &str = "the same, one LRU_HASH look-up";
pub(super) const NAT: &str = "stateless NAT";

const V4: usize = 0;
const V6: usize = 1;
const UDP: usize = 2;
/// A table without a free way.
const FULL: usize = 3;

/// Of the table without a free way: flows it has room for, and flows that are
/// there, eight for each of its buckets' four ways.
const FULL_ROOM: u32 = 32 << 10;
const FULL_BITS: u32 = 19;

/// Rows over so many flows.
struct Size {
    name: &'static str,
    /// Flows, as a power of two.
    bits: u32,
    rounds: usize,
    /// Packets of a round.
    runs: u32,
}

const QUICK: [Size; 2] = [
    Size { name: "1", bits: 0, rounds: 21, runs: 100_000 },
    Size { name: "1M", bits: 20, rounds: 7, runs: 1 << 18 },
];

const FULL_RUN: [Size; 4] = [
    Size { name: "1", bits: 0, rounds: 101, runs: 200_000 },
    Size { name: "64k", bits: 16, rounds: 31, runs: 1 << 18 },
    Size { name: "1M", bits: 20, rounds: 21, runs: 1 << 20 },
    Size { name: "4M", bits: 22, rounds: 11, runs: 1 << 20 },
];

/// A section for each number of flows.
///
/// # Errors
/// Without root, or where a packet was not what it should be.
pub fn sections(quick: bool) -> Result<Vec<Section>> {
    let sizes: &[Size] = if quick { &QUICK } else { &FULL_RUN };
    in_new_namespace(["cny-a", "cny-b"], || {
        machine::pin()?;
        let mut field = field(sizes)?;
        sizes.iter().map(|size| measure(&mut field, size)).collect()
    })
}

fn field(sizes: &[Size]) -> Result<Field> {
    let mut wrapper = Wrapper::load()?;
    let mut beds = Vec::new();
    for (v6, udp) in [(false, false), (true, false), (false, true)] {
        beds.push(Bed::new(ROOM, v6, udp)?);
    }
    beds[V4].steered_and_guarded()?;
    let mut full = Bed::new(FULL_ROOM, false, false)?;
    full.fill(&mut wrapper, FULL_BITS)?;
    ensure!(full.plane.get().overflow_len() > 0, "the table has free ways left");
    beds.push(full);
    // The map is of that size for all but as many flows: it evicts before it
    // is quite full.
    let most = sizes.iter().map(|size| 1_u32 << size.bits).max().unwrap_or(0);
    let entries = if most < ROOM { ROOM } else { ROOM + ROOM / 4 };
    let rivals = Rivals::load(entries, beds[V4].vip(1))?;
    Ok(Field { wrapper, rivals, beds })
}

fn measure(field: &mut Field, size: &Size) -> Result<Section> {
    for bed in &mut field.beds[V4..=UDP] {
        bed.fill(&mut field.wrapper, size.bits)?;
    }
    let mut flows = field.beds[V4].pinned(Kind::ToBackend, size.bits)?;
    field.rivals.fill(&mut field.wrapper, &mut flows)?;
    let mut cases = references(&field.beds[V4], size.bits)?;
    cases.extend(established(field, size.bits)?);
    if size.bits > 0 {
        cases.extend(opening(field, size.bits)?);
    }
    alternate(field, &mut cases, size.rounds, size.runs)?;
    let name = format!("packets-{}", size.name);
    let about = format!(
        "what a packet costs with {} flows in a table for 4 M, all signals ({} rounds of {})",
        size.name, size.rounds, size.runs
    );
    section(&name, about, "ns", &cases)
}

/// What others are measured against.
fn references(bed: &Bed, bits: u32) -> Result<Vec<Case>> {
    let shot = bed.pinned(Kind::ToBackend, bits)?;
    let rival = |name, rival| Case::rival(name, rival, shot.clone());
    Ok(vec![
        Case::alone(ALONE, Rival::Pass, shot.clone()),
        rival(WRAPPED, Rival::Pass),
        rival(SWAP, Rival::Swap),
        rival(LRU, Rival::Lru).against(SWAP, By::Ratio, None),
        rival(NAT, Rival::Nat).against(SWAP, By::Ratio, None),
    ])
}

/// What flows that are there are compared with: one, with the least there is;
/// many, with a map that holds as many.
const fn reference(bits: u32) -> (&'static str, Wanted) {
    if bits == 0 { (SWAP, Wanted::AtMost(2.2)) } else { (LRU, Wanted::AtMost(0.55)) }
}

/// Only the sizes have a target.
fn target(bits: u32, wanted: Wanted) -> Option<Wanted> {
    (bits == 0 || bits == 20).then_some(wanted)
}

fn established(field: &Field, bits: u32) -> Result<Vec<Case>> {
    let (reference, wanted) = reference(bits);
    let wanted = target(bits, wanted);
    let case = |name: &str, bed: usize, kind| {
        let shot = field.beds[bed].pinned(kind, bits)?;
        Ok::<_, anyhow::Error>(Case::on(name, bed, Expected::new(kind, HOLDS), shot))
    };
    let elsewhere = |name: &str, to: &str| {
        let shot = field.beds[V4].elsewhere(to.parse()?, bits)?;
        let wanted = Some(Wanted::AtMost(1.4));
        let case = Case::on(name, V4, Expected::new(Kind::NotOurs, HOLDS), shot);
        Ok::<_, anyhow::Error>(case.against(SWAP, By::Ratio, wanted))
    };
    let (v4_in, v4_out) = ("established, to the backend", "established, to the client");
    let v6 = target(bits, Wanted::AtMost(1.15));
    Ok(vec![
        elsewhere("not ours, a port nobody has", "203.0.113.1:81")?,
        elsewhere("not ours, another address", "198.51.100.1:80")?,
        case(v4_in, V4, Kind::ToBackend)?.against(reference, By::Ratio, wanted),
        case(v4_out, V4, Kind::ToClient)?.against(reference, By::Ratio, wanted),
        case("IPv6, to the backend", V6, Kind::ToBackend)?.against(v4_in, By::Ratio, v6),
        case("IPv6, to the client", V6, Kind::ToClient)?.against(v4_out, By::Ratio, v6),
        case("UDP, to the backend", UDP, Kind::ToBackend)?.against(reference, By::Ratio, None),
        // An answer ends a wait, and its time is taken.
        Case::on(
            "UDP, question and answer in turns",
            UDP,
            Expected::new(Kind::Datagrams, HOLDS),
            field.beds[UDP].datagrams(bits)?,
        )
        .against(reference, By::Ratio, None),
    ])
}

/// First packets of flows, while the table holds as many others.
fn opening(field: &Field, bits: u32) -> Result<Vec<Case>> {
    let case = |name: &str, bed: usize, backend| {
        let shot = field.beds[bed].opening(backend, bits)?;
        let case = Case::on(name, bed, Expected::new(Kind::Opens, backend), shot);
        Ok::<_, anyhow::Error>(case)
    };
    let new = "new flow";
    let wanted = target(bits, Wanted::AtMost(1.0));
    Ok(vec![
        case(new, V4, OPENS)?.against(LRU, By::Ratio, wanted),
        case("new flow, no free way", FULL, OPENS)?.against(LRU, By::Ratio, None),
        case("new flow, steered", V4, STEERED)?.against(LRU, By::Ratio, None),
        case("new flow, guard armed", V4, GUARDED)?.against(LRU, By::Ratio, None),
        case("new flow, IPv6", V6, OPENS)?.against(
            new,
            By::Ratio,
            target(bits, Wanted::AtMost(1.15)),
        ),
        case("new flow, UDP", UDP, OPENS)?.against(LRU, By::Ratio, None),
    ])
}
