//! Which backends are well enough for new connections. Pure: what a check
//! found, what the kernel counted and the time go in, who is out comes out.
//!
//! - [`Active`]: checks that pass or fail; so many in a row change it.
//! - [`Passive`]: what clients' connections met; a backend that fails them is
//!   ejected for a while, each time in a row for longer.
//! - [`decide`]: both together for a track, with its cap and panic mode.
//!
//! Times are durations since the daemon began, by a clock that never goes back.

mod active;
mod passive;
#[cfg(test)]
mod tests;
mod track;

pub use active::{Active, Change, Outcome};
pub use passive::{Counted, Ejected, Passive, Reason};
pub use track::{Decision, Member, decide, has_room};
