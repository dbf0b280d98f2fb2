//! That what is written is what comes out, and what is not written is the
//! documented default.

use canary_common::Signals;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{SHORT, good};
use crate::config::{
    Affinity, Backend, Config, Evidence, Health, Histograms, Log, LogTarget, Metrics, Protocol,
    Rollback, Service, SocketAccess, Timeouts, XdpMode,
};

fn backend(address: &str, weight: u32) -> Backend {
    Backend { address: address.parse().unwrap(), weight }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Of a UDP service without signals nothing is left to compare.
fn nothing_watched() -> Evidence {
    let mut evidence = Evidence::default();
    evidence.refused.watched = false;
    evidence.resets.watched = false;
    evidence.handshake_timeouts.watched = false;
    evidence.http_5xx.watched = false;
    evidence.handshake.watched = false;
    evidence.first_byte.watched = false;
    evidence
}

#[test]
fn defaults() {
    let web = Service {
        name: "web".to_owned(),
        listen: address("203.0.113.10:80"),
        protocol: Protocol::Tcp,
        stable: vec![backend("10.0.0.11:8080", 1), backend("10.0.0.12:8080", 1)],
        canary: Vec::new(),
        weight: 0.0,
        affinity: Affinity::Flow,
        seed: "web".to_owned(),
        table_size: 16_381,
        timeouts: Timeouts::default(),
        rollback: Rollback::default(),
        rollout: None,
        evidence: Evidence::default(),
        health: [Health::default(), Health::default()],
        steer: Vec::new(),
        signals: Signals::ALL,
    };
    let expected = Config {
        interfaces: vec!["eth0".to_owned()],
        xdp_mode: XdpMode::Auto,
        flows: 262_144,
        socket: PathBuf::from("/run/canary/canary.sock"),
        socket_access: SocketAccess::default(),
        bpffs: PathBuf::from("/sys/fs/bpf/canary"),
        state_dir: PathBuf::from("/var/lib/canary"),
        metrics: Metrics {
            listen: Some(address("127.0.0.1:9871")),
            textfile: None,
            textfile_interval: Duration::from_secs(15),
            histograms: Histograms::Full,
        },
        log: Log { target: LogTarget::Stderr, data_plane: false },
        signals: Signals::ALL,
        services: vec![web],
    };
    assert_eq!(good(SHORT), expected);
}

#[test]
fn everything_written() {
    let config = good(
        r#"
interfaces = ["eth0", "eth1"]
xdp_mode = "generic"
flows = 8_388_608
socket = "/run/c.sock"
socket_group = "ops"
socket_mode = "0666"
read_group = "998"
bpffs = "/sys/fs/bpf/c"
state_dir = "/srv/c"
signals = ["latency", "http"]
[metrics]
listen = "[::1]:9000"
textfile = "/var/lib/node_exporter/c.prom"
textfile_interval = "1m"
histograms = "coarse"
[log]
target = "journald"
data_plane = true
[service.dns]
listen = "[2001:db8::53]:53"
protocol = "udp"
forward = "nat"
stable = ["[2001:db8::1]:53", { address = "[2001:db8::2]:53", weight = 1000 }]
canary = [{ address = "[2001:db8::3]:53", weight = 0 }, { address = "[2001:db8::4]:53" }]
weight = "0.1%"
affinity = "client"
seed = "spring"
table_size = 131071
timeouts = { half_open = "1s", established = "7days", closing = "2h 4m", unanswered = "2s", answered = "3m" }
rollback = { enabled = false, max_excess = 2.5, min_connections = 100 }
signals = []
"#,
    );
    let dns = Service {
        name: "dns".to_owned(),
        listen: address("[2001:db8::53]:53"),
        protocol: Protocol::Udp,
        stable: vec![backend("[2001:db8::1]:53", 1), backend("[2001:db8::2]:53", 1000)],
        canary: vec![backend("[2001:db8::3]:53", 0), backend("[2001:db8::4]:53", 1)],
        weight: 0.001,
        affinity: Affinity::Client,
        seed: "spring".to_owned(),
        table_size: 131_071,
        timeouts: Timeouts {
            half_open: Duration::from_secs(1),
            established: Duration::from_secs(7 * 86_400),
            closing: Duration::from_secs(7440),
            unanswered: Duration::from_secs(2),
            answered: Duration::from_secs(180),
        },
        rollback: Rollback { enabled: false, max_excess: 0.025, min_connections: 100 },
        rollout: None,
        evidence: nothing_watched(),
        health: [Health::default(), Health::default()],
        steer: Vec::new(),
        signals: 0,
    };
    let expected = Config {
        interfaces: vec!["eth0".to_owned(), "eth1".to_owned()],
        xdp_mode: XdpMode::Generic,
        flows: 8_388_608,
        socket: PathBuf::from("/run/c.sock"),
        socket_access: SocketAccess {
            group: Some("ops".to_owned()),
            read_group: Some("998".to_owned()),
            configured_mode: Some(0o666),
        },
        bpffs: PathBuf::from("/sys/fs/bpf/c"),
        state_dir: PathBuf::from("/srv/c"),
        metrics: Metrics {
            listen: Some(address("[::1]:9000")),
            textfile: Some(PathBuf::from("/var/lib/node_exporter/c.prom")),
            textfile_interval: Duration::from_secs(60),
            histograms: Histograms::Coarse,
        },
        log: Log { target: LogTarget::Journald, data_plane: true },
        signals: Signals::HTTP | Signals::LATENCY,
        services: vec![dns],
    };
    assert_eq!(config, expected);
}

#[test]
fn ways_to_write_a_share() {
    let cases = [
        ("\"5%\"", 0.05),
        ("\"5 %\"", 0.05),
        ("\"0.1%\"", 0.001),
        ("5", 0.05),
        ("0.1", 0.001),
        ("0", 0.0),
        ("100", 1.0),
        ("\"100%\"", 1.0),
        ("12.5", 0.125),
    ];
    for (written, fraction) in cases {
        let text = format!("{SHORT}canary = [\"10.0.0.21:8080\"]\nweight = {written}\n");
        assert_eq!(good(&text).services[0].weight, fraction, "{written}");
    }
}

#[test]
fn defaults_for_all_services_and_what_a_service_says_over_them() {
    let config = good(&format!(
        "timeouts.established = \"1h\"\ntimeouts.closing = \"5s\"\nrollback.min_connections = 7\n\
         {SHORT}timeouts.closing = \"6s\"\nrollback.enabled = false\n\
         [service.api]\nlisten = \"203.0.113.10:81\"\nstable = [\"10.0.0.11:8080\"]\n"
    ));
    let [api, web] = config.services.as_slice() else { panic!("{config:?}") };
    assert_eq!((api.name.as_str(), web.name.as_str()), ("api", "web"), "sorted by name");
    let hour = Duration::from_secs(3600);
    assert_eq!((api.timeouts.established, web.timeouts.established), (hour, hour));
    assert_eq!(api.timeouts.closing, Duration::from_secs(5));
    assert_eq!(web.timeouts.closing, Duration::from_secs(6));
    assert_eq!((api.rollback.enabled, api.rollback.min_connections), (true, 7));
    assert_eq!((web.rollback.enabled, web.rollback.min_connections), (false, 7));
}

#[test]
fn metrics_off() {
    assert_eq!(good(&format!("metrics.listen = \"off\"\n{SHORT}")).metrics.listen, None);
}

#[test]
fn line_ends_of_other_systems() {
    assert_eq!(good(&SHORT.replace('\n', "\r\n")), good(SHORT));
    assert_eq!(good(&format!("\u{feff}{SHORT}")), good(SHORT));
}
