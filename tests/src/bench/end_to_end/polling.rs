//! How the balancer's interfaces take packets, for all ways alike.

use anyhow::{Result, ensure};

use super::SERVERS;
use crate::{lab::Lab, netns::ip};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Polling {
    /// As veths come: what has no XDP program is taken by the sender's CPU at
    /// once, without NAPI and GRO.
    Direct,
    /// By NAPI with GRO, as network cards do, in the kernel's threads
    /// (`threaded`, Linux 5.12).
    Threads,
}

impl Polling {
    /// Behind the name of a section.
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::Direct => "",
            Self::Threads => "-threads",
        }
    }

    pub(super) const fn about(self) -> &'static str {
        match self {
            Self::Direct => "the balancer's veths as they come",
            Self::Threads => "the balancer's veths with GRO and threaded NAPI for all",
        }
    }

    /// Sets it.
    ///
    /// # Errors
    /// Where the kernel does not know it.
    pub(super) fn apply(self, lab: &Lab) -> Result<()> {
        for device in ["client", SERVERS[0], SERVERS[1]].map(Lab::interface) {
            // There are threads only where there is a NAPI, so while GRO is on.
            let gro = |to| lab.command("lb", "ethtool", &["-K", &device, "gro", to]);
            match self {
                Self::Direct => {
                    threads(lab, &device, "0")?;
                    gro("off")?;
                }
                Self::Threads => {
                    gro("on")?;
                    threads(lab, &device, "1")?;
                }
            }
        }
        Ok(())
    }
}

fn threads(lab: &Lab, device: &str, wanted: &str) -> Result<()> {
    let file = format!("/sys/class/net/{device}/threaded");
    let script = format!("[ $(cat {file}) = {wanted} ] || echo {wanted} > {file}; cat {file}");
    // `ip netns exec` has the namespace's own /sys.
    let is = ip(&["netns", "exec", &lab.namespace("lb"), "sh", "-c", &script])?;
    ensure!(is.trim() == wanted, "{file} is {}, not {wanted}", is.trim());
    Ok(())
}
