//! The keys each table may have, and what to say about one it may not.

use std::ops::Range;

use toml::de::DeTable;

use super::{
    mistakes::Problems,
    suggest::{closest, or_list},
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
        "bpffs",
        "state_dir",
        "metrics",
        "log",
        "timeouts",
        "rollback",
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
        "signals",
    ],
};
pub(super) const BACKEND: Kind =
    Kind { place: "in a backend { … }", keys: &["address", "weight"] };

pub(super) const KINDS: [&Kind; 7] =
    [&TOP, &METRICS, &LOG, &TIMEOUTS, &ROLLBACK, &SERVICE, &BACKEND];

/// Keys that people will look for and that this version does not have.
const NOT_YET: [(&str, &str); 1] = [(
    "rollout",
    "this version has no automatic rollout: remove the key, start with `weight` and \
     raise it with `canary weight`",
)];

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
    let help = if let Some((_, help)) = NOT_YET.iter().find(|(key, _)| *key == name) {
        (*help).to_owned()
    } else if let Some(other) = KINDS.iter().find(|other| other.keys.contains(&name)) {
        format!("`{name}` belongs {}", other.place)
    } else if let Some(meant) = closest(name, kind.keys.iter().copied()) {
        format!("did you mean `{meant}`?")
    } else {
        format!("the keys {} are {}", kind.place, or_list(kind.keys, "`").replace(" or ", " and "))
    };
    problems.add(at, format!("unknown key `{name}`"), help);
}
