//! What the daemon does by itself, four times a second: mend what failed, pass
//! over a slice of the flow table, look whether a canary has to be taken out.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use canary_common::{Split, Track, WeightTable};

use super::{
    ledger::Lived,
    state::{Daemon, Runtime, backends},
};
use crate::{config, rollout::Stage};

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
        self.leave_no_longer();
        self.store.breathe();
        self.save_again();
        if std::mem::take(&mut self.has_freed) {
            give_back_memory();
        }
    }

    fn look(&mut self) -> Result<()> {
        if self.observed.uncertain {
            self.apply()?;
            tracing::info!("the maps are as they should be again");
        }
        let now = self.plane()?.now()?;
        let table = self.plane()?.flow_table();
        let is_on_trial = |runtime: &Runtime| {
            runtime.rollout.stage != Stage::Idle
                || runtime.split != Split::NONE
                || !runtime.retiring.is_empty()
        };
        let swiftly = self.runtime.values().any(is_on_trial);
        let followers = &mut self.followers;
        if self.scan.step(&table, now, swiftly, &mut |flow| followers.ended(flow)) {
            self.plane()?.renew_overflow_marks();
            self.fold()?;
            self.forget_expired();
        }
        self.look_at_health()?;
        self.look_at_trials()
    }

    /// Looks at the whole table and closes the books on what nobody needs any
    /// more, out of turn.
    pub(super) fn fold_now(&mut self) -> Result<()> {
        let now = self.plane()?.now()?;
        let table = self.plane()?.flow_table();
        self.retired = self.books.retired(&self.observed);
        let followers = &mut self.followers;
        self.scan.whole(&table, now, &mut |flow| followers.ended(flow));
        self.fold()
    }

    /// Closes the books on cells without flows. Only on those that nothing was
    /// born into since before the pass over the table began: of younger flows
    /// it may have missed some.
    fn fold(&mut self) -> Result<()> {
        if self.is_settled {
            return Ok(());
        }
        let living = self.scan.last.cells();
        let retired = self.books.retired(&self.observed);
        let over: BTreeSet<u16> =
            self.retired.intersection(&retired).filter(|c| !living.contains(c)).copied().collect();
        let plane = self.plane.as_ref().context("detached")?;
        let counts = plane.cells(over.iter().copied())?;
        // Who counted nothing has no times.
        let lived = |cell: u16| {
            let counts = counts.get(&cell).copied();
            counts.map(|counts| Lived { counts, times: plane.latencies(cell) }).unwrap_or_default()
        };
        for runtime in self.runtime.values_mut() {
            for cell in runtime.ledger.living(&over) {
                runtime.ledger.close(cell, || lived(cell));
            }
        }
        let folded = self.books.fold(&mut self.observed, &over, lived);
        // Of flows from before a daemon whose state was lost.
        let booked = self.books.cells();
        self.observed.cells.retain(|cell| booked.contains(cell) || living.contains(cell));
        self.retired = &retired - &over;
        self.is_settled = self.retired.is_empty() && self.observed.cells.is_subset(&booked);
        if folded {
            self.has_freed = true;
            self.save();
        }
        Ok(())
    }

    /// Of a split that a person set.
    pub(super) fn roll_back_by_hand(&mut self, service: &str, reason: String) -> Result<()> {
        if let Some(runtime) = self.runtime.get_mut(service) {
            tracing::warn!("{service}: rolled back: {reason}");
            runtime.split = Split::NONE;
            runtime.rolled_back = Some(reason.clone());
            runtime.rollbacks += 1;
        }
        self.apply_to(service)?;
        self.hold_for_steered(service);
        self.save();
        self.note_rollback_by_hand(service, reason);
        Ok(())
    }

    /// The cells that a track's new flows are booked to.
    pub(super) fn current_cells(&self, service: &config::Service, track: Track) -> Vec<u16> {
        let number = self.service_number(service);
        let Some(record) = number.and_then(|n| self.observed.services.get(&n)) else {
            return Vec::new();
        };
        let parity = usize::from(WeightTable::unpack(record.weights).parity);
        let numbers =
            backends(service, track).iter().filter_map(|b| self.backend_number(service, b));
        numbers.filter_map(|n| self.observed.backends.get(&n)).map(|b| b.cells[parity]).collect()
    }
}

/// Has the allocator give the host what is free inside of its heap: of what a
/// plan for thousands of backends takes for a moment, by far the most.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}
