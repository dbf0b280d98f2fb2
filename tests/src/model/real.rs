//! The real program in the model's world.

use std::{collections::HashMap, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use canary::{
    dataplane::{FlowSnapshot, FlowTable},
    plan::Write,
};
use canary_common::{
    Backend, EntryKind, Flow, FlowKey, FlowState, Reason, Service, ServiceFlags, Track, WeightTable,
};

use super::{Booked, CELLS, Ends, packet::UDP, world};
use crate::plane::{INGRESS, NewBackend, Plane, directory_key, service_record};

#[derive(Debug)]
pub struct Real {
    pub(super) plane: Plane,
    program: &'static str,
    table: Arc<FlowTable>,
    elsewhere: u32,
    verdicts: Vec<u64>,
    /// What was counted before the case began.
    before: Counted,
    /// The program's clock then, jiffies.
    now: u32,
    /// A buffer for test runs' output.
    out: Vec<u8>,
}

/// All cells' counters.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    pub booked: [Booked; CELLS],
    pub ends: [Ends; CELLS],
    pub evicted: u64,
    /// By service: bad events, and flows kept from the canary.
    pub guards: [[u64; 2]; world::SERVICES.len()],
}

impl Default for Counted {
    fn default() -> Self {
        Self {
            booked: [Booked::default(); CELLS],
            ends: [Ends::default(); CELLS],
            evicted: 0,
            guards: Default::default(),
        }
    }
}

/// What a packet met.
#[derive(Debug)]
pub struct Met<'a> {
    pub action: u32,
    pub bytes: &'a [u8],
    pub reason: &'static str,
}

impl Real {
    /// Room for so many flows; the world's other interface is `elsewhere`.
    ///
    /// # Errors
    /// Without root, or where the kernel refuses.
    pub fn new(flows: u32, elsewhere: u32) -> Result<Self> {
        let mut plane = Plane::new(flows)?;
        let mut writes = vec![Write::AllowInterface { ifindex: elsewhere }];
        for (number, slots) in tables() {
            writes.push(Write::Table { number, slots });
        }
        for number in (0..).take(world::SERVICES.len()) {
            writes.push(Write::Service { number, record: service(number) });
        }
        plane.get().apply(&writes)?;
        let mut real = Self {
            program: plane.get().program(),
            table: plane.get().flow_table(),
            verdicts: plane.get().verdicts()?,
            elsewhere,
            before: Counted::default(),
            now: 0,
            out: vec![0; 4096],
            plane,
        };
        real.restart()?;
        Ok(real)
    }

    /// The world as it began: no flow, all backends there, nothing counted.
    ///
    /// # Errors
    /// The kernel's.
    pub fn restart(&mut self) -> Result<()> {
        self.table.clear();
        self.plane.get().forget_fragments()?;
        self.plane.get().renew_overflow_marks();
        for number in world::numbers() {
            self.backend(number, true)?;
        }
        self.directory(|_| true)?;
        self.forget_orders()?;
        self.now = self.plane.get().now()?;
        self.before = Counted::default();
        self.before = self.counted()?;
        Ok(())
    }

    /// # Errors
    /// The kernel's.
    pub fn backend(&mut self, number: u16, resolved: bool) -> Result<()> {
        let record = Backend {
            steered_cell: world::steered_cell(number),
            ..backend(number, resolved, self.elsewhere).record()
        };
        Ok(self.plane.get().apply(&[Write::Backend { number, record }])?)
    }

    /// Services, and the backends that are configured.
    ///
    /// # Errors
    /// The kernel's.
    pub fn directory(&mut self, configured: impl Fn(u16) -> bool) -> Result<()> {
        let mut entries = Vec::new();
        for (number, service) in (0..).zip(&world::SERVICES) {
            let vip = world::address(service.vip);
            entries.push((directory_key(EntryKind::Service, vip, service.protocol), number));
        }
        for number in world::numbers().filter(|n| *n != world::SHARED[1] && configured(*n)) {
            let at = world::address(world::backend_of(number).address);
            let service = world::backend_of(number).service;
            let protocol = world::SERVICES[usize::from(service)].protocol;
            entries.push((directory_key(EntryKind::Backend, at, protocol), u32::from(number)));
        }
        Ok(self.plane.get().apply(&[Write::Directory { entries }])?)
    }

    /// The record goes, in the daemon's order: directory, record, pins.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&mut self, number: u16, forget: bool) -> Result<()> {
        self.plane.get().apply(&[Write::DropBackend { number }])?;
        if forget {
            self.plane.get().apply(&[Write::ForgetPins { backends: vec![number] }])?;
        }
        Ok(())
    }

    /// # Errors
    /// The kernel's.
    pub fn weights(&mut self, service: u16, weights: WeightTable) -> Result<()> {
        Ok(self.plane.get().apply(&[Write::Weights { service, weights }])?)
    }

    pub fn pass_time(&mut self, jiffies: u32) {
        self.table.age_by(jiffies);
    }

    pub fn sweep(&mut self) {
        self.table.sweep(self.now, 0..self.table.buckets(), &mut |_| ());
    }

    /// # Errors
    /// The kernel's, or where not exactly one reason was counted.
    pub fn packet(&mut self, frame: &[u8]) -> Result<Met<'_>> {
        let (action, len) = self.plane.get().test_run(self.program, frame, &mut self.out)?;
        let verdicts = self.plane.get().verdicts()?;
        let mut moved = (0..).zip(verdicts.iter().zip(&self.verdicts)).filter(|(_, (a, b))| a != b);
        let (reason, (after, before)) = moved.next().context("no reason was counted")?;
        ensure!(moved.next().is_none() && *after == before + 1, "more than one reason was counted");
        self.verdicts = verdicts;
        let reason = Reason::from_number(reason).name();
        Ok(Met { action, bytes: &self.out[..len], reason })
    }

    /// Since the case began.
    ///
    /// # Errors
    /// The kernel's.
    pub fn counted(&mut self) -> Result<Counted> {
        let mut counted = Counted::default();
        let mut evicted = 0;
        for number in 2..CELLS {
            let (cell, shared) = self.plane.get().cell(number as u16)?;
            let times = self.plane.get().latencies(number as u16);
            let before = &self.before;
            let booked =
                Booked { cell, times: [times.handshake.count(), times.first_byte.count()] };
            counted.booked[number] = booked.since(&before.booked[number]);
            let ends = &before.ends[number];
            counted.ends[number] = Ends {
                handshake_timeouts: shared.handshake_timeouts - ends.handshake_timeouts,
                idle_cuts: shared.idle_cuts - ends.idle_cuts,
            };
            evicted += shared.evicted;
        }
        counted.evicted = evicted - self.before.evicted;
        for (service, guard) in (0..).zip(&mut counted.guards) {
            let record = self.plane.get().read_guard(service);
            let before = self.before.guards[usize::from(service)];
            *guard = [record.bad - before[0], record.diverted - before[1]];
        }
        Ok(counted)
    }

    /// The live pin under a key.
    pub fn flow(&mut self, key: &FlowKey) -> Option<Flow> {
        let now = self.now;
        self.plane.get().flow_record(key, now)
    }

    /// All live pins, and what each is pinned to.
    #[must_use]
    pub fn flows(&self) -> HashMap<FlowKey, u16> {
        self.flows_that(|_| true)
    }

    /// Those of them that are established.
    #[must_use]
    pub fn established(&self) -> HashMap<FlowKey, u16> {
        self.flows_that(|flow| flow.ctl.state() == FlowState::Established)
    }

    fn flows_that(&self, are: impl Fn(&FlowSnapshot) -> bool) -> HashMap<FlowKey, u16> {
        let mut flows = HashMap::new();
        self.table.scan(self.now, 0..self.table.buckets(), &mut |flow| {
            if are(flow) {
                flows.insert(flow.key, flow.backend);
            }
        });
        flows
    }

    /// Jiffies since the case began.
    ///
    /// # Errors
    /// The kernel's.
    pub fn elapsed(&mut self) -> Result<u32> {
        Ok(self.plane.get().now()?.wrapping_sub(self.now))
    }

    /// The program's clock when the case began, jiffies.
    #[must_use]
    pub const fn began(&self) -> u32 {
        self.now
    }

    #[must_use]
    pub fn table(&self) -> &FlowTable {
        &self.table
    }
}

/// Every Maglev table of the world, by its number.
#[must_use]
pub fn tables() -> HashMap<u16, Vec<u16>> {
    let mut tables = HashMap::new();
    for service in 0..world::SERVICES.len() as u16 {
        for track in Track::ALL {
            for mask in 1..1 << world::track(service, track).len() {
                if let Some(slots) = world::table(service, track, mask) {
                    tables.insert(world::table_number(service, track, mask), slots);
                }
            }
        }
    }
    tables
}

pub(super) fn service(number: u16) -> Service {
    let service = &world::SERVICES[usize::from(number)];
    let alone = if service.by_client_alone { ServiceFlags::CLIENT_AFFINITY } else { 0 };
    let steered = if service.steered { ServiceFlags::STEERED } else { 0 };
    let vip = world::address(service.vip);
    let record = service_record(number, vip, service.protocol, alone | steered, world::TIMEOUTS);
    Service { signals: service.signals, salt: service.salt, ..record }
}

fn backend(number: u16, resolved: bool, elsewhere: u32) -> NewBackend {
    let backend = world::backend_of(number);
    let service = &world::SERVICES[usize::from(backend.service)];
    NewBackend {
        number,
        service: backend.service,
        track: backend.track,
        vip: world::address(service.vip),
        address: world::address(backend.address),
        udp: service.protocol == UDP,
        ifindex: if backend.elsewhere { elsewhere } else { INGRESS },
        resolved,
        shares_with: (number == world::SHARED[0]).then_some(world::SHARED[1]),
    }
}
