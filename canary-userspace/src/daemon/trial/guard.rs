//! The kernel's guard, kept at what the judge would act at.

use std::time::Duration;

use anyhow::Result;
use canary_common::{GuardStatus, Told, told};

use super::super::state::Daemon;
use crate::{
    api::types,
    config::{self, Evidence},
    dataplane::{GuardOrder, GuardState},
    judge::Seen,
    rollout::{Stage, Why},
};

/// Nothing is guarded.
const OFF: GuardState =
    GuardState { status: GuardStatus::Off, bad: 0, limit: None, diverted: 0, spent_at: None };

/// The events that spend the budget: those of the failures that are watched. A
/// handshake's time that is over is found by whoever takes its place, and is
/// left to the daemon.
fn counted(rules: &Evidence) -> Told {
    let kinds = [
        (rules.refused.watched, told!(refused)),
        (rules.resets.watched, told!(resets_backend)),
        (rules.http_5xx.watched, told!(connections_5xx)),
    ];
    let watched = kinds.iter().filter(|(watched, _)| *watched);
    watched.fold(Told::NOTHING, |mask, (_, told)| mask.and(*told))
}

impl Daemon {
    /// To be read before the counters: what it saw is then among them.
    pub(super) fn guard_state(&self, service: &config::Service) -> GuardState {
        let guard = match (&self.plane, self.service_number(service)) {
            (Some(plane), Some(number)) => plane.guard(number),
            _ => return OFF,
        };
        guard.unwrap_or_else(|error| {
            tracing::error!("{}: {error}", service.name);
            OFF
        })
    }

    /// How many more failures the daemon would act at. Of a split that was set
    /// by hand it does not before there were enough connections.
    fn budget(&mut self, service: &config::Service, seen: &Seen, rules: &Evidence) -> Option<u64> {
        let budget = self.judged(service, seen, rules).budget?;
        if self.stage(&service.name) != Stage::Idle {
            return Some(budget);
        }
        let canary = super::connections(seen);
        Some(budget.max(service.rollback.min_connections.saturating_sub(canary)))
    }

    /// Arms it anew, with a full budget.
    pub(super) fn arm_guard(
        &mut self,
        service: &config::Service,
        rules: &Evidence,
        dead_man: Option<Duration>,
    ) -> Result<()> {
        let before = self.guard_state(service);
        self.note_diverted(service, &before);
        let seen = self.seen(service)?;
        let budget = self.budget(service, &seen, rules);
        if let Some(number) = self.service_number(service) {
            let order = GuardOrder { budget, dead_man, counts: counted(rules) };
            self.plane()?.arm_guard(number, &order)?;
        }
        Ok(())
    }

    /// Each tick: the budget as of now, and a sign of life. One that tripped
    /// stays so until somebody decides.
    pub(super) fn keep_guard(
        &mut self,
        service: &config::Service,
        guard: GuardState,
        seen: &Seen,
        rules: &Evidence,
        dead_man: Option<Duration>,
    ) -> Result<()> {
        let Some(number) = self.service_number(service) else { return Ok(()) };
        match guard.status {
            GuardStatus::Armed => {
                if let Some(budget) = self.budget(service, seen, rules) {
                    self.plane()?.set_budget(number, guard.bad, budget);
                }
                if let Some(dead_man) = dead_man {
                    self.plane()?.heartbeat(number, dead_man)?;
                }
            }
            // A split set by hand has nobody else to decide: it was no harm.
            GuardStatus::BudgetSpent | GuardStatus::Off if dead_man.is_none() => {
                if let Some(runtime) = self.runtime.get_mut(&service.name)
                    && guard.status == GuardStatus::BudgetSpent
                {
                    runtime.epoch += 1;
                    self.apply_to(&service.name)?;
                }
                self.arm_guard(service, rules, None)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Flows that the guard kept from the canary are stable's, but not by the
    /// split.
    pub(super) fn note_diverted(&mut self, service: &config::Service, guard: &GuardState) {
        if let Some(runtime) = self.runtime.get_mut(&service.name) {
            let more = guard.diverted.saturating_sub(runtime.diverted);
            runtime.ledger.diverted(runtime.split, more);
            runtime.diverted = guard.diverted;
        }
    }

    /// What was taken out is not tried on those who are steered either.
    pub(in crate::daemon) fn hold_for_steered(&mut self, name: &str) {
        let service = self.config.services.iter().find(|service| service.name == name);
        let number = service.and_then(|service| self.service_number(service));
        if let (Some(number), Some(plane)) = (number, &mut self.plane) {
            plane.hold_guard(number);
        }
    }

    /// For people and scripts.
    pub(in crate::daemon) fn guard_status(&self, service: &config::Service) -> types::Guard {
        let guard = self.guard_state(service);
        let hold = self.runtime.get(&service.name).and_then(|r| r.rollout.hold.as_ref());
        let status = match guard.status {
            // What tripped, and is held so until somebody decides.
            GuardStatus::Held if hold.is_some_and(|hold| hold.why == Why::Away) => "dead-man",
            GuardStatus::Held if hold.is_some_and(|hold| hold.why == Why::Guard) => "budget-spent",
            GuardStatus::Off | GuardStatus::Held => "off",
            GuardStatus::Armed => "armed",
            GuardStatus::BudgetSpent => "budget-spent",
            GuardStatus::DeadMan => "dead-man",
        };
        types::Guard {
            status: status.to_owned(),
            budget_left: guard
                .limit
                .map(|limit| limit.saturating_sub(guard.bad))
                .filter(|_| guard.status == GuardStatus::Armed),
            diverted: guard.diverted,
        }
    }
}
