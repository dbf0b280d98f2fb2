//! Scans of a full flow table.

use std::{net::SocketAddr, time::Instant};

use anyhow::{Context as _, Result, ensure};
use canary::{
    api::{client::Client, types::Flows},
    dataplane::Dataplane,
};
use canary_common::{Timeouts, Track};

use super::{
    Effort, MILLION, at_most,
    bed::{Bed, FIRST},
    since,
};
use crate::{
    bench::report::Row,
    frame::Frame,
    netns::in_new_namespace,
    plane::{INGRESS, NewBackend, Plane},
};

/// For a million flows, milliseconds.
const WANTED: f64 = 60.0;
/// Long enough that no flow ends meanwhile.
const HOUR: u32 = 3600 * 250;
/// Of each client address, from here on.
const FIRST_PORT: u32 = 10_000;
const PORTS: u32 = 50_000;

/// First datagrams of so many flows to `vip`, each through the real program,
/// which pins them. One in thirty finds its bucket full, and takes the way of
/// one that nobody answered.
pub(super) fn fill(plane: &Dataplane, vip: SocketAddr, flows: u32) -> Result<()> {
    let client = SocketAddr::from(([198, 18, 0, 0], 0));
    let mut frame = Frame::udp(client, vip).bytes();
    for flow in 0..flows {
        let [_, _, high, low] = (flow / PORTS).to_be_bytes();
        // The program takes checksums as they come.
        frame[28..30].copy_from_slice(&[high, low]);
        let port = (FIRST_PORT + flow % PORTS) as u16;
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        plane.test_run(plane.program(), &frame, &mut [])?;
    }
    let there = count(plane)?;
    ensure!(there >= u64::from(flows) * 95 / 100, "{there} of {flows} flows are in the table");
    Ok(())
}

fn count(plane: &Dataplane) -> Result<u64> {
    let (table, mut flows) = (plane.flow_table(), 0);
    table.scan(plane.now()?, 0..table.buckets(), &mut |_| flows += 1);
    Ok(flows)
}

/// A table of this room, empty and full.
pub(super) fn rows(flows: u32, effort: Effort) -> Result<Vec<Row>> {
    in_new_namespace(["cny-a", "cny-b"], || {
        let mut bed = Plane::new(flows)?;
        let vip = SocketAddr::from(([203, 0, 113, 1], 8000));
        bed.service(1, vip, true, 0)?;
        bed.backend(&NewBackend {
            number: 1,
            service: 1,
            track: Track::Stable,
            vip,
            address: SocketAddr::from(([10, 64, 0, 1], 8080)),
            udp: true,
            ifindex: INGRESS,
            resolved: true,
            shares_with: None,
        })?;
        bed.weights(1, 0.0, &[1], &[])?;
        bed.change(1, |service| {
            service.timeouts = Timeouts { unanswered: HOUR, ..service.timeouts };
        })?;
        let plane = bed.inner.as_ref().context("the plane is open")?;
        let millions = flows / MILLION;
        let name = |what: &str| format!("room for {millions} M flows, {what}");
        let empty = scans(plane, effort)?;
        let mut rows = vec![Row::of(name("none there"), &empty)?];
        fill(plane, vip, flows)?;
        let full = scans(plane, effort)?;
        rows.push(at_most(name("all there"), &full, WANTED * f64::from(millions))?);
        let swept = sweeps(plane, effort)?;
        rows.push(at_most(name("swept"), &swept, WANTED * f64::from(millions))?);
        Ok(rows)
    })
}

fn scans(plane: &Dataplane, effort: Effort) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for _ in 0..effort.rounds {
        let begun = Instant::now();
        std::hint::black_box(count(plane)?);
        times.push(since(begun));
    }
    Ok(times)
}

/// As the daemon's tick does, all of the table.
fn sweeps(plane: &Dataplane, effort: Effort) -> Result<Vec<f64>> {
    let (table, now) = (plane.flow_table(), plane.now()?);
    let mut times = Vec::new();
    for _ in 0..effort.rounds {
        let begun = Instant::now();
        let swept = table.sweep(now, 0..table.buckets(), &mut |_| ());
        times.push(since(begun));
        ensure!(swept.freed == 0, "{swept:?}: flows ended meanwhile");
    }
    Ok(times)
}

/// `canary flows` of a daemon with a million.
pub(super) fn ask_for_flows(bed: &Bed, effort: Effort) -> Result<Row> {
    let client = Client::new(&bed.daemon.socket);
    let path = format!("/v1/services/{FIRST}/flows");
    let mut times = Vec::new();
    for _ in 0..effort.rounds {
        let begun = Instant::now();
        let flows: Flows = client.get(&path)?;
        times.push(since(begun));
        ensure!(flows.total >= u64::from(MILLION) * 95 / 100, "{} flows only", flows.total);
    }
    at_most("the daemon asked for 50 of 1 M flows", &times, WANTED)
}
