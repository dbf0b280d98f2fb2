//! Whole rollouts on real connections: what a canary that fails costs, and that
//! one which is as good as stable is never taken back. `canary-rollouts` prints
//! the figures.

pub mod equal;
pub mod failing;
mod kernel;

use crate::lab::{LoadReport, Outcome};

/// Times are not watched: whose servers share two processors with everything
/// else on the machine has times that are not its own.
const FAILURES_ALONE: &str =
    r#"evidence = { watch = ["refused", "resets", "handshake-timeouts", "5xx"] }"#;

/// Connections that have ended.
fn all(report: &LoadReport) -> u64 {
    report.values().sum()
}

/// Those that were not answered.
fn failed(report: &LoadReport) -> u64 {
    let failed = report.iter().filter(|(outcome, _)| !matches!(outcome, Outcome::Answered(_)));
    failed.map(|(_, count)| count).sum()
}
