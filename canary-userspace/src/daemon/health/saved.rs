//! What of backends' health must survive the daemon: one that comes back sends
//! nobody to a backend that is known to be down.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use canary_common::Track;
use serde::{Deserialize, Serialize};

use super::{
    super::{
        state::{Daemon, backends},
        trial::seconds_since_1970,
    },
    Watched,
};
use crate::health::{Active, Ejected, Passive};

/// By service, then by backend.
pub(in crate::daemon) type Saved = BTreeMap<String, BTreeMap<SocketAddr, SavedOne>>;

/// A backend's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::daemon) struct SavedOne {
    up: bool,
    /// When it last went up or down, in seconds since 1970.
    since: Option<f64>,
    /// Until when it is ejected, in seconds since 1970.
    ejected_until: Option<f64>,
    /// Ejections that the next one is longer for.
    times: u32,
    /// Why it is ejected, if it is.
    why: String,
}

impl Daemon {
    pub(in crate::daemon) fn save_health(&self) -> Saved {
        let (now, wall) = (self.health.now(), seconds_since_1970());
        let mut saved = Saved::new();
        for ((service, address), watched) in &self.health.watched {
            let left = |ejected: Ejected| ejected.until.saturating_sub(now).as_secs_f64();
            let one = SavedOne {
                up: watched.active.is_up,
                since: watched.since,
                // Whole seconds: the same ejection is the same each time.
                ejected_until: watched.passive.ejected.map(|e| (wall + left(e)).round()),
                times: watched.passive.times,
                why: watched.why.clone(),
            };
            saved.entry(service.clone()).or_default().insert(*address, one);
        }
        saved
    }

    /// The inverse, for those that the configuration has watched.
    pub(in crate::daemon) fn recall_health(&mut self, saved: &Saved) {
        let (now, wall) = (self.health.now(), seconds_since_1970());
        for service in &self.config.services {
            let Some(earlier) = saved.get(&service.name) else { continue };
            for track in Track::ALL {
                let rules = &service.health[track as usize];
                for backend in backends(service, track).iter().filter(|_| rules.is_on()) {
                    let Some(one) = earlier.get(&backend.address) else { continue };
                    let left = one.ejected_until.map_or(0.0, |until| until - wall);
                    // A clock that was put back holds nobody for longer.
                    let left = Duration::try_from_secs_f64(left).unwrap_or_default();
                    let left = left.min(rules.eject.longest);
                    let ejected = Ejected { since: now, until: now + left };
                    let ejected = (!left.is_zero()).then_some(ejected);
                    let watched = Watched {
                        since: one.since,
                        why: one.why.clone(),
                        ..Watched::new(Active::known(one.up), Passive::known(ejected, one.times))
                    };
                    self.health.watched.insert((service.name.clone(), backend.address), watched);
                }
            }
        }
    }
}
