//! A daemon's register as the program sees it, read beside the daemon: it must
//! also tell when the daemon is stopped, and asking the daemon would keep it
//! busy.

use std::{
    net::SocketAddr,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use canary_common::{Address, Register, Service, ServiceFlags, WeightTable};

/// One service in the register.
#[derive(Clone, Copy, Debug)]
pub struct InForce {
    service: &'static Service,
    /// Index into the register's services.
    pub number: u32,
}

impl InForce {
    /// `listen` is the service's address and port.
    ///
    /// # Errors
    /// Where no daemon has pinned its maps there, or none of its services is
    /// that one.
    pub fn open(bpffs: &Path, listen: SocketAddr) -> Result<Self> {
        let register = mapped(&bpffs.join("REGISTER"))?;
        let (vip, port_be) = (Address::from(listen.ip()), listen.port().to_be());
        let is_it = |service: &Service| {
            service.flags & ServiceFlags::PRESENT != 0
                && (service.vip, service.port_be) == (vip, port_be)
        };
        let number = register.services.iter().position(is_it);
        let number = number.with_context(|| format!("{listen} is not in the map"))?;
        Ok(Self { service: &register.services[number], number: number as u32 })
    }

    /// The service's weights, packed.
    #[must_use]
    pub fn word(&self) -> u64 {
        let weights = &raw const self.service.weights;
        // SAFETY: in the mapping; the daemon may be writing it, each word whole.
        unsafe { weights.read_volatile() }
    }

    /// The canary's share of new connections.
    #[must_use]
    pub fn split(&self) -> f64 {
        WeightTable::unpack(self.word()).split.fraction()
    }
}

/// Mapped for as long as we run: too large for a thread's stack.
pub(crate) fn mapped(path: &Path) -> Result<&'static Register> {
    let map = MapData::from_pin(path).with_context(|| format!("opening {}", path.display()))?;
    let (size, fd) = (size_of::<Register>(), map.fd().as_fd().as_raw_fd());
    // SAFETY: a new mapping, which stays when the descriptor goes.
    let memory =
        unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ, libc::MAP_SHARED, fd, 0) };
    ensure!(memory != libc::MAP_FAILED, "mapping {} into memory", path.display());
    // SAFETY: as large, page-aligned, and any bytes are a register.
    Ok(unsafe { &*memory.cast::<Register>() })
}
