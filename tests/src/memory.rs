//! What a daemon has in memory.

use std::fs;

use anyhow::{Context as _, Result};

/// KiB of a process's resident memory, without the maps' pages that it has
/// mapped: those are the kernel's, and there without it.
///
/// # Errors
/// Where there is no such process.
pub fn resident(pid: u32) -> Result<u64> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    beside_maps(&smaps).context("an smaps that tells no Rss")
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
