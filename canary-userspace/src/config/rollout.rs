//! What the configuration says of rollouts: the steps, what is watched, who is
//! asked besides, and who is told.

use std::time::Duration;

/// How a new version is brought in, `[service.NAME.rollout]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    pub strategy: Strategy,
    /// At least one. Their splits rise.
    pub steps: Vec<Step>,
    /// The longest that all steps together may take; pauses do not count.
    pub deadline: Option<Duration>,
    /// At the deadline, and where a step outlasts its own `at_most`.
    pub on_timeout: OnTimeout,
    pub on_rollback: OnRollback,
    /// How long the old version is kept ready for `undo` after completion.
    pub keep_old: Duration,
    /// Without a sign of life from the daemon for so long, the kernel sends
    /// new flows to stable.
    pub dead_man: Duration,
    /// A daemon that was away for longer does not go on by itself.
    pub max_away: Duration,
    /// Who goes first follows from it; by default another salt each time.
    pub salt: Option<String>,
    pub gates: Vec<Gate>,
    pub hooks: Vec<Hook>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// A share that rises.
    #[default]
    Canary,
    /// Nothing, then everything.
    BlueGreen,
    /// One of stable's backends after the other is drained and replaced.
    Rolling,
    /// One split until a person ends it.
    Ab,
}

impl Strategy {
    pub const NAMES: [(&str, Self); 4] = [
        ("canary", Self::Canary),
        ("blue-green", Self::BlueGreen),
        ("rolling", Self::Rolling),
        ("ab", Self::Ab),
    ];
}

/// A split, and how it ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The canary's share of new connections, a fraction of 1.
    pub split: f64,
    /// At least so long.
    pub lasts: Duration,
    pub until: Until,
    /// What outlasts it ends as `on_timeout` says.
    pub at_most: Option<Duration>,
    /// So many of stable's backends, in the order of the configuration, take
    /// no new flows in this step, and have none left when its split begins.
    pub drained: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Until {
    /// Its time is over, and nothing speaks against the canary.
    #[default]
    Time,
    /// The evidence says that the canary is safe.
    Safe,
    /// A person says so.
    Pause,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnTimeout {
    /// Stays where it is, and says so.
    #[default]
    Hold,
    Rollback,
    /// Goes on to the next step.
    Promote,
}

/// What becomes of the canary's connections when it is taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRollback {
    /// They end by themselves.
    #[default]
    Drain,
    /// Their clients get a RST on their next packet, and connect anew.
    Reset,
}

/// What the controller is to find out, `[service.NAME.evidence]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// The probability with which a canary that is as good as stable is rolled
    /// back over a whole rollout, at most.
    pub alpha: f64,
    /// The probability with which one that is at the limit is found safe.
    pub beta: f64,
    pub refused: Tolerance,
    pub resets: Tolerance,
    pub handshake_timeouts: Tolerance,
    pub http_5xx: Tolerance,
    pub handshake: Slowness,
    pub first_byte: Slowness,
    /// At a split of 100 % there is no stable to compare with: the excess over
    /// its recorded rates that is allowed then, a fraction of 1.
    pub last_margin: f64,
}

/// Of a kind of failure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    pub watched: bool,
    /// Harm is a rate of more than so many times stable's …
    pub ratio: f64,
    /// … and above it by more than this, a fraction of 1.
    pub margin: f64,
    /// Safe is a rate of less than so many times stable's …
    pub safe_ratio: f64,
    /// … or above it by less than this, a fraction of 1.
    pub safe_margin: f64,
}

/// Of a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slowness {
    pub watched: bool,
    /// Harm are times of more than so many times stable's; resolved to quarter
    /// octaves, upwards.
    pub ratio: f64,
    /// Times of up to this are as good as each other.
    pub floor: Duration,
}

/// Somebody outside who is asked again and again whether to go on.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    pub name: String,
    pub asks: GateKind,
    pub every: Duration,
    pub timeout: Duration,
    /// Further tries of a question that got no answer.
    pub retries: u32,
    pub on_fail: OnFail,
    pub on_missing: OnMissing,
}

#[derive(Clone, Debug, PartialEq)]
pub enum GateKind {
    /// An instant query; `{{track}}` stands for `canary` and, where the bound is
    /// relative, for `stable` too.
    Prometheus { url: String, query: String, bound: Bound, relative: bool },
    /// A `POST` of the rollout's state; 2xx is a yes.
    Webhook { url: String },
    /// Gets the rollout's state on standard input; exit code 0 is a yes.
    Command { argv: Vec<String> },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// Fine up to this; of stable's value where it is relative.
    Max(f64),
    /// Fine from this on.
    Min(f64),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFail {
    #[default]
    Rollback,
    Hold,
}

/// No answer, or one without data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMissing {
    #[default]
    Hold,
    Pass,
    Fail,
}

/// Somebody outside who is told of a transition.
#[derive(Clone, Debug, PartialEq)]
pub struct Hook {
    pub name: String,
    pub on: Vec<Transition>,
    pub tells: HookKind,
    pub timeout: Duration,
    pub retries: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub enum HookKind {
    Webhook {
        url: String,
        /// A body as Slack takes it instead of the rollout's state.
        slack: bool,
    },
    Command {
        argv: Vec<String>,
    },
}

/// When hooks are told. Those that begin with "before" are waited for; one that
/// fails holds the rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transition {
    BeforeStart,
    BeforeStep,
    BeforePromotion,
    Start,
    Step,
    Hold,
    Rollback,
    Completion,
    Undo,
}

impl Transition {
    pub const NAMES: [(&str, Self); 9] = [
        ("before-start", Self::BeforeStart),
        ("before-step", Self::BeforeStep),
        ("before-promotion", Self::BeforePromotion),
        ("start", Self::Start),
        ("step", Self::Step),
        ("hold", Self::Hold),
        ("rollback", Self::Rollback),
        ("completion", Self::Completion),
        ("undo", Self::Undo),
    ];

    /// Whether what it is named after waits for it.
    #[must_use]
    pub const fn goes_before(self) -> bool {
        matches!(self, Self::BeforeStart | Self::BeforeStep | Self::BeforePromotion)
    }

    /// As the configuration and the API write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = Self::NAMES.iter().find(|(_, transition)| *transition == self);
        found.map_or("", |(name, _)| name)
    }
}

pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);

impl Rollout {
    /// What `rollout = "auto"` stands for: harm is watched always, and safety
    /// is asked for where it can be had in reasonable time.
    #[must_use]
    pub fn auto() -> Self {
        let step = |percent: f64, minutes: u32, until| Step {
            split: percent / 100.0,
            lasts: MINUTE * minutes,
            until,
            at_most: None,
            drained: 0,
        };
        Self {
            strategy: Strategy::Canary,
            steps: vec![
                step(1.0, 5, Until::Time),
                step(5.0, 10, Until::Time),
                step(25.0, 5, Until::Safe),
                step(50.0, 5, Until::Safe),
                step(100.0, 10, Until::Time),
            ],
            deadline: Some(24 * HOUR),
            on_timeout: OnTimeout::Hold,
            on_rollback: OnRollback::Drain,
            keep_old: HOUR,
            dead_man: Duration::from_secs(10),
            max_away: MINUTE,
            salt: None,
            gates: Vec::new(),
            hooks: Vec::new(),
        }
    }

    /// Everything but the steps as in [`Rollout::auto`]; `stable` is how many
    /// backends stable has, `split` what `ab` keeps.
    #[must_use]
    pub fn preset(strategy: Strategy, stable: usize, split: f64) -> Self {
        let step = |split: f64, minutes: u32, until| Step {
            split,
            lasts: MINUTE * minutes,
            until,
            at_most: None,
            drained: 0,
        };
        let steps = match strategy {
            Strategy::Canary => return Self::auto(),
            Strategy::BlueGreen => {
                vec![step(0.0, 0, Until::Time), step(1.0, 10, Until::Time)]
            }
            Strategy::Rolling => Self::rolling(&vec![1; stable], MINUTE),
            Strategy::Ab => vec![step(split, 0, Until::Pause)],
        };
        let deadline = if strategy == Strategy::Ab { None } else { Some(24 * HOUR) };
        Self { strategy, steps, deadline, ..Self::auto() }
    }

    /// The steps of [`Strategy::Rolling`], one for each of stable's backends
    /// that takes flows: the canary gets the share of those that are drained.
    /// `weights` are stable's, in the order of the configuration.
    #[must_use]
    pub fn rolling(weights: &[u32], lasts: Duration) -> Vec<Step> {
        let total: u64 = weights.iter().copied().map(u64::from).sum();
        let mut gone = 0;
        let takes_flows = weights.iter().enumerate().filter(|(_, weight)| **weight > 0);
        let steps = takes_flows.map(|(at, weight)| {
            gone += u64::from(*weight);
            Step {
                split: gone as f64 / total as f64,
                lasts,
                until: Until::Time,
                at_most: None,
                drained: at + 1,
            }
        });
        steps.collect()
    }
}

impl Evidence {
    /// Whether something is watched that can be found safe: a kind of failure.
    /// Times are only ever found harmful.
    #[must_use]
    pub fn can_find_safe(&self) -> bool {
        [&self.refused, &self.resets, &self.handshake_timeouts, &self.http_5xx]
            .iter()
            .any(|failures| failures.watched)
    }
}

impl Default for Evidence {
    fn default() -> Self {
        let failures = Tolerance {
            watched: true,
            ratio: 1.0,
            margin: 0.0,
            safe_ratio: 2.0,
            safe_margin: 0.001,
        };
        // A version with little traffic has colder caches, which is no fault;
        // nor is what no client would notice, or one pause of a busy host.
        let floor = Duration::from_millis(20);
        let slowness = Slowness { watched: true, ratio: 1.5, floor };
        Self {
            alpha: 0.01,
            beta: 0.05,
            refused: failures,
            resets: failures,
            handshake_timeouts: failures,
            http_5xx: failures,
            handshake: slowness,
            first_byte: slowness,
            last_margin: 0.01,
        }
    }
}
