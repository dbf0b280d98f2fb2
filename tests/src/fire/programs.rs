//! The program that an interface has: its number in the kernel, and its size.

use anyhow::{Context as _, Result};
use aya::programs::loaded_programs;

use crate::lab::Lab;

/// A program that is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attached {
    pub(super) id: u32,
    /// Bytes after the verifier has dropped what is never reached.
    pub(super) translated: u32,
}

/// The program on this interface of the balancer.
///
/// # Errors
/// Where there is none.
pub(super) fn attached(lab: &Lab, interface: &str) -> Result<Attached> {
    let shown = lab.command("lb", "ip", &["-j", "-d", "link", "show", "dev", interface])?;
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    let id = shown[0]["xdp"]["prog"]["id"].as_u64();
    let id = id.with_context(|| format!("no XDP program on {interface}"))? as u32;
    let program = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
    let program = program.with_context(|| format!("program {id} is gone"))?;
    let translated = program.size_translated().context("of no size")?;
    Ok(Attached { id, translated })
}
