//! What the kernel's counters tell of backends, once a second.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use canary_common::Track;

use super::super::{
    books::{Counts, Key},
    state::{Daemon, backends},
    trial::is_due,
};
use crate::{
    config,
    dataplane::DataplaneError,
    health::{Counted, Member, Reason, has_room},
};

/// The counters are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Daemon {
    /// Each tick; a look once a second.
    pub(in crate::daemon) fn look_at_health(&mut self) -> Result<(), DataplaneError> {
        self.bring_health();
        if self.health.watched.is_empty() || !is_due(&mut self.health.looked, LOOK_EVERY) {
            return Ok(());
        }
        let watched = self.health.watched.keys().map(|(service, backend)| (&**service, *backend));
        let cells: BTreeSet<u16> = self.books.cells_of(watched).collect();
        let Some(plane) = &self.plane else { return Ok(()) };
        let counts = plane.cells(cells)?;
        let read = |cell| Ok::<_, DataplaneError>(counts.get(&cell).copied().unwrap_or_default());
        let mut changed = false;
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
                    changed |= self.look_at(&service, track, &key, counted);
                }
            }
            // A drain or a reload may have moved it, too.
            self.health_moved(&service);
            self.give_back_rest(&service);
        }
        if changed {
            // Once, of many that fail together.
            self.save();
        }
        Ok(())
    }

    /// Whether it was ejected, or returns.
    fn look_at(
        &mut self,
        service: &config::Service,
        track: Track,
        key: &Key,
        counted: Counted,
    ) -> bool {
        let now = self.health.now();
        let (rules, address) = (&service.health[track as usize].eject, key.1);
        let Some(watched) = self.health.watched.get_mut(key) else { return false };
        let returns = watched.passive.returns(rules, now);
        if returns {
            watched.why.clear();
            self.note_health(key, track, ("ejected", "active"), "its time is over".to_owned());
        }
        let Some(watched) = self.health.watched.get_mut(key) else { return returns };
        let Some(reason) = watched.passive.look(counted, rules, now) else { return returns };
        let members = self.members(service, track);
        let is_in = |(other, member): &(SocketAddr, Member)| *other == address && !member.is_down;
        let all: Vec<Member> = members.iter().map(|(_, member)| *member).collect();
        if !members.iter().any(is_in) || !has_room(&all, rules.most) {
            return returns;
        }
        let Some(watched) = self.health.watched.get_mut(key) else { return returns };
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
        true
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
