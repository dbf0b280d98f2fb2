//! A long epoch in slices: a canary that was good for hours and breaks now must
//! not be judged by the hours. The tests begin anew with each slice.
//!
//! Slices are short lately and long in the past: a beginning is never much older
//! than what broke after it. Those that are put together made their beginning's
//! evidence vanish, and lend its weight to later ones; so the weights of all
//! beginnings ever add up to more than `evidence::late` gives them. With one each
//! ten seconds, of which the newest weighs a hundredth of 1 / n(n+1) and n is 14,
//! α becomes 1.4 % at most in a day, and 1.04 % in an hour.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use canary_common::Split;

use super::is_due;
use crate::judge::EpochCounts;

const SLICE_EVERY: Duration = Duration::from_secs(10);

/// Where the slices of the current split end.
#[derive(Debug, Default)]
pub(super) struct Slices {
    of: Option<(u64, Split)>,
    ends: VecDeque<End>,
    last: Option<Instant>,
}

/// Both versions' counts at a moment.
#[derive(Clone, Copy, Debug)]
struct End {
    at: Instant,
    counts: EpochCounts,
}

impl Slices {
    /// The current epoch as its slices, the present one last. `trial` is the
    /// ledger's number: the slices of another one do not count.
    pub(super) fn cut(&self, trial: u64, split: Split, whole: &EpochCounts) -> Vec<EpochCounts> {
        let ends = self.ends.iter().filter(|_| self.of == Some((trial, split)));
        let ends: Vec<&EpochCounts> = ends.map(|end| &end.counts).collect();
        let nothing = EpochCounts { share: whole.share, ..EpochCounts::default() };
        let from = std::iter::once(&nothing).chain(ends.iter().copied());
        let to = ends.iter().copied().chain(std::iter::once(whole));
        from.zip(to).map(|(from, to)| to.since(from)).collect()
    }

    /// Ends a slice where it is time to.
    pub(super) fn go_on(&mut self, trial: u64, split: Split, whole: Option<&EpochCounts>) {
        if self.of != Some((trial, split)) {
            let last = Some(Instant::now());
            *self = Self { of: Some((trial, split)), last, ..Self::default() };
        }
        if let Some(whole) = whole
            && is_due(&mut self.last, SLICE_EVERY)
        {
            self.end(Instant::now(), *whole);
        }
    }

    fn end(&mut self, at: Instant, counts: EpochCounts) {
        self.ends.push_back(End { at, counts });
        // An end whose neighbours are close to each other, by their age, is put
        // away: what remains is about one in each doubling of the age.
        let mut index = self.ends.len().saturating_sub(2);
        while index >= 1 {
            let age = |index: usize| at.duration_since(self.ends[index].at) + SLICE_EVERY;
            if age(index - 1) <= 3 * age(index + 1) {
                self.ends.remove(index);
            }
            index -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::TrackCounts;

    fn counts(connections: u64, resets: u64) -> EpochCounts {
        let track = TrackCounts { connections, resets, ..TrackCounts::default() };
        EpochCounts { share: 0.05, canary: track, stable: track, diverted: connections / 10 }
    }

    #[test]
    fn slices_add_up_to_the_whole() {
        let split = Split::from_parts(1 << 30);
        let mut slices = Slices::default();
        slices.go_on(1, split, None);
        let begun = Instant::now();
        for (after, end) in [(5, counts(100, 1)), (60, counts(900, 7))] {
            slices.end(begun + Duration::from_secs(after), end);
        }
        let cut = slices.cut(1, split, &counts(1000, 9));
        let resets: Vec<u64> = cut.iter().map(|slice| slice.canary.resets).collect();
        assert_eq!(resets, [1, 6, 2]);
        let connections: u64 = cut.iter().map(|slice| slice.stable.connections).sum();
        assert_eq!(connections, 1000);
        // Of another split, and of another trial, there is one.
        assert_eq!(slices.cut(1, Split::ALL, &counts(5, 0)), [counts(5, 0)]);
        assert_eq!(slices.cut(2, split, &counts(1000, 9)), [counts(1000, 9)]);
    }

    #[test]
    fn there_is_always_a_recent_beginning_and_never_many() {
        let mut slices = Slices::default();
        let begun = Instant::now();
        // A day.
        for number in 0..8640_u32 {
            let now = begun + number * SLICE_EVERY;
            slices.end(now, counts(u64::from(number), 0));
            assert!(slices.ends.len() <= 25, "{} slices", slices.ends.len());
            // What broke so long ago has a beginning shortly before it.
            for broke in [20, 60, 600, 6000].map(Duration::from_secs) {
                if now.duration_since(begun) < 4 * broke {
                    continue;
                }
                let ages = slices.ends.iter().map(|end| now.duration_since(end.at));
                let before = ages.filter(|age| *age >= broke).min();
                assert!(before.is_some_and(|age| age <= 4 * broke), "{broke:?}: {before:?}");
            }
        }
    }
}
