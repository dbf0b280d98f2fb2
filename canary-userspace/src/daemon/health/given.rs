//! Flows of backends that do not come back are given back: their clients' next
//! packet is picked again. A datagram goes on elsewhere at once; a TCP segment
//! meets a backend that does not know the connection, whose RST tells the
//! client to connect anew rather than to wait for hours.

use std::{net::SocketAddr, time::Duration};

use canary_common::{Ctl, Flow};

use super::{
    super::{books::Key, state::Daemon},
    is_in_use,
};
use crate::config;

impl Daemon {
    /// Handshakes that a backend has not answered, which it will not do any more:
    /// the client's next SYN finds another one.
    pub(super) fn give_back_handshakes(&mut self, service: &config::Service, address: SocketAddr) {
        if self.has_other(service, address) {
            self.give_back(service, address, Flow::was_unanswered);
        }
    }

    /// After a check that could not connect.
    pub(super) fn look_whether_gone(&mut self, key: &Key) {
        let now = self.health.now();
        let (Some((service, track)), Some(watched)) =
            (self.whose(key), self.health.watched.get(key))
        else {
            return;
        };
        let silent = watched.passive.silent_for(now);
        let is_gone = watched.active.is_gone(&service.health[track as usize], silent);
        if !is_gone || watched.given_back.is_some() || !self.has_other(service, key.1) {
            return;
        }
        let service = service.clone();
        if let Some(watched) = self.health.watched.get_mut(key) {
            watched.given_back = Some(self.scan.passes);
        }
        let given = self.give_back(&service, key.1, |_| true);
        let silent = humantime::format_duration(Duration::from_secs(silent.as_secs()));
        let reason = format!("out of reach, and silent for {silent}; {given} flows given back");
        self.note_health(key, track, ("down", "gone"), reason);
    }

    /// Flows of those that are gone that are still there: a packet may have been
    /// on its way by the table of before.
    pub(super) fn give_back_rest(&mut self, service: &config::Service) {
        let passes = self.scan.passes;
        let is_due = |given: Option<u64>| given.is_some_and(|at| passes > at + 1);
        let all: Vec<SocketAddr> =
            service.stable.iter().chain(&service.canary).map(|b| b.address).collect();
        for address in all {
            let key = (service.name.clone(), address);
            let Some(watched) = self.health.watched.get_mut(&key) else { continue };
            if !is_due(watched.given_back) {
                continue;
            }
            watched.given_back = Some(passes);
            let number = self.number_of(service, address);
            if number.is_some_and(|number| self.scan.last.of(number) > 0) {
                self.give_back(service, address, |_| true);
            }
        }
    }

    /// Whether somebody else of the service takes new flows. In panic nobody is
    /// known to be better.
    fn has_other(&self, service: &config::Service, address: SocketAddr) -> bool {
        let standing = self.standing(service);
        let mut others = service.stable.iter().chain(&service.canary);
        !standing.panic
            && others.any(|other| {
                other.address != address
                    && is_in_use(self, service, other)
                    && !standing.out.contains(&other.address)
            })
    }

    fn number_of(&self, service: &config::Service, address: SocketAddr) -> Option<u16> {
        self.observed.backend_number(self.service_number(service)?, address)
    }

    /// How many there were.
    fn give_back(
        &mut self,
        service: &config::Service,
        address: SocketAddr,
        which: fn(Ctl) -> bool,
    ) -> u64 {
        let number = self.number_of(service, address);
        let (Some(number), Some(plane)) = (number, &self.plane) else { return 0 };
        let followers = &mut self.followers;
        plane.flow_table().give_back(number, which, &mut |flow| followers.ended(flow)).freed
    }
}
