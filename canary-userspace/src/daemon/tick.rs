//! What the daemon does by itself, four times a second: mend what failed, pass
//! over a slice of the flow table, look whether a canary has to be taken out.

use std::{collections::BTreeSet, time::SystemTime};

use anyhow::{Context as _, Result};
use canary_common::{Latencies, Split, Track, WeightTable};

use super::{
    books::{self, Counts, Key},
    state::{Daemon, backends},
};
use crate::{
    config,
    controller::{self, Decision, Tally},
    dataplane::DataplaneError,
    plan,
};

/// The latest connections that are judged by themselves, in multiples of
/// `rollback.min_connections`: enough that a few chance failures among them
/// stay below the allowed excess.
const RECENT_FACTOR: u64 = 10;

impl Daemon {
    /// Every 250 ms.
    pub(super) fn tick(&mut self) {
        if let Err(error) = self.look() {
            tracing::error!("{error:#}");
        }
        if let Some(plane) = &mut self.plane {
            plane.flush_log();
        }
        self.tell_who_follows();
    }

    fn look(&mut self) -> Result<()> {
        if self.observed.uncertain {
            self.apply()?;
            tracing::info!("the maps are as they should be again");
        }
        let now = self.plane()?.now()?;
        let table = self.plane()?.flow_table();
        let followers = &mut self.followers;
        if self.scan.step(&table, now, &mut |flow| followers.ended(flow)) {
            self.plane()?.reset_overflow_mark();
            self.fold()?;
        }
        for service in self.config.services.clone() {
            self.control(&service)?;
        }
        Ok(())
    }

    /// Closes the books on cells without flows. Only on those that nothing was
    /// born into since before the pass over the table began: of younger flows
    /// it may have missed some.
    fn fold(&mut self) -> Result<()> {
        let living = &self.scan.last.cells;
        let over: BTreeSet<u16> = self.retired.difference(living).copied().collect();
        let plane = self.plane.as_ref().context("detached")?;
        let (read, times) = (|cell| plane.cell(cell), |cell| plane.latencies(cell));
        let folded = self.books.fold(&mut self.observed, &over, read, times)?;
        // Of flows from before a daemon whose state was lost.
        let booked = self.books.cells();
        self.observed.cells.retain(|cell| booked.contains(cell) || living.contains(cell));
        self.retired = self.books.retired(&self.observed);
        if folded {
            self.save();
        }
        Ok(())
    }

    /// The controller's look at a service.
    fn control(&mut self, service: &config::Service) -> Result<()> {
        let split = self.split(&service.name);
        if split == Split::NONE || !service.rollback.enabled {
            return Ok(());
        }
        let canary = books::tally(&self.in_epoch(service, Track::Canary)?);
        let stable = books::tally(&self.in_epoch(service, Track::Stable)?);
        let ever = books::tally(&self.over_all(service, Track::Stable)?);
        let before = Tally {
            connections: ever.connections.saturating_sub(stable.connections),
            bad: ever.bad.saturating_sub(stable.bad),
        };
        let stable_before = (before.connections > 0).then_some(before);
        let whole = controller::Observation { split, canary, stable, stable_before };
        let rules = &service.rollback;
        let enough = rules.min_connections.saturating_mul(RECENT_FACTOR);
        let recent = self.recent.entry(service.name.clone()).or_default();
        let latest = recent.look(canary, stable, enough).map(|(canary, stable)| {
            controller::Observation { split, canary, stable, stable_before }
        });
        for seen in [Some(whole), latest].into_iter().flatten() {
            if let Decision::Rollback { reason, .. } =
                controller::decide(&seen, rules, SystemTime::now())
            {
                return self.roll_back(&service.name, reason);
            }
        }
        Ok(())
    }

    fn roll_back(&mut self, service: &str, reason: String) -> Result<()> {
        if let Some(runtime) = self.runtime.get_mut(service) {
            tracing::warn!("{service}: rolled back: {reason}");
            runtime.split = Split::NONE;
            runtime.rolled_back = Some(reason);
            runtime.rollbacks += 1;
        }
        self.apply()?;
        self.save();
        Ok(())
    }

    /// What a track counted in the current epoch.
    pub(super) fn in_epoch(
        &mut self,
        service: &config::Service,
        track: Track,
    ) -> Result<Counts, DataplaneError> {
        let protocol = plan::protocol_number(service.protocol);
        let number = self.observed.service_number(service.listen, protocol);
        let Some(record) = number.and_then(|n| self.observed.services.get(&n)) else {
            return Ok(Counts::default());
        };
        let parity = usize::from(WeightTable::unpack(record.weights).parity);
        let cells: Vec<u16> = backends(service, track)
            .iter()
            .filter_map(|b| self.observed.backend_number(number?, b.address))
            .filter_map(|n| self.observed.backends.get(&n))
            .map(|record| record.cells[parity])
            .collect();
        let mut sum = Counts::default();
        for cell in cells {
            books::add(&mut sum, &self.plane()?.cell(cell)?);
        }
        Ok(sum)
    }

    fn over_all(
        &mut self,
        service: &config::Service,
        track: Track,
    ) -> Result<Counts, DataplaneError> {
        let mut sum = Counts::default();
        for backend in backends(service, track) {
            let total = self.total(&(service.name.clone(), backend.address))?;
            books::add(&mut sum, &total);
        }
        Ok(sum)
    }

    /// A backend's times over all epochs.
    pub(super) fn times(&self, key: &Key) -> Latencies {
        let plane = self.plane.as_ref();
        self.books.times(key, |cell| plane.map_or_else(Default::default, |p| p.latencies(cell)))
    }

    /// A backend's counts over all epochs.
    pub(super) fn total(&mut self, key: &Key) -> Result<Counts, DataplaneError> {
        let plane = self.plane.as_ref();
        self.books.total(key, |cell| match plane {
            Some(plane) => plane.cell(cell),
            None => Ok(Counts::default()),
        })
    }
}
