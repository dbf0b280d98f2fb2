//! The program in the kernel and a model of it in plain Rust, driven by the
//! same random steps: verdict, every byte, pins and counters must agree.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::{borrow::Cow, time::Instant};

use anyhow::{Result, ensure};
use canary_tests::{
    frame::{ACK, FIN, RST, SYN},
    model::{
        driver::{self, Ended},
        real::Real,
        step::{By, Edit, PKT, Pkt, Step},
        tiny,
    },
    netns::{ifindex, in_new_namespace},
};

/// So many that no bucket fills: the model has no buckets.
const FLOWS: u32 = 16_384;

/// Steps and seed by environment, for the long run.
fn from_environment(name: &str, usual: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.replace('_', "").parse().unwrap(),
        Err(_) => usual,
    }
}

fn with_program(flows: u32, body: impl FnOnce(&mut Real) -> Result<()> + Send) {
    in_new_namespace(["cny-a", "cny-b"], || body(&mut Real::new(flows, ifindex("cny-a")?)?))
        .unwrap();
}

fn agree(steps: u64, seed: u64, mutated: bool) {
    let steps = from_environment("CANARY_MODEL_STEPS", steps) as usize;
    let seed = from_environment("CANARY_MODEL_SEED", seed);
    with_program(FLOWS, |real| {
        let began = Instant::now();
        let tally = driver::run(real, seed, steps, mutated)?;
        let per_second = tally.steps as f64 / began.elapsed().as_secs_f64();
        println!("seed {seed}: {tally:?}, {per_second:.0} steps a second");
        ensure!(tally.cut_short * 100 <= tally.episodes, "buckets fill: {tally:?}");
        let ordered = [tally.by_order, tally.diverted, tally.steered];
        ensure!(ordered.iter().all(|met| met * 10_000 > steps as u64), "too rare: {tally:?}");
        Ok(())
    });
}

#[test]
fn random_steps() {
    agree(50_000, 1, false);
}

#[test]
fn mutated_frames() {
    agree(20_000, 2, true);
}

/// Thirty-two ways, and twenty times as many flows.
#[test]
fn a_small_table_keeps_what_is_established() {
    let steps = from_environment("CANARY_MODEL_STEPS", 50_000) as usize;
    let seed = from_environment("CANARY_MODEL_SEED", 3);
    with_program(16, |real| {
        let tally = tiny::run(real, seed, steps)?;
        println!("seed {seed}: {tally:?}");
        ensure!(tally.evicted * 100 > tally.steps as u64, "nothing had to make room: {tally:?}");
        ensure!(tally.kept > tally.steps, "nothing was established: {tally:?}");
        Ok(())
    });
}

/// Cases that failed once, in short, and what they are about.
const REGRESSIONS: &[(&str, &[Step])] = &[
    (
        "a SYN-ACK answers a flow that was met in the middle",
        &[
            Step::Packet(Pkt { service: 3, flags: 0, ..PKT }),
            Step::Packet(Pkt { service: 3, by: By::Pinned, flags: SYN | ACK, ..PKT }),
        ],
    ),
    (
        "the handshake's last segment brings the second FIN",
        &[
            Step::Packet(Pkt { service: 3, ..PKT }),
            Step::Packet(Pkt { service: 3, by: By::Pinned, flags: FIN, ..PKT }),
            Step::Packet(Pkt { service: 3, by: By::Pinned, flags: SYN | ACK, ack: 1, ..PKT }),
            Step::Packet(Pkt { service: 3, flags: FIN | ACK, ..PKT }),
        ],
    ),
    (
        "a FIN that is not forwarded is not noted",
        &[
            Step::Packet(Pkt { client: 32, port: 2, ..PKT }),
            Step::NextHop { backend: 3, known: false },
            Step::Packet(Pkt { client: 32, port: 2, flags: FIN, ..PKT }),
        ],
    ),
    (
        "a whole connection, its port used again",
        &[
            Step::Packet(PKT),
            Step::Packet(Pkt { by: By::Pinned, flags: SYN | ACK, ack: 1, ..PKT }),
            Step::Packet(Pkt { flags: ACK, seq: 1, len: 100, ..PKT }),
            Step::Packet(Pkt { by: By::Pinned, flags: FIN | ACK, len: 1400, ..PKT }),
            Step::Packet(Pkt { flags: FIN | ACK, ..PKT }),
            Step::Split { service: 0, permille: 1000 },
            Step::Packet(Pkt { seq: 77_777, ..PKT }),
        ],
    ),
    (
        "a RST just inside and just outside of what is believed",
        &[
            Step::Packet(PKT),
            Step::Packet(Pkt { flags: RST, seq: (4 << 20) + 1, ..PKT }),
            Step::Packet(Pkt { flags: RST, seq: 4 << 20, ..PKT }),
        ],
    ),
    (
        "nobody answers, and time passes",
        &[
            Step::Packet(PKT),
            Step::Time { quanta: 2, sweep: true },
            Step::Packet(Pkt { by: By::Backend(0), flags: SYN | ACK, ack: 1, ..PKT }),
        ],
    ),
    (
        "a SYN that finds no backend does not keep the closed flow alive",
        &[
            Step::Packet(PKT),
            Step::Packet(Pkt { flags: RST, ..PKT }),
            Step::Time { quanta: 1, sweep: true },
            Step::Switch { service: 0, masks: [0, 0] },
            Step::Packet(Pkt { seq: 2, ..PKT }),
        ],
    ),
    (
        "a fragment header is not looked behind where four others stand before it",
        &[Step::Mutated(
            Pkt { service: 1, ..PKT },
            Cow::Borrowed(&[
                Edit::Fragment(8, false, 3),
                Edit::Extension(0, 12, 0),
                Edit::Extension(60, 0, 1),
                Edit::Extension(60, 1, 0),
                Edit::Extension(0, 1, 0),
            ]),
        )],
    ),
    (
        "a pin to a backend that was removed is picked again",
        &[
            Step::Packet(PKT),
            Step::Remove { backend: 2, forget: false },
            Step::Remove { backend: 3, forget: false },
            Step::Packet(PKT),
        ],
    ),
];

#[test]
fn regressions() {
    with_program(FLOWS, |real| {
        for (what, case) in REGRESSIONS {
            let ended = driver::replay(real, case)?;
            ensure!(ended == Ended::Agreed, "{what}: {ended:?}");
        }
        Ok(())
    });
}

/// What is not IPv4 is not a client of an IPv4 service, whatever its addresses.
#[test]
fn mapped_addresses_are_not_ours() {
    with_program(FLOWS, |real| {
        let ended = driver::replay(real, &[Step::Mutated(PKT, Cow::Borrowed(&[Edit::Mapped]))])?;
        ensure!(ended == Ended::Agreed, "{ended:?}");
        Ok(())
    });
}
