//! Under fire: real connections, and pins by the hundred thousand, through
//! everything that may happen to a balancer at noon. docs/reliability.md has
//! the table; `canary-fire` prints it, `tests/tests/fire.rs` runs the short
//! versions.

mod arrivals;
mod crowd;
mod flood;
mod pins;
mod programs;
mod restarts;
mod row;
mod spray;
mod wire;

pub use arrivals::{Arrival, Arrivals, Summary};
pub use crowd::{Crowd, CrowdReport};
pub use flood::{Flood, FloodPlan, Flooded, floods};
pub use pins::{Pins, Verified};
pub use restarts::{Plan, restarts};
pub use row::{Row, markdown};
