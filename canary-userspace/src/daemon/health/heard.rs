//! What checks found.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use canary_common::Track;

use super::{
    super::{
        books::Key,
        state::{Daemon, backends},
        trial::seconds_since_1970,
    },
    Report,
};
use crate::{
    api::types::LastCheck,
    config,
    health::{Change, Outcome},
    outside::Probed,
};

/// The table of a service with more than [`FEW`] backends is made anew for their
/// health so often at most: each time is a new epoch, and takes a cell of each.
const APART: Duration = Duration::from_millis(500);
const FEW: usize = 64;

/// What has to be done of results that were taken in.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// Whose backends went or came, and when that of each was last done.
    services: BTreeSet<String>,
    brought: BTreeMap<String, Instant>,
    /// Down, and out of reach.
    lost: BTreeSet<Key>,
    gone: BTreeSet<Key>,
}

impl Moved {
    /// Those whose time has come; `large` are made anew only so often.
    fn due(&mut self, large: &BTreeSet<String>) -> Vec<String> {
        let named = self.services.iter().chain(self.gone.iter().map(|(name, _)| name));
        let is_due = |name: &&String| {
            let brought = self.brought.get(*name).filter(|_| large.contains(*name));
            brought.is_none_or(|brought| brought.elapsed() >= APART)
        };
        let due: BTreeSet<String> = named.filter(is_due).cloned().collect();
        for name in &due {
            self.services.remove(name);
            self.brought.insert(name.clone(), Instant::now());
        }
        due.into_iter().collect()
    }
}

/// Takes a service's out of a set.
fn take(keys: &mut BTreeSet<Key>, service: &str) -> Vec<SocketAddr> {
    let (taken, rest) = std::mem::take(keys).into_iter().partition(|(name, _)| name == service);
    *keys = rest;
    let taken: BTreeSet<Key> = taken;
    taken.into_iter().map(|(_, address)| address).collect()
}

impl Daemon {
    /// Takes in a result, and all that wait behind it.
    pub(in crate::daemon) fn checked(&mut self, report: Report) {
        let mut next = Some(report);
        while let Some(report) = next {
            self.take_in_check(report);
            next = self.health.checks.waiting();
        }
        self.bring_health();
    }

    /// What follows from the results; each tick, too, for what was too early.
    /// Where many backends die at once their service's table is made a few times
    /// and not for each.
    pub(super) fn bring_health(&mut self) {
        let before = self.health.moved.services.len();
        if before == 0 && self.health.moved.gone.is_empty() {
            return;
        }
        let services = self.config.services.iter();
        let is_large = |s: &&config::Service| s.stable.len() + s.canary.len() > FEW;
        let large = services.filter(is_large).map(|service| service.name.clone()).collect();
        let due = self.health.moved.due(&large);
        let has_moved = self.health.moved.services.len() < before;
        for name in &due {
            let lost = take(&mut self.health.moved.lost, name);
            let gone = take(&mut self.health.moved.gone, name);
            if let Ok(service) = self.service(name) {
                self.health_moved(&service);
                self.give_back_handshakes(&service, &lost);
                self.give_back_gone(&service, &gone);
            }
        }
        if has_moved {
            self.save();
        }
    }

    fn take_in_check(&mut self, report: Report) {
        let Report { key, probed } = report;
        let Some((service, track)) = self.whose(&key) else { return };
        let (rules, now) = (service.health[track as usize].clone(), self.health.now());
        let Some(watched) = self.health.watched.get_mut(&key) else { return };
        let Probed { outcome, detail, took } = probed;
        watched.checks[outcome as usize] += 1;
        let change = watched.active.heard(outcome, &rules, now);
        let at = seconds_since_1970();
        if outcome != Outcome::Unreachable {
            watched.given_back = None;
        }
        let (result, seconds) = (outcome.name().to_owned(), took.as_secs_f64());
        watched.last = Some(LastCheck { result, detail: detail.clone(), at, seconds });
        let (from, to, row) = match change {
            Some(Change::Up) => ("down", "up", rules.rise),
            Some(Change::Down) => ("up", "down", rules.fall),
            None => {
                if outcome == Outcome::Unreachable && self.is_gone(&key) {
                    self.health.moved.gone.insert(key);
                }
                return;
            }
        };
        watched.since = Some(at);
        self.note_health(&key, track, (from, to), format!("{detail} ({row} in a row)"));
        if change == Some(Change::Down) && outcome == Outcome::Unreachable {
            self.health.moved.lost.insert(key.clone());
        }
        self.health.moved.services.insert(key.0);
    }

    /// A service of the configuration with a backend, and the track it is in.
    pub(super) fn whose(&self, key: &Key) -> Option<(&config::Service, Track)> {
        let service = self.config.services.iter().find(|service| service.name == key.0)?;
        let is_of = |track: &Track| backends(service, *track).iter().any(|b| b.address == key.1);
        let track = Track::ALL.into_iter().find(is_of)?;
        Some((service, track))
    }
}
