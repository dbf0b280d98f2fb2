//! Carries out what the state machine wants done.

use anyhow::Result;
use canary_common::{FlowFlags, Split};

use super::{
    super::{
        promotion::{self, Promoted},
        state::{Daemon, Runtime},
    },
    seconds_since_1970,
};
use crate::{
    api::{request::Peer, types::HistoryEntry},
    config,
    dataplane::Dataplane,
    rollout::{Action, Entry, Phase, Plan, Stage},
};

impl Daemon {
    /// In their order. What fails is tried again at each tick, as far as it is
    /// in the maps; the state is written already.
    pub(super) fn carry_out(
        &mut self,
        name: &str,
        plan: &Plan<'_>,
        actions: Vec<Action>,
        former_id: u64,
    ) {
        if actions.is_empty() {
            return;
        }
        if self.runtime.get(name).is_some_and(|runtime| runtime.rollout.id != former_id)
            && let Some(runtime) = self.runtime.get_mut(name)
        {
            // Evidence is of one rollout.
            runtime.ledger.begin();
            runtime.rolled_back = None;
            runtime.began = seconds_since_1970();
            runtime.epoch += 1;
            self.begin_looks(name);
        }
        for action in actions {
            if let Err(error) = self.act(name, plan, action) {
                tracing::error!("{name}: {error:#}");
            }
        }
        self.bring_about(name);
        self.save();
    }

    /// Brings the maps to what the actions so far want: those of one moment
    /// with one write. Each tick tries again what fails.
    fn bring_about(&mut self, name: &str) {
        if !std::mem::take(&mut self.to_apply) {
            return;
        }
        if let Err(error) = self.apply_to(name) {
            self.observed.uncertain = true;
            tracing::error!("{name}: {error:#}; trying again");
        }
    }

    fn act(&mut self, name: &str, plan: &Plan<'_>, action: Action) -> Result<()> {
        let Some(service) = self.config.services.iter().find(|s| s.name == name).cloned() else {
            return Ok(());
        };
        // Guard and hooks come after the split that they belong to.
        if !matches!(
            action,
            Action::SetSplit(_)
                | Action::Drain(_)
                | Action::NewEpoch
                | Action::ResetCanary
                | Action::Salt(_)
                | Action::SwapTracks
                | Action::SwapBack
        ) {
            self.bring_about(name);
        }
        match action {
            Action::SetSplit(fraction) => {
                self.change(name, |runtime| {
                    runtime.split = Split::from_fraction(fraction).unwrap_or(Split::NONE);
                });
                tracing::info!("{name}: the rollout sets the split to {} %", fraction * 100.0);
            }
            Action::Drain(first) => {
                let retiring = service.stable.iter().take(first).map(|b| b.address).collect();
                self.change(name, |runtime| runtime.retiring = retiring);
            }
            Action::NewEpoch => self.change(name, |runtime| runtime.epoch += 1),
            Action::ArmGuard => {
                self.arm_guard(&service, &service.evidence, Some(plan.rollout.dead_man))?;
            }
            // Those who are steered stay behind it: what was taken out is not
            // tried on them.
            Action::DisarmGuard if self.stage(name) == Stage::RollingBack => {
                self.with_guard(&service, Dataplane::hold_guard)?;
            }
            Action::DisarmGuard => self.with_guard(&service, Dataplane::disarm_guard)?,
            Action::HoldGuard => self.with_guard(&service, Dataplane::hold_guard)?,
            Action::ResetCanary => self.change(name, |runtime| {
                runtime.generation = runtime.generation % FlowFlags::GENERATIONS as u8 + 1;
            }),
            Action::Salt(number) => {
                let salt = self.salt_of(&service, plan, number);
                self.change(name, |runtime| runtime.salt = salt);
            }
            Action::SwapTracks => self.swap_tracks(name, true),
            Action::SwapBack => self.swap_tracks(name, false),
            Action::RunHook { transition, ticket } => {
                self.run_hooks(&service, plan.rollout, transition, ticket);
            }
            Action::Record(entry) => self.record(&service, plan, &entry),
            Action::ForgetOld => {
                tracing::info!(
                    "{name}: the old version is not kept any more; write what is stable now into \
                     the configuration"
                );
            }
        }
        Ok(())
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Runtime)) {
        change(self.runtime.entry(name.to_owned()).or_default());
        self.to_apply = true;
    }

    fn with_guard(
        &mut self,
        service: &config::Service,
        change: impl FnOnce(&mut Dataplane, u16),
    ) -> Result<()> {
        if let Some(number) = self.service_number(service) {
            change(self.plane()?, number);
        }
        Ok(())
    }

    /// Who goes first: the same on every host that was told the same.
    fn salt_of(&self, service: &config::Service, plan: &Plan<'_>, number: u64) -> u32 {
        let runtime = self.runtime.get(&service.name);
        let asked = runtime.and_then(|runtime| runtime.asked_salt.clone());
        let text =
            asked.or_else(|| plan.rollout.salt.clone()).unwrap_or_else(|| number.to_string());
        // 0 is no salt.
        (crate::plan::ring::name_hash(&format!("{} {text}", service.seed), 2) as u32).max(1)
    }

    /// Canary and stable change places, or take their own again; the split is
    /// 0 with the same write.
    fn swap_tracks(&mut self, name: &str, promote: bool) {
        let service = self.config.services.iter_mut().find(|s| s.name == name);
        let (Some(service), Some(runtime)) = (service, self.runtime.get_mut(name)) else { return };
        if runtime.promoted.is_some() != promote {
            runtime.promoted = promote.then(|| Promoted::of(service));
            promotion::swap(service);
        }
        runtime.split = Split::NONE;
        runtime.retiring.clear();
        runtime.ledger.begin();
        self.to_apply = true;
        self.follow_health();
    }

    /// Into history and log, with the evidence of this moment.
    fn record(&mut self, service: &config::Service, plan: &Plan<'_>, entry: &Entry) {
        let name = &service.name;
        let event = entry.transition.map_or(entry.to.name(), config::rollout::Transition::name);
        let (from, to) = (entry.from.name(), entry.to.name());
        tracing::info!("{name}: {event}: {from} → {to}: {}", entry.reason);
        let judgement = &self.trial(name).judgement;
        let line = HistoryEntry {
            at: seconds_since_1970(),
            rollout: entry.rollout,
            event: event.to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
            step: entry.step as u32 + 1,
            steps: plan.rollout.steps.len() as u32,
            split: entry.split,
            reason: entry.reason.clone(),
            backend: String::new(),
            evidence: serde_json::to_value(judgement).unwrap_or_default(),
            by: String::new(),
        };
        self.write_history(name, &line);
        if let Some(runtime) = self.runtime.get_mut(name)
            && entry.transition == Some(config::rollout::Transition::Rollback)
        {
            runtime.rollbacks += 1;
        }
    }
    /// A split that a person set was taken back: of no rollout, and in no step.
    pub(in crate::daemon) fn note_rollback_by_hand(&mut self, name: &str, reason: String) {
        let judgement = &self.trial(name).judgement;
        let line = HistoryEntry {
            at: seconds_since_1970(),
            event: config::rollout::Transition::Rollback.name().to_owned(),
            from: Phase::Idle.name().to_owned(),
            to: Phase::RollingBack.name().to_owned(),
            reason,
            evidence: serde_json::to_value(judgement).unwrap_or_default(),
            ..HistoryEntry::default()
        };
        self.write_history(name, &line);
    }

    /// Into history and log: a change that is no move of a rollout.
    pub(in crate::daemon) fn note_change(&self, name: &str, event: &str, what: &str, by: &Peer) {
        tracing::info!("{name}: {what} by {by}");
        let Some(runtime) = self.runtime.get(name) else { return };
        let (state, phase) = (&runtime.rollout, runtime.rollout.phase().name());
        let steps = self.config.services.iter().find(|service| service.name == name);
        let steps = steps.and_then(|service| service.rollout.as_ref()).map(|r| r.steps.len());
        let (rollout, step, steps) = match state.stage {
            Stage::Idle => (0, 0, 0),
            _ => (state.id, state.step as u32 + 1, steps.unwrap_or_default() as u32),
        };
        let line = HistoryEntry {
            at: seconds_since_1970(),
            rollout,
            event: event.to_owned(),
            from: phase.to_owned(),
            to: phase.to_owned(),
            step,
            steps,
            split: runtime.split.fraction(),
            reason: format!("{what} by {by}"),
            by: by.to_string(),
            ..HistoryEntry::default()
        };
        // It is in the log as well: not worth a wait for the disk each.
        self.append_history(name, &line, false);
    }

    fn write_history(&self, name: &str, line: &HistoryEntry) {
        self.append_history(name, line, true);
    }

    fn append_history(&self, name: &str, line: &HistoryEntry, sync: bool) {
        if let Err(error) = self.history_of(name).append(line, sync) {
            tracing::warn!("{name}: writing the history: {error}");
        }
    }
}
