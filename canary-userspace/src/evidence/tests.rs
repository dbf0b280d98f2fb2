//! Each test is a product of factors whose mean is at most 1 under its null:
//! that is counted here, outcome by outcome. What follows over many looks is
//! simulated by `canary-simulate`.

use canary_common::Histogram;

use super::*;

const SHARES: [f64; 4] = [0.01, 0.05, 0.25, 0.5];

fn epoch(share: f64, canary: (u64, u64), stable: (u64, u64)) -> Epoch {
    let outcomes = |(connections, bad)| Outcomes { connections, bad };
    Epoch { share, canary: outcomes(canary), stable: outcomes(stable) }
}

/// The mean of an e-value over one connection's outcomes.
fn mean(share: f64, canary: f64, stable: f64, ln: impl Fn(&[Epoch]) -> f64) -> f64 {
    let of = |probability: f64, outcome| probability * ln(&[outcome]).exp();
    of(share * canary, epoch(share, (1, 1), (0, 0)))
        + of(share * (1.0 - canary), epoch(share, (1, 0), (0, 0)))
        + of((1.0 - share) * stable, epoch(share, (0, 0), (1, 1)))
        + of((1.0 - share) * (1.0 - stable), epoch(share, (0, 0), (1, 0)))
}

#[test]
fn no_null_gains_on_average() {
    for share in SHARES {
        for rate in [0.0, 0.001, 0.02, 0.3, 1.0 / 1.5] {
            let worst = mean(share, rate * 1.5, rate, |epochs| harm(epochs, 1.5));
            assert!(worst <= 1.0 + 1e-9, "harm gains {worst} at {share}, {rate}");
            let better = mean(share, rate / 2.0, rate, |epochs| harm(epochs, 1.5));
            assert!(better <= worst + 1e-9, "harm gains {better} at {share}, {rate}");
        }
        for rate in [0.0, 0.001, 0.02, 0.9] {
            let worst = mean(share, rate + 0.01, rate, |epochs| harm_beyond(epochs, 0.01));
            assert!(worst <= 1.0 + 1e-9, "the margin gains {worst} at {share}, {rate}");
        }
        // Both: twice as often, and a tenth of a percent more.
        for rate in [0.001, 0.01, 0.3] {
            let mean = mean(share, rate * 2.0, rate, |epochs| safe(epochs, 2.0, 0.001));
            assert!(mean <= 1.0 + 1e-9, "safety gains {mean} at {share}, {rate}");
        }
    }
}

#[test]
fn harm_is_found_and_its_absence_is_not() {
    let ln_bound = 100.0_f64.ln();
    // 434 connections of the canary, 5 of them bad, beside 8 of 8,266.
    let bad = [epoch(0.05, (434, 5), (8266, 8))];
    assert!(harm(&bad, 1.0) > ln_bound, "{}", harm(&bad, 1.0));
    let equal = [epoch(0.05, (5000, 5), (95_000, 95))];
    assert!(harm(&equal, 1.0) < 0.0 && harm_beyond(&equal, 0.001) < 0.0);
    // Everything fails: a handful is enough.
    let dead = [epoch(0.05, (6, 6), (114, 0))];
    assert!(harm(&dead, 1.0) > ln_bound && harm_beyond(&dead, 0.01) > ln_bound);
    // Both fail alike: nobody's fault.
    assert!(harm(&[epoch(0.05, (50, 50), (950, 950))], 1.0) < 0.0);
}

#[test]
fn what_cannot_be_compared_says_nothing() {
    for share in [0.0, 1.0] {
        let alone = [epoch(share, (100, 90), (100, 0))];
        assert!(harm(&alone, 1.0).abs() < 1e-9 && harm_beyond(&alone, 0.01).abs() < 1e-9);
        assert!(safe(&alone, 2.0, 0.001).abs() < 1e-9);
    }
    assert!(harm(&[], 1.0).abs() < 1e-9 && safe(&[], 2.0, 0.001).abs() < 1e-9);
}

/// Good for an hour, all bad now: the second epoch is found by itself.
#[test]
fn what_breaks_late_is_found_as_soon() {
    let good = epoch(0.25, (50_000, 50), (150_000, 150));
    let until = |epochs: &dyn Fn(u64) -> Vec<Epoch>| {
        (1..10_000).find(|bad| harm(&epochs(*bad), 1.0) > 100.0_f64.ln())
    };
    let broken = |bad| epoch(0.25, (bad, bad), (3 * bad, 0));
    let fresh = until(&|bad| vec![broken(bad)]).expect("is found");
    let late = until(&|bad| vec![good, broken(bad)]).expect("is found");
    let hidden = until(&|bad| {
        let (canary, stable) = ((50_000 + bad, 50 + bad), (150_000 + 3 * bad, 150));
        vec![epoch(0.25, canary, stable)]
    })
    .expect("is found");
    assert!(fresh <= 7 && late <= fresh + 5 && hidden > 2 * late, "{fresh} {late} {hidden}");
}

#[test]
fn a_version_alone_gains_nothing_on_average() {
    for rate in [1e-6, 0.011, 0.3, 0.9, 1.0] {
        let of = |bad| above(&[Outcomes { connections: 1, bad }], rate).exp();
        let mean = rate * of(1) + (1.0 - rate) * of(0);
        assert!(mean <= 1.0 + 1e-9, "{mean} at {rate}");
    }
    let failing = |bad| above(&[Outcomes { connections: bad, bad }], 0.011);
    assert!(failing(3) > 100.0_f64.ln() && above(&[], 0.011).abs() < 1e-9);
}

/// The bound is exact without failures: so many good ones in a row are as rare.
#[test]
fn what_a_record_bounds() {
    let bound = |connections, bad| highest_believable(Outcomes { connections, bad }, 0.001);
    assert!((bound(1000, 0) - (1.0 - 0.001_f64.powf(0.001))).abs() < 1e-9);
    for record in [(0, 0), (1, 1), (50, 50)] {
        assert!((bound(record.0, record.1) - 1.0).abs() < 1e-9, "{record:?}");
    }
    assert!(bound(100, 50) > 0.5 && bound(100, 50) > bound(10_000, 5000));
    assert!(bound(10_000, 10) > 0.001 && bound(10_000, 10) < 0.003);
}

/// Ends are where the evidence is just enough, on the right side of the truth.
#[test]
fn the_interval_of_a_ratio() {
    let (low, high) = ratio_interval(&[epoch(0.25, (10_000, 40), (30_000, 30))], 0.01);
    let high = high.expect("stable fails too");
    assert!(1.5 < low && low < 4.0 && 4.0 < high && high < 12.0, "{low} {high}");
    let (wider_low, wider_high) = ratio_interval(&[epoch(0.25, (1000, 4), (3000, 3))], 0.01);
    assert!(wider_low < low && wider_high.is_none_or(|wider| wider > high));
    assert_eq!(ratio_interval(&[], 0.01), (0.0, None));
}

/// All beginnings together weigh 1.
#[test]
fn evidence_that_says_nothing_is_one_however_many_epochs() {
    for epochs in 0..20 {
        assert!(super::late::since_each(&vec![0.0; epochs]).abs() < 1e-9, "{epochs}");
    }
}

/// About ln(1/β)/Δ connections of the canary without a failure.
#[test]
fn safety_takes_as_long_as_it_must() {
    let ln_bound = 20.0_f64.ln();
    let safe_after = |canary: u64| safe(&[epoch(0.25, (canary, 0), (3 * canary, 0))], 2.0, 0.001);
    assert!(safe_after(3000) < ln_bound && safe_after(6000) > ln_bound);
}

#[test]
fn a_split_that_is_kept_is_not_a_mismatch() {
    assert!(mismatch(5_000, 95_000, 0.05) < 0.0);
    assert!(mismatch(5_600, 94_400, 0.05) > 1000.0_f64.ln());
    assert!(mismatch(4_400, 95_600, 0.05) > 1000.0_f64.ln());
    assert!(mismatch(0, 100, 0.0).abs() < 1e-9 && mismatch(1, 99, 0.0).is_infinite());
    // One connection of either version is no evidence on average.
    let mean = 0.05 * mismatch(1, 0, 0.05).exp() + 0.95 * mismatch(0, 1, 0.05).exp();
    assert!((mean - 1.0).abs() < 1e-9, "{mean}");
}

type Times = [u64; Histogram::BUCKETS];

/// Times around bucket 60, a tail above.
fn times(total: u64, later: usize) -> Times {
    let mut counts = [0; Histogram::BUCKETS];
    for (bucket, share) in [(58, 20), (60, 50), (62, 20), (66, 9), (74, 1)] {
        counts[bucket + later] = total * share / 100;
    }
    counts
}

#[test]
fn slower_times_are_found_and_equal_ones_are_not() {
    let reference = Reference::new(&times(100_000, 0));
    let seen = |later, tolerated| {
        let (canary, stable) = (times(1000, later), times(19_000, 0));
        slower(&[LatencyEpoch { share: 0.05, weight: 1.0, canary, stable }], &reference, tolerated)
    };
    assert!(seen(0, 0) < 0.0, "{}", seen(0, 0));
    assert!(seen(2, 0) > 100.0_f64.ln(), "{}", seen(2, 0));
    assert!(seen(2, 2) < 0.0, "tolerated: {}", seen(2, 2));
}

/// Whatever stable's times are now, equal ones gain nothing on average.
#[test]
fn equal_times_gain_nothing_though_the_reference_is_off() {
    let reference = Reference::new(&times(1000, 0));
    for drifted in [0, 3, 20] {
        let now = times(100, drifted);
        let mut mean = 0.0;
        for (bucket, probability) in now.iter().map(|c| *c as f64 / 100.0).enumerate() {
            let mut one = [0; Histogram::BUCKETS];
            one[bucket] = 1;
            let none = [0; Histogram::BUCKETS];
            let at = |share: f64, canary, stable| {
                slower(&[LatencyEpoch { share, weight: 1.0, canary, stable }], &reference, 0).exp()
            };
            mean += probability * (0.05 * at(0.05, one, none) + 0.95 * at(0.05, none, one));
        }
        assert!(mean <= 1.0 + 1e-9, "{mean} after a drift of {drifted}");
    }
}
