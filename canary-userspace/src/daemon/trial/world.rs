//! What the state machine is told of the world.

use canary_common::{GuardStatus, Track};

use super::super::state::{Daemon, backends};
use crate::{
    config,
    dataplane::GuardState,
    judge::{self, Seen},
    rollout::{self, Guard, Verdict},
};

impl Daemon {
    /// Of a service's rollout at this moment; and what the judge was shown.
    pub(super) fn world(
        &mut self,
        service: &config::Service,
        guard: &GuardState,
    ) -> (rollout::Seen, Option<Seen>) {
        let (verdict, seen) = self.verdict(service);
        // "Canary" is the version that is brought in, also once it is stable.
        let (canary, stable) = match self.is_promoted(&service.name) {
            false => (Track::Canary, Track::Stable),
            true => (Track::Stable, Track::Canary),
        };
        let world = rollout::Seen {
            verdict,
            gates: self.gates(service),
            guard: match guard.status {
                GuardStatus::Off | GuardStatus::Held => Guard::Off,
                GuardStatus::Armed => Guard::Armed,
                GuardStatus::BudgetSpent => Guard::BudgetSpent,
                GuardStatus::DeadMan => Guard::DeadMan,
            },
            canary_usable: self.is_reachable(service, canary),
            stable_usable: self.is_reachable(service, stable),
            canary_active: self.live_flows(service, canary, |_| true),
            stable_active: self.live_flows(service, stable, |_| true),
            drained_active: self.live_flows(service, Track::Stable, |backend| {
                let runtime = self.runtime.get(&service.name);
                runtime.is_some_and(|runtime| runtime.retiring.contains(&backend.address))
            }),
        };
        (world, seen)
    }

    fn verdict(&mut self, service: &config::Service) -> (Verdict, Option<Seen>) {
        if !self.stage(&service.name).is_under_way() {
            return (Verdict::default(), None);
        }
        let seen = match self.seen(service) {
            Ok(seen) => seen,
            // Nothing is concluded from what cannot be read.
            Err(error) => {
                tracing::error!("{}: {error}", service.name);
                return (Verdict::NotYet { reason: error.to_string() }, None);
            }
        };
        let judgement = self.judged(service, &seen, &service.evidence).judgement.clone();
        let reason = judgement.reason();
        let verdict = match judgement.verdict {
            judge::Verdict::Harm { .. } => Verdict::Harm { reason },
            judge::Verdict::Mismatch => Verdict::Mismatch { reason },
            judge::Verdict::Safe => Verdict::Safe,
            judge::Verdict::NoTraffic => Verdict::NoTraffic,
            judge::Verdict::NotYet { .. } => Verdict::NotYet { reason },
        };
        self.trial(&service.name).judgement = Some(judgement);
        (verdict, Some(seen))
    }

    /// Whether a track has a backend that takes new flows, and a way there.
    fn is_reachable(&self, service: &config::Service, track: Track) -> bool {
        let runtime = self.runtime.get(&service.name);
        let unwell = self.unwell(service);
        backends(service, track).iter().any(|backend| {
            backend.weight > 0
                && !unwell.contains(&backend.address)
                && runtime.is_none_or(|runtime| !runtime.drained.contains(&backend.address))
                && self.hops.contains_key(&backend.address.ip())
        })
    }

    /// Live flows of a track's backends, by the last pass over the table. One
    /// that began before the present stage may have missed some: until there is
    /// a later one, none is not believed.
    fn live_flows(
        &self,
        service: &config::Service,
        track: Track,
        which: impl Fn(&config::Backend) -> bool,
    ) -> u64 {
        let chosen = backends(service, track).iter().filter(|backend| which(backend));
        let numbers = chosen.filter_map(|backend| self.backend_number(service, backend));
        let live = numbers.map(|number| self.scan.last.of(number)).sum();
        let since = self.trials.get(&service.name).map_or(0, |trial| trial.stage_since_pass);
        if self.scan.passes < since + 2 { u64::max(live, 1) } else { live }
    }
}
