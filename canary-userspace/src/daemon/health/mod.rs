//! Backends' health: checks go out in tasks of their own, counters are looked
//! at once a second, and a backend that is not well leaves its track's table.

mod checks;
mod given;
mod saved;
mod shown;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use canary_common::Track;

use super::{
    books::{Counts, Key},
    state::{Daemon, backends},
    trial::{is_due, seconds_since_1970},
};
use crate::{
    api::types::{HistoryEntry, LastCheck},
    config,
    dataplane::DataplaneError,
    health::{
        Active, Change, Counted, Decision, Member, Outcome, Passive, Reason, decide, has_room,
    },
    outside::Probed,
};

use checks::Checks;
pub(super) use checks::Report;
pub(super) use saved::Saved as SavedHealth;

/// The counters are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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
    pub(super) fn unwell(&self, service: &config::Service) -> BTreeSet<SocketAddr> {
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

    /// What a check found.
    pub(super) fn checked(&mut self, report: Report) {
        let Report { key, probed } = report;
        let Some((service, track)) = self.whose(&key) else { return };
        let (rules, now) = (service.health[track as usize].clone(), self.health.now());
        let Some(watched) = self.health.watched.get_mut(&key) else { return };
        let Probed { outcome, detail, took } = probed;
        watched.checks[outcome as usize] += 1;
        let change = watched.active.heard(outcome, &rules, now);
        let at = seconds_since_1970();
        let result = outcome.name().to_owned();
        watched.last =
            Some(LastCheck { result, detail: detail.clone(), at, seconds: took.as_secs_f64() });
        if outcome != Outcome::Unreachable {
            watched.given_back = None;
        }
        if let Some(change) = change {
            watched.since = Some(at);
            let (from, to, row) = match change {
                Change::Up => ("down", "up", rules.rise),
                Change::Down => ("up", "down", rules.fall),
            };
            let reason = format!("{detail} ({row} checks in a row)");
            self.note_health(&key, track, (from, to), reason);
            self.health_moved(&service);
            self.save();
            if change == Change::Down && outcome == Outcome::Unreachable {
                self.give_back_handshakes(&service, key.1);
            }
        }
        if outcome == Outcome::Unreachable {
            self.look_whether_gone(&service, track, &key);
        }
    }

    /// A service of the configuration with a backend, and the track it is in.
    fn whose(&self, key: &Key) -> Option<(config::Service, Track)> {
        let service = self.config.services.iter().find(|service| service.name == key.0)?;
        let is_of = |track: &Track| backends(service, *track).iter().any(|b| b.address == key.1);
        let track = Track::ALL.into_iter().find(is_of)?;
        Some((service.clone(), track))
    }

    /// Each tick; a look once a second.
    pub(super) fn look_at_health(&mut self) -> Result<(), DataplaneError> {
        if self.health.watched.is_empty() || !is_due(&mut self.health.looked, LOOK_EVERY) {
            return Ok(());
        }
        let cells = self.books.cells_of(self.health.watched.keys());
        let Some(plane) = &self.plane else { return Ok(()) };
        let counts = plane.cells(&cells)?;
        let read = |cell| Ok::<_, DataplaneError>(counts.get(&cell).copied().unwrap_or_default());
        for index in 0..self.config.services.len() {
            let service = &self.config.services[index];
            if !service.health.iter().any(config::Health::is_on) {
                continue;
            }
            let service = service.clone();
            for track in Track::ALL {
                for backend in backends(&service, track) {
                    let key = (service.name.clone(), backend.address);
                    let counted = counted(&self.books.total(&key, read)?);
                    self.look_at(&service, track, &key, counted);
                }
            }
            // A drain or a reload may have moved it, too.
            self.health_moved(&service);
            self.give_back_rest(&service);
        }
        Ok(())
    }

    fn look_at(&mut self, service: &config::Service, track: Track, key: &Key, counted: Counted) {
        let now = self.health.now();
        let (rules, address) = (&service.health[track as usize].eject, key.1);
        let Some(watched) = self.health.watched.get_mut(key) else { return };
        if watched.passive.returns(rules, now) {
            watched.why.clear();
            self.note_health(key, track, ("ejected", "active"), "its time is over".to_owned());
            self.save();
        }
        let Some(watched) = self.health.watched.get_mut(key) else { return };
        let Some(reason) = watched.passive.look(counted, rules, now) else { return };
        let members = self.members(service, track);
        let is_in = |(other, member): &(SocketAddr, Member)| *other == address && !member.is_down;
        let all: Vec<Member> = members.iter().map(|(_, member)| *member).collect();
        if !members.iter().any(is_in) || !has_room(&all, rules.most) {
            return;
        }
        let Some(watched) = self.health.watched.get_mut(key) else { return };
        let lasts = watched.passive.eject(rules, now);
        watched.ejections += 1;
        let why = match reason {
            Reason::Consecutive(failures) => format!("{failures} failed connections in a row"),
            Reason::Share(bad, all) => format!(
                "{bad} of {all} connections failed within {}",
                humantime::format_duration(rules.window)
            ),
        };
        watched.why = format!("{why}; for {}", humantime::format_duration(lasts));
        let reason = watched.why.clone();
        self.note_health(key, track, ("active", "ejected"), reason);
        self.save();
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
            let (from, to, words) = match standing.panic {
                true => (
                    "healthy",
                    "panic",
                    "every stable backend is down by its checks: traffic \
                                              goes on to all of them",
                ),
                false => ("panic", "healthy", "a stable backend is up again"),
            };
            tracing::warn!("{name}: {to}: {words}");
            let line = self.health_line(name, (from, to), words.to_owned());
            self.write_health(name, &line);
        }
        self.health.told.insert(name.clone(), standing);
    }

    fn note_health(&self, key: &Key, track: Track, moved: (&str, &str), reason: String) {
        let (name, address) = key;
        let (from, to) = moved;
        if matches!(to, "up" | "active") {
            tracing::info!("{name}: {} backend {address} is {to} again: {reason}", track.name());
        } else {
            tracing::warn!("{name}: {} backend {address} is {to}: {reason}", track.name());
        }
        let backend = address.to_string();
        let line = HistoryEntry { backend, ..self.health_line(name, (from, to), reason) };
        self.write_health(name, &line);
    }

    fn health_line(&self, name: &str, (from, to): (&str, &str), reason: String) -> HistoryEntry {
        HistoryEntry {
            at: seconds_since_1970(),
            event: "health".to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
            split: self.split(name).fraction(),
            reason,
            ..HistoryEntry::default()
        }
    }

    fn write_health(&self, name: &str, line: &HistoryEntry) {
        // Not waited for: nothing is decided by it.
        if let Err(error) = self.health_journal(name).append(line, false) {
            tracing::warn!("{name}: writing the history: {error}");
        }
    }
}

/// What of a backend's counters tells how its clients fare.
fn counted((cell, shared): &Counts) -> Counted {
    let early = cell.resets_backend.saturating_sub(cell.resets_backend_after_data);
    Counted {
        good: cell.established.saturating_sub(early),
        bad: cell.refused + shared.handshake_timeouts + early,
        sent: cell.packets_out,
    }
}
