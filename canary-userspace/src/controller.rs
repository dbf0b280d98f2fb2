//! The first controller: takes the canary out when it fails clearly more
//! often than stable. A threshold, looked at every 250 ms; it knows nothing of
//! significance beyond a least number of connections. Pure, one function from
//! what was seen to what to do, so that a better one can take its place.
//!
//! A connection that is still shaking hands counts as one that did not fail
//! (yet). That makes both shares too small for the length of a handshake, so
//! it can only delay a rollback, not cause one.

use std::{
    fmt::{self, Display, Formatter},
    time::SystemTime,
};

use canary_common::Split;
use serde::{Deserialize, Serialize};

use crate::config::Rollback;

/// Connections of one track, counted since some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Born since then.
    pub connections: u64,
    /// Those of them that were refused, reset by the backend, or whose
    /// handshake nobody answered; each once.
    pub bad: u64,
}

impl Tally {
    /// Bad ones as a fraction of 1; `None` without connections. The counters
    /// are not read all at one instant, so `bad` can be a little ahead: never
    /// more than 1.
    #[must_use]
    pub fn bad_share(self) -> Option<f64> {
        (self.connections > 0).then(|| (self.bad as f64 / self.connections as f64).min(1.0))
    }
}

/// What the daemon knows about a service at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// The split in force.
    pub split: Split,
    /// Since that split is in force (the current epoch).
    pub canary: Tally,
    pub stable: Tally,
    /// Stable over earlier epochs, where they are known. Used only as long as
    /// stable has no connection in this one, as at a split of 100 %.
    pub stable_before: Option<Tally>,
}

/// What canary was compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    /// Stable under the same split.
    SameEpoch,
    /// Stable in earlier epochs: it has no connections under this split.
    EarlierEpochs,
    /// Nothing: stable never had a connection. It then counts as faultless,
    /// and a failure that hits both versions cannot be told from canary's own.
    None,
}

/// The numbers behind a decision. Displays as one sentence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// When it was seen.
    pub at: SystemTime,
    pub canary: Tally,
    /// What canary was compared with; which of stable's counts, `baseline` says.
    pub stable: Tally,
    pub baseline: Baseline,
    /// Canary's bad share less stable's, a fraction of 1; may be negative.
    pub excess: f64,
    /// The excess that was allowed, a fraction of 1.
    pub max_excess: f64,
}

/// Why nothing is done.
#[derive(Clone, Debug, PartialEq)]
pub enum HoldReason {
    /// The configuration says `rollback.enabled = false`.
    Disabled,
    /// The split is 0.
    NothingToRollBack,
    TooFewConnections {
        seen: u64,
        needed: u64,
    },
    WithinLimits(Evidence),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    Hold {
        reason: HoldReason,
    },
    /// Set the split to 0, leave the pins to drain.
    Rollback {
        /// For status and log: `seen` as a sentence.
        reason: String,
        seen: Evidence,
    },
}

/// Differences of shares below this are rounding, not evidence.
const ROUNDING: f64 = 1e-9;

/// What to do about a service. `now` is only passed on to the evidence.
#[must_use]
pub fn decide(seen: &Observation, rules: &Rollback, now: SystemTime) -> Decision {
    let hold = |reason| Decision::Hold { reason };
    if !rules.enabled {
        return hold(HoldReason::Disabled);
    }
    if seen.split == Split::NONE {
        return hold(HoldReason::NothingToRollBack);
    }
    let few = HoldReason::TooFewConnections {
        seen: seen.canary.connections,
        needed: rules.min_connections.max(1),
    };
    let Some(canary_share) = seen.canary.bad_share() else { return hold(few) };
    if seen.canary.connections < rules.min_connections {
        return hold(few);
    }

    let (stable, baseline) = stable_to_compare_with(seen);
    let evidence = Evidence {
        at: now,
        canary: seen.canary,
        stable,
        baseline,
        excess: canary_share - stable.bad_share().unwrap_or(0.0),
        max_excess: rules.max_excess,
    };
    if evidence.is_over() {
        Decision::Rollback { reason: evidence.to_string(), seen: evidence }
    } else {
        hold(HoldReason::WithinLimits(evidence))
    }
}

fn stable_to_compare_with(seen: &Observation) -> (Tally, Baseline) {
    if seen.stable.connections > 0 {
        return (seen.stable, Baseline::SameEpoch);
    }
    match seen.stable_before {
        Some(before) if before.connections > 0 => (before, Baseline::EarlierEpochs),
        _ => (Tally::default(), Baseline::None),
    }
}

impl Evidence {
    fn is_over(&self) -> bool {
        self.excess > self.max_excess + ROUNDING
    }
}

impl Display for Tally {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.bad, self.connections)
    }
}

/// A share as a percentage with one decimal; small ones are not shown as 0.
struct Percent(f64);

impl Display for Percent {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let percent = self.0 * 100.0;
        if percent > 0.0 && percent < 0.1 {
            return write!(f, "under 0.1 %");
        }
        write!(f, "{percent:.1} %")
    }
}

/// A difference of shares in points, as few decimals as it needs, two at most.
struct Points(f64);

impl Display for Points {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let text = format!("{:.2}", self.0 * 100.0);
        let text = text.trim_end_matches('0').trim_end_matches('.');
        write!(f, "{text} {}", if text == "1" { "point" } else { "points" })
    }
}

impl Display for Evidence {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let share = Percent(self.canary.bad_share().unwrap_or(0.0));
        write!(f, "canary: {} connections failed ({share}), ", self.canary)?;
        let share = Percent(self.stable.bad_share().unwrap_or(0.0));
        match self.baseline {
            Baseline::SameEpoch => write!(f, "stable: {} ({share})", self.stable)?,
            Baseline::EarlierEpochs => {
                write!(f, "stable: none under this split, {} before ({share})", self.stable)?;
            }
            Baseline::None => write!(f, "stable: no connections to compare with")?,
        }
        let side = if self.is_over() { "over" } else { "within" };
        write!(f, "; {side} the allowed excess of {}", Points(self.max_excess))
    }
}

impl Display for HoldReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => write!(f, "rollback is switched off in the configuration"),
            Self::NothingToRollBack => write!(f, "the split is 0: nothing to roll back"),
            Self::TooFewConnections { seen, needed } => {
                write!(f, "{seen} canary connections under this split, {needed} needed to judge")
            }
            Self::WithinLimits(evidence) => evidence.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    const NOW: SystemTime = UNIX_EPOCH;

    fn tally(bad: u64, connections: u64) -> Tally {
        Tally { connections, bad }
    }

    fn at_half(canary: Tally, stable: Tally) -> Observation {
        Observation { split: Split::from_parts(1 << 31), canary, stable, stable_before: None }
    }

    fn rules(max_excess: f64, min_connections: u64) -> Rollback {
        Rollback { enabled: true, max_excess, min_connections }
    }

    fn rolls_back(seen: &Observation, rules: &Rollback) -> bool {
        matches!(decide(seen, rules, NOW), Decision::Rollback { .. })
    }

    #[test]
    fn the_threshold() {
        // (canary bad, of, stable bad, of, max excess, least, rolls back)
        let cases = [
            // The defaults on plain cases.
            (0, 1000, 0, 1000, 0.05, 20, false),
            (12, 40, 1, 360, 0.05, 20, true),
            (40, 40, 0, 360, 0.05, 20, true),
            (0, 40, 360, 360, 0.05, 20, false),
            // Both bad: somebody else's fault.
            (40, 40, 360, 360, 0.05, 20, false),
            (12, 40, 108, 360, 0.05, 20, false),
            // Least number of connections: one short, exactly, one more.
            (19, 19, 0, 100, 0.05, 20, false),
            (20, 20, 0, 100, 0.05, 20, true),
            (21, 21, 0, 100, 0.05, 20, true),
            (1, 1, 0, 1, 0.05, 1, true),
            (1, 1, 0, 1, 0.05, 0, true),
            // Exactly the excess holds, one connection more does not.
            (1, 20, 0, 100, 0.05, 20, false),
            (2, 20, 0, 100, 0.05, 20, true),
            (50, 1000, 0, 1000, 0.05, 20, false),
            (51, 1000, 0, 1000, 0.05, 20, true),
            (15, 100, 10, 100, 0.05, 20, false),
            (16, 100, 10, 100, 0.05, 20, true),
            (30, 100, 200, 1000, 0.1, 20, false),
            (301, 1000, 200, 1000, 0.1, 20, true),
            (50_001, 1_000_000, 0, 1_000_000, 0.05, 20, true),
            // No excess allowed, and any.
            (1, 1000, 0, 1000, 0.0, 20, true),
            (1, 1000, 1, 1000, 0.0, 20, false),
            (1000, 1000, 0, 1000, 1.0, 20, false),
            // Counters read apart: more bad than there are counts as all.
            (30, 29, 0, 100, 1.0, 20, false),
            (100, 100, 103, 100, 0.05, 20, false),
        ];
        for (bad, of, stable_bad, stable_of, max_excess, least, expected) in cases {
            let seen = at_half(tally(bad, of), tally(stable_bad, stable_of));
            assert_eq!(
                rolls_back(&seen, &rules(max_excess, least)),
                expected,
                "{bad}/{of} against {stable_bad}/{stable_of}, {max_excess}, from {least}"
            );
        }
    }

    /// Every excess that is exactly the limit, over all limits in tenths of a
    /// point: floating point must not push one over.
    #[test]
    fn exactly_the_limit_never_rolls_back() {
        for limit in 0..=1000_u64 {
            let rules = rules(limit as f64 / 1000.0, 20);
            for stable in 0..=1000 - limit {
                let seen = at_half(tally(stable + limit, 1000), tally(stable * 3, 3000));
                assert!(!rolls_back(&seen, &rules), "{limit} over {stable}");
                if stable + limit < 1000 {
                    let seen = at_half(tally(stable + limit + 1, 1000), tally(stable * 3, 3000));
                    assert!(rolls_back(&seen, &rules), "more than {limit} over {stable}");
                }
            }
        }
    }

    #[test]
    fn switched_off_and_nothing_to_do() {
        let broken = at_half(tally(40, 40), tally(0, 360));
        let off = Rollback { enabled: false, ..Rollback::default() };
        assert_eq!(decide(&broken, &off, NOW), Decision::Hold { reason: HoldReason::Disabled });

        let at_zero = Observation { split: Split::NONE, ..broken };
        let decision = decide(&at_zero, &Rollback::default(), NOW);
        assert_eq!(decision, Decision::Hold { reason: HoldReason::NothingToRollBack });

        let barely = Observation { split: Split::from_parts(1), ..broken };
        assert!(rolls_back(&barely, &Rollback::default()));
    }

    #[test]
    fn no_connections_hold_whatever_the_rules() {
        for least in [0, 1, 20] {
            let seen = at_half(tally(0, 0), tally(0, 100));
            let reason = HoldReason::TooFewConnections { seen: 0, needed: least.max(1) };
            assert_eq!(decide(&seen, &rules(0.0, least), NOW), Decision::Hold { reason });
        }
    }

    #[test]
    fn stable_without_connections() {
        let everything = |canary, stable_before| Observation {
            split: Split::ALL,
            canary,
            stable: Tally::default(),
            stable_before,
        };
        let rules = Rollback::default();
        // (canary bad of 100, stable before, rolls back, compared with)
        let cases = [
            (6, None, true, Baseline::None),
            (5, None, false, Baseline::None),
            (6, Some(tally(0, 0)), true, Baseline::None),
            (14, Some(tally(100, 1000)), false, Baseline::EarlierEpochs),
            (16, Some(tally(100, 1000)), true, Baseline::EarlierEpochs),
        ];
        for (bad, before, expected, baseline) in cases {
            let decision = decide(&everything(tally(bad, 100), before), &rules, NOW);
            let (rolled_back, evidence) = match decision {
                Decision::Rollback { seen, .. } => (true, seen),
                Decision::Hold { reason: HoldReason::WithinLimits(seen) } => (false, seen),
                Decision::Hold { reason } => panic!("{reason}"),
            };
            assert_eq!((rolled_back, evidence.baseline), (expected, baseline), "{bad} {before:?}");
        }
        // One connection of its own in this epoch, and the earlier ones are out.
        let mut seen = everything(tally(16, 100), Some(tally(0, 1000)));
        assert!(rolls_back(&seen, &rules));
        seen.stable = tally(1, 1);
        assert!(!rolls_back(&seen, &rules));
    }

    #[test]
    fn evidence_carries_the_numbers() {
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let seen = at_half(tally(12, 40), tally(1, 360));
        let Decision::Rollback { reason, seen: evidence } =
            decide(&seen, &Rollback::default(), now)
        else {
            panic!("30 % against 0.3 %")
        };
        assert_eq!(
            reason,
            "canary: 12 of 40 connections failed (30.0 %), stable: 1 of 360 (0.3 %); \
             over the allowed excess of 5 points"
        );
        assert_eq!(evidence.at, now);
        assert_eq!((evidence.canary, evidence.stable), (seen.canary, seen.stable));
        assert!((evidence.excess - (0.3 - 1.0 / 360.0)).abs() < 1e-12);
    }

    #[test]
    fn sentences() {
        let text = |seen: &Observation, rules: &Rollback| match decide(seen, rules, NOW) {
            Decision::Hold { reason } => reason.to_string(),
            Decision::Rollback { reason, .. } => reason,
        };
        let default = Rollback::default();
        let mut seen = at_half(tally(1, 4000), tally(0, 360));
        assert_eq!(
            text(&seen, &rules(0.01, 20)),
            "canary: 1 of 4000 connections failed (under 0.1 %), stable: 0 of 360 (0.0 %); \
             within the allowed excess of 1 point"
        );
        seen.canary = tally(3, 7);
        assert_eq!(
            text(&seen, &default),
            "7 canary connections under this split, 20 needed to judge"
        );
        seen.stable = tally(0, 0);
        seen.canary = tally(30, 40);
        assert_eq!(
            text(&seen, &rules(0.125, 20)),
            "canary: 30 of 40 connections failed (75.0 %), \
             stable: no connections to compare with; over the allowed excess of 12.5 points"
        );
        seen.stable_before = Some(tally(2, 200));
        assert_eq!(
            text(&seen, &rules(0.0025, 20)),
            "canary: 30 of 40 connections failed (75.0 %), \
             stable: none under this split, 2 of 200 before (1.0 %); \
             over the allowed excess of 0.25 points"
        );
        seen.split = Split::NONE;
        assert_eq!(text(&seen, &default), "the split is 0: nothing to roll back");
    }

    #[test]
    fn evidence_survives_the_history_file() {
        let seen = at_half(tally(12, 40), tally(1, 360));
        let Decision::Rollback { seen, .. } = decide(&seen, &Rollback::default(), NOW) else {
            panic!("30 % against 0.3 %")
        };
        let json = serde_json::to_string(&seen).unwrap_or_default();
        assert_eq!(serde_json::from_str::<Evidence>(&json).ok(), Some(seen));
    }
}
