//! What the kernel has of a rollout in its maps.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData};
use canary_common::Guard;

use crate::register::InForce;

/// The pinned maps of a lab's daemon, for one service.
pub(super) struct Kernel {
    pub(super) service: InForce,
    guards: Array<MapData, Guard>,
}

impl Kernel {
    /// `listen` is the service's address and port.
    ///
    /// # Errors
    /// Where no daemon has pinned its maps there, or none of its services is
    /// that one.
    pub(super) fn open(bpffs: &Path, listen: SocketAddr) -> Result<Self> {
        let path = bpffs.join("GUARDS");
        let guards =
            MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
        let guards = Array::try_from(Map::Array(guards))?;
        Ok(Self { service: InForce::open(bpffs, listen)?, guards })
    }

    /// # Errors
    /// Where the map cannot be read.
    pub(super) fn guard(&self) -> Result<Guard> {
        Ok(self.guards.get(&self.service.number, 0)?)
    }
}

/// The clock that the kernel's guard writes down, and that [`std::time::Instant`]
/// reads: `CLOCK_MONOTONIC`, nanoseconds.
pub(super) fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to that `timespec` alone.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}
