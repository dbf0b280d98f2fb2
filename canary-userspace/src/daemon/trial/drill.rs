//! Rehearsal: the program makes flows of the canary fail, or a copy of the
//! judge is told that they did; then it is seen whether that is found.

use std::time::{Duration, Instant};

use canary_common::{Cidr, FaultKind, Split, Track};

use super::super::state::Daemon;
use crate::{
    api::{
        request::{Peer, Refusal},
        types::{Drill, DrillReport},
    },
    config,
    dataplane::{DataplaneError, FaultOrder},
    judge::{self, Seen, TrackCounts, Verdict},
    rollout::How,
};

/// A drill, from its start on.
#[derive(Debug)]
pub(super) struct Rehearsal {
    drill: Drill,
    began: Instant,
    lasts: Duration,
    /// Connections and failures of each version at its beginning.
    before: [Sums; 2],
    /// Rollbacks of the service until then.
    rollbacks: u64,
    report: DrillReport,
}

impl Rehearsal {
    pub(super) const fn is_under_way(&self) -> bool {
        !self.report.over
    }
}

/// By version, over all epochs.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    connections: u64,
    failures: u64,
}

const LONGEST: Duration = Duration::from_secs(60 * 60);

fn kind(fault: &str) -> Result<FaultKind, Refusal> {
    FaultKind::ALL.into_iter().find(|kind| kind.name() == fault).ok_or_else(|| {
        let names: Vec<&str> = FaultKind::ALL.into_iter().map(FaultKind::name).collect();
        Refusal::bad_request(format!("{fault:?} is no fault; there are {}", names.join(", ")))
    })
}

/// What the drill asks for, if it can be had.
fn checked(service: &config::Service, drill: &Drill) -> Result<FaultOrder, Refusal> {
    let bad = |what: String| Err(Refusal::bad_request(what));
    if !(drill.share > 0.0 && drill.share <= 1.0) {
        return bad(format!("a share of {} cannot be drilled; write 0.1% to 100%", drill.share));
    }
    let lasts = Duration::try_from_secs_f64(drill.lasts).unwrap_or(Duration::ZERO);
    if lasts < Duration::from_secs(1) || lasts > LONGEST {
        return bad("a drill lasts from 1s to 1h".to_owned());
    }
    let kind = kind(&drill.fault)?;
    if service.protocol == config::Protocol::Udp {
        return bad(format!("{} is UDP: only TCP connections can be drilled", service.name));
    }
    let clients: Option<Cidr> = drill
        .clients
        .as_deref()
        .map(|text| text.parse().map_err(|e| Refusal::bad_request(format!("{e}"))))
        .transpose()?;
    if let Some(clients) = clients
        && clients.address().is_ipv4() != service.listen.is_ipv4()
    {
        return bad(format!("{clients} has no clients of {}", service.listen));
    }
    Ok(FaultOrder { kind, share: drill.share, clients, lasts })
}

/// What such a failure counts as.
const fn count_of(counts: &mut TrackCounts, kind: FaultKind) -> &mut u64 {
    match kind {
        FaultKind::Reset => &mut counts.resets,
        FaultKind::Refuse => &mut counts.refused,
        FaultKind::Drop => &mut counts.handshake_timeouts,
        FaultKind::Http5xx => &mut counts.http_5xx,
    }
}

impl Daemon {
    pub(in crate::daemon) fn start_drill(
        &mut self,
        name: &str,
        drill: Drill,
        by: &Peer,
    ) -> Result<DrillReport, Refusal> {
        let service = self.service(name)?;
        let fault = checked(&service, &drill)?;
        if self.trial(name).drill.as_ref().is_some_and(|running| !running.report.over) {
            return Err(Refusal::conflict(format!(
                "a drill of {name} is under way; wait for it, or end it: canary drill {name} --stop"
            )));
        }
        if self.split(name) == Split::NONE {
            return Err(Refusal::conflict(format!(
                "the canary of {name} gets no new connections, so none could fail; start a \
                 rollout, or set a split: canary weight {name} 5%"
            )));
        }
        let before = self.sums(&service).map_err(Refusal::internal)?;
        if !drill.dry {
            let number = self.service_number(&service);
            let number = number.ok_or_else(|| Refusal::internal("the service has no number"))?;
            let plane = self.plane().map_err(Refusal::internal)?;
            plane.set_fault(number, Some(&fault)).map_err(Refusal::internal)?;
        }
        self.note_change(name, "drill", &format!("drill of {} begun", drill.fault), by);
        let report = DrillReport {
            service: name.to_owned(),
            drill: drill.clone(),
            ..DrillReport::default()
        };
        let rollbacks = self.runtime.get(name).map_or(0, |runtime| runtime.rollbacks);
        self.trial(name).drill = Some(Rehearsal {
            drill,
            began: Instant::now(),
            lasts: fault.lasts,
            before,
            rollbacks,
            report: report.clone(),
        });
        Ok(report)
    }

    pub(in crate::daemon) fn end_drill(
        &mut self,
        name: &str,
        by: &Peer,
    ) -> Result<DrillReport, Refusal> {
        let service = self.service(name)?;
        self.watch_drill(&service);
        self.finish_drill(&service, &format!("ended by {by}"));
        self.drill_report(name)
    }

    pub(in crate::daemon) fn drill_report(&mut self, name: &str) -> Result<DrillReport, Refusal> {
        self.service(name)?;
        let drill = self.trial(name).drill.as_ref();
        drill.map(|drill| drill.report.clone()).ok_or_else(|| {
            Refusal::not_found(format!(
                "there was no drill of {name} since the daemon started; see canary drill --help"
            ))
        })
    }

    /// Each tick.
    pub(super) fn watch_drill(&mut self, service: &config::Service) {
        if let Err(error) = self.try_to_watch_drill(service) {
            tracing::error!("{}: watching the drill: {error}", service.name);
        }
    }

    fn try_to_watch_drill(&mut self, service: &config::Service) -> Result<(), DataplaneError> {
        let name = &service.name;
        let Some(running) = self.trial(name).drill.as_ref().filter(|d| !d.report.over) else {
            return Ok(());
        };
        let (drill, before, rollbacks) = (running.drill.clone(), running.before, running.rollbacks);
        let (elapsed, lasts) = (running.began.elapsed(), running.lasts);
        let now = self.sums(service)?;
        let since = |track: Track| Sums {
            connections: now[track as usize]
                .connections
                .saturating_sub(before[track as usize].connections),
            failures: now[track as usize].failures.saturating_sub(before[track as usize].failures),
        };
        let (stable, canary) = (since(Track::Stable), since(Track::Canary));
        let faulted = match drill.dry {
            true => (canary.connections as f64 * drill.share) as u64,
            false => {
                let number = self.service_number(service);
                let fault = self.plane.as_ref().zip(number).map(|(plane, n)| plane.fault(n));
                fault.transpose()?.flatten().map_or(0, |fault| fault.faulted)
            }
        };
        let found = match drill.dry {
            true => self.found_dry(service, &drill, faulted)?,
            false => self.found(service, rollbacks),
        };
        if let Some(running) = &mut self.trial(name).drill {
            let report = &mut running.report;
            report.elapsed = elapsed.as_secs_f64();
            report.faulted = faulted;
            report.connections = stable.connections + canary.connections;
            report.canary_connections = canary.connections;
            report.stable_failures = stable.failures;
            if let Some(by) = found.as_ref().filter(|_| !report.detected) {
                report.detected = true;
                report.by.clone_from(by);
                report.detected_after = Some(report.elapsed);
                report.detected_connections = Some(report.connections);
            }
        }
        if found.is_some() {
            self.finish_drill(service, "");
        } else if elapsed >= lasts {
            self.finish_drill(service, "its time was over");
        }
        Ok(())
    }

    /// Who took the canary out, if anybody did.
    fn found(&self, service: &config::Service, rollbacks: u64) -> Option<String> {
        let runtime = self.runtime.get(&service.name)?;
        if runtime.rollbacks <= rollbacks {
            return None;
        }
        let ended = runtime.rollout.ended.as_ref().filter(|ended| ended.how == How::RolledBack);
        let reason =
            ended.map(|ended| ended.reason.clone()).or_else(|| runtime.rolled_back.clone());
        let first = match self.guard_state(service).spent_at {
            None => "the daemon",
            Some(_) => "the kernel's guard, then the daemon",
        };
        Some(format!("{first}: {}", reason.unwrap_or_default()))
    }

    /// What the judge would say had those failed.
    fn found_dry(
        &self,
        service: &config::Service,
        drill: &Drill,
        faulted: u64,
    ) -> Result<Option<String>, DataplaneError> {
        let mut seen: Seen = self.seen(service)?;
        if let (Some(epoch), Ok(kind)) = (seen.epochs.last_mut(), kind(&drill.fault)) {
            let most = epoch.canary.connections;
            let count = count_of(&mut epoch.canary, kind);
            *count = (*count + faulted).min(most);
        }
        let judgement = judge::judge(&seen, &self.rules_of(service));
        let harm = matches!(judgement.verdict, Verdict::Harm { .. });
        Ok(harm.then(|| judgement.reason()))
    }

    fn finish_drill(&mut self, service: &config::Service, why: &str) {
        if let Some(number) = self.service_number(service)
            && let Some(plane) = &mut self.plane
            && let Err(error) = plane.set_fault(number, None)
        {
            // It ends by itself.
            tracing::error!("{}: ending the drill: {error}", service.name);
        }
        if let Some(running) = &mut self.trial(&service.name).drill
            && !running.report.over
        {
            running.report.over = true;
            if !running.report.detected {
                running.report.by = why.to_owned();
            }
            tracing::warn!(
                "{}: drill over, {}: {}",
                service.name,
                if running.report.detected { "detected" } else { "not detected" },
                running.report.by
            );
        }
    }

    /// Stable and canary since the data plane was made.
    fn sums(&self, service: &config::Service) -> Result<[Sums; 2], DataplaneError> {
        let mut sums = [Sums::default(); 2];
        for track in Track::ALL {
            let counts = self.counted(service, track)?;
            sums[track as usize] = Sums {
                connections: counts.connections,
                failures: counts.refused
                    + counts.resets
                    + counts.handshake_timeouts
                    + counts.http_5xx,
            };
        }
        Ok(sums)
    }
}
