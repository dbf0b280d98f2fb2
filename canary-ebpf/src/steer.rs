//! Who goes first, or never: clients that have a track of their own, by the
//! longest network that names them.

use aya_ebpf::maps::lpm_trie::Key;
use canary_common::{FlowKey, Service, ServiceFlags, Steer, SteerKey, Track};

use crate::{
    flows,
    maps::{STEER_V4, STEER_V6},
};

/// What a service's steering says of a client.
#[derive(Clone, Copy, Debug)]
pub struct Steered(u32);

/// Networks inside each other whose time is over, at most, before one that
/// counts.
const TRIES: usize = 4;

impl Steered {
    /// By the split, as most.
    const NOT: Self = Self(0);
    const ALWAYS: u32 = 4;

    /// What is found; bits 0–1 the track's number plus one.
    #[inline(always)]
    const fn by(found: &Steer) -> Self {
        Self(1 + (found.track & 1) as u32 + Self::ALWAYS * (found.always & 1) as u32)
    }

    #[inline(always)]
    pub const fn track(self) -> Option<Track> {
        match self.0 & 3 {
            0 => None,
            1 => Some(Track::Stable),
            _ => Some(Track::Canary),
        }
    }

    /// As [`canary_common::WhereAnswer`] has it.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.0 & 3
    }

    #[inline(always)]
    pub const fn is_steered(self) -> bool {
        self.0 != 0
    }

    /// Past the guard, too.
    #[inline(always)]
    pub const fn is_always(self) -> bool {
        self.0 & Self::ALWAYS != 0
    }
}

/// Looked up where the service has anybody to look up.
#[inline(always)]
pub fn of(service: &Service, key: &FlowKey) -> Steered {
    if service.flags & ServiceFlags::STEERED == 0 {
        return Steered::NOT;
    }
    Steered(canary_steered(key))
}

/// A function of its own to the verifier. `key` is never null.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn canary_steered(key: *const FlowKey) -> u32 {
    if key.is_null() {
        return Steered::NOT.0;
    }
    // SAFETY: not null, and the caller's reference otherwise.
    let (client, service) = unsafe { ((*key).client, (*key).service) };
    let now = flows::jiffies();
    let mut prefix = SteerKey::WHOLE_V6;
    if client.is_v4() {
        prefix = SteerKey::WHOLE_V4;
    }
    for _ in 0..TRIES {
        let found = if client.is_v4() {
            STEER_V4.get(Key::new(prefix, SteerKey::v4(service, &client)))
        } else {
            STEER_V6.get(Key::new(prefix, SteerKey::v6(service, &client)))
        };
        let Some(found) = found else { break };
        if found.until == 0 || found.until >= now {
            return Steered::by(found).0;
        }
        // Its time is over: the network around it.
        prefix = u32::from(found.prefix).wrapping_sub(1);
    }
    Steered::NOT.0
}
