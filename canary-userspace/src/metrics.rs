//! The metrics: Prometheus' text format 0.0.4, for `/metrics` and for
//! node_exporter's textfile collector.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use canary_common::{Histogram, Ticks};

use crate::api::types::{BackendStatus, Counters, ServiceStatus, Status, Times, TrackStatus};

/// The `Content-Type` of what [`render`] makes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the daemon knows beyond the status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DaemonGauges {
    /// When the daemon started, in seconds since 1970; 0 leaves the metric out.
    pub start_time_seconds: f64,
    /// Rollbacks by the daemon since it started, by service. Name every
    /// service, also with 0, so that the first one is seen as an increase.
    pub rollbacks: BTreeMap<String, u64>,
}

/// The states of `canary_backend_state`, as in [`BackendStatus::state`].
const BACKEND_STATES: [&str; 4] = ["active", "draining", "drained", "unresolved"];
/// The modes of `canary_interface_mode`, as in `Attached::mode`.
const INTERFACE_MODES: [&str; 3] = ["native", "generic", "gone"];

/// Some metric of each backend. A family has one of these, or one for each
/// value of its extra label.
struct Series {
    label: Option<(&'static str, &'static str)>,
    value: fn(&Counters) -> u64,
}

struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    series: &'static [Series],
}

const fn plain(value: fn(&Counters) -> u64) -> Series {
    Series { label: None, value }
}

const fn labelled(name: &'static str, label: &'static str, value: fn(&Counters) -> u64) -> Series {
    Series { label: Some((name, label)), value }
}

/// Every metric that each backend has.
const BACKEND_FAMILIES: &[Family] = &[
    Family {
        name: "canary_connections_total",
        kind: "counter",
        help: "Flows born: a SYN or a first datagram.",
        series: &[plain(|c| c.connections)],
    },
    Family {
        name: "canary_connections_established_total",
        kind: "counter",
        help: "Handshakes done (TCP), or first datagrams answered (UDP).",
        series: &[plain(|c| c.established)],
    },
    Family {
        name: "canary_connections_closed_total",
        kind: "counter",
        help: "Flows that ended with a FIN each way.",
        series: &[plain(|c| c.closed)],
    },
    Family {
        name: "canary_connections_midstream_total",
        kind: "counter",
        help: "Flows first seen in the middle; not in canary_connections_total.",
        series: &[plain(|c| c.midstream)],
    },
    Family {
        name: "canary_connections_evicted_total",
        kind: "counter",
        help: "Half-open flows that had to make room for a new one.",
        series: &[plain(|c| c.evicted)],
    },
    Family {
        name: "canary_connections_refused_total",
        kind: "counter",
        help: "Flows that the backend reset before the handshake was done.",
        series: &[plain(|c| c.refused)],
    },
    Family {
        name: "canary_resets_total",
        kind: "counter",
        help: "Flows reset after the handshake, by who reset them.",
        series: &[
            labelled("by", "backend", |c| c.resets_backend),
            labelled("by", "client", |c| c.resets_client),
        ],
    },
    Family {
        name: "canary_syn_retransmits_total",
        kind: "counter",
        help: "SYNs seen again.",
        series: &[plain(|c| c.syn_retransmits)],
    },
    Family {
        name: "canary_handshake_timeouts_total",
        kind: "counter",
        help: "Flows whose handshake nobody answered in time.",
        series: &[plain(|c| c.handshake_timeouts)],
    },
    Family {
        name: "canary_resets_after_data_total",
        kind: "counter",
        help: "Those of canary_resets_total where data had been sent.",
        series: &[
            labelled("by", "backend", |c| c.resets_backend_after_data),
            labelled("by", "client", |c| c.resets_client_after_data),
        ],
    },
    Family {
        name: "canary_resets_after_fin_total",
        kind: "counter",
        help: "Flows reset after a FIN each way: nobody's failure.",
        series: &[
            labelled("by", "backend", |c| c.resets_backend_after_fin),
            labelled("by", "client", |c| c.resets_client_after_fin),
        ],
    },
    Family {
        name: "canary_resets_implausible_total",
        kind: "counter",
        help: "RST segments outside of any window, which were not believed.",
        series: &[
            labelled("by", "backend", |c| c.resets_backend_implausible),
            labelled("by", "client", |c| c.resets_client_implausible),
        ],
    },
    Family {
        name: "canary_retransmits_total",
        kind: "counter",
        help: "Data segments that began below the highest sequence number seen.",
        series: &[
            labelled("by", "backend", |c| c.retransmits_backend),
            labelled("by", "client", |c| c.retransmits_client),
        ],
    },
    Family {
        name: "canary_zero_windows_total",
        kind: "counter",
        help: "Segments that offered a window of 0.",
        series: &[
            labelled("by", "backend", |c| c.zero_windows_backend),
            labelled("by", "client", |c| c.zero_windows_client),
        ],
    },
    Family {
        name: "canary_http_responses_total",
        kind: "counter",
        help: "HTTP/1.x responses in the clear, by class of their status.",
        series: &[
            labelled("class", "1xx", |c| c.http_1xx),
            labelled("class", "2xx", |c| c.http_2xx),
            labelled("class", "3xx", |c| c.http_3xx),
            labelled("class", "4xx", |c| c.http_4xx),
            labelled("class", "5xx", |c| c.http_5xx),
        ],
    },
    Family {
        name: "canary_connections_5xx_total",
        kind: "counter",
        help: "Flows with at least one 5xx.",
        series: &[plain(|c| c.connections_5xx)],
    },
    Family {
        name: "canary_tls_alerts_total",
        kind: "counter",
        help: "Flows with a fatal TLS alert in the clear, by who sent it.",
        series: &[
            labelled("by", "backend", |c| c.tls_alerts_backend),
            labelled("by", "client", |c| c.tls_alerts_client),
        ],
    },
    Family {
        name: "canary_connections_cut_total",
        kind: "counter",
        help: "Established flows that went silent while the client waited for an answer.",
        series: &[plain(|c| c.idle_cuts)],
    },
    Family {
        name: "canary_packets_total",
        kind: "counter",
        help: "Packets forwarded to the backend (in) and back to clients (out).",
        series: &[
            labelled("direction", "in", |c| c.packets_in),
            labelled("direction", "out", |c| c.packets_out),
        ],
    },
    Family {
        name: "canary_bytes_total",
        kind: "counter",
        help: "IP bytes forwarded to the backend (in) and back to clients (out).",
        series: &[
            labelled("direction", "in", |c| c.bytes_in),
            labelled("direction", "out", |c| c.bytes_out),
        ],
    },
    Family {
        name: "canary_active_connections",
        kind: "gauge",
        help: "Flows pinned to the backend and alive.",
        series: &[plain(|c| c.active)],
    },
];

/// Some histogram of each backend: name, help, and where it is.
type TimesFamily = (&'static str, &'static str, fn(&BackendStatus) -> &Times);

/// Every histogram that each backend has.
const TIMES: [TimesFamily; 2] = [
    ("canary_handshake_seconds", "First SYN to SYN-ACK.", |b| &b.handshake_seconds),
    (
        "canary_first_byte_seconds",
        "First byte of what the client sent to the first byte of the answer.",
        |b| &b.first_byte_seconds,
    ),
];

/// The bounds that are shown: two of the four in an octave, from 16 µs to 69 s.
fn shown_bounds() -> impl Iterator<Item = f64> {
    const FIRST: usize = 19;
    let bounds = (FIRST..Histogram::BUCKETS).step_by(2).filter_map(Histogram::upper_bound);
    bounds.map(Ticks::seconds)
}

/// All metrics. Ends in a line feed; families without a series are left out.
#[must_use]
pub fn render(status: &Status, up: &DaemonGauges) -> String {
    let mut text = Text::default();
    daemon(&mut text, status, up);
    data_plane(&mut text, status);
    services(&mut text, status, up);
    backends(&mut text, status);
    text.0
}

fn daemon(text: &mut Text, status: &Status, up: &DaemonGauges) {
    text.family("canary_build_info", "gauge", "Always 1; the label tells the version.");
    text.sample("canary_build_info", &[("version", &status.version)], "1");
    if up.start_time_seconds > 0.0 {
        let name = "canary_start_time_seconds";
        text.family(name, "gauge", "When the daemon started, in seconds since 1970.");
        text.sample(name, &[], &up.start_time_seconds.to_string());
    }
}

fn data_plane(text: &mut Text, status: &Status) {
    let flows = &status.data_plane.flows;
    for (name, help, value) in [
        ("canary_flow_table_capacity", "Flows that there is room for.", flows.capacity),
        ("canary_flow_table_active", "Live flows in the table, all services.", flows.active),
        ("canary_flow_table_overflow", "Flows in the overflow map.", flows.overflow),
    ] {
        text.family(name, "gauge", help);
        text.sample(name, &[], &value.to_string());
    }
    let name = "canary_flow_events_dropped_total";
    text.family(name, "counter", "Events for those who follow flows that had no room.");
    text.sample(name, &[], &status.data_plane.events_dropped.to_string());
    if !status.data_plane.attached.is_empty() {
        let name = "canary_interface_mode";
        text.family(name, "gauge", "How the program is attached: 1 for the mode it has, else 0.");
        for attached in &status.data_plane.attached {
            let labels = [("interface", attached.interface.as_str())];
            text.state_set(name, &labels, "mode", &INTERFACE_MODES, &attached.mode);
        }
    }
    if !status.verdicts.is_empty() {
        let name = "canary_packet_verdicts_total";
        text.family(name, "counter", "Packets seen, by the reason they left the program with.");
        for verdict in &status.verdicts {
            text.sample(name, &[("reason", &verdict.reason)], &verdict.packets.to_string());
        }
    }
}

fn services(text: &mut Text, status: &Status, up: &DaemonGauges) {
    if !status.services.is_empty() {
        let name = "canary_split_ratio";
        text.family(
            name,
            "gauge",
            "The canary's share of new flows: as configured, and as achieved since then.",
        );
        for ServiceStatus { name: service, split, .. } in &status.services {
            let labels = |kind| [("service", service.as_str()), ("kind", kind)];
            text.sample(name, &labels("configured"), &split.configured.to_string());
            if let Some(actual) = split.actual {
                text.sample(name, &labels("actual"), &actual.to_string());
            }
        }
    }
    if !up.rollbacks.is_empty() {
        let name = "canary_rollbacks_total";
        text.family(name, "counter", "Times the daemon took the canary out by itself.");
        for (service, count) in &up.rollbacks {
            text.sample(name, &[("service", service)], &count.to_string());
        }
    }
}

fn backends(text: &mut Text, status: &Status) {
    let all: Vec<(&ServiceStatus, &TrackStatus, &BackendStatus)> = status
        .services
        .iter()
        .flat_map(|service| service.tracks.iter().map(move |track| (service, track)))
        .flat_map(|(service, track)| track.backends.iter().map(move |b| (service, track, b)))
        .collect();
    if all.is_empty() {
        return;
    }
    for Family { name, kind, help, series } in BACKEND_FAMILIES {
        text.family(name, kind, help);
        for (service, track, backend) in &all {
            for Series { label, value } in *series {
                let mut labels = of_backend(service, track, backend).to_vec();
                labels.extend(*label);
                text.sample(name, &labels, &value(&backend.counters).to_string());
            }
        }
    }
    for (name, help, times) in TIMES {
        text.family(name, "histogram", help);
        for (service, track, backend) in &all {
            text.histogram(name, &of_backend(service, track, backend), times(backend));
        }
    }
    let name = "canary_backend_state";
    text.family(name, "gauge", "The backend's state: 1 for the one it is in, else 0.");
    for (service, track, backend) in &all {
        let labels = of_backend(service, track, backend);
        text.state_set(name, &labels, "state", &BACKEND_STATES, &backend.state);
    }
}

fn of_backend<'a>(
    service: &'a ServiceStatus,
    track: &'a TrackStatus,
    backend: &'a BackendStatus,
) -> [(&'a str, &'a str); 3] {
    [("service", &service.name), ("track", &track.name), ("backend", &backend.address)]
}

/// The text as it grows.
#[derive(Default)]
struct Text(String);

impl Text {
    /// The two lines before a family's samples.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // The help texts are ours and have nothing to escape.
        for part in ["# HELP ", name, " ", help, "\n# TYPE ", name, " ", kind, "\n"] {
            self.0.push_str(part);
        }
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            self.0.push(if i == 0 { '{' } else { ',' });
            self.0.push_str(label);
            self.0.push_str("=\"");
            self.escaped(text);
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        self.0.push(' ');
        self.0.push_str(value);
        self.0.push('\n');
    }

    /// Cumulative buckets, sum and count.
    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], times: &Times) {
        let bucket = format!("{name}_bucket");
        let mut sample = |bound: &str, count: u64| {
            let mut labels = labels.to_vec();
            labels.push(("le", bound));
            self.sample(&bucket, &labels, &count.to_string());
        };
        let mut filled = times.buckets.iter().peekable();
        let mut count = 0;
        for shown in shown_bounds() {
            while let Some((_, more)) =
                filled.next_if(|(bound, _)| bound.is_some_and(|bound| bound <= shown))
            {
                count += more;
            }
            sample(&shown.to_string(), count);
        }
        sample("+Inf", times.count);
        self.sample(&format!("{name}_sum"), labels, &times.sum.to_string());
        self.sample(&format!("{name}_count"), labels, &times.count.to_string());
    }

    /// One series a state. A state that is not among them gets a series of its
    /// own, rather than that all are 0.
    fn state_set(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        label: &str,
        states: &[&str],
        current: &str,
    ) {
        let unknown = (!states.contains(&current)).then_some(current);
        for state in states.iter().copied().chain(unknown) {
            let mut labels = labels.to_vec();
            labels.push((label, state));
            self.sample(name, &labels, if state == current { "1" } else { "0" });
        }
    }

    /// A label's value: backslash, quote and line feed are escaped.
    fn escaped(&mut self, value: &str) {
        for c in value.chars() {
            match c {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                c => self.0.push(c),
            }
        }
    }
}

/// Puts `text` at `path`, so that a reader finds the old file or the new one
/// and never a part: written under another name in the same directory (hidden,
/// and not ending in `.prom`, so that node_exporter does not read it), fsynced,
/// renamed. Mode 0644, whatever the umask. Only one writer at a time.
///
/// # Errors
/// Of the file system, with the path in the text; the temporary file is gone.
pub fn write_textfile(path: &Path, text: &str) -> io::Result<()> {
    let temporary = temporary_name(path)?;
    let result = write_synced(&temporary, text).and_then(|()| fs::rename(&temporary, path));
    result.map_err(|error| {
        // It may not even exist; the first error is the one to report.
        _ = fs::remove_file(&temporary);
        io::Error::new(
            error.kind(),
            format!("cannot write the metrics to {}: {error}", path.display()),
        )
    })
}

fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} names no file; the textfile needs one ending in .prom", path.display()),
        ));
    };
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".tmp");
    Ok(path.with_file_name(hidden))
}

fn write_synced(temporary: &Path, text: &str) -> io::Result<()> {
    // What a crash may have left. A new file then, never one (or a symbolic
    // link) that somebody else put there.
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file: File =
        OpenOptions::new().write(true).create_new(true).mode(0o644).open(temporary)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.sync_all()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::api::types::{Attached, DataPlane, FlowTableStatus, SplitStatus, Verdict};
    use std::collections::BTreeSet;

    fn backend(address: &str, state: &str, counters: Counters) -> BackendStatus {
        BackendStatus {
            address: address.into(),
            state: state.into(),
            weight: 1,
            counters,
            ..BackendStatus::default()
        }
    }

    /// One service with a backend in each track.
    fn status() -> Status {
        let counters = Counters {
            connections: 4412,
            active: 37,
            packets_in: 101,
            packets_out: 102,
            bytes_in: 10_001,
            bytes_out: u64::MAX,
            refused: 1,
            resets_backend: 6,
            resets_client: 3,
            syn_retransmits: 2,
            handshake_timeouts: 9,
            established: 4400,
            closed: 4300,
            midstream: 8,
            evicted: 7,
            http_5xx: 13,
            idle_cuts: 14,
            ..Counters::default()
        };
        let track =
            |name: &str, backend| TrackStatus { name: name.into(), backends: vec![backend] };
        Status {
            version: "0.1.0".into(),
            data_plane: DataPlane {
                attached: vec![Attached { interface: "eth0".into(), mode: "generic".into() }],
                abi: 1,
                flows: FlowTableStatus { capacity: 262_144, active: 38, overflow: 0 },
                events_dropped: 3,
            },
            services: vec![ServiceStatus {
                name: "web".into(),
                listen: "[2001:db8::10]:80".into(),
                protocol: "tcp".into(),
                split: SplitStatus { configured: 0.05, actual: Some(0.0502), guard: "off".into() },
                tracks: vec![
                    track(
                        "stable",
                        backend("[2001:db8::11]:8080", "draining", Counters::default()),
                    ),
                    track("canary", backend("[2001:db8::21]:8080", "active", counters)),
                ],
                ..ServiceStatus::default()
            }],
            verdicts: vec![
                Verdict { reason: "pinned".into(), packets: 12 },
                Verdict { reason: "not_ours".into(), packets: 0 },
            ],
            warnings: vec![],
        }
    }

    fn gauges() -> DaemonGauges {
        DaemonGauges {
            start_time_seconds: 1_700_000_000.5,
            rollbacks: BTreeMap::from([("web".into(), 1)]),
        }
    }

    fn has(text: &str, line: &str) {
        assert!(text.lines().any(|l| l == line), "no line {line} in\n{text}");
    }

    #[test]
    fn every_value_stands_under_its_name() {
        let text = render(&status(), &gauges());
        let of = r#"{service="web",track="canary",backend="[2001:db8::21]:8080""#;
        for line in [
            r#"canary_build_info{version="0.1.0"} 1"#,
            "canary_start_time_seconds 1700000000.5",
            "canary_flow_table_capacity 262144",
            "canary_flow_table_active 38",
            "canary_flow_table_overflow 0",
            r#"canary_interface_mode{interface="eth0",mode="native"} 0"#,
            r#"canary_interface_mode{interface="eth0",mode="generic"} 1"#,
            r#"canary_packet_verdicts_total{reason="pinned"} 12"#,
            r#"canary_packet_verdicts_total{reason="not_ours"} 0"#,
            r#"canary_split_ratio{service="web",kind="configured"} 0.05"#,
            r#"canary_split_ratio{service="web",kind="actual"} 0.0502"#,
            r#"canary_rollbacks_total{service="web"} 1"#,
            "canary_flow_events_dropped_total 3",
            "# TYPE canary_connections_total counter",
            "# TYPE canary_active_connections gauge",
        ] {
            has(&text, line);
        }
        for (name, label, value) in [
            ("canary_connections_total", "", "4412"),
            ("canary_active_connections", "", "37"),
            ("canary_packets_total", r#",direction="in""#, "101"),
            ("canary_packets_total", r#",direction="out""#, "102"),
            ("canary_bytes_total", r#",direction="in""#, "10001"),
            ("canary_bytes_total", r#",direction="out""#, "18446744073709551615"),
            ("canary_connections_refused_total", "", "1"),
            ("canary_resets_total", r#",by="backend""#, "6"),
            ("canary_resets_total", r#",by="client""#, "3"),
            ("canary_syn_retransmits_total", "", "2"),
            ("canary_handshake_timeouts_total", "", "9"),
            ("canary_connections_established_total", "", "4400"),
            ("canary_connections_closed_total", "", "4300"),
            ("canary_connections_midstream_total", "", "8"),
            ("canary_connections_evicted_total", "", "7"),
            ("canary_http_responses_total", r#",class="5xx""#, "13"),
            ("canary_connections_cut_total", "", "14"),
            ("canary_backend_state", r#",state="active""#, "1"),
            ("canary_backend_state", r#",state="draining""#, "0"),
            ("canary_backend_state", r#",state="drained""#, "0"),
            ("canary_backend_state", r#",state="unresolved""#, "0"),
        ] {
            has(&text, &format!("{name}{of}{label}}} {value}"));
        }
        let stable = r#"{service="web",track="stable",backend="[2001:db8::11]:8080""#;
        has(&text, &format!("canary_connections_total{stable}}} 0"));
        has(&text, &format!("canary_backend_state{stable},state=\"draining\"}} 1"));
    }

    #[test]
    fn families_are_whole_and_series_are_unique() {
        const START: &str = "canary_start_time_seconds";
        let text = render(&status(), &gauges());
        let mut families = BTreeSet::new();
        let mut series = BTreeSet::new();
        let (mut current, mut lines) = (String::new(), text.lines().peekable());
        while let Some(line) = lines.next() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let name = rest.split(' ').next().unwrap();
                assert!(families.insert(name.to_owned()), "{name} twice");
                let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
                assert_eq!(kind == "histogram", name.ends_with("_seconds") && name != START);
                assert!(lines.peek().is_some_and(|l| l.starts_with(name)), "{name} is empty");
                name.clone_into(&mut current);
            } else {
                let key = line.rsplit_once(' ').unwrap().0;
                let of = key.split('{').next().unwrap();
                let part = |suffix| of.strip_suffix(suffix) == Some(current.as_str());
                assert!(of == current || ["_bucket", "_sum", "_count"].into_iter().any(part));
                assert!(series.insert(key.to_owned()), "{key} twice");
            }
        }
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn histograms_are_cumulative() {
        let mut status = status();
        let mut histogram = Histogram { sum: 4_000_000, ..Histogram::default() };
        for (seconds, count) in [(1e-6, 1), (1e-3, 10), (0.5, 100), (100.0, 1000)] {
            histogram.counts[Histogram::bucket((seconds * 1e9 / 256.0) as u32)] += count;
        }
        status.services[0].tracks[1].backends[0].first_byte_seconds = Times::of(&histogram);
        let text = render(&status, &gauges());
        let of = r#"{service="web",track="canary",backend="[2001:db8::21]:8080""#;
        let bucket = format!("canary_first_byte_seconds_bucket{of},le=\"");
        let found: Vec<(f64, u64)> = text
            .lines()
            .filter_map(|line| line.strip_prefix(&bucket)?.split_once("\"} "))
            .map(|(bound, count)| (bound.parse().unwrap(), count.parse().unwrap()))
            .collect();
        assert!(found.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{found:?}");
        let at = |seconds| found.iter().rfind(|(bound, _)| *bound <= seconds).unwrap().1;
        assert_eq!(
            [at(100e-6), at(0.0015), at(0.8), at(60.0), at(f64::INFINITY)],
            [1, 11, 111, 111, 1111]
        );
        has(&text, &format!("canary_first_byte_seconds_sum{of}}} 1.024"));
        has(&text, &format!("canary_first_byte_seconds_count{of}}} 1111"));
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut status = status();
        status.services[0].split.actual = None;
        let text = render(&status, &DaemonGauges::default());
        for absent in ["actual", "canary_rollbacks_total", "canary_start_time_seconds"] {
            assert!(!text.contains(absent), "{absent} in\n{text}");
        }
        let text = render(&Status::default(), &DaemonGauges::default());
        assert_eq!(text.matches("# TYPE").count(), 5, "{text}");
    }

    #[test]
    fn a_state_that_nobody_knows_shows() {
        let mut status = status();
        status.services[0].tracks[1].backends[0].state = "asleep".into();
        let text = render(&status, &gauges());
        let of = r#"{service="web",track="canary",backend="[2001:db8::21]:8080""#;
        has(&text, &format!("canary_backend_state{of},state=\"asleep\"}} 1"));
        has(&text, &format!("canary_backend_state{of},state=\"active\"}} 0"));
    }

    #[test]
    fn label_values_are_escaped() {
        let mut status = status();
        status.services[0].name = "a\\b\"c\nd é".into();
        let text = render(&status, &DaemonGauges::default());
        has(&text, r#"canary_split_ratio{service="a\\b\"c\nd é",kind="configured"} 0.05"#);
    }

    /// A directory that goes with the test.
    struct Directory(PathBuf);

    impl Directory {
        fn new(test: &str) -> Self {
            let name = format!("canary-metrics-{}-{test}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn names(&self) -> Vec<OsString> {
            fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name()).collect()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn textfile_is_replaced_whole() {
        let directory = Directory::new("replaced");
        let path = directory.0.join("canary.prom");
        write_textfile(&path, "old and longer\n").unwrap();
        let mut reader = File::open(&path).unwrap();
        write_textfile(&path, "new\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
        assert_eq!(directory.names(), ["canary.prom"]);
        // Who had the old one open keeps it: it was not written over.
        assert_eq!(io::read_to_string(&mut reader).unwrap(), "old and longer\n");
    }

    #[test]
    fn textfile_ignores_what_a_crash_or_somebody_left() {
        let directory = Directory::new("left");
        let path = directory.0.join("canary.prom");
        let victim = directory.0.join("victim");
        fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, directory.0.join(".canary.prom.tmp")).unwrap();
        write_textfile(&path, "new\n").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn textfile_that_cannot_be_written_leaves_nothing() {
        let directory = Directory::new("fails");
        // A directory stands where the file should: all goes well up to the rename.
        let path = directory.0.join("canary.prom");
        fs::create_dir(&path).unwrap();
        let error = write_textfile(&path, "new\n").unwrap_err();
        assert!(error.to_string().contains("canary.prom: "), "{error}");
        assert_eq!(directory.names(), ["canary.prom"]);

        let missing = directory.0.join("missing/canary.prom");
        assert_eq!(write_textfile(&missing, "").unwrap_err().kind(), io::ErrorKind::NotFound);
        let error = write_textfile(Path::new("/"), "").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
