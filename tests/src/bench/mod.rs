//! Figures of canary, and of programs and ways beside it: `cargo xtask bench`.
//! docs/performance.md says what they mean.

pub mod beds;
pub mod machine;
pub mod packets;
pub mod report;
pub mod rivals;
pub mod rounds;
pub mod wrapper;

use anyhow::Result;

use report::Section;

/// Sections that are measured together.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// How it is asked for.
    pub name: &'static str,
    /// Part of the quick run.
    pub quick: bool,
    /// Measures, the quick way or not.
    pub run: fn(bool) -> Result<Vec<Section>>,
}

/// All there is, in the order of the report.
pub const GROUPS: &[Group] = &[Group { name: "packets", quick: true, run: packets::sections }];
