//! What was measured on: without it no figure means anything elsewhere.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

/// Where the kernel tells of its mitigations.
const MITIGATIONS: &str = "/sys/devices/system/cpu/vulnerabilities";
const CLOCKSOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
const JIT: &str = "/proc/sys/net/core/bpf_jit_enable";

/// The machine, as far as it bears on what a packet costs.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Machine {
    pub kernel: String,
    pub cpu: String,
    pub cpus: usize,
    /// The CPU that packets were measured on.
    pub measured_on: usize,
    /// Of the kernel's compiler for programs: 0 is off.
    pub jit: String,
    pub clocksource: String,
    /// Those that are at work, by what they are against.
    pub mitigations: BTreeMap<String, String>,
}

impl Machine {
    /// # Errors
    /// Where /proc is not mounted, or this thread may run nowhere.
    pub fn read() -> Result<Self> {
        let line = |path: &str| {
            fs::read_to_string(path).map_or("unknown".to_owned(), |text| text.trim().to_owned())
        };
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
        let allowed = allowed_cpus()?;
        Ok(Self {
            kernel: line("/proc/sys/kernel/osrelease"),
            cpu: model(&cpuinfo).unwrap_or("unknown").to_owned(),
            cpus: allowed.len(),
            measured_on: measuring_cpu(&allowed)?,
            jit: line(JIT),
            clocksource: line(CLOCKSOURCE),
            mitigations: mitigations(Path::new(MITIGATIONS)),
        })
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "Linux {}, {} ({} CPUs)", self.kernel, self.cpu, self.cpus)?;
        let jit = if self.jit == "0" { "off" } else { "on" };
        writeln!(
            f,
            "packets on CPU {}, JIT {jit}, clock source {}",
            self.measured_on, self.clocksource
        )?;
        write!(f, "mitigations:")?;
        if self.mitigations.is_empty() {
            write!(f, " none")?;
        }
        for (what, how) in &self.mitigations {
            write!(f, "\n  {what}: {how}")?;
        }
        writeln!(f)
    }
}

/// The model's name, where the architecture tells one.
fn model(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim())
}

fn mitigations(dir: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(dir) else { return BTreeMap::new() };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let what = entry.file_name().into_string().ok()?;
            let how = fs::read_to_string(entry.path()).ok()?;
            let how = how.trim().to_owned();
            (how != "Not affected").then_some((what, how))
        })
        .collect()
}

/// CPUs that this thread may run on: `taskset` decides.
///
/// # Errors
/// The kernel's.
pub fn allowed_cpus() -> Result<Vec<usize>> {
    // SAFETY: a set of bits; none is a valid one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: room for the answer, of this thread.
    let failed = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) } != 0;
    ensure!(!failed, "asking for the CPUs allowed: {}", std::io::Error::last_os_error());
    let cpus = (0..libc::CPU_SETSIZE as usize)
        // SAFETY: below the set's size.
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect();
    Ok(cpus)
}

/// The last one: interrupts mostly go to the first.
fn measuring_cpu(allowed: &[usize]) -> Result<usize> {
    allowed.last().copied().context("no CPU to run on")
}

/// Keeps this thread on one CPU.
///
/// # Errors
/// Where it may not run there.
pub fn pin_to(cpu: usize) -> Result<()> {
    // SAFETY: a set of bits; none is a valid one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `allowed_cpus` names CPUs below the set's size.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set lives until the call is over.
    let failed = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } != 0;
    ensure!(!failed, "staying on CPU {cpu}: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Keeps this thread on the CPU that packets are measured on.
///
/// # Errors
/// The kernel's.
pub fn pin() -> Result<()> {
    pin_to(measuring_cpu(&allowed_cpus()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_found_where_there_is_one() {
        assert_eq!(model("processor\t: 0\nmodel name\t: AMD EPYC\n"), Some("AMD EPYC"));
        assert_eq!(model("processor\t: 0\nCPU part\t: 0xd0c\n"), None);
    }

    #[test]
    fn a_thread_stays_where_it_is_pinned() -> Result<()> {
        let allowed = allowed_cpus()?;
        std::thread::spawn(move || {
            pin()?;
            ensure!(allowed_cpus()? == vec![measuring_cpu(&allowed)?], "not on one CPU");
            Ok(())
        })
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
