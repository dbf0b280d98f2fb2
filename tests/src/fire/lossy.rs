//! A link that loses packets: what was lost is sent again, late, and has to meet
//! the server that the connection began with, though the split is another by
//! then.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{Arrivals, CrowdReport, Row, Summary};
use crate::lab::{Stage, VIP_V4, address};

const PER_SECOND: u32 = 200;
/// Half of what clients wait for, and more than lies between two answers that a
/// backend sends meanwhile: 1, 2 and 4 s.
const SERVICE: &str = "timeouts = { half_open = \"5s\" }\nrollback = { enabled = false }";
/// Between two splits.
const PAUSE: Duration = Duration::from_millis(250);
const SPLITS: [&str; 4] = ["5%", "60%", "20%", "90%"];
/// Three packets of ten, each way.
const LOSS: &str = "add table netdev cny; \
    add chain netdev cny in { type filter hook ingress device eth0 priority 0; }; \
    add chain netdev cny out { type filter hook egress device eth0 priority 0; }; \
    add rule netdev cny in numgen random mod 10 < 3 drop; \
    add rule netdev cny out numgen random mod 10 < 3 drop";

/// For so long. Who was reset is cut; who lost patience, on such a link, is not.
///
/// # Errors
/// Where something does not come up.
pub fn lossy(lasts: Duration) -> Result<Vec<Row>> {
    let stage = Stage::new("lossy", "", SERVICE)?;
    stage.lab.command("client", "nft", &[LOSS])?;
    let arrivals = Arrivals::start(&stage.lab, address(VIP_V4), PER_SECOND);
    let begun = Instant::now();
    for split in SPLITS.into_iter().cycle() {
        if begun.elapsed() >= lasts {
            break;
        }
        stage.daemon.cli(&["weight", "web", split])?;
        std::thread::sleep(PAUSE);
    }
    let arrivals = arrivals.stop()?;
    let was_reset = |why: &&String| why.contains("reset");
    let reset = arrivals.iter().filter_map(|a| a.came.as_ref().err()).filter(was_reset).count();
    let answered = arrivals.iter().filter(|arrival| arrival.came.is_ok());
    let waits = answered.map(|arrival| arrival.ended.duration_since(arrival.at));
    let waits: Vec<Duration> = waits.collect();
    let longest_wait = *waits.iter().max().context("nobody was answered")?;
    let late = waits.iter().filter(|wait| **wait > Duration::from_secs(5)).count();
    stage.end()?;
    let report = CrowdReport {
        connections: arrivals.len() as u64,
        requests: waits.len() as u64,
        longest_wait,
        ..CrowdReport::default()
    };
    let row = Row::of("a link that loses three packets of ten, each way", &report);
    let notes = format!(
        "`{}`, another split four times a second, for {:.0} s; {}; {late} were answered after more \
         than 5 s",
        SERVICE.lines().next().unwrap_or_default(),
        lasts.as_secs_f64(),
        Summary::of(&arrivals).words()
    );
    Ok(vec![Row { cut: reset as u64, ..row }.notes(notes)])
}
