//! Those outside whom a rollout asks (gates) and tells (hooks).

use std::{
    collections::HashMap,
    ops::{Range, RangeInclusive},
    time::Duration,
};

use toml::{Spanned, de::DeTable};

use super::{
    field::{Field, field, time_or},
    keys::{self, check_unknown},
    mistakes::Problems,
    reach::{read_command, read_url},
    rollout::{Bound, Gate, GateKind, HOUR, Hook, HookKind, OnFail, OnMissing, Transition},
    service::{NAME_HELP, is_name},
    suggest::or_list,
};

const MAX_GATES: usize = 20;
const MAX_HOOKS: usize = 20;

const SECOND: Duration = Duration::from_secs(1);
const TIMES: RangeInclusive<Duration> = SECOND..=HOUR;
const RETRIES: RangeInclusive<u32> = 0..=10;
const DEFAULT_RETRIES: u32 = 2;
const GATE_EVERY: Duration = SECOND.saturating_mul(30);
const GATE_TIMEOUT: Duration = SECOND.saturating_mul(5);
const HOOK_TIMEOUT: Duration = SECOND.saturating_mul(10);

const ON_FAIL: [(&str, OnFail); 2] = [("rollback", OnFail::Rollback), ("hold", OnFail::Hold)];
const ON_MISSING: [(&str, OnMissing); 3] =
    [("hold", OnMissing::Hold), ("pass", OnMissing::Pass), ("fail", OnMissing::Fail)];

/// What the query stands for each version with.
const TRACK: &str = "{{track}}";

/// Names that stand already, and where.
pub(super) type Names = HashMap<String, Range<usize>>;

/// The name of a gate or a hook, of which a service has each once.
fn read_name(
    what: &str,
    table: &Spanned<&DeTable<'_>>,
    names: &mut Names,
    problems: &mut Problems<'_>,
) -> Option<String> {
    let Some(field) = field(table.get_ref(), "name") else {
        let help = "write name = \"errors\"; `canary explain` and the history call it that";
        problems.add(table.span(), format!("a {what} without `name`"), help);
        return None;
    };
    let name = field.string(problems, "errors")?;
    if !is_name(name) {
        problems.add(field.at, format!("\"{name}\" cannot be a {what}'s name"), NAME_HELP);
        return None;
    }
    if let Some(first) = names.get(name) {
        let line = problems.line_of(first);
        let message = format!("\"{name}\" is the name of another gate or hook, on line {line}");
        problems.add(field.at, message, "write another name");
        return None;
    }
    names.insert(name.to_owned(), field.at);
    Some(name.to_owned())
}

pub(super) fn read_gates(
    rollout: &DeTable<'_>,
    names: &mut Names,
    problems: &mut Problems<'_>,
) -> Vec<Gate> {
    let Some(list) = field(rollout, "gates") else { return Vec::new() };
    let tables = list.tables(problems, "service.NAME.rollout.gates");
    check_count("gates", &tables, MAX_GATES, problems);
    tables.iter().filter_map(|table| read_gate(table, names, problems)).collect()
}

pub(super) fn read_hooks(
    rollout: &DeTable<'_>,
    names: &mut Names,
    problems: &mut Problems<'_>,
) -> Vec<Hook> {
    let Some(list) = field(rollout, "hooks") else { return Vec::new() };
    let tables = list.tables(problems, "service.NAME.rollout.hooks");
    check_count("hooks", &tables, MAX_HOOKS, problems);
    tables.iter().filter_map(|table| read_hook(table, names, problems)).collect()
}

fn check_count(
    what: &str,
    tables: &[Spanned<&DeTable<'_>>],
    most: usize,
    problems: &mut Problems<'_>,
) {
    if let Some(first_over) = tables.get(most) {
        let message = format!("{} {what} are more than the {most} there may be", tables.len());
        problems.add(first_over.span(), message, "remove those from here on");
    }
}

/// `None` where a part that has no default is missing or wrong.
fn read_gate(
    table: &Spanned<&DeTable<'_>>,
    names: &mut Names,
    problems: &mut Problems<'_>,
) -> Option<Gate> {
    let keys = *table.get_ref();
    check_unknown(keys, &keys::GATE, problems);
    let name = read_name("gate", table, names, problems);
    let asks = read_asks(table, problems);
    let on_fail = field(keys, "on_fail").and_then(|field| field.choice(problems, &ON_FAIL));
    let on_missing =
        field(keys, "on_missing").and_then(|field| field.choice(problems, &ON_MISSING));
    Some(Gate {
        every: time_or(GATE_EVERY, keys, "every", TIMES, problems),
        timeout: time_or(GATE_TIMEOUT, keys, "timeout", TIMES, problems),
        retries: read_retries(keys, problems),
        on_fail: on_fail.unwrap_or_default(),
        on_missing: on_missing.unwrap_or_default(),
        name: name?,
        asks: asks?,
    })
}

fn read_hook(
    table: &Spanned<&DeTable<'_>>,
    names: &mut Names,
    problems: &mut Problems<'_>,
) -> Option<Hook> {
    let keys = *table.get_ref();
    check_unknown(keys, &keys::HOOK, problems);
    let name = read_name("hook", table, names, problems);
    let on = read_transitions(table, problems);
    let tells = read_tells(table, problems);
    Some(Hook {
        timeout: time_or(HOOK_TIMEOUT, keys, "timeout", TIMES, problems),
        retries: read_retries(keys, problems),
        name: name?,
        on: on?,
        tells: tells?,
    })
}

fn read_retries(table: &DeTable<'_>, problems: &mut Problems<'_>) -> u32 {
    field(table, "retries")
        .and_then(|field| field.whole(problems, RETRIES, DEFAULT_RETRIES))
        .unwrap_or(DEFAULT_RETRIES)
}

fn read_asks(table: &Spanned<&DeTable<'_>>, problems: &mut Problems<'_>) -> Option<GateKind> {
    let asked = only_one("gate", table, &["prometheus", "webhook", "command"], problems)?;
    if asked.key != "prometheus" {
        for key in ["query", "max", "min", "relative"] {
            refuse_beside(&asked, key, "prometheus", table.get_ref(), problems);
        }
    }
    match asked.key {
        "prometheus" => read_prometheus(table, &asked, problems),
        "webhook" => Some(GateKind::Webhook { url: read_url(&asked, problems)? }),
        _ => Some(GateKind::Command { argv: read_command(&asked, problems)? }),
    }
}

fn read_tells(table: &Spanned<&DeTable<'_>>, problems: &mut Problems<'_>) -> Option<HookKind> {
    let told = only_one("hook", table, &["webhook", "command"], problems)?;
    if told.key == "webhook" {
        let slack = field(table.get_ref(), "slack").map(|field| field.boolean(problems));
        let url = read_url(&told, problems);
        return Some(HookKind::Webhook { url: url?, slack: slack.unwrap_or(Some(false))? });
    }
    refuse_beside(&told, "slack", "webhook", table.get_ref(), problems);
    Some(HookKind::Command { argv: read_command(&told, problems)? })
}

/// The one of several keys that a gate or hook has; of more the first.
fn only_one<'a, 't>(
    what: &str,
    table: &Spanned<&'a DeTable<'t>>,
    keys: &[&'a str],
    problems: &mut Problems<'_>,
) -> Option<Field<'a, 't>> {
    let mut written: Vec<Field<'a, 't>> =
        keys.iter().filter_map(|key| field(table.get_ref(), key)).collect();
    written.sort_by_key(|field| field.at.start);
    let mut written = written.into_iter();
    let Some(first) = written.next() else {
        let keys = or_list(keys, "`");
        let message = format!("a {what} without {keys}");
        problems.add(table.span(), message, format!("write one of {keys}"));
        return None;
    };
    for other in written {
        problems.add(
            other.at,
            format!("`{}` stands beside `{}`", other.key, first.key),
            format!("remove one of them, or make two {what}s of it"),
        );
    }
    Some(first)
}

/// A key that goes only with another one than the one that stands here.
fn refuse_beside(
    stands: &Field<'_, '_>,
    key: &str,
    only_with: &str,
    table: &DeTable<'_>,
    problems: &mut Problems<'_>,
) {
    // Where both stand, that is the mistake.
    if field(table, only_with).is_none()
        && let Some(field) = field(table, key)
    {
        let message = format!("`{key}` stands beside `{}`", stands.key);
        let help = format!("remove it; only `{only_with}` has it");
        problems.add(field.at, message, help);
    }
}

fn read_prometheus(
    table: &Spanned<&DeTable<'_>>,
    server: &Field<'_, '_>,
    problems: &mut Problems<'_>,
) -> Option<GateKind> {
    let keys = *table.get_ref();
    let url = read_url(server, problems).filter(|url| check_server(server, url, problems));
    let bound = read_bound(table, problems);
    let relative = field(keys, "relative");
    let relative = relative.map_or(Some(false), |field| field.boolean(problems));
    let Some(query) = field(keys, "query") else {
        let help = "write query = 'sum(rate(errors_total{track=\"{{track}}\"}[1m]))'";
        problems.add(table.span(), "a gate with `prometheus` and without `query`", help);
        return None;
    };
    let text = read_query(&query, relative == Some(true), problems);
    if relative == Some(true)
        && let Some(bound) = &bound
    {
        check_relative(bound, problems);
    }
    Some(GateKind::Prometheus {
        url: url?,
        query: text?,
        bound: bound?.into_inner(),
        relative: relative?,
    })
}

fn read_bound(
    table: &Spanned<&DeTable<'_>>,
    problems: &mut Problems<'_>,
) -> Option<Spanned<Bound>> {
    let bound = only_one("gate", table, &["max", "min"], problems)?;
    let number = bound.number(problems, f64::MIN..=f64::MAX, 0.01)?;
    let of = if bound.key == "max" { Bound::Max } else { Bound::Min };
    Some(Spanned::new(bound.at, of(number)))
}

/// A bound of so many times stable's value.
fn check_relative(bound: &Spanned<Bound>, problems: &mut Problems<'_>) {
    let (Bound::Max(times) | Bound::Min(times)) = *bound.get_ref();
    if times <= 0.0 {
        problems.add(
            bound.span(),
            format!("{times} times stable's value is no bound"),
            "with relative = true write a number above 0, for example 1.5",
        );
    }
}

fn read_query(
    field: &Field<'_, '_>,
    relative: bool,
    problems: &mut Problems<'_>,
) -> Option<String> {
    let query = field.string(problems, "up")?;
    let (message, help) = if query.trim().is_empty() {
        ("`query` is empty", "write a query whose answer is one number")
    } else if query.replace(TRACK, "").contains("{{") {
        // PromQL has no doubled braces of its own.
        ("`query` has {{ }} around something else than track", "only {{track}} is filled in")
    } else if relative && !query.contains(TRACK) {
        (
            "`query` is the same for both versions, so there is no stable value to compare with",
            "write {{track}} where the query names the version, or leave out `relative`",
        )
    } else {
        return Some(query.to_owned());
    };
    problems.add(field.at.clone(), message, help);
    None
}

/// The query is added by the gate, so the address ends before it.
fn check_server(field: &Field<'_, '_>, url: &str, problems: &mut Problems<'_>) -> bool {
    let bare = !url.contains(['?', '#']) && !url.contains("/api/v1");
    if !bare {
        let message = "`prometheus` is more than the address of a server";
        let help = "write it as http://127.0.0.1:9090, and the query in `query`";
        problems.add(field.at.clone(), message, help);
    }
    bare
}

fn read_transitions(
    table: &Spanned<&DeTable<'_>>,
    problems: &mut Problems<'_>,
) -> Option<Vec<Transition>> {
    let names: Vec<&str> = Transition::NAMES.iter().map(|(name, _)| *name).collect();
    let help = || format!("write on = [\"completion\"]; there are {}", or_list(&names, "\""));
    let Some(list) = field(table.get_ref(), "on") else {
        problems.add(table.span(), "a hook without `on`", help());
        return None;
    };
    let elements = list.list(problems, "\"completion\"")?;
    if elements.is_empty() {
        problems.add(list.at, "`on` is empty, so the hook is never told", help());
    }
    let mut on = Vec::new();
    for element in elements {
        let field = Field { key: "on", value: element.get_ref(), at: element.span() };
        let transition = field.choice(problems, &Transition::NAMES);
        on.extend(transition.filter(|transition| !on.contains(transition)));
    }
    Some(on)
}
