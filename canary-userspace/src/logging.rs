//! Logs, one line an event: to stderr, or to journald.

use std::io::IsTerminal as _;

use anyhow::{Context as _, Result};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{Log, LogTarget};

/// Ours from `info` on; the netlink parser warns of every attribute that is
/// newer than it.
const DEFAULT_LEVELS: &str = "info,netlink_packet_route=error";

/// Starts logging. `level` (of the command line) goes before `RUST_LOG`, and
/// that before `info`.
///
/// # Errors
/// A level that is none, no journald where it is asked for, or logging that
/// was started before.
pub fn init(log: &Log, level: Option<&str>) -> Result<()> {
    let filter = match level {
        Some(level) => EnvFilter::try_new(format!("{DEFAULT_LEVELS},{level}"))
            .with_context(|| format!("--log-level {level}"))?,
        None => {
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LEVELS))
        }
    };
    let registry = tracing_subscriber::registry().with(filter);
    match log.target {
        LogTarget::Journald => {
            let journald = tracing_journald::layer()
                .context("reaching journald; set `target = \"stderr\"` in [log]")?;
            registry.with(journald).try_init()?;
        }
        LogTarget::Stderr => {
            let stderr = tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(std::io::stderr().is_terminal())
                .with_target(false);
            registry.with(stderr).try_init()?;
        }
    }
    Ok(())
}
