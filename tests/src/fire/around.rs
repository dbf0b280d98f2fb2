//! What the daemon may find around it: a low limit of locked memory, a clock
//! that jumped, no BTF, no bpffs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{Crowd, Row};
use crate::lab::{Load, Stage, VIP_V4, address, all_answered, wait_for};

const CONNECTIONS: usize = 200;
const EVERY: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(15);

/// Each is started so that it finds the maps of the one before it.
const LIVE: [(&str, &[&str], &str); 3] = [
    (
        "locked memory: limit of 4 KiB",
        &["prlimit", "--memlock=4096:4096"],
        "the kernel counts maps to the memory cgroup since 5.11",
    ),
    (
        "clock: 100 days later since boot",
        &[
            "unshare",
            "--time",
            "--monotonic",
            "8640000",
            "--boottime",
            "8640000",
            "--fork",
            "--kill-child",
        ],
        "deadlines are the kernel's jiffies; nothing compares them with a clock",
    ),
    (
        "no BTF of the kernel",
        &[
            "unshare",
            "--mount",
            "sh",
            "-c",
            "mount -t tmpfs cny-none /sys/kernel/btf && exec \"$@\"",
            "sh",
        ],
        "the program needs no relocation: it loads without",
    ),
];

const NO_BPFFS: &str = "while umount -l /sys/fs/bpf 2> /dev/null; do :; done; exec \"$@\"";

/// All of it in one lab.
///
/// # Errors
/// Where something is not as docs/reliability.md has it; connections that were
/// cut or moved are in the rows.
pub fn surroundings() -> Result<Vec<Row>> {
    let mut stage = Stage::new("around", "", "")?;
    stage.daemon.cli(&["weight", "web", "30%"])?;
    let mut crowd = Crowd::start(&stage.lab, address(VIP_V4), CONNECTIONS, EVERY)?;
    let mut rows = Vec::new();
    for (fault, by, notes) in LIVE {
        let killed = Instant::now();
        stage.daemon.kill();
        stage.daemon.by = words(by);
        stage.daemon.restart(&stage.lab).context(fault)?;
        let recovered = killed.elapsed();
        stage.daemon.cli(&["weight", "web", "40%"])?;
        let load = Load::start(&stage.lab, address(VIP_V4), 500, 100).finish()?;
        all_answered(&load, 100).context(fault)?;
        stage.daemon.cli(&["weight", "web", "30%"])?;
        rows.push(Row::of(fault, &crowd.lap()?).recovered(recovered).notes(notes));
    }
    drop(crowd);
    stage.daemon.cli(&["detach"])?;
    wait_for("the daemon to end", PATIENCE, || !stage.daemon.is_running())?;
    rows.push(no_bpffs(&mut stage)?);
    refused(&mut stage)?;
    stage.daemon.by = Vec::new();
    stage.daemon.restart(&stage.lab)?;
    stage.end()?;
    Ok(rows)
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A new one where no bpffs is mounted: it mounts one. Here in a mount
/// namespace of its own, with which all goes.
fn no_bpffs(stage: &mut Stage) -> Result<Row> {
    stage.daemon.by = words(&["unshare", "--mount", "sh", "-c", NO_BPFFS, "sh"]);
    let began = Instant::now();
    stage.daemon.restart(&stage.lab)?;
    let recovered = began.elapsed();
    let said = stage.daemon.said();
    ensure!(said.contains("mounted a bpffs at /sys/fs/bpf"), "{said}");
    let mut crowd = Crowd::start(&stage.lab, address(VIP_V4), CONNECTIONS, EVERY)?;
    let report = crowd.lap()?;
    drop(crowd);
    stage.daemon.cli(&["detach"])?;
    wait_for("the daemon to end", PATIENCE, || !stage.daemon.is_running())?;
    Ok(Row::of("no bpffs at the start", &report).recovered(recovered).notes("mounts one itself"))
}

/// Where it may not mount one, or is told of a directory on another file
/// system, it says what to do, and does nothing.
fn refused(stage: &mut Stage) -> Result<()> {
    let may_not = "setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin";
    let script = NO_BPFFS.replace("exec", &format!("exec {may_not}"));
    stage.daemon.by = words(&["unshare", "--mount", "sh", "-c", &script, "sh"]);
    says(stage, "mount -t bpf bpf /sys/fs/bpf")?;
    stage.daemon.by = Vec::new();
    let text = std::fs::read_to_string(&stage.daemon.config)?;
    let elsewhere = stage.lab.directory.join("pins");
    let other = text.replace(
        &format!("{:?}", Arc::clone(&stage.lab).bpffs()),
        &format!("{:?}", elsewhere.display().to_string()),
    );
    ensure!(other != text, "no `bpffs` in the configuration");
    std::fs::write(&stage.daemon.config, other)?;
    let said = says(stage, "is not on a bpffs; mount one");
    std::fs::write(&stage.daemon.config, text)?;
    said
}

/// It ends at once, with these words.
fn says(stage: &mut Stage, words: &str) -> Result<()> {
    let before = stage.daemon.said().len();
    stage.daemon.launch(&stage.lab)?;
    wait_for("the daemon to end", PATIENCE, || !stage.daemon.is_running())?;
    let said = stage.daemon.said();
    ensure!(said[before..].contains(words), "{}", &said[before..]);
    let links = stage.lab.command("lb", "ip", &["link"])?;
    ensure!(!links.contains("xdp"), "a start that failed left programs: {links}");
    Ok(())
}
