//! What is judged.

use serde::{Deserialize, Serialize};

use crate::config::{
    Evidence,
    rollout::{Slowness, Tolerance},
};

/// Something of which a canary may have more than stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Metric {
    #[serde(rename = "refused")]
    Refused,
    #[serde(rename = "resets")]
    Resets,
    #[serde(rename = "handshake-timeouts")]
    HandshakeTimeouts,
    #[serde(rename = "5xx")]
    Http5xx,
    #[serde(rename = "handshake")]
    Handshake,
    #[serde(rename = "first-byte")]
    FirstByte,
}

impl Metric {
    /// Of these a connection has one at most.
    pub const FAILURES: [Self; 4] =
        [Self::Refused, Self::Resets, Self::HandshakeTimeouts, Self::Http5xx];
    /// Of these it has a time, or several.
    pub const TIMES: [Self; 2] = [Self::Handshake, Self::FirstByte];

    /// As the configuration writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Resets => "resets",
            Self::HandshakeTimeouts => "handshake-timeouts",
            Self::Http5xx => "5xx",
            Self::Handshake => "handshake",
            Self::FirstByte => "first-byte",
        }
    }

    /// The kinds of failure that are watched, and what is tolerated of each.
    pub(super) fn failures(rules: &Evidence) -> impl Iterator<Item = (Self, &Tolerance)> {
        let rules = [
            (Self::Refused, &rules.refused),
            (Self::Resets, &rules.resets),
            (Self::HandshakeTimeouts, &rules.handshake_timeouts),
            (Self::Http5xx, &rules.http_5xx),
        ];
        rules.into_iter().filter(|(_, tolerance)| tolerance.watched)
    }

    /// The times that are watched, and what is tolerated of each.
    pub(super) fn times(rules: &Evidence) -> impl Iterator<Item = (Self, &Slowness)> {
        let rules = [(Self::Handshake, &rules.handshake), (Self::FirstByte, &rules.first_byte)];
        rules.into_iter().filter(|(_, slowness)| slowness.watched)
    }
}
