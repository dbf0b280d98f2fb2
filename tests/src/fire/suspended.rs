//! A daemon that stands (`SIGSTOP`) in the middle of a rollout.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use canary::api::types::ServiceStatus;

use super::{Arrival, Arrivals, Crowd, Row, Summary};
use crate::lab::{Load, Stage, VIP_V4, address, answered, wait_for};

const CONNECTIONS: usize = 300;
const EVERY: Duration = Duration::from_millis(500);
const PER_SECOND: u32 = 200;
const PATIENCE: Duration = Duration::from_secs(15);
/// The shortest there is.
const DEAD_MAN: Duration = Duration::from_secs(2);
const ROLLOUT: &str = "rollout = { dead_man = \"2s\", max_away = \"5s\", steps = [\
                       { split = \"50%\", for = \"10m\" }, { split = \"100%\", for = \"1m\" }] }";
/// Less and more than `max_away`.
const SHORT: Duration = Duration::from_secs(4);
const LONG: Duration = Duration::from_secs(7);

/// # Errors
/// Where something is not as docs/reliability.md has it; connections that were
/// cut or moved are in the rows.
pub fn suspended() -> Result<Vec<Row>> {
    let stage = Stage::new("stands", "", ROLLOUT)?;
    stage.daemon.cli(&["rollout", "start", "web"])?;
    wait_for("half of it", PATIENCE, || {
        web(&stage).is_ok_and(|web| web.split.configured > 0.4 && web.rollout.phase == "baking")
    })?;
    let mut crowd = Crowd::start(&stage.lab, address(VIP_V4), CONNECTIONS, EVERY)?;
    let on = crowd.lap()?.on;
    ensure!(on.contains_key("c1"), "the canary has some: {on:?}");

    let (last, went_on) = stand(&stage, SHORT)?;
    wait_for("the canary to be back", PATIENCE, || comes_to_canary(&stage))?;
    let row = Row::of("daemon: stands for 4 s in a rollout (`SIGSTOP`)", &crowd.lap()?);
    ensure!(web(&stage)?.rollout.phase == "baking", "{:?}", web(&stage)?);
    let first = row.recovered(went_on.elapsed()).notes(format!(
        "`dead_man = \"2s\"`: the canary's last new connection was {last:.2} s after the stop; \
         within `max_away` the rollout goes on by itself"
    ));

    let (last, went_on) = stand(&stage, LONG)?;
    wait_for("the rollout to be held", PATIENCE, || {
        web(&stage).is_ok_and(|web| web.rollout.phase == "degraded")
    })?;
    let recovered = went_on.elapsed();
    ensure!(web(&stage)?.split.guard == "dead-man", "{:?}", web(&stage)?);
    ensure!(!comes_to_canary(&stage), "a rollout that is held gives the canary connections");
    stage.daemon.cli(&["rollout", "resume", "web"])?;
    wait_for("the canary to be back", PATIENCE, || comes_to_canary(&stage))?;
    let row = Row::of("daemon: stands for 7 s in a rollout", &crowd.lap()?);
    let second = row.recovered(recovered).notes(format!(
        "the canary's last new connection was {last:.2} s after the stop; past `max_away` the \
         rollout is `degraded`, until `resume`"
    ));
    drop(crowd);
    stage.end()?;
    Ok(vec![first, second])
}

/// Stops the daemon for so long; how many seconds the canary still got new
/// connections, and when the daemon went on.
fn stand(stage: &Stage, lasts: Duration) -> Result<(f64, Instant)> {
    stage.daemon.signal(libc::SIGSTOP)?;
    let stood = Instant::now();
    let arrivals = Arrivals::start(&stage.lab, address(VIP_V4), PER_SECOND);
    std::thread::sleep(lasts);
    let arrivals = arrivals.stop();
    stage.daemon.signal(libc::SIGCONT)?;
    let went_on = Instant::now();
    let arrivals = arrivals?;
    let summary = Summary::of(&arrivals);
    ensure!(summary.answered == summary.tried, "new connections were lost: {summary:?}");
    let to_canary =
        |arrival: &&Arrival| arrival.came.as_ref().is_ok_and(|came| came.server == "c1");
    let last = arrivals.iter().filter(to_canary).map(|arrival| arrival.at).max();
    let last = last.map_or(Duration::ZERO, |at| at.duration_since(stood));
    // The heartbeat before was up to a tick earlier.
    ensure!(
        last > DEAD_MAN / 2 && last < DEAD_MAN + Duration::from_millis(100),
        "the canary's last new connection was {last:?} after the stop"
    );
    Ok((last.as_secs_f64(), went_on))
}

fn comes_to_canary(stage: &Stage) -> bool {
    let load = Load::start(&stage.lab, address(VIP_V4), 500, 40).finish();
    load.is_ok_and(|report| answered(&report, "c1") > 0)
}

fn web(stage: &Stage) -> Result<ServiceStatus> {
    let status = stage.daemon.status()?;
    let web = status.services.into_iter().find(|service| service.name == "web");
    web.context("the service is gone")
}
