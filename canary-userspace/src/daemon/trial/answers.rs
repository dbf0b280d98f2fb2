//! What operators are told of rollouts.

use canary_common::Track;

use super::super::{journal::Journal, state::Daemon};
use crate::{
    api::{
        request::{Peer, Refusal},
        types::{Explanation, History, HistoryEntry, RolloutCommand, RolloutStatus},
    },
    config::{self, rollout::Strategy},
    judge,
    rollout::{Command, Event, Stage},
};

/// The last lines of a history that tell of a trial's end, with changes among
/// them.
const END: usize = 64;

/// The last judgement of the trial that the last line is of.
fn judged_last(entries: &[HistoryEntry]) -> Option<judge::Judgement> {
    let mut moves = entries.iter().rev().filter(|entry| entry.by.is_empty()).peekable();
    let rollout = moves.peek()?.rollout;
    let own = moves.take_while(|entry| entry.rollout == rollout);
    own.filter(|entry| !entry.evidence.is_null())
        .find_map(|entry| serde_json::from_value(entry.evidence.clone()).ok())
}

fn parse(command: &RolloutCommand) -> Result<Command, Refusal> {
    Ok(match command.command.as_str() {
        "start" => Command::Start,
        "pause" => Command::Pause,
        "resume" => Command::Resume,
        "promote" => Command::Promote { full: command.full },
        "abort" => Command::Abort,
        "retry" => Command::Retry,
        "undo" => Command::Undo,
        other => {
            return Err(Refusal::bad_request(format!(
                "{other:?} is no command of a rollout; there are start, pause, resume, promote, \
                 abort, retry and undo"
            )));
        }
    })
}

impl Daemon {
    pub(in crate::daemon) fn command(
        &mut self,
        name: &str,
        command: &RolloutCommand,
        by: &Peer,
    ) -> Result<RolloutStatus, Refusal> {
        let service = self.service(name)?;
        let parsed = parse(command)?;
        if service.rollout.is_none() && self.stage(name) == Stage::Idle {
            return Err(Refusal::conflict(format!(
                "{name} has no rollout; write rollout = \"auto\" into [service.{name}] and reload, \
                 or set the split by hand: canary weight {name} 5%"
            )));
        }
        if let Some(runtime) = self.runtime.get_mut(name)
            && parsed == Command::Start
            && runtime.rollout.stage == Stage::Idle
        {
            runtime.asked_salt.clone_from(&command.salt);
        }
        self.drive(&service, &Event::Command(parsed, by.to_string()))?;
        tracing::info!("{name}: rollout {} by {by}", command.command);
        Ok(self.rollout_status(&self.service(name)?))
    }

    pub(in crate::daemon) fn rollout_status(&self, service: &config::Service) -> RolloutStatus {
        let Some(runtime) = self.runtime.get(&service.name) else {
            return RolloutStatus::default();
        };
        let state = &runtime.rollout;
        let plan = service.rollout.as_ref();
        let steps = plan.map_or(0, |plan| plan.steps.len() as u32);
        let step = match state.stage {
            Stage::Idle | Stage::BeforeStart => 0,
            _ => state.step as u32 + 1,
        };
        let named = |strategy: Strategy| {
            Strategy::NAMES.iter().find(|(_, other)| *other == strategy).map(|(name, _)| *name)
        };
        RolloutStatus {
            phase: state.phase().name().to_owned(),
            step,
            steps,
            reason: state.reason.clone(),
            id: state.id,
            strategy: plan.and_then(|plan| named(plan.strategy)).unwrap_or_default().to_owned(),
            promoted: runtime.promoted.is_some(),
        }
    }

    pub(in crate::daemon) fn explanation(&mut self, name: &str) -> Result<Explanation, Refusal> {
        let service = self.service(name)?;
        let mut text = Vec::new();
        let judgement = self.trials.get(name).and_then(|trial| trial.judgement.clone());
        if let Some(judgement) = &judgement {
            text = judgement.explain();
            let seen = self.seen(&service).map_err(Refusal::internal)?;
            let split = judge::percent(self.split(name).fraction());
            match judge::needed(&seen, &self.rules_of(&service)) {
                Some(0) | None => {}
                Some(more) => text.push(format!(
                    "still needed for safe: about {} more connections at {split}, if both go on \
                     as they did",
                    judge::about(more)
                )),
            }
        } else if let Some(last) = self.last_judgement(name) {
            text.push("what was seen when it ended:".to_owned());
            text.extend(last.explain().iter().map(|line| format!("  {line}")));
            text.push(format!("how it came to that: canary history {name}"));
        } else {
            text.push("nothing is on trial: the canary gets no new connections".to_owned());
        }
        text.extend(self.health_lines(&service, &Track::ALL));
        let status = self.status(Some(name))?;
        let status = status.services.into_iter().next().unwrap_or_default();
        Ok(Explanation {
            service: name.to_owned(),
            split: status.split,
            rollout: status.rollout,
            text,
            judgement: serde_json::to_value(&judgement).map_err(Refusal::internal)?,
            gates: self.gate_statuses(&service),
            guard: self.guard_status(&service),
        })
    }

    /// What the end of the last trial was decided by, or what was seen then.
    fn last_judgement(&self, name: &str) -> Option<judge::Judgement> {
        let runtime = self.runtime.get(name)?;
        if runtime.rolled_back.is_none() && runtime.rollout.ended.is_none() {
            return None;
        }
        let entries: Vec<HistoryEntry> = self.history_of(name).last(END).ok()?;
        judged_last(&entries)
    }

    /// What a service's canary is judged by at present.
    pub(super) fn rules_of(&self, service: &config::Service) -> config::Evidence {
        match self.stage(&service.name) {
            Stage::Idle => super::by_hand(service),
            _ => service.evidence,
        }
    }

    pub(in crate::daemon) fn history_of(&self, service: &str) -> Journal {
        Journal::of(&self.config.state_dir, "history", service)
    }

    pub(in crate::daemon) fn history(&self, name: &str, limit: usize) -> Result<History, Refusal> {
        self.service(name)?;
        let last = |journal: Journal| journal.last(limit).map_err(Refusal::internal);
        let mut entries: Vec<HistoryEntry> = last(self.history_of(name))?;
        entries.extend(last(self.health_journal(name))?);
        entries.sort_by(|a, b| a.at.total_cmp(&b.at));
        entries.drain(..entries.len().saturating_sub(limit));
        Ok(History { service: name.to_owned(), entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Evidence, judge::Seen};

    #[test]
    fn the_end_is_explained_by_its_own_evidence() {
        let judgement = judge::judge(&Seen::default(), &Evidence::default());
        let line = |rollout, judged: bool| HistoryEntry {
            rollout,
            evidence: match judged {
                true => serde_json::to_value(&judgement).unwrap_or_default(),
                false => serde_json::Value::Null,
            },
            ..HistoryEntry::default()
        };
        // The line after the rollback has none.
        let judged = judged_last(&[line(2, true), line(3, true), line(3, false)]);
        assert_eq!(judged.as_ref(), Some(&judgement));
        // Nor has what somebody changed since.
        let drained = HistoryEntry { by: "alice (uid 1000)".to_owned(), ..line(0, false) };
        let judged = judged_last(&[line(3, true), line(3, false), drained]);
        assert_eq!(judged.as_ref(), Some(&judgement));
        // One that was aborted before anything was seen has none at all.
        assert_eq!(judged_last(&[line(2, true), line(3, false)]), None);
        assert_eq!(judged_last(&[]), None);
    }
}
