//! What operators ask.

use std::net::{IpAddr, SocketAddr};

use canary_common::{Address, Reason, Split, Track, WeightTable, WhereAnswer};

use tokio::sync::mpsc;

use super::{
    Flow,
    follow::Wanted,
    state::{Daemon, backends},
};
use crate::{
    api::{
        request::{FlowFilter, Peer, Refusal, Request},
        types::{DrainStatus, FlowInfo, Flows, FollowedFlow, Weight, Where},
    },
    config::{self, Affinity},
    rollout::{Command, Event},
};

/// Why a new flow gets its track.
fn chosen(answer: &WhereAnswer, split: Split, hash: f64, track: Track) -> String {
    let name = track.name();
    let steered = Track::ALL.into_iter().find(|track| answer.steered == 1 + *track as u32);
    if let Some(steered) = steered {
        let other = match answer.guarded {
            1 => ", but the guard keeps new flows from the canary: stable",
            _ if steered != track => ", but it has no backend for new flows: the other track",
            _ => "",
        };
        return format!("its client is steered to {}{other}", steered.name());
    }
    let wanted = split.takes(answer.split_hash);
    let side = if wanted { "below" } else { "not below" };
    let other = match (wanted, track) {
        (true, Track::Stable) if answer.guarded == 1 => {
            " (the guard keeps new flows from the canary)"
        }
        (true, Track::Stable) => " (the canary has no backend for new flows)",
        (false, Track::Canary) => " (stable has no backend for new flows)",
        _ => "",
    };
    format!("its hash {hash:.6} is {side} the split {:.6}, so {name}{other}", split.fraction())
}

/// As it was asked for: without what a split's own steps, of 2^-32, add to it.
fn percent(split: Split) -> String {
    format!("{} %", (split.fraction() * 1e9).round() / 1e7)
}

impl Daemon {
    pub(super) async fn handle(&mut self, request: Request) -> Flow {
        // Whoever does not wait for the answer gets none.
        match request {
            Request::Status { service, reply } => {
                reply.send(self.status(service.as_deref())).ok();
            }
            Request::GetWeight { service, reply } => {
                reply.send(self.weight(&service)).ok();
            }
            Request::SetWeight { service, split, by, reply } => {
                reply.send(self.set_weight(&service, split, &by)).ok();
            }
            Request::SetDrain { service, target, drain, by, reply } => {
                reply.send(self.set_drain(&service, &target, drain, &by)).ok();
            }
            Request::DrainStatus { service, target, reply } => {
                reply.send(self.drain_status(&service, &target)).ok();
            }
            Request::Where { service, client, port, reply } => {
                reply.send(self.where_to(&service, client, port)).ok();
            }
            Request::Flows { service, filter, limit, reply } => {
                reply.send(self.flows(&service, &filter, limit)).ok();
            }
            Request::Follow { service, filter, one_in, reply } => {
                reply.send(self.follow_flows(&service, filter, one_in)).ok();
            }
            Request::Rollout { service, command, by, reply } => {
                reply.send(self.command(&service, &command, &by)).ok();
            }
            Request::Explain { service, reply } => {
                reply.send(self.explanation(&service)).ok();
            }
            Request::History { service, limit, reply } => {
                reply.send(self.history(&service, limit)).ok();
            }
            Request::Plan { service, reply } => {
                reply.send(self.forecast(&service)).ok();
            }
            Request::Steer { service, steer, by, reply } => {
                reply.send(self.steer(&service, &steer, &by)).ok();
            }
            Request::Steered { service, limit, reply } => {
                reply.send(self.steered(&service, limit)).ok();
            }
            Request::StartDrill { service, drill, by, reply } => {
                reply.send(self.start_drill(&service, drill, &by)).ok();
            }
            Request::EndDrill { service, by, reply } => {
                reply.send(self.end_drill(&service, &by)).ok();
            }
            Request::Drill { service, reply } => {
                reply.send(self.drill_report(&service)).ok();
            }
            Request::Reload { by, reply } => {
                tracing::info!("reload asked for by {by}");
                let former = self.config.services.clone();
                let reloaded = self.reload().await;
                self.note_reload(&former, &by);
                reply.send(reloaded).ok();
            }
            Request::Metrics { reply } => {
                reply.send(self.metrics_text()).ok();
            }
            Request::DetachDrain { drain, waits, by, reply } => {
                reply.send(self.detach_drain(drain, waits, &by)).ok();
            }
            Request::Detach { by, reply } => {
                tracing::info!("detach asked for by {by}");
                let removed = self.detach();
                let gone = removed.is_ok();
                if gone {
                    let all = self.config.services.iter();
                    all.for_each(|s| self.note_change(&s.name, "detach", "detached", &by));
                }
                reply.send(removed).ok();
                if gone {
                    return Flow::Stop;
                }
            }
        }
        Flow::GoOn
    }

    fn weight(&self, service: &str) -> Result<Weight, Refusal> {
        let service = self.service(service)?.name;
        Ok(Weight { split: self.split(&service).fraction(), service })
    }

    fn set_weight(&mut self, name: &str, split: Split, by: &Peer) -> Result<Weight, Refusal> {
        let service = self.service(name)?;
        if split > Split::NONE && !self.has_usable(&service, Track::Canary) {
            return Err(Refusal::conflict(format!(
                "{name} has no canary backend that takes new connections; add one, or undo a drain"
            )));
        }
        self.drive(&service, &Event::Command(Command::SetWeight, by.to_string()))?;
        let before = self.runtime.get(name).cloned();
        let runtime = self.runtime.entry(name.to_owned()).or_default();
        if runtime.split == Split::NONE {
            // A new trial.
            runtime.ledger.begin();
        }
        runtime.split = split;
        runtime.rolled_back = None;
        self.commit(name, before)?;
        self.trial(name).judgement = None;
        self.guard_by_hand(&service);
        self.note_change(name, "weight", &format!("split set to {}", percent(split)), by);
        self.weight(name)
    }

    /// Applies a change of `name`'s runtime, or takes it back.
    fn commit(&mut self, name: &str, before: Option<super::state::Runtime>) -> Result<(), Refusal> {
        if let Err(error) = self.apply_to(name) {
            if let Some(before) = before {
                self.runtime.insert(name.to_owned(), before);
            }
            self.restore();
            return Err(Refusal::internal(format!("{error:#}; going back to what was")));
        }
        self.save();
        Ok(())
    }

    fn has_usable(&self, service: &config::Service, track: Track) -> bool {
        let drained = self.runtime.get(&service.name).map(|runtime| &runtime.drained);
        backends(service, track).iter().any(|backend| {
            backend.weight > 0 && drained.is_none_or(|d| !d.contains(&backend.address))
        })
    }

    /// The backends that `stable`, `canary` or an address names.
    fn targets(&self, name: &str, target: &str) -> Result<Vec<SocketAddr>, Refusal> {
        let service = self.service(name)?;
        if let Some(track) = Track::ALL.into_iter().find(|track| track.name() == target) {
            return Ok(backends(&service, track).iter().map(|backend| backend.address).collect());
        }
        let all: Vec<_> = service.stable.iter().chain(&service.canary).map(|b| b.address).collect();
        let address = target.parse().ok().filter(|address| all.contains(address));
        address.map(|address| vec![address]).ok_or_else(|| {
            let known: Vec<_> = all.iter().map(ToString::to_string).collect();
            Refusal::not_found(format!(
                "{name} has no backend {target:?}; write stable, canary, or one of {}",
                known.join(", ")
            ))
        })
    }

    fn set_drain(
        &mut self,
        name: &str,
        target: &str,
        drain: bool,
        by: &Peer,
    ) -> Result<DrainStatus, Refusal> {
        let targets = self.targets(name, target)?;
        let service = self.service(name)?;
        let before = self.runtime.get(name).cloned();
        let runtime = self.runtime.entry(name.to_owned()).or_default();
        for address in &targets {
            if drain {
                runtime.drained.insert(*address);
            } else {
                runtime.drained.remove(address);
            }
        }
        let keep = self.has_usable(&service, Track::Stable);
        if drain && !keep {
            if let Some(before) = before {
                self.runtime.insert(name.to_owned(), before);
            }
            return Err(Refusal::conflict(format!(
                "that would leave {name} without a stable backend for new connections; add one first"
            )));
        }
        self.commit(name, before)?;
        let (event, verb) =
            if drain { ("drain", "drained") } else { ("undrain", "taken back into use") };
        self.note_change(name, event, &format!("{target} {verb}"), by);
        self.drain_status(name, target)
    }

    fn drain_status(&mut self, name: &str, target: &str) -> Result<DrainStatus, Refusal> {
        let targets = self.targets(name, target)?;
        let service = self.service(name)?;
        let pins = self.pins()?;
        let active = service
            .stable
            .iter()
            .chain(&service.canary)
            .filter(|backend| targets.contains(&backend.address))
            .filter_map(|backend| self.backend_number(&service, backend))
            .map(|number| pins.of(number))
            .sum();
        Ok(DrainStatus {
            service: name.to_owned(),
            target: target.to_owned(),
            backends: targets.iter().map(ToString::to_string).collect(),
            active,
        })
    }

    fn where_to(
        &mut self,
        name: &str,
        client: IpAddr,
        port: Option<u16>,
    ) -> Result<Where, Refusal> {
        let service = self.service(name)?;
        if client.is_ipv4() != service.listen.is_ipv4() {
            return Err(Refusal::bad_request(format!(
                "{client} cannot be a client of {}, which is of the other address family",
                service.listen
            )));
        }
        let port = match (port, service.affinity) {
            (Some(port), _) => port,
            // Any will do.
            (None, Affinity::Client) => 0,
            (None, Affinity::Flow) => {
                return Err(Refusal::bad_request(format!(
                    "{name} decides by connection: add the client's port, as {}",
                    SocketAddr::new(client, 4711)
                )));
            }
        };
        let udp = service.protocol == config::Protocol::Udp;
        let client = SocketAddr::new(client, port);
        let plane = self.plane().map_err(Refusal::internal)?;
        let answer = plane.ask_where(service.listen, udp, client).map_err(Refusal::internal)?;
        Ok(self.explain(&service, client, &answer))
    }

    fn explain(
        &self,
        service: &config::Service,
        client: SocketAddr,
        answer: &WhereAnswer,
    ) -> Where {
        let split = WeightTable::unpack(answer.weights).split;
        let hash = f64::from(answer.split_hash) / canary_common::MAX_SPLIT as f64;
        let backend = self.backend_by_number(service, answer.backend as u16);
        let why = match (&backend, answer.pinned) {
            (Some((_, address)), 1) => {
                let state = canary_common::FlowState::from_bits(answer.state as u8).name();
                format!("pinned to {address} since its first packet ({state})")
            }
            (Some((track, address)), _) => {
                let slot = answer.slot;
                format!(
                    "a new flow: {}; slot {slot} of that track's table is {address}",
                    chosen(answer, split, hash, *track)
                )
            }
            (None, _) if answer.reason == Reason::Collision as u32 => {
                "every candidate backend serves this client address and port for another service"
                    .to_owned()
            }
            (None, _) => "no track has a backend for new flows".to_owned(),
        };
        Where {
            service: service.name.clone(),
            client: client.to_string(),
            track: backend.as_ref().map(|(track, _)| track.name().to_owned()),
            backend: backend.map(|(_, address)| address.to_string()),
            pinned: answer.pinned == 1,
            hash,
            split: split.fraction(),
            why,
        }
    }

    fn backend_by_number(
        &self,
        service: &config::Service,
        number: u16,
    ) -> Option<(Track, SocketAddr)> {
        Track::ALL.into_iter().find_map(|track| {
            let mut all = backends(service, track).iter();
            all.find(|backend| self.backend_number(service, backend) == Some(number))
                .map(|backend| (track, backend.address))
        })
    }

    fn flows(&mut self, name: &str, filter: &FlowFilter, limit: usize) -> Result<Flows, Refusal> {
        let service = self.service(name)?;
        let wanted = self.wanted(&service, filter)?;
        let number = self.service_number(&service);
        let plane = self.plane().map_err(Refusal::internal)?;
        let (table, hz) = (plane.flow_table(), plane.hz());
        let now = plane.now().map_err(Refusal::internal)?;
        let mut flows = Flows::default();
        table.scan(now, 0..table.buckets(), &mut |flow| {
            let Some((_, track, address)) = wanted.iter().find(|(n, ..)| *n == flow.backend) else {
                return;
            };
            if Some(flow.key.service) != number {
                return;
            }
            flows.total += 1;
            if flows.flows.len() >= limit {
                return;
            }
            let client = IpAddr::from(Address { ..flow.key.client });
            let left = flow.deadline.wrapping_sub(now);
            flows.flows.push(FlowInfo {
                client: SocketAddr::new(client, u16::from_be(flow.key.client_port_be)).to_string(),
                track: track.name().to_owned(),
                backend: address.to_string(),
                state: flow.ctl.state().name().to_owned(),
                expires_in: f64::from(left) / f64::from(hz),
                midstream: flow.ctl.has(canary_common::FlowFlags::MIDSTREAM),
            });
        });
        Ok(flows)
    }

    fn follow_flows(
        &mut self,
        name: &str,
        filter: FlowFilter,
        one_in: u32,
    ) -> Result<mpsc::Receiver<FollowedFlow>, Refusal> {
        let numbers = self.followed(name, &filter)?;
        let events = self.followers.add(name, filter, one_in, numbers);
        self.tell_who_follows();
        Ok(events)
    }

    /// The numbers that a listener's events have.
    fn followed(&self, name: &str, filter: &FlowFilter) -> Result<(u16, Wanted), Refusal> {
        let service = self.service(name)?;
        let number = self.service_number(&service);
        let number = number.ok_or_else(|| Refusal::internal("the service has no number"))?;
        Ok((number, self.wanted(&service, filter)?))
    }

    /// Once numbers may have changed.
    pub(super) fn renew_followers(&mut self) {
        if self.followers.is_empty() {
            return;
        }
        let filters = self.followers.filters();
        let numbers =
            filters.iter().map(|(name, filter)| self.followed(name, filter).ok()).collect();
        self.followers.renew(numbers);
    }

    /// The program tells of flows only while somebody follows.
    pub(super) fn tell_who_follows(&mut self) {
        let one_in = self.followers.one_in();
        if let Some(plane) = &mut self.plane {
            plane.follow(one_in);
        }
    }

    /// Backends by number that a filter lets through.
    fn wanted(&self, service: &config::Service, filter: &FlowFilter) -> Result<Wanted, Refusal> {
        let by_track = filter.track.as_deref().map(|t| self.targets(&service.name, t));
        let by_track = by_track.transpose()?;
        let by_backend = filter.backend.as_deref().map(|b| self.targets(&service.name, b));
        let by_backend = by_backend.transpose()?;
        let lets = |list: &Option<Vec<SocketAddr>>, address: &SocketAddr| {
            list.as_ref().is_none_or(|list| list.contains(address))
        };
        let mut wanted = Vec::new();
        for track in Track::ALL {
            for backend in backends(service, track) {
                let address = backend.address;
                if lets(&by_track, &address)
                    && lets(&by_backend, &address)
                    && let Some(number) = self.backend_number(service, backend)
                {
                    wanted.push((number, track, address));
                }
            }
        }
        Ok(wanted)
    }

    fn detach(&mut self) -> Result<Vec<String>, Refusal> {
        let plane = self.plane.take().ok_or_else(|| Refusal::conflict("already detached"))?;
        plane.remove_all().map_err(Refusal::internal)
    }
}
