//! What checks found.

use std::collections::BTreeSet;

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

/// What has to be done once results were taken in.
#[derive(Debug, Default)]
struct Moved {
    services: BTreeSet<String>,
    /// Down, and out of reach.
    lost: BTreeSet<Key>,
}

impl Daemon {
    /// Takes in a result, and all that wait behind it: where many backends die at
    /// once their services' tables are made once.
    pub(in crate::daemon) fn checked(&mut self, report: Report) {
        let mut moved = Moved::default();
        let mut next = Some(report);
        while let Some(report) = next {
            self.take_in_check(report, &mut moved);
            next = self.health.checks.waiting();
        }
        for name in &moved.services {
            if let Ok(service) = self.service(name) {
                self.health_moved(&service);
            }
        }
        for (name, address) in &moved.lost {
            if let Ok(service) = self.service(name) {
                self.give_back_handshakes(&service, *address);
            }
        }
        if !moved.services.is_empty() {
            self.save();
        }
    }

    fn take_in_check(&mut self, report: Report, moved: &mut Moved) {
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
            None if outcome == Outcome::Unreachable => return self.look_whether_gone(&key),
            None => return,
        };
        watched.since = Some(at);
        self.note_health(&key, track, (from, to), format!("{detail} ({row} in a row)"));
        if change == Some(Change::Down) && outcome == Outcome::Unreachable {
            moved.lost.insert(key.clone());
        }
        moved.services.insert(key.0);
    }

    /// A service of the configuration with a backend, and the track it is in.
    pub(super) fn whose(&self, key: &Key) -> Option<(&config::Service, Track)> {
        let service = self.config.services.iter().find(|service| service.name == key.0)?;
        let is_of = |track: &Track| backends(service, *track).iter().any(|b| b.address == key.1);
        let track = Track::ALL.into_iter().find(is_of)?;
        Some((service, track))
    }
}
