//! What a daemon takes while nothing happens.

use std::{fs, time::Duration, time::Instant};

use anyhow::{Context as _, Result};

use super::{Effort, at_most, bed::Bed};
use crate::{bench::report::Row, memory::resident};

/// Percent of a core, and MiB.
const BUSY: f64 = 0.3;
const MEMORY: f64 = 40.0;
/// What came before is done by then.
const SETTLE: Duration = Duration::from_millis(600);

/// Its share of a core, over windows that hold whatever it does now and then
/// as often as it does (the longest such time is 10 s).
pub(super) fn busy(bed: &Bed, name: &str, effort: Effort) -> Result<Row> {
    let (windows, long) = if effort.quick { (2, 1500) } else { (2, 10_000) };
    let pid = bed.daemon.pid()?;
    std::thread::sleep(SETTLE);
    let mut shares = Vec::new();
    for _ in 0..windows {
        let (before, begun) = (on_cpu(pid)?, Instant::now());
        std::thread::sleep(Duration::from_millis(long));
        let took = on_cpu(pid)?.saturating_sub(before);
        shares.push(100.0 * took.as_secs_f64() / begun.elapsed().as_secs_f64());
    }
    at_most(name, &shares, BUSY)
}

/// Time on the CPU of all of a process's threads. In whole nanoseconds, where
/// `utime` and `stime` are counted in ticks that a short wake-up never meets.
fn on_cpu(pid: u32) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        let nanoseconds = text.split_whitespace().next().context("an empty schedstat")?;
        sum += Duration::from_nanos(nanoseconds.parse()?);
    }
    Ok(sum)
}

/// Its resident memory, without the maps' pages that it has mapped: those are
/// the kernel's, and there without it.
pub(super) fn memory(bed: &Bed, name: &str) -> Result<Row> {
    let mib = resident(bed.daemon.pid()?)? as f64 / 1024.0;
    at_most(name, &[mib], MEMORY)
}
