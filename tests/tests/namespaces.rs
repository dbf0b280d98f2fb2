//! End to end: real servers and clients in network namespaces, `canary run`
//! on veths, the command line beside it. One at a time; nothing stays behind.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use canary::{
    api::types::{BackendStatus, Where},
    stats::binomial_interval,
};
use canary_tests::lab::{
    Behaviour, Holders, Lab, Load, LoadReport, Nginx, Outcome, Process, Stage, VIP_V4, VIP_V6,
    address, all_answered, answered, at, fetch, find, wait_for,
};

/// 99.9 %, two-sided.
const Z: f64 = 3.29;

fn split_holds(bed: &Stage, service: &str, vip: &str, percent: &str, total: u64) -> Result<()> {
    bed.daemon.cli(&["weight", service, percent])?;
    let split = bed.configured(service)?;
    let before = bed.backend(service, "canary")?.counters.connections;
    let report = Load::start(&bed.lab, address(vip), 20_000, total).finish()?;
    let canary = all_answered(&report, total)?;
    let counted = bed.backend(service, "canary")?.counters.connections - before;
    ensure!(counted == canary, "canary counted {counted}, its clients {canary}");
    let (low, high) = binomial_interval(canary, total, Z);
    ensure!(low <= split && split <= high, "{canary} of {total} is not {percent}");
    Ok(())
}

#[test]
fn splits_hold_over_real_connections() {
    let body = || {
        let bed = Stage::new("split", "", "")?;
        for percent in ["1%", "10%", "50%"] {
            split_holds(&bed, "web", VIP_V4, percent, 20_000)?;
        }
        split_holds(&bed, "web", VIP_V4, "0%", 2000)?;
        ensure!(bed.daemon.status()?.services[0].split.actual == Some(0.0));
        split_holds(&bed, "web6", VIP_V6, "10%", 20_000)?;
        bed.end()
    };
    body().unwrap();
}

#[test]
fn connections_live_through_everything() {
    let body = || {
        let bed = Stage::new("live", "", "")?;
        bed.daemon.cli(&["weight", "web", "30%"])?;
        let every = Duration::from_millis(500);
        let holders = Holders::start(&bed.lab, address(VIP_V4), 50, every)?;
        // Not a packet after the first two answers, until all is over.
        let hour = Duration::from_secs(3600);
        let idle = Holders::start(&bed.lab, address(VIP_V4), 200, hour)?;
        let url = format!("http://{VIP_V4}/large");
        let mut download = bed.lab.on("client", "curl");
        download.args(["-sS", "-o", "/dev/null", "-w", "%{size_download}", &url]);
        let download = std::thread::spawn(move || download.output());
        let begun = Instant::now();
        let text = std::fs::read_to_string(&bed.daemon.config)?;
        let s1 = Lab::backend("s1", false);
        for round in 0.. {
            if begun.elapsed() > Duration::from_secs(32) && download.is_finished() {
                break;
            }
            bed.daemon.cli(&["weight", "web", ["0%", "1%", "100%", "50%"][round % 4]])?;
            bed.daemon.cli(&["drain", "web", &s1])?;
            std::thread::sleep(Duration::from_millis(300));
            bed.daemon.cli(&["drain", "web", &s1, "--undo"])?;
            let weight = format!("stable = [\n{{ address = {s1:?}, weight = {} }},", 1 + round % 5);
            let changed = text.replacen(&format!("stable = [{s1:?},"), &weight, 1);
            std::fs::write(&bed.daemon.config, changed)?;
            bed.daemon.cli(&["reload"])?;
            std::thread::sleep(Duration::from_millis(300));
        }
        let downloaded = download.join().unwrap()?;
        ensure!(
            downloaded.status.success() && downloaded.stdout == (45 << 20).to_string().as_bytes()
        );
        for held in [holders, idle] {
            let report = held.stop()?;
            ensure!(report.cut.is_empty() && report.moved == 0, "{report:?}");
            ensure!(report.on.len() == 3, "all three servers hold some: {:?}", report.on);
        }
        // A drain is over when its last connection is.
        bed.daemon.cli(&["drain", "web", "canary", "--wait", "--timeout", "20s"])?;
        ensure!(bed.backend("web", "canary")?.state == "drained");
        bed.end()
    };
    body().unwrap();
}

/// Breaks the canary under load; the daemon must take it out, and stable, with
/// the connections that it holds, must see nothing of it.
fn rolls_back(
    name: &str,
    (service, vip): (&str, &str),
    fault: impl FnOnce(&mut Nginx) -> Result<()>,
) -> Result<BackendStatus> {
    let mut bed = Stage::new(name, "", "")?;
    bed.daemon.cli(&["weight", service, "20%"])?;
    let held = Holders::start(&bed.lab, address(vip), 50, Duration::from_millis(100))?;
    let load = Load::start(&bed.lab, address(vip), 400, u64::MAX);
    std::thread::sleep(Duration::from_secs(2));
    ensure!(bed.configured(service)? > 0.0, "a good canary was taken out");
    fault(bed.canary_server())?;
    wait_for("the rollback", Duration::from_secs(15), || {
        bed.configured(service).is_ok_and(|split| split == 0.0)
    })?;
    std::thread::sleep(Duration::from_millis(500));
    let before = load.so_far();
    std::thread::sleep(Duration::from_secs(1));
    let after = load.stop()?;
    ensure!(answered(&after, "c1") == answered(&before, "c1"), "the canary still gets some");
    let failed = |report: &LoadReport| {
        let all = report.iter().filter(|(outcome, _)| !matches!(outcome, Outcome::Answered(_)));
        all.map(|(_, count)| count).sum::<u64>()
    };
    ensure!(failed(&after) == failed(&before), "failures go on: {after:?}");
    let report = held.stop()?;
    ensure!(report.on.len() == 3, "all three servers hold some: {:?}", report.on);
    ensure!(report.moved == 0, "{report:?}");
    ensure!(report.cut.iter().all(|cut| cut.server == "c1"), "stable's were cut: {report:?}");
    let status = bed.daemon.status()?;
    let rolled_back = status.services.iter().filter(|s| s.rollout.reason.contains("rolled back"));
    let names: Vec<_> = rolled_back.map(|s| s.name.as_str()).collect();
    ensure!(names == [service], "{status:?}");
    let stable = find(&status, service, "stable")?.counters;
    ensure!(stable.refused + stable.resets_backend == 0, "{stable:?}");
    let canary = find(&status, service, "canary")?;
    bed.end()?;
    Ok(canary)
}

#[test]
fn a_stopped_canary_is_taken_out() {
    let canary = rolls_back("refuse", ("web6", VIP_V6), |server| {
        server.stop();
        Ok(())
    });
    assert!(canary.unwrap().counters.refused > 0);
}

#[test]
fn a_resetting_canary_is_taken_out() {
    let canary = rolls_back("reset", ("web", VIP_V4), |server| server.behave(Behaviour::Resetting));
    assert!(canary.unwrap().counters.resets_backend > 0);
}

/// Connections of service web, by its metrics.
fn connections(text: &str) -> u64 {
    let samples = text.lines().filter(|line| {
        line.starts_with("canary_connections_total{") && line.contains("service=\"web\"")
    });
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// A cell is read for as long as a connection that was born under it lives, and
/// here one does under each of these splits: all that is told of them is what
/// the clients saw, while they live and after.
#[test]
fn counts_of_many_cells_are_the_clients() {
    const SPLITS: usize = 20;
    let body = || {
        let bed = Stage::new("cells", "", "")?;
        let mut held = Vec::new();
        for split in 0..SPLITS {
            bed.daemon.cli(&["weight", "web", &format!("{}%", 30 + split)])?;
            let hour = Duration::from_secs(3600);
            held.push(Holders::start(&bed.lab, address(VIP_V4), 6, hour)?);
        }
        let told = || -> Result<BTreeMap<String, (u64, u64, usize)>> {
            let status = bed.daemon.status()?;
            let url = "http://127.0.0.1:9871/metrics";
            let metrics = bed.lab.command("lb", "curl", &["-sS", url])?;
            let mut told = BTreeMap::new();
            for host in ["s1", "s2", "c1"] {
                let backend = Lab::backend(host, false);
                let mut all = status.services[0].tracks.iter().flat_map(|track| &track.backends);
                let shown = all.find(|shown| shown.address == backend).context("a backend")?;
                let measured = metrics.lines().filter(|line| line.contains(&backend));
                let measured = connections(&measured.collect::<Vec<_>>().join("\n"));
                let counted = shown.counters.connections;
                ensure!(measured == counted, "{host}: {counted} in status, {measured} in metrics");
                let times = shown.handshake_seconds.count;
                told.insert(host.to_owned(), (counted, times, shown.counters.active as usize));
            }
            Ok(told)
        };
        let living = told()?;
        let actual = bed.daemon.status()?.services[0].split.actual;
        let mut last = 0;
        let mut on = BTreeMap::<String, u64>::new();
        for held in held {
            let report = held.stop()?;
            ensure!(report.cut.is_empty() && report.moved == 0, "{report:?}");
            last = report.on.get("c1").copied().unwrap_or(0);
            report.on.into_iter().for_each(|(server, some)| *on.entry(server).or_default() += some);
        }
        ensure!(on.values().sum::<u64>() == 6 * SPLITS as u64, "{on:?}");
        // Of the split in force alone.
        ensure!(actual == Some(last as f64 / 6.0), "{actual:?} to the canary, its clients {last}");
        for (host, (counted, times, active)) in &living {
            let seen = on.get(host).copied().unwrap_or(0);
            ensure!(
                *counted == seen && *times == seen && *active == seen as usize,
                "{host}: its clients {seen}, {counted} with {times} times, {active} active"
            );
        }
        wait_for("the end of them", Duration::from_secs(10), || {
            told().is_ok_and(|told| told.values().all(|(_, _, active)| *active == 0))
        })?;
        for (host, (counted, times, _)) in told()? {
            let before = &living[&host];
            ensure!((counted, times) == (before.0, before.1), "{host}: {before:?}, {counted}");
        }
        bed.end()
    };
    body().unwrap();
}

#[test]
fn a_drained_backend_gets_nothing_new() {
    let body = || {
        let bed = Stage::new("drain", "", "")?;
        for (service, vip, v6) in [("web", VIP_V4, false), ("web6", VIP_V6, true)] {
            bed.daemon.cli(&["weight", service, "20%"])?;
            let every = Duration::from_millis(200);
            let held = Holders::start(&bed.lab, address(vip), 30, every)?;
            let on_s1 = |count: u64| {
                let report = Load::start(&bed.lab, address(vip), 2000, count).finish()?;
                all_answered(&report, count)?;
                Ok::<_, anyhow::Error>(answered(&report, "s1"))
            };
            let s1 = Lab::backend("s1", v6);
            bed.daemon.cli(&["drain", service, &s1])?;
            ensure!(bed.backend(service, "stable")?.state == "draining");
            ensure!(on_s1(1000)? == 0, "a draining backend got new connections");
            bed.daemon.cli(&["drain", service, &s1, "--undo"])?;
            ensure!(on_s1(1000)? > 200, "it is not back in use");
            bed.daemon.cli(&["drain", service, "canary"])?;
            let report = Load::start(&bed.lab, address(vip), 2000, 500).finish()?;
            ensure!(all_answered(&report, 500)? == 0, "a draining track got new connections");
            let report = held.stop()?;
            ensure!(report.cut.is_empty() && report.moved == 0, "{report:?}");
        }
        bed.end()
    };
    body().unwrap();
}

#[test]
fn metrics_are_served_and_sound() {
    let body = || {
        let bed = Stage::new("metrics", "", "")?;
        Load::start(&bed.lab, address(VIP_V4), 1000, 100).finish()?;
        let textfile = bed.lab.directory.join("textfile");
        let check = |text: &str, what: &str| {
            ensure!(text.contains("canary_connections_total{"), "{what} has no connections");
            let path = bed.lab.directory.join("checked");
            std::fs::write(&path, text)?;
            let command = format!("promtool check metrics < {}", path.display());
            let said = bed.lab.command("lb", "sh", &["-c", &command])?;
            ensure!(said.is_empty(), "promtool on {what}: {said}");
            Ok(())
        };
        let url = "http://127.0.0.1:9871/metrics";
        check(&bed.lab.command("lb", "curl", &["-sS", url])?, "/metrics")?;
        let prom = textfile.join("canary.prom");
        wait_for("all connections in the textfile", Duration::from_secs(10), || {
            std::fs::read_to_string(&prom).is_ok_and(|text| connections(&text) == 100)
        })?;
        check(&std::fs::read_to_string(&prom)?, "the textfile")?;
        let mut exporter = bed.lab.on("lb", "prometheus-node-exporter");
        exporter
            .arg("--collector.disable-defaults")
            .arg("--collector.textfile")
            .arg(format!("--collector.textfile.directory={}", textfile.display()))
            .arg("--web.listen-address=127.0.0.1:9100")
            .stderr(std::process::Stdio::null());
        let _exporter = Process::start(&mut exporter)?;
        let url = "http://127.0.0.1:9100/metrics";
        wait_for("node_exporter", Duration::from_secs(10), || {
            let served = bed.lab.command("lb", "curl", &["-sS", url]);
            served.is_ok_and(|text| connections(&text) == 100)
        })?;
        bed.end()
    };
    body().unwrap();
}

#[test]
fn where_says_what_happens() {
    let body = || {
        let bed = Stage::new("where", "", "")?;
        bed.daemon.cli(&["weight", "web", "40%"])?;
        let client = Lab::address("client", false);
        for port in 30_000..30_200 {
            let asked = format!("{client}:{port}");
            let answer = bed.daemon.cli(&["where", "web", &asked, "--json"])?;
            let answer: Where = serde_json::from_str(&answer)?;
            let port = port.to_string();
            let url = format!("http://{VIP_V4}/");
            let server =
                bed.lab.command("client", "curl", &["-sS", "--local-port", &port, &url])?;
            let expected = Lab::backend(server.trim(), false);
            ensure!(answer.backend == Some(expected.clone()), "{answer:?}, but {expected}");
        }
        bed.end()
    };
    body().unwrap();
}

#[test]
fn generic_mode_works_too() {
    let body = || {
        let bed = Stage::new("generic", "xdp_mode = \"generic\"", "")?;
        bed.daemon.cli(&["weight", "web", "50%"])?;
        let report = Load::start(&bed.lab, address(VIP_V4), 2000, 1000).finish()?;
        ensure!(all_answered(&report, 1000)? > 300, "{report:?}");
        // Frames of more than a packet are nothing for generic mode.
        for host in ["client", "s1", "s2", "c1"] {
            bed.lab.command(host, "ethtool", &["-K", "eth0", "tso", "off", "gso", "off"])?;
        }
        let url = format!("http://{VIP_V4}/large");
        let part =
            ["-sS", "-m", "20", "-o", "/dev/null", "-r", "0-2999999", "-w", "%{size_download}"];
        let got = bed.lab.command("client", "curl", &[&part[..], &[&url]].concat())?;
        ensure!(got == "3000000", "{got} of 3000000 bytes came");
        bed.end()
    };
    body().unwrap();
}

#[test]
fn one_arm_is_enough() {
    let body = || {
        let bed = Stage::in_lab(Lab::one_arm("arm")?, "", "")?;
        for (service, vip) in [("web", VIP_V4), ("web6", VIP_V6)] {
            split_holds(&bed, service, vip, "50%", 2000)?;
        }
        bed.end()
    };
    body().unwrap();
}

#[test]
fn traffic_outlives_the_daemon() {
    let body = || {
        let mut bed = Stage::new("restart", "", "")?;
        bed.daemon.cli(&["weight", "web", "25%"])?;
        let every = Duration::from_millis(200);
        let holders = Holders::start(&bed.lab, address(VIP_V4), 50, every)?;
        let load = Load::start(&bed.lab, address(VIP_V4), 300, u64::MAX);
        for _ in 0..5 {
            bed.daemon.kill();
            std::thread::sleep(Duration::from_millis(300));
            let while_away = at(&bed.lab, "client", || fetch(address(VIP_V4)))?;
            ensure!(matches!(while_away, Outcome::Answered(_)), "{while_away:?}");
            bed.daemon.restart(&bed.lab)?;
            ensure!((bed.configured("web")? - 0.25).abs() < 1e-9, "the split was lost");
        }
        let bpffs = bed.lab.bpffs().display().to_string();
        let nobody = Path::new("/nowhere");
        let detach = ["detach", "--bpffs", &bpffs];
        let refused = bed.daemon.cli_with(nobody, &detach).map_err(|error| error.to_string());
        let holder = format!("in use by a canary that runs as {}", bed.daemon.pid()?);
        ensure!(refused.as_ref().is_err_and(|text| text.contains(&holder)), "{refused:?}");
        let report = load.stop()?;
        let total = report.values().sum();
        all_answered(&report, total)?;
        let report = holders.stop()?;
        ensure!(report.cut.is_empty() && report.moved == 0, "{report:?}");
        bed.daemon.kill();
        let removed = bed.daemon.cli_with(nobody, &detach)?;
        ensure!(removed.contains("detached from 4 interface(s)"), "{removed}");
        bed.daemon.restart(&bed.lab)?;
        bed.end()
    };
    body().unwrap();
}
