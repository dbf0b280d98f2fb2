//! The configuration's reader: every text is either taken whole or refused with
//! mistakes that stand somewhere in it.

mod rollout;

use std::collections::BTreeSet;

use canary::config::{Config, Health, Mistake, health::CheckKind, parse};
use canary_common::MAX_TABLE_SIZE;

use super::{Format, Target, mark};

pub const TARGET: Target =
    Target { name: "config", format: Format::Text, dictionary: DICTIONARY, check };

const DICTIONARY: &[&[u8]] = &[
    b"interfaces",
    b"xdp_mode",
    b"flows",
    b"socket",
    b"bpffs",
    b"state_dir",
    b"metrics",
    b"listen",
    b"textfile",
    b"textfile_interval",
    b"histograms",
    b"log",
    b"target",
    b"data_plane",
    b"timeouts",
    b"half_open",
    b"established",
    b"closing",
    b"unanswered",
    b"answered",
    b"rollback",
    b"enabled",
    b"max_excess",
    b"min_connections",
    b"service",
    b"protocol",
    b"forward",
    b"stable",
    b"canary",
    b"address",
    b"weight",
    b"affinity",
    b"seed",
    b"table_size",
    b"rollout",
    b"strategy",
    b"steps",
    b"split",
    b"for",
    b"until",
    b"at_most",
    b"deadline",
    b"on_timeout",
    b"on_rollback",
    b"keep_old",
    b"dead_man",
    b"max_away",
    b"salt",
    b"gates",
    b"hooks",
    b"name",
    b"prometheus",
    b"query",
    b"max",
    b"min",
    b"relative",
    b"webhook",
    b"command",
    b"every",
    b"timeout",
    b"retries",
    b"on_fail",
    b"on_missing",
    b"on",
    b"slack",
    b"evidence",
    b"alpha",
    b"beta",
    b"watch",
    b"ratio",
    b"margin",
    b"safe_ratio",
    b"safe_margin",
    b"slower",
    b"last_margin",
    b"\"refused\"",
    b"resets",
    b"handshake-timeouts",
    b"5xx",
    b"handshake",
    b"first-byte",
    b"signals",
    b"health",
    b"check",
    b"port",
    b"path",
    b"host",
    b"status",
    b"body",
    b"verify",
    b"interval",
    b"jitter",
    b"rise",
    b"fall",
    b"initial",
    b"gone_after",
    b"eject",
    b"consecutive",
    b"window",
    b"base",
    b"longest",
    b"most",
    b"\"never\"",
    b"\"http\"",
    b"\"200-299\"",
    b"[service.a.health]\n",
    b"\"auto\"",
    b"\"rolling\"",
    b"\"blue-green\"",
    b"\"ab\"",
    b"\"safe\"",
    b"\"pause\"",
    b"\"30days\"",
    b"\"http://[::1]:9/\"",
    b"{{track}}",
    b"{ split = \"5%\", for = \"5m\" },",
    b"[service.a.rollout]\n",
    b"[[service.a.rollout.gates]]\n",
    b"[service.a.evidence]\n",
    b"\"udp\"",
    b"\"tcp\"",
    b"\"nat\"",
    b"\"client\"",
    b"\"off\"",
    b"\"journald\"",
    b"\"5%\"",
    b"\"1h 2m\"",
    b"\"0%\"",
    b"\"10.0.0.1:80\"",
    b"\"[fd00::1]:80\"",
    b"\"[::ffff:10.0.0.1]:80\"",
    b"\"0.0.0.0:0\"",
    b"[service.a]\n",
    b"[[service]]\n",
    b"[service]\n",
    b"[service.a.timeouts]\n",
    b" = ",
    b"=",
    b"[",
    b"]",
    b"{",
    b"}",
    b"[[[[[[[[",
    b"{a={a={a=",
    b",",
    b".",
    b"\"",
    b"'",
    b"\"\"\"",
    b"'''",
    b"#",
    b"\n",
    b"\r\n",
    b"\t",
    b"\\u00e9",
    b"\\",
    b"\xc3\xa9",
    b"\xf0\x9f\x90\xa4",
    b"\xef\xbb\xbf",
    b"true",
    b"false",
    b"inf",
    b"nan",
    b"-1",
    b"0x7fffffffffffffff",
    b"9223372036854775807",
    b"1e308",
    b"0.1",
    b"1_000",
    b"16381",
    b"1979-05-27T07:32:00Z",
    b"07:32:00",
];

fn check(bytes: &[u8]) -> Result<Vec<u64>, String> {
    let text = String::from_utf8_lossy(bytes);
    match parse(&text, "fuzz.toml") {
        Ok(config) => check_config(&config, &text),
        Err(mistakes) => {
            let shown = mistakes.to_string();
            if mistakes.mistakes.is_empty() || !shown.ends_with("nothing was changed") {
                return Err(format!("refused without a word: {shown}"));
            }
            let lines: Vec<&str> = text.split('\n').collect();
            let mut last = (0, 0);
            for mistake in &mistakes.mistakes {
                check_place(mistake, &lines).map_err(|why| format!("{why}: {mistake:?}"))?;
                let place = (mistake.line, mistake.column);
                if place < last {
                    return Err(format!("out of order: {shown}"));
                }
                last = place;
            }
            Ok(mistakes.mistakes.iter().map(|mistake| mark(kind(&mistake.message))).collect())
        }
    }
}

/// A mistake stands on a line of the text, and covers something of it.
fn check_place(mistake: &Mistake, lines: &[&str]) -> Result<(), &'static str> {
    let line = mistake.line.checked_sub(1).and_then(|line| lines.get(line));
    let Some(line) = line else { return Err("no such line") };
    if line.trim_end_matches('\r') != mistake.source {
        return Err("not what stands on that line");
    }
    // One past the end, where something is missing.
    let characters = line.chars().count();
    let Some(before) = mistake.column.checked_sub(1) else { return Err("columns count from 1") };
    if before > characters {
        return Err("no such column");
    }
    if before + mistake.length > characters.max(before + 1) {
        return Err("longer than its line");
    }
    if mistake.message.is_empty() || mistake.help.is_empty() {
        return Err("says nothing");
    }
    Ok(())
}

/// A message without what it quotes.
fn kind(message: &str) -> String {
    let outside = message.split('`').step_by(2).collect::<Vec<_>>().join("`");
    outside.chars().filter(|c| !c.is_ascii_digit()).take(60).collect()
}

fn is_sound(health: &Health) -> bool {
    let by_command = health.check == Some(CheckKind::Command);
    (!by_command || health.command.first().is_some_and(|program| program.starts_with('/')))
        && (health.check.is_none() || health.timeout <= health.interval)
        && health.http.path.starts_with('/')
        && health.rise > 0
        && health.fall > 0
        && health.eject.base <= health.eject.longest
        && (0.0..=1.0).contains(&health.eject.most)
}

/// What everything behind the reader relies on.
fn check_config(config: &Config, text: &str) -> Result<Vec<u64>, String> {
    if parse(text, "again.toml").as_ref() != Ok(config) {
        return Err("read twice, and not the same".into());
    }
    if config.interfaces.is_empty() || config.services.is_empty() {
        return Err("nothing to do, and taken".into());
    }
    let mut listeners = BTreeSet::new();
    for service in &config.services {
        let backends = || service.stable.iter().chain(&service.canary);
        let wrong = if !service.stable.iter().any(|backend| backend.weight > 0) {
            "no stable backend"
        } else if !(0.0..=1.0).contains(&service.weight) {
            "a weight that is no share"
        } else if service.table_size > MAX_TABLE_SIZE {
            "a table that is too large"
        } else if backends().any(|backend| {
            backend.address.is_ipv4() != service.listen.is_ipv4() || backend.address.port() == 0
        }) {
            "a backend that can't be reached"
        } else if !listeners.insert((service.listen, service.protocol.name())) {
            "two services on one listener"
        } else if service.health.iter().any(|health| !is_sound(health)) {
            "health that cannot be watched"
        } else if let Some(wrong) = rollout::wrong(service) {
            wrong
        } else {
            continue;
        };
        return Err(format!("taken with {wrong}: {service:?}"));
    }
    let service = &config.services[0];
    Ok(vec![
        mark(("taken", config.services.len().min(4), config.interfaces.len().min(3))),
        mark((service.listen.is_ipv4(), service.protocol.name(), service.affinity as u8)),
        mark((service.stable.len().min(4), service.canary.len().min(4), service.weight > 0.0)),
        mark((
            config.xdp_mode as u8,
            config.metrics.listen.is_some(),
            config.metrics.textfile.is_some(),
        )),
        mark(service.rollout.as_ref().map(rollout::shape)),
        mark(rollout::watched(&service.evidence)),
        mark(
            service
                .health
                .each_ref()
                .map(|health| (health.check.map(|c| c as u8), health.eject.enabled)),
        ),
    ])
}
