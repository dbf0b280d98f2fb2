//! A canary on trial: what is seen of it goes to the judge, the judgement to
//! the rollout's state machine, and what that wants done is done here.

mod act;
mod answers;
mod drill;
mod guard;
mod judged;
mod looks;
mod outside;
mod seen;
mod slices;
mod steer;
mod world;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;
use canary_common::Split;

use super::state::{Daemon, Runtime};
use crate::{
    api::request::Refusal,
    config::{self, Evidence, Rollout},
    judge::{self, Judgement},
    rollout::{self, Event, Serving, Stage},
};

pub(super) use outside::{Inbox, News};
pub(super) use steer::Entries as Steered;

/// While a rollout is under way its clock is written down this often, beside
/// every change.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// What the daemon knows of a service's trial besides what must survive.
#[derive(Debug, Default)]
pub(super) struct Trial {
    pub(super) judgement: Option<Judgement>,
    judged: Option<judged::Judged>,
    outside: outside::Asked,
    drill: Option<drill::Rehearsal>,
    last_tick: Option<Instant>,
    last_save: Option<Instant>,
    last_look: Option<Instant>,
    rate: looks::Rate,
    slices: slices::Slices,
    /// The scan's passes when the present stage began.
    stage_since_pass: u64,
}

/// The rules for a split that a person set: failures alone, and above stable's
/// by more than `[rollback]` allows.
fn by_hand(service: &config::Service) -> Evidence {
    let mut rules = service.evidence;
    for tolerance in
        [&mut rules.refused, &mut rules.resets, &mut rules.handshake_timeouts, &mut rules.http_5xx]
    {
        tolerance.margin = tolerance.margin.max(service.rollback.max_excess);
    }
    rules.last_margin = rules.last_margin.max(service.rollback.max_excess);
    rules.handshake.watched = false;
    rules.first_byte.watched = false;
    rules
}

impl Daemon {
    /// The controller's look at all services.
    pub(super) fn look_at_trials(&mut self) -> Result<()> {
        let under_way = self.under_way();
        let now = Instant::now();
        for (_, trial) in self.trials.iter_mut().filter(|(name, _)| !under_way.contains(*name)) {
            // A rollout's clock runs from the last look before it.
            trial.last_tick = Some(now);
            trial.judgement = None;
        }
        let is_under_way = |service: &&config::Service| under_way.contains(&service.name);
        let services: Vec<_> = self.config.services.iter().filter(is_under_way).cloned().collect();
        for service in services {
            if self.stage(&service.name) == Stage::Idle {
                self.watch_by_hand(&service)?;
            } else {
                let elapsed = self.trial(&service.name).since_last_tick();
                self.drive(&service, &Event::Tick { elapsed })?;
            }
            self.watch_drill(&service);
        }
        Ok(self.sample()?)
    }

    /// Services with a canary on trial, or a drill. Found in one walk: there may
    /// be hundreds that are at rest.
    fn under_way(&self) -> BTreeSet<String> {
        let on_trial = |runtime: &Runtime| {
            runtime.rollout.stage != Stage::Idle || runtime.split != Split::NONE
        };
        let drills =
            |trial: &Trial| trial.drill.as_ref().is_some_and(drill::Rehearsal::is_under_way);
        let trials = self.trials.iter().filter(|(_, trial)| drills(trial)).map(|(name, _)| name);
        let runtime = self.runtime.iter().filter(|(_, runtime)| on_trial(runtime));
        runtime.map(|(name, _)| name).chain(trials).cloned().collect()
    }

    pub(super) fn stage(&self, service: &str) -> Stage {
        self.runtime.get(service).map_or(Stage::Idle, |runtime| runtime.rollout.stage)
    }

    pub(super) fn trial(&mut self, service: &str) -> &mut Trial {
        self.trials.entry(service.to_owned()).or_default()
    }

    /// A split that a person set is taken back when the canary does harm.
    fn watch_by_hand(&mut self, service: &config::Service) -> Result<()> {
        // A rollout's clock runs from the last look before it.
        self.trial(&service.name).since_last_tick();
        if self.split(&service.name) == Split::NONE || !service.rollback.enabled {
            self.trial(&service.name).judgement = None;
            return Ok(());
        }
        let guard = self.guard_state(service);
        self.note_diverted(service, &guard);
        let seen = self.seen(service)?;
        self.slice(service, &seen);
        let rules = by_hand(service);
        let judgement = self.judged(service, &seen, &rules).judgement.clone();
        let enough = connections(&seen) >= service.rollback.min_connections;
        let harm = matches!(judgement.verdict, judge::Verdict::Harm { .. }) && enough;
        let reason = judgement.reason();
        self.trial(&service.name).judgement = Some(judgement);
        if harm {
            return self.roll_back_by_hand(&service.name, reason);
        }
        self.keep_guard(service, guard, &seen, &rules, None)
    }

    /// An event of a service's rollout, and what follows from it.
    pub(super) fn drive(
        &mut self,
        service: &config::Service,
        event: &Event,
    ) -> Result<(), rollout::Refusal> {
        // Before the first tick a daemon may stand still, too.
        self.trial(&service.name).last_tick.get_or_insert_with(Instant::now);
        let (plan, fingerprint) = plan_of(service, self.is_promoted(&service.name));
        let plan = rollout::Plan { rollout: &plan, fingerprint };
        let guard = self.guard_state(service);
        self.note_diverted(service, &guard);
        let (world, seen) = self.world(service, &guard);
        let Some(runtime) = self.runtime.get(&service.name) else { return Ok(()) };
        let next = rollout::next(&runtime.rollout, &plan, &world, event)?;
        let before = std::mem::replace(
            &mut self.runtime.entry(service.name.clone()).or_default().rollout,
            next.state,
        );
        if before.stage != self.stage(&service.name) {
            self.trial(&service.name).stage_since_pass = self.scan.passes;
        }
        let changed = !next.actions.is_empty() || self.differs(&service.name, &before);
        let runs = self.stage(&service.name) != Stage::Idle;
        if changed || runs && self.trial(&service.name).is_save_due() {
            // First the state, then what it says: a daemon that dies in
            // between does it once it is back.
            self.save();
        }
        let acted = !next.actions.is_empty();
        self.carry_out(&service.name, &plan, next.actions, before.id);
        self.watch_outside(&service.name, plan.rollout);
        if let Some(seen) = seen {
            self.slice(service, &seen);
            self.write_look(&service.name, &seen, acted);
            // What was just armed has a budget of its own step; this one's is of
            // the step before.
            let dead_man = Some(plan.rollout.dead_man);
            if !acted
                && let Err(error) =
                    self.keep_guard(service, guard, &seen, &service.evidence, dead_man)
            {
                tracing::error!("{}: keeping the guard: {error:#}", service.name);
            }
        }
        Ok(())
    }

    /// Whether more changed than clocks.
    fn differs(&self, service: &str, before: &rollout::State) -> bool {
        let Some(runtime) = self.runtime.get(service) else { return false };
        let now = &runtime.rollout;
        (now.stage, now.step, &now.hold, &now.waiting, &now.paused, &now.reason)
            != (
                before.stage,
                before.step,
                &before.hold,
                &before.waiting,
                &before.paused,
                &before.reason,
            )
    }

    /// What the file calls the version that carries the traffic. One that it
    /// does not name at all is refused where it could be.
    fn serving(&self, service: &str) -> Serving {
        if self.is_promoted(service) { Serving::Canary } else { Serving::Stable }
    }

    pub(super) fn is_promoted(&self, service: &str) -> bool {
        self.runtime.get(service).is_some_and(|runtime| runtime.promoted.is_some())
    }

    /// A daemon that starts takes rollouts up where an earlier one left them.
    pub(super) fn take_up_rollouts(&mut self, away: Duration) {
        for service in self.config.services.clone() {
            if self.stage(&service.name) != Stage::Idle {
                let event = Event::Restored { away, serving: self.serving(&service.name) };
                if let Err(refusal) = self.drive(&service, &event) {
                    tracing::error!("{}: {refusal}", service.name);
                }
            }
        }
    }

    /// The configuration in force is another.
    pub(super) fn rollouts_follow(&mut self) {
        for service in self.config.services.clone() {
            let event = Event::Reconfigured { serving: self.serving(&service.name) };
            if let Err(refusal) = self.drive(&service, &event) {
                tracing::error!("{}: {refusal}", service.name);
            }
        }
    }

    /// A split that a person set is guarded from now on.
    pub(super) fn guard_by_hand(&mut self, service: &config::Service) {
        let on_trial = self.split(&service.name) != Split::NONE && service.rollback.enabled;
        let number = self.service_number(service);
        let done = match (on_trial, number) {
            (true, _) => self.arm_guard(service, &by_hand(service), None),
            (false, Some(number)) => {
                self.plane().map(|plane| plane.disarm_guard(number)).map_err(Into::into)
            }
            (false, None) => Ok(()),
        };
        if let Err(error) = done {
            tracing::error!("{}: arming the guard: {error:#}; trying again", service.name);
        }
    }

    /// What somebody outside answered.
    pub(super) fn heard(&mut self, news: &News) {
        if let Some(event) = self.take_in(news)
            && let Ok(service) = self.service(&news.service)
            && let Err(refusal) = self.drive(&service, &event)
        {
            tracing::error!("{}: {refusal}", news.service);
        }
    }
}

impl Trial {
    fn since_last_tick(&mut self) -> Duration {
        let now = Instant::now();
        self.last_tick.replace(now).map_or(Duration::ZERO, |last| now.duration_since(last))
    }

    fn is_save_due(&mut self) -> bool {
        is_due(&mut self.last_save, SAVE_EVERY)
    }
}

/// Whether it is so long ago; it is now, then.
pub(super) fn is_due(last: &mut Option<Instant>, every: Duration) -> bool {
    let due = last.is_none_or(|last| last.elapsed() >= every);
    if due {
        *last = Some(Instant::now());
    }
    due
}

/// The canary's, since the trial began.
fn connections(seen: &judge::Seen) -> u64 {
    seen.epochs.iter().map(|epoch| epoch.canary.connections).sum()
}

/// The plan that a service's configuration makes. Where it has none (any more),
/// one that no rollout was begun with.
fn plan_of(service: &config::Service, promoted: bool) -> (Rollout, rollout::Fingerprint) {
    let rollout = service.rollout.clone().unwrap_or_else(Rollout::auto);
    // As the file has them.
    let mut tracks = [&service.stable, &service.canary];
    if promoted {
        tracks.reverse();
    }
    let hash = |text: String| crate::plan::ring::name_hash(&text, 0);
    let fingerprint = rollout::Fingerprint {
        tracks: hash(format!("{tracks:?}")),
        steps: hash(format!("{:?} {:?}", service.rollout, service.evidence)),
    };
    (rollout, fingerprint)
}

pub(super) fn seconds_since_1970() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl From<rollout::Refusal> for Refusal {
    fn from(refusal: rollout::Refusal) -> Self {
        Self::conflict(refusal.to_string())
    }
}
