//! What the judge is shown of a service.

use canary_common::Track;

use super::super::{
    books::{self, Counts, Key},
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
        let mut all = runtime.ledger.read(|cell| self.lived(cell))?;
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
        let mut before = Lived::default();
        for backend in backends(service, Track::Stable) {
            before.add(&self.ever(&(service.name.clone(), backend.address))?);
        }
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

    /// A living cell's counts and times.
    pub(in crate::daemon) fn lived(&self, cell: u16) -> Result<Lived, DataplaneError> {
        let Some(plane) = &self.plane else { return Ok(Lived::default()) };
        Ok(Lived { counts: plane.cell(cell)?, times: plane.latencies(cell) })
    }

    /// A backend over all epochs.
    fn ever(&self, key: &Key) -> Result<Lived, DataplaneError> {
        let counts = self.total(key)?;
        Ok(Lived { counts, times: self.times(key) })
    }

    /// A backend's counts over all epochs.
    pub(in crate::daemon) fn total(&self, key: &Key) -> Result<Counts, DataplaneError> {
        let plane = self.plane.as_ref();
        self.books.total(key, |cell| match plane {
            Some(plane) => plane.cell(cell),
            None => Ok(Counts::default()),
        })
    }

    /// What a track counted under the split in force, for the status.
    pub(in crate::daemon) fn in_epoch(
        &self,
        service: &config::Service,
        track: Track,
    ) -> Result<Counts, DataplaneError> {
        let mut sum = Counts::default();
        for cell in self.current_cells(service, track) {
            books::add(&mut sum, &self.lived(cell)?.counts);
        }
        Ok(sum)
    }
}
