//! The flow table alone, under two CPUs: both run the real program over the
//! same flows in the same few buckets, for a minute, while user space sweeps.
//! No record may be torn, lost or doubled.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use canary::dataplane::{Dataplane, OpenOptions};
use canary_common::Track;
use canary_tests::{
    frame::{ACK, FIN, Frame, RST, SYN},
    netns::in_new_namespace,
    plane::{INGRESS, NewBackend, Plane, TX},
    random::Random,
};

const TIME: Duration = Duration::from_secs(60);
/// Between two quiet moments, in which the table is checked.
const ROUND: Duration = Duration::from_millis(500);
/// Thirty-two ways; more flows than that, so that ways change hands.
const ROOM: u32 = 16;
const CHURNING: u16 = 96;
/// Flows that are established first and must never be missed.
const STEADY: u16 = 12;
const ISN: u32 = 5000;

fn vip() -> SocketAddr {
    "203.0.113.10:80".parse().unwrap()
}

fn stable() -> SocketAddr {
    "10.0.0.11:8080".parse().unwrap()
}

fn client(port: u16) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 9], port))
}

/// Each flow's frames come from an address of its own: a reply that carries
/// another's was made from a torn record.
fn mac(port: u16) -> [u8; 6] {
    let [a, b] = port.to_be_bytes();
    [2, a, b, a, b, 0x77]
}

fn by_client(port: u16, flags: u8, seq: u32) -> Vec<u8> {
    Frame::tcp(client(port), vip(), flags, seq, 1).macs([2, 0, 0, 0, 0, 2], mac(port)).bytes()
}

fn by_backend(port: u16, flags: u8, ack: u32) -> Vec<u8> {
    Frame::tcp(stable(), client(port), flags, 0, ack).bytes()
}

fn pin_to(cpu: usize) {
    // SAFETY: plain data; zeroes are the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: a valid set and a small number.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: this thread, and the set's own size. Where there is one CPU
    // only, the threads still take turns.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
}

fn run(plane: &Dataplane, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
    let mut out = vec![0; 128];
    let (action, len) = plane.test_run(plane.program(), frame, &mut out)?;
    out.truncate(len);
    Ok((action, out))
}

/// A reply, which must go back to the flow's own address; whether it did.
fn reply(plane: &Dataplane, port: u16, flags: u8, ack: u32) -> Result<bool> {
    let (action, out) = run(plane, &by_backend(port, flags, ack))?;
    if action != TX {
        return Ok(false);
    }
    ensure!(out[..6] == mac(port), "a torn record: flow {port} answered to {:02x?}", &out[..6]);
    Ok(true)
}

fn churn(plane: &Dataplane, random: &mut Random) -> Result<()> {
    let port = 20_000 + random.below(u64::from(CHURNING)) as u16;
    let isn = ISN + random.below(3) as u32 * 100_000;
    run(plane, &by_client(port, SYN, isn))?;
    reply(plane, port, SYN | ACK, isn + 1)?;
    match random.below(6) {
        0 => run(plane, &by_client(port, RST, isn + 1)).map(drop),
        1 => reply(plane, port, RST | ACK, isn + 1).map(drop),
        2 => {
            run(plane, &by_client(port, ACK, isn + 1))?;
            run(plane, &by_client(port, FIN | ACK, isn + 1))?;
            reply(plane, port, FIN | ACK, isn + 1).map(drop)
        }
        _ => Ok(()),
    }
}

/// In a quiet moment: every key once, and every steady flow there.
fn check(plane: &Dataplane) -> Result<()> {
    let table = plane.flow_table();
    let mut keys = BTreeSet::new();
    let mut trouble = Vec::new();
    table.scan(plane.now()?, 0..table.buckets(), &mut |flow| {
        let port = u16::from_be(flow.key.client_port_be);
        if !keys.insert(port) {
            trouble.push(format!("flow {port} is there twice"));
        }
        if flow.backend != 1 || flow.cell != 2 {
            trouble.push(format!("flow {port} has backend {}, cell {}", flow.backend, flow.cell));
        }
    });
    ensure!(trouble.is_empty(), "{trouble:?}");
    let missing: Vec<_> = (0..STEADY).map(|i| 10_000 + i).filter(|p| !keys.contains(p)).collect();
    ensure!(missing.is_empty(), "lost: {missing:?}");
    Ok(())
}

fn work(
    options: &OpenOptions,
    cpu: usize,
    stop: &AtomicBool,
    quiet: &Barrier,
    packets: &AtomicU64,
) -> Result<()> {
    pin_to(cpu);
    // The same maps, by another program: as many CPUs as there are, one table.
    let mut opened = Dataplane::open(options).map(|(plane, _)| plane).map_err(anyhow::Error::from);
    let mut random = Random::new(cpu as u64);
    loop {
        let round = Instant::now();
        while let Ok(plane) = &opened
            && round.elapsed() < ROUND
        {
            let outcome = (0..64).try_for_each(|_| churn(plane, &mut random)).and_then(|()| {
                let port = 10_000 + random.below(u64::from(STEADY)) as u16;
                ensure!(reply(plane, port, ACK, ISN + 1)?, "steady flow {port} has no pin");
                Ok(())
            });
            packets.fetch_add(64 * 3, Ordering::Relaxed);
            // A failure, too, goes on round the barrier: the others wait there.
            if let Err(error) = outcome {
                opened = Err(error);
            }
        }
        // Quiet, checked by the other side, and on.
        quiet.wait();
        quiet.wait();
        if stop.load(Ordering::SeqCst) {
            return opened.map(drop);
        }
    }
}

#[test]
fn two_cpus_on_the_same_buckets_for_a_minute() {
    let body = || {
        let mut bed = Plane::new(ROOM)?;
        bed.service(1, vip(), false, 0)?;
        bed.backend(&NewBackend {
            number: 1,
            service: 1,
            track: Track::Stable,
            vip: vip(),
            address: stable(),
            udp: false,
            ifindex: INGRESS,
            resolved: true,
            shares_with: None,
        })?;
        bed.weights(1, 0.0, &[1], &[])?;
        // Long enough that only what is closed or evicted goes.
        bed.timeouts(1, 100_000)?;
        for port in 10_000..10_000 + STEADY {
            bed.run(&by_client(port, SYN, ISN))?;
            bed.run(&by_backend(port, SYN | ACK, ISN + 1))?;
            bed.run(&by_client(port, ACK, ISN + 1))?;
        }
        let options = bed.options();
        let plane = bed.get();
        check(plane).context("before")?;
        let (stop, packets) = (AtomicBool::new(false), AtomicU64::new(0));
        let quiet = Barrier::new(3);
        let (options, stop, quiet, packets) = (&options, &stop, &quiet, &packets);
        std::thread::scope(|scope| {
            let workers =
                [0, 1].map(|cpu| scope.spawn(move || work(options, cpu, stop, quiet, packets)));
            let begun = Instant::now();
            let mut outcome = Ok(());
            while !stop.load(Ordering::SeqCst) {
                let table = plane.flow_table();
                let round = Instant::now();
                while outcome.is_ok() && round.elapsed() < ROUND {
                    outcome = plane.now().map_err(anyhow::Error::from).map(|now| {
                        table.sweep(now, 0..table.buckets(), &mut |_| ());
                    });
                }
                quiet.wait();
                outcome = outcome.and_then(|()| check(plane));
                let over = outcome.is_err() || begun.elapsed() >= TIME;
                stop.store(over, Ordering::SeqCst);
                quiet.wait();
            }
            for worker in workers {
                worker.join().unwrap()?;
            }
            outcome
        })?;
        let packets = packets.load(Ordering::Relaxed);
        eprintln!("{packets} packets and more, none torn, lost or doubled");
        ensure!(packets > 100_000, "only {packets} packets");
        Ok(())
    };
    in_new_namespace(["cny-a", "cny-b"], body).unwrap();
}
