//! Asks gates and tells hooks: Prometheus, webhooks and commands. What they get
//! and what their answers mean is in docs/hooks.md. Asks backends whether they
//! are well (`probe`).
//!
//! Nothing here knows of the daemon's state. A future that is dropped ends what
//! it began: its connection is closed, its command's process group is killed.

mod about;
mod command;
mod http;
mod probe;
mod prometheus;
mod slack;
mod tls;
mod tries;
mod webhook;
mod words;

#[cfg(test)]
mod tests;

use crate::config::rollout::{Gate, GateKind, Hook, HookKind, Transition};

pub use self::{
    about::About,
    http::{Target, UrlError},
    probe::{Probe, Probed},
    prometheus::{names_track, substitute},
};
use about::{Body, Sender};
use tries::{NoAnswer, Tried, persist};

/// What a gate said. The details are words for people, with the numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Pass {
        detail: String,
    },
    Fail {
        detail: String,
    },
    /// No answer after all tries, or one without the data asked for.
    Missing {
        detail: String,
    },
}

impl Answer {
    #[must_use]
    pub fn detail(&self) -> &str {
        match self {
            Self::Pass { detail } | Self::Fail { detail } | Self::Missing { detail } => detail,
        }
    }

    fn missing(detail: impl Into<String>) -> Self {
        Self::Missing { detail: detail.into() }
    }
}

/// A hook that was not told.
#[derive(Debug, thiserror::Error)]
pub enum OutsideError {
    /// It said no. Of those "before" something this is an answer.
    #[error("hook {hook} refused {}: {detail}", transition.name())]
    Refused { hook: String, transition: Transition, detail: String },
    #[error("hook {hook} could not be told of {}: {detail}", transition.name())]
    NoAnswer { hook: String, transition: Transition, detail: String },
}

/// Asks a gate, as often as it takes and its `retries` allow.
///
/// Takes no longer than `(retries + 1) × (timeout + 1 s)`: each try ends at
/// `timeout`, and between two there is a pause of a second at most.
pub async fn ask(gate: &Gate, about: &About) -> Answer {
    let body = Body::new(Sender::Gate(&gate.name), None, about);
    let (timeout, retries) = (gate.timeout, gate.retries);
    let answer = match &gate.asks {
        GateKind::Prometheus { url, query, bound, relative } => {
            let question = prometheus::Question { url, query, bound: *bound, relative: *relative };
            persist(timeout, retries, || question.ask(timeout)).await
        }
        GateKind::Webhook { url } => {
            let json = body.json();
            persist(timeout, retries, || webhook::ask(url, &json, timeout)).await
        }
        GateKind::Command { argv } => {
            let (json, environment) = (body.json(), body.environment());
            persist(timeout, retries, || command::ask(argv, &environment, &json)).await
        }
    };
    answer.unwrap_or_else(|NoAnswer(detail)| Answer::Missing { detail })
}

/// Tells a hook of a transition; gives the words it answered with. Takes no
/// longer than [`ask`].
///
/// # Errors
/// It refused, or could not be told in all its tries.
pub async fn tell(
    hook: &Hook,
    transition: Transition,
    about: &About,
) -> Result<String, OutsideError> {
    let body = Body::new(Sender::Hook(&hook.name), Some(transition), about);
    let (timeout, retries) = (hook.timeout, hook.retries);
    let answer = match &hook.tells {
        HookKind::Webhook { url, slack } => {
            let json = if *slack { slack::message(transition, about) } else { body.json() };
            persist(timeout, retries, || webhook::ask(url, &json, timeout)).await
        }
        HookKind::Command { argv } => {
            let (json, environment) = (body.json(), body.environment());
            persist(timeout, retries, || command::ask(argv, &environment, &json)).await
        }
    };
    let hook = hook.name.clone();
    match answer {
        Ok(Answer::Pass { detail }) => Ok(detail),
        Ok(Answer::Fail { detail }) => Err(OutsideError::Refused { hook, transition, detail }),
        Ok(Answer::Missing { detail }) | Err(NoAnswer(detail)) => {
            Err(OutsideError::NoAnswer { hook, transition, detail })
        }
    }
}
