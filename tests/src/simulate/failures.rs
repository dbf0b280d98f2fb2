//! Failures of one kind, by the tests of evidence alone.

use canary::evidence::{Epoch, Outcomes, harm, harm_beyond, safe};

use super::{ALPHA, BASE, BETA, binomial, each, median, percentage};
use crate::random::Random;

/// Looks at each rollout, and connections between two.
pub const LOOKS: u32 = 300;
pub const BETWEEN: u64 = 500;

/// A rollout: the share and stable's rate at each look, and the canary's rate
/// as a multiple of stable's.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    pub name: &'static str,
    pub share: fn(u32) -> f64,
    pub base: fn(u32) -> f64,
    pub ratio: f64,
    /// So many clients, which stay with their version and differ in how many
    /// connections they make; 0: every connection for itself.
    pub clients: u64,
}

pub const SCENES: [Scene; 4] = [
    Scene { name: "5 %, constant rate", share: |_| 0.05, base: constant, ratio: 1.0, clients: 0 },
    Scene {
        name: "1, 5, 25, 50 %, constant rate",
        share: steps,
        base: constant,
        ratio: 1.0,
        clients: 0,
    },
    Scene {
        name: "1, 5, 25, 50 %, drifting rate",
        share: steps,
        base: drifting,
        ratio: 1.0,
        clients: 0,
    },
    Scene {
        name: "the same, 1,000 clients that stay",
        share: steps,
        base: drifting,
        ratio: 1.0,
        clients: 1000,
    },
];

const fn constant(_: u32) -> f64 {
    BASE
}

pub(super) fn steps(look: u32) -> f64 {
    [0.01, 0.05, 0.25, 0.5][(look * 4 / LOOKS).min(3) as usize]
}

fn drifting(look: u32) -> f64 {
    let phase = f64::from(look) / f64::from(LOOKS) * std::f64::consts::TAU;
    BASE * (1.0 + 0.9 * phase.sin())
}

/// The share of connections where so many clients, each with a number of them
/// that is exponential, are on the canary with probability `share`.
fn realised(random: &mut Random, share: f64, clients: u64) -> f64 {
    let (mut canary, mut all) = (0.0, 0.0);
    for _ in 0..clients {
        let connections = -random.unit().max(f64::MIN_POSITIVE).ln();
        all += connections;
        if random.unit() < share {
            canary += connections;
        }
    }
    canary / all
}

/// Plays one, and looks: the look at which `over` was so first. Where only the
/// canary's failures can bring that about, `at_failures` spares other looks.
pub fn play(
    scene: &Scene,
    random: &mut Random,
    at_failures: bool,
    mut over: impl FnMut(&[Epoch]) -> bool,
) -> Option<u32> {
    let mut epochs: Vec<Epoch> = Vec::new();
    let (mut configured, mut true_share) = (0.0, 0.0);
    for look in 0..LOOKS {
        let share = (scene.share)(look);
        if share > configured {
            configured = share;
            true_share = match scene.clients {
                0 => share,
                clients => realised(random, share, clients),
            };
            epochs.push(Epoch { share, ..Epoch::default() });
        }
        let rate = (scene.base)(look);
        let canary = binomial(random, BETWEEN, true_share);
        let bad = binomial(random, canary, (rate * scene.ratio).min(1.0));
        let stable_bad = binomial(random, BETWEEN - canary, rate);
        let Some(epoch) = epochs.last_mut() else { continue };
        book(&mut epoch.canary, canary, bad);
        book(&mut epoch.stable, BETWEEN - canary, stable_bad);
        if scene.clients > 0 {
            let (canary, stable) = (epoch.canary.connections, epoch.stable.connections);
            epoch.share = canary as f64 / (canary + stable) as f64;
        }
        if (bad > 0 || !at_failures) && over(&epochs) {
            return Some(look);
        }
    }
    None
}

fn book(to: &mut Outcomes, connections: u64, bad: u64) {
    to.connections += connections;
    to.bad += bad;
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

fn rolled_back(scene: &Scene, rollouts: u32, over: fn(&[Epoch]) -> bool) -> f64 {
    let outcomes = each(rollouts, 1, |random| play(scene, random, true, over).is_some());
    percentage(&outcomes)
}

/// Percentage of rollouts that the ratio's test rolls back.
pub fn false_rollbacks(scene: &Scene, rollouts: u32) -> f64 {
    rolled_back(scene, rollouts, harmed)
}

/// By ratio, by margin, and by a fixed threshold.
pub fn false_rollbacks_beside(scene: &Scene, rollouts: u32) -> [f64; 3] {
    let margin = |epochs: &[Epoch]| harm_beyond(epochs, 0.0) >= -ALPHA.ln();
    [harmed, margin, above_threshold].map(|over| rolled_back(scene, rollouts, over))
}

/// The medians that the test was designed for, connections in all: the canary's
/// rate and its share, with stable's rate at [`BASE`].
pub const DESIGNED: [(f64, f64, f64); 6] = [
    (0.01, 0.01, 37_000.0),
    (0.01, 0.05, 8700.0),
    (0.01, 0.25, 2300.0),
    (0.05, 0.01, 3800.0),
    (0.05, 0.05, 1100.0),
    (0.05, 0.25, 300.0),
];

/// Connections in all until harm is found, half of the time.
pub fn median_delay(share: f64, rate: f64, rollouts: u32) -> Option<u64> {
    median(each(rollouts, 2, |random| Some(delay(random, share, rate))))
}

/// One look a connection of the canary's that went bad: nothing else can carry
/// it over the bound.
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

/// Of canaries that fail `ratio` times as often as stable: the percentage that
/// is found safe within all looks, twice or 0.1 % more being tolerated, and the
/// connections in all by which half of them were.
pub fn promotions(ratio: f64, share: f64, rollouts: u32) -> (f64, Option<u64>) {
    let over = |epochs: &[Epoch]| safe(epochs, 2.0, 0.001) >= -BETA.ln();
    let when: Vec<Option<u64>> = each(rollouts, 3, |random| {
        let mut epoch = Epoch { share, ..Epoch::default() };
        (1..=u64::from(LOOKS)).find_map(|look| {
            let canary = binomial(random, BETWEEN, share);
            book(&mut epoch.canary, canary, 0);
            book(&mut epoch.stable, BETWEEN - canary, 0);
            epoch.canary.bad += binomial(random, canary, BASE * ratio);
            epoch.stable.bad += binomial(random, BETWEEN - canary, BASE);
            over(&[epoch]).then_some(look * BETWEEN)
        })
    });
    let promoted: Vec<bool> = when.iter().map(Option::is_some).collect();
    (percentage(&promoted), median(when))
}
