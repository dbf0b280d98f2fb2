//! What is shown of backends' health.

use std::{collections::BTreeSet, net::SocketAddr};

use canary_common::{Split, Track};

use super::{
    super::{
        books::Key,
        journal::Journal,
        state::{Daemon, backends},
    },
    Watched,
};
use crate::{
    api::types::{BackendHealth, Checked},
    config::{self, health::CheckKind},
    rollout::Stage,
};

impl Daemon {
    /// `None` where nobody looks.
    pub(in crate::daemon) fn shown_health(
        &self,
        service: &config::Service,
        track: Track,
        backend: &config::Backend,
    ) -> Option<BackendHealth> {
        let key = (service.name.clone(), backend.address);
        let watched = self.health.watched.get(&key)?;
        let check = service.health[track as usize].check;
        let [pass, fail, unreachable] = watched.checks;
        let left = |e: crate::health::Ejected| e.until.saturating_sub(self.health.now());
        Some(BackendHealth {
            check: check.map_or("none", CheckKind::name).to_owned(),
            up: check.is_none() || watched.active.is_up,
            since: watched.since,
            checks: Checked { pass, fail, unreachable },
            last: watched.last.clone(),
            ejected_for: watched.passive.ejected.map(|ejected| left(ejected).as_secs_f64()),
            ejections: watched.ejections,
            gone: watched.given_back.is_some(),
        })
    }

    /// `down` or `ejected`, where it is; and whether of all its track. `unwell`:
    /// who of the service is, which is one look at all of them.
    pub(in crate::daemon) fn unwell_state(
        &self,
        service: &config::Service,
        track: Track,
        backend: &config::Backend,
        unwell: &BTreeSet<SocketAddr>,
    ) -> Option<&'static str> {
        let rules = &service.health[track as usize];
        let member = self.health.member(&(service.name.clone(), backend.address), rules);
        match (member.is_down, member.ejected) {
            (true, _) => Some("down"),
            (false, Some(_)) if unwell.contains(&backend.address) => Some("ejected"),
            (false, _) => None,
        }
    }

    /// Whether a track's health is not heeded, as nobody of it is well.
    pub(in crate::daemon) fn panics(&self, service: &config::Service, track: Track) -> bool {
        self.decided(service, track).1
    }

    pub(in crate::daemon) fn health_warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for service in &self.config.services {
            let name = &service.name;
            if self.panics(service, Track::Stable) {
                warnings.push(format!(
                    "{name}: panic: every stable backend is down by its checks; traffic goes on \
                     to all of them"
                ));
            }
            // A version that nobody is sent to need not run yet.
            let on_trial = self.stage(name) != Stage::Idle || self.split(name) != Split::NONE;
            let tracks = if on_trial { &Track::ALL[..] } else { &[Track::Stable] };
            let lines = self.health_lines(service, tracks);
            warnings.extend(lines.into_iter().map(|line| format!("{name}: {line}")));
        }
        warnings
    }

    /// Who is not well, and why, a line each.
    pub(in crate::daemon) fn health_lines(
        &self,
        service: &config::Service,
        tracks: &[Track],
    ) -> Vec<String> {
        let unwell = self.unwell(service);
        let mut lines = Vec::new();
        for track in tracks {
            for backend in backends(service, *track) {
                let Some(state) = self.unwell_state(service, *track, backend, &unwell) else {
                    continue;
                };
                let key: Key = (service.name.clone(), backend.address);
                let Some(watched) = self.health.watched.get(&key) else { continue };
                let why = why(watched, state);
                lines.push(format!("{} backend {} is {state}{why}", track.name(), key.1));
            }
        }
        lines
    }

    pub(in crate::daemon) fn health_journal(&self, service: &str) -> Journal {
        Journal::of(&self.config.state_dir, "health", service)
    }
}

fn why(watched: &Watched, state: &str) -> String {
    let why = match (state, &watched.last) {
        ("ejected", _) => watched.why.as_str(),
        (_, Some(last)) => last.detail.as_str(),
        (_, None) => "it was when the daemon last ran, or has not passed a check yet",
    };
    if why.is_empty() { String::new() } else { format!(": {why}") }
}
