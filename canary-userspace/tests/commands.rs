//! The real binary against a task in the daemon's place: what it prints where,
//! and with which exit code.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use canary::{
    api::{
        request::{Refusal, Request},
        server::{bind_unix, serve_unix},
        types::{
            DrainStatus, Drill, DrillReport, Explanation, Flows, FollowedFlow, Forecast, History,
            Reloaded, RolloutStatus, Status, Steered, Weight,
        },
    },
    config::SocketAccess,
};
use tokio::sync::mpsc;

/// A directory of its own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("canary-cli-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Starts an owner that has one service, "web"; it ends with the process.
    fn serve(&self) {
        let socket = self.0.join("canary.sock");
        let (ready, is_ready) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (sender, mut requests) = mpsc::channel(4);
                let bound = bind_unix(&socket, &SocketAccess::default()).unwrap();
                tokio::spawn(serve_unix(bound, sender));
                ready.send(()).unwrap();
                let mut left = 3;
                while let Some(request) = requests.recv().await {
                    answer(request, &mut left);
                }
            });
        });
        is_ready.recv().unwrap();
    }

    fn canary(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_canary"));
        command.arg("--socket").arg(self.0.join("canary.sock")).args(arguments);
        command.env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    /// Exit code, stdout and stderr.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = self.canary(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// "stable" loses a connection at each look, "canary" never does.
fn answer(request: Request, left: &mut u64) {
    let drained = |service, target: String, left: &mut u64| {
        if target == "stable" {
            *left = left.saturating_sub(1);
        }
        Ok(DrainStatus { service, target, active: *left, ..DrainStatus::default() })
    };
    // A command that was killed waits for no answer.
    match request {
        Request::Status { service: Some(name), reply } => {
            reply.send(Err(Refusal::not_found(format!("no service {name:?}; there is web")))).ok();
        }
        Request::Status { service: None, reply } => {
            reply.send(Ok(Status { version: "0".to_owned(), ..Status::default() })).ok();
        }
        Request::GetWeight { service, reply } => {
            reply.send(Ok(Weight { service, split: 0.05 })).ok();
        }
        Request::SetWeight { service, split, reply, .. } => {
            reply.send(Ok(Weight { service, split: split.fraction() })).ok();
        }
        Request::SetDrain { service, target, reply, .. }
        | Request::DrainStatus { service, target, reply } => {
            reply.send(drained(service, target, left)).ok();
        }
        Request::Flows { reply, .. } => {
            reply.send(Ok(Flows::default())).ok();
        }
        Request::Follow { reply, .. } => {
            let (sender, events) = mpsc::channel(1);
            let event = FollowedFlow {
                event: "closed".to_owned(),
                client: "198.51.100.7:40000".to_owned(),
                track: "stable".to_owned(),
                backend: "10.0.0.11:80".to_owned(),
                lived: Some(0.25),
                ..FollowedFlow::default()
            };
            sender.try_send(event).ok();
            reply.send(Ok(events)).ok();
        }
        Request::Reload { reply, .. } => {
            reply.send(Ok(Reloaded { changes: vec!["web: timeouts".to_owned()] })).ok();
        }
        Request::Where { reply, .. } => {
            reply.send(Err(Refusal::bad_request("add the client's port"))).ok();
        }
        Request::Detach { reply, .. } => {
            reply.send(Ok(vec!["link_eth0".to_owned(), "FLOWS".to_owned()])).ok();
        }
        Request::Metrics { reply } => {
            reply.send(Ok(String::new())).ok();
        }
        request => answer_of_trials(request),
    }
}

/// Rollouts, steering and drills.
fn answer_of_trials(request: Request) {
    match request {
        Request::Rollout { command, reply, .. } => {
            let started = command.command == "start";
            let status = RolloutStatus {
                phase: "baking".to_owned(),
                step: 1,
                steps: 5,
                reason: "the first step".to_owned(),
                ..RolloutStatus::default()
            };
            let refusal = Refusal::conflict("nothing is under way");
            reply.send(started.then_some(status).ok_or(refusal)).ok();
        }
        Request::Explain { service, reply } => {
            let text = vec!["why it is so".to_owned()];
            reply.send(Ok(Explanation { service, text, ..Explanation::default() })).ok();
        }
        Request::History { service, reply, .. } => {
            reply.send(Ok(History { service, ..History::default() })).ok();
        }
        Request::Plan { service, reply } => {
            let text = vec!["a day".to_owned()];
            reply.send(Ok(Forecast { service, text, ..Forecast::default() })).ok();
        }
        Request::Steer { service, steer, reply, .. } => {
            let changed = steer.clients.len() as u64;
            reply.send(Ok(Steered { service, changed, total: 7, ..Steered::default() })).ok();
        }
        Request::Steered { service, reply, .. } => {
            reply.send(Ok(Steered { service, ..Steered::default() })).ok();
        }
        Request::StartDrill { service, drill, reply, .. } => {
            reply.send(Ok(DrillReport { service, drill, ..DrillReport::default() })).ok();
        }
        Request::EndDrill { service, reply, .. } | Request::Drill { service, reply } => {
            let drill = Drill { fault: "reset".to_owned(), share: 0.1, ..Drill::default() };
            let report = DrillReport { service, drill, over: true, ..DrillReport::default() };
            reply.send(Ok(report)).ok();
        }
        _ => {}
    }
}

#[test]
fn rollouts_steering_and_drills() {
    let lab = Directory::new("trials");
    lab.serve();
    let list = lab.0.join("list");
    fs::write(&list, "192.0.2.0/24 # testers\n\n198.51.100.7\n").unwrap();
    let list = format!("@{}", list.display());
    for (arguments, code, said) in [
        (&["rollout", "start", "web"][..], 0, "web: baking (step 1 of 5): the first step"),
        (&["rollout", "abort", "web"], 1, "canary: nothing is under way"),
        (&["explain", "web"], 0, "why it is so"),
        (&["history", "web"], 0, "web: no rollout yet"),
        (&["plan", "web"], 0, "a day"),
        (&["steer", "web"], 0, "web: no network is steered"),
        (
            &["steer", "web", "192.0.2.0/24", "canary"],
            0,
            "web: 1 network goes to canary; 7 networks",
        ),
        (&["steer", "web", &list, "canary", "--for", "1h"], 0, "web: 2 networks go to canary"),
        (&["steer", "web", "192.0.2.0/24"], 2, "say where 192.0.2.0/24 is to go"),
        (&["steer", "web", "@/nowhere", "canary"], 2, "reading /nowhere"),
        (&["unsteer", "web", "192.0.2.0/24"], 0, "web: 1 network goes by the split again"),
        (&["drill", "web", "--fault", "reset"], 2, "say who may be hit"),
        (&["drill", "web", "--fault", "reset", "--all-clients"], 0, "web: drill reset of 10 %"),
        (&["drill", "web", "--stop"], 0, "web: drill reset of 10 %"),
        (&["drill", "web"], 2, "--fault"),
    ] {
        let (exit, out, err) = lab.run(arguments);
        assert!(format!("{out}{err}").contains(said), "{arguments:?}: {out}{err}");
        assert_eq!(exit, code, "{arguments:?}: {out}{err}");
    }
}

#[test]
fn commands_print_what_the_daemon_answers() {
    let lab = Directory::new("answers");
    lab.serve();
    for (arguments, printed) in [
        (&["weight", "web"][..], "web: canary 5 %\n"),
        (&["weight", "web", "0.1%"], "web: canary 0.1 %\n"),
        (&["drain", "web", "canary"], "web: canary takes no new connections; 3 left\n"),
        (&["drain", "web", "canary", "--undo"], "web: canary takes new connections again\n"),
        (
            &["flows", "web", "--follow"],
            "00:00:00.000Z  closed  198.51.100.7:40000 → 10.0.0.11:80 (stable), lived 250.0 ms\n",
        ),
        (&["reload"], "reloaded:\n  web: timeouts\n"),
        (&["detach"], "detached from 1 interface(s), 1 maps removed\n"),
    ] {
        let (code, stdout, stderr) = lab.run(arguments);
        assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, printed, ""), "{arguments:?}");
    }
    let (code, stdout, _) = lab.run(&["status", "--json"]);
    assert_eq!((code, serde_json::from_str::<Status>(&stdout).unwrap().version.as_str()), (0, "0"));
}

#[test]
fn each_failure_has_its_exit_code_and_says_what_to_do() {
    let lab = Directory::new("codes");
    let wrong = lab.0.join("wrong.toml");
    fs::write(&wrong, "interfaces = [\"lo\"]\nservise = 1\n").unwrap();
    let wrong = wrong.to_str().unwrap();
    let none = Directory::new("codes-none");
    lab.serve();
    for (socket, arguments, code, says) in [
        (&lab, &["status", "nope"][..], 1, "there is web"),
        (&lab, &["where", "web", "192.0.2.1"], 1, "add the client's port"),
        (&lab, &["weight", "web", "101"], 2, "from 0 to 100"),
        (&lab, &["where", "web", "localhost"], 2, "192.0.2.1:4711"),
        (&lab, &["status", "--bogus"], 2, "--help"),
        (&lab, &["run", "--config", wrong, "--log-level", "verbose"], 2, "write error, warn"),
        (&lab, &["check", wrong], 3, "servise"),
        (&none, &["status"], 4, "canary run --config"),
        (&none, &["weight", "web", "5"], 4, "--socket"),
        (&lab, &["drain", "web", "canary", "--wait", "--timeout", "50ms"], 5, "3 connections"),
    ] {
        let (ended, stdout, stderr) = socket.run(arguments);
        assert_eq!((ended, stdout.as_str()), (code, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_drain_waits_for_the_last_connection() {
    let lab = Directory::new("drain");
    lab.serve();
    let begun = Instant::now();
    let (code, stdout, stderr) = lab.run(&["drain", "web", "stable", "--wait"]);
    assert_eq!((code, stdout.as_str()), (0, "web: stable is drained\n"), "{stderr}");
    // Three looks, of which the first is the request itself.
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
}

/// With `head` gone the output is nobody's; with a full disk it is lost, which
/// is a failure. Neither is a panic (101).
#[test]
fn closed_outputs_are_no_panic() {
    let lab = Directory::new("closed");
    lab.serve();
    for (arguments, code) in
        [(&["status"][..], 0), (&["completions", "bash"], 0), (&["status", "nope"], 1)]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = lab.canary(arguments);
        command.stdout(writer.try_clone().unwrap()).stderr(writer);
        assert_eq!(command.status().unwrap().code(), Some(code), "{arguments:?}");

        let full = || File::options().write(true).open("/dev/full").unwrap();
        let mut command = lab.canary(arguments);
        assert_eq!(
            command.stdout(full()).stderr(full()).status().unwrap().code(),
            Some(1),
            "{arguments:?}"
        );
    }
}
