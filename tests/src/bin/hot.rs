//! What a packet costs, and how exact a split is: figures of the real program
//! under test runs. Run as root:
//! `cargo run --release -p canary-tests --bin canary-bench`.
#![allow(clippy::print_stdout, reason = "its output is for people")]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use canary::dataplane::Steering;
use canary_common::{Cidr, EXCHANGE_FRAME, MAX_STEERED, Signals, Track};
use canary_tests::{
    bench::{self, CLIENT_SEQ, Exchanging, Extra, Row, SERVER_SEQ},
    frame::{ACK, Frame, SYN},
    netns::in_new_namespace,
    plane::{BACKEND_MAC, INGRESS, NewBackend, OWN_MAC, PASS, Plane, TX},
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
        let only = std::env::args().nth(1).unwrap_or_default();
        if only != "s" { costs(false)?; costs(true)?; }
        if only != "c" { signals(false)?; }
        Ok(())
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
fn bed(vip: SocketAddr, signals: u16) -> Result<Plane> {
    let mut plane = Plane::with_signals(262_144, signals)?;
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
    let (vip, client) = ends(v6)?;
    let mut plane = bed(vip, Signals::ALL)?;
    let frame = |frame: Frame| frame.ttl(255).macs(BACKEND_MAC, OWN_MAC).bytes();
    let syn = frame(Frame::tcp(client, vip, SYN, CLIENT_SEQ - 1, 0));
    let ack = frame(Frame::tcp(client, vip, ACK, CLIENT_SEQ, SERVER_SEQ));
    let reply = frame(Frame::tcp(vip, client, ACK, SERVER_SEQ, CLIENT_SEQ));
    let other = frame(Frame::tcp(client, "192.0.2.1:9".parse()?, ACK, 1, 1));
    handshake(&mut plane, client, vip)?;
    // Flows that are over when they begin: each packet opens one.
    let mut opening = bed(vip, Signals::ALL)?;
    opening.timeouts(1, u32::MAX)?;
    let extra = Extra::load()?;
    let (program, opening) = (plane.path()?, opening.path()?);
    let mut rows = [
        Row::new("MACs swapped (reference)", extra.reference()?, &ack, TX),
        Row::new("established, to the backend", program, &ack, TX),
        Row::new("established, to the client", program, &reply, TX),
        Row::new("not ours", program, &other, PASS),
        Row::new("new flow", opening, &syn, TX),
    ];
    bench::alternate(&mut rows, ROUNDS, REPEAT)?;
    let family = if v6 { 6 } else { 4 };
    println!("\nIPv{family}, nanoseconds a packet, one hot flow ({ROUNDS} rounds)");
    bench::print_ratios(&rows)
}

/// Requests and responses of one keep-alive connection, in turns, with none,
/// each, and all of the signals in the program.
fn signals(v6: bool) -> Result<()> {
    let (vip, client) = ends(v6)?;
    let mut sets = vec![("no signals", 0)];
    sets.extend(Signals::NAMES);
    sets.push(("all", Signals::ALL));
    let mut beds = Vec::new();
    for (name, signals) in sets {
        let mut plane = bed(vip, signals)?;
        handshake(&mut plane, client, vip)?;
        let exchange = Exchanging::around(plane.path()?, client, vip)?;
        beds.push((name, signals, plane, exchange));
    }
    let extra = Extra::load()?;
    let alone = Exchanging::around(extra.reference()?, client, vip)?;
    let frame = [0; EXCHANGE_FRAME];
    let mut rows = vec![Row::new("MACs swapped (reference)", alone.program()?, &frame, TX)];
    for (name, _, _, exchange) in &beds {
        rows.push(Row::new(name, exchange.program()?, &frame, TX));
    }
    bench::alternate(&mut rows, ROUNDS, REPEAT)?;
    let family = if v6 { 6 } else { 4 };
    println!("\nIPv{family}, nanoseconds a packet of a request or a response with data");
    println!("(over: median difference to \"no signals\" in the same round)");
    bench::print_differences(&rows, 1)?;
    let runs = ROUNDS as u64 * u64::from(REPEAT);
    beds.iter_mut().try_for_each(|(name, signals, plane, _)| {
        all_were_read(plane, *signals, runs / 2).with_context(|| format!("signals: {name}"))
    })
}

/// What was timed did what it is timed for.
fn all_were_read(plane: &mut Plane, signals: u16, requests: u64) -> Result<()> {
    let (cell, _) = plane.counters(1)?;
    let times = plane.get().latencies(2).first_byte.count();
    let responses = if signals & Signals::HTTP != 0 { requests } else { 0 };
    let waits = if signals & Signals::LATENCY != 0 { requests } else { 0 };
    ensure!(cell.packets_in == requests + 2, "{} packets to the backend", cell.packets_in);
    ensure!(cell.packets_out == requests + 1, "{} packets from it", cell.packets_out);
    ensure!(cell.http_2xx == responses, "{} of {responses} responses", cell.http_2xx);
    ensure!(times == waits, "{times} of {waits} times");
    ensure!(cell.retransmits_backend + cell.retransmits_client == 0, "sent again");
    Ok(())
}

fn ends(v6: bool) -> Result<(SocketAddr, SocketAddr)> {
    Ok(if v6 {
        ("[2001:db8::10]:80".parse()?, "[2001:db8:1::7]:40000".parse()?)
    } else {
        ("203.0.113.10:80".parse()?, "198.51.100.7:40000".parse()?)
    })
}

/// Opens the connection that the benchmark's packets are of.
fn handshake(plane: &mut Plane, client: SocketAddr, vip: SocketAddr) -> Result<()> {
    for frame in [
        Frame::tcp(client, vip, SYN, CLIENT_SEQ - 1, 0),
        Frame::tcp(vip, client, SYN | ACK, SERVER_SEQ - 1, CLIENT_SEQ),
        Frame::tcp(client, vip, ACK, CLIENT_SEQ, SERVER_SEQ),
    ] {
        let ran = plane.run(&frame.macs(BACKEND_MAC, OWN_MAC).bytes())?;
        ensure!(ran.action == TX, "{ran:?}");
    }
    Ok(())
}

