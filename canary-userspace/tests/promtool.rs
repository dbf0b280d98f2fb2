//! Prometheus' own checker on what we serve and on the textfile: it parses the
//! text and complains of names, types and helps that go against its rules.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
};

use canary::{
    api::types::{
        Attached, BackendHealth, BackendStatus, Counters, LastCheck, ServiceStatus, SplitStatus,
        Status, TrackStatus, Verdict,
    },
    config::Histograms,
    metrics::{DaemonGauges, render, write_textfile},
};
use canary_common::Reason;

fn backend(address: &str, state: &str) -> BackendStatus {
    let counters = Counters { connections: 7, bytes_out: u64::MAX, ..Counters::default() };
    BackendStatus {
        address: address.into(),
        state: state.into(),
        weight: 1,
        health: Some(BackendHealth { last: Some(LastCheck::default()), ..Default::default() }),
        counters,
        ..BackendStatus::default()
    }
}

fn service(name: &str) -> ServiceStatus {
    ServiceStatus {
        name: name.into(),
        split: SplitStatus { configured: 1e-9, actual: Some(1.0 / 3.0), guard: "off".into() },
        tracks: vec![
            TrackStatus {
                name: "stable".into(),
                panic: true,
                backends: vec![
                    backend("10.0.0.11:8080", "active"),
                    backend("10.0.0.12:8080", "draining"),
                ],
            },
            TrackStatus {
                name: "canary".into(),
                panic: false,
                backends: vec![backend("[2001:db8::21]:8080", "unresolved")],
            },
        ],
        ..ServiceStatus::default()
    }
}

/// Every family, every reason, and names as nasty as labels can hold.
fn everything() -> String {
    let mut status = Status {
        version: "0.1.0".into(),
        services: vec![service("web"), service("quote \" backslash \\ line\nfeed é")],
        verdicts: Reason::ALL
            .iter()
            .map(|reason| Verdict { reason: reason.name().into(), packets: 3 })
            .collect(),
        ..Status::default()
    };
    status.data_plane.attached =
        vec![Attached { interface: "eth0".into(), mode: "native".into(), ..Attached::default() }];
    let up = DaemonGauges {
        start_time_seconds: 1_700_000_000.25,
        rollbacks: [("web".to_owned(), 2)].into(),
    };
    render(&status, &up, Histograms::Full)
}

/// Fails where `promtool check metrics` has anything at all to say about `input`.
fn check(what: &str, input: File) {
    let output = match Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::from(input))
        .output()
    {
        Ok(output) => output,
        Err(error) => panic!(
            "cannot run promtool ({error}); it is part of Prometheus: \
             on Debian, apt-get install --no-install-recommends prometheus"
        ),
    };
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success() && said.is_empty(),
        "promtool check metrics on {what}, {}:\n{}",
        output.status,
        String::from_utf8_lossy(&said)
    );
}

#[test]
#[expect(clippy::unwrap_used, reason = "tests")]
fn promtool_accepts_the_metrics() {
    let path = std::env::temp_dir().join(format!("canary-promtool-{}.prom", std::process::id()));
    for (what, text) in [
        ("everything", everything()),
        (
            "a daemon without services",
            render(&Status::default(), &DaemonGauges::default(), Histograms::Full),
        ),
    ] {
        write_textfile(&path, &text).unwrap();
        let file = File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        check(what, file);
    }
}
