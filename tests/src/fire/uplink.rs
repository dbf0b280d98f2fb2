//! A second wire between the client and the balancer.

use anyhow::Result;

use crate::lab::Lab;

pub(super) const AT_CLIENT: &str = "eth1";
pub(super) const AT_BALANCER: &str = "cnyclient2";
const NETWORK: usize = 20;

/// Adds it, to a lab that has no daemon yet. All goes by the first as before.
///
/// # Errors
/// Where something of it cannot be made.
pub(super) fn add(lab: &mut Lab) -> Result<()> {
    lab.wire("client", (AT_BALANCER, AT_CLIENT), NETWORK, None)?;
    // Answers to the first wire's address come by the second.
    for device in ["all", "eth0", AT_CLIENT] {
        lab.sysctl("client", &format!("net.ipv4.conf.{device}.rp_filter"), "0")?;
    }
    lab.interfaces.push(AT_BALANCER.to_owned());
    Ok(())
}

/// Whether a lab has it.
pub(super) fn is_there(lab: &Lab) -> bool {
    lab.interfaces.iter().any(|name| name == AT_BALANCER)
}
