//! What a daemon takes while nothing happens.

use std::{fs, time::Duration, time::Instant};

use anyhow::{Context as _, Result};

use super::{Effort, at_most, bed::Bed};
use crate::bench::report::Row;

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
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", bed.daemon.pid()?))?;
    let mib = beside_maps(&smaps).context("an smaps that tells no Rss")? as f64 / 1024.0;
    at_most(name, &[mib], MEMORY)
}

/// KiB, of the text of an smaps.
fn beside_maps(smaps: &str) -> Option<u64> {
    let mut is_map = false;
    let mut sum = None;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Rss:") if !is_map => {
                let kib: u64 = words.next()?.parse().ok()?;
                sum = Some(sum.unwrap_or(0) + kib);
            }
            // A mapping's first line begins with its addresses.
            Some(first) if !first.ends_with(':') => is_map = line.ends_with("anon_inode:bpf-map"),
            _ => {}
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_left_out() {
        let text = "7f00-7f01 rw-s 00000000 00:0e 42  anon_inode:bpf-map\nRss:  900 kB\nPss: 9 kB\n\
                    7f02-7f03 rw-p 00000000 00:00 0  [heap]\nSize: 8 kB\nRss:  30 kB\n\
                    7f04-7f05 r-xp 00000000 00:00 7  /usr/bin/canary\nRss:   4 kB\n";
        assert_eq!(beside_maps(text), Some(34));
        assert_eq!(beside_maps(""), None);
    }
}
