//! What the kernel counted meanwhile.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::lab::{Lab, at};

/// What /proc/stat counts in (USER_HZ, the same on all of x86 and arm64).
const TICK: Duration = Duration::from_millis(10);

/// How long all CPUs together had nothing to do, and when that was asked for.
/// What a CPU does is sampled by its tick, which requests at a fixed rate may
/// keep step with; when it is idle is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Idle {
    time: Duration,
    cpus: u32,
    at: Instant,
}

impl Idle {
    /// # Errors
    /// Where /proc/stat is not as proc(5) says.
    pub(super) fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
        let (time, cpus) = idle(&text).context("/proc/stat has no line of all CPUs")?;
        Ok(Self { time, cpus, at: Instant::now() })
    }

    /// Time that all CPUs together have been busy since then: user, system and
    /// interrupts, of every process on the machine.
    ///
    /// # Errors
    /// As [`Idle::now`].
    pub(super) fn busy_since(self) -> Result<Duration> {
        let now = Self::now()?;
        let all = (now.at - self.at) * self.cpus;
        Ok(all.saturating_sub(now.time.saturating_sub(self.time)))
    }

    /// The same as a share of all CPUs.
    ///
    /// # Errors
    /// As [`Idle::now`].
    pub(super) fn share_since(self) -> Result<f64> {
        let busy = self.busy_since()?.as_secs_f64();
        Ok(busy / (self.at.elapsed() * self.cpus).as_secs_f64())
    }
}

/// Of all CPUs, and how many these are. What the hypervisor took is nobody's
/// work here.
fn idle(stat: &str) -> Option<(Duration, u32)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u32> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let [_user, _nice, _system, idle, iowait, _irq, _softirq, steal, ..] = ticks[..] else {
        return None;
    };
    let cpus = stat.lines().filter(|line| line.starts_with("cpu")).count() - 1;
    Some((TICK * (idle + iowait + steal), u32::try_from(cpus).ok()?))
}

/// A host's counter of /proc/net/snmp, such as `Tcp` and `PassiveOpens`.
///
/// # Errors
/// Where there is none.
pub(super) fn snmp(lab: &Lab, host: &str, group: &str, name: &str) -> Result<u64> {
    // The thread's: /proc/net is that of the process's first thread.
    let text = at(lab, host, || fs::read_to_string("/proc/thread-self/net/snmp"))??;
    snmp_of(&text, group, name).with_context(|| format!("{host} has no counter {group}.{name}"))
}

/// Names in one line, figures in the next of the same group.
fn snmp_of(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(": "));
    let names = lines.by_ref().find(|(of, _)| *of == group)?.1;
    let figures = lines.find(|(of, _)| *of == group)?.1;
    let at = names.split_whitespace().position(|word| word == name)?;
    figures.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn idle_is_also_what_was_waited_or_stolen() {
        let stat = "cpu  10 1 20 4000 500 3 6 70 8 9\ncpu0 1 1\ncpu1 1 1\nintr 7\n";
        assert_eq!(idle(stat), Some((Duration::from_millis(45_700), 2)));
        assert_eq!(idle("cpu  10 1 20\n"), None);
        assert_eq!(idle("cpu0 1 1 1 1 1 1 1 1 1 1\n"), None);
    }

    #[test]
    fn a_busy_thread_is_busy() {
        let before = Idle::now().unwrap();
        let end = Instant::now() + Duration::from_millis(200);
        while Instant::now() < end {}
        // A tick is the least that shows.
        assert!(before.busy_since().unwrap() >= Duration::from_millis(150));
        assert!(before.share_since().unwrap() <= 1.0);
    }

    #[test]
    fn counters_go_by_group_and_name() {
        let text = "Ip: Forwarding InReceives\nIp: 1 77\nTcp: MaxConn InReceives\nTcp: -1 5\n";
        assert_eq!(snmp_of(text, "Ip", "InReceives"), Some(77));
        assert_eq!(snmp_of(text, "Tcp", "InReceives"), Some(5));
        assert_eq!(snmp_of(text, "Udp", "InReceives"), None);
        assert_eq!(snmp_of(text, "Ip", "MaxConn"), None);
    }
}
