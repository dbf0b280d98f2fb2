//! Shared by the tests: frames made and checked from scratch, the packet path
//! under test runs, a model of it, and a laboratory of network namespaces.

pub mod bed;
pub mod bench;
pub mod demo;
pub mod fire;
pub mod frame;
pub mod fuzz;
pub mod lab;
pub mod layout3;
pub mod memory;
pub mod model;
pub mod netns;
pub mod plane;
pub mod random;
pub mod register;
pub mod rollouts;
pub mod shared;
pub mod shrink;
pub mod simulate;
