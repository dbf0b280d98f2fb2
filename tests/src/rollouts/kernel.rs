//! What the kernel has in its maps, read beside the daemon: it must also be
//! told when the daemon is stopped, and asking the daemon would keep it busy.

use std::{
    net::SocketAddr,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Pod,
    maps::{Array, Map, MapData},
};
use canary_common::{Address, Guard, Register, Service, WeightTable};

/// The pinned maps of a lab's daemon, for one service.
pub(super) struct Kernel {
    /// Mapped for as long as we run: too large for a thread's stack.
    register: &'static Register,
    guards: Array<MapData, Guard>,
    number: u32,
}

fn open<V: Pod>(bpffs: &Path, name: &str) -> Result<Array<MapData, V>> {
    let path = bpffs.join(name);
    let map = MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
    Ok(Array::try_from(Map::Array(map))?)
}

fn mapped(path: &Path) -> Result<&'static Register> {
    let map = MapData::from_pin(path).with_context(|| format!("opening {}", path.display()))?;
    let (size, fd) = (size_of::<Register>(), map.fd().as_fd().as_raw_fd());
    // SAFETY: a new mapping, which stays when the descriptor goes.
    let memory =
        unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ, libc::MAP_SHARED, fd, 0) };
    ensure!(memory != libc::MAP_FAILED, "mapping {} into memory", path.display());
    // SAFETY: as large, page-aligned, and any bytes are a register.
    Ok(unsafe { &*memory.cast::<Register>() })
}

impl Kernel {
    /// `listen` is the service's address and port.
    ///
    /// # Errors
    /// Where no daemon has pinned its maps there, or none of its services is
    /// that one.
    pub(super) fn open(bpffs: &Path, listen: SocketAddr) -> Result<Self> {
        let register = mapped(&bpffs.join("REGISTER"))?;
        let (vip, port_be) = (Address::from(listen.ip()), listen.port().to_be());
        let is_it = |service: &Service| service.vip == vip && service.port_be == port_be;
        let number = register.services.iter().position(is_it);
        let number = number.with_context(|| format!("{listen} is gone"))? as u32;
        Ok(Self { register, guards: open(bpffs, "GUARDS")?, number })
    }

    /// The canary's share of new connections.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub(super) fn split(&self) -> Result<f64> {
        let weights = &raw const self.register.services[self.number as usize].weights;
        // SAFETY: in the mapping; the daemon may be writing it, each word whole.
        let weights = unsafe { weights.read_volatile() };
        Ok(WeightTable::unpack(weights).split.fraction())
    }

    /// # Errors
    /// Where the map cannot be read.
    pub(super) fn guard(&self) -> Result<Guard> {
        Ok(self.guards.get(&self.number, 0)?)
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
