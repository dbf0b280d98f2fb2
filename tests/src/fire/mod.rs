//! Under fire: real connections, and pins by the hundred thousand, through
//! everything that may happen to a balancer at noon. docs/reliability.md has
//! the table; `canary-fire` prints it, `tests/tests/fire.rs` runs the short
//! versions.

mod crowd;
mod programs;
mod restarts;
mod row;

pub use crowd::{Crowd, CrowdReport};
pub use restarts::{Plan, restarts};
pub use row::{Row, markdown};
