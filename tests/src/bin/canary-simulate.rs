//! What the evidence does over whole rollouts: how often it is wrong, and how
//! soon it is right. Counts alone, with a fixed seed; no kernel, no network.
//! `cargo run --release -p canary-tests --bin canary-simulate`.
#![allow(clippy::print_stdout, reason = "its output is for people")]

use canary::evidence::{Epoch, Outcomes, harm, harm_beyond, safe};
use canary_tests::random::Random;

/// Rollouts of each row.
const ROLLOUTS: u32 = 10_000;
/// Looks at each rollout, and connections between two.
const LOOKS: u32 = 300;
const BETWEEN: u64 = 500;
/// What is asked for: false rollbacks, false promotions.
const ALPHA: f64 = 0.01;
const BETA: f64 = 0.05;
const BASE: f64 = 0.001;

/// How many of `n` happen, each with this probability: by the distances
/// between them, which are geometric.
fn binomial(random: &mut Random, n: u64, probability: f64) -> u64 {
    if probability <= 0.0 {
        return 0;
    }
    let ln_not = (1.0 - probability).ln();
    let (mut happened, mut at) = (0, 0.0);
    loop {
        at += (random.unit().max(f64::MIN_POSITIVE).ln() / ln_not).floor() + 1.0;
        if at > n as f64 {
            return happened;
        }
        happened += 1;
    }
}

/// A rollout: the share and stable's rate at each look, and the canary's rate
/// as a multiple of stable's.
struct Scene {
    name: &'static str,
    shares: fn(u32) -> f64,
    base: fn(u32) -> f64,
    ratio: f64,
}

fn steps(look: u32) -> f64 {
    [0.01, 0.05, 0.25, 0.5][(look * 4 / LOOKS) as usize]
}

fn drifting(look: u32) -> f64 {
    let phase = f64::from(look) / f64::from(LOOKS) * std::f64::consts::TAU;
    BASE * (1.0 + 0.9 * phase.sin())
}

/// Plays one, and looks: the look at which `over` was so first.
fn play(scene: &Scene, random: &mut Random, mut over: impl FnMut(&[Epoch]) -> bool) -> Option<u32> {
    let mut epochs: Vec<Epoch> = Vec::new();
    for look in 0..LOOKS {
        let share = (scene.shares)(look);
        if epochs.last().is_none_or(|epoch| epoch.share < share) {
            epochs.push(Epoch { share, ..Epoch::default() });
        }
        let rate = (scene.base)(look);
        let canary = binomial(random, BETWEEN, share);
        let index = epochs.len() - 1;
        let book = |to: &mut Outcomes, connections: u64, bad: u64| {
            to.connections += connections;
            to.bad += bad;
        };
        let bad = binomial(random, canary, rate * scene.ratio);
        book(&mut epochs[index].canary, canary, bad);
        let bad = binomial(random, BETWEEN - canary, rate);
        book(&mut epochs[index].stable, BETWEEN - canary, bad);
        if over(&epochs) {
            return Some(look);
        }
    }
    None
}

fn harmed(epochs: &[Epoch]) -> bool {
    harm(epochs, 1.0) >= -ALPHA.ln()
}

/// What others do: the canary's rate above stable's by half, from 100
/// connections on.
fn above_threshold(epochs: &[Epoch]) -> bool {
    let sum = |of: fn(&Epoch) -> Outcomes| {
        epochs.iter().map(of).fold((0, 0), |sum, o| (sum.0 + o.connections, sum.1 + o.bad))
    };
    let rate = |(connections, bad): (u64, u64)| bad as f64 / connections.max(1) as f64;
    let (canary, stable) = (sum(|e| e.canary), sum(|e| e.stable));
    canary.0 >= 100 && canary.1 > 0 && rate(canary) > 1.5 * rate(stable)
}

fn share_of(scene: &Scene, over: fn(&[Epoch]) -> bool) -> f64 {
    let mut random = Random::new(1);
    let over = (0..ROLLOUTS).filter(|_| play(scene, &mut random, over).is_some()).count();
    over as f64 / f64::from(ROLLOUTS) * 100.0
}

fn false_rollbacks() {
    println!("Canary equal to stable, {LOOKS} looks, {ROLLOUTS} rollouts: rolled back");
    println!("  {:<34} {:>10} {:>10} {:>18}", "", "ratio", "margin", "fixed threshold");
    for (name, shares, base) in [
        ("5 %, constant rate", (|_| 0.05) as fn(u32) -> f64, (|_| BASE) as fn(u32) -> f64),
        ("1, 5, 25, 50 %, constant rate", steps, |_| BASE),
        ("1, 5, 25, 50 %, drifting rate", steps, drifting),
    ] {
        let scene = Scene { name, shares, base, ratio: 1.0 };
        let margin = |epochs: &[Epoch]| harm_beyond(epochs, 0.0) >= -ALPHA.ln();
        println!(
            "  {:<34} {:>8.2} % {:>8.2} % {:>16.2} %",
            scene.name,
            share_of(&scene, harmed),
            share_of(&scene, margin),
            share_of(&scene, above_threshold)
        );
    }
}

/// Connections in all until it is out, one look a connection of the canary's
/// that went bad: nothing else can carry it over the bound.
fn delay(random: &mut Random, share: f64, rate: f64) -> u64 {
    let mut epoch = Epoch { share, ..Epoch::default() };
    loop {
        let canary = random.unit() < share;
        let (of, rate) = if canary { (&mut epoch.canary, rate) } else { (&mut epoch.stable, BASE) };
        of.connections += 1;
        if random.unit() < rate {
            of.bad += 1;
            if canary && harmed(&[epoch]) {
                return epoch.canary.connections + epoch.stable.connections;
            }
        }
    }
}

fn delays() {
    println!(
        "\nStable {:.1} % bad: connections in all until rollback, median of 2,001",
        BASE * 100.0
    );
    println!("  {:<20} {:>9} {:>9} {:>9}", "", "1 %", "5 %", "25 %");
    for rate in [0.01, 0.05, 1.0] {
        let medians = [0.01, 0.05, 0.25].map(|share| {
            let mut random = Random::new(2);
            let mut all: Vec<u64> = (0..2001).map(|_| delay(&mut random, share, rate)).collect();
            all.sort_unstable();
            all[all.len() / 2]
        });
        let [a, b, c] = medians;
        println!("  canary {:>5.1} % bad   {a:>9} {b:>9} {c:>9}", rate * 100.0);
    }
}

fn promotions() {
    const TOLERATED: f64 = 2.0;
    const MARGIN: f64 = 0.001;
    println!("\nSafe at 25 %, tolerated twice or {MARGIN} more, {ROLLOUTS} rollouts of 150,000");
    for (name, ratio) in [("equal to stable", 1.0), ("at the margin", TOLERATED)] {
        let scene = Scene { name, shares: |_| 0.25, base: |_| BASE, ratio };
        let mut random = Random::new(3);
        let over = |epochs: &[Epoch]| safe(epochs, TOLERATED, MARGIN) >= -BETA.ln();
        let mut when: Vec<u32> =
            (0..ROLLOUTS).filter_map(|_| play(&scene, &mut random, over)).collect();
        when.sort_unstable();
        let half = when.get(ROLLOUTS as usize / 2).map(|look| u64::from(look + 1) * BETWEEN);
        println!(
            "  canary {:<18} promoted {:>6.2} %, half of them by {}",
            scene.name,
            when.len() as f64 / f64::from(ROLLOUTS) * 100.0,
            half.map_or("-".to_owned(), |connections| connections.to_string())
        );
    }
}

fn main() {
    false_rollbacks();
    delays();
    promotions();
}
