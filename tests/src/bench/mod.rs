//! Figures of canary, and of programs and ways beside it: `cargo xtask bench`.
//! docs/performance.md says what they mean.

pub mod baseline;
pub mod beds;
pub mod counted;
pub mod cpus;
pub mod end_to_end;
pub mod growth;
pub mod live;
pub mod machine;
pub mod many;
pub mod packets;
pub mod report;
pub mod rivals;
pub mod rounds;
pub mod shots;
pub mod signals;
pub mod splits;
pub mod steering;
pub mod userspace;
pub mod verified;
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
pub const GROUPS: &[Group] = &[
    Group { name: "packets", quick: true, run: packets::sections },
    Group { name: "signals", quick: true, run: signals::sections },
    Group { name: "verified", quick: true, run: verified::sections },
    Group { name: "live", quick: false, run: live::sections },
    Group { name: "growth", quick: false, run: growth::sections },
    Group { name: "cpus", quick: false, run: cpus::sections },
    Group { name: "split", quick: false, run: splits::sections },
    Group { name: "steering", quick: false, run: steering::sections },
    Group { name: "end-to-end", quick: false, run: end_to_end::sections },
    Group { name: "user-space", quick: false, run: userspace::sections },
];
