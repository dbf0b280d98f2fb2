//! Whole judgements: all metrics, and the last step.

use std::time::Instant;

use canary::{
    config::Evidence,
    evidence::Outcomes,
    judge::{EpochCounts, Metric, Seen, TrackCounts, Verdict, judge, last},
};
use canary_common::Histogram;

use super::{ALPHA, BASE, binomial, each, failures::steps, median, percentage};
use crate::random::Random;

/// Lets a track have more connections, each with both times and with each kind
/// of failure at its rate.
fn advance(random: &mut Random, track: &mut TrackCounts, connections: u64, rates: [f64; 4]) {
    track.connections += connections;
    let [refused, resets, timeouts, http_5xx] =
        rates.map(|rate| binomial(random, connections, rate));
    track.refused += refused;
    track.resets += resets;
    track.handshake_timeouts += timeouts;
    track.http_5xx += http_5xx;
    for histogram in [&mut track.handshake, &mut track.first_byte] {
        for _ in 0..connections {
            // A geometric number of buckets above the shortest.
            let above = (random.unit().max(f64::MIN_POSITIVE).ln() * -4.0) as usize;
            histogram.counts[(50 + above).min(Histogram::BUCKETS - 1)] += 1;
        }
    }
}

fn before(random: &mut Random) -> TrackCounts {
    let mut track = TrackCounts::default();
    advance(random, &mut track, 2000, [BASE; 4]);
    track
}

fn harmed(seen: &Seen) -> bool {
    matches!(judge(seen, &Evidence::default()).verdict, Verdict::Harm { .. })
}

/// Percentage of rollouts of a canary like stable, over the steps, that are
/// rolled back with all six metrics watched.
pub fn false_rollbacks(rollouts: u32) -> f64 {
    let outcomes = each(rollouts, 7, |random| {
        let mut seen = Seen { before: Some(before(random)), ..Seen::default() };
        (0..100).any(|look| {
            let share = steps(look * 3);
            if seen.current().is_none_or(|epoch| epoch.share < share) {
                seen.epochs.push(EpochCounts { share, ..EpochCounts::default() });
            }
            let canary = binomial(random, 500, share);
            if let Some(epoch) = seen.epochs.last_mut() {
                advance(random, &mut epoch.canary, canary, [BASE; 4]);
                advance(random, &mut epoch.stable, 500 - canary, [BASE; 4]);
            }
            harmed(&seen)
        })
    });
    percentage(&outcomes)
}

/// Connections in all until a canary of which `rate` are reset is out, half of
/// the time.
pub fn median_delay(share: f64, rate: f64, rollouts: u32) -> Option<u64> {
    median(each(rollouts, 8, |random| {
        let mut seen = Seen { before: Some(before(random)), ..Seen::default() };
        seen.epochs.push(EpochCounts { share, ..EpochCounts::default() });
        let mut looks = (1..=100_000_u64).map(|look| look * 20);
        looks.find(|_| {
            let canary = binomial(random, 20, share);
            let Some(epoch) = seen.epochs.last_mut() else { return false };
            let failed = epoch.canary.resets;
            advance(random, &mut epoch.canary, canary, [BASE, rate, BASE, BASE]);
            advance(random, &mut epoch.stable, 20 - canary, [BASE; 4]);
            epoch.canary.resets > failed && harmed(&seen)
        })
    }))
}

/// Percentage of canaries at 100 % that are found to fail too often although
/// they fail by exactly the margin of 1 % more than stable, of which so many
/// connections are on record. A look each connection that went bad, of 20,000.
pub fn false_rollbacks_at_the_end(record: u64, rollouts: u32) -> f64 {
    const MARGIN: f64 = 0.01;
    let outcomes = each(rollouts, 9, |random| {
        let recorded = Outcomes { connections: record, bad: binomial(random, record, BASE) };
        let mut seen = Outcomes::default();
        while seen.connections < 20_000 {
            seen.connections += 1;
            if random.unit() < BASE + MARGIN {
                seen.bad += 1;
                if last(&[seen], recorded, 1.0, MARGIN, ALPHA).ln >= -ALPHA.ln() {
                    return true;
                }
            }
        }
        false
    });
    percentage(&outcomes)
}

/// Connections of a canary at 100 % that fails always until it is out.
pub fn until_out(before: Option<TrackCounts>) -> Option<u64> {
    (1..1000).find(|failed| {
        let canary = TrackCounts { connections: *failed, resets: *failed, ..Default::default() };
        let epoch = EpochCounts { share: 1.0, canary, ..EpochCounts::default() };
        harmed(&Seen { epochs: vec![epoch], before, sticky: false })
    })
}

/// What a judgement of all six metrics in five epochs takes, in microseconds,
/// and that with a budget.
pub fn cost() -> [f64; 2] {
    const TIMES: u32 = 200;
    let mut random = Random::new(10);
    let mut seen = Seen { before: Some(before(&mut random)), ..Seen::default() };
    for share in [0.01, 0.05, 0.25, 0.5, 0.5] {
        let mut epoch = EpochCounts { share, ..EpochCounts::default() };
        let canary = (10_000.0 * share) as u64;
        advance(&mut random, &mut epoch.canary, canary, [BASE; 4]);
        advance(&mut random, &mut epoch.stable, 10_000 - canary, [BASE; 4]);
        seen.epochs.push(epoch);
    }
    let rules = Evidence::default();
    // The least: others may want the processor too.
    let least = |work: &dyn Fn() -> bool| {
        let once = |_| {
            let begun = Instant::now();
            std::hint::black_box(work());
            begun.elapsed().as_secs_f64() * 1e6
        };
        (0..TIMES).map(once).fold(f64::INFINITY, f64::min)
    };
    let judged = least(&|| judge(&seen, &rules).safe);
    [judged, least(&|| canary::judge::budget(&seen, &rules).is_some())]
}

/// What is watched by default, and averaged over.
pub const METRICS: usize = Metric::FAILURES.len() + Metric::TIMES.len();
