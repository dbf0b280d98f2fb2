//! The keys each table may have, and what to say about one it may not.

use std::ops::Range;

use toml::de::DeTable;

use super::{
    mistakes::Problems,
    suggest::{closest, or_list, slip},
};

/// One kind of table.
#[derive(Debug)]
pub(super) struct Kind {
    /// How its place in the file is called.
    pub(super) place: &'static str,
    pub(super) keys: &'static [&'static str],
}

pub(super) const TOP: Kind = Kind {
    place: "at the top of the file, before the first [table]",
    keys: &[
        "interfaces",
        "xdp_mode",
        "flows",
        "socket",
        "socket_group",
        "socket_mode",
        "read_group",
        "bpffs",
        "state_dir",
        "metrics",
        "log",
        "timeouts",
        "rollback",
        "evidence",
        "health",
        "signals",
        "service",
    ],
};
pub(super) const METRICS: Kind = Kind {
    place: "in [metrics]",
    keys: &["listen", "textfile", "textfile_interval", "histograms"],
};
pub(super) const LOG: Kind = Kind { place: "in [log]", keys: &["target", "data_plane"] };
pub(super) const TIMEOUTS: Kind = Kind {
    place: "in [timeouts] or [service.NAME.timeouts]",
    keys: &["half_open", "established", "closing", "unanswered", "answered"],
};
pub(super) const ROLLBACK: Kind = Kind {
    place: "in [rollback] or [service.NAME.rollback]",
    keys: &["enabled", "max_excess", "min_connections"],
};
pub(super) const SERVICE: Kind = Kind {
    place: "in [service.NAME]",
    keys: &[
        "listen",
        "protocol",
        "forward",
        "stable",
        "canary",
        "weight",
        "affinity",
        "seed",
        "table_size",
        "timeouts",
        "rollback",
        "rollout",
        "evidence",
        "health",
        "steer",
        "signals",
    ],
};
pub(super) const STEER: Kind =
    Kind { place: "in [service.NAME.steer]", keys: &["canary", "always", "stable"] };
pub(super) const BACKEND: Kind =
    Kind { place: "in a backend { … }", keys: &["address", "weight"] };

pub(super) const ROLLOUT: Kind = Kind {
    place: "in [service.NAME.rollout]",
    keys: &[
        "strategy",
        "split",
        "for",
        "steps",
        "deadline",
        "on_timeout",
        "on_rollback",
        "keep_old",
        "dead_man",
        "max_away",
        "salt",
        "gates",
        "hooks",
    ],
};
pub(super) const STEP: Kind =
    Kind { place: "in a step { … }", keys: &["split", "for", "until", "at_most"] };
pub(super) const GATE: Kind = Kind {
    place: "in [[service.NAME.rollout.gates]]",
    keys: &[
        "name",
        "prometheus",
        "query",
        "max",
        "min",
        "relative",
        "webhook",
        "command",
        "every",
        "timeout",
        "retries",
        "on_fail",
        "on_missing",
    ],
};
pub(super) const HOOK: Kind = Kind {
    place: "in [[service.NAME.rollout.hooks]]",
    keys: &["name", "on", "webhook", "slack", "command", "timeout", "retries"],
};
pub(super) const EVIDENCE: Kind = Kind {
    place: "in [evidence] or [service.NAME.evidence]",
    keys: &[
        "alpha",
        "beta",
        "watch",
        "ratio",
        "margin",
        "safe_ratio",
        "safe_margin",
        "slower",
        "floor",
        "last_margin",
        "refused",
        "resets",
        "handshake-timeouts",
        "5xx",
        "handshake",
        "first-byte",
    ],
};
pub(super) const FAILURES: Kind = Kind {
    place: "in the table of a kind of failure, as [evidence.resets]",
    keys: &["ratio", "margin", "safe_ratio", "safe_margin"],
};
pub(super) const TIMES: Kind =
    Kind { place: "in the table of a time, as [evidence.handshake]", keys: &["slower", "floor"] };

/// What a track's table has, and the tables above it too.
macro_rules! health_keys {
    ($($more:literal),*) => {
        &[
            "check",
            "port",
            "path",
            "host",
            "status",
            "body",
            "verify",
            "command",
            "interval",
            "timeout",
            "jitter",
            "rise",
            "fall",
            "initial",
            "gone_after",
            "eject",
            $($more),*
        ]
    };
}
pub(super) const HEALTH: Kind = Kind { place: "in [health]", keys: health_keys!() };
pub(super) const SERVICE_HEALTH: Kind =
    Kind { place: "in [service.NAME.health]", keys: health_keys!("stable", "canary") };
pub(super) const TRACK_HEALTH: Kind = Kind {
    place: "in [service.NAME.health.stable] or [service.NAME.health.canary]",
    keys: health_keys!(),
};
pub(super) const EJECT: Kind = Kind {
    place: "in a table `eject` of [health] or [service.NAME.health]",
    keys: &[
        "enabled",
        "consecutive",
        "share",
        "min_connections",
        "window",
        "base",
        "longest",
        "most",
    ],
};

pub(super) const KINDS: [&Kind; 19] = [
    &TOP,
    &METRICS,
    &LOG,
    &TIMEOUTS,
    &ROLLBACK,
    &SERVICE,
    &BACKEND,
    &ROLLOUT,
    &STEP,
    &GATE,
    &HOOK,
    &EVIDENCE,
    &FAILURES,
    &TIMES,
    &STEER,
    &HEALTH,
    &SERVICE_HEALTH,
    &TRACK_HEALTH,
    &EJECT,
];

/// Keys that people know from elsewhere, and what they are called here.
const ELSEWHERE: [(&Kind, &str, &str); 7] = [
    (&STEP, "weight", "split"),
    (&STEP, "setWeight", "split"),
    (&STEP, "duration", "for"),
    (&GATE, "interval", "every"),
    (&HEALTH, "every", "interval"),
    (&SERVICE_HEALTH, "every", "interval"),
    (&TRACK_HEALTH, "every", "interval"),
];

/// Every key of `table` that its kind does not have.
pub(super) fn check_unknown(table: &DeTable<'_>, kind: &Kind, problems: &mut Problems<'_>) {
    for key in table.keys() {
        let name: &str = key.get_ref();
        if !kind.keys.contains(&name) {
            unknown(name, key.span(), kind, problems);
        }
    }
}

fn unknown(name: &str, at: Range<usize>, kind: &Kind, problems: &mut Problems<'_>) {
    let elsewhere = ELSEWHERE
        .iter()
        .find(|(here, key, _)| here.place == kind.place && *key == name)
        .map(|(.., meant)| *meant);
    let help = if let Some(meant) = elsewhere.or_else(|| slip(name, kind.keys.iter().copied())) {
        format!("did you mean `{meant}`?")
    } else if let Some(other) = KINDS.iter().find(|other| other.keys.contains(&name)) {
        format!("`{name}` belongs {}", other.place)
    } else if let Some(meant) = closest(name, kind.keys.iter().copied()) {
        format!("did you mean `{meant}`?")
    } else {
        format!("the keys {} are {}", kind.place, or_list(kind.keys, "`").replace(" or ", " and "))
    };
    problems.add(at, format!("unknown key `{name}`"), help);
}
