//! Commands.

use std::{
    fs,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{about, gate};
use crate::{
    config::rollout::{GateKind, Hook, HookKind, Transition},
    outside::{Answer, ask, tell},
};

async fn asked(argv: &[&str], timeout: u64, retries: u32) -> Answer {
    let argv = argv.iter().map(|&argument| argument.to_owned()).collect();
    ask(&gate(GateKind::Command { argv }, timeout, retries), &about()).await
}

async fn sh(script: &str) -> Answer {
    asked(&["/bin/sh", "-c", script], 5000, 0).await
}

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("cny-outside-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Waits for a file that somebody writes in one go.
async fn number_in(path: &Path) -> i32 {
    loop {
        match fs::read_to_string(path) {
            Ok(text) if text.ends_with('\n') => return text.trim().parse().unwrap(),
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Whether a process is there and not a zombie. One whose parent went before it
/// may stay a zombie for as long as nobody reaps it.
fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

async fn dies(pid: i32) {
    let start = Instant::now();
    while lives(pid) {
        assert!(start.elapsed() < Duration::from_secs(2), "process {pid} lives on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn each_exit_has_a_meaning() {
    let pass = |detail: &str| Answer::Pass { detail: detail.into() };
    let fail = |detail: &str| Answer::Fail { detail: detail.into() };
    for (script, expected) in [
        ("exit 0", pass("exit status: 0")),
        ("echo one; echo two; echo oops >&2", pass("exit status: 0: two")),
        ("echo no >&2; exit 1", fail("exit status: 1: no")),
        ("exit 125", fail("exit status: 125")),
        ("exit 126", Answer::missing("exit status: 126")),
        ("exit 127", Answer::missing("exit status: 127")),
        ("exit 255", Answer::missing("exit status: 255")),
        ("kill -TERM $$", Answer::missing("signal: 15 (SIGTERM)")),
    ] {
        assert_eq!(sh(script).await, expected, "{script}");
    }
    let got = asked(&["/no/such/program"], 1000, 1).await;
    let expected = "running /no/such/program: No such file or directory (os error 2) (the last of 2 \
                    tries)";
    assert_eq!(got, Answer::missing(expected));
    assert_eq!(asked(&[], 1000, 0).await, Answer::missing("its command is empty"));
}

#[tokio::test]
async fn nothing_is_read_by_a_shell() {
    let got = asked(&["echo", "$HOME", ";", "*"], 5000, 0).await;
    assert_eq!(got.detail(), "exit status: 0: $HOME ; *");
}

#[tokio::test]
async fn the_state_comes_on_standard_input_and_in_the_environment() {
    let script = "set -eu; cat >&2; echo >&2; \
                  echo $CANARY_SERVICE,$CANARY_PHASE,$CANARY_STEP,$CANARY_SPLIT,[$CANARY_TRANSITION]";
    assert_eq!(sh(script).await.detail(), "exit status: 0: web,shifting,2,0.05,[]");
    let scratch = Scratch::new("stdin");
    let file = scratch.0.join("body");
    assert!(matches!(sh(&format!("cat > {}", file.display())).await, Answer::Pass { .. }));
    let sent: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!([&sent["gate"], &sent["service"], &sent["phase"]], ["errors", "web", "shifting"]);
}

#[tokio::test]
async fn a_large_state_need_not_be_read_and_large_outputs_are() {
    let mut about = about();
    about.evidence = "x".repeat(1 << 20).into();
    for (script, expected) in [
        ("exit 3", "exit status: 3"),
        // Both outputs are larger than a pipe, and written before the input is read.
        (
            "head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2; echo; echo; wc -c",
            "exit status: 0: 1048",
        ),
    ] {
        let argv = ["/bin/sh", "-c", script].map(ToOwned::to_owned).to_vec();
        let got = ask(&gate(GateKind::Command { argv }, 5000, 0), &about).await;
        assert!(got.detail().starts_with(expected), "{got:?}");
    }
}

#[tokio::test]
async fn a_child_does_not_outlive_its_timeout() {
    let scratch = Scratch::new("timeout");
    let (leader, other) = (scratch.0.join("leader"), scratch.0.join("other"));
    let script = format!(
        "trap '' TERM INT HUP; sleep 600 & echo $! > {}; echo $$ > {}; wait; sleep 600",
        other.display(),
        leader.display()
    );
    let start = Instant::now();
    let got = asked(&["/bin/sh", "-c", &script], 400, 0).await;
    assert_eq!(got, Answer::missing("no answer within 400ms"));
    assert!(start.elapsed() < Duration::from_millis(1400), "{:?}", start.elapsed());
    for file in [leader, other] {
        dies(number_in(&file).await).await;
    }
}

#[tokio::test]
async fn a_question_that_is_dropped_kills_its_child() {
    let scratch = Scratch::new("dropped");
    let file = scratch.0.join("pid");
    let script = format!("echo $$ > {}; exec sleep 600", file.display());
    let argv = ["/bin/sh", "-c", &script];
    let pid = tokio::select! {
        got = asked(&argv, 60_000, 0) => panic!("{got:?}"),
        pid = number_in(&file) => pid,
    };
    dies(pid).await;
}

#[tokio::test]
async fn what_a_command_leaves_behind_is_killed_and_not_waited_for() {
    let scratch = Scratch::new("behind");
    for (name, script) in [
        // It holds the outputs open, or not.
        ("open", "sleep 600 & echo $! > FILE; echo done"),
        ("closed", "sleep 600 <&- >/dev/null 2>&1 & echo $! > FILE; echo done"),
    ] {
        let file = scratch.0.join(name);
        let start = Instant::now();
        let got = sh(&script.replace("FILE", &file.display().to_string())).await;
        assert_eq!(got, Answer::Pass { detail: "exit status: 0: done".into() });
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        dies(number_in(&file).await).await;
    }
}

#[tokio::test]
async fn what_leaves_the_group_does_not_hold_up_the_answer() {
    let scratch = Scratch::new("setsid");
    let file = scratch.0.join("pid");
    let script = format!(
        "setsid sh -c 'echo $$ > {}; exec sleep 30' & sleep 0.2; echo done",
        file.display()
    );
    let start = Instant::now();
    assert_eq!(sh(&script).await, Answer::Pass { detail: "exit status: 0: done".into() });
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let pid = number_in(&file).await;
    assert!(lives(pid), "who asks for a session of its own gets it");
    // SAFETY: kill(2) takes no pointers; the process is the one started here.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Blocks or unblocks SIGUSR1 for this thread.
fn mask(how: libc::c_int) {
    // SAFETY: all zeroes is a set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGUSR1) };
    // SAFETY: the set is only read; a null pointer is allowed.
    let failed = unsafe { libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()) };
    assert_eq!(failed, 0);
}

#[tokio::test]
async fn descriptors_and_signals_are_not_passed_on() {
    // One that is not closed on exec, as an inherited one would be.
    let file = fs::File::open("/dev/null").unwrap();
    // SAFETY: dup(2) takes no pointers.
    let open = unsafe { libc::dup(file.as_raw_fd()) };
    assert!(open > 2);
    mask(libc::SIG_BLOCK);
    // SAFETY: to ignore a signal runs none of our code; no other test uses it.
    unsafe { libc::signal(libc::SIGUSR2, libc::SIG_IGN) };
    let script = "ls /proc/self/fd | sort -n | tr '\\n' ' '; \
                  grep -h -e SigBlk -e SigIgn /proc/self/status | tr -s '\\t\\n' ' '";
    let got = sh(script).await;
    // SAFETY: the default disposition runs none of our code.
    unsafe { libc::signal(libc::SIGUSR2, libc::SIG_DFL) };
    mask(libc::SIG_UNBLOCK);
    // SAFETY: it was opened above, and nobody else has it.
    unsafe { libc::close(open) };
    // 3 is ls's own.
    let expected = "exit status: 0: 0 1 2 3 SigBlk: 0000000000000000 SigIgn: ";
    let ignored = got.detail().strip_prefix(expected);
    let ignored = u64::from_str_radix(ignored.unwrap_or_else(|| panic!("{got:?}")), 16).unwrap();
    // The C library keeps signals 32 and 33 to itself.
    assert_eq!(ignored & 0x7fff_ffff, 0, "{ignored:x}");
}

#[tokio::test]
async fn a_hook_is_a_command_too() {
    let argv = ["/bin/sh", "-c", "echo $CANARY_TRANSITION; exit $CANARY_STEP"];
    let hook = Hook {
        name: "scale".into(),
        on: vec![Transition::BeforeStart],
        tells: HookKind::Command { argv: argv.map(ToOwned::to_owned).to_vec() },
        timeout: Duration::from_secs(5),
        retries: 0,
    };
    let mut about = about();
    let told = tell(&hook, Transition::BeforeStart, &about).await;
    let expected = "hook scale refused before-start: exit status: 2: before-start";
    assert_eq!(told.unwrap_err().to_string(), expected);
    about.step = 0;
    let told = tell(&hook, Transition::BeforeStart, &about).await;
    assert_eq!(told.unwrap(), "exit status: 0: before-start");
}
