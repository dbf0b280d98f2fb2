//! Rollouts end to end: real servers and clients in network namespaces, the
//! daemon deciding by itself, and its command line beside it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use canary::api::types::{
    DrillReport, Explanation, History, RolloutStatus, ServiceStatus, Steered,
};
use canary_tests::{
    lab::{
        Behaviour, Holders, Lab, Load, LoadReport, Outcome, Stage, VIP_V4, VIP_V6, address,
        all_answered, answered, at, fetch, is_of_lost_state, wait_for,
    },
    rollouts::{
        equal::{self, TWO},
        failing::{self, Fault},
    },
};

/// Short steps; what they need of evidence is little.
const STEPS: &str = r#"rollout = { steps = [
    { split = "5%", for = "1s" },
    { split = "25%", for = "1s" },
    { split = "50%", for = "1s" },
    { split = "100%", for = "1s" },
] }"#;

fn service(stage: &Stage, name: &str) -> Result<ServiceStatus> {
    let status = stage.daemon.status()?;
    status.services.into_iter().find(|s| s.name == name).context("the service is gone")
}

fn rollout(stage: &Stage) -> Result<RolloutStatus> {
    Ok(service(stage, "web")?.rollout)
}

fn wait_for_phase(stage: &Stage, phases: &[&str], within: Duration) -> Result<RolloutStatus> {
    let seen = || rollout(stage).ok();
    let reached = wait_for(&phases.join(" or "), within, || {
        seen().is_some_and(|rollout| phases.contains(&rollout.phase.as_str()))
    });
    reached.with_context(|| format!("{:?}", seen()))?;
    rollout(stage)
}

fn history(stage: &Stage) -> Result<History> {
    Ok(serde_json::from_str(&stage.daemon.cli(&["history", "web", "--json"])?)?)
}

fn explain(stage: &Stage) -> Result<Explanation> {
    Ok(serde_json::from_str(&stage.daemon.cli(&["explain", "web", "--json"])?)?)
}

fn addresses(service: &ServiceStatus, track: &str) -> BTreeSet<String> {
    let tracks = service.tracks.iter().filter(|t| t.name == track);
    tracks.flat_map(|t| &t.backends).map(|b| b.address.clone()).collect()
}

fn total(report: &LoadReport) -> u64 {
    report.values().sum()
}

const MINUTE: Duration = Duration::from_secs(60);
const OFTEN: Duration = Duration::from_millis(200);

#[test]
fn a_good_canary_becomes_stable_and_there_is_a_way_back() {
    let body = || {
        let stage = Stage::new("good", "", STEPS)?;
        let held = Holders::start(&stage.lab, address(VIP_V4), 30, OFTEN)?;
        let load = Load::start(&stage.lab, address(VIP_V4), 500, u64::MAX);
        let before = service(&stage, "web")?;
        ensure!(before.rollout.phase == "idle" && before.rollout.steps == 4, "{before:?}");
        stage.daemon.cli(&["rollout", "start", "web"])?;
        let refused = stage.daemon.cli(&["weight", "web", "5%"]).map_err(|e| e.to_string());
        ensure!(refused.is_err_and(|e| e.contains("rollout")), "a weight beside a rollout");
        let done = wait_for_phase(&stage, &["draining", "complete"], MINUTE)?;
        ensure!(done.promoted, "{done:?}");
        let after = service(&stage, "web")?;
        ensure!(addresses(&after, "stable") == addresses(&before, "canary"), "{after:?}");
        ensure!(addresses(&after, "canary") == addresses(&before, "stable"), "{after:?}");
        ensure!(after.split.configured == 0.0, "{after:?}");
        let steps: Vec<f64> = history(&stage)?
            .entries
            .iter()
            .filter(|entry| entry.event == "step")
            .map(|entry| entry.split)
            .collect();
        ensure!(steps == [0.05, 0.25, 0.5, 1.0], "{steps:?}");
        // All that is new goes to the new version; the way back is one command.
        let report = Load::start(&stage.lab, address(VIP_V4), 2000, 200).finish()?;
        ensure!(all_answered(&report, 200)? == 200, "{report:?}");
        stage.daemon.cli(&["rollout", "undo", "web"])?;
        let report = Load::start(&stage.lab, address(VIP_V4), 2000, 200).finish()?;
        ensure!(all_answered(&report, 200)? == 0, "{report:?}");
        let undone = service(&stage, "web")?;
        ensure!(addresses(&undone, "stable") == addresses(&before, "stable"), "{undone:?}");
        ensure!(!undone.rollout.promoted, "{undone:?}");
        let report = load.stop()?;
        all_answered(&report, total(&report))?;
        let report = held.stop()?;
        ensure!(report.cut.is_empty() && report.moved == 0, "{report:?}");
        stage.end()
    };
    body().unwrap();
}

/// The short run of `canary-rollouts`.
#[test]
fn a_canary_equal_to_stable_is_never_taken_back() {
    let plan = equal::Plan {
        fronts: &TWO,
        rollouts: 3,
        per_second: 250,
        step: Duration::from_millis(1500),
        before: Duration::from_secs(1),
        // Other tests and builds run beside this.
        times: false,
    };
    let body = || {
        let runs = equal::walk("equal", &plan)?;
        ensure!(runs.len() == 6, "{runs:?}");
        for run in runs {
            ensure!(run.completed && run.failed == 0, "{run:?}");
            // And there was something to judge.
            ensure!(run.connections > 500 && run.harm > 0.0 && run.mismatch > 0.0, "{run:?}");
        }
        Ok(())
    };
    body().unwrap();
}

#[test]
fn a_stopped_daemons_budget_takes_the_canary_out() {
    let body = || {
        let mut stage = failing::stage("stopped", "50%")?;
        failing::make(&mut stage, Fault::Resets(5))?;
        let run = failing::run(&stage, true)?;
        let alone = run.stopped.context("it was not stopped")?;
        ensure!(alone.budget > 0 && alone.failed == alone.budget + alone.late, "{run:?}");
        // Connections that were under way: the clients are four.
        ensure!(alone.late <= 4 && alone.quiet > 100, "{run:?}");
        stage.end()
    };
    body().unwrap();
}

#[test]
fn a_bad_canary_is_found_at_five_percent() {
    let body = || {
        let steps = r#"rollout = { steps = [{ split = "5%", for = "5m" }, { split = "100%", for = "1s" }] }"#;
        let mut stage = Stage::new("bad", "", steps)?;
        stage.canary_server().behave(Behaviour::ResettingSome(20))?;
        let load = Load::start(&stage.lab, address(VIP_V4), 500, u64::MAX);
        stage.daemon.cli(&["rollout", "start", "web"])?;
        let back = wait_for_phase(&stage, &["rolling-back", "idle"], MINUTE)?;
        ensure!(stage.configured("web")? == 0.0, "{back:?}");
        ensure!(back.reason.contains("reset"), "{back:?}");
        let failed = load.so_far().get(&Outcome::Reset).copied().unwrap_or(0);
        ensure!((2..=30).contains(&failed), "{failed} connections met it");
        let last = history(&stage)?.entries.pop().context("no history")?;
        ensure!(!last.evidence.is_null() && last.reason.contains("reset"), "{last:?}");
        let said = stage.daemon.cli(&["explain", "web"])?;
        ensure!(said.contains("reset") && said.contains("canary"), "{said}");
        // Also when all is over, and nothing is on trial any more.
        let over = wait_for_phase(&stage, &["idle"], MINUTE)?;
        ensure!(over.reason.starts_with("rolled back in step 1: "), "{over:?}");
        let text = explain(&stage)?.text;
        ensure!(text.iter().any(|line| line.trim_start().starts_with("resets: ")), "{text:?}");
        // The looks of it, judged once more.
        let looks = stage.lab.directory.join("state/looks/web.jsonl");
        let replayed = stage.daemon.cli(&["replay", &looks.display().to_string()])?;
        ensure!(replayed.contains("reset"), "{replayed}");
        // Stable goes on.
        let before = failed + answered(&load.so_far(), "c1");
        std::thread::sleep(Duration::from_secs(1));
        let report = load.stop()?;
        let reset = report.get(&Outcome::Reset).copied().unwrap_or(0);
        ensure!(reset + answered(&report, "c1") <= before + 5, "{report:?}, {before} before");
        stage.end()
    };
    body().unwrap();
}

#[test]
fn a_split_set_by_hand_is_taken_back_and_noted() {
    let body = || {
        let mut stage = Stage::new("hand", "", "")?;
        stage.canary_server().behave(Behaviour::ResettingSome(50))?;
        let load = Load::start(&stage.lab, address(VIP_V4), 500, u64::MAX);
        stage.daemon.cli(&["weight", "web", "20%"])?;
        wait_for("the split to be taken back", MINUTE, || {
            stage.configured("web").is_ok_and(|split| split == 0.0)
        })?;
        let entry = history(&stage)?.entries.pop().context("no history")?;
        ensure!((entry.rollout, entry.step, &*entry.event) == (0, 0, "rollback"), "{entry:?}");
        ensure!(entry.reason.contains("reset") && !entry.evidence.is_null(), "{entry:?}");
        let shown = stage.daemon.cli(&["history", "web"])?;
        ensure!(shown.contains("by hand  rollback"), "{shown}");
        let said = stage.daemon.cli(&["explain", "web"])?;
        ensure!(said.contains("resets: canary: "), "{said}");
        load.stop()?;
        stage.end()
    };
    body().unwrap();
}

#[test]
fn a_dead_canary_costs_a_handful_of_connections() {
    let body = || {
        let steps = r#"rollout = { steps = [{ split = "50%", for = "5m" }, { split = "100%", for = "1s" }] }"#;
        let mut stage = Stage::new("dead", "", steps)?;
        stage.canary_server().stop();
        stage.daemon.cli(&["rollout", "start", "web"])?;
        wait_for_phase(&stage, &["baking"], MINUTE)?;
        // As fast as it goes: the daemon looks four times a second, the
        // kernel's guard at each packet.
        let report = Load::start(&stage.lab, address(VIP_V4), 5000, 1000).finish()?;
        let refused = report.get(&Outcome::Refused).copied().unwrap_or(0);
        ensure!((3..=20).contains(&refused), "{refused} were refused: {report:?}");
        ensure!(total(&report) == 1000 && answered(&report, "c1") == 0, "{report:?}");
        wait_for_phase(&stage, &["rolling-back", "idle"], MINUTE)?;
        let guard = explain(&stage)?.guard;
        ensure!(guard.diverted > 0, "the guard did nothing: {guard:?}");
        stage.end()
    };
    body().unwrap();
}

#[test]
fn a_rollback_may_reset_what_is_on_the_canary() {
    let body = || {
        let steps = r#"rollout = { on_rollback = "reset", steps = [{ split = "50%", for = "5m" }, { split = "100%", for = "1s" }] }"#;
        let stage = Stage::new("reset", "", steps)?;
        stage.daemon.cli(&["rollout", "start", "web"])?;
        wait_for_phase(&stage, &["baking"], MINUTE)?;
        let held = Holders::start(&stage.lab, address(VIP_V4), 40, OFTEN)?;
        // What a veth sends back by `XDP_TX` is picked up by a peer without an
        // XDP program with the next packet that comes another way only.
        let wakes = Load::start(&stage.lab, address(VIP_V4), 200, u64::MAX);
        stage.daemon.cli(&["rollout", "abort", "web"])?;
        std::thread::sleep(2 * OFTEN);
        let report = held.stop()?;
        drop(wakes);
        let on_canary = report.on.get("c1").copied().unwrap_or(0);
        ensure!(on_canary >= 5, "{report:?}");
        ensure!(report.cut.len() as u64 == on_canary && report.moved == 0, "{report:?}");
        let by_us =
            |cut: &canary_tests::lab::Cut| cut.server == "c1" && cut.error.contains("reset");
        ensure!(report.cut.iter().all(by_us), "{report:?}");
        let canary = stage.backend("web", "canary")?;
        ensure!(canary.counters.resets_backend == 0, "booked as the canary's: {canary:?}");
        // And back on stable.
        let report = Load::start(&stage.lab, address(VIP_V4), 1000, 100).finish()?;
        ensure!(all_answered(&report, 100)? == 0, "{report:?}");
        stage.end()
    };
    body().unwrap();
}

#[test]
fn a_silent_daemon_leaves_the_canary_without_new_flows() {
    let body = || {
        let steps = r#"rollout = { dead_man = "2s", max_away = "1s", steps = [{ split = "50%", for = "5m" }, { split = "100%", for = "1s" }] }"#;
        let stage = Stage::new("deadman", "", steps)?;
        stage.daemon.cli(&["rollout", "start", "web"])?;
        wait_for_phase(&stage, &["baking"], MINUTE)?;
        let pid = stage.daemon.pid()?.to_string();
        stage.lab.command("lb", "kill", &["-STOP", &pid])?;
        std::thread::sleep(Duration::from_millis(2500));
        let report = Load::start(&stage.lab, address(VIP_V4), 2000, 400).finish()?;
        ensure!(all_answered(&report, 400)? == 0, "{report:?}");
        stage.lab.command("lb", "kill", &["-CONT", &pid])?;
        let held = wait_for_phase(&stage, &["degraded"], Duration::from_secs(10))?;
        let status = service(&stage, "web")?;
        ensure!(status.split.guard == "dead-man", "{status:?}");
        ensure!(explain(&stage)?.guard.diverted >= 150, "{held:?}");
        stage.daemon.cli(&["rollout", "resume", "web"])?;
        wait_for_phase(&stage, &["baking"], Duration::from_secs(10))?;
        let report = Load::start(&stage.lab, address(VIP_V4), 2000, 400).finish()?;
        ensure!(all_answered(&report, 400)? > 100, "{report:?}");
        stage.end()
    };
    body().unwrap();
}

#[test]
fn a_daemon_that_is_back_in_time_goes_on() {
    let body = || {
        let steps = r#"rollout = { dead_man = "2s", steps = [{ split = "20%", for = "5m" }] }"#;
        let stage = Stage::new("back", "", steps)?;
        let load = Load::start(&stage.lab, address(VIP_V4), 500, u64::MAX);
        stage.daemon.cli(&["rollout", "start", "web"])?;
        wait_for_phase(&stage, &["baking"], MINUTE)?;
        std::thread::sleep(Duration::from_secs(2));
        let pid = stage.daemon.pid()?.to_string();
        stage.lab.command("lb", "kill", &["-STOP", &pid])?;
        std::thread::sleep(Duration::from_secs(6));
        stage.lab.command("lb", "kill", &["-CONT", &pid])?;
        std::thread::sleep(Duration::from_secs(2));
        // What the guard kept from the canary is no broken split.
        let now = service(&stage, "web")?;
        ensure!(now.guard.diverted > 100 && now.rollout.phase == "baking", "{now:?}");
        ensure!(now.split.guard == "armed", "{now:?}");
        load.stop()?;
        stage.end()
    };
    body().unwrap();
}

/// At every transition that is seen, the daemon is killed and started again.
#[test]
fn a_daemon_killed_at_each_transition_carries_on() {
    let body = || {
        let mut stage = Stage::new("kill", "", STEPS)?;
        let held = Holders::start(&stage.lab, address(VIP_V4), 30, OFTEN)?;
        let load = Load::start(&stage.lab, address(VIP_V4), 300, u64::MAX);
        stage.daemon.cli(&["rollout", "start", "web"])?;
        let begun = Instant::now();
        let mut kills = 0;
        let mut last = (String::new(), 0);
        loop {
            ensure!(begun.elapsed() < MINUTE, "stuck: {:?}", rollout(&stage)?);
            let now = rollout(&stage)?;
            if now.phase == "complete" || now.phase == "draining" && kills > 4 {
                break;
            }
            let state = (now.phase, now.step);
            if state == last {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            stage.daemon.kill();
            stage.daemon.restart(&stage.lab)?;
            kills += 1;
            last = state;
        }
        ensure!(kills >= 4, "{kills} kills");
        let done = rollout(&stage)?;
        ensure!(done.promoted && done.id == 1, "{done:?}");
        let steps: Vec<f64> = history(&stage)?
            .entries
            .iter()
            .filter(|entry| entry.event == "step")
            .map(|entry| entry.split)
            .collect();
        ensure!(steps.is_sorted() && steps.ends_with(&[1.0]), "{steps:?}");
        let report = load.stop()?;
        all_answered(&report, total(&report))?;
        let report = held.stop()?;
        ensure!(report.cut.is_empty() && report.moved == 0, "{report:?}");
        stage.end()
    };
    body().unwrap();
}

fn forgotten(stage: &Stage) -> Result<bool> {
    Ok(stage.daemon.status()?.warnings.iter().any(|warning| is_of_lost_state(warning)))
}

/// By then a rollback has cut a generation, and later the tracks are the other
/// way round than in the file: the kernel's maps know both.
#[test]
fn a_lost_state_file_cuts_nobody_and_swaps_nothing() {
    let body = || {
        let steps = STEPS.replacen("{ ", "{ on_rollback = \"reset\", ", 1);
        let mut stage = Stage::new("lost", "", &steps)?;
        let file = stage.lab.directory.join("state/state.json");
        stage.daemon.cli(&["rollout", "start", "web"])?;
        wait_for_phase(&stage, &["baking"], MINUTE)?;
        stage.daemon.cli(&["rollout", "abort", "web"])?;
        stage.daemon.cli(&["weight", "web", "50%"])?;
        let held = Holders::start(&stage.lab, address(VIP_V4), 40, OFTEN)?;
        // Has a RST, should there be one, be seen at once: see
        // `a_rollback_may_reset_what_is_on_the_canary`.
        let wakes = Load::start(&stage.lab, address(VIP_V4), 200, u64::MAX);
        std::thread::sleep(2 * OFTEN);
        stage.daemon.kill();
        fs::remove_file(&file)?;
        stage.daemon.restart(&stage.lab)?;
        std::thread::sleep(5 * OFTEN);
        let report = held.stop()?;
        drop(wakes);
        ensure!(report.on.get("c1").is_some_and(|held| *held >= 5), "{report:?}");
        ensure!(report.cut.is_empty() && report.moved == 0, "{report:?}");
        ensure!(forgotten(&stage)? && stage.daemon.said().contains("state.json is not there"));
        let before = service(&stage, "web")?;
        ensure!((before.split.configured - 0.5).abs() < 1e-9, "{before:?}");
        stage.daemon.cli(&["weight", "web", "0%"])?;
        // Torn this time.
        stage.daemon.cli(&["rollout", "start", "web"])?;
        let load = Load::start(&stage.lab, address(VIP_V4), 500, u64::MAX);
        let done = wait_for_phase(&stage, &["draining", "complete"], MINUTE)?;
        ensure!(done.promoted, "{done:?}");
        stage.daemon.kill();
        fs::write(&file, "{\"services\": {")?;
        stage.daemon.restart(&stage.lab)?;
        ensure!(forgotten(&stage)? && stage.daemon.said().contains("kept as"));
        // Whoever restarts it does not lose the warning, whoever reloads has seen it.
        stage.daemon.kill();
        stage.daemon.restart(&stage.lab)?;
        ensure!(forgotten(&stage)?, "another restart took the warning away");
        stage.daemon.cli(&["reload"])?;
        ensure!(!forgotten(&stage)?, "the warning stays");
        let after = service(&stage, "web")?;
        ensure!(addresses(&after, "stable") == addresses(&before, "canary"), "{after:?}");
        let report = load.stop()?;
        all_answered(&report, total(&report))?;
        let report = Load::start(&stage.lab, address(VIP_V4), 2000, 200).finish()?;
        ensure!(all_answered(&report, 200)? == 200, "{report:?}");
        stage.end()
    };
    body().unwrap();
}

#[test]
fn beta_testers_go_first() {
    let body = || {
        let stage = Stage::new("steer", "", STEPS)?;
        for (name, vip, v6) in [("web", VIP_V4, false), ("web6", VIP_V6, true)] {
            let client = Lab::address("client", v6);
            stage.daemon.cli(&["steer", name, &client, "canary"])?;
            let report = Load::start(&stage.lab, address(vip), 2000, 100).finish()?;
            ensure!(all_answered(&report, 100)? == 100, "{report:?}");
            let listed = stage.daemon.cli(&["steer", name, "--json"])?;
            let listed: Steered = serde_json::from_str(&listed)?;
            ensure!(listed.total == 1 && listed.networks[0].track == "canary", "{listed:?}");
            let asked = if v6 { format!("[{client}]:4711") } else { format!("{client}:4711") };
            let told = stage.daemon.cli(&["where", name, &asked])?;
            ensure!(told.contains("steered"), "{told}");
            let answer = stage.daemon.cli(&["unsteer", name, &client])?;
            ensure!(answer.contains('1'), "{answer}");
            let report = Load::start(&stage.lab, address(vip), 2000, 100).finish()?;
            ensure!(all_answered(&report, 100)? == 0, "{report:?}");
        }
        // For a while only.
        let client = Lab::address("client", false);
        stage.daemon.cli(&["steer", "web", &client, "canary", "--for", "2s"])?;
        ensure!(
            at(&stage.lab, "client", || fetch(address(VIP_V4)))?
                == Outcome::Answered("c1".to_owned())
        );
        std::thread::sleep(Duration::from_millis(2200));
        ensure!(
            at(&stage.lab, "client", || fetch(address(VIP_V4)))?
                != Outcome::Answered("c1".to_owned())
        );
        let refused = stage.daemon.cli(&["steer", "web", "10.77.0.1/24", "canary"]);
        ensure!(refused.is_err(), "host bits were taken: {refused:?}");
        stage.end()
    };
    body().unwrap();
}

#[test]
fn hooks_are_told_and_a_failing_one_holds() {
    let body = || {
        let directory = std::env::temp_dir().join("cny-hooks-files");
        fs::create_dir_all(&directory)?;
        let (script, told, bad) =
            (directory.join("hook"), directory.join("told"), directory.join("bad"));
        fs::remove_file(&told).ok();
        let text = format!(
            "#!/bin/sh\necho \"$CANARY_TRANSITION $CANARY_STEP\" >> {}\ncat > /dev/null\n\
             if [ -e {} ] && [ \"$CANARY_TRANSITION\" = before-step ]; then echo no room; exit 1; fi\n",
            told.display(),
            bad.display()
        );
        fs::write(&script, text)?;
        let mut mode = fs::metadata(&script)?.permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
        fs::set_permissions(&script, mode)?;
        fs::write(&bad, "")?;
        let extra = format!(
            r#"rollout = {{ steps = [{{ split = "50%", for = "1s" }}, {{ split = "100%", for = "1s" }}], hooks = [
               {{ name = "scale", on = ["before-start", "before-step", "before-promotion", "start", "step", "completion"], command = [{script:?}], retries = 0 }} ] }}"#
        );
        let stage = Stage::new("hooks", "", &extra)?;
        let load = Load::start(&stage.lab, address(VIP_V4), 200, u64::MAX);
        stage.daemon.cli(&["rollout", "start", "web"])?;
        let held = wait_for_phase(&stage, &["degraded"], MINUTE)?;
        ensure!(held.reason.contains("no room") && held.reason.contains("scale"), "{held:?}");
        ensure!(stage.configured("web")? == 0.0, "weight without its hook");
        fs::remove_file(&bad)?;
        stage.daemon.cli(&["rollout", "retry", "web"])?;
        wait_for_phase(&stage, &["draining", "complete"], MINUTE)?;
        let lines = fs::read_to_string(&told)?;
        for event in
            ["before-start", "before-step 1", "before-step 2", "before-promotion", "completion"]
        {
            ensure!(lines.contains(event), "nobody was told of {event}: {lines}");
        }
        let report = load.stop()?;
        all_answered(&report, total(&report))?;
        fs::remove_dir_all(&directory)?;
        stage.end()
    };
    body().unwrap();
}

#[test]
fn a_drill_is_found_and_stable_sees_nothing() {
    let body = || {
        let steps = r#"rollout = { steps = [{ split = "25%", for = "5m" }, { split = "100%", for = "1s" }] }"#;
        let stage = Stage::new("drill", "", steps)?;
        let client = Lab::address("client", false);
        for fault in ["reset", "refuse", "5xx"] {
            let load = Load::start(&stage.lab, address(VIP_V4), 300, u64::MAX);
            stage.daemon.cli(&["rollout", "start", "web"])?;
            wait_for_phase(&stage, &["baking"], MINUTE)?;
            let missed = stage.daemon.cli(&["drill", "web", "--fault", fault]);
            ensure!(missed.is_err(), "a drill on everybody without a word: {missed:?}");
            let drill = ["drill", "web", "--fault", fault, "--share", "50%", "--for", "20s"];
            let only = ["--clients", client.as_str(), "--json"];
            let report = stage.daemon.cli(&[&drill[..], &only].concat())?;
            let report: DrillReport = serde_json::from_str(&report)?;
            ensure!(report.detected && report.over && report.faulted > 0, "{fault}: {report:?}");
            ensure!(report.stable_failures == 0, "{fault}: {report:?}");
            ensure!(report.detected_after.is_some_and(|after| after < 15.0), "{fault}: {report:?}");
            wait_for_phase(&stage, &["idle"], MINUTE)?;
            load.stop()?;
        }
        // Dry: nothing fails, and nothing is rolled back.
        stage.daemon.cli(&["rollout", "start", "web"])?;
        wait_for_phase(&stage, &["baking"], MINUTE)?;
        let load = Load::start(&stage.lab, address(VIP_V4), 300, u64::MAX);
        let drill = ["drill", "web", "--fault", "reset", "--share", "50%", "--for", "10s"];
        let report = stage.daemon.cli(&[&drill[..], &["--dry", "--json"]].concat())?;
        let report: DrillReport = serde_json::from_str(&report)?;
        ensure!(report.detected && report.faulted > 0, "{report:?}");
        let now = rollout(&stage)?;
        ensure!(now.phase == "baking", "{now:?}");
        let report = load.stop()?;
        all_answered(&report, total(&report))?;
        stage.end()
    };
    body().unwrap();
}
