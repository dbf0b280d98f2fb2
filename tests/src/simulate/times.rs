//! Times: a log-normal distribution, by the histogram's buckets.

use canary::evidence::{LatencyEpoch, Reference, slower};
use canary_common::Histogram;

use super::{ALPHA, each, median, percentage};
use crate::random::Random;

type Counts = [u64; Histogram::BUCKETS];

/// Half of all times are below, in seconds.
const HALF: f64 = 0.01;
/// Of their logarithms: one in a hundred takes more than three times as long.
const DEVIATION: f64 = 0.5;
/// Draws that a distribution is made from; it is exactly these.
const DRAWS: usize = 1 << 18;

/// What the canary does to a time.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub name: &'static str,
    pub slow: fn(f64, &mut Random) -> f64,
}

pub const CHANGES: [Change; 3] = [
    Change { name: "10 % longer", slow: |time, _| time * 1.1 },
    Change { name: "25 % longer", slow: |time, _| time * 1.25 },
    Change {
        name: "2 % of them 200 ms longer",
        slow: |time, random| if random.one_in(50) { time + 0.2 } else { time },
    },
];

/// A distribution: buckets, each as often as it was drawn.
#[derive(Debug)]
struct Times(Vec<u8>);

impl Times {
    fn new(seed: u64, slow: fn(f64, &mut Random) -> f64) -> Self {
        let mut random = Random::new(seed);
        let mut draw = || {
            let time = slow(HALF * (DEVIATION * normal(&mut random)).exp(), &mut random);
            Histogram::bucket((time * 1e9 / 256.0) as u32) as u8
        };
        Self((0..DRAWS).map(|_| draw()).collect())
    }

    fn draw(&self, random: &mut Random) -> usize {
        usize::from(random.of(&self.0))
    }

    fn histogram(&self, random: &mut Random, times: u64) -> Counts {
        let mut counts = [0; Histogram::BUCKETS];
        for _ in 0..times {
            counts[self.draw(random)] += 1;
        }
        counts
    }
}

/// Box and Muller's.
fn normal(random: &mut Random) -> f64 {
    let radius = (-2.0 * random.unit().max(f64::MIN_POSITIVE).ln()).sqrt();
    radius * (random.unit() * std::f64::consts::TAU).cos()
}

/// Plays until the canary is found slower: connections in all. A look every
/// `between`.
fn play(
    random: &mut Random,
    [stable, canary]: [&Times; 2],
    before: u64,
    looks: u64,
    between: u64,
) -> Option<u64> {
    const SHARE: f64 = 0.05;
    let reference = Reference::new(&stable.histogram(random, before));
    let none = [0; Histogram::BUCKETS];
    let mut epoch = LatencyEpoch { share: SHARE, weight: 1.0, canary: none, stable: none };
    (1..=looks).find_map(|look| {
        for _ in 0..between {
            if random.unit() < SHARE {
                epoch.canary[canary.draw(random)] += 1;
            } else {
                epoch.stable[stable.draw(random)] += 1;
            }
        }
        let over = slower(std::slice::from_ref(&epoch), &reference, 0) >= -ALPHA.ln();
        over.then_some(look * between)
    })
}

const fn same(time: f64, _: &mut Random) -> f64 {
    time
}

/// Percentage of rollouts with equal times in which the canary is found slower,
/// with so many of stable's times from before.
pub fn false_rollbacks(before: u64, rollouts: u32) -> f64 {
    let times = Times::new(4, same);
    let outcomes =
        each(rollouts, 5, |random| play(random, [&times, &times], before, 200, 250).is_some());
    percentage(&outcomes)
}

/// Connections in all until a canary with this change is out, half of the time;
/// 10,000 times are from before.
pub fn median_delay(change: &Change, rollouts: u32) -> Option<u64> {
    let (stable, canary) = (Times::new(4, same), Times::new(5, change.slow));
    median(each(rollouts, 6, |random| play(random, [&stable, &canary], 10_000, 1000, 100)))
}
