//! Backends' health end to end: real servers that are killed, fail, hang and
//! refuse, and clients who should not notice.
#![allow(clippy::unwrap_used, reason = "tests")]

mod gone;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use canary::api::types::{BackendHealth, BackendStatus, Explanation, History, ServiceStatus};
use canary_tests::lab::{
    Holders, Lab, Load, LoadReport, Stage, VIP_V4, address, all_answered, answered, wait_for,
};

/// Checks that find out within half a second.
const SWIFT: &str = r#"health = { check = "http", path = "/healthz", interval = "100ms",
    timeout = "100ms", fall = 3, rise = 2, gone_after = "never" }"#;
const SOON: Duration = Duration::from_secs(5);
const OFTEN: Duration = Duration::from_millis(200);
const S1: usize = 0;
const S2: usize = 1;

/// In one line, as an inline table has to be.
fn inline(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

fn service(stage: &Stage) -> Result<ServiceStatus> {
    let status = stage.daemon.status()?;
    status.services.into_iter().find(|s| s.name == "web").context("the service is gone")
}

fn backend(stage: &Stage, track: &str, index: usize) -> Result<BackendStatus> {
    let tracks = service(stage)?.tracks;
    let track = tracks.into_iter().find(|t| t.name == track).context("the track is gone")?;
    track.backends.into_iter().nth(index).context("the backend is gone")
}

fn health(stage: &Stage, index: usize) -> Result<BackendHealth> {
    backend(stage, "stable", index)?.health.context("it is not watched")
}

/// Until a backend is in this state; how long that took.
fn wait_for_state(stage: &Stage, track: &str, index: usize, state: &str) -> Result<Duration> {
    let begun = Instant::now();
    let seen = || backend(stage, track, index).ok();
    wait_for(state, SOON, || seen().is_some_and(|backend| backend.state == state))
        .with_context(|| format!("{:?}\n{}", seen(), stage.daemon.said()))?;
    Ok(begun.elapsed())
}

/// So many connections, all answered.
fn load(stage: &Stage, count: u64) -> Result<LoadReport> {
    let report = Load::start(&stage.lab, address(VIP_V4), 2000, count).finish()?;
    all_answered(&report, count)?;
    Ok(report)
}

/// What `canary history` has of a backend's health, or the service's.
fn health_history(stage: &Stage, backend: &str) -> Result<Vec<String>> {
    let history: History = serde_json::from_str(&stage.daemon.cli(&["history", "web", "--json"])?)?;
    let of = history.entries.into_iter().filter(|e| e.event == "health" && e.backend == backend);
    Ok(of.map(|entry| format!("{} → {}", entry.from, entry.to)).collect())
}

#[test]
fn a_backend_that_dies_leaves_and_comes_back() {
    let body = || {
        let mut stage = Stage::new("dies", "", &inline(SWIFT))?;
        let held = Holders::start(&stage.lab, address(VIP_V4), 20, OFTEN)?;
        let report = load(&stage, 200)?;
        ensure!(answered(&report, "s1") > 0 && answered(&report, "s2") > 0, "{report:?}");
        wait_for("checks", SOON, || health(&stage, S1).is_ok_and(|h| h.checks.pass > 1))?;
        // The rest of the table stays as it is, so nobody else's clients move.
        stage.servers[S1].stop();
        let took = wait_for_state(&stage, "stable", S1, "down")?;
        eprintln!("from the server's end to its backend's out of the table: {took:?}");
        ensure!(took < Duration::from_secs(2), "{took:?}");
        let report = load(&stage, 300)?;
        ensure!(answered(&report, "s2") == 300, "{report:?}");

        let down = health(&stage, S1)?;
        let last = down.last.clone().context("a check")?;
        ensure!(!down.up && !down.gone && last.result == "unreachable", "{down:?}");
        ensure!(last.detail.contains("refused"), "{last:?}");
        let shown = stage.daemon.cli(&["status", "web"])?;
        ensure!(shown.contains("down") && shown.contains("refused"), "{shown}");
        let explained = stage.daemon.cli(&["explain", "web", "--json"])?;
        let explained: Explanation = serde_json::from_str(&explained)?;
        ensure!(explained.text.iter().any(|l| l.contains("is down")), "{explained:?}");
        let metrics = stage.lab.command("lb", "curl", &["-s", "http://127.0.0.1:9871/metrics"])?;
        let address = backend(&stage, "stable", S1)?.address;
        let labels = format!("{{service=\"web\",track=\"stable\",backend=\"{address}\"");
        for sample in [
            format!("canary_backend_up{labels}}} 0"),
            format!("canary_backend_state{labels},state=\"down\"}} 1"),
            format!("canary_backend_checks_total{labels},result=\"unreachable\"}} "),
            format!("canary_backend_check_seconds{labels}}} "),
        ] {
            ensure!(metrics.contains(&sample), "no {sample} in\n{metrics}");
        }
        // Drained is another thing.
        let other = backend(&stage, "canary", 0)?.address;
        stage.daemon.cli(&["drain", "web", &other])?;
        ensure!(backend(&stage, "canary", 0)?.state == "drained");

        stage.servers[S1].restart(&stage.lab)?;
        wait_for_state(&stage, "stable", S1, "active")?;
        let report = load(&stage, 300)?;
        ensure!(answered(&report, "s1") > 0, "{report:?}");
        let entries = health_history(&stage, &address)?;
        ensure!(entries == ["up → down", "down → up"], "{entries:?}");
        let report = held.stop()?;
        let elsewhere = report.cut.iter().filter(|cut| cut.server != "s1").count();
        ensure!(elsewhere == 0 && report.moved == 0, "{report:?}");
        stage.end()
    };
    body().unwrap();
}

/// The check may be what is wrong: connections stay, whatever it says.
#[test]
fn checks_that_fail_or_hang_cut_nobody() {
    let body = || {
        let patient = SWIFT.replace("never", "1s");
        let stage = Stage::new("sick", "", &inline(&patient))?;
        let held = Holders::start(&stage.lab, address(VIP_V4), 20, OFTEN)?;
        stage.servers[S1].be_sick(true)?;
        wait_for_state(&stage, "stable", S1, "down")?;
        let sick = health(&stage, S1)?.last.context("a check")?;
        ensure!(sick.result == "fail" && sick.detail.contains("503"), "{sick:?}");
        let report = load(&stage, 200)?;
        ensure!(answered(&report, "s2") == 200, "{report:?}");
        // Longer than `gone_after`.
        std::thread::sleep(Duration::from_millis(2500));
        ensure!(!health(&stage, S1)?.gone);
        stage.servers[S1].be_sick(false)?;
        wait_for_state(&stage, "stable", S1, "active")?;
        let report = held.stop()?;
        ensure!(report.cut.is_empty() && report.moved == 0, "{report:?}");
        ensure!(report.on.len() >= 2, "{report:?}");

        // The kernel takes connections for a server that hangs.
        stage.servers[S2].freeze(true)?;
        wait_for_state(&stage, "stable", S2, "down")?;
        let hung = health(&stage, S2)?.last.context("a check")?;
        ensure!(hung.result == "fail" && hung.detail.contains("no answer within"), "{hung:?}");
        let report = load(&stage, 200)?;
        ensure!(answered(&report, "s1") == 200, "{report:?}");
        stage.servers[S2].freeze(false)?;
        wait_for_state(&stage, "stable", S2, "active")?;
        stage.end()
    };
    body().unwrap();
}

#[test]
fn a_restart_sends_nobody_to_what_is_down() {
    let body = || {
        let mut stage = Stage::new("knows", "", &inline(SWIFT))?;
        stage.servers[S1].stop();
        wait_for_state(&stage, "stable", S1, "down")?;
        // Without a daemon the tables stay as they are.
        stage.daemon.kill();
        let report = load(&stage, 200)?;
        ensure!(answered(&report, "s2") == 200, "{report:?}");
        let running = Load::start(&stage.lab, address(VIP_V4), 500, u64::MAX);
        stage.daemon.launch(&stage.lab)?;
        wait_for("the daemon", SOON, || stage.daemon.status().is_ok())?;
        ensure!(backend(&stage, "stable", S1)?.state == "down", "{}", stage.daemon.said());
        std::thread::sleep(Duration::from_millis(500));
        let report = running.stop()?;
        let total = report.values().sum();
        all_answered(&report, total)?;
        ensure!(answered(&report, "s2") == total && total > 0, "{report:?}");
        stage.end()
    };
    body().unwrap();
}

/// A new backend may have to prove itself first.
#[test]
fn a_new_backend_that_begins_as_down_has_to_pass() {
    let body = || {
        let text = inline(&SWIFT.replace("rise = 2", "rise = 2, initial = \"down\""));
        // Nobody has passed yet, so this begins in panic, which is as good.
        let stage = Stage::new("proves", "", &text)?;
        for index in [S1, S2] {
            wait_for_state(&stage, "stable", index, "active")?;
        }
        // Away from the file, and back.
        let config = std::fs::read_to_string(&stage.daemon.config)?;
        let s1 = Lab::backend("s1", false);
        std::fs::write(&stage.daemon.config, config.replacen(&format!("\"{s1}\", "), "", 1))?;
        stage.daemon.cli(&["reload"])?;
        stage.servers[S1].be_sick(true)?;
        std::fs::write(&stage.daemon.config, config)?;
        stage.daemon.cli(&["reload"])?;
        let report = load(&stage, 200)?;
        ensure!(answered(&report, "s1") == 0, "{report:?}");
        let new = health(&stage, S1)?;
        ensure!(!new.up && new.checks.pass == 0, "{new:?}");
        stage.servers[S1].be_sick(false)?;
        wait_for_state(&stage, "stable", S1, "active")?;
        let report = load(&stage, 200)?;
        ensure!(answered(&report, "s1") > 0, "{report:?}");
        stage.end()
    };
    body().unwrap();
}

#[test]
fn panic_keeps_traffic_on_its_way() {
    let body = || {
        let mut stage = Stage::new("panic", "", &inline(SWIFT))?;
        for server in [S1, S2] {
            stage.servers[server].be_sick(true)?;
        }
        let panics = || service(&stage).is_ok_and(|s| s.tracks[0].panic);
        wait_for("panic", SOON, panics).with_context(|| stage.daemon.said())?;
        // They are down by their checks, and answer.
        let report = load(&stage, 200)?;
        ensure!(answered(&report, "s1") > 0 && answered(&report, "s2") > 0, "{report:?}");
        let status = stage.daemon.status()?;
        ensure!(status.warnings.iter().any(|w| w.contains("panic")), "{:?}", status.warnings);
        let metrics = stage.lab.command("lb", "curl", &["-s", "http://127.0.0.1:9871/metrics"])?;
        let sample = "canary_track_panic{service=\"web\",track=\"stable\"} 1";
        ensure!(metrics.contains(sample), "{metrics}");

        // The canary has stable to go to, so there is no panic there.
        stage.daemon.cli(&["weight", "web", "50%"])?;
        stage.canary_server().be_sick(true)?;
        wait_for_state(&stage, "canary", 0, "down")?;
        let report = load(&stage, 200)?;
        ensure!(answered(&report, "c1") == 0, "{report:?}");

        stage.servers[S2].be_sick(false)?;
        wait_for_state(&stage, "stable", S2, "active")?;
        ensure!(!service(&stage)?.tracks[0].panic);
        let report = load(&stage, 200)?;
        ensure!(answered(&report, "s2") == 200, "{report:?}");
        let entries = health_history(&stage, "")?;
        ensure!(entries == ["healthy → panic", "panic → healthy"], "{entries:?}");
        stage.end()
    };
    body().unwrap();
}

/// A canary that is down holds its rollout, as one without backends does.
#[test]
fn a_rollout_holds_while_its_canary_is_down() {
    let body = || {
        let steps = "rollout = { steps = [{ split = \"50%\", for = \"5m\" }] }\n";
        let mut stage = Stage::new("holds", "", &(steps.to_owned() + &inline(SWIFT)))?;
        stage.daemon.cli(&["rollout", "start", "web"])?;
        let phase = |phase: &str| service(&stage).is_ok_and(|s| s.rollout.phase == phase);
        wait_for("baking", SOON, || phase("baking"))?;
        stage.canary_server().be_sick(true)?;
        let phase = |phase: &str| service(&stage).is_ok_and(|s| s.rollout.phase == phase);
        wait_for("degraded", SOON, || phase("degraded"))?;
        let report = load(&stage, 200)?;
        ensure!(answered(&report, "c1") == 0, "{report:?}");
        // The maps have a split of 0 now, which is not to be taken for the real one.
        stage.daemon.kill();
        stage.daemon.launch(&stage.lab)?;
        wait_for("the daemon", SOON, || stage.daemon.status().is_ok())?;
        ensure!(stage.configured("web")? == 0.5, "{:?}", service(&stage));
        stage.canary_server().be_sick(false)?;
        let phase = |phase: &str| service(&stage).is_ok_and(|s| s.rollout.phase == phase);
        wait_for("baking again", SOON, || phase("baking"))
            .with_context(|| format!("{:?}", service(&stage)))?;
        let report = load(&stage, 200)?;
        ensure!(answered(&report, "c1") > 0, "{report:?}");
        stage.end()
    };
    body().unwrap();
}

/// Every other check fails: nothing moves.
#[test]
fn flapping_does_not_churn_the_tables() {
    let body = || {
        let lab = Lab::new("flaps")?;
        let counter = lab.directory.join("checks");
        let script = format!(
            "f={}-$CANARY_ADDRESS; n=$(cat $f 2>/dev/null || echo 0); echo $((n+1)) > $f; \
             exit $((n % 2))",
            counter.display()
        );
        let extra = format!(
            "health = {{ check = \"command\", command = [\"/bin/sh\", \"-c\", '{script}'], \
             interval = \"200ms\", timeout = \"200ms\", fall = 4, rise = 4 }}"
        );
        let stage = Stage::in_lab(lab, "", &extra)?;
        let enough = |h: BackendHealth| h.checks.pass >= 8 && h.checks.fail >= 8;
        stage.daemon.cli(&["weight", "web", "50%"])?;
        load(&stage, 100)?;
        let before = service(&stage)?.split.actual;
        ensure!(before.is_some());
        wait_for("checks", 3 * SOON, || health(&stage, S1).is_ok_and(enough))?;
        for index in [S1, S2] {
            let address = backend(&stage, "stable", index)?.address;
            let entries = health_history(&stage, &address)?;
            ensure!(entries.is_empty(), "{entries:?}");
            ensure!(backend(&stage, "stable", index)?.state == "active");
        }
        // Another table would begin a new epoch, in which there is none yet.
        let after = service(&stage)?.split.actual;
        ensure!(after == before, "{before:?} became {after:?}");
        stage.end()
    };
    body().unwrap();
}

#[test]
fn who_refuses_clients_is_ejected_and_one_stays() {
    let body = || {
        let eject = r#"health = { eject = { consecutive = 5, base = "2s", longest = "8s" } }"#;
        let mut stage = Stage::new("ejects", "", eject)?;
        let background = Load::start(&stage.lab, address(VIP_V4), 100, u64::MAX);
        std::thread::sleep(Duration::from_millis(300));
        stage.servers[S1].stop();
        let took = wait_for_state(&stage, "stable", S1, "ejected")?;
        eprintln!("from the server's end to its backend's ejection: {took:?}");
        let report = load(&stage, 200)?;
        ensure!(answered(&report, "s2") == 200, "{report:?}");
        let out = health(&stage, S1)?;
        ensure!(out.ejections == 1 && out.ejected_for.is_some_and(|left| left <= 2.0), "{out:?}");
        // It comes back, fails again, and is out for longer.
        let again = |h: BackendHealth| h.ejections == 2 && h.ejected_for.is_some_and(|l| l > 2.0);
        wait_for("the next", 2 * SOON, || health(&stage, S1).is_ok_and(again))
            .with_context(|| stage.daemon.said())?;
        // The other one refuses, too, and is all there is.
        stage.servers[S2].stop();
        std::thread::sleep(Duration::from_millis(1800));
        let other = health(&stage, S2)?;
        ensure!(other.ejections == 0, "{other:?}");
        drop(background);
        stage.end()
    };
    body().unwrap();
}
