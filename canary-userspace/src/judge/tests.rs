use canary_common::Histogram;

use super::*;
use crate::{config::rollout::Tolerance, evidence::Outcomes};

fn track(connections: u64, resets: u64) -> TrackCounts {
    TrackCounts { connections, resets, ..TrackCounts::default() }
}

/// An epoch with so many connections and resets, the canary's and stable's.
fn epoch(share: f64, canary: (u64, u64), stable: (u64, u64)) -> EpochCounts {
    let (canary, stable) = (track(canary.0, canary.1), track(stable.0, stable.1));
    EpochCounts { share, canary, stable, diverted: 0 }
}

fn seen(epochs: &[EpochCounts]) -> Seen {
    Seen { epochs: epochs.to_vec(), ..Seen::default() }
}

/// Resets alone are watched.
fn resets_only() -> Evidence {
    let off = |tolerance: Tolerance| Tolerance { watched: false, ..tolerance };
    let mut rules = Evidence::default();
    for tolerance in [&mut rules.refused, &mut rules.handshake_timeouts, &mut rules.http_5xx] {
        *tolerance = off(*tolerance);
    }
    rules.handshake.watched = false;
    rules.first_byte.watched = false;
    rules
}

const RESETS: Verdict = Verdict::Harm { metric: Metric::Resets };

#[test]
fn verdicts() {
    let not_yet = Verdict::NotYet { metric: Some(Metric::Resets) };
    let cases = [
        ("no epoch", vec![], Verdict::NoTraffic),
        ("no connection", vec![epoch(0.05, (0, 0), (50, 3))], Verdict::NoTraffic),
        ("too early", vec![epoch(0.05, (5, 0), (95, 0))], not_yet),
        ("harm", vec![epoch(0.05, (434, 12), (8266, 8))], RESETS),
        ("all fail", vec![epoch(0.05, (7, 7), (133, 0))], RESETS),
        ("both fail", vec![epoch(0.05, (10, 10), (190, 190))], not_yet),
        ("safe", vec![epoch(0.25, (20_000, 0), (60_000, 0))], Verdict::Safe),
        ("the split", vec![epoch(0.05, (1200, 0), (18_800, 0))], Verdict::Mismatch),
        (
            "harm of an earlier epoch",
            vec![epoch(0.05, (434, 12), (8266, 8)), epoch(0.25, (0, 0), (0, 0))],
            RESETS,
        ),
    ];
    for (name, epochs, verdict) in cases {
        let judgement = judge(&seen(&epochs), &resets_only());
        assert_eq!(judgement.verdict, verdict, "{name}: {judgement:?}");
    }
}

/// Each of the four failures drives a verdict, with all six metrics watched.
#[test]
fn every_failure_is_found() {
    for metric in Metric::FAILURES {
        let mut epoch = epoch(0.05, (434, 0), (8266, 0));
        for (track, bad) in [(&mut epoch.canary, 14), (&mut epoch.stable, 8)] {
            *track.failures_mut(metric).expect("a failure") = bad;
        }
        let judgement = judge(&seen(&[epoch]), &Evidence::default());
        assert_eq!(judgement.verdict, Verdict::Harm { metric }, "{judgement:?}");
        let counted = judgement.failures.iter().find(|f| f.metric == metric).expect("is judged");
        assert_eq!(counted.canary, Outcomes { connections: 434, bad: 14 });
        assert_eq!(counted.stable, Outcomes { connections: 8266, bad: 8 });
    }
}

#[test]
fn what_is_not_watched_does_not_count() {
    let mut rules = resets_only();
    let bad = seen(&[epoch(0.05, (434, 50), (8266, 8))]);
    assert_eq!(judge(&bad, &rules).verdict, RESETS);
    rules.resets.watched = false;
    let judgement = judge(&bad, &rules);
    assert_eq!(judgement.verdict, Verdict::NotYet { metric: None });
    assert!(judgement.failures.is_empty() && !judgement.safe && judgement.ln_harm.abs() < 1e-9);
    assert_eq!((budget(&bad, &rules), needed(&bad, &rules)), (None, None));
}

#[test]
fn a_margin_must_be_crossed_too() {
    // Ten times as often, but under a tenth of a percent more.
    let bad = seen(&[epoch(0.5, (100_000, 100), (100_000, 10))]);
    let mut rules = resets_only();
    assert_eq!(judge(&bad, &rules).verdict, RESETS);
    rules.resets.margin = 0.01;
    let judgement = judge(&bad, &rules);
    assert_ne!(judgement.verdict, RESETS, "{judgement:?}");
    let failures = judgement.failures[0];
    assert!(failures.ln_ratio > 40.0 && failures.ln_margin.is_some_and(|ln| ln < 0.0));
    rules.resets.margin = 0.0001;
    assert_eq!(judge(&bad, &rules).verdict, RESETS);
}

#[test]
fn the_ratio_lies_between_its_bounds() {
    let judgement = judge(&seen(&[epoch(0.05, (434, 12), (8266, 8))]), &resets_only());
    let failures = judgement.failures[0];
    let ratio = failures.ratio.expect("stable has failures");
    assert!((ratio - 12.0 / 434.0 / (8.0 / 8266.0)).abs() < 1e-9, "{ratio}");
    let high = failures.ratio_high.expect("an upper bound");
    assert!(1.0 < failures.ratio_low && failures.ratio_low < ratio && ratio < high, "{failures:?}");
    // Equal ones: 1 is between; none: nothing is known.
    let equal = judge(&seen(&[epoch(0.25, (10_000, 100), (30_000, 300))]), &resets_only());
    let (low, high) = (equal.failures[0].ratio_low, equal.failures[0].ratio_high);
    assert!(low > 0.5 && low < 1.0 && high.is_some_and(|high| 1.0 < high && high < 2.0));
    let none = judge(&seen(&[epoch(0.25, (10_000, 0), (30_000, 0))]), &resets_only());
    let none = none.failures[0];
    assert_eq!((none.ratio, none.ratio_low, none.ratio_high), (None, 0.0, None));
}

/// A rate that rose along with the split is nobody's harm.
#[test]
fn a_drifting_rate_is_not_a_ratio() {
    let epochs = [epoch(0.05, (500, 1), (9500, 19)), epoch(0.5, (5000, 100), (5000, 100))];
    let judgement = judge(&seen(&epochs), &resets_only());
    assert!(judgement.ln_harm < 0.0, "{judgement:?}");
    let ratio = judgement.failures[0].ratio.expect("stable has failures");
    assert!((ratio - 1.0).abs() < 0.01, "{ratio}");
}

/// At 100 %: against stable's record, from before the rollout and during it.
#[test]
fn the_last_step() {
    let alone = |canary, before: Option<(u64, u64)>| {
        let mut seen = seen(&[epoch(1.0, canary, (0, 0))]);
        seen.before = before.map(|(connections, bad)| track(connections, bad));
        judge(&seen, &resets_only()).verdict
    };
    let not_yet = Verdict::NotYet { metric: Some(Metric::Resets) };
    for (name, canary, before, verdict) in [
        ("a handful of failures", (5, 5), Some((100_000, 100)), RESETS),
        ("as on record", (10_000, 10), Some((100_000, 100)), not_yet),
        ("within the margin", (10_000, 90), Some((100_000, 100)), not_yet),
        ("above it", (10_000, 200), Some((100_000, 100)), RESETS),
        ("stable failed too", (1000, 1000), Some((1000, 1000)), not_yet),
        ("stable failed half", (1000, 500), Some((1000, 500)), not_yet),
        ("worse than half", (1000, 900), Some((1000, 500)), RESETS),
        ("a short record", (100, 5), Some((20, 0)), not_yet),
        ("a short record, all fail", (9, 9), Some((20, 0)), RESETS),
        ("no record", (100, 30), None, not_yet),
        ("no record, all fail", (15, 15), None, RESETS),
        ("a record of one failure", (1000, 1000), Some((1, 1)), not_yet),
    ] {
        assert_eq!(alone(canary, before), verdict, "{name}");
    }
    // Good for long, then broken: the second stretch is found by itself.
    let mut late = seen(&[epoch(1.0, (50_000, 50), (0, 0)), epoch(1.0, (6, 6), (0, 0))]);
    late.before = Some(track(100_000, 100));
    assert_eq!(judge(&late, &resets_only()).verdict, RESETS);
    // The rollout's own epochs are a record as well.
    let during = [epoch(0.5, (5000, 0), (5000, 5)), epoch(1.0, (6, 6), (0, 0))];
    assert_eq!(judge(&seen(&during), &resets_only()).verdict, RESETS);
}

#[test]
fn clients_that_stay_differ_in_how_many_connections_they_make() {
    // A few large clients on the canary: ten times its share.
    let mut sticky = seen(&[epoch(0.05, (5000, 50), (5000, 50))]);
    assert_eq!(judge(&sticky, &resets_only()).verdict, RESETS);
    sticky.sticky = true;
    let judgement = judge(&sticky, &resets_only());
    assert_eq!(judgement.verdict, Verdict::Safe);
    assert_eq!(judgement.ln_mismatch, None);
    sticky.epochs[0].canary.resets = 200;
    assert_eq!(judge(&sticky, &resets_only()).verdict, RESETS);
}

#[test]
fn what_the_guard_took_is_not_held_against_the_split_nor_for_the_canary() {
    // 1,000 of 5,000 by the split, then 10,000 with a daemon that was silent.
    let silent = |bad| EpochCounts { diverted: 2000, ..epoch(0.2, (1000, bad), (14_000, 280)) };
    let told = judge(&seen(&[silent(20)]), &resets_only());
    assert!(told.ln_mismatch.is_some_and(|ln| ln <= 0.0), "{told:?}");
    assert!(!matches!(told.verdict, Verdict::Mismatch | Verdict::Harm { .. }), "{told:?}");
    let untold = EpochCounts { diverted: 0, ..silent(20) };
    assert_eq!(judge(&seen(&[untold]), &resets_only()).verdict, Verdict::Mismatch);
    // Stable's failures of that time make nothing of a canary's that are 2.5
    // times as many.
    assert!(!judge(&seen(&[silent(50)]), &resets_only()).safe);
    assert_eq!(judge(&seen(&[silent(70)]), &resets_only()).verdict, RESETS);
}

/// All times are told apart, however short.
fn from_zero() -> Evidence {
    let mut rules = Evidence::default();
    rules.handshake.floor = std::time::Duration::ZERO;
    rules.first_byte.floor = std::time::Duration::ZERO;
    rules
}

fn times(total: u64, later: usize) -> Histogram {
    let mut histogram = Histogram::default();
    for (bucket, share) in [(58, 20), (60, 50), (62, 20), (66, 9), (74, 1)] {
        histogram.counts[bucket + later] = total * share / 100;
    }
    histogram
}

fn timed(first_byte: [Histogram; 2], reference: u64) -> Seen {
    let mut epoch = epoch(0.05, (1000, 0), (19_000, 0));
    epoch.canary.first_byte = first_byte[0];
    epoch.stable.first_byte = first_byte[1];
    let before = TrackCounts { first_byte: times(reference, 0), ..track(reference, 0) };
    Seen { before: Some(before), ..seen(&[epoch]) }
}

#[test]
fn slower_is_harm() {
    let verdict = |later, reference| {
        let seen = timed([times(1000, later), times(19_000, 0)], reference);
        judge(&seen, &from_zero()).verdict
    };
    let slow = Verdict::Harm { metric: Metric::FirstByte };
    assert_ne!(verdict(0, 10_000), slow);
    // A factor of 1.5 is tolerated, three quarter octaves; more is not.
    assert_ne!(verdict(3, 10_000), slow);
    assert_eq!(verdict(6, 10_000), slow);
    // Nothing from before to make a distribution of.
    assert_ne!(verdict(6, 0), slow);
}

/// A thousand answers on one connection are one witness.
#[test]
fn many_times_of_a_connection_count_as_one() {
    let once = timed([times(1000, 6), times(19_000, 0)], 10_000);
    let often = timed([times(100_000, 6), times(1_900_000, 0)], 10_000);
    let [once, often] = [once, often].map(|seen| judge(&seen, &from_zero()).times[1].ln_harm);
    assert!((once - often).abs() < 1e-6 * once, "{once} {often}");
    // Clients of the canary that ask less than its share are no evidence.
    let fewer = timed([times(50_000, 0), times(1_950_000, 0)], 10_000);
    let judgement = judge(&fewer, &from_zero());
    assert!(judgement.times[1].ln_harm < 0.0, "{judgement:?}");
}

/// The budget is exact: one less does nothing.
#[test]
fn the_budget() {
    let six = |share, canary, stable| seen(&[epoch(share, canary, stable)]);
    let record = Seen { before: Some(track(100_000, 100)), ..six(1.0, (500, 1), (0, 0)) };
    let cases = [
        six(0.05, (0, 0), (0, 0)),
        six(0.01, (100, 0), (9900, 10)),
        six(0.05, (5000, 5), (95_000, 95)),
        six(0.5, (50_000, 50), (50_000, 50)),
        six(0.25, (1000, 1000), (3000, 3000)),
        record,
        seen(&[epoch(0.25, (9000, 9), (27_000, 27)), epoch(1.0, (0, 0), (0, 0))]),
    ];
    for seen in cases {
        for rules in [resets_only(), Evidence::default()] {
            let budget = budget(&seen, &rules).expect("a number");
            let harm_after = |failed: u64, metric| {
                let mut then = seen.clone();
                let canary = &mut then.epochs.last_mut().expect("an epoch").canary;
                canary.connections += failed;
                *canary.failures_mut(metric).expect("a failure") += failed;
                matches!(judge(&then, &rules).verdict, Verdict::Harm { .. })
            };
            let any_after =
                |failed| Metric::FAILURES.into_iter().any(|metric| harm_after(failed, metric));
            assert!(budget >= 1);
            assert!(!any_after(budget - 1), "{budget} of {seen:?}");
            assert!(any_after(budget), "{budget} of {seen:?}");
        }
    }
}

#[test]
fn budgets_are_small_where_little_is_tolerated() {
    let rules = Evidence::default();
    let of = |epochs: &[EpochCounts]| budget(&seen(epochs), &rules);
    assert!(of(&[epoch(0.01, (0, 0), (0, 0))]).is_some_and(|budget| budget <= 4));
    assert!(of(&[epoch(0.5, (0, 0), (0, 0))]).is_some_and(|budget| budget <= 20));
    // Harm already: the next is too much. At 0 nobody is judged.
    assert_eq!(of(&[epoch(0.05, (434, 40), (8266, 8))]), Some(1));
    assert_eq!(of(&[epoch(0.0, (0, 0), (100, 0))]), None);
    assert_eq!(of(&[]), None);
}

/// A good past makes no safe present.
#[test]
fn what_breaks_late_is_not_safe() {
    let good = epoch(0.25, (20_000, 0), (60_000, 0));
    assert_eq!(judge(&seen(&[good]), &resets_only()).verdict, Verdict::Safe);
    let broken = |bad| seen(&[good, epoch(0.5, (100, bad), (100, 0))]);
    let first = (0..100).find(|bad| judge(&broken(*bad), &resets_only()).verdict != Verdict::Safe);
    let harm = (0..100).find(|bad| judge(&broken(*bad), &resets_only()).verdict == RESETS);
    assert!(first < harm && harm < Some(16), "{first:?} {harm:?}");
}

#[test]
fn what_is_needed_to_be_safe() {
    let rules = resets_only();
    let start = seen(&[epoch(0.25, (100, 0), (300, 0))]);
    let more = needed(&start, &rules).expect("no failures at all");
    let after = |more: u64| seen(&[epoch(0.25, (100 + more / 4, 0), (300 + more * 3 / 4, 0))]);
    assert!(!judge(&after(more - 8), &rules).safe && judge(&after(more + 8), &rules).safe);
    // About ln(1/β)/Δ of the canary's.
    assert!((12_000..25_000).contains(&more), "{more}");
    // Equal rates take longer, worse ones for ever, safe ones nothing.
    let equal = needed(&seen(&[epoch(0.25, (10_000, 10), (30_000, 30))]), &rules);
    assert!(equal.is_some_and(|equal| equal > 10_000), "{equal:?}");
    assert_eq!(needed(&seen(&[epoch(0.25, (10_000, 40), (30_000, 30))]), &rules), None);
    assert_eq!(needed(&seen(&[epoch(0.25, (20_000, 0), (60_000, 0))]), &rules), Some(0));
    assert_eq!(needed(&seen(&[epoch(1.0, (10_000, 0), (0, 0))]), &rules), None);
}

#[test]
fn reasons() {
    for (epochs, text) in [
        (
            epoch(0.05, (434, 6), (8266, 8)),
            "canary: 6 of 434 connections were reset (1.4 %), stable: 8 of 8,266 (0.097 %): 14 \
             times as often (99 %: 1.6 to 107); evidence of harm 1,774, acts at 100",
        ),
        (
            epoch(0.05, (434, 12), (8266, 0)),
            "canary: 12 of 434 connections were reset (2.8 %), stable: none of 8,266: at least 29 \
             times as often (99 %); evidence of harm over a million, acts at 100",
        ),
        (
            epoch(0.05, (434, 0), (8266, 8)),
            "no harm found, not known to be safe: canary: none of 434 connections were reset, \
             stable: 8 of 8,266 (0.097 %): at most 22 times as often (99 %); evidence of safety \
             1.6, enough at 20",
        ),
        (
            epoch(0.25, (20_000, 0), (60_000, 0)),
            "the canary is safe by all that is watched: canary: none of 20,000 connections were \
             reset, stable: none of 60,000",
        ),
        (
            epoch(0.05, (1200, 0), (18_800, 0)),
            "connections are not shared as the split of 5 % says: 1,200 of 20,000 went to the \
             canary (6 %)",
        ),
        (epoch(0.05, (0, 0), (18, 0)), "the canary had no connection at 5 %"),
        (
            epoch(1.0, (30, 30), (0, 0)),
            "canary, alone at 100 %: 30 of 30 connections were reset (100 %), nothing of stable's \
             is on record; up to 51 % is allowed (the weaker comparison: what changes for both \
             versions counts against the canary); evidence of harm over a million, acts at 100",
        ),
    ] {
        assert_eq!(judge(&seen(&[epochs]), &resets_only()).reason(), text);
    }
}

#[test]
fn an_explanation_has_a_line_for_each_question() {
    let seen = timed([times(1000, 6), times(19_000, 0)], 10_000);
    let lines = judge(&seen, &from_zero()).explain();
    assert_eq!(lines.len(), 2 + 4 + 2 + 1);
    assert_eq!(
        lines[0],
        "first byte, canary: p50 59 ms, p99 671 ms of 1,000; stable: p50 21 ms, p99 235 ms of \
         19,000; 1.5 times as long is tolerated; evidence of harm over a million, acts at 100"
    );
    assert!(lines[7].starts_with("first byte, canary: "), "{lines:?}");
    assert!(lines[6].contains("not judged"), "{lines:?}");
}

#[test]
fn numbers_without_noise() {
    for (number, text) in [(0, "0"), (999, "999"), (38_000, "38,000"), (1_234_567, "1,234,567")] {
        assert_eq!(grouped(number), text);
    }
    assert_eq!(
        still_needed(Some(38_321), 0.25),
        "safe after about 38,000 more connections at 25 %, if failures go on as they are"
    );
    assert_eq!(still_needed(Some(0), 0.25), "known to be safe");
    assert_eq!(still_needed(None, 0.01), "not to be found safe at 1 % as failures are now");
    for (fraction, text) in [
        (0.0, "0 %"),
        (12.0 / 434.0, "2.8 %"),
        (8.0 / 8266.0, "0.097 %"),
        (0.05, "5 %"),
        (0.25, "25 %"),
        (0.999, "over 99 %"),
        (1.0, "100 %"),
    ] {
        assert_eq!(percent(fraction), text);
    }
}

#[test]
fn json_round_trip() {
    let mut seen = timed([times(1000, 6), times(19_000, 0)], 10_000);
    seen.epochs.push(epoch(1.0, (10, 1), (0, 0)));
    for seen in [seen, Seen::default()] {
        let judgement = judge(&seen, &Evidence::default());
        let json = serde_json::to_string(&judgement).expect("is JSON");
        let back: Judgement = serde_json::from_str(&json).expect("is a judgement");
        assert_eq!(back.verdict, judgement.verdict);
        assert_eq!((back.failures.len(), back.times.len()), (4, 2));
        assert!((back.ln_harm - judgement.ln_harm).abs() < 1e-9);
    }
}

/// A long epoch that is cut is still one split: what it is kept by, and whether
/// there was any traffic, is of all of it.
#[test]
fn slices_of_an_epoch_are_one_split() {
    let slice = |canary, stable| epoch(0.1, (canary, 0), (stable, 0));
    let quiet = Seen { epochs: vec![slice(100, 900), slice(0, 0)], ..Seen::default() };
    let judged = judge(&quiet, &Evidence::default());
    assert!(!matches!(judged.verdict, Verdict::NoTraffic), "{judged:?}");
    assert_eq!(judged.connections.canary, 100);
    // Neither slice is enough to say so, both are.
    let tilted = Seen { epochs: vec![slice(160, 840), slice(160, 840)], ..Seen::default() };
    assert_eq!(judge(&tilted, &Evidence::default()).verdict, Verdict::Mismatch);
    let other = Seen { epochs: vec![slice(160, 840), epoch(0.2, (0, 0), (0, 0))], ..tilted };
    assert_eq!(judge(&other, &Evidence::default()).verdict, Verdict::NoTraffic);
}

/// What no client would notice is no harm, however plain the difference is.
#[test]
fn times_below_the_floor_are_as_good_as_each_other() {
    let track = |micros: u32, count: u64| {
        let mut counts = TrackCounts { connections: count, ..TrackCounts::default() };
        counts.first_byte.counts[Histogram::bucket(micros * 1000 / 256)] = count;
        counts
    };
    let judged = |canary: u32, stable: u32, floor| {
        let epoch = EpochCounts {
            share: 0.1,
            canary: track(canary, 500),
            stable: track(stable, 4500),
            diverted: 0,
        };
        let before = Some(track(stable, 5000));
        let seen = Seen { epochs: vec![epoch], before, ..Seen::default() };
        let mut rules = Evidence::default();
        rules.first_byte.floor = std::time::Duration::from_millis(floor);
        judge(&seen, &rules).verdict
    };
    let harm = Verdict::Harm { metric: Metric::FirstByte };
    assert_eq!(judged(400, 66, 0), harm);
    assert_ne!(judged(400, 66, 5), harm);
    assert_ne!(judged(4900, 66, 5), harm);
    assert_eq!(judged(40_000, 66, 5), harm);
    // What is tolerated is tolerated above the floor too.
    assert_ne!(judged(7000, 66, 5), harm);
    assert_ne!(judged(14_000, 10_000, 5), harm);
    assert_eq!(judged(40_000, 10_000, 5), harm);
}

/// A canary that loses connections has fewer times than its share; that is a
/// failure, and none of slowness.
#[test]
fn lost_connections_are_not_slow_ones() {
    let track = |connections: u64, answered: u64| {
        let mut counts = TrackCounts { connections, ..TrackCounts::default() };
        counts.first_byte.counts[70] = answered;
        counts.handshake.counts[70] = answered;
        counts
    };
    let (canary, stable) = (track(200, 100), track(800, 800));
    let epoch = EpochCounts { share: 0.2, canary, stable, diverted: 0 };
    let before = Some(track(5000, 5000));
    let judged =
        judge(&Seen { epochs: vec![epoch], before, ..Seen::default() }, &Evidence::default());
    assert!(judged.times.iter().all(|times| times.ln_harm <= 0.1), "{judged:?}");
    assert!(!matches!(judged.verdict, Verdict::Harm { .. }), "{judged:?}");
}
