#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use canary_common::Histogram;

use super::*;
use crate::api::types::{
    Attached, BackendHealth, Checked, DataPlane, FlowTableStatus, Guard, LastCheck, RolloutStatus,
    SplitStatus, Verdict,
};

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
        steered: 15,
        ..Counters::default()
    };
    let track = |name: &str, backend| TrackStatus {
        name: name.into(),
        panic: false,
        backends: vec![backend],
    };
    Status {
        version: "0.1.0".into(),
        data_plane: DataPlane {
            attached: vec![Attached {
                interface: "eth0".into(),
                mode: "generic".into(),
                ..Attached::default()
            }],
            abi: 1,
            flows: FlowTableStatus { capacity: 262_144, active: 38, overflow: 0 },
            events_dropped: 3,
        },
        services: vec![ServiceStatus {
            name: "web".into(),
            listen: "[2001:db8::10]:80".into(),
            protocol: "tcp".into(),
            split: SplitStatus { configured: 0.05, actual: Some(0.0502), guard: "armed".into() },
            guard: Guard { status: "armed".into(), budget_left: Some(3), diverted: 21 },
            rollout: RolloutStatus { phase: "baking".into(), step: 2, ..RolloutStatus::default() },
            tracks: vec![
                track("stable", backend("[2001:db8::11]:8080", "draining", Counters::default())),
                track("canary", backend("[2001:db8::21]:8080", "active", counters)),
            ],
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
    let text = render(&status(), &gauges(), Histograms::Full);
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
        r#"canary_rollout_phase{service="web",phase="baking"} 1"#,
        r#"canary_rollout_phase{service="web",phase="idle"} 0"#,
        r#"canary_rollout_step{service="web"} 2"#,
        r#"canary_guard_state{service="web",state="armed"} 1"#,
        r#"canary_guard_state{service="web",state="dead-man"} 0"#,
        r#"canary_guard_diverted_total{service="web"} 21"#,
        "# TYPE canary_connections_total counter",
        "# TYPE canary_active_connections gauge",
    ] {
        has(&text, line);
    }
    for (name, label, value) in [
        ("canary_connections_total", "", "4412"),
        ("canary_active_connections", "", "37"),
        ("canary_steered_connections_total", "", "15"),
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
    let text = render(&status(), &gauges(), Histograms::Full);
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
fn histograms_are_full_or_coarse() {
    let bounds = |histograms| {
        let text = render(&status(), &gauges(), histograms);
        let of = r#"service="web",track="canary",backend="[2001:db8::21]:8080""#;
        let bucket = format!("canary_handshake_seconds_bucket{{{of},le=\"");
        let bound = |line: &str| line.strip_prefix(&bucket)?.split_once('"')?.0.parse().ok();
        text.lines().filter_map(bound).collect::<Vec<f64>>()
    };
    let (full, coarse) = (bounds(Histograms::Full), bounds(Histograms::Coarse));
    assert!(full[0] < 1.1e-6 && coarse[0] == full[0]);
    let finite = &full[..full.len() - 1];
    assert!(finite.windows(5).all(|five| five[4] <= five[0] * 2.0), "{finite:?}");
    assert!(*finite.last().unwrap() > 60.0);
    assert_eq!((full.len(), coarse.len()), (106, 28));
    assert!(coarse.iter().all(|bound| full.contains(bound)));
}

#[test]
fn histograms_are_cumulative() {
    let mut status = status();
    let mut histogram = Histogram { sum: 4_000_000, ..Histogram::default() };
    for (seconds, count) in [(1e-6, 1), (1e-3, 10), (0.5, 100), (100.0, 1000)] {
        histogram.counts[Histogram::bucket((seconds * 1e9 / 256.0) as u32)] += count;
    }
    status.services[0].tracks[1].backends[0].first_byte_seconds = Times::of(&histogram);
    let text = render(&status, &gauges(), Histograms::Full);
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
    let text = render(&status, &DaemonGauges::default(), Histograms::Full);
    for absent in ["actual", "canary_rollbacks_total", "canary_start_time_seconds"] {
        assert!(!text.contains(absent), "{absent} in\n{text}");
    }
    let text = render(&Status::default(), &DaemonGauges::default(), Histograms::Full);
    assert_eq!(text.matches("# TYPE").count(), 5, "{text}");
}

#[test]
fn a_state_that_nobody_knows_shows() {
    let mut status = status();
    status.services[0].tracks[1].backends[0].state = "asleep".into();
    let text = render(&status, &gauges(), Histograms::Full);
    let of = r#"{service="web",track="canary",backend="[2001:db8::21]:8080""#;
    has(&text, &format!("canary_backend_state{of},state=\"asleep\"}} 1"));
    has(&text, &format!("canary_backend_state{of},state=\"active\"}} 0"));
}

#[test]
fn label_values_are_escaped() {
    let mut status = status();
    status.services[0].name = "a\\b\"c\nd é".into();
    let text = render(&status, &DaemonGauges::default(), Histograms::Full);
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

#[test]
fn health_is_of_those_that_are_watched() {
    let mut status = status();
    for name in ["canary_backend_up", "canary_backend_checks_total", "canary_track_panic"] {
        let text = render(&status, &DaemonGauges::default(), Histograms::Full);
        assert!(!text.contains(name), "{name}");
    }
    let tracks = &mut status.services[0].tracks;
    tracks[0].panic = true;
    tracks[0].backends[0].state = "ejected".into();
    tracks[0].backends[0].health = Some(BackendHealth {
        up: true,
        checks: Checked { pass: 31, fail: 32, unreachable: 33 },
        last: Some(LastCheck { seconds: 0.25, ..LastCheck::default() }),
        ejected_for: Some(3.0),
        ejections: 34,
        ..BackendHealth::default()
    });
    let text = render(&status, &DaemonGauges::default(), Histograms::Full);
    let (track, backend) = ("stable", &status.services[0].tracks[0].backends[0].address);
    let of = format!("{{service=\"web\",track=\"{track}\",backend=\"{backend}\"");
    for (name, label, value) in [
        ("canary_backend_up", "", "0"),
        ("canary_backend_checks_total", r#",result="pass""#, "31"),
        ("canary_backend_checks_total", r#",result="fail""#, "32"),
        ("canary_backend_checks_total", r#",result="unreachable""#, "33"),
        ("canary_backend_check_seconds", "", "0.25"),
        ("canary_backend_ejections_total", "", "34"),
        ("canary_backend_state", r#",state="ejected""#, "1"),
    ] {
        has(&text, &format!("{name}{of}{label}}} {value}"));
    }
    has(&text, r#"canary_track_panic{service="web",track="stable"} 1"#);
    assert!(!text.contains(r#"canary_track_panic{service="web",track="canary""#), "not watched");
}
