//! What the controller is to find out: `[evidence]` and `[service.NAME.evidence]`.

use std::{ops::RangeInclusive, time::Duration};

use canary_common::Signals;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Evidence, Protocol,
    field::{Field, field},
    keys::{self, check_unknown},
    mistakes::Problems,
    rollout::{Slowness, Tolerance},
};

/// Chances of a wrong verdict, fractions of 1.
const LEVELS: RangeInclusive<f64> = 0.0001 / 100.0..=20.0 / 100.0;
const RATIOS: RangeInclusive<f64> = 1.0..=100.0;
const FLOORS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);

/// Something that can be watched, and what it is read from.
#[derive(Clone, Copy, Debug)]
struct Watchable {
    name: &'static str,
    /// One of [`Signals`], 0 for what is always counted.
    signal: u16,
    udp: bool,
}

const FAILURES: [Watchable; 4] = [
    Watchable { name: "refused", signal: 0, udp: false },
    Watchable { name: "resets", signal: 0, udp: false },
    Watchable { name: "handshake-timeouts", signal: 0, udp: false },
    Watchable { name: "5xx", signal: Signals::HTTP, udp: false },
];
const TIMES: [Watchable; 2] = [
    Watchable { name: "handshake", signal: Signals::LATENCY, udp: false },
    Watchable { name: "first-byte", signal: Signals::LATENCY, udp: true },
];

fn failures(evidence: &mut Evidence) -> [(Watchable, &mut Tolerance); 4] {
    let [refused, resets, timeouts, http] = FAILURES;
    [
        (refused, &mut evidence.refused),
        (resets, &mut evidence.resets),
        (timeouts, &mut evidence.handshake_timeouts),
        (http, &mut evidence.http_5xx),
    ]
}

fn times(evidence: &mut Evidence) -> [(Watchable, &mut Slowness); 2] {
    let [handshake, first_byte] = TIMES;
    [(handshake, &mut evidence.handshake), (first_byte, &mut evidence.first_byte)]
}

fn watched(evidence: &mut Evidence) -> Vec<(Watchable, &mut bool)> {
    let Evidence { refused, resets, handshake_timeouts, http_5xx, handshake, first_byte, .. } =
        evidence;
    let failures = [refused, resets, handshake_timeouts, http_5xx].map(|of| &mut of.watched);
    let times = [handshake, first_byte].map(|of| &mut of.watched);
    let flags = failures.into_iter().chain(times);
    FAILURES.into_iter().chain(TIMES).zip(flags).collect()
}

/// What packets are read for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// [`Signals`] that are on.
    pub(super) signals: u16,
    /// `None` where it may be either.
    pub(super) protocol: Option<Protocol>,
}

impl Seen {
    /// Why it can't be watched, and what to do about it.
    fn lacks(self, what: Watchable) -> Option<(String, String)> {
        let Watchable { name, signal, udp } = what;
        if self.protocol == Some(Protocol::Udp) && !udp {
            return Some((
                format!("\"{name}\" cannot be seen of a UDP service"),
                "remove it; of UDP there is \"first-byte\" only".to_owned(),
            ));
        }
        if signal & !self.signals == 0 {
            return None;
        }
        let found = Signals::NAMES.iter().find(|(_, bit)| *bit == signal);
        let signal = found.map_or("", |(signal, _)| signal);
        Some((
            format!("\"{name}\" is read from the signal \"{signal}\", which is off here"),
            format!("write \"{signal}\" in `signals`, or leave this out"),
        ))
    }
}

/// The `evidence` table inside `parent`, over what holds without it. What is
/// not seen is not watched, and a mistake where this table says it should be.
pub(super) fn read_evidence(
    parent: &DeTable<'_>,
    base: Evidence,
    seen: Seen,
    problems: &mut Problems<'_>,
) -> Evidence {
    let mut evidence = base;
    let table = field(parent, "evidence").and_then(|field| field.table(problems));
    if let Some(table) = table {
        check_unknown(table, &keys::EVIDENCE, problems);
        if let Some(list) = field(table, "watch") {
            read_watch(&list, &mut evidence, seen, problems);
        }
        read_levels(table, &mut evidence, problems);
        read_failures(table, &mut evidence, seen, problems);
        read_slowness(table, &mut evidence, seen, problems);
    }
    for (what, watched) in watched(&mut evidence) {
        *watched &= seen.lacks(what).is_none();
    }
    evidence
}

fn read_watch(
    list: &Field<'_, '_>,
    evidence: &mut Evidence,
    seen: Seen,
    problems: &mut Problems<'_>,
) {
    let Some(elements) = list.list(problems, "\"resets\"") else { return };
    let names: Vec<(&str, &str)> =
        FAILURES.iter().chain(&TIMES).map(|what| (what.name, what.name)).collect();
    let mut wanted = Vec::new();
    for element in elements {
        let field = Field { key: "watch", value: element.get_ref(), at: element.span() };
        let name = field.choice(problems, &names);
        wanted.extend(name.map(|name| Spanned::new(field.at, name)));
    }
    for (what, watched) in watched(evidence) {
        let mut written = wanted.iter().filter(|wanted| *wanted.get_ref() == what.name);
        let first = written.next();
        *watched = first.is_some();
        if let Some(at) = first
            && let Some((message, help)) = seen.lacks(what)
        {
            problems.add(at.span(), message, help);
        }
    }
}

fn read_levels(table: &DeTable<'_>, evidence: &mut Evidence, problems: &mut Problems<'_>) {
    let places = [("alpha", "1%", &mut evidence.alpha), ("beta", "5%", &mut evidence.beta)];
    for (key, example, place) in places {
        let Some(field) = field(table, key) else { continue };
        // Everybody but this file writes 0.01 for 1 %.
        if let DeValue::Float(number) = field.value
            && number.as_str().parse().is_ok_and(|number: f64| number < 1.0)
        {
            let message = format!("`{key}` is {number} without a unit, which reads as a fraction");
            let help = format!("write it in percent, as a string: \"{example}\"");
            problems.add(field.at, message, help);
        } else if let Some(level) = field.share_between(problems, LEVELS, example) {
            *place = level;
        }
    }
    if let Some(field) = field(table, "last_margin") {
        evidence.last_margin = field.share(problems).unwrap_or(evidence.last_margin);
    }
}

/// What a table says of failures.
#[derive(Clone, Copy, Debug)]
struct Said {
    ratio: Option<f64>,
    margin: Option<f64>,
    safe_ratio: Option<f64>,
    safe_margin: Option<f64>,
}

impl Said {
    fn read(table: &DeTable<'_>, problems: &mut Problems<'_>) -> Self {
        let mut ratio = |key: &str, example| {
            field(table, key).and_then(|field| field.number(problems, RATIOS, example))
        };
        let (harm, safe) = (ratio("ratio", 1.0), ratio("safe_ratio", 2.0));
        let mut margin = |key: &str| field(table, key).and_then(|field| field.share(problems));
        Self {
            ratio: harm,
            margin: margin("margin"),
            safe_ratio: safe,
            safe_margin: margin("safe_margin"),
        }
    }

    fn put(self, over: &mut Tolerance) {
        over.ratio = self.ratio.unwrap_or(over.ratio);
        over.margin = self.margin.unwrap_or(over.margin);
        over.safe_ratio = self.safe_ratio.unwrap_or(over.safe_ratio);
        over.safe_margin = self.safe_margin.unwrap_or(over.safe_margin);
    }
}

/// The keys for all kinds, then each kind's own table over them.
fn read_failures(
    table: &DeTable<'_>,
    evidence: &mut Evidence,
    seen: Seen,
    problems: &mut Problems<'_>,
) {
    let for_all = Said::read(table, problems);
    let mut unreachable = None;
    for (what, tolerance) in failures(evidence) {
        for_all.put(tolerance);
        let own = own_table(table, what, "ratio", seen, problems);
        if let Some(own) = own {
            check_unknown(own, &keys::FAILURES, problems);
            Said::read(own, problems).put(tolerance);
        }
        if tolerance.safe_ratio <= 1.0 && tolerance.safe_margin <= 0.0 {
            // The nearer table first: it is what made it so.
            let tables = own.into_iter().chain([table]);
            let mut written = tables.flat_map(|table| {
                ["safe_ratio", "safe_margin"].into_iter().filter_map(|key| field(table, key))
            });
            unreachable = unreachable.or_else(|| written.next());
        }
    }
    if let Some(field) = unreachable {
        let message = "with `safe_ratio` 1 and `safe_margin` 0% a canary that is as good as \
                       stable is never found safe";
        let help = "write safe_ratio = 2.0, or safe_margin = \"0.1%\"";
        problems.add(field.at, message, help);
    }
}

fn read_slowness(
    table: &DeTable<'_>,
    evidence: &mut Evidence,
    seen: Seen,
    problems: &mut Problems<'_>,
) {
    let read = |table: &DeTable<'_>, problems: &mut Problems<'_>| {
        let slower = field(table, "slower").and_then(|f| f.number(problems, RATIOS, 1.5));
        let floor = field(table, "floor").and_then(|f| f.duration(problems, FLOORS));
        (slower, floor)
    };
    let for_all = read(table, problems);
    for (what, slowness) in times(evidence) {
        let own = own_table(table, what, "slower", seen, problems);
        let own = own.map_or((None, None), |own| {
            check_unknown(own, &keys::TIMES, problems);
            read(own, problems)
        });
        slowness.ratio = own.0.or(for_all.0).unwrap_or(slowness.ratio);
        slowness.floor = own.1.or(for_all.1).unwrap_or(slowness.floor);
    }
}

/// A table that bears the name of what it is about. `key` is one of its keys.
fn own_table<'a, 't>(
    table: &'a DeTable<'t>,
    what: Watchable,
    key: &str,
    seen: Seen,
    problems: &mut Problems<'_>,
) -> Option<&'a DeTable<'t>> {
    let field = field(table, what.name)?;
    // A signal may be switched off for a while; a protocol stays.
    let always = Seen { signals: Signals::ALL, ..seen };
    if let Some((message, help)) = always.lacks(what) {
        problems.add(field.at.clone(), message, help);
    }
    if let DeValue::Table(own) = field.value {
        return Some(own);
    }
    field.wrong_type(problems, "a table", format!("write {} = {{ {key} = 1.5 }}", what.name));
    None
}
