//! Flows of backends that do not come back are given back: their clients' next
//! packet is picked again. A datagram goes on elsewhere at once; a TCP segment
//! meets a backend that does not know the connection, whose RST tells the
//! client to connect anew rather than to wait for hours.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use canary_common::{Ctl, Flow};

use super::{
    super::{books::Key, state::Daemon},
    is_in_use,
};
use crate::config;

/// Flows that were given back, by the backend's number.
type Given = BTreeMap<u16, u64>;

impl Daemon {
    /// Handshakes that backends have not answered, which they will not do any
    /// more: the client's next SYN finds another one.
    pub(super) fn give_back_handshakes(&mut self, service: &config::Service, lost: &[SocketAddr]) {
        let lost = self.with_others(service, lost);
        self.give_back(service, &lost, Flow::was_unanswered);
    }

    /// Whether a check that could not connect was one too many.
    pub(super) fn is_gone(&self, key: &Key) -> bool {
        let (Some((service, track)), Some(watched)) =
            (self.whose(key), self.health.watched.get(key))
        else {
            return false;
        };
        let silent = watched.passive.silent_for(self.health.now());
        watched.given_back.is_none()
            && watched.active.is_gone(&service.health[track as usize], silent)
    }

    /// Gives back the flows of those that are gone.
    pub(super) fn give_back_gone(&mut self, service: &config::Service, gone: &[SocketAddr]) {
        let gone = self.with_others(service, gone);
        let given = self.give_back(service, &gone, |_| true);
        for address in gone {
            let key = (service.name.clone(), address);
            let number = self.number_of(service, address);
            let flows = number.and_then(|number| given.get(&number)).copied().unwrap_or(0);
            let (passes, now) = (self.scan.passes, self.health.now());
            let Some(watched) = self.health.watched.get_mut(&key) else { continue };
            watched.given_back = Some(passes);
            let silent = Duration::from_secs(watched.passive.silent_for(now).as_secs());
            let silent = humantime::format_duration(silent);
            let reason = format!("out of reach, and silent for {silent}; {flows} flows given back");
            if let Some((_, track)) = self.whose(&key) {
                self.note_health(&key, track, ("down", "gone"), reason);
            }
        }
    }

    /// Flows of those that are gone that are still there: a packet may have been
    /// on its way by the table of before.
    pub(super) fn give_back_rest(&mut self, service: &config::Service) {
        let passes = self.scan.passes;
        let mut left = Vec::new();
        for backend in service.stable.iter().chain(&service.canary) {
            let key = (service.name.clone(), backend.address);
            let Some(watched) = self.health.watched.get_mut(&key) else { continue };
            // A pass that began since.
            if watched.given_back.is_none_or(|at| passes <= at + 1) {
                continue;
            }
            watched.given_back = Some(passes);
            let number = self.number_of(service, backend.address);
            if number.is_some_and(|number| self.scan.last.of(number) > 0) {
                left.push(backend.address);
            }
        }
        self.give_back(service, &left, |_| true);
    }

    /// Those whose flows somebody else of the service can take. In panic nobody
    /// is known to be better.
    fn with_others(&self, service: &config::Service, these: &[SocketAddr]) -> Vec<SocketAddr> {
        if these.is_empty() {
            return Vec::new();
        }
        let standing = self.standing(service);
        let is_well = |other: &config::Backend| {
            is_in_use(self, service, other) && !standing.out.contains(&other.address)
        };
        let all = service.stable.iter().chain(&service.canary);
        let well: Vec<SocketAddr> = all.filter(|b| is_well(b)).map(|b| b.address).collect();
        let has_other = |address: &&SocketAddr| well.iter().any(|other| other != *address);
        let none = standing.panic;
        these.iter().filter(|address| !none && has_other(address)).copied().collect()
    }

    fn number_of(&self, service: &config::Service, address: SocketAddr) -> Option<u16> {
        self.observed.backend_number(self.service_number(service)?, address)
    }

    fn give_back(
        &mut self,
        service: &config::Service,
        these: &[SocketAddr],
        which: fn(Ctl) -> bool,
    ) -> Given {
        let numbers = these.iter().filter_map(|address| self.number_of(service, *address));
        let numbers: BTreeSet<u16> = numbers.collect();
        let (mut given, followers) = (Given::new(), &mut self.followers);
        let Some(plane) = self.plane.as_ref().filter(|_| !numbers.is_empty()) else { return given };
        plane.flow_table().give_back(&numbers, which, &mut |flow| {
            followers.ended(flow);
            *given.entry(flow.backend).or_default() += 1;
        });
        given
    }
}
