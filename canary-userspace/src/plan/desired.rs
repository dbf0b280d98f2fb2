//! What the maps should hold: the configuration, and what was said and found
//! since.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use canary_common::{FlowFlags, FrameAddresses, Split, Timeouts, Track};

use crate::config;

/// Where packets to a backend go next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    pub ifindex: u32,
    pub frame: FrameAddresses,
}

/// A service as it should be.
#[derive(Clone, Debug)]
pub struct DesiredService {
    pub config: config::Service,
    pub split: Split,
    /// Backends that take no new flows.
    pub drained: BTreeSet<SocketAddr>,
    /// Backends that are not well enough for new flows.
    pub unwell: BTreeSet<SocketAddr>,
    /// Of the split's hash: another one draws anew whose the canary is.
    pub salt: u32,
    /// Any number that is raised to have flows cut that were born to the
    /// canary under the number before.
    pub generation: u8,
    /// Some clients have a track of their own.
    pub steered: bool,
    /// Another number than the last plan had begins a new epoch, also where
    /// split and tables stay. 0: whatever it was.
    pub epoch: u64,
}

/// Everything the plan is made from.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    pub services: Vec<DesiredService>,
    /// By backend address; who is missing is unresolved.
    pub hops: BTreeMap<IpAddr, Hop>,
    /// The kernel's HZ.
    pub jiffies_per_second: u32,
}

impl DesiredService {
    /// A track's backends as configured.
    #[must_use]
    pub fn track(&self, track: Track) -> &[config::Backend] {
        match track {
            Track::Stable => &self.config.stable,
            Track::Canary => &self.config.canary,
        }
    }

    /// All backends with their track.
    pub fn backends(&self) -> impl Iterator<Item = (Track, &config::Backend)> {
        Track::ALL.into_iter().flat_map(|track| self.track(track).iter().map(move |b| (track, b)))
    }

    /// Whether a backend takes new flows.
    #[must_use]
    pub fn is_usable(&self, backend: &config::Backend) -> bool {
        backend.weight > 0
            && !self.drained.contains(&backend.address)
            && !self.unwell.contains(&backend.address)
    }

    /// Whether a track takes new flows.
    #[must_use]
    pub fn has_usable(&self, track: Track) -> bool {
        self.track(track).iter().any(|backend| self.is_usable(backend))
    }

    /// The generation as the record has it: one that is not 0, and never the
    /// same as the one before.
    #[must_use]
    pub const fn record_generation(&self) -> u8 {
        match self.generation {
            // Between 254 and 0, which the remainder gives 15 and 1.
            u8::MAX => 2,
            number => (number as u16 % FlowFlags::GENERATIONS) as u8 + 1,
        }
    }

    /// The service's timeouts in jiffies.
    #[must_use]
    pub fn timeouts(&self, jiffies_per_second: u32) -> Timeouts {
        let jiffies = |duration: std::time::Duration| {
            let jiffies = duration.as_millis() * u128::from(jiffies_per_second) / 1000;
            // Deadlines are compared as signed 32-bit differences.
            u32::try_from(jiffies).unwrap_or(u32::MAX).clamp(1, i32::MAX as u32)
        };
        let timeouts = &self.config.timeouts;
        Timeouts {
            half_open: jiffies(timeouts.half_open),
            established: jiffies(timeouts.established),
            closing: jiffies(timeouts.closing),
            unanswered: jiffies(timeouts.unanswered),
            answered: jiffies(timeouts.answered),
        }
    }
}

/// The number whose [`DesiredService::record_generation`] this is: for whoever
/// finds a record, and nothing written down of it.
#[must_use]
pub const fn generation_of(record: u8) -> u8 {
    match record {
        0 | 1 => FlowFlags::GENERATIONS as u8,
        number => number - 1,
    }
}
