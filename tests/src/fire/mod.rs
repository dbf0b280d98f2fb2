//! Under fire: real connections, and pins by the hundred thousand, through
//! everything that may happen to a balancer at noon. docs/reliability.md has
//! the table; `canary-fire` prints it, `tests/tests/fire.rs` runs the short
//! versions.

mod around;
mod arrivals;
mod crowd;
mod disk;
mod flood;
mod full;
mod life;
mod lossy;
mod pins;
mod programs;
mod restarts;
mod row;
mod silent;
mod soak;
mod spray;
mod suspended;
mod uplink;
mod wire;

pub use around::surroundings;
pub use arrivals::{Arrival, Arrivals, Summary};
pub use crowd::{Crowd, CrowdReport};
pub use disk::disks;
pub use flood::{Flood, FloodPlan, Flooded, floods};
pub use full::full;
pub use lossy::lossy;
pub use pins::{Pins, Verified};
pub use restarts::{Plan, restarts};
pub use row::{Row, markdown};
pub use silent::{Silence, silent};
pub use soak::{SoakPlan, soak};
pub use suspended::suspended;
