//! From the file's tree to a draft of the configuration, table by table. Rules
//! that one value breaks by itself are checked here; those between values are
//! in `check`.

use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use canary_common::Signals;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Config, Evidence, Histograms, Log, LogTarget, Metrics, Rollback, Timeouts, XdpMode,
    address::Role,
    field::{Field, field},
    keys::{self, check_unknown},
    mistakes::Problems,
    read_evidence::{Seen, read_evidence},
    read_health,
    read_socket::read_socket,
    service::{DraftService, ForAll, read_services},
};

/// What could be read of a file, with the places that later checks point at.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// Everything but the services.
    pub(super) config: Config,
    pub(super) interfaces: Vec<Spanned<String>>,
    /// Groups of users that this host must have.
    pub(super) groups: Vec<Spanned<String>>,
    pub(super) metrics_listen: Option<Spanned<SocketAddr>>,
    /// In the order of the file.
    pub(super) services: Vec<DraftService>,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Deadlines in the kernel are jiffies in 32 bits, compared by their signed
/// difference: at 1000 a second that holds for 24 days.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=DAY.saturating_mul(7);
const TEXTFILE_INTERVALS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(60 * 60);
const FLOWS: RangeInclusive<u32> = 1024..=8_388_608;
/// `IFNAMSIZ` less the NUL.
const MAX_INTERFACE_NAME: usize = 15;

pub(super) fn read(top: &DeTable<'_>, problems: &mut Problems<'_>) -> Draft {
    check_unknown(top, &keys::TOP, problems);
    let mut config = Config::default();
    let interfaces = read_interfaces(top, problems);
    config.interfaces = interfaces.iter().map(|name| name.get_ref().clone()).collect();
    if let Some(field) = field(top, "xdp_mode") {
        let modes =
            [("auto", XdpMode::Auto), ("native", XdpMode::Native), ("generic", XdpMode::Generic)];
        config.xdp_mode = field.choice(problems, &modes).unwrap_or_default();
    }
    if let Some(field) = field(top, "flows") {
        let flows = field.whole(problems, FLOWS, config.flows);
        config.flows = flows.unwrap_or(config.flows);
    }
    let groups = read_socket(top, &mut config, problems);
    for (key, place) in [("bpffs", &mut config.bpffs), ("state_dir", &mut config.state_dir)] {
        if let Some(field) = field(top, key)
            && let Some(path) = field.path(problems, &place.to_string_lossy())
        {
            *place = path;
        }
    }
    let metrics_listen = read_metrics(top, &mut config.metrics, problems);
    config.log = read_log(top, problems);
    let timeouts = read_timeouts(top, Timeouts::default(), problems);
    let rollback = read_rollback(top, Rollback::default(), problems);
    config.signals = read_signals(top, config.signals, problems);
    let seen = Seen { signals: config.signals, protocol: None };
    let evidence = read_evidence(top, Evidence::default(), seen, problems);
    let health = read_health::read_for_all(top, problems);
    let for_all = ForAll { timeouts, rollback, evidence, health, signals: config.signals };
    let services = read_services(top, &for_all, problems);
    Draft { config, interfaces, groups, metrics_listen, services }
}

/// The list `signals`; all that there may be, where there is none.
pub(super) fn read_signals(table: &DeTable<'_>, most: u16, problems: &mut Problems<'_>) -> u16 {
    let Some(list) = field(table, "signals") else { return most };
    let Some(elements) = list.list(problems, "\"http\"") else { return most };
    let mut signals = 0;
    for element in elements {
        let field = Field { key: "signals", value: element.get_ref(), at: element.span() };
        let signal = field.choice(problems, &Signals::NAMES).unwrap_or(0);
        if signal & !most != 0 {
            problems.add(
                element.span(),
                "the list `signals` at the top of the file leaves this out",
                "write it there too, or leave it out here",
            );
        }
        signals |= signal;
    }
    signals
}

/// The names in `interfaces` that could be read, without a check of the rest.
pub(super) fn read_interfaces(
    top: &DeTable<'_>,
    problems: &mut Problems<'_>,
) -> Vec<Spanned<String>> {
    let Some(list) = field(top, "interfaces") else {
        problems.add_missing(
            "`interfaces` is missing",
            "write interfaces = [\"eth0\"] at the top, with the interfaces that clients and \
             backends are reached by",
        );
        return Vec::new();
    };
    let Some(elements) = list.list(problems, "\"eth0\"") else { return Vec::new() };
    if elements.is_empty() {
        problems.add(
            list.at,
            "`interfaces` is empty",
            "write at least one, for example interfaces = [\"eth0\"]",
        );
    }
    let mut names: Vec<Spanned<String>> = Vec::new();
    for element in elements {
        let field = Field { key: "interfaces", value: element.get_ref(), at: element.span() };
        let DeValue::String(name) = field.value else {
            field.wrong_type(problems, "a name", "write names, for example [\"eth0\"]".to_owned());
            continue;
        };
        if let Some(first) = names.iter().find(|other| other.get_ref() == name) {
            let line = problems.line_of(&first.span());
            let message = format!("interface \"{name}\" stands here twice");
            problems.add(field.at, message, format!("remove it here or on line {line}"));
        } else if !is_interface_name(name) {
            let message = format!("\"{name}\" cannot be an interface's name");
            let help = "write a name as `ip link` shows it: up to 15 characters, no blanks, no /";
            problems.add(field.at, message, help);
        } else {
            names.push(Spanned::new(field.at, name.to_string()));
        }
    }
    names
}

/// As the kernel's `dev_valid_name`.
fn is_interface_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.len() <= MAX_INTERFACE_NAME
        && !name.contains(|c: char| c.is_whitespace() || matches!(c, '/' | ':' | '\0'))
}

fn read_metrics(
    top: &DeTable<'_>,
    metrics: &mut Metrics,
    problems: &mut Problems<'_>,
) -> Option<Spanned<SocketAddr>> {
    let table = field(top, "metrics")?.table(problems)?;
    check_unknown(table, &keys::METRICS, problems);
    let mut listen = None;
    if let Some(field) = field(table, "listen") {
        if matches!(field.value, DeValue::String(text) if text == "off") {
            metrics.listen = None;
        } else if let Some(address) = field.address(problems, Role::Metrics) {
            metrics.listen = Some(address);
            listen = Some(Spanned::new(field.at, address));
        }
    }
    if let Some(field) = field(table, "textfile") {
        metrics.textfile = read_textfile(&field, problems);
    }
    if let Some(field) = field(table, "textfile_interval") {
        let interval = field.duration(problems, TEXTFILE_INTERVALS);
        metrics.textfile_interval = interval.unwrap_or(metrics.textfile_interval);
    }
    if let Some(field) = field(table, "histograms") {
        let choices = [("full", Histograms::Full), ("coarse", Histograms::Coarse)];
        metrics.histograms = field.choice(problems, &choices).unwrap_or_default();
    }
    listen
}

fn read_textfile(field: &Field<'_, '_>, problems: &mut Problems<'_>) -> Option<PathBuf> {
    let path = field.path(problems, "/var/lib/node_exporter/canary.prom")?;
    if path.extension().is_none_or(|extension| extension != "prom") {
        problems.add(
            field.at.clone(),
            "`textfile` does not end in .prom",
            "node_exporter reads no other files: write for example \
             \"/var/lib/node_exporter/canary.prom\"",
        );
        return None;
    }
    Some(path)
}

fn read_log(top: &DeTable<'_>, problems: &mut Problems<'_>) -> Log {
    let mut log = Log::default();
    let Some(table) = field(top, "log").and_then(|field| field.table(problems)) else {
        return log;
    };
    check_unknown(table, &keys::LOG, problems);
    if let Some(field) = field(table, "target") {
        let targets = [("stderr", LogTarget::Stderr), ("journald", LogTarget::Journald)];
        log.target = field.choice(problems, &targets).unwrap_or_default();
    }
    if let Some(field) = field(table, "data_plane") {
        log.data_plane = field.boolean(problems).unwrap_or_default();
    }
    log
}

/// The `timeouts` table inside `parent`, over what holds without it.
pub(super) fn read_timeouts(
    parent: &DeTable<'_>,
    base: Timeouts,
    problems: &mut Problems<'_>,
) -> Timeouts {
    let mut timeouts = base;
    let Some(table) = field(parent, "timeouts").and_then(|field| field.table(problems)) else {
        return timeouts;
    };
    check_unknown(table, &keys::TIMEOUTS, problems);
    let places = [
        ("half_open", &mut timeouts.half_open),
        ("established", &mut timeouts.established),
        ("closing", &mut timeouts.closing),
        ("unanswered", &mut timeouts.unanswered),
        ("answered", &mut timeouts.answered),
    ];
    let mut all_read = true;
    for (key, place) in places {
        let Some(field) = field(table, key) else { continue };
        match field.duration(problems, TIMEOUTS) {
            Some(duration) => *place = duration,
            None => all_read = false,
        }
    }
    if !all_read {
        return timeouts;
    }
    // A flow must not lose time by getting further.
    for (early, late, wrong) in [
        ("half_open", "established", timeouts.half_open > timeouts.established),
        ("unanswered", "answered", timeouts.unanswered > timeouts.answered),
    ] {
        if wrong && let Some(field) = field(table, early).or_else(|| field(table, late)) {
            problems.add(
                field.at,
                format!("`{early}` is longer than `{late}`"),
                format!("write {early} no longer than {late}"),
            );
        }
    }
    timeouts
}

/// The `rollback` table inside `parent`, over what holds without it.
pub(super) fn read_rollback(
    parent: &DeTable<'_>,
    base: Rollback,
    problems: &mut Problems<'_>,
) -> Rollback {
    let mut rollback = base;
    let Some(table) = field(parent, "rollback").and_then(|field| field.table(problems)) else {
        return rollback;
    };
    check_unknown(table, &keys::ROLLBACK, problems);
    if let Some(field) = field(table, "enabled") {
        rollback.enabled = field.boolean(problems).unwrap_or(base.enabled);
    }
    if let Some(field) = field(table, "max_excess") {
        rollback.max_excess = field.share(problems).unwrap_or(base.max_excess);
    }
    if let Some(field) = field(table, "min_connections")
        && let Some(count) = field.whole(problems, 1..=1_000_000, 20)
    {
        rollback.min_connections = u64::from(count);
    }
    rollback
}
