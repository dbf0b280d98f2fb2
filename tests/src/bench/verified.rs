//! What the programs cost the kernel's verifier.

use anyhow::{Context as _, Result};

use super::report::{Row, Section};
use crate::{netns::in_new_namespace, plane::Plane};

/// The section's name.
pub const NAME: &str = "verified";

/// # Errors
/// Without root, or before Linux 5.16, which does not tell.
pub fn sections(_quick: bool) -> Result<Vec<Section>> {
    in_new_namespace(["cny-a", "cny-b"], || {
        let mut plane = Plane::new(1024)?;
        let plane = plane.get();
        let mut rows = Vec::new();
        for program in [plane.program(), "canary_where"] {
            let count = plane.xdp(program)?.info()?.verified_instruction_count();
            let count = count.context("this kernel does not count verified instructions")?;
            rows.push(Row::of(program, &[f64::from(count)])?);
        }
        let about = "what the kernel's verifier walked through (its limit is 1,000,000)".to_owned();
        let unit = "instructions".to_owned();
        Ok(vec![Section { name: NAME.to_owned(), about, unit, rows }])
    })
}
