//! At a split of 100 % there is no stable beside the canary: its record is what
//! there is to compare with.

use super::{counts::sum, judgement::Last};
use crate::evidence::{Outcomes, above, highest_believable};

/// The part of α that the bound on stable's rate may take.
const FOR_THE_BOUND: f64 = 0.1;
/// Where no failure of stable's is on record, its rate is taken to be no more
/// than this, however few connections are.
const WITHOUT_FAILURES: f64 = 0.5;

/// The evidence that the canary, alone in these epochs, fails more often than is allowed: more
/// than `ratio` times as often as stable did at most, *and* by more than
/// `margin`. Few connections on record make it careful; where all of them
/// failed, nothing is too much.
///
/// With probability `alpha` at most it ever reaches `1 / alpha` while the canary
/// fails no more often than stable does on record: the bound is wrong with a
/// tenth of it, and the bet loses a tenth for that.
#[must_use]
pub fn last(epochs: &[Outcomes], recorded: Outcomes, ratio: f64, margin: f64, alpha: f64) -> Last {
    let mut rate = highest_believable(recorded, alpha * FOR_THE_BOUND);
    if recorded.bad == 0 {
        rate = rate.min(WITHOUT_FAILURES);
    }
    let allowed = (rate * ratio).max(rate + margin).min(1.0);
    let ln = above(epochs, allowed) + (1.0 - FOR_THE_BOUND).ln();
    Last { canary: sum(epochs.iter().copied()), recorded, allowed, ln }
}
