//! Hooks that are told and gates that are asked: in tasks of their own, whose
//! news come back to the daemon's.

use std::time::{Duration, Instant, SystemTime};

use tokio::{sync::mpsc, task::JoinHandle};

use super::{super::state::Daemon, seconds_since_1970};
use crate::{
    api::types::GateStatus,
    config::{
        self, Rollout,
        rollout::{Gate, OnFail, OnMissing, Transition},
    },
    outside::{self, About, Answer},
    rollout::{Event, Gates, Stage},
};

/// News that wait for the daemon.
const QUEUE: usize = 64;

/// What somebody outside answered.
#[derive(Debug)]
pub(in crate::daemon) struct News {
    pub(in crate::daemon) service: String,
    what: What,
}

#[derive(Debug)]
enum What {
    Hook { ticket: u64, result: Result<(), String> },
    Gate { asked: Asking, gate: usize, answer: Answer },
}

/// Which step a question was asked in: an answer to an earlier one is late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Asking {
    rollout: u64,
    step: usize,
}

/// Where news come in.
#[derive(Debug)]
pub(in crate::daemon) struct Inbox {
    sender: mpsc::Sender<News>,
    news: mpsc::Receiver<News>,
}

impl Default for Inbox {
    fn default() -> Self {
        let (sender, news) = mpsc::channel(QUEUE);
        Self { sender, news }
    }
}

impl Inbox {
    pub(in crate::daemon) async fn next(&mut self) -> Option<News> {
        self.news.recv().await
    }
}

/// What is asked on behalf of a service.
#[derive(Debug, Default)]
pub(super) struct Asked {
    gates: Vec<Slot>,
    step: Asking,
    /// The hook that a rollout waits for; ended where it does not any more.
    waited_for: Option<(u64, JoinHandle<()>)>,
    /// The last of those that are only told: each goes after the one before.
    told: Option<JoinHandle<()>>,
}

/// A gate in the present step.
#[derive(Debug, Default)]
struct Slot {
    answer: Option<(Answer, f64)>,
    last: Option<Instant>,
    asking: Option<JoinHandle<()>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(asking) = &self.asking {
            asking.abort();
        }
    }
}

impl Daemon {
    /// What an answer means to the state machine. A gate's is kept for the next
    /// tick; one that says no is not waited with.
    pub(super) fn take_in(&mut self, news: &News) -> Option<Event> {
        match &news.what {
            What::Hook { ticket, result } => {
                Some(Event::Hook { ticket: *ticket, result: result.clone() })
            }
            What::Gate { asked, gate, answer } => {
                let outside = &mut self.trial(&news.service).outside;
                if outside.step != *asked {
                    return None;
                }
                let slot = outside.gates.get_mut(*gate)?;
                slot.answer = Some((answer.clone(), seconds_since_1970()));
                slot.asking = None;
                Some(Event::Tick { elapsed: Duration::ZERO })
            }
        }
    }

    /// Asks the gates that are due, and ends what nobody waits for.
    pub(super) fn watch_outside(&mut self, name: &str, plan: &Rollout) {
        let Some(runtime) = self.runtime.get(name) else { return };
        let (stage, waiting) = (runtime.rollout.stage, runtime.rollout.waiting.clone());
        let step = Asking { rollout: runtime.rollout.id, step: runtime.rollout.step };
        let outside = &mut self.trial(name).outside;
        let still = |ticket| waiting.as_ref().is_some_and(|w| w.ticket == ticket);
        if let Some((_, hook)) = outside.waited_for.take_if(|(ticket, _)| !still(*ticket)) {
            hook.abort();
        }
        if stage != Stage::Baking {
            outside.gates.clear();
            return;
        }
        if outside.step != step || outside.gates.len() != plan.gates.len() {
            outside.step = step;
            outside.gates = plan.gates.iter().map(|_| Slot::default()).collect();
        }
        let due = |slot: &Slot, gate: &Gate| {
            slot.asking.is_none() && slot.last.is_none_or(|last| last.elapsed() >= gate.every)
        };
        let due: Vec<usize> = (0..plan.gates.len())
            .filter(|&index| due(&outside.gates[index], &plan.gates[index]))
            .collect();
        for index in due {
            self.ask_gate(name, step, index, plan.gates[index].clone());
        }
    }

    fn ask_gate(&mut self, name: &str, asked: Asking, index: usize, gate: Gate) {
        let Some(about) = self.about(name) else { return };
        let (sender, service) = (self.inbox.sender.clone(), name.to_owned());
        let asking = tokio::spawn(async move {
            let answer = outside::ask(&gate, &about).await;
            let what = What::Gate { asked, gate: index, answer };
            // A daemon that ends has no use for it.
            sender.send(News { service, what }).await.ok();
        });
        if let Some(slot) = self.trial(name).outside.gates.get_mut(index) {
            slot.last = Some(Instant::now());
            slot.asking = Some(asking);
        }
    }

    /// Tells all hooks of a transition, one after the other. Those before
    /// something are waited for: the first that fails is the answer.
    pub(super) fn run_hooks(
        &mut self,
        service: &config::Service,
        plan: &Rollout,
        transition: Transition,
        ticket: u64,
    ) {
        let name = &service.name;
        let hooks: Vec<_> =
            plan.hooks.iter().filter(|hook| hook.on.contains(&transition)).cloned().collect();
        let Some(about) = self.about(name) else { return };
        let (sender, name) = (self.inbox.sender.clone(), name.clone());
        let outside = &mut self.trial(&name).outside;
        let goes_before = transition.goes_before();
        // Told in the order of what happened; a rollout waits for no other.
        let earlier = outside.told.take_if(|_| !goes_before);
        let telling = tokio::spawn(async move {
            if let Some(earlier) = earlier {
                earlier.await.ok();
            }
            let mut result = Ok(());
            for hook in hooks {
                let told = outside::tell(&hook, transition, &about).await;
                if let Err(error) = told {
                    tracing::warn!("{name}: {error}");
                    if goes_before {
                        result = Err(error.to_string());
                        break;
                    }
                }
            }
            let what = What::Hook { ticket, result };
            sender.send(News { service: name, what }).await.ok();
        });
        if goes_before {
            if let Some((_, former)) = outside.waited_for.replace((ticket, telling)) {
                former.abort();
            }
        } else {
            outside.told = Some(telling);
        }
    }

    /// A rollout as it stands, for those outside.
    fn about(&self, name: &str) -> Option<About> {
        let service = self.config.services.iter().find(|s| s.name == name)?;
        let runtime = self.runtime.get(name)?;
        let state = &runtime.rollout;
        let plan = service.rollout.as_ref()?;
        let addresses =
            |track: &[config::Backend]| track.iter().map(|b| b.address.to_string()).collect();
        let judgement = self.trials.get(name).and_then(|trial| trial.judgement.as_ref());
        let began = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(runtime.began.max(0.0));
        Some(About {
            rollout: format!("{name}-{}", state.id),
            service: name.to_owned(),
            phase: state.phase().name().to_owned(),
            step: if state.stage == Stage::BeforeStart { 0 } else { state.step + 1 },
            steps: plan.steps.len(),
            split: runtime.split.fraction(),
            step_split: plan.steps.get(state.step).map_or(0.0, |step| step.split),
            strategy: plan.strategy,
            reason: state.reason.clone(),
            started_at: began,
            at: SystemTime::now(),
            canary: addresses(&service.canary),
            stable: addresses(&service.stable),
            evidence: serde_json::to_value(judgement).unwrap_or_default(),
        })
    }

    /// All gates of the present step together: the worst counts.
    pub(super) fn gates(&self, service: &config::Service) -> Gates {
        let Some(plan) = &service.rollout else { return Gates::Pass };
        if plan.gates.is_empty() {
            return Gates::Pass;
        }
        let slots = self.trials.get(&service.name).map_or(&[][..], |t| &t.outside.gates[..]);
        let answers = plan.gates.iter().enumerate().map(|(index, gate)| {
            let answer = slots.get(index).and_then(|slot| slot.answer.as_ref());
            standing(gate, answer.map(|(answer, _)| answer))
        });
        answers.max_by_key(rank).unwrap_or(Gates::Pass)
    }

    /// For people and scripts.
    pub(super) fn gate_statuses(&self, service: &config::Service) -> Vec<GateStatus> {
        let Some(plan) = &service.rollout else { return Vec::new() };
        let slots = self.trials.get(&service.name).map_or(&[][..], |t| &t.outside.gates[..]);
        let status = |(index, gate): (usize, &Gate)| {
            let last = slots.get(index).and_then(|slot| slot.answer.as_ref());
            let answer = match last.map(|(answer, _)| answer) {
                None => "not-asked",
                Some(Answer::Pass { .. }) => "pass",
                Some(Answer::Fail { .. }) => "fail",
                Some(Answer::Missing { .. }) => "missing",
            };
            GateStatus {
                name: gate.name.clone(),
                answer: answer.to_owned(),
                detail: last.map_or(String::new(), |(answer, _)| answer.detail().to_owned()),
                at: last.map(|(_, at)| *at),
            }
        };
        plan.gates.iter().enumerate().map(status).collect()
    }
}

/// What one gate's answer means.
fn standing(gate: &Gate, answer: Option<&Answer>) -> Gates {
    let failing = |detail: &str| Gates::Failing {
        reason: format!("gate {} says no: {detail}", gate.name),
        on_fail: gate.on_fail,
    };
    match answer {
        None => Gates::NotAsked,
        Some(Answer::Pass { .. }) => Gates::Pass,
        Some(Answer::Fail { detail }) => failing(detail),
        Some(Answer::Missing { detail }) => match gate.on_missing {
            OnMissing::Pass => Gates::Pass,
            OnMissing::Fail => failing(&format!("no answer: {detail}")),
            OnMissing::Hold => {
                Gates::Missing { reason: format!("gate {} has no answer: {detail}", gate.name) }
            }
        },
    }
}

/// The worse, the higher.
fn rank(gates: &Gates) -> u8 {
    match gates {
        Gates::Pass => 0,
        Gates::NotAsked => 1,
        Gates::Missing { .. } => 2,
        Gates::Failing { on_fail: OnFail::Hold, .. } => 3,
        Gates::Failing { on_fail: OnFail::Rollback, .. } => 4,
    }
}
