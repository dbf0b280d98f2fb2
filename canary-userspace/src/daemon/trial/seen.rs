//! What the judge is shown of a service.

use std::collections::{BTreeMap, BTreeSet};

use canary_common::Track;

use super::super::{
    books::Counts,
    ledger::Lived,
    state::{Daemon, backends},
};
use crate::{
    config::{self, Affinity},
    dataplane::DataplaneError,
    judge::{EpochCounts, Seen, TrackCounts},
};

fn track_counts(lived: &Lived) -> TrackCounts {
    TrackCounts::of(&lived.counts.0, &lived.counts.1, &lived.times)
}

impl Daemon {
    /// Both versions since the present trial began, by the split of birth, the
    /// current one last; and stable from before.
    pub(in crate::daemon) fn seen(
        &self,
        service: &config::Service,
    ) -> Result<Seen, DataplaneError> {
        let Some(runtime) = self.runtime.get(&service.name) else { return Ok(Seen::default()) };
        let stable = || backends(service, Track::Stable).iter().map(|backend| backend.address);
        let lifelong = stable().map(|backend| (service.name.as_str(), backend));
        let lifelong = self.books.cells_of(lifelong);
        let counts = self.counts(runtime.ledger.cells().chain(lifelong).collect())?;
        let living = |cell| self.living(&counts, cell);
        let mut all = runtime.ledger.read(living);
        let mut stable_lately = Lived::default();
        for (_, lived) in all.values() {
            stable_lately.add(&lived[Track::Stable as usize]);
        }
        let current = all.remove_entry(&runtime.split);
        let slices = self.trials.get(&service.name).map(|trial| &trial.slices);
        let mut epochs = Vec::new();
        for (split, (epoch, [stable, canary])) in all.into_iter().chain(current) {
            let (canary, stable) = (track_counts(&canary), track_counts(&stable));
            let share = split.fraction();
            let whole = EpochCounts { share, canary, stable, diverted: epoch.diverted };
            match slices {
                Some(slices) if split == runtime.split => {
                    epochs.extend(slices.cut(runtime.ledger.trial, split, &whole));
                }
                _ => epochs.push(whole),
            }
        }
        let before = self.books.lived(&service.name, stable(), living);
        let before = track_counts(&before.without(&stable_lately));
        Ok(Seen {
            epochs,
            before: (before.connections > 0).then_some(before),
            sticky: service.affinity == Affinity::Client,
        })
    }

    /// Each look: a long epoch is cut now and then.
    pub(super) fn slice(&mut self, service: &config::Service, seen: &Seen) {
        let Some(runtime) = self.runtime.get(&service.name) else { return };
        let (number, split) = (runtime.ledger.trial, runtime.split);
        let whole = seen.under_split();
        self.trial(&service.name).slices.go_on(number, split, whole.as_ref());
    }

    /// Of those of some cells that counted anything, with few calls.
    pub(in crate::daemon) fn counts(
        &self,
        cells: BTreeSet<u16>,
    ) -> Result<BTreeMap<u16, Counts>, DataplaneError> {
        self.plane.as_ref().map_or_else(|| Ok(BTreeMap::new()), |plane| plane.cells(cells))
    }

    /// One of these, with its times.
    pub(in crate::daemon) fn living(
        &self,
        counts: &BTreeMap<u16, Counts>,
        cell: u16,
    ) -> Option<Lived> {
        let counts = *counts.get(&cell)?;
        Some(Lived { counts, times: self.plane.as_ref()?.latencies(cell) })
    }
}
