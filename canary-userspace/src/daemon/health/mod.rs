//! Backends' health: checks go out in tasks of their own, counters are looked
//! at once a second, and a backend that is not well leaves its track's table.

mod checks;
mod given;
mod heard;
mod look;
mod noted;
mod saved;
mod shown;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use canary_common::Track;

use super::{
    books::Key,
    state::{Daemon, backends},
};
use crate::{
    api::types::LastCheck,
    config,
    health::{Active, Decision, Member, Passive, decide},
};

use checks::Checks;
pub(super) use checks::Report;
use heard::Moved;
pub(super) use saved::Saved as SavedHealth;

/// A backend that is watched.
#[derive(Debug)]
pub(super) struct Watched {
    active: Active,
    passive: Passive,
    /// By [`Outcome`], since the daemon began.
    checks: [u64; 3],
    last: Option<LastCheck>,
    /// Since the daemon began.
    ejections: u64,
    /// Why it is ejected, if it is.
    why: String,
    /// When it last went up or down, in seconds since 1970.
    since: Option<f64>,
    /// Its flows were given back after so many passes over the table.
    given_back: Option<u64>,
}

/// Who of a service gets no new flows, and where that is not heeded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Standing {
    out: BTreeSet<SocketAddr>,
    panic: bool,
}

/// All that is watched.
#[derive(Debug)]
pub(super) struct Health {
    began: Instant,
    watched: BTreeMap<Key, Watched>,
    checks: Checks,
    moved: Moved,
    /// What was last brought to the maps, by service.
    told: BTreeMap<String, Standing>,
    looked: Option<Instant>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            watched: BTreeMap::new(),
            checks: Checks::default(),
            moved: Moved::default(),
            told: BTreeMap::new(),
            looked: None,
        }
    }
}

impl Watched {
    fn new(active: Active, passive: Passive) -> Self {
        Self {
            active,
            passive,
            checks: [0; 3],
            last: None,
            ejections: 0,
            why: String::new(),
            since: None,
            given_back: None,
        }
    }
}

impl Health {
    /// By the clock of [`crate::health`].
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// The next check's result.
    pub(super) async fn next(&mut self) -> Option<Report> {
        self.checks.next().await
    }

    fn member(&self, key: &Key, rules: &config::Health) -> Member {
        let watched = self.watched.get(key);
        Member {
            is_down: rules.check.is_some() && watched.is_some_and(|w| !w.active.is_up),
            ejected: watched.and_then(|w| w.passive.ejected),
        }
    }
}

/// Whether new flows may be born to a backend, but for its health.
fn is_in_use(daemon: &Daemon, service: &config::Service, backend: &config::Backend) -> bool {
    let runtime = daemon.runtime.get(&service.name);
    let is_drained = runtime.is_some_and(|runtime| {
        runtime.drained.contains(&backend.address) || runtime.retiring.contains(&backend.address)
    });
    backend.weight > 0 && !is_drained
}

impl Daemon {
    /// Watches those of the configuration, and nobody else.
    pub(super) fn follow_health(&mut self) {
        let mut kept = BTreeMap::new();
        let mut asked = Vec::new();
        for service in &self.config.services {
            for track in Track::ALL {
                let rules = &service.health[track as usize];
                for backend in backends(service, track).iter().filter(|_| rules.is_on()) {
                    let key = (service.name.clone(), backend.address);
                    let fresh = || Watched::new(Active::new(rules), Passive::default());
                    let watched = self.health.watched.remove(&key).unwrap_or_else(fresh);
                    kept.insert(key.clone(), watched);
                    asked.push((key, track, rules));
                }
            }
        }
        self.health.checks.follow(asked.into_iter());
        self.health.watched = kept;
        let services = &self.config.services;
        self.health.told.retain(|name, _| services.iter().any(|service| service.name == *name));
    }

    /// Those of a track that take new flows but for their health, and how they
    /// are.
    fn members(&self, service: &config::Service, track: Track) -> Vec<(SocketAddr, Member)> {
        let rules = &service.health[track as usize];
        let in_use = backends(service, track).iter().filter(|b| is_in_use(self, service, b));
        in_use
            .map(|backend| {
                let key = (service.name.clone(), backend.address);
                (backend.address, self.health.member(&key, rules))
            })
            .collect()
    }

    fn decided(&self, service: &config::Service, track: Track) -> (Vec<SocketAddr>, bool) {
        let rules = &service.health[track as usize];
        if !rules.is_on() {
            return (Vec::new(), false);
        }
        let (addresses, members): (Vec<_>, Vec<_>) =
            self.members(service, track).into_iter().unzip();
        let Decision { out, panic } = decide(track, &members, rules.eject.most);
        let out = addresses.into_iter().zip(out).filter(|(_, out)| *out);
        (out.map(|(address, _)| address).collect(), panic)
    }

    /// Who of a service is not well enough for new flows.
    pub(in crate::daemon) fn unwell(&self, service: &config::Service) -> BTreeSet<SocketAddr> {
        self.standing(service).out
    }

    /// Whether all of the canary are unwell. Its share is 0 in the maps then: what
    /// stable gets in its place is booked as that, and is no connection that the
    /// split sent astray.
    pub(super) fn withholds_canary(&self, service: &config::Service) -> bool {
        let (out, _) = self.decided(service, Track::Canary);
        !out.is_empty() && out.len() == self.members(service, Track::Canary).len()
    }

    fn standing(&self, service: &config::Service) -> Standing {
        let mut standing = Standing::default();
        for track in Track::ALL {
            let (out, panic) = self.decided(service, track);
            standing.out.extend(out);
            standing.panic |= panic;
        }
        standing
    }

    /// Whatever is brought to the maps, who is out comes along: of all services,
    /// or of one.
    pub(super) fn health_applied(&mut self, only: Option<&str>) {
        let watched = self.services(only).filter(|s| s.health.iter().any(config::Health::is_on));
        let out: Vec<_> = watched.map(|s| (s.name.clone(), self.standing(s).out)).collect();
        for (name, out) in out {
            self.health.told.entry(name).or_default().out = out;
        }
    }

    /// Brings who is out to the maps, where it changed, and says where all of
    /// stable are down.
    fn health_moved(&mut self, service: &config::Service) {
        let (name, standing) = (&service.name, self.standing(service));
        let before = self.health.told.get(name).cloned().unwrap_or_default();
        if standing == before {
            return;
        }
        if standing.out != before.out
            && let Err(error) = self.apply_to(name)
        {
            // The next look tries again.
            tracing::error!("{name}: taking backends out or back: {error:#}");
            return;
        }
        if standing.panic != before.panic {
            const ALL_DOWN: &str =
                "every stable backend is down by its checks: traffic goes on to all of them";
            let (from, to, words) = match standing.panic {
                true => ("healthy", "panic", ALL_DOWN),
                false => ("panic", "healthy", "a stable backend is up again"),
            };
            tracing::warn!("{name}: {to}: {words}");
            let line = self.health_line(name, (from, to), words.to_owned());
            self.write_health(name, &line);
        }
        self.health.told.insert(name.clone(), standing);
    }
}
