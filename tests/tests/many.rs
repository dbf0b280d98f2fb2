//! What is read and cleared in batches is what is there one by one.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeSet, net::SocketAddr};

use anyhow::{Result, ensure};
use canary::plan::Write;
use canary_common::Track;
use canary_tests::{
    frame::{ACK, Frame, SYN},
    netns::in_new_namespace,
    plane::{INGRESS, NewBackend, Plane, TX},
};

/// Thirty-two ways: the rest goes to the overflow map, in several batches.
const ROOM: u32 = 16;
const WAYS: u64 = 32;
const FLOWS: u16 = 700;
const ISN: u32 = 5000;

fn vip() -> SocketAddr {
    "203.0.113.10:80".parse().unwrap()
}

fn server(number: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number as u8], 8080))
}

fn client(flow: u16) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 9], 10_000 + flow))
}

/// Some backends whose numbers, and so cells, lie apart.
fn bed(numbers: &[u16]) -> Result<Plane> {
    let mut bed = Plane::new(ROOM)?;
    bed.service(1, vip(), false, 0)?;
    for &number in numbers {
        bed.backend(&NewBackend {
            number,
            service: 1,
            track: Track::Stable,
            vip: vip(),
            address: server(number),
            udp: false,
            ifindex: INGRESS,
            resolved: true,
            shares_with: None,
        })?;
    }
    bed.weights(1, 0.0, numbers, &[])?;
    Ok(bed)
}

/// A handshake; which backend answered.
fn establish(bed: &mut Plane, flow: u16, numbers: &[u16]) -> Result<()> {
    let client = client(flow);
    bed.run(&Frame::tcp(client, vip(), SYN, ISN, 0).bytes())?;
    for &number in numbers {
        let answer = Frame::tcp(server(number), client, SYN | ACK, 0, ISN + 1).bytes();
        if bed.run(&answer)?.action == TX {
            bed.run(&Frame::tcp(client, vip(), ACK, ISN + 1, 1).bytes())?;
            return Ok(());
        }
    }
    anyhow::bail!("flow {flow} has no backend")
}

#[test]
fn cells_of_many_are_those_of_each() {
    let body = || {
        let numbers = [1, 2, 7, 40, 41, 200];
        let mut bed = bed(&numbers)?;
        for flow in 0..100 {
            establish(&mut bed, flow, &numbers)?;
        }
        let plane = bed.get();
        // Those between are read on the way, and are nobody's.
        let asked: BTreeSet<u16> = numbers.iter().flat_map(|n| [2 * n, 2 * n + 1]).collect();
        let found = plane.cells(&asked)?;
        ensure!(found.keys().copied().collect::<BTreeSet<_>>() == asked, "{:?}", found.keys());
        for (cell, counts) in &found {
            ensure!(*counts == plane.cell(*cell)?, "cell {cell}: {counts:?}");
        }
        let born: u64 = found.values().map(|(cell, _)| cell.connections).sum();
        ensure!(born == 100, "{born} connections");
        ensure!(plane.cells(&BTreeSet::new())?.is_empty());
        // One between two that stay.
        let kept = plane.cell(14)?;
        let before: u64 = plane.cell(4)?.0.connections;
        ensure!(before > 0 && kept.0.connections > 0, "a backend without a connection");
        plane.apply(&[Write::ClearCell { cell: 4 }, Write::ClearCell { cell: 82 }])?;
        let zero = Default::default();
        ensure!(plane.cell(4)? == zero && plane.cell(82)? == zero && plane.cell(14)? == kept);
        Ok(())
    };
    in_new_namespace(["cny-a", "cny-b"], body).unwrap();
}

#[test]
fn the_overflow_map_is_seen_whole() {
    let body = || {
        let mut bed = bed(&[1])?;
        for flow in 0..FLOWS {
            establish(&mut bed, flow, &[1])?;
        }
        let plane = bed.get();
        let (table, now) = (plane.flow_table(), plane.now()?);
        let mut ports = BTreeSet::new();
        table.scan(now, 0..table.buckets(), &mut |flow| {
            ports.insert(u16::from_be(flow.key.client_port_be));
        });
        let overflow = plane.overflow_len();
        ensure!(ports.len() == usize::from(FLOWS), "{} of {FLOWS} flows", ports.len());
        ensure!(overflow >= u64::from(FLOWS) - WAYS, "{overflow} in the overflow map");
        // A pass tells of each once: as living, then as ended.
        let (mut living, mut ended) = (0, 0);
        table.pass(now, 0..table.buckets(), &mut |_| ended += 1, &mut |_| living += 1);
        ensure!((living, ended) == (FLOWS, 0), "{living} live, {ended} ended");
        table.age_by(100_000);
        let swept = table.pass(now, 0..table.buckets(), &mut |_| ended += 1, &mut |_| living += 1);
        ensure!((living, ended) == (FLOWS, FLOWS), "{living} live, {ended} ended");
        ensure!(swept.freed == u64::from(FLOWS) && plane.overflow_len() == 0, "{swept:?}");
        Ok(())
    };
    in_new_namespace(["cny-a", "cny-b"], body).unwrap();
}
