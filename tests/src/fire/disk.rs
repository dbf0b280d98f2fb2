//! A state directory on a disk that is full, or read-only.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{Crowd, Row};
use crate::lab::{Lab, Stage, VIP_V4, address, unmount, wait_for};

const CONNECTIONS: usize = 200;
const EVERY: Duration = Duration::from_millis(500);
/// The daemon's own patience is five seconds.
const PATIENCE: Duration = Duration::from_secs(15);

/// A small disk; it goes when this is dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> Result<Self> {
        fs::create_dir_all(at)?;
        mount(&["-t", "tmpfs", "-o", "size=256k", "cny-disk", &at.display().to_string()])?;
        Ok(Self(at.to_owned()))
    }

    /// Until it takes no more.
    fn fill(&self) -> Result<()> {
        use std::io::Write as _;
        let mut file = fs::File::create(self.0.join("filler"))?;
        while file.write_all(&[0; 4096]).is_ok() {}
        Ok(())
    }

    fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join("filler"))?)
    }

    fn writable(&self, writable: bool) -> Result<()> {
        let how = if writable { "remount,rw" } else { "remount,ro" };
        mount(&["-o", how, &self.0.display().to_string()])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

fn mount(arguments: &[&str]) -> Result<()> {
    let output = Command::new("mount").args(arguments).output().context("running mount")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "mount {}: {}", arguments.join(" "), said.trim());
    Ok(())
}

/// Both in one lab.
///
/// # Errors
/// Where something is not as docs/reliability.md has it; connections that were
/// cut or moved are in the rows.
pub fn disks() -> Result<Vec<Row>> {
    let lab = Lab::new("disk")?;
    let disk = Disk::mount(&lab.directory.join("state"))?;
    let mut stage = Stage::in_lab(lab, "", "")?;
    stage.daemon.cli(&["weight", "web", "30%"])?;
    let mut crowd = Crowd::start(&stage.lab, address(VIP_V4), CONNECTIONS, EVERY)?;
    let mut rows = Vec::new();
    disk.fill()?;
    let row = through("disk of the state directory: full", &mut stage, &mut crowd, "10%", || {
        disk.empty()
    });
    rows.push(row?);
    // The kernel makes no disk read-only that somebody writes to.
    stage.daemon.kill();
    disk.writable(false)?;
    up(&mut stage)?;
    let row = through("state directory: read-only", &mut stage, &mut crowd, "20%", || {
        disk.writable(true)
    });
    rows.push(row?);
    drop(crowd);
    // The daemon holds it until then.
    stage.daemon.kill();
    drop(disk);
    stage.daemon.restart(&stage.lab)?;
    stage.end()?;
    Ok(rows)
}

/// The disk takes nothing any more, until `mend`.
fn through(
    fault: &str,
    stage: &mut Stage,
    crowd: &mut Crowd,
    weight: &str,
    mend: impl FnOnce() -> Result<()>,
) -> Result<Row> {
    let wanted = weight.trim_end_matches('%').parse::<f64>()? / 100.0;
    let is_in_force =
        |stage: &Stage| stage.configured("web").is_ok_and(|split| (split - wanted).abs() < 1e-9);
    stage.daemon.cli(&["weight", "web", weight])?;
    ensure!(is_in_force(stage), "a weight that cannot be written down is not in force");
    ensure!(warned(stage)?, "nobody was told: {:?}", stage.daemon.status()?.warnings);
    // One that dies now comes up again, with what the maps hold.
    stage.daemon.kill();
    let began = Instant::now();
    up(stage)?;
    let recovered = began.elapsed();
    ensure!(is_in_force(stage), "a restart has lost the weight");
    ensure!(warned(stage)?, "nobody was told after the restart");
    mend()?;
    wait_for("the state to be written", PATIENCE, || warned(stage).is_ok_and(|warned| !warned))
        .with_context(|| stage.daemon.said())?;
    let row = Row::of(fault, &crowd.lap()?);
    Ok(row.recovered(recovered).notes(
        "a weight is in force at once and status warns; a daemon killed now comes up with it; \
         written down by itself when there is room",
    ))
}

/// Starts the daemon, whatever it has to warn of.
fn up(stage: &mut Stage) -> Result<()> {
    stage.daemon.launch(&stage.lab)?;
    wait_for("the daemon", PATIENCE, || stage.daemon.status().is_ok())
        .with_context(|| stage.daemon.said())
}

fn warned(stage: &Stage) -> Result<bool> {
    let warnings = stage.daemon.status()?.warnings;
    Ok(warnings.iter().any(|warning| warning.contains("a restart would not know")))
}
