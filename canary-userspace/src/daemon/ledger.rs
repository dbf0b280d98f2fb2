//! What a service's versions did since the present trial of its canary began,
//! by the split that connections were born under.
//!
//! A connection is booked where it was born, however late it goes bad; that is
//! what makes the evidence valid while the split changes. Epochs of the same
//! split are kept as one: the tests' factors depend on their sums alone.

use std::collections::{BTreeMap, BTreeSet};

use canary_common::{Latencies, Split, Track};
use serde::{Deserialize, Serialize};

use super::{
    books::{self, Counts},
    store::SavedTimes,
};

/// Counts and times of one version.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lived {
    pub(super) counts: Counts,
    pub(super) times: Latencies,
}

impl Lived {
    pub(super) fn add(&mut self, other: &Self) {
        books::add(&mut self.counts, &other.counts);
        self.times.add(&other.times);
    }

    /// What is not in a part of it. Counters are not read at one instant, so a
    /// part may be a little ahead.
    pub(super) fn without(&self, part: &Self) -> Self {
        let mut rest = *self;
        rest.counts.0.saturating_take(&part.counts.0);
        rest.counts.1.saturating_take(&part.counts.1);
        rest.times.saturating_take(&part.times);
        rest
    }
}

/// Both versions under one split.
#[derive(Clone, Debug, Default)]
pub(super) struct Epoch {
    /// By [`Track`], of cells that are closed.
    closed: [Lived; 2],
    /// New flows that the guard kept from the canary.
    pub(super) diverted: u64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    epochs: BTreeMap<Split, Epoch>,
    /// Whose a living cell is.
    cells: BTreeMap<u16, (Split, Track)>,
    /// Trials that were begun: another number is another trial.
    pub(super) trial: u64,
}

impl Ledger {
    /// A new trial: nothing of before counts.
    pub(super) fn begin(&mut self) {
        *self = Self { trial: self.trial + 1, ..Self::default() };
    }

    /// Flows born from now on under this split are booked in that cell.
    pub(super) fn enter(&mut self, split: Split, track: Track, cell: u16) {
        if cell != 0 {
            self.epochs.entry(split).or_default();
            self.cells.entry(cell).or_insert((split, track));
        }
    }

    /// Those of these cells that flows of the trial are booked in.
    pub(super) fn living(&self, cells: &BTreeSet<u16>) -> Vec<u16> {
        self.cells.keys().copied().filter(|cell| cells.contains(cell)).collect()
    }

    /// A cell is closed with these counts; its number may come back.
    pub(super) fn close(&mut self, cell: u16, lived: impl FnOnce() -> Lived) {
        if let Some((split, track)) = self.cells.remove(&cell)
            && let Some(epoch) = self.epochs.get_mut(&split)
        {
            epoch.closed[track as usize].add(&lived());
        }
    }

    /// The guard kept so many more flows from the canary.
    pub(super) fn diverted(&mut self, split: Split, flows: u64) {
        if flows > 0 {
            self.epochs.entry(split).or_default().diverted += flows;
        }
    }

    /// The cells that flows of the trial are booked in, in ascending order.
    pub(super) fn cells(&self) -> impl Iterator<Item = u16> {
        self.cells.keys().copied()
    }

    /// Everything so far, by split: stable and canary. `living`: of cells that
    /// counted anything.
    pub(super) fn read(
        &self,
        living: impl Fn(u16) -> Option<Lived>,
    ) -> BTreeMap<Split, (Epoch, [Lived; 2])> {
        let mut all: BTreeMap<Split, (Epoch, [Lived; 2])> = self
            .epochs
            .iter()
            .map(|(split, epoch)| (*split, (epoch.clone(), epoch.closed)))
            .collect();
        for (cell, (split, track)) in &self.cells {
            if let Some(counted) = living(*cell)
                && let Some((_, lived)) = all.get_mut(split)
            {
                lived[*track as usize].add(&counted);
            }
        }
        all
    }

    pub(super) fn save(&self) -> SavedLedger {
        let epochs = self.epochs.iter().map(|(split, epoch)| SavedEpoch {
            split: split.parts(),
            diverted: epoch.diverted,
            stable: SavedLived::of(&epoch.closed[Track::Stable as usize]),
            canary: SavedLived::of(&epoch.closed[Track::Canary as usize]),
        });
        let cells = self.cells.iter().map(|(cell, (split, track))| SavedCell {
            cell: *cell,
            split: split.parts(),
            canary: *track == Track::Canary,
        });
        SavedLedger { epochs: epochs.collect(), cells: cells.collect() }
    }

    /// `cells`: whether the maps are those that it was saved for.
    pub(super) fn restore(saved: &SavedLedger, cells: bool) -> Self {
        let epochs = saved.epochs.iter().map(|saved| {
            let closed = [saved.stable.lived(), saved.canary.lived()];
            (Split::from_parts(saved.split), Epoch { closed, diverted: saved.diverted })
        });
        let living = saved.cells.iter().filter(|_| cells).map(|saved| {
            let track = if saved.canary { Track::Canary } else { Track::Stable };
            (saved.cell, (Split::from_parts(saved.split), track))
        });
        Self { epochs: epochs.collect(), cells: living.collect(), trial: 0 }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct SavedLedger {
    epochs: Vec<SavedEpoch>,
    cells: Vec<SavedCell>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct SavedEpoch {
    /// In parts of 2^32.
    split: u64,
    diverted: u64,
    stable: SavedLived,
    canary: SavedLived,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct SavedCell {
    cell: u16,
    split: u64,
    canary: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct SavedLived {
    counts: BTreeMap<String, u64>,
    /// Of handshakes and of first bytes.
    times: [SavedTimes; 2],
}

impl SavedLived {
    fn of(lived: &Lived) -> Self {
        Self { counts: books::numbers(&lived.counts), times: SavedTimes::both(&lived.times) }
    }

    fn lived(&self) -> Lived {
        Lived {
            counts: books::from_numbers(&self.counts),
            times: SavedTimes::latencies(&self.times),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use canary_common::{Cell, SharedCell};

    fn lived(connections: u64) -> Lived {
        let mut lived = Lived {
            counts: (Cell { connections, ..Cell::default() }, SharedCell::default()),
            ..Lived::default()
        };
        lived.times.handshake.counts[5] = connections;
        lived
    }

    fn connections(ledger: &Ledger, split: Split) -> [u64; 2] {
        let all = ledger.read(|cell| Some(lived(u64::from(cell))));
        all.get(&split).map_or([0; 2], |(_, lived)| lived.map(|l| l.counts.0.connections))
    }

    #[test]
    fn a_connection_stays_under_the_split_of_its_birth() {
        let (low, high) = (Split::from_parts(1 << 20), Split::from_parts(1 << 30));
        let mut ledger = Ledger::default();
        ledger.enter(low, Track::Stable, 10);
        ledger.enter(low, Track::Canary, 11);
        ledger.enter(high, Track::Canary, 21);
        // Said again at every change of the maps.
        ledger.enter(high, Track::Canary, 11);
        assert_eq!(connections(&ledger, low), [10, 11]);
        assert_eq!(connections(&ledger, high), [0, 21]);
        // Closed with what it had, and its number used again.
        ledger.close(11, || lived(500));
        ledger.enter(high, Track::Stable, 11);
        assert_eq!(connections(&ledger, low), [10, 500]);
        assert_eq!(connections(&ledger, high), [11, 21]);
        // The same split once more adds to what it had.
        ledger.enter(low, Track::Canary, 30);
        assert_eq!(connections(&ledger, low), [10, 530]);
    }

    #[test]
    fn it_survives_the_daemon() {
        let split = Split::from_parts(1 << 30);
        let mut ledger = Ledger::default();
        ledger.enter(split, Track::Canary, 3);
        ledger.enter(split, Track::Stable, 4);
        ledger.close(3, || lived(7));
        ledger.diverted(split, 9);
        let saved = serde_json::to_string(&ledger.save()).expect("JSON");
        let saved: SavedLedger = serde_json::from_str(&saved).expect("the same");
        assert_eq!(saved, ledger.save());
        let back = Ledger::restore(&saved, true);
        assert_eq!(connections(&back, split), [4, 7]);
        assert_eq!(back.epochs[&split].diverted, 9);
        assert_eq!(back.epochs[&split].closed[1].times, lived(7).times);
        // With new maps the living cells are gone.
        assert_eq!(connections(&Ledger::restore(&saved, false), split), [0, 7]);
    }
}
