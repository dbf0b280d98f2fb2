//! What the controller relies on of rollouts and evidence.

use std::{collections::BTreeSet, time::Duration};

use canary::config::{
    Evidence, Protocol, Rollout, Service,
    rollout::{Bound, Gate, GateKind, HookKind, Step, Strategy, Until},
};
use canary_common::Signals;

/// What is wrong with a service that was taken.
pub(super) fn wrong(service: &Service) -> Option<&'static str> {
    wrong_evidence(service).or_else(|| wrong_rollout(service, service.rollout.as_ref()?))
}

fn wrong_evidence(service: &Service) -> Option<&'static str> {
    let Evidence { refused, resets, handshake_timeouts, http_5xx, handshake, first_byte, .. } =
        service.evidence;
    let failures = [refused, resets, handshake_timeouts, http_5xx];
    let off = |signal| service.signals & signal == 0;
    let udp = service.protocol == Protocol::Udp;
    if !(1e-6..=0.2).contains(&service.evidence.alpha)
        || !(1e-6..=0.2).contains(&service.evidence.beta)
        || !(0.0..=1.0).contains(&service.evidence.last_margin)
    {
        return Some("levels that are none");
    }
    if failures.iter().any(|of| {
        !(1.0..=100.0).contains(&of.ratio)
            || !(1.0..=100.0).contains(&of.safe_ratio)
            || !(0.0..=1.0).contains(&of.margin)
            || !(0.0..=1.0).contains(&of.safe_margin)
            || (of.safe_ratio <= 1.0 && of.safe_margin <= 0.0)
    }) || [handshake, first_byte].iter().any(|of| !(1.0..=100.0).contains(&of.ratio))
    {
        return Some("a tolerance that is none");
    }
    if (udp && (failures.iter().any(|of| of.watched) || handshake.watched))
        || (off(Signals::HTTP) && http_5xx.watched)
        || (off(Signals::LATENCY) && (handshake.watched || first_byte.watched))
    {
        return Some("something watched that is not seen");
    }
    None
}

fn wrong_rollout(service: &Service, rollout: &Rollout) -> Option<&'static str> {
    let steps = &rollout.steps;
    let least: Duration = steps.iter().map(|step| step.lasts).sum();
    let names = rollout.gates.iter().map(|gate| &gate.name);
    let names: Vec<_> = names.chain(rollout.hooks.iter().map(|hook| &hook.name)).collect();
    let wrong = if !service.canary.iter().any(|backend| backend.weight > 0) {
        "a rollout of nothing"
    } else if service.weight > 0.0 {
        "a weight beside a rollout"
    } else if steps.is_empty() || steps.len() > 100 {
        "a count of steps that is none"
    } else if steps.windows(2).any(|pair| pair[0].split >= pair[1].split) {
        "splits that do not rise"
    } else if steps.iter().any(|step| !is_step(step, service)) {
        "a step that cannot end"
    } else if rollout.deadline.is_some_and(|deadline| deadline < least) {
        "a deadline that cannot be kept"
    } else if rollout.gates.len() > 20 || rollout.hooks.len() > 20 {
        "too many outside"
    } else if names.iter().collect::<BTreeSet<_>>().len() != names.len() {
        "a name twice"
    } else if !rollout.gates.iter().all(is_gate) {
        "a gate that cannot be asked"
    } else if rollout.hooks.iter().any(|hook| {
        hook.on.is_empty()
            || match &hook.tells {
                HookKind::Webhook { url, .. } => !is_url(url),
                HookKind::Command { argv } => !is_command(argv),
            }
    }) {
        "a hook that cannot be told"
    } else {
        return None;
    };
    Some(wrong)
}

fn is_step(step: &Step, service: &Service) -> bool {
    let compares = step.split > 0.0 && step.split < 1.0 && service.evidence.can_find_safe();
    (0.0..=1.0).contains(&step.split)
        && (step.until != Until::Safe || compares)
        && step.at_most.is_none_or(|most| most >= step.lasts)
        && step.drained <= service.stable.len()
}

fn is_gate(gate: &Gate) -> bool {
    let asks = match &gate.asks {
        GateKind::Prometheus { url, query, bound: Bound::Max(of) | Bound::Min(of), relative } => {
            let named = query.contains("{{track}}") && *of > 0.0;
            is_url(url) && of.is_finite() && !query.is_empty() && (!relative || named)
        }
        GateKind::Webhook { url } => is_url(url),
        GateKind::Command { argv } => is_command(argv),
    };
    asks && gate.every >= Duration::from_secs(1) && gate.timeout >= Duration::from_secs(1)
}

fn is_url(url: &str) -> bool {
    let lower = url.to_ascii_lowercase();
    let rest = lower.strip_prefix("http://").or_else(|| lower.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
}

fn is_command(argv: &[String]) -> bool {
    argv.first().is_some_and(|program| program.starts_with('/'))
        && argv.iter().all(|part| !part.contains('\0'))
}

/// What makes one rollout another kind than the next.
pub(super) fn shape(rollout: &Rollout) -> impl std::hash::Hash + use<> {
    let strategy = Strategy::NAMES.iter().position(|(_, of)| *of == rollout.strategy);
    let asks: BTreeSet<u8> = rollout.gates.iter().map(|gate| kind(&gate.asks)).collect();
    (
        strategy,
        rollout.steps.len().min(4),
        rollout.steps.iter().any(|step| step.until == Until::Safe),
        asks,
        rollout.hooks.len().min(2),
        (rollout.deadline.is_some(), rollout.salt.is_some()),
    )
}

fn kind(asks: &GateKind) -> u8 {
    match asks {
        GateKind::Prometheus { relative, .. } => u8::from(*relative),
        GateKind::Webhook { .. } => 2,
        GateKind::Command { .. } => 3,
    }
}

pub(super) fn watched(evidence: &Evidence) -> [bool; 6] {
    let Evidence { refused, resets, handshake_timeouts, http_5xx, handshake, first_byte, .. } =
        evidence;
    let [a, b, c, d] = [refused, resets, handshake_timeouts, http_5xx].map(|of| of.watched);
    [a, b, c, d, handshake.watched, first_byte.watched]
}
