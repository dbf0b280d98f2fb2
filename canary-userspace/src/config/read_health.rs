//! Backends' health: `[health]`, `[service.NAME.health]`, and that of a track.

use std::{ops::RangeInclusive, time::Duration};

use canary_common::Track;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Protocol,
    field::{Field, field, integer, time_or},
    health::{CheckKind, Eject, Health, Initial, StatusRange},
    keys::{self, check_unknown},
    mistakes::Problems,
    reach::read_command,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=HOUR;
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(10)..=SECOND.saturating_mul(60);
const JITTERS: RangeInclusive<f64> = 0.0..=0.5;
const TIMES: RangeInclusive<u32> = 1..=100;
const GONE: RangeInclusive<Duration> = SECOND..=DAY;
const WINDOWS: RangeInclusive<Duration> = SECOND..=SECOND.saturating_mul(600);
const BASES: RangeInclusive<Duration> = SECOND..=HOUR;
const LONGEST: RangeInclusive<Duration> = SECOND..=DAY;
const MANY: RangeInclusive<u32> = 1..=1_000_000;

const CHECKS: [(&str, Option<CheckKind>); 5] = [
    ("tcp", Some(CheckKind::Tcp)),
    ("http", Some(CheckKind::Http)),
    ("https", Some(CheckKind::Https)),
    ("command", Some(CheckKind::Command)),
    ("none", None),
];
/// Keys that only some checks have.
const OF_HTTP: [&str; 4] = ["path", "host", "status", "body"];
const OF_SOME: [&str; 7] = ["path", "host", "status", "body", "verify", "command", "port"];

/// What holds for all services that say nothing else.
pub(super) fn read_for_all(top: &DeTable<'_>, problems: &mut Problems<'_>) -> Health {
    let base = Health::default();
    let Some(table) = table_of(top, problems) else { return base };
    check_unknown(table, &keys::HEALTH, problems);
    read_level(table, base, problems)
}

/// Of a service's tracks, over what holds for all.
pub(super) fn read_health(
    service: &DeTable<'_>,
    base: &Health,
    protocol: Option<Protocol>,
    problems: &mut Problems<'_>,
) -> [Health; 2] {
    let mut base = base.clone();
    let udp = protocol == Some(Protocol::Udp);
    // A datagram that nobody answers is no failure.
    base.eject.enabled &= !udp;
    let Some(table) = table_of(service, problems) else { return [base.clone(), base] };
    check_unknown(table, &keys::SERVICE_HEALTH, problems);
    refuse_eject(table, udp, problems);
    let own = read_level(table, base, problems);
    let tracks = Track::ALL.map(|track| {
        let own = own.clone();
        let Some(field) = field(table, track.name()) else { return own };
        let Some(table) = field.table(problems) else { return own };
        check_unknown(table, &keys::TRACK_HEALTH, problems);
        refuse_eject(table, udp, problems);
        read_level(table, own, problems)
    });
    if tracks.iter().all(|health| health.check.is_none()) {
        for key in OF_SOME {
            let Some(field) = field(table, key) else { continue };
            let message = format!("`{key}` without a `check`, so nothing is asked");
            problems.add(field.at, message, "write check = \"http\", or another, beside it");
        }
    }
    tracks
}

fn table_of<'a, 't>(
    parent: &'a DeTable<'t>,
    problems: &mut Problems<'_>,
) -> Option<&'a DeTable<'t>> {
    field(parent, "health")?.table(problems)
}

/// One table's keys over what the one above it says.
fn read_level(table: &DeTable<'_>, base: Health, problems: &mut Problems<'_>) -> Health {
    let mut health = base;
    if let Some(field) = field(table, "check") {
        health.check = field.choice(problems, &CHECKS).unwrap_or(health.check);
    }
    read_asked(table, &mut health, problems);
    health.interval = time_or(health.interval, table, "interval", INTERVALS, problems);
    health.timeout = time_or(health.timeout, table, "timeout", TIMEOUTS, problems);
    if let Some(field) = field(table, "jitter") {
        health.jitter = field.share_between(problems, JITTERS, "10%").unwrap_or(health.jitter);
    }
    for (key, place, example) in [("rise", &mut health.rise, 2), ("fall", &mut health.fall, 3)] {
        if let Some(field) = field(table, key) {
            *place = field.whole(problems, TIMES, example).unwrap_or(*place);
        }
    }
    if let Some(field) = field(table, "initial") {
        let choices = [("up", Initial::Up), ("down", Initial::Down)];
        health.initial = field.choice(problems, &choices).unwrap_or(health.initial);
    }
    if let Some(field) = field(table, "gone_after") {
        health.gone_after = match field.value {
            DeValue::String(text) if text == "never" => None,
            _ => field.duration(problems, GONE).or(health.gone_after),
        };
    }
    health.eject = read_eject(table, health.eject, problems);
    check_level(table, &health, problems);
    health
}

/// What a check asks, and what a good answer is.
fn read_asked(table: &DeTable<'_>, health: &mut Health, problems: &mut Problems<'_>) {
    if let Some(field) = field(table, "port") {
        let port = field.whole(problems, 1..=u32::from(u16::MAX), 8081);
        health.port = port.and_then(|port| u16::try_from(port).ok()).or(health.port);
    }
    if let Some(field) = field(table, "path")
        && let Some(path) = read_path(&field, problems)
    {
        health.http.path = path;
    }
    if let Some(field) = field(table, "host")
        && let Some(host) = read_host(&field, problems)
    {
        health.http.host = Some(host);
    }
    if let Some(field) = field(table, "status")
        && let Some(status) = read_status(&field, problems)
    {
        health.http.status = status;
    }
    if let Some(field) = field(table, "body")
        && let Some(body) = field.string(problems, "ok")
    {
        if body.is_empty() {
            problems.add(field.at, "`body` is empty, which any body contains", "leave it out");
        }
        health.http.body = Some(body.to_owned());
    }
    if let Some(field) = field(table, "verify") {
        health.http.verify = field.boolean(problems).unwrap_or(health.http.verify);
    }
    if let Some(field) = field(table, "command")
        && let Some(command) = read_command(&field, problems)
    {
        health.command = command;
    }
}

fn read_path(field: &Field<'_, '_>, problems: &mut Problems<'_>) -> Option<String> {
    let path = field.string(problems, "/healthz")?;
    let is_one = path.starts_with('/') && path.parse::<hyper::Uri>().is_ok();
    if !is_one {
        let message = format!("`path`: \"{path}\" is no path of a URL");
        let help = "write it from the first / on, percent-encoded: \"/healthz\"";
        problems.add(field.at.clone(), message, help);
    }
    is_one.then(|| path.to_owned())
}

/// As a `Host` header has it, with or without a port.
fn read_host(field: &Field<'_, '_>, problems: &mut Problems<'_>) -> Option<String> {
    let host = field.string(problems, "www.example.com")?;
    let authority = host.parse::<hyper::http::uri::Authority>();
    let is_one = authority.is_ok_and(|a| !a.host().is_empty()) && !host.contains('@');
    if !is_one {
        let message = format!("`host`: \"{host}\" is no host");
        problems.add(field.at.clone(), message, "write a name, for example \"www.example.com\"");
    }
    is_one.then(|| host.to_owned())
}

fn read_status(field: &Field<'_, '_>, problems: &mut Problems<'_>) -> Option<Vec<StatusRange>> {
    let elements = field.list(problems, "\"200-299\"")?;
    if elements.is_empty() {
        let help = "write at least one: status = [200, \"300-399\"]";
        problems.add(field.at.clone(), "`status` is empty, so no answer is good", help);
    }
    let ranges = elements.iter().filter_map(|element| {
        let range = status_range(element);
        if range.is_none() {
            let help = "write numbers from 100 to 599, or ranges of them: [200, \"300-399\"]";
            problems.add(element.span(), "not a status, or a range of them", help);
        }
        range
    });
    Some(ranges.collect())
}

fn status_range(element: &Spanned<DeValue<'_>>) -> Option<StatusRange> {
    let (first, last) = match element.get_ref() {
        DeValue::Integer(number) => {
            let number = u16::try_from(integer(number)?).ok()?;
            (number, number)
        }
        DeValue::String(text) => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            (first.trim().parse().ok()?, last.trim().parse().ok()?)
        }
        _ => return None,
    };
    (100 <= first && first <= last && last <= 599).then_some(StatusRange(first, last))
}

/// The `eject` table; one that is there switches it on, unless it says no.
fn read_eject(parent: &DeTable<'_>, base: Eject, problems: &mut Problems<'_>) -> Eject {
    let mut eject = base;
    let Some(table) = field(parent, "eject").and_then(|field| field.table(problems)) else {
        return eject;
    };
    check_unknown(table, &keys::EJECT, problems);
    eject.enabled = true;
    if let Some(field) = field(table, "enabled") {
        eject.enabled = field.boolean(problems).unwrap_or(base.enabled);
    }
    for (key, place, example) in [
        ("consecutive", &mut eject.consecutive, 5),
        ("min_connections", &mut eject.min_connections, 20),
    ] {
        if let Some(field) = field(table, key) {
            *place = field.whole(problems, MANY, example).unwrap_or(*place);
        }
    }
    for (key, place) in [("share", &mut eject.share), ("most", &mut eject.most)] {
        if let Some(field) = field(table, key) {
            *place = field.share_between(problems, 0.01..=1.0, "50%").unwrap_or(*place);
        }
    }
    eject.window = time_or(eject.window, table, "window", WINDOWS, problems);
    eject.base = time_or(eject.base, table, "base", BASES, problems);
    eject.longest = time_or(eject.longest, table, "longest", LONGEST, problems);
    if eject.longest < eject.base
        && let Some(field) = field(table, "base").or_else(|| field(table, "longest"))
    {
        let help = "write base no longer than longest";
        problems.add(field.at, "`base` is longer than `longest`", help);
    }
    eject
}

/// The kernel counts no failures of datagrams.
fn refuse_eject(table: &DeTable<'_>, udp: bool, problems: &mut Problems<'_>) {
    if udp && let Some(field) = field(table, "eject") {
        let help = "remove it: refused connections and handshakes are TCP's; a `check` can watch \
                    a UDP server";
        problems.add(field.at, "`eject` in a UDP service", help);
    }
}

/// Rules between the values of one table and those above it.
fn check_level(table: &DeTable<'_>, health: &Health, problems: &mut Problems<'_>) {
    let Some(check) = health.check else { return };
    let mut refuse = |keys: &[&str], only: &str| {
        for key in keys {
            let Some(field) = field(table, key) else { continue };
            let message = format!("`{key}` beside check = \"{}\"", check.name());
            problems.add(field.at, message, format!("remove it; only {only} has it"));
        }
    };
    if !check.is_http() {
        refuse(&OF_HTTP, "check = \"http\" or \"https\"");
    }
    if check != CheckKind::Https {
        refuse(&["verify"], "check = \"https\"");
    }
    if check != CheckKind::Command {
        refuse(&["command"], "check = \"command\"");
    } else {
        refuse(&["port"], "a check that connects");
    }
    if check == CheckKind::Command
        && health.command.is_empty()
        && field(table, "command").is_none()
        && let Some(field) = field(table, "check")
    {
        let help = "write command = [\"/usr/local/bin/is-well\"] beside it";
        problems.add(field.at, "check = \"command\" without a `command`", help);
    }
    if health.timeout > health.interval
        && let Some(field) = field(table, "timeout").or_else(|| field(table, "interval"))
    {
        let message = "`timeout` is longer than `interval`";
        problems.add(field.at, message, "write timeout no longer than interval");
    }
}
