//! What the evidence does over whole rollouts: how often it is wrong, and how
//! soon it is right. Counts alone, with a fixed seed; no kernel, no network.

pub mod failures;
pub mod rivals;
pub mod times;
pub mod together;

use std::{num::NonZero, sync::Mutex, thread};

use crate::random::Random;

/// What is asked for: false rollbacks, false promotions.
pub const ALPHA: f64 = 0.01;
pub const BETA: f64 = 0.05;
/// Stable's rate of bad connections, where no other is named.
pub const BASE: f64 = 0.001;

/// Plays so many rollouts, each with random numbers of its own: the outcome
/// does not depend on how many processors share the work.
pub fn each<T: Send>(rollouts: u32, seed: u64, play: impl Fn(&mut Random) -> T + Sync) -> Vec<T> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get) as u32;
    let all = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for first in 0..threads {
            let (play, all) = (&play, &all);
            scope.spawn(move || {
                let mine = (first..rollouts).step_by(threads as usize);
                let mine = mine.map(|i| (i, play(&mut Random::new(seed << 32 | u64::from(i)))));
                let mine: Vec<(u32, T)> = mine.collect();
                if let Ok(mut all) = all.lock() {
                    all.extend(mine);
                }
            });
        }
    });
    let mut all = all.into_inner().unwrap_or_default();
    all.sort_unstable_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, outcome)| outcome).collect()
}

/// The share of rollouts, a percentage.
pub fn percentage(outcomes: &[bool]) -> f64 {
    let so = outcomes.iter().filter(|so| **so).count();
    so as f64 / outcomes.len().max(1) as f64 * 100.0
}

/// Where half of all have got to; `None` stands for never.
pub fn median(mut when: Vec<Option<u64>>) -> Option<u64> {
    when.sort_unstable_by_key(|when| when.unwrap_or(u64::MAX));
    when.get(when.len() / 2).copied().flatten()
}

/// How many of `n` happen, each with this probability: by the distances
/// between them, which are geometric.
pub fn binomial(random: &mut Random, n: u64, probability: f64) -> u64 {
    if probability > 0.5 {
        return n - binomial(random, n, 1.0 - probability);
    }
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

/// "-" for never.
pub fn shown(median: Option<u64>) -> String {
    median.map_or("-".to_owned(), |median| median.to_string())
}

/// The short run: enough to notice a null that is broken, and a delay that
/// grew.
#[cfg(test)]
mod tests {
    use super::*;

    const ROLLOUTS: u32 = 2000;

    #[test]
    fn draws_are_binomial() {
        let mut random = Random::new(5);
        for probability in [0.0, 0.001, 0.3, 0.7, 1.0] {
            let drawn: u64 = (0..1000).map(|_| binomial(&mut random, 1000, probability)).sum();
            let (mean, expected) = (drawn as f64 / 1e6, probability);
            let error = 5.0 * (expected * (1.0 - expected) / 1e6).sqrt();
            assert!((mean - expected).abs() <= error, "{mean} for {expected}");
        }
    }

    #[test]
    fn a_canary_like_stable_is_rarely_rolled_back() {
        for scene in failures::SCENES {
            let rolled_back = failures::false_rollbacks(&scene, ROLLOUTS);
            assert!(rolled_back <= 1.5, "{}: {rolled_back} %", scene.name);
            // And the test can fail: a canary twice as bad is, often.
            let worse = failures::Scene { ratio: 2.0, ..scene };
            let rolled_back = failures::false_rollbacks(&worse, 200);
            assert!(rolled_back > 20.0, "{} twice as bad: {rolled_back} %", scene.name);
        }
    }

    #[test]
    fn harm_is_found_as_soon_as_it_was() {
        for (rate, share, design) in failures::DESIGNED {
            let delay = failures::median_delay(share, rate, 501).expect("is found") as f64;
            assert!((delay / design - 1.0).abs() < 0.2, "{rate} at {share}: {delay} of {design}");
        }
    }

    #[test]
    fn what_is_at_the_margin_is_rarely_promoted() {
        let (promoted, _) = failures::promotions(2.0, 0.25, 1000);
        assert!(promoted <= 6.0, "{promoted} %");
        let (promoted, _) = failures::promotions(1.0, 0.25, 200);
        assert!(promoted > 80.0, "{promoted} %");
    }

    #[test]
    fn equal_times_are_rarely_found_slower() {
        let rolled_back = times::false_rollbacks(300, 1000);
        assert!(rolled_back <= 1.5, "{rolled_back} %");
        let slow = times::median_delay(&times::CHANGES[1], 51);
        assert!(slow.is_some_and(|slow| slow < 10_000), "{slow:?}");
    }

    #[test]
    fn the_last_step_is_as_careful() {
        for record in [20, 1000] {
            let rolled_back = together::false_rollbacks_at_the_end(record, ROLLOUTS);
            assert!(rolled_back <= 1.5, "{record} on record: {rolled_back} %");
        }
    }

    #[test]
    fn a_whole_judgement_is_as_careful() {
        let rolled_back = together::false_rollbacks(100);
        assert!(rolled_back <= 3.0, "{rolled_back} %");
        let delay = together::median_delay(0.05, 0.05, 51);
        assert!(delay.is_some_and(|delay| delay < 2500), "{delay:?}");
    }
}
