//! What the daemon shows.

use std::net::IpAddr;

use canary_common::{ABI, Reason, Split, Track};

use super::{
    books,
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
    config,
    dataplane::DataplaneError,
    metrics,
    plan::protocol_number,
    rollout::Stage,
};

impl Daemon {
    /// All services, or one.
    pub(super) fn status(&mut self, only: Option<&str>) -> Result<Status, Refusal> {
        if let Some(name) = only {
            self.service(name)?;
        }
        let pins = self.pins()?;
        let services = self.config.services.clone();
        let mut shown = Vec::new();
        for service in services.iter().filter(|s| only.is_none_or(|name| s.name == name)) {
            shown.push(self.service_status(service, &pins)?);
        }
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
            active: pins.total,
            overflow: plane.overflow_len(),
        };
        let events_dropped = plane.events_dropped();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            data_plane: DataPlane { attached: self.interfaces(), abi: ABI, flows, events_dropped },
            services: shown,
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
        let last = self.unsaved.clone().into_iter().chain(self.leaving_warning());
        interfaces.chain(unresolved).chain(rolled_back).chain(last).collect()
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

    fn service_status(
        &mut self,
        service: &config::Service,
        pins: &Pins,
    ) -> Result<ServiceStatus, Refusal> {
        let stable = self.in_epoch(service, Track::Stable).map_err(Refusal::internal)?;
        let canary = self.in_epoch(service, Track::Canary).map_err(Refusal::internal)?;
        let born = stable.0.connections + canary.0.connections;
        let mut tracks = Vec::new();
        let mut canary_active = 0;
        for track in Track::ALL {
            let mut shown = Vec::new();
            for backend in backends(service, track) {
                let status = self.backend_status(service, backend, pins)?;
                if track == Track::Canary {
                    canary_active += status.counters.active;
                }
                shown.push(status);
            }
            tracks.push(TrackStatus { name: track.name().to_owned(), backends: shown });
        }
        let configured = self.split(&service.name).fraction();
        let guard = self.guard_status(service);
        Ok(ServiceStatus {
            name: service.name.clone(),
            listen: service.listen.to_string(),
            protocol: service.protocol.name().to_owned(),
            split: SplitStatus {
                configured,
                actual: (born > 0).then(|| canary.0.connections as f64 / born as f64),
                guard: guard.status.clone(),
            },
            guard,
            rollout: self.shown_rollout(service, canary_active),
            tracks,
        })
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
        &mut self,
        service: &config::Service,
        backend: &config::Backend,
        pins: &Pins,
    ) -> Result<BackendStatus, Refusal> {
        let number = self.backend_number(service, backend);
        let active = number.map_or(0, |number| pins.of(number));
        let key = (service.name.clone(), backend.address);
        let total = self.total(&key).map_err(Refusal::internal)?;
        let times = self.times(&key);
        let steered = self.steered_connections(service, backend).map_err(Refusal::internal)?;
        let drained = self.leaving.is_some()
            || self.runtime.get(&service.name).is_some_and(|runtime| {
                runtime.drained.contains(&backend.address)
                    || runtime.retiring.contains(&backend.address)
            });
        let state = match (drained || backend.weight == 0, active) {
            (true, 0) => "drained",
            (true, _) => "draining",
            (false, _) if self.is_unresolved(backend.address.ip()) => "unresolved",
            (false, _) => "active",
        };
        Ok(BackendStatus {
            address: backend.address.to_string(),
            state: state.to_owned(),
            weight: backend.weight,
            counters: Counters { steered, ..books::counters(&total, active) },
            handshake_seconds: Times::of(&times.handshake),
            first_byte_seconds: Times::of(&times.first_byte),
        })
    }

    /// Flows that were steered to a backend, since its cell for them is there.
    fn steered_connections(
        &self,
        service: &config::Service,
        backend: &config::Backend,
    ) -> Result<u64, DataplaneError> {
        let number = self.backend_number(service, backend);
        let record = number.and_then(|number| self.observed.backends.get(&number));
        match record.map_or(0, |record| record.steered_cell) {
            0 => Ok(0),
            cell => Ok(self.lived(cell)?.counts.0.connections),
        }
    }

    fn is_unresolved(&self, address: IpAddr) -> bool {
        self.unresolved.contains_key(&address)
    }

    pub(super) fn service_number(&self, service: &config::Service) -> Option<u16> {
        self.observed.service_number(service.listen, protocol_number(service.protocol))
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
