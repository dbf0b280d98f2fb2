//! The signals against witnesses that know nothing of canary: tcpdump on the
//! backends' wires, nginx's own log, and the clients. 10,000 requests and
//! servers that fail in every way there is a counter for; all counts are equal
//! and all quantiles within a bucket, or this fails.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use canary::api::{
    client::Client,
    types::{BackendStatus, Flows, Status, Times},
};
use canary_common::{Histogram, Ticks};
use canary_tests::lab::{
    Behaviour, Daemon, DelayLine, Lab, Nginx, PORT, Process, VIP_V4, VIP_V6, config, wait_for,
};
use serde::Deserialize;
use serde_json::Value;

/// Each behind a router, where tcpdump listens, and a long link.
const BACKENDS: [(&str, &str); 3] = [("s1", "w1"), ("s2", "w2"), ("c1", "w3")];
/// All of web's, over both families.
const REQUESTS: u32 = 10_000;
/// Of them, those that find nobody listening on the canary's port.
const REFUSED_PHASE: u32 = 800;
const THREADS: u32 = 8;
/// One in so many of the servers' packets does not reach the client.
const LOST: u32 = 40;
/// Longer than a lost FIN is waited for before it is sent again.
const QUIET: Duration = Duration::from_secs(2);
/// The failing servers, all on w1, whose ports follow from the first one's.
/// The last one's SYNs are dropped.
const SERVICES: [&str; 6] = ["slow", "silent", "alert", "reluctant", "generous", "void"];
const FAILING: u16 = 8101;
/// How clients fail there: the service, how they go about it, how many
/// connections, how many at once.
const FAILURES: [(&str, &str, u32, u32); 7] = [
    ("slow", "slow", 24, 12),
    ("silent", "silent", 12, 3),
    ("alert", "alert", 40, 4),
    ("alert", "alerting", 30, 3),
    ("reluctant", "upload", 4, 4),
    ("generous", "download", 4, 4),
    ("void", "void", 15, 5),
];

/// What must be equal, wherever one side has it.
const COUNTS: [&str; 27] = [
    "connections",
    "established",
    "closed",
    "refused",
    "resets_backend",
    "resets_client",
    "resets_backend_after_data",
    "resets_client_after_data",
    "resets_backend_after_fin",
    "resets_client_after_fin",
    "syn_retransmits",
    "retransmits_backend",
    "retransmits_client",
    "zero_windows_backend",
    "zero_windows_client",
    "http_1xx",
    "http_2xx",
    "http_3xx",
    "http_4xx",
    "http_5xx",
    "connections_5xx",
    "tls_alerts_backend",
    "tls_alerts_client",
    "handshake_timeouts",
    "idle_cuts",
    "packets_out",
    "bytes_out",
];
/// The same where requests are small: a long upload's segments reach the
/// router's wire merged (GRO).
const COUNTS_IN: [&str; 2] = ["packets_in", "bytes_in"];

/// What a capture says of one server.
#[derive(Debug, Deserialize)]
struct Witness {
    counts: BTreeMap<String, u64>,
    /// Seconds, in order.
    handshake: Vec<f64>,
    first_byte: Vec<f64>,
}

/// Rows of ours, theirs and their difference.
#[derive(Default)]
struct Table {
    rows: Vec<(String, String, String, f64)>,
    /// Over all servers: ours, theirs, and the largest difference at one.
    sums: BTreeMap<String, [u64; 3]>,
    wrong: Vec<String>,
}

impl Table {
    fn count(&mut self, at: &str, what: &str, ours: u64, theirs: u64) {
        let sums = self.sums.entry(what.to_owned()).or_default();
        *sums = [sums[0] + ours, sums[1] + theirs, sums[2].max(ours.abs_diff(theirs))];
        let what = format!("{at} {what}");
        if ours != theirs {
            self.wrong.push(format!("{what}: {ours}, and {theirs} by the witness"));
        }
        let difference = ours as f64 - theirs as f64;
        self.rows.push((what, ours.to_string(), theirs.to_string(), difference));
    }

    /// Quantiles in milliseconds; the difference is in buckets.
    fn quantiles(&mut self, at: &str, what: &str, ours: &Times, theirs: &[f64]) {
        self.count(at, &format!("{what} times"), ours.count, theirs.len() as u64);
        for (name, q, ours) in
            [("p50", 0.5, ours.p50), ("p90", 0.9, ours.p90), ("p99", 0.99, ours.p99)]
        {
            let theirs = theirs.get((q * theirs.len() as f64) as usize);
            let (Some(ours), Some(&theirs)) = (ours, theirs) else { continue };
            // Ours is the bound above its bucket.
            let bucket =
                |seconds: f64| Histogram::bucket((seconds / Ticks::seconds(1)).round() as u32);
            let apart = bucket(ours) as f64 - 1.0 - bucket(theirs) as f64;
            if apart.abs() > 1.0 {
                self.wrong.push(format!("{at} {what} {name}: {ours}, and {theirs} by the witness"));
            }
            let ms = |seconds: f64| format!("{:.3} ms", seconds * 1e3);
            self.rows.push((format!("{at} {what} {name}"), ms(ours), ms(theirs), apart));
        }
    }

    fn print(&self) {
        println!("{:<44} {:>14} {:>14} {:>10}", "", "ours", "theirs", "difference");
        for (what, ours, theirs, difference) in &self.rows {
            println!("{what:<44} {ours:>14} {theirs:>14} {difference:>10}");
        }
        println!("\n{:<44} {:>14} {:>14} {:>10}", "all servers", "ours", "theirs", "largest");
        for (what, [ours, theirs, difference]) in &self.sums {
            println!("{what:<44} {ours:>14} {theirs:>14} {difference:>10}");
        }
    }
}

/// tcpdump on a router towards a backend.
struct Capture {
    process: Child,
    file: PathBuf,
}

impl Capture {
    fn start(lab: &Lab, host: &str) -> Result<Self> {
        let file = lab.directory.join(format!("{host}.pcap"));
        let mut tcpdump = lab.on(host, "tcpdump");
        // Headers and a response's first line.
        tcpdump.args(["-i", "eth0", "-s", "160", "-B", "32768", "--time-stamp-precision=nano"]);
        // Else what came in its last second is not in the file.
        tcpdump.arg("--immediate-mode");
        tcpdump.args(["-Z", "root", "-U", "-w"]).arg(&file).arg("tcp").stderr(Stdio::piped());
        let mut process = tcpdump.spawn()?;
        let mut said = String::new();
        let mut lines = BufReader::new(process.stderr.take().context("a pipe")?);
        lines.read_line(&mut said)?;
        ensure!(said.contains("listening on eth0"), "tcpdump: {said}");
        process.stderr = Some(lines.into_inner());
        Ok(Self { process, file })
    }

    /// What it says of these servers; none of the packets may be missing.
    fn end(self, servers: &[&str]) -> Result<BTreeMap<String, Witness>> {
        // SAFETY: a signal to a child of ours.
        unsafe { libc::kill(i32::try_from(self.process.id())?, libc::SIGINT) };
        let output = self.process.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(said.contains("\n0 packets dropped by kernel"), "tcpdump: {said}");
        let analysis = std::process::Command::new("python3")
            .arg(script("analyse.py"))
            .arg(&self.file)
            .args(servers)
            .output()?;
        let error = String::from_utf8_lossy(&analysis.stderr);
        ensure!(analysis.status.success(), "analyse.py: {error}");
        Ok(serde_json::from_slice(&analysis.stdout)?)
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("witness").join(name)
}

/// Clients, to their end; what they saw.
fn clients(lab: &Lab, mode: &str, vip: &str, count: u32, threads: u32) -> Result<Value> {
    let mut process = start_clients(lab, mode, vip, count, threads)?;
    let mut line = String::new();
    BufReader::new(process.stdout.take().context("a pipe")?).read_line(&mut line)?;
    ensure!(!line.is_empty(), "the {mode} clients failed");
    if mode != "silent" {
        process.wait()?;
    }
    // The silent ones' connections stay as they are until the lab goes.
    Ok(serde_json::from_str(&line)?)
}

fn start_clients(lab: &Lab, mode: &str, vip: &str, count: u32, threads: u32) -> Result<Child> {
    let (host, port) = vip.rsplit_once(':').context("a port")?;
    let host = host.trim_matches(['[', ']']);
    let mut python = lab.on("client", "python3");
    python.arg(script("client.py")).args([mode, host, port]);
    python.args([count, threads, 7].map(|number| number.to_string())).stdout(Stdio::piped());
    Ok(python.spawn()?)
}

/// A failing service's place among them.
fn place(service: &str) -> u16 {
    SERVICES.iter().position(|name| *name == service).unwrap() as u16
}

fn failing_vip(service: &str) -> String {
    format!("203.0.113.{}:80", 20 + place(service))
}

fn failing_port(service: &str) -> u16 {
    FAILING + place(service)
}

/// Two services with a canary, and one for each way to fail.
fn configuration(lab: &Lab) -> String {
    let extra = "weight = \"30%\"\nrollback = { enabled = false }";
    let mut text = config(lab, "", extra);
    for (near, far) in BACKENDS {
        for v6 in [false, true] {
            text = text.replace(&Lab::backend(near, v6), &Lab::backend(far, v6));
        }
    }
    for service in SERVICES {
        let port = failing_port(service);
        let timeouts = match service {
            "silent" => "half_open = \"2s\", established = \"2s\"",
            "void" => "half_open = \"2s\"",
            _ => "half_open = \"1m\"",
        };
        text += &format!(
            "\n[service.{service}]\nlisten = {:?}\nstable = [\"{}:{port}\"]\n\
             timeouts = {{ {timeouts} }}\n",
            failing_vip(service),
            Lab::address("w1", false)
        );
    }
    text
}

/// Packets that get lost before the client, and SYNs before the void server.
fn lose_packets(lab: &Lab) -> Result<()> {
    let rule = |host: &str, rule: &str| {
        lab.command(host, "nft", &["add table inet cny"])?;
        let chain = "add chain inet cny in { type filter hook input priority 0; }";
        lab.command(host, "nft", &[chain])?;
        lab.command(host, "nft", &[&format!("add rule inet cny in {rule} drop")])
    };
    rule("client", &format!("tcp sport 80 numgen random mod {LOST} == 0"))?;
    rule("w1", &format!("tcp dport {}", failing_port("void")))?;
    Ok(())
}

/// The failing servers, all on w1.
fn failing_servers(lab: &Lab) -> Result<Process> {
    let mut python = lab.on("w1", "python3");
    python.arg(script("servers.py")).arg(FAILING.to_string());
    let log = lab.directory.join("servers");
    let process = Process::start(python.stdout(fs::File::create(&log)?))?;
    wait_for("the failing servers", Duration::from_secs(10), || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("listening"))
    })?;
    Ok(process)
}

/// Every request and every failure; what the clients of `web` and `web6` saw.
fn traffic(lab: &Lab, servers: &mut Vec<Nginx>) -> Result<BTreeMap<String, u64>> {
    let mut saw = BTreeMap::new();
    let mut both = |count: u32| -> Result<()> {
        let threads = THREADS / 2;
        let web6 = start_clients(lab, "http", VIP_V6, count / 2, threads)?;
        let web = clients(lab, "http", VIP_V4, count / 2, threads)?;
        let web6: Value = serde_json::from_slice(&web6.wait_with_output()?.stdout)?;
        for counts in [web, web6] {
            for (what, count) in counts.as_object().context("counts")? {
                *saw.entry(what.clone()).or_default() += count.as_u64().context("a count")?;
            }
        }
        Ok(())
    };
    both(REFUSED_PHASE)?;
    servers.push(Nginx::start_as(lab, "w3", Behaviour::FailingByPath)?);
    std::thread::scope(|scope| {
        let failures = scope.spawn(|| {
            for (service, mode, count, threads) in FAILURES {
                let said = clients(lab, mode, &failing_vip(service), count, threads)?;
                println!("{mode}: {said}");
            }
            anyhow::Ok(())
        });
        both(REQUESTS - REFUSED_PHASE)?;
        failures.join().unwrap()
    })?;
    Ok(saw)
}

fn backends(status: &Status) -> impl Iterator<Item = (&str, &BackendStatus)> {
    status.services.iter().flat_map(|service| {
        let backends = service.tracks.iter().flat_map(|track| &track.backends);
        backends.map(|backend| (service.name.as_str(), backend))
    })
}

/// The counters when every connection is over and nothing moves any more.
fn settle(daemon: &Daemon) -> Result<Status> {
    let mut status = daemon.status()?;
    wait_for("all connections to end", Duration::from_secs(60), || {
        std::thread::sleep(QUIET);
        daemon.status().is_ok_and(|now| {
            let quiet = now.services == status.services;
            status = now;
            quiet && all_over(daemon, &status).unwrap_or(false)
        })
    })?;
    Ok(status)
}

/// No flow is in any state but the last.
fn all_over(daemon: &Daemon, status: &Status) -> Result<bool> {
    for service in &status.services {
        let path = format!("/v1/services/{}/flows?limit=100000", service.name);
        let flows: Flows = Client::new(&daemon.socket).get(&path)?;
        if flows.flows.iter().any(|flow| flow.state != "closing") {
            return Ok(false);
        }
    }
    Ok(true)
}

#[test]
fn witnesses_agree() {
    let body = || -> Result<()> {
        let lab = Lab::new("witness")?;
        let lines = BACKENDS.map(|(near, far)| DelayLine::between(&lab, near, far));
        let _lines = lines.into_iter().collect::<Result<Vec<_>>>()?;
        let mut servers = Vec::new();
        for host in ["w1", "w2"] {
            servers.push(Nginx::start_as(&lab, host, Behaviour::FailingByPath)?);
        }
        let _failing = failing_servers(&lab)?;
        let daemon = Daemon::start(&lab, &configuration(&lab))?;
        lose_packets(&lab)?;
        let captures = BACKENDS.map(|(near, _)| Capture::start(&lab, near));
        let captures = captures.into_iter().collect::<Result<Vec<_>>>()?;

        let saw = traffic(&lab, &mut servers)?;
        println!("clients: {saw:?}");
        let status = settle(&daemon)?;

        let mut table = Table::default();
        for ((_, far), capture) in BACKENDS.into_iter().zip(captures) {
            compare(&mut table, &status, far, capture)?;
        }
        compare_logs(&mut table, &lab, &status)?;
        compare_clients(&mut table, &status, &saw);
        table.print();
        ensure!(table.wrong.is_empty(), "{}", table.wrong.join("\n"));
        ensure!(saw["requests"] == u64::from(REQUESTS), "{saw:?}");
        everything_happened(&status)?;
        daemon.cli(&["detach"]).map(drop)
    };
    body().unwrap();
}

/// One host's backends against what tcpdump saw on its wire.
fn compare(table: &mut Table, status: &Status, far: &str, capture: Capture) -> Result<()> {
    let ours = |address: &str| {
        let at: Result<SocketAddr, _> = address.parse();
        let ip = at.map_or_else(|_| String::new(), |at| at.ip().to_string());
        [false, true].iter().any(|&v6| ip == Lab::address(far, v6))
    };
    let here: Vec<_> = backends(status).filter(|(_, b)| ours(&b.address)).collect();
    let names: Vec<_> = here.iter().map(|(_, b)| b.address.as_str()).collect();
    let said = capture.end(&names)?;
    for (service, backend) in here {
        let witness = &said[&backend.address];
        let at = format!("{service} {far}");
        let counted = serde_json::to_value(backend.counters)?;
        let small: &[&str] = if service == "reluctant" { &[] } else { &COUNTS_IN };
        for &what in COUNTS.iter().chain(small) {
            let ours = counted[what].as_u64().with_context(|| what.to_owned())?;
            let theirs = witness.counts.get(what).copied().unwrap_or(0);
            if ours != 0 || theirs != 0 {
                table.count(&at, what, ours, theirs);
            }
        }
        table.quantiles(&at, "handshake", &backend.handshake_seconds, &witness.handshake);
        table.quantiles(&at, "first byte", &backend.first_byte_seconds, &witness.first_byte);
    }
    Ok(())
}

/// nginx's logs: responses by class, and connections it reset (444).
fn compare_logs(table: &mut Table, lab: &Lab, status: &Status) -> Result<()> {
    for (_, far) in BACKENDS {
        let log = fs::read_to_string(lab.directory.join(far).join("access.log"))?;
        let here = [false, true].map(|v6| Lab::backend(far, v6));
        let counted = |field: fn(&BackendStatus) -> u64| -> u64 {
            let here = backends(status).filter(|(_, b)| here.contains(&b.address));
            here.map(|(_, backend)| field(backend)).sum()
        };
        let logged = |first: &str, but: &str| {
            // The lab's own look whether it listens is not a client's.
            let lines = log.lines().filter(|line| !line.starts_with("127.0.0.1 "));
            let statuses = lines.filter_map(|line| line.split(' ').nth(1));
            statuses.filter(|s| s.starts_with(first) && *s != but).count() as u64
        };
        for (what, ours, theirs) in [
            ("2xx", counted(|b| b.counters.http_2xx), logged("2", "")),
            ("3xx", counted(|b| b.counters.http_3xx), logged("3", "")),
            ("4xx", counted(|b| b.counters.http_4xx), logged("4", "444")),
            ("5xx", counted(|b| b.counters.http_5xx), logged("5", "")),
            ("resets", counted(|b| b.counters.resets_backend), logged("444", "")),
        ] {
            table.count(&format!("{far}:{PORT}"), &format!("nginx's log: {what}"), ours, theirs);
        }
    }
    Ok(())
}

/// What clients know: that they were refused.
fn compare_clients(table: &mut Table, status: &Status, saw: &BTreeMap<String, u64>) {
    let web = || backends(status).filter(|(service, _)| service.starts_with("web"));
    let refused: u64 = web().map(|(_, backend)| backend.counters.refused).sum();
    let theirs = saw.get("refused").copied().unwrap_or(0);
    table.count("all clients:", "refused to clients", refused, theirs);
}

/// No counter was compared with nothing.
fn everything_happened(status: &Status) -> Result<()> {
    for what in COUNTS {
        // A RST after a FIN each way, and an interim response, are not provoked.
        if matches!(what, "resets_backend_after_fin" | "resets_client_after_fin" | "http_1xx") {
            continue;
        }
        let mut sum = 0;
        for (_, backend) in backends(status) {
            sum += serde_json::to_value(backend.counters)?[what].as_u64().context("a count")?;
        }
        ensure!(sum > 0, "{what} did not happen");
    }
    Ok(())
}
