//! The packet path under `BPF_PROG_TEST_RUN`: the real program in the real
//! kernel, its maps filled as the daemon fills them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};
use aya::programs::Xdp;
use canary::{
    dataplane::{Dataplane, OpenOptions},
    plan::{Write, checksum_deltas, ring},
};
use canary_common::{
    Address, Backend, BackendFlags, Cell, DirectoryKey, EntryKind, FrameAddresses, HashKeys,
    Reason, Service, ServiceFlags, SharedCell, Signals, Split, Timeouts, Track, WeightTable,
};

use crate::shared::{self, Kind, Loaded};

/// XDP actions.
pub const DROP: u32 = 1;
pub const PASS: u32 = 2;
pub const TX: u32 = 3;
pub const REDIRECT: u32 = 4;

/// The interface that test runs come in by: loopback.
pub const INGRESS: u32 = 1;

/// How the frames towards every backend begin.
pub const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
pub const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xa];

/// Slots of the tests' tables.
pub const TABLE_SIZE: u32 = 1009;

/// Short enough to wait for, in jiffies at 250 a second.
pub const TIMEOUTS: Timeouts =
    Timeouts { half_open: 100, established: 400, closing: 100, unanswered: 100, answered: 250 };

/// The data plane with nothing in it.
#[derive(Debug)]
pub struct Plane {
    pub inner: Option<Dataplane>,
    kind: Kind,
    bpffs: PathBuf,
    entries: Vec<(DirectoryKey, u32)>,
    services: BTreeMap<u16, Service>,
    next_table: u16,
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct Ran {
    pub action: u32,
    pub bytes: Vec<u8>,
    /// The one counter of reasons that moved.
    pub reason: Reason,
}

/// A backend to be.
#[derive(Clone, Copy, Debug)]
pub struct NewBackend {
    pub number: u16,
    pub service: u16,
    pub track: Track,
    pub vip: SocketAddr,
    pub address: SocketAddr,
    pub udp: bool,
    pub ifindex: u32,
    pub resolved: bool,
    /// Of an earlier backend with the same address; this one is put behind it.
    pub shares_with: Option<u16>,
}

impl NewBackend {
    /// As the daemon writes it; its cells are twice its number and the next.
    #[must_use]
    pub fn record(&self) -> Backend {
        let (address_delta, transport_delta) = checksum_deltas(self.vip, self.address);
        let mut flags = BackendFlags::PRESENT;
        if self.resolved {
            flags |= BackendFlags::RESOLVED;
        }
        if self.track == Track::Canary {
            flags |= BackendFlags::CANARY;
        }
        Backend {
            address: Address::from(self.address.ip()),
            port_be: self.address.port().to_be(),
            flags,
            ifindex: self.ifindex,
            frame: FrameAddresses::new(BACKEND_MAC, OWN_MAC),
            service: self.service,
            next_sharing: self.shares_with.unwrap_or(0),
            cells: [2 * self.number, 2 * self.number + 1],
            address_delta,
            transport_delta,
            ..Backend::default()
        }
    }
}

/// A service as the daemon writes it: its tables have [`TABLE_SIZE`] slots, its
/// number is its seed.
#[must_use]
pub fn service_record(
    number: u16,
    vip: SocketAddr,
    protocol: u8,
    flags: u16,
    timeouts: Timeouts,
) -> Service {
    Service {
        vip: Address::from(vip.ip()),
        port_be: vip.port().to_be(),
        protocol,
        flags: ServiceFlags::PRESENT | flags,
        timeouts,
        signals: Signals::ALL,
        pick: HashKeys::from_seed(u64::from(number)),
        table_size: [TABLE_SIZE; 2],
        ..Service::default()
    }
}

/// A Maglev table over these backends, each of the same weight. `None` of none.
#[must_use]
pub fn table_of(backends: &[u16]) -> Option<Vec<u16>> {
    let ring: Vec<_> = backends
        .iter()
        .map(|&number| ring::RingBackend { number, name: number.to_string().into(), weight: 1 })
        .collect();
    ring::build(&ring, TABLE_SIZE, 7)
}

/// Under which the directory has a service's or a backend's number.
#[must_use]
pub fn directory_key(kind: EntryKind, at: SocketAddr, protocol: u8) -> DirectoryKey {
    DirectoryKey::new(kind, Address::from(at.ip()), at.port().to_be(), protocol)
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

impl Plane {
    /// Loads the program with room for so many flows.
    ///
    /// # Errors
    /// Without root, or where the kernel refuses.
    pub fn new(flows: u32) -> Result<Self> {
        Self::open(flows, false, Signals::ALL)
    }

    /// The same with the program's own log switched on.
    ///
    /// # Errors
    /// Without root, or where the kernel refuses.
    pub fn logging(flows: u32) -> Result<Self> {
        Self::open(flows, true, Signals::ALL)
    }

    /// The same with these signals only, switched at load.
    ///
    /// # Errors
    /// Without root, or where the kernel refuses.
    pub fn with_signals(flows: u32, signals: u16) -> Result<Self> {
        Self::open(flows, false, signals)
    }

    fn open(flows: u32, log: bool, signals: u16) -> Result<Self> {
        let kind = Kind { flows, log, signals };
        let loaded = shared::take(kind).map_or_else(|| Self::load(kind), Ok)?;
        Ok(Self {
            inner: Some(loaded.plane),
            kind,
            bpffs: loaded.bpffs,
            entries: Vec::new(),
            services: BTreeMap::new(),
            next_table: 1,
        })
    }

    fn load(kind: Kind) -> Result<Loaded> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let bpffs = PathBuf::from(format!("/sys/fs/bpf/cny-test-{}-{serial}", std::process::id()));
        let Kind { flows, log, signals } = kind;
        let options = OpenOptions { bpffs: bpffs.clone(), flows, log, signals, sole: false };
        let (plane, _) = Dataplane::open(&options).context("the tests need root")?;
        Ok(Loaded { plane, bpffs })
    }

    /// Takes all services away: what a next user may find is nothing.
    fn forget(&mut self) -> Result<()> {
        let none = WeightTable { split: Split::NONE, tables: [0; 2], parity: 0 };
        let services: Vec<_> = self.services.keys().copied().collect();
        let weights = services.into_iter().map(|service| Write::Weights { service, weights: none });
        let mut writes: Vec<_> = weights.collect();
        writes.push(Write::Directory { entries: Vec::new() });
        self.apply(&writes)
    }

    /// # Panics
    /// After the plane was taken apart.
    pub fn get(&mut self) -> &mut Dataplane {
        self.inner.as_mut().expect("the plane is open")
    }

    /// The packet path.
    ///
    /// # Errors
    /// Where it was not loaded.
    pub fn path(&self) -> Result<&Xdp> {
        let plane = self.inner.as_ref().context("the plane is open")?;
        Ok(plane.xdp(plane.program())?)
    }

    fn apply(&mut self, writes: &[Write]) -> Result<()> {
        Ok(self.get().apply(writes)?)
    }

    /// A service that nothing is behind yet.
    ///
    /// # Errors
    /// The kernel's.
    pub fn service(&mut self, number: u16, vip: SocketAddr, udp: bool, flags: u16) -> Result<()> {
        let record = service_record(number, vip, protocol(udp), flags, TIMEOUTS);
        self.services.insert(number, record);
        let key = directory_key(EntryKind::Service, vip, protocol(udp));
        self.entries.retain(|(entry, _)| *entry != key);
        self.entries.push((key, u32::from(number)));
        let entries = self.entries.clone();
        self.apply(&[Write::Service { number, record }, Write::Directory { entries }])
    }

    /// A backend, its cells cleared.
    ///
    /// # Errors
    /// The kernel's.
    pub fn backend(&mut self, new: &NewBackend) -> Result<()> {
        let key = directory_key(EntryKind::Backend, new.address, protocol(new.udp));
        self.entries.retain(|(entry, _)| *entry != key);
        self.entries.push((key, u32::from(new.number)));
        let entries = self.entries.clone();
        self.apply(&[
            Write::ClearCell { cell: 2 * new.number },
            Write::ClearCell { cell: 2 * new.number + 1 },
            Write::Backend { number: new.number, record: new.record() },
            Write::Directory { entries },
        ])
    }

    /// Sets split and tables; each backend has the same weight.
    ///
    /// # Errors
    /// The kernel's.
    pub fn weights(
        &mut self,
        service: u16,
        split: f64,
        stable: &[u16],
        canary: &[u16],
    ) -> Result<()> {
        let mut tables = [0; 2];
        let mut writes = Vec::new();
        for (table, backends) in tables.iter_mut().zip([stable, canary]) {
            if let Some(slots) = table_of(backends) {
                *table = self.next_table;
                self.next_table += 1;
                writes.push(Write::Table { number: *table, slots });
            }
        }
        let split = Split::from_fraction(split).context("a fraction of 1")?;
        writes.push(Write::Weights { service, weights: WeightTable { split, tables, parity: 0 } });
        self.apply(&writes)
    }

    /// Gives all of a service's states one timeout, in jiffies.
    ///
    /// # Errors
    /// The kernel's.
    pub fn timeouts(&mut self, number: u16, jiffies: u32) -> Result<()> {
        let mut record = self.services.get(&number).copied().context("no such service")?;
        record.timeouts = Timeouts {
            half_open: jiffies,
            established: jiffies,
            closing: jiffies,
            unanswered: jiffies,
            answered: jiffies,
        };
        self.apply(&[Write::Service { number, record }])
    }

    /// Changes a service's record, in the words behind its weights.
    ///
    /// # Errors
    /// The kernel's.
    pub fn change(&mut self, number: u16, change: impl FnOnce(&mut Service)) -> Result<()> {
        let record = self.services.get_mut(&number).context("no such service")?;
        change(record);
        let record = *record;
        self.apply(&[Write::Service { number, record }])
    }

    /// Reads only these signals for a service.
    ///
    /// # Errors
    /// The kernel's.
    pub fn signals(&mut self, number: u16, signals: u16) -> Result<()> {
        let mut record = self.services.get(&number).copied().context("no such service")?;
        record.signals = signals;
        self.apply(&[Write::Service { number, record }])
    }

    /// Tells the program of tables of another size.
    ///
    /// # Errors
    /// The kernel's.
    pub fn table_size(&mut self, number: u16, size: u32) -> Result<()> {
        let mut record = self.services.get(&number).copied().context("no such service")?;
        record.table_size = [size; 2];
        self.apply(&[Write::Service { number, record }])
    }

    /// Puts these tables in force, all to stable.
    ///
    /// # Errors
    /// The kernel's.
    pub fn point_at(&mut self, service: u16, tables: [u16; 2]) -> Result<()> {
        let weights = WeightTable { split: Split::NONE, tables, parity: 0 };
        self.apply(&[Write::Weights { service, weights }])
    }

    /// How to open the same maps once more.
    #[must_use]
    pub fn options(&self) -> OpenOptions {
        OpenOptions {
            bpffs: self.bpffs.clone(),
            flows: 1,
            log: false,
            signals: Signals::ALL,
            sole: false,
        }
    }

    /// One packet through the program.
    ///
    /// # Errors
    /// The kernel's, or where not exactly one reason was counted.
    pub fn run(&mut self, frame: &[u8]) -> Result<Ran> {
        let before = self.get().verdicts()?;
        let mut bytes = vec![0; frame.len() + 64];
        let program = self.get().program();
        let (action, len) = self.get().test_run(program, frame, &mut bytes)?;
        bytes.truncate(len);
        let after = self.get().verdicts()?;
        let moved: Vec<_> = Reason::ALL
            .iter()
            .filter(|&&reason| after[reason as usize] == before[reason as usize] + 1)
            .collect();
        let [reason] = moved[..] else { anyhow::bail!("reasons counted: {moved:?}") };
        Ok(Ran { action, bytes, reason: *reason })
    }

    /// Counters of a backend's current cell.
    ///
    /// # Errors
    /// The kernel's.
    pub fn counters(&mut self, backend: u16) -> Result<(Cell, SharedCell)> {
        Ok(self.get().cell(2 * backend)?)
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let clean = self.inner.is_some() && self.forget().is_ok();
        let Some(plane) = self.inner.take() else {
            // A failure shows in the residue check, as below.
            let _ = canary::dataplane::remove_pins(&self.bpffs);
            return;
        };
        let loaded = Loaded { plane, bpffs: self.bpffs.clone() };
        let over = if clean { shared::give(self.kind, loaded) } else { Some(loaded) };
        if let Some(Loaded { plane, bpffs }) = over {
            drop(plane);
            let _ = canary::dataplane::remove_pins(&bpffs);
        }
    }
}

const fn protocol(udp: bool) -> u8 {
    if udp { canary_common::PROTO_UDP } else { canary_common::PROTO_TCP }
}
