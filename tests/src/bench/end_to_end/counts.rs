//! What the kernel counted meanwhile.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

use crate::lab::{Lab, at};

/// A jiffy of /proc/stat (USER_HZ, the same on all of x86 and arm64).
const TICK: Duration = Duration::from_millis(10);

/// Time that all CPUs together have been busy since the machine started: user,
/// system and interrupts, of every process on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Busy(Duration);

impl Busy {
    /// # Errors
    /// Where /proc/stat is not as proc(5) says.
    pub(super) fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
        Ok(Self(busy(&text).context("/proc/stat has no line of all CPUs")?))
    }

    /// # Errors
    /// As [`Busy::now`].
    pub(super) fn since(self) -> Result<Duration> {
        Ok(Self::now()?.0.saturating_sub(self.0))
    }
}

fn busy(stat: &str) -> Option<Duration> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u32> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq; what follows is not this
    // machine's work, or counted in user already.
    let [user, nice, system, _, _, irq, softirq, ..] = ticks[..] else { return None };
    Some(TICK * (user + nice + system + irq + softirq))
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
    fn idle_and_stolen_time_is_not_busy() {
        let stat = "cpu  10 1 20 4000 500 3 6 70 8 9\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy(stat), Some(Duration::from_millis(400)));
        assert_eq!(busy("cpu  10 1 20\n"), None);
        assert_eq!(busy("cpu0 1 1 1 1 1 1 1 1 1 1\n"), None);
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
