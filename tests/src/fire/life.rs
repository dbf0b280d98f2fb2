//! What a daemon takes of the machine, from its youth to its end.

use std::{collections::BTreeMap, fmt, fs, time::Duration, time::Instant};

use anyhow::{Context as _, Result, ensure};

use crate::{lab::Lab, memory::resident};

/// It has done all once by then.
const GROWN_UP: Duration = Duration::from_secs(5);
/// What its heap may grow and shrink by: plans and scans come and go.
const SLACK_KB: u64 = 8 << 10;
/// Requests that are under way.
const SLACK_FILES: u64 = 4;

/// One daemon's.
#[derive(Debug)]
pub(super) struct Life {
    pid: u32,
    began: Instant,
    first: Option<Need>,
    last: Option<Need>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Need {
    /// Beside the maps' pages.
    rss_kb: u64,
    files: u64,
    /// Of all maps it has open.
    maps_kb: u64,
}

impl Life {
    pub(super) fn begin(pid: u32) -> Self {
        Self { pid, began: Instant::now(), first: None, last: None }
    }

    /// # Errors
    /// Where it is no more.
    pub(super) fn look(&mut self) -> Result<()> {
        if self.began.elapsed() >= GROWN_UP {
            let need = Need::of(self.pid)?;
            self.first.get_or_insert(need);
            self.last = Some(need);
        }
        Ok(())
    }

    /// # Errors
    /// Where it takes more than in its youth.
    pub(super) fn is_flat(&self) -> Result<()> {
        let (first, last) = self.first.zip(self.last).context("it did not live long enough")?;
        ensure!(
            last.rss_kb <= first.rss_kb + SLACK_KB
                && last.files <= first.files + SLACK_FILES
                && last.maps_kb <= first.maps_kb,
            "the daemon grows: {self}"
        );
        Ok(())
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(first), Some(last)) = (self.first, self.last) else { return f.write_str("-") };
        write!(
            f,
            "{:.0} s, memory {} then {} KiB, descriptors {} then {}, maps {} then {} KiB",
            self.began.elapsed().as_secs_f64(),
            first.rss_kb,
            last.rss_kb,
            first.files,
            last.files,
            first.maps_kb,
            last.maps_kb
        )
    }
}

impl Need {
    fn of(pid: u32) -> Result<Self> {
        let mut maps = BTreeMap::new();
        let mut files = 0;
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            files += 1;
            // One that was closed meanwhile has none.
            let info = fs::read_to_string(entry?.path()).unwrap_or_default();
            let field = |name: &str| {
                let value = info.lines().find_map(|line| line.strip_prefix(name))?;
                value.trim().parse::<u64>().ok()
            };
            if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
                maps.insert(id, bytes);
            }
        }
        Ok(Self { rss_kb: resident(pid)?, files, maps_kb: maps.values().sum::<u64>() >> 10 })
    }
}

/// Frames that the balancer's drivers have given to the program.
///
/// # Errors
/// Where one does not tell.
pub(super) fn frames_in(lab: &Lab) -> Result<u64> {
    lab.interfaces.iter().map(|interface| frames_on(lab, interface)).sum()
}

/// The same of one interface.
///
/// # Errors
/// Where it does not tell.
pub(super) fn frames_on(lab: &Lab, interface: &str) -> Result<u64> {
    let told = lab.command("lb", "ethtool", &["-S", interface])?;
    let counts = told.lines().filter_map(|line| {
        let (name, count) = line.trim().split_once(": ")?;
        let ours = name.starts_with("rx_queue_") && name.ends_with("_xdp_packets");
        ours.then(|| count.parse::<u64>())
    });
    let counts = counts.collect::<Result<Vec<_>, _>>()?;
    ensure!(!counts.is_empty(), "{interface} does not count");
    Ok(counts.iter().sum())
}
