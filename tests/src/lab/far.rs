//! Hosts behind hosts, over a link of its own kind: narrow, which is what
//! path-MTU discovery is for, or long.

use anyhow::Result;

use super::Lab;
use crate::netns::ip;

/// Hosts that a lab may have behind others.
pub const FAR: [&str; 5] = ["fc", "fs", "w1", "w2", "w3"];

impl Lab {
    /// Puts `far`, one of [`FAR`], behind `host`, which becomes a router with
    /// a link of this MTU to it. The far host itself knows nothing of that.
    ///
    /// # Errors
    /// Where a command fails.
    pub fn put_behind(&self, host: &str, far: &str, mtu: u32) -> Result<()> {
        let (near, there) = (self.namespace(host), self.namespace(far));
        ip(&[
            "-n", &near, "link", "add", "far0", "type", "veth", "peer", "name", "eth0", "netns",
            &there,
        ])?;
        self.route_behind(host, far)?;
        ip(&["-n", &near, "link", "set", "far0", "mtu", &mtu.to_string()])?;
        // Segments as they are on a wire, and with whole checksums.
        self.command(far, "ethtool", &["-K", "eth0", "tx", "off", "gro", "off"])?;
        self.command(host, "ethtool", &["-K", "far0", "tx", "off", "gro", "off"]).map(drop)
    }

    /// Gives the link between `host` and `far` its addresses, and all who need
    /// it a way over it.
    pub(super) fn route_behind(&self, host: &str, far: &str) -> Result<()> {
        let (lb, near, there) = (self.namespace("lb"), self.namespace(host), self.namespace(far));
        let number = Self::number(far);
        for (namespace, device, end) in [(&near, "far0", 1), (&there, "eth0", 2)] {
            let v4 = format!("10.77.{number}.{end}/24");
            let v6 = format!("fd77:{number}::{end}/64");
            ip(&["-n", namespace, "addr", "add", &v4, "dev", device])?;
            ip(&["-n", namespace, "-6", "addr", "add", &v6, "dev", device, "nodad"])?;
            ip(&["-n", namespace, "link", "set", device, "up"])?;
        }
        ip(&["-n", &there, "route", "add", "default", "via", &format!("10.77.{number}.1")])?;
        ip(&["-n", &there, "-6", "route", "add", "default", "via", &format!("fd77:{number}::1")])?;
        for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            self.sysctl(host, key, "1")?;
        }
        let (v4, v6) = (format!("10.77.{number}.0/24"), format!("fd77:{number}::/64"));
        ip(&["-n", &lb, "route", "add", &v4, "via", &Self::address(host, false)])?;
        ip(&["-n", &lb, "-6", "route", "add", &v6, "via", &Self::address(host, true)])?;
        Ok(())
    }
}
