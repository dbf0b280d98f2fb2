//! Who goes first, or never: networks of clients with a track of their own.
//!
//! A journal of changes is what survives; the maps are written after it.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use canary_common::{Cidr, Service, ServiceFlags, Track};
use serde::{Deserialize, Serialize};

use super::super::{journal::Journal, state::Daemon};
use crate::{
    api::{
        request::{Peer, Refusal},
        types::{Steer, Steered, SteeredNetwork},
    },
    config,
    dataplane::Steering,
};

/// Networks in one request.
const MOST: usize = 1000;

/// One network's entry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::daemon) struct Entry {
    pub(in crate::daemon) track: Track,
    pub(in crate::daemon) always: bool,
    /// `None`: for ever.
    until: Option<SystemTime>,
    configured: bool,
}

/// Of one service.
pub(in crate::daemon) type Entries = BTreeMap<Cidr, Entry>;

/// A line of the journal. Without a track it takes a network out.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    clients: String,
    canary: Option<bool>,
    #[serde(default)]
    always: bool,
    /// Seconds since 1970.
    #[serde(default)]
    until: Option<f64>,
}

impl Line {
    fn of(clients: Cidr, entry: Option<&Entry>) -> Self {
        Self {
            clients: clients.to_string(),
            canary: entry.map(|entry| entry.track == Track::Canary),
            always: entry.is_some_and(|entry| entry.always),
            until: entry.and_then(|entry| entry.until).map(|until| {
                until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
            }),
        }
    }

    /// The entry, and whether its time is not over.
    fn entry(&self, now: SystemTime) -> Option<Entry> {
        let until = self.until.map(|until| {
            SystemTime::UNIX_EPOCH + Duration::try_from_secs_f64(until).unwrap_or_default()
        });
        let track = if self.canary? { Track::Canary } else { Track::Stable };
        let entry = Entry { track, always: self.always, until, configured: false };
        until.is_none_or(|until| until > now).then_some(entry)
    }
}

impl Entry {
    /// As the maps take it; `None` where its time is over.
    fn steering(&self, now: SystemTime) -> Option<Steering> {
        let expires_in = match self.until {
            None => None,
            Some(until) => Some(until.duration_since(now).ok().filter(|left| !left.is_zero())?),
        };
        Some(Steering { track: self.track, always: self.always, expires_in })
    }
}

/// What a journal comes to.
fn replay(lines: &[Line], now: SystemTime) -> Entries {
    let mut entries = Entries::new();
    for line in lines {
        let Ok(clients) = line.clients.parse::<Cidr>() else { continue };
        match line.entry(now) {
            Some(entry) => entries.insert(clients, entry),
            None => entries.remove(&clients),
        };
    }
    entries
}

impl Daemon {
    fn steer_journal(&self, service: &str) -> Journal {
        Journal::of(&self.config.state_dir, "steer", service)
    }

    /// At start: what was said by command, and what the file says.
    pub(in crate::daemon) fn recall_steering(&mut self) {
        let now = SystemTime::now();
        for service in self.config.services.clone() {
            let journal = self.steer_journal(&service.name);
            let lines: Vec<Line> = journal.last(usize::MAX).unwrap_or_else(|error| {
                tracing::warn!("{}: reading who is steered: {error}", service.name);
                Vec::new()
            });
            let mut entries = replay(&lines, now);
            if lines.len() > 2 * entries.len() + MOST {
                let kept = entries.iter().map(|(clients, entry)| Line::of(*clients, Some(entry)));
                if let Err(error) = journal.replace(kept) {
                    tracing::warn!("{}: {error}", service.name);
                }
            }
            entries.extend(configured(&service));
            if let Some(runtime) = self.runtime.get_mut(&service.name) {
                runtime.steered = entries;
            }
        }
    }

    /// Brings the maps to what is said of all services: at start, once their
    /// numbers are known.
    pub(in crate::daemon) fn write_steering(&mut self) -> Result<()> {
        let now = SystemTime::now();
        for service in self.config.services.clone() {
            let entries = self.runtime.get(&service.name).map(|r| r.steered.clone());
            let number = self.service_number(&service);
            let (Some(entries), Some(number)) = (entries, number) else { continue };
            let all = entries.iter();
            let all = all.filter_map(|(clients, entry)| Some((*clients, entry.steering(now)?)));
            self.plane()?.steer_all(number, all)?;
        }
        Ok(())
    }

    /// After a reload: the file's entries as they are now.
    pub(in crate::daemon) fn follow_steering(&mut self) -> Result<()> {
        for service in self.config.services.clone() {
            let wanted = configured(&service);
            let Some(runtime) = self.runtime.get(&service.name) else { continue };
            let gone: Vec<Cidr> = runtime
                .steered
                .iter()
                .filter(|(clients, entry)| entry.configured && !wanted.contains_key(clients))
                .map(|(clients, _)| *clients)
                .collect();
            let changes = gone.into_iter().map(|clients| (clients, None));
            let changes = changes.chain(wanted.into_iter().map(|(c, entry)| (c, Some(entry))));
            self.change_steering(&service, &changes.collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// In memory and in the maps. The service's flag goes first where entries
    /// come, and last where they go.
    fn change_steering(
        &mut self,
        service: &config::Service,
        changes: &[(Cidr, Option<Entry>)],
    ) -> Result<u64> {
        let now = SystemTime::now();
        let mut changed = 0;
        for (clients, entry) in changes {
            let runtime = self.runtime.entry(service.name.clone()).or_default();
            let before = match entry {
                Some(entry) => runtime.steered.insert(*clients, *entry),
                None => runtime.steered.remove(clients),
            };
            changed += u64::from(before != *entry);
        }
        let is_flagged = |record: &Service| record.flags & ServiceFlags::STEERED != 0;
        let number = self.service_number(service);
        let flagged = number.and_then(|n| self.observed.services.get(&n)).is_some_and(is_flagged);
        let steered = self.runtime.get(&service.name).is_some_and(|r| !r.steered.is_empty());
        if flagged != steered || self.observed.uncertain {
            self.apply_to(&service.name)?;
        }
        let Some(number) = self.service_number(service) else { return Ok(changed) };
        for (clients, entry) in changes {
            match entry.and_then(|entry| entry.steering(now)) {
                Some(steering) => self.plane()?.steer(number, *clients, &steering)?,
                None => {
                    self.plane()?.unsteer(number, *clients)?;
                }
            }
        }
        Ok(changed)
    }

    pub(in crate::daemon) fn steer(
        &mut self,
        name: &str,
        steer: &Steer,
        by: &Peer,
    ) -> Result<Steered, Refusal> {
        let service = self.service(name)?;
        let changes = wanted(&service, steer)?;
        let journal = self.steer_journal(name);
        let lines = changes.iter().map(|(clients, entry)| Line::of(*clients, entry.as_ref()));
        journal.append_all(lines).map_err(|error| {
            Refusal::internal(format!("{}: {error}; nothing was changed", journal.path().display()))
        })?;
        let count = changes.len();
        let changed = self
            .change_steering(&service, &changes)
            .map_err(|error| Refusal::internal(format!("{error:#}; send the same again")))?;
        let to = steer.track.as_deref().unwrap_or("the split");
        self.note_change(name, "steer", &format!("{count} networks steered to {to}"), by);
        Ok(Steered { changed, ..self.steered(name, 0)? })
    }

    pub(in crate::daemon) fn steered(&self, name: &str, limit: usize) -> Result<Steered, Refusal> {
        self.service(name)?;
        let now = SystemTime::now();
        let entries = self.runtime.get(name).map(|runtime| &runtime.steered);
        let live = || {
            let all = entries.into_iter().flatten();
            all.filter_map(|(clients, entry)| Some((clients, entry, entry.steering(now)?)))
        };
        let network = |(clients, entry, steering): (&Cidr, &Entry, Steering)| SteeredNetwork {
            clients: clients.to_string(),
            track: entry.track.name().to_owned(),
            always: entry.always,
            expires_in: steering.expires_in.map(|left| left.as_secs_f64()),
            configured: entry.configured,
        };
        Ok(Steered {
            service: name.to_owned(),
            changed: 0,
            total: live().count() as u64,
            networks: live().take(limit).map(network).collect(),
        })
    }

    /// Now and then: entries whose time is over.
    pub(in crate::daemon) fn forget_expired(&mut self) {
        let now = SystemTime::now();
        let is_over = |entry: &Entry| entry.until.is_some_and(|until| until <= now);
        if !self.runtime.values().any(|runtime| runtime.steered.values().any(is_over)) {
            return;
        }
        for service in self.config.services.clone() {
            let Some(runtime) = self.runtime.get(&service.name) else { continue };
            let over: Vec<(Cidr, Option<Entry>)> = runtime
                .steered
                .iter()
                .filter(|(_, entry)| is_over(entry))
                .map(|(clients, _)| (*clients, None))
                .collect();
            if !over.is_empty()
                && let Err(error) = self.change_steering(&service, &over)
            {
                tracing::error!("{}: {error:#}", service.name);
            }
        }
    }
}

/// What a request asks for; all of it can be had, or nothing.
fn wanted(service: &config::Service, steer: &Steer) -> Result<Vec<(Cidr, Option<Entry>)>, Refusal> {
    let bad = |what: String| Refusal::bad_request(format!("{what}; nothing was changed"));
    if steer.clients.len() > MOST {
        return Err(bad(format!("{} networks at once are more than {MOST}", steer.clients.len())));
    }
    let track = steer.track.as_deref().map(|name| {
        let found = Track::ALL.into_iter().find(|track| track.name() == name);
        found.ok_or_else(|| bad(format!("{name:?} is no track; write stable or canary")))
    });
    let until = match steer.lasts {
        None => None,
        Some(seconds) => {
            let lasts = Duration::try_from_secs_f64(seconds).ok();
            let until = lasts.and_then(|lasts| SystemTime::now().checked_add(lasts));
            Some(until.ok_or_else(|| bad(format!("{seconds} s is no time")))?)
        }
    };
    let entry = track.transpose()?.map(|track| Entry {
        track,
        always: steer.always,
        until,
        configured: false,
    });
    let clients = |text: &String| {
        let clients: Cidr = text.parse().map_err(|error| {
            bad(format!("{text:?} is no network ({error}); write as 192.0.2.0/24 or 2001:db8::/32"))
        })?;
        if clients.address().is_ipv4() == service.listen.is_ipv4() {
            return Ok((clients, entry));
        }
        Err(bad(format!("{clients} has no clients of {}, {}", service.name, service.listen)))
    };
    steer.clients.iter().map(clients).collect()
}

/// What the file says.
fn configured(service: &config::Service) -> Entries {
    let entry = |steer: &config::Steer| {
        let entry =
            Entry { track: steer.track, always: steer.always, until: None, configured: true };
        (steer.clients, entry)
    };
    service.steer.iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_comes_to_its_last_word() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let line = |clients: &str, canary, until| Line {
            clients: clients.to_owned(),
            canary,
            always: false,
            until,
        };
        let lines = [
            line("192.0.2.0/24", Some(true), None),
            line("192.0.2.7", Some(false), None),
            line("198.51.100.0/24", Some(true), Some(999.0)),
            line("203.0.113.0/24", Some(true), Some(1001.0)),
            line("192.0.2.7", None, None),
            line("no network", Some(true), None),
            line("192.0.2.0/24", Some(false), None),
        ];
        let entries = replay(&lines, now);
        let shown: Vec<_> = entries.iter().map(|(c, e)| (c.to_string(), e.track)).collect();
        assert_eq!(
            shown,
            [
                ("192.0.2.0/24".to_owned(), Track::Stable),
                ("203.0.113.0/24".to_owned(), Track::Canary)
            ]
        );
        let left = entries.values().filter_map(|e| e.steering(now)?.expires_in);
        assert_eq!(left.collect::<Vec<_>>(), [Duration::from_secs(1)]);
        let later = now + Duration::from_secs(1);
        assert_eq!(entries.values().filter_map(|e| e.steering(later)).count(), 1);
    }
}
