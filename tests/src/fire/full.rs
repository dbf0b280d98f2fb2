//! Whatever can be full: the flow table, its half-open ways, the ring of events.

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    Arrivals, Crowd, Flood, Pins, Row, Summary,
    flood::{counted, quick},
};
use crate::lab::{Lab, Process, Stage, VIP_V4, address, wait_for};

/// Room for so many flows: the least that there is, 2,048 ways.
const ROOM: u32 = 1024;
/// Real connections, opened before.
const CONNECTIONS: usize = 400;
const EVERY: Duration = Duration::from_millis(500);
const PER_SECOND: u32 = 100;
/// More than table and overflow map hold together.
const TOO_MANY: u32 = 4000;
const FLOOD: u64 = 200_000;
/// The ring has room for some five thousand.
const EVENTS: u64 = 100_000;

/// All of it in one lab with a very small flow table.
///
/// # Errors
/// Where something is not as docs/reliability.md has it; connections that were
/// cut or moved are in the rows.
pub fn full() -> Result<Vec<Row>> {
    let stage = Stage::in_lab(Lab::new("full")?, &format!("flows = {ROOM}"), "")?;
    stage.daemon.cli(&["weight", "web", "30%"])?;
    let mut crowd = Crowd::start(&stage.lab, address(VIP_V4), CONNECTIONS, EVERY)?;
    let rows =
        vec![half_open(&stage, &mut crowd)?, ring(&stage, &mut crowd)?, table(&stage, &mut crowd)?];
    drop(crowd);
    stage.end()?;
    Ok(rows)
}

/// Established flows push out nobody, half-open ones each other.
fn half_open(stage: &Stage, crowd: &mut Crowd) -> Result<Row> {
    let before = counted(stage, |counters| counters.evicted)?;
    let arrivals = Arrivals::start(&stage.lab, address(VIP_V4), PER_SECOND);
    Flood::Syn.send(&stage.lab, FLOOD)?;
    let summary = Summary::of(&arrivals.stop()?);
    let evicted = counted(stage, |counters| counters.evicted)? - before;
    // The others pushed each other out of the overflow map, which counts none.
    ensure!(evicted > FLOOD / 4, "{evicted} of {FLOOD} half-open flows made room");
    ensure!(summary.answered > 0, "nobody got in: {summary:?}");
    let over = Instant::now();
    wait_for("connections as quick as before", Duration::from_secs(30), || {
        quick(stage, address(VIP_V4))
    })?;
    let notes = format!(
        "room for {ROOM} flows, {FLOOD} SYNs; {evicted} half-open flows made room; {}",
        summary.words()
    );
    let row = Row::of("half-open flows: full", &crowd.lap()?);
    Ok(row.recovered(over.elapsed()).notes(notes))
}

/// The daemon stands while more happens than the ring has room for.
fn ring(stage: &Stage, crowd: &mut Crowd) -> Result<Row> {
    let output = stage.lab.directory.join("followed");
    let mut command = stage.daemon.command(&["flows", "web", "--follow", "--json"]);
    command.stdout(fs::File::create(&output)?).stderr(Stdio::null());
    let mut follower = Process::start(&mut command)?;
    let lines = || fs::metadata(&output).map_or(0, |file| file.len());
    wait_for("the first events", Duration::from_secs(10), || {
        quick(stage, address(VIP_V4)) && lines() > 0
    })?;
    stage.daemon.signal(libc::SIGSTOP)?;
    let sent = Flood::Syn.burst(&stage.lab, 4 * FLOOD, EVENTS);
    stage.daemon.signal(libc::SIGCONT)?;
    let (sent, over) = (sent?, Instant::now());
    let dropped = stage.daemon.status()?.data_plane.events_dropped;
    ensure!(dropped > 0, "{sent} events at once, and the ring had room for all");
    let before = lines();
    wait_for("the next events", Duration::from_secs(30), || {
        quick(stage, address(VIP_V4)) && lines() > before
    })?;
    ensure!(follower.is_running(), "whoever follows was let go");
    let row = Row::of("ring of events: full", &crowd.lap()?);
    let notes = format!("{sent} SYNs while the daemon stood; {dropped} events lost, no packet");
    Ok(row.recovered(over.elapsed()).notes(notes))
}

/// More established flows than there is room for.
fn table(stage: &Stage, crowd: &mut Crowd) -> Result<Row> {
    let arrivals = Arrivals::start(&stage.lab, address(VIP_V4), PER_SECOND);
    let pins = Pins::establish(&stage.lab, TOO_MANY).context("in a table that is full")?;
    std::thread::sleep(Duration::from_secs(1));
    let summary = Summary::of(&arrivals.stop()?);
    let flows = stage.daemon.status()?.data_plane.flows;
    let ways = u64::from(ROOM) * 2;
    ensure!(
        flows.active + u64::from(ROOM) / 8 > ways && flows.overflow > 0,
        "{TOO_MANY} flows have not filled the table: {flows:?}"
    );
    // One whose record is pushed out between its SYN and the answer is reset.
    ensure!(summary.answered * 100 >= summary.tried * 99, "new ones were turned away: {summary:?}");
    let verified = pins.verify()?;
    // They are picked as at first, by the same weights.
    ensure!(verified.moved == 0, "{verified:?}");
    let notes = format!(
        "room for {ROOM} flows, {TOO_MANY} more established; {} of them are pinned still, the \
         others pushed each other out of the overflow map and were picked again, by the same \
         weights to the same servers; {}",
        u64::from(TOO_MANY) - verified.lost,
        summary.words()
    );
    Ok(Row::of("flow table: full", &crowd.lap()?).notes(notes))
}
