//! Looks at the counters that are kept: for `canary replay`, and for the rate
//! of connections that `canary plan` counts with.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use canary_common::Track;

use super::{
    super::{
        journal::Journal,
        state::{Daemon, backends},
    },
    is_due, seconds_since_1970,
};
use crate::{
    api::{request::Refusal, types::Forecast},
    config::{self, Rollout},
    dataplane::DataplaneError,
    judge::{Record, RecordedTrack, Seen, Today, TrackCounts, plan_rollout},
};

/// While a rollout is under way a look is written down this often, and at
/// every transition.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The rate of connections is that of so long.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
const SAMPLES: usize = 60;

/// Connections of a service, of the last minutes.
#[derive(Debug, Default)]
pub(super) struct Rate {
    samples: VecDeque<(Instant, u64)>,
}

impl Rate {
    fn add(&mut self, at: Instant, connections: u64) {
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((at, connections));
    }

    /// `None` before there are two samples.
    fn per_second(&self) -> Option<f64> {
        let ((from, first), (to, last)) = (self.samples.front()?, self.samples.back()?);
        let seconds = to.duration_since(*from).as_secs_f64();
        (seconds > 0.0).then(|| last.saturating_sub(*first) as f64 / seconds)
    }
}

impl Daemon {
    fn looks_of(&self, service: &str) -> Journal {
        Journal::of(&self.config.state_dir, "looks", service)
    }

    /// A rollout begins: its looks go into a file of their own.
    pub(super) fn begin_looks(&self, service: &str) {
        if let Err(error) = self.looks_of(service).put_aside() {
            tracing::warn!("{service}: putting aside the last rollout's looks: {error}");
        }
    }

    /// Writes a look down, if it is time; `all` epochs and now at a transition.
    pub(super) fn write_look(&mut self, service: &str, seen: &Seen, all: bool) {
        let due = is_due(&mut self.trial(service).last_look, LOOK_EVERY);
        // A file begins with what it is to be judged by, and its first epoch.
        let all = all || !self.looks_of(service).path().exists();
        if !due && !all {
            return;
        }
        let at = seconds_since_1970();
        let epochs = seen.by_split();
        let first = if all { 0 } else { epochs.len().saturating_sub(1) };
        let lines = (1..).zip(&epochs).skip(first).map(|(epoch, counts)| Record {
            before: seen.before.as_ref().filter(|_| all).map(RecordedTrack::of),
            sticky: seen.sticky,
            ..Record::of(at, epoch, counts)
        });
        for line in lines {
            if let Err(error) = self.looks_of(service).append(&line, false) {
                tracing::warn!("{service}: writing a look: {error}");
                return;
            }
        }
    }

    /// Each tick.
    pub(super) fn sample(&mut self) -> Result<(), DataplaneError> {
        if !is_due(&mut self.sampled, SAMPLE_EVERY) {
            return Ok(());
        }
        let Some(plane) = &self.plane else { return Ok(()) };
        let counts = plane.cells(self.books.cells())?;
        let now = Instant::now();
        for service in &self.config.services {
            let backends = service.stable.iter().chain(&service.canary).map(|b| b.address);
            let connections = self.books.connections(&service.name, backends, &counts);
            self.trials.entry(service.name.clone()).or_default().rate.add(now, connections);
        }
        Ok(())
    }

    /// A track over all epochs, without its times.
    pub(super) fn counted(
        &self,
        service: &config::Service,
        track: Track,
    ) -> Result<TrackCounts, DataplaneError> {
        let of_service = |backend: &config::Backend| (service.name.as_str(), backend.address);
        let cells = self.books.cells_of(backends(service, track).iter().map(of_service));
        let counts = self.counts(cells.collect())?;
        let read = |cell| Ok(counts.get(&cell).copied().unwrap_or_default());
        let mut sum = TrackCounts::default();
        for backend in backends(service, track) {
            let key = (service.name.clone(), backend.address);
            let (cell, shared) = self.books.total::<DataplaneError>(&key, read)?;
            sum.add(&TrackCounts::of(&cell, &shared, &Default::default()));
        }
        Ok(sum)
    }

    pub(in crate::daemon) fn forecast(&mut self, name: &str) -> Result<Forecast, Refusal> {
        let service = self.service(name)?;
        let rollout = service.rollout.clone().unwrap_or_else(Rollout::auto);
        let rate = self.trial(name).rate.per_second().ok_or_else(|| {
            Refusal::conflict(format!(
                "the rate of {name}'s connections is not known yet; ask again in {} s",
                2 * SAMPLE_EVERY.as_secs()
            ))
        })?;
        let stable = self.counted(&service, Track::Stable).map_err(Refusal::internal)?;
        let today = Today { connections_per_second: rate, stable };
        let plan = plan_rollout(&today, &rollout, &service.evidence);
        let mut text = plan.lines();
        if service.rollout.is_none() {
            text.insert(0, format!("{name} has no rollout; this is what rollout = \"auto\" does"));
        }
        Ok(Forecast {
            service: name.to_owned(),
            text,
            plan: serde_json::to_value(&plan).map_err(Refusal::internal)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_last_minutes() {
        let mut rate = Rate::default();
        let begun = Instant::now();
        assert_eq!(rate.per_second(), None);
        rate.add(begun, 1000);
        assert_eq!(rate.per_second(), None);
        for second in 1..=200_u64 {
            // 50 a second for a while, then 10.
            let connections = 1000 + 50 * second.min(100) + 10 * second.saturating_sub(100);
            rate.add(begun + Duration::from_secs(second), connections);
        }
        assert_eq!(rate.per_second(), Some(10.0));
    }
}
