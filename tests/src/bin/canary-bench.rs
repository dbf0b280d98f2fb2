//! What a packet costs, and how exact a split is: figures of the real program
//! under test runs. Run as root:
//! `cargo run --release -p canary-tests --bin canary-bench`.
#![allow(clippy::print_stdout, reason = "its output is for people")]

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use canary_common::Track;
use canary_tests::{
    frame::{ACK, Frame, SYN},
    netns::in_new_namespace,
    plane::{BACKEND_MAC, INGRESS, NewBackend, OWN_MAC, Plane, TX},
};

/// Alternating rounds, of which the median is shown.
const ROUNDS: usize = 301;
/// Runs of a round: each lowers the TTL, so there is an end to them.
const REPEAT: u32 = 200;
/// First packets for each split.
const CONNECTIONS: u32 = 1_000_000;

fn main() -> Result<()> {
    in_new_namespace(["cny-a", "cny-b"], || {
        verified()?;
        costs(false)?;
        costs(true)?;
        splits()
    })
}

/// What the programs cost the kernel's verifier (Linux 5.16 tells).
fn verified() -> Result<()> {
    let mut plane = Plane::new(1024)?;
    let plane = plane.get();
    for program in [plane.program(), "canary_where"] {
        match plane.xdp(program)?.info()?.verified_instruction_count() {
            Some(count) => println!("{program}: {count} verified instructions"),
            None => println!("{program}: this kernel does not count verified instructions"),
        }
    }
    Ok(())
}

/// A backend that *is* the VIP: translating changes nothing but the TTL, so
/// that a run meets what the one before left.
fn bed(vip: SocketAddr) -> Result<Plane> {
    let mut plane = Plane::new(262_144)?;
    plane.service(1, vip, false, 0)?;
    plane.backend(&NewBackend {
        number: 1,
        service: 1,
        track: Track::Stable,
        vip,
        address: vip,
        udp: false,
        ifindex: INGRESS,
        resolved: true,
        shares_with: None,
    })?;
    plane.weights(1, 0.0, &[1], &[])?;
    plane.timeouts(1, 1_000_000)?;
    Ok(plane)
}

fn costs(v6: bool) -> Result<()> {
    let (vip, client): (SocketAddr, SocketAddr) = if v6 {
        ("[2001:db8::10]:80".parse()?, "[2001:db8:1::7]:40000".parse()?)
    } else {
        ("203.0.113.10:80".parse()?, "198.51.100.7:40000".parse()?)
    };
    let mut plane = bed(vip)?;
    let frame = |frame: Frame| frame.ttl(255).macs(BACKEND_MAC, OWN_MAC).bytes();
    let syn = frame(Frame::tcp(client, vip, SYN, 1000, 0));
    let ack = frame(Frame::tcp(client, vip, ACK, 1001, 9001));
    let reply = frame(Frame::tcp(vip, client, ACK, 9001, 1001));
    let other = frame(Frame::tcp(client, "192.0.2.1:9".parse()?, ACK, 1, 1));
    plane.run(&syn)?;
    plane.run(&frame(Frame::tcp(vip, client, SYN | ACK, 9000, 1001)))?;
    plane.run(&ack)?;
    // Flows that are over when they begin: each packet opens one.
    let mut opening = bed(vip)?;
    opening.timeouts(1, u32::MAX)?;
    plane.get().load_extra("canary_reference")?;
    let mut rows = [
        ("MACs swapped (reference)", Vec::new()),
        ("established, to the backend", Vec::new()),
        ("established, to the client", Vec::new()),
        ("not ours", Vec::new()),
        ("new flow", Vec::new()),
    ];
    for _ in 0..ROUNDS {
        let program = plane.get().program();
        let time = |plane: &mut Plane, program: &str, frame: &[u8], action: u32| {
            let (got, time) = plane.get().time_run(program, frame, REPEAT)?;
            ensure!(got == action, "action {got} of {program}");
            Ok(time.as_nanos() as u64)
        };
        rows[0].1.push(time(&mut plane, "canary_reference", &ack, TX)?);
        rows[1].1.push(time(&mut plane, program, &ack, TX)?);
        rows[2].1.push(time(&mut plane, program, &reply, TX)?);
        rows[3].1.push(time(&mut plane, program, &other, 2)?);
        rows[4].1.push(time(&mut opening, program, &syn, TX)?);
    }
    println!(
        "\nIPv{}, nanoseconds a packet, one hot flow ({ROUNDS} rounds)",
        if v6 { 6 } else { 4 }
    );
    println!("  {:<30} {:>6} {:>6} {:>6} {:>6}", "", "min", "median", "max", "ratio");
    let reference = median(&mut rows[0].1)?;
    for (name, times) in &mut rows {
        let median = median(times)?;
        println!(
            "  {name:<30} {:>6} {median:>6} {:>6} {:>6.2}",
            times[0],
            times[times.len() - 1],
            median as f64 / reference as f64
        );
    }
    Ok(())
}

fn median(times: &mut [u64]) -> Result<u64> {
    times.sort_unstable();
    times.get(times.len() / 2).copied().context("nothing was measured")
}

fn splits() -> Result<()> {
    let vip = "203.0.113.10:80".parse()?;
    println!("\nSplit of {CONNECTIONS} first packets");
    for (split, net) in [(0.001, 1_u8), (0.01, 2), (0.05, 3), (0.5, 4)] {
        let mut plane = Plane::new(2_000_000)?;
        plane.service(1, vip, false, 0)?;
        for (number, track, address) in
            [(1, Track::Stable, "10.0.0.11:8080"), (2, Track::Canary, "10.0.0.21:8080")]
        {
            plane.backend(&NewBackend {
                number,
                service: 1,
                track,
                vip,
                address: address.parse()?,
                udp: false,
                ifindex: INGRESS,
                resolved: true,
                shares_with: None,
            })?;
        }
        plane.weights(1, split, &[1], &[2])?;
        let mut out = [0; 128];
        let program = plane.get().program();
        for i in 0..CONNECTIONS {
            let [_, b, c, d] = (i / 60_000).to_be_bytes();
            let address = Ipv4Addr::new(10 + net, b, c, d);
            let client = SocketAddr::from((address, 1024 + (i % 60_000) as u16));
            let frame = Frame::tcp(client, vip, SYN, 1, 0).bytes();
            plane.get().test_run(program, &frame, &mut out)?;
        }
        let canary = plane.counters(2)?.0.connections;
        let all = canary + plane.counters(1)?.0.connections;
        ensure!(all == u64::from(CONNECTIONS), "{all} were counted");
        let share = canary as f64 / all as f64;
        let deviation = (split * (1.0 - split) / all as f64).sqrt();
        println!(
            "  configured {:>5.1} %  achieved {:>8.4} %  relative error {:>+7.3} %  ({:>+5.2} standard deviations)",
            split * 100.0,
            share * 100.0,
            (share / split - 1.0) * 100.0,
            (share - split) / deviation
        );
    }
    Ok(())
}
