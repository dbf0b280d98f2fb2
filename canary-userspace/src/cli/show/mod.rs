//! Output for people.

mod health;
mod trial;

use std::{
    io::IsTerminal as _,
    time::{Duration, UNIX_EPOCH},
};

use crate::{
    api::types::{BackendStatus, DataPlane, Flows, FollowedFlow, ServiceStatus, Status},
    logging::colours_wanted,
};

pub(super) use trial::{drill, explanation, history, rollout, steered};

/// Whether to colour: on a terminal, unless NO_COLOR says not to.
pub(super) fn colours() -> bool {
    std::io::stdout().is_terminal() && colours_wanted()
}

/// A split as a percentage, without noise and without hiding a small one:
/// "5 %", "0.1 %", to six significant digits.
pub(super) fn percent(fraction: f64) -> String {
    let magnitude = (fraction * 100.0).max(f64::MIN_POSITIVE).log10().floor();
    rounded(fraction, (5.0 - magnitude).clamp(0.0, 14.0) as usize)
}

/// What was counted, as a percentage.
fn share(fraction: f64) -> String {
    rounded(fraction, 2)
}

fn rounded(fraction: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", fraction * 100.0);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text} %")
}

fn paint(text: &str, code: &str, colours: bool) -> String {
    if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Bytes with a binary prefix.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Columns as wide as their widest cell; the first `left` of them to the left.
fn table(rows: &[Vec<String>], left: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let cell = match column < left {
                true => format!("  {cell:<width$}"),
                false => format!("  {cell:>width$}"),
            };
            line.push_str(&cell);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

pub(super) fn status(status: &Status, colours: bool) -> String {
    let mut text = String::new();
    for service in &status.services {
        text.push_str(&headline(service, colours));
        text.push_str(&backends(service));
        text.push_str(&answers(service));
        text.push_str(&health::health(service, colours));
        if service.rollout.promoted {
            text.push_str(
                "  promoted: what the configuration calls canary is stable now; write it so, and \
                 reload\n",
            );
        }
        text.push('\n');
    }
    text.push_str(&data_plane(&status.data_plane, colours));
    for warning in &status.warnings {
        text.push_str(&paint(&format!("! {warning}\n"), "33", colours));
    }
    text
}

fn data_plane(plane: &DataPlane, colours: bool) -> String {
    let attached: Vec<_> = plane
        .attached
        .iter()
        .map(|attached| {
            let text = format!("{} ({})", attached.interface, attached.mode);
            if matches!(attached.mode.as_str(), "gone" | "refused") {
                paint(&text, "31;1", colours)
            } else {
                text
            }
        })
        .collect();
    let on = if attached.is_empty() { "no interface".to_owned() } else { attached.join(", ") };
    let flows = &plane.flows;
    format!(
        "on {on}; {} live flows, {} of them in overflow, room for {}\n",
        flows.active, flows.overflow, flows.capacity
    )
}

fn headline(service: &ServiceStatus, colours: bool) -> String {
    let actual = match service.split.actual {
        Some(actual) => format!("actual {}", share(actual)),
        None => "no connection yet".to_owned(),
    };
    let phase = match service.rollout.phase.as_str() {
        "rolling-back" | "degraded" => paint(&service.rollout.phase, "31;1", colours),
        phase => phase.to_owned(),
    };
    let step = match service.rollout.step {
        0 => String::new(),
        step => format!(" (step {step} of {})", service.rollout.steps),
    };
    let guard = match service.split.guard.as_str() {
        "budget-spent" | "dead-man" => {
            let text = format!("guard {}: new flows go to stable", service.split.guard);
            format!("   {}", paint(&text, "31;1", colours))
        }
        _ => String::new(),
    };
    format!(
        "{}  {}/{}   canary {} ({actual}){guard}   {phase}{step}: {}\n",
        paint(&service.name, "1", colours),
        service.listen,
        service.protocol,
        percent(service.split.configured),
        service.rollout.reason
    )
}

fn backends(service: &ServiceStatus) -> String {
    let head = [
        "track", "backend", "state", "weight", "conns", "active", "refused", "reset-b", "reset-c",
        "timeout", "syn-rtx", "pkts-in", "pkts-out", "in", "out",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for track in &service.tracks {
        rows.extend(track.backends.iter().map(|backend| row(&track.name, backend)));
    }
    table(&rows, 3)
}

/// What the backends' answers tell, where there were any.
fn answers(service: &ServiceStatus) -> String {
    let head = [
        "track",
        "backend",
        "handshake p50",
        "p99",
        "first byte p50",
        "p99",
        "4xx",
        "5xx",
        "conns 5xx",
        "alerts",
        "cut",
        "rtx-b",
        "rtx-c",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut any = false;
    for track in &service.tracks {
        for backend in &track.backends {
            let (counters, syn) = (&backend.counters, &backend.handshake_seconds);
            let first = &backend.first_byte_seconds;
            any |= syn.count + first.count > 0;
            let mut row = vec![track.name.clone(), backend.address.clone()];
            row.extend([syn.p50, syn.p99, first.p50, first.p99].map(time));
            row.extend(
                [
                    counters.http_4xx,
                    counters.http_5xx,
                    counters.connections_5xx,
                    counters.tls_alerts_backend + counters.tls_alerts_client,
                    counters.idle_cuts,
                    counters.retransmits_backend,
                    counters.retransmits_client,
                ]
                .map(|count| count.to_string()),
            );
            rows.push(row);
        }
    }
    if any { table(&rows, 2) } else { String::new() }
}

/// Seconds with a unit that suits them.
fn time(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(s) if s < 1e-3 => format!("{:.0} µs", s * 1e6),
        Some(s) if s < 1.0 => format!("{:.1} ms", s * 1e3),
        Some(s) => format!("{s:.2} s"),
    }
}

fn row(track: &str, backend: &BackendStatus) -> Vec<String> {
    let counters = &backend.counters;
    let mut row = vec![track.to_owned(), backend.address.clone(), backend.state.clone()];
    row.push(backend.weight.to_string());
    row.extend(
        [
            counters.connections,
            counters.active,
            counters.refused,
            counters.resets_backend,
            counters.resets_client,
            counters.handshake_timeouts,
            counters.syn_retransmits,
            counters.packets_in,
            counters.packets_out,
        ]
        .map(|count| count.to_string()),
    );
    row.extend([counters.bytes_in, counters.bytes_out].map(bytes));
    row
}

pub(super) fn flows(flows: &Flows) -> String {
    let head = ["client", "backend", "track", "state", "expires in"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for flow in &flows.flows {
        let state =
            if flow.midstream { format!("{} (midstream)", flow.state) } else { flow.state.clone() };
        rows.push(vec![
            flow.client.clone(),
            flow.backend.clone(),
            flow.track.clone(),
            state,
            format!("{:.0} s", flow.expires_in),
        ]);
    }
    let shown = flows.flows.len() as u64;
    let rest = match flows.total.saturating_sub(shown) {
        0 => String::new(),
        rest => format!("… and {rest} more (--limit)\n"),
    };
    format!("{}{rest}", table(&rows, 3))
}

/// An event of a flow, as a line.
pub(super) fn followed(event: &FollowedFlow) -> String {
    let lost = match event.lost {
        0 => String::new(),
        lost => format!("… {lost} events lost: this is slower than the traffic (--one-in)\n"),
    };
    let mut what = event.event.clone();
    if let Some(by) = &event.by {
        what.push_str(&format!(" by {by}"));
    }
    if event.after_data == Some(true) {
        what.push_str(" after data");
    }
    let times: String =
        [("handshake", event.handshake), ("first byte", event.first_byte), ("lived", event.lived)]
            .into_iter()
            .filter(|(_, seconds)| seconds.is_some())
            .map(|(name, seconds)| format!(", {name} {}", time(seconds)))
            .collect();
    format!(
        "{lost}{}  {what}  {} → {} ({}){times}\n",
        time_of_day(event.at),
        event.client,
        event.backend,
        event.track,
    )
}

/// UTC, to the second.
fn time_of_day_and_date(at: f64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs_f64(at.max(0.0));
    humantime::format_rfc3339_seconds(time).to_string()
}

/// UTC, to the millisecond.
fn time_of_day(at: f64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs_f64(at.max(0.0));
    let text = humantime::format_rfc3339_millis(time).to_string();
    text.split_once('T').map_or(text.clone(), |(_, time)| time.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{Attached, Counters, FlowTableStatus, TrackStatus};

    #[test]
    fn percentages_carry_no_noise() {
        for (fraction, text) in [
            (0.0, "0 %"),
            (0.05, "5 %"),
            (0.001, "0.1 %"),
            (1.0, "100 %"),
            (1.0 / 4_294_967_296.0, "0.0000000232831 %"),
        ] {
            assert_eq!(percent(fraction), text);
        }
    }

    #[test]
    fn times_are_readable() {
        for (seconds, text) in
            [(None, "-"), (Some(42e-6), "42 µs"), (Some(1.5e-3), "1.5 ms"), (Some(2.0), "2.00 s")]
        {
            assert_eq!(time(seconds), text);
        }
    }

    #[test]
    fn events_are_lines() {
        let event = FollowedFlow {
            at: 1_700_000_000.25,
            event: "reset".to_owned(),
            by: Some("backend".to_owned()),
            after_data: Some(true),
            client: "198.51.100.7:40000".to_owned(),
            track: "canary".to_owned(),
            backend: "10.0.0.21:8080".to_owned(),
            handshake: Some(42e-6),
            lived: Some(1.5),
            lost: 2,
            ..FollowedFlow::default()
        };
        assert_eq!(
            followed(&event),
            "\
… 2 events lost: this is slower than the traffic (--one-in)
22:13:20.250Z  reset by backend after data  198.51.100.7:40000 → 10.0.0.21:8080 (canary), \
handshake 42 µs, lived 1.50 s
"
        );
    }

    #[test]
    fn bytes_are_readable() {
        for (count, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB")]
        {
            assert_eq!(bytes(count), text);
        }
    }

    fn backend(address: &str, state: &str, counters: Counters) -> BackendStatus {
        BackendStatus {
            address: address.to_owned(),
            state: state.to_owned(),
            weight: 1,
            counters,
            ..BackendStatus::default()
        }
    }

    fn service() -> ServiceStatus {
        let stable = Counters {
            connections: 83_412,
            active: 1203,
            packets_in: 1_204_511,
            packets_out: 2_012_377,
            bytes_in: 1 << 27,
            bytes_out: 5 << 30,
            resets_client: 12,
            syn_retransmits: 2,
            ..Counters::default()
        };
        let canary = Counters {
            connections: 4412,
            active: 37,
            refused: 1,
            resets_backend: 6,
            handshake_timeouts: 3,
            ..Counters::default()
        };
        let track = |name: &str, backend| TrackStatus {
            name: name.to_owned(),
            panic: false,
            backends: vec![backend],
        };
        let mut service = ServiceStatus {
            name: "web".to_owned(),
            listen: "203.0.113.10:80".to_owned(),
            protocol: "tcp".to_owned(),
            tracks: vec![
                track("stable", backend("10.0.0.11:8080", "draining", stable)),
                track("canary", backend("10.0.0.21:8080", "active", canary)),
            ],
            ..ServiceStatus::default()
        };
        service.split.configured = 0.05;
        service.split.actual = Some(0.0502);
        service.rollout.phase = "idle".to_owned();
        service.rollout.reason = "the split is set by hand".to_owned();
        service
    }

    fn shown_status() -> Status {
        let attached = |interface: &str, mode: &str| Attached {
            interface: interface.to_owned(),
            mode: mode.to_owned(),
            ..Attached::default()
        };
        Status {
            services: vec![service()],
            data_plane: DataPlane {
                attached: vec![attached("eth0", "native"), attached("eth1", "gone")],
                flows: FlowTableStatus { capacity: 262_144, active: 1240, overflow: 4 },
                ..DataPlane::default()
            },
            warnings: vec!["eth1 is gone".to_owned()],
            ..Status::default()
        }
    }

    #[test]
    fn a_status_at_a_glance() {
        assert_eq!(
            status(&shown_status(), false),
            "\
web  203.0.113.10:80/tcp   canary 5 % (actual 5.02 %)   idle: the split is set by hand
  track   backend         state     weight  conns  active  refused  reset-b  reset-c  timeout  syn-rtx  pkts-in  pkts-out         in      out
  stable  10.0.0.11:8080  draining       1  83412    1203        0        0       12        0        2  1204511   2012377  128.0 MiB  5.0 GiB
  canary  10.0.0.21:8080  active         1   4412      37        1        6        0        3        0        0         0        0 B      0 B

on eth0 (native), eth1 (gone); 1240 live flows, 4 of them in overflow, room for 262144
! eth1 is gone
"
        );
    }

    #[test]
    fn answers_show_once_there_are_any() {
        let mut service = service();
        assert_eq!(answers(&service), "");
        let canary = &mut service.tracks[1].backends[0];
        let mut histogram = canary_common::Histogram::default();
        histogram.counts[canary_common::Histogram::bucket(4000)] = 7;
        canary.first_byte_seconds = crate::api::types::Times::of(&histogram);
        canary.counters.http_5xx = 3;
        let lines: Vec<String> = answers(&service).lines().map(str::to_owned).collect();
        let cells: Vec<_> = lines[2].split_whitespace().collect();
        assert_eq!(cells[..3], ["canary", "10.0.0.21:8080", "-"]);
        assert_eq!(cells[4..10], ["1.0", "ms", "1.0", "ms", "0", "3"], "{lines:?}");
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let mut coloured = shown_status();
        coloured.services[0].rollout.phase = "rolling-back".to_owned();
        let plain = status(&coloured, false);
        let mut painted = status(&coloured, true);
        assert!(painted.contains("\x1b[31;1mrolling-back\x1b[0m"), "{painted}");
        assert!(painted.contains("\x1b[31;1meth1 (gone)\x1b[0m"), "{painted}");
        for code in ["\x1b[31;1m", "\x1b[33m", "\x1b[1m", "\x1b[0m"] {
            painted = painted.replace(code, "");
        }
        assert_eq!(painted, plain);
    }

    #[test]
    fn before_the_first_connection_and_interface() {
        let mut service = service();
        service.split.actual = None;
        let shown = status(&Status { services: vec![service], ..Status::default() }, false);
        assert!(shown.contains("canary 5 % (no connection yet)   idle"), "{shown}");
        assert!(shown.contains("\non no interface; 0 live flows"), "{shown}");
    }
}
