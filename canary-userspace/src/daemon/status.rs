//! What the daemon shows.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use canary_common::{ABI, Reason, Split, Track};

use super::{
    books::{self, Counts},
    scan::Pins,
    state::{Daemon, backends},
};
use crate::{
    api::{
        request::Refusal,
        types::{
            BackendStatus, Counters, DataPlane, FlowTableStatus, RolloutStatus, ServiceStatus,
            SplitStatus, Status, Times, TrackStatus, Verdict,
        },
    },
    config, metrics,
    rollout::Stage,
};

/// What all backends of an answer are shown by, read once for all of them.
struct Sight {
    pins: Pins,
    /// Of cells that counted anything.
    counts: BTreeMap<u16, Counts>,
}

impl Sight {
    /// New flows that were booked in a cell; 0 is none.
    fn connections(&self, cell: u16) -> u64 {
        self.counts.get(&cell).map_or(0, |(cell, _)| cell.connections)
    }
}

impl Daemon {
    /// All services, or one.
    pub(super) fn status(&mut self, only: Option<&str>) -> Result<Status, Refusal> {
        if let Some(name) = only {
            self.service(name)?;
        }
        let pins = self.pins()?;
        let services: Vec<_> = self.services(only).cloned().collect();
        let all = services.iter().flat_map(|service| {
            let backends = service.stable.iter().chain(&service.canary);
            backends.map(|backend| (service.name.as_str(), backend.address))
        });
        let cells = self.books.cells_of(all).collect();
        let sight = Sight { pins, counts: self.counts(cells).map_err(Refusal::internal)? };
        let services =
            services.iter().map(|service| self.service_status(service, &sight)).collect();
        let plane = self.plane().map_err(Refusal::internal)?;
        let counts = plane.verdicts().map_err(Refusal::internal)?;
        let verdicts = Reason::ALL
            .iter()
            .map(|reason| Verdict {
                reason: reason.name().to_owned(),
                packets: counts[*reason as usize],
            })
            .collect();
        let flows = FlowTableStatus {
            capacity: plane.capacity(),
            active: sight.pins.total,
            overflow: plane.overflow_len(),
        };
        let events_dropped = plane.events_dropped();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            data_plane: DataPlane { attached: self.interfaces(), abi: ABI, flows, events_dropped },
            services,
            verdicts,
            warnings: self.warnings(),
        })
    }

    /// Live pins, as fresh as costs little.
    pub(super) fn pins(&mut self) -> Result<Pins, Refusal> {
        let plane = self.plane().map_err(Refusal::internal)?;
        let (table, now) = (plane.flow_table(), plane.now().map_err(Refusal::internal)?);
        Ok(self.scan.pins(&table, now))
    }

    fn warnings(&self) -> Vec<String> {
        let unresolved =
            self.unresolved.iter().map(|(address, reason)| format!("backend {address}: {reason}"));
        let rolled_back = self.runtime.iter().filter_map(|(name, runtime)| {
            let why = runtime.rolled_back.as_ref()?;
            Some(format!("{name}: the canary was taken out: {why}"))
        });
        let interfaces = self.interface_warnings().into_iter();
        let unwell = self.health_warnings();
        let saving = self.lost.clone().into_iter().chain(self.unsaved.clone());
        let last = saving.chain(self.leaving_warning());
        interfaces.chain(unresolved).chain(unwell).chain(rolled_back).chain(last).collect()
    }

    pub(super) fn service(&self, name: &str) -> Result<config::Service, Refusal> {
        let found = self.config.services.iter().find(|service| service.name == name);
        found.cloned().ok_or_else(|| {
            let names: Vec<_> = self.config.services.iter().map(|s| s.name.as_str()).collect();
            Refusal::not_found(format!(
                "there is no service {name:?}; there are: {}",
                names.join(", ")
            ))
        })
    }

    fn service_status(&mut self, service: &config::Service, sight: &Sight) -> ServiceStatus {
        let born = Track::ALL.map(|track| {
            let cells = self.current_cells(service, track).into_iter();
            cells.map(|cell| sight.connections(cell)).sum::<u64>()
        });
        let (canary, all) = (born[Track::Canary as usize], born.iter().sum::<u64>());
        let unwell = self.unwell(service);
        let mut tracks = Vec::new();
        let mut canary_active = 0;
        for track in Track::ALL {
            let mut shown = Vec::new();
            for backend in backends(service, track) {
                let status = self.backend_status(service, (track, backend), sight, &unwell);
                if track == Track::Canary {
                    canary_active += status.counters.active;
                }
                shown.push(status);
            }
            let (name, panic) = (track.name().to_owned(), self.panics(service, track));
            tracks.push(TrackStatus { name, panic, backends: shown });
        }
        let configured = self.split(&service.name).fraction();
        let guard = self.guard_status(service);
        ServiceStatus {
            name: service.name.clone(),
            listen: service.listen.to_string(),
            protocol: service.protocol.name().to_owned(),
            split: SplitStatus {
                configured,
                actual: (all > 0).then(|| canary as f64 / all as f64),
                guard: guard.status.clone(),
            },
            guard,
            rollout: self.shown_rollout(service, canary_active),
            tracks,
        }
    }

    /// A rollout as it stands; between two of them what a person set.
    fn shown_rollout(&self, service: &config::Service, canary_active: u64) -> RolloutStatus {
        let status = self.rollout_status(service);
        let Some(runtime) = self.runtime.get(&service.name) else { return status };
        if runtime.rollout.stage != Stage::Idle {
            return status;
        }
        let (phase, reason) = match &runtime.rolled_back {
            Some(why) if canary_active > 0 => {
                ("rolling-back", format!("{why}; {canary_active} connections still drain"))
            }
            Some(why) => ("idle", format!("rolled back: {why}")),
            None if runtime.split == Split::NONE && runtime.rollout.ended.is_some() => {
                return status;
            }
            None => ("idle", "the split is set by hand".to_owned()),
        };
        RolloutStatus { phase: phase.to_owned(), reason, ..status }
    }

    fn backend_status(
        &self,
        service: &config::Service,
        (track, backend): (Track, &config::Backend),
        sight: &Sight,
        unwell: &BTreeSet<SocketAddr>,
    ) -> BackendStatus {
        let number = self.backend_number(service, backend);
        let active = number.map_or(0, |number| sight.pins.of(number));
        let only = std::iter::once(backend.address);
        let lived = self.books.lived(&service.name, only, |cell| self.living(&sight.counts, cell));
        let record = number.and_then(|number| self.observed.backends.get(&number));
        // Since its cell for flows that were steered here is there.
        let steered = record.map_or(0, |record| sight.connections(record.steered_cell));
        let drained = self.leaving.is_some()
            || self.runtime.get(&service.name).is_some_and(|runtime| {
                runtime.drained.contains(&backend.address)
                    || runtime.retiring.contains(&backend.address)
            });
        let state = match (drained || backend.weight == 0, active) {
            (true, 0) => "drained",
            (true, _) => "draining",
            (false, _) if self.is_unresolved(backend.address.ip()) => "unresolved",
            (false, _) => self.unwell_state(service, track, backend, unwell).unwrap_or("active"),
        };
        BackendStatus {
            address: backend.address.to_string(),
            state: state.to_owned(),
            weight: backend.weight,
            health: self.shown_health(service, track, backend),
            counters: Counters { steered, ..books::counters(&lived.counts, active) },
            handshake_seconds: Times::of(&lived.times.handshake),
            first_byte_seconds: Times::of(&lived.times.first_byte),
        }
    }

    fn is_unresolved(&self, address: IpAddr) -> bool {
        self.unresolved.contains_key(&address)
    }

    pub(super) fn service_number(&self, service: &config::Service) -> Option<u16> {
        self.observed.service_of(service)
    }

    pub(super) fn backend_number(
        &self,
        service: &config::Service,
        backend: &config::Backend,
    ) -> Option<u16> {
        self.observed.backend_number(self.service_number(service)?, backend.address)
    }

    pub(super) fn metrics_text(&mut self) -> Result<String, Refusal> {
        let status = self.status(None)?;
        let rollbacks =
            self.runtime.iter().map(|(name, runtime)| (name.clone(), runtime.rollbacks)).collect();
        let gauges = metrics::DaemonGauges { start_time_seconds: self.started, rollbacks };
        Ok(metrics::render(&status, &gauges, self.config.metrics.histograms))
    }

    /// The split as it was set.
    pub(super) fn split(&self, service: &str) -> Split {
        self.runtime.get(service).map_or(Split::NONE, |runtime| runtime.split)
    }
}
