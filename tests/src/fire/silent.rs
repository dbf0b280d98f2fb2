//! A backend's host falls silent, as where its power or the switch's port is
//! gone: no RST, no ICMP, no ARP. Its own connections are lost; nobody else may
//! notice, and new ones have to stop going there.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{Arrival, Arrivals, Crowd, Row, Summary};
use crate::lab::{Stage, VIP_V4, address};

const CONNECTIONS: usize = 200;
const EVERY: Duration = Duration::from_millis(500);
const PER_SECOND: u32 = 100;
const DEAD: &str = "s1";
/// Who was answered by the first SYN was connected by then.
const FIRST_SYN: Duration = Duration::from_millis(900);
/// New ones are looked at for so long after the last that went there.
const QUIET: Duration = Duration::from_secs(2);
const SILENCE: &str = "add table netdev cny; \
    add chain netdev cny in { type filter hook ingress device eth0 priority 0; policy drop; }; \
    add chain netdev cny out { type filter hook egress device eth0 priority 0; policy drop; }";

/// How it is found out.
#[derive(Debug)]
pub struct Silence {
    by: &'static str,
    health: &'static str,
    /// As `canary status` has it then.
    state: &'static str,
    /// No new connection goes there any more.
    within: Duration,
}

impl Silence {
    /// A check's interval, 10 % more and its timeout, three times.
    pub const CHECKED: Self = Self {
        by: "its checks",
        health: "health = { check = \"tcp\", interval = \"1s\", timeout = \"500ms\", fall = 3, \
                 gone_after = \"5s\" }",
        state: "down",
        within: Duration::from_secs(6),
    };
    /// `timeouts.half_open`, 10 s, is when a handshake counts as failed.
    pub const NOTICED: Self = Self {
        by: "clients' handshakes alone",
        health: "health = { eject = { consecutive = 5 } }",
        state: "ejected",
        within: Duration::from_secs(15),
    };
}

/// One after the other, each in a lab of its own.
///
/// # Errors
/// Where something is not as docs/reliability.md has it; others' connections
/// that were cut or moved are in the rows.
pub fn silent(how: &[Silence]) -> Result<Vec<Row>> {
    how.iter().map(falls_silent).collect()
}

fn falls_silent(how: &Silence) -> Result<Row> {
    let stage = Stage::new("silent", "", how.health)?;
    stage.daemon.cli(&["weight", "web", "30%"])?;
    let mut crowd = Crowd::start(&stage.lab, address(VIP_V4), CONNECTIONS, EVERY)?;
    let own = crowd.lap()?.on.get(DEAD).copied().unwrap_or(0);
    ensure!(own > 0, "the host that is to fall silent has no connection");
    let arrivals = Arrivals::start(&stage.lab, address(VIP_V4), PER_SECOND);
    std::thread::sleep(QUIET);
    stage.lab.command(DEAD, "nft", &[SILENCE])?;
    let fell = Instant::now();
    std::thread::sleep(how.within + QUIET);
    let state = stage.backend("web", "stable")?.state;
    ensure!(state == how.state, "the silent backend is {state}\n{}", stage.daemon.said());
    let mut arrivals = arrivals.stop()?;
    arrivals.retain(|arrival| arrival.at > fell);
    let went_there =
        |arrival: &&Arrival| !arrival.came.as_ref().is_ok_and(|came| came.took <= FIRST_SYN);
    let last = arrivals.iter().filter(went_there).map(|arrival| arrival.at).max();
    let found = last.context("no new connection went to the silent host")?.duration_since(fell);
    ensure!(found < how.within, "new connections went there for {found:?}");

    let report = crowd.lap()?;
    let (dead, others): (Vec<_>, Vec<_>) = report.cut.iter().partition(|cut| cut.server == DEAD);
    ensure!(dead.len() as u64 == own, "{} of {own} of its connections ended", dead.len());
    let ended = dead.iter().map(|cut| cut.at.duration_since(fell)).max().unwrap_or_default();
    let fault = format!("a backend's host: silent, found by {}", how.by);
    let row = Row {
        connections: CONNECTIONS as u64 - own,
        cut: others.len() as u64,
        ..Row::of(&fault, &report)
    };
    drop(crowd);
    stage.end()?;
    Ok(row.recovered(found).notes(format!(
        "`{}`; {own} more were the silent host's and ended, the last after {:.1} s; its last new \
         connection came {:.2} s after the fault; {}",
        how.health,
        ended.as_secs_f64(),
        found.as_secs_f64(),
        Summary::of(&arrivals).words()
    )))
}
