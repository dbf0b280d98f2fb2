//! In the daemon's place: answers everything, and notes what arrived.

use std::sync::{Arc, Mutex, PoisonError};

use canary::api::{
    request::{Peer, Refusal, Request},
    types::{
        DrainStatus, DrillReport, Explanation, Flows, FollowedFlow, Forecast, History, Reloaded,
        RolloutStatus, Status, Steered, Weight, Where,
    },
};
use tokio::sync::mpsc;

/// What got this far since it was last asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrived {
    pub(super) kinds: Vec<&'static str>,
    pub(super) changes: usize,
    /// What must not arrive at all.
    pub(super) wrong: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct StandIn(Arc<Mutex<Arrived>>);

impl StandIn {
    pub(super) fn take(&self) -> Arrived {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, kind: &'static str, by: Option<&Peer>, wrong: Option<String>) {
        let mut arrived = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        arrived.kinds.push(kind);
        if let Some(by) = by {
            arrived.changes += 1;
            let own = std::process::id().cast_signed();
            if by.pid != Some(own) {
                arrived.wrong = Some(format!("{kind} by {by}, and it is {own}"));
            }
        }
        if wrong.is_some() {
            arrived.wrong = wrong;
        }
    }

    pub(super) async fn serve(self, mut requests: mpsc::Receiver<Request>) {
        while let Some(request) = requests.recv().await {
            match request {
                Request::SetWeight { split, by, reply, service } => {
                    let share = split.fraction();
                    let wrong = (!(0.0..=1.0).contains(&share)).then(|| format!("share {share}"));
                    self.note("set weight", Some(&by), wrong);
                    reply.send(Ok(Weight { service, split: share })).ok();
                }
                Request::SetDrain { by, reply, .. } => {
                    self.note("set drain", Some(&by), None);
                    reply.send(Ok(DrainStatus::default())).ok();
                }
                Request::Rollout { by, reply, .. } => {
                    self.note("rollout", Some(&by), None);
                    reply.send(Ok(RolloutStatus::default())).ok();
                }
                Request::Steer { by, reply, .. } => {
                    self.note("steer", Some(&by), None);
                    reply.send(Ok(Steered::default())).ok();
                }
                Request::StartDrill { by, reply, .. } => {
                    self.note("start drill", Some(&by), None);
                    reply.send(Ok(DrillReport::default())).ok();
                }
                Request::EndDrill { by, reply, .. } => {
                    self.note("end drill", Some(&by), None);
                    reply.send(Ok(DrillReport::default())).ok();
                }
                Request::Reload { by, reply } => {
                    self.note("reload", Some(&by), None);
                    reply.send(Ok(Reloaded::default())).ok();
                }
                Request::Detach { by, reply } => {
                    self.note("detach", Some(&by), None);
                    reply.send(Err(Refusal::conflict("not now"))).ok();
                }
                other => self.tell(other),
            }
        }
    }

    /// What changes nothing.
    fn tell(&self, request: Request) {
        match request {
            Request::Status { service, reply } => {
                self.note("status", None, None);
                let version = service.unwrap_or_default();
                reply.send(Ok(Status { version, ..Status::default() })).ok();
            }
            Request::GetWeight { service, reply } => {
                self.note("weight", None, None);
                reply.send(Ok(Weight { service, split: 0.0 })).ok();
            }
            Request::DrainStatus { target, reply, .. } => {
                self.note("drain", None, None);
                reply.send(Ok(DrainStatus { target, ..DrainStatus::default() })).ok();
            }
            Request::Where { service, reply, .. } => {
                self.note("where", None, None);
                reply.send(Ok(Where { service, ..Where::default() })).ok();
            }
            Request::Flows { limit, reply, .. } => {
                self.note("flows", None, (limit > 100_000).then(|| format!("limit {limit}")));
                reply.send(Ok(Flows::default())).ok();
            }
            Request::Follow { one_in, reply, .. } => {
                self.note("follow", None, (one_in == 0).then(|| "one in none".into()));
                let (sender, events) = mpsc::channel(2);
                sender.try_send(FollowedFlow::default()).ok();
                reply.send(Ok(events)).ok();
            }
            Request::Explain { reply, .. } => {
                self.note("explain", None, None);
                reply.send(Ok(Explanation::default())).ok();
            }
            Request::History { limit, reply, .. } => {
                self.note("history", None, (limit > 100_000).then(|| format!("limit {limit}")));
                reply.send(Ok(History::default())).ok();
            }
            Request::Plan { reply, .. } => {
                self.note("plan", None, None);
                reply.send(Ok(Forecast::default())).ok();
            }
            Request::Steered { reply, .. } => {
                self.note("steered", None, None);
                reply.send(Ok(Steered::default())).ok();
            }
            Request::Drill { reply, .. } => {
                self.note("drill", None, None);
                reply.send(Err(Refusal::not_found("there was no drill"))).ok();
            }
            Request::Metrics { reply } => {
                self.note("metrics", None, None);
                reply.send(Ok("canary_up 1\n".to_owned())).ok();
            }
            _ => self.note("another", None, Some("a change that is not noted".into())),
        }
    }
}
