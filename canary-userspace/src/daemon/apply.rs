//! How the maps are brought to what should be.

use std::collections::BTreeSet;

use anyhow::Result;
use canary_common::{Split, Track, WeightTable};

use super::state::{Daemon, Runtime, backends};
use crate::{
    config,
    plan::{self, Desired, DesiredService, Full, Planned},
};

impl Daemon {
    /// What should be, by the configuration and what was said since; of one
    /// service alone, where one is named.
    fn desired(&self, only: Option<&str>, jiffies_per_second: u32) -> Desired {
        let default = Runtime::default();
        let services = self.services(only).map(|service| {
            let runtime = self.runtime.get(&service.name).unwrap_or(&default);
            let withheld = self.withholds_canary(service);
            DesiredService {
                config: service.clone(),
                split: if withheld { Split::NONE } else { runtime.split },
                drained: match self.leaving {
                    Some(_) => {
                        service.stable.iter().chain(&service.canary).map(|b| b.address).collect()
                    }
                    None => runtime.drained.union(&runtime.retiring).copied().collect(),
                },
                unwell: self.unwell(service),
                salt: runtime.salt,
                generation: runtime.generation,
                epoch: runtime.epoch,
                steered: !runtime.steered.is_empty(),
            }
        });
        let services: Vec<DesiredService> = services.collect();
        let hops = match only {
            None => self.hops.clone(),
            Some(_) => services
                .iter()
                .flat_map(DesiredService::backends)
                .filter_map(|(_, backend)| self.hops.get_key_value(&backend.address.ip()))
                .map(|(address, hop)| (*address, *hop))
                .collect(),
        };
        Desired { services, hops, jiffies_per_second }
    }

    /// Those of the configuration, or the one of this name.
    pub(super) fn services(&self, only: Option<&str>) -> impl Iterator<Item = &config::Service> {
        let is_meant = move |s: &&config::Service| only.is_none_or(|name| s.name == name);
        self.config.services.iter().filter(is_meant)
    }

    /// Brings the maps to what should be. Where that fails on the way, each
    /// tick tries again until the maps are as they should be.
    pub(super) fn apply(&mut self) -> Result<()> {
        let planned = self.planned()?;
        self.carry(planned, None)
    }

    /// The same after a change that concerns one service alone.
    pub(super) fn apply_to(&mut self, name: &str) -> Result<()> {
        let hz = self.plane()?.hz();
        let desired = self.desired(Some(name), hz);
        let backends = desired.services.iter().map(|service| service.backends().count()).sum();
        if !self.observed.uncertain && !self.observed.has_cells_for(backends) {
            // Flows of earlier epochs that have ended make room.
            self.fold_now()?;
        }
        match plan::plan_some(&desired, &self.observed) {
            Ok(Some(planned)) if !planned.short_of_cells => self.carry(planned, Some(name)),
            // It takes more than that.
            _ => self.apply(),
        }
    }

    fn carry(&mut self, planned: Planned, only: Option<&str>) -> Result<()> {
        if planned.short_of_cells {
            tracing::warn!(
                "all counter cells are in use by older flows: connections under the new split \
                 are counted together with earlier ones until some have ended"
            );
        }
        self.is_settled = false;
        // A whole plan takes much more than what stays of it.
        self.has_freed |= only.is_none();
        let before = std::mem::replace(&mut self.observed, planned.after);
        // Cells are entered before they can count.
        self.enter_cells(only);
        if let Err(error) = self.plane()?.apply(&planned.writes) {
            self.observed = before.uncertain(&self.observed);
            return Err(error.into());
        }
        self.enter_epochs(only);
        self.health_applied(only);
        self.renew_followers();
        Ok(())
    }

    /// The plan; where it is short of cells, after those that no flow needs
    /// any more were given back.
    fn planned(&mut self) -> Result<Planned> {
        let hz = self.plane()?.hz();
        let desired = self.desired(None, hz);
        let planned = plan::plan(&desired, &self.observed);
        let short = match &planned {
            Ok(planned) => planned.short_of_cells,
            Err(full) => *full == Full::Cells,
        };
        // What may be in the maps beside what is known is not given back.
        if !short || self.observed.uncertain {
            return Ok(planned?);
        }
        self.fold_now()?;
        Ok(plan::plan(&desired, &self.observed)?)
    }

    /// After a change that failed and was taken back.
    pub(super) fn restore(&mut self) {
        if self.observed.uncertain
            && let Err(error) = self.apply()
        {
            tracing::error!("going back to what was: {error:#}; trying again");
        }
    }

    /// Flows that are born now are booked under the split in force.
    fn enter_epochs(&mut self, only: Option<&str>) {
        for service in &self.config.services {
            if only.is_some_and(|name| service.name != name) {
                continue;
            }
            let number = self.observed.service_of(service);
            let record = number.and_then(|number| self.observed.services.get(&number));
            let (Some(number), Some(record), Some(runtime)) =
                (number, record, self.runtime.get_mut(&service.name))
            else {
                continue;
            };
            let weights = WeightTable::unpack(record.weights);
            for track in Track::ALL {
                for backend in backends(service, track) {
                    let found = self.observed.backend_number(number, backend.address);
                    let found = found.and_then(|found| self.observed.backends.get(&found));
                    if let Some(record) = found {
                        let cell = record.cells[usize::from(weights.parity)];
                        runtime.ledger.enter(weights.split, track, cell);
                    }
                }
            }
        }
    }

    fn enter_cells(&mut self, only: Option<&str>) {
        let mut configured = BTreeSet::new();
        for service in &self.config.services {
            if only.is_some_and(|name| service.name != name) {
                continue;
            }
            let Some(number) = self.observed.service_of(service) else { continue };
            for backend in service.stable.iter().chain(&service.canary) {
                let key = (service.name.clone(), backend.address);
                let found = self.observed.backend_number(number, backend.address);
                if let Some(record) = found.and_then(|found| self.observed.backends.get(&found)) {
                    self.books.enter(&key, record.current_cells());
                }
                configured.insert(key);
            }
        }
        if only.is_none() {
            self.books.retain(&configured);
        }
    }
}
