//! The user-space side of canary. ARCHITECTURE.md has the map.

pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod dataplane;
pub mod evidence;
pub mod health;
pub mod judge;
pub mod logging;
pub mod metrics;
pub mod names;
pub mod netlink;
pub mod outside;
pub mod plan;
#[cfg(test)]
mod random;
pub mod rollout;
pub mod stats;
