//! The daemon's interface: HTTP and JSON over a Unix socket.

pub mod types;
