//! Logs, one line an event: to stderr, or to journald.

use std::io::IsTerminal as _;

use anyhow::{Context as _, Result};
use tracing_subscriber::{
    EnvFilter, filter::LevelFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::config::{Log, LogTarget};

/// Ours from `info` on; the netlink parser warns of every attribute that is
/// newer than it.
const DEFAULT_LEVELS: &str = "info,netlink_packet_route=error";

/// `NO_COLOR` counts where it is set to anything (no-color.org).
pub(crate) fn colours_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Checks what `--log-level` was given. `EnvFilter` alone would take a slip of
/// the finger for the name of a target, and log less without a word.
///
/// # Errors
/// What to write instead.
pub fn check_levels(text: &str) -> Result<String, String> {
    let wrong = |part: &str| {
        format!(
            "{part:?} is no level; write error, warn, info, debug, trace or off, or TARGET=LEVEL, as canary::netlink=debug"
        )
    };
    for part in text.split(',').map(str::trim) {
        let level = match part.rsplit_once('=') {
            Some(("", _)) => return Err(wrong(part)),
            Some((_, level)) => level,
            None => part,
        };
        // `LevelFilter` takes digits and nothing at all, too.
        let named = level.chars().any(char::is_alphabetic);
        if !named || level.parse::<LevelFilter>().is_err() {
            return Err(wrong(part));
        }
    }
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// What is logged, and why `RUST_LOG` was not followed, if it was not: a slip
/// in the environment is no reason not to balance.
fn filter(level: Option<&str>, environment: Option<&str>) -> Result<(EnvFilter, Option<String>)> {
    if let Some(level) = level {
        let filter = EnvFilter::try_new(format!("{DEFAULT_LEVELS},{level}"))
            .with_context(|| format!("--log-level {level}"))?;
        return Ok((filter, None));
    }
    match environment.filter(|levels| !levels.trim().is_empty()) {
        None => Ok((EnvFilter::new(DEFAULT_LEVELS), None)),
        Some(levels) => Ok(match EnvFilter::try_new(levels) {
            Ok(filter) => (filter, None),
            Err(error) => (
                EnvFilter::new(DEFAULT_LEVELS),
                Some(format!("RUST_LOG={levels} is not followed: {error}")),
            ),
        }),
    }
}

/// Starts logging. `level` (of the command line) goes before `RUST_LOG`, and
/// that before `info`. What the `log` crate is told goes the same way.
///
/// # Errors
/// A level that is none, no journald where it is asked for, or logging that
/// was started before.
pub fn init(log: &Log, level: Option<&str>) -> Result<()> {
    let environment = std::env::var(EnvFilter::DEFAULT_ENV).ok();
    let (filter, ignored) = filter(level, environment.as_deref())?;
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
                .with_ansi(std::io::stderr().is_terminal() && colours_wanted())
                .with_target(false);
            registry.with(stderr).try_init()?;
        }
    }
    if let Some(ignored) = ignored {
        tracing::warn!("{ignored}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn levels_are_levels() {
        for text in ["info", "DEBUG", "off", "canary=debug", "warn,canary::netlink=trace"] {
            assert_eq!(check_levels(text).as_deref(), Ok(text));
        }
        for text in ["", "verbose", "canary", "canary=", "=info", "canary=loud", "info,,debug", "3"]
        {
            let said = check_levels(text).unwrap_err();
            assert!(said.contains("write error, warn"), "{text}: {said}");
        }
    }

    #[test]
    fn the_command_line_goes_before_the_environment_and_that_before_info() {
        let chosen = |level, environment| filter(level, environment).unwrap();
        let most = |(filter, _): &(EnvFilter, _)| filter.max_level_hint();
        assert_eq!(most(&chosen(Some("debug"), Some("trace"))), Some(LevelFilter::DEBUG));
        assert_eq!(most(&chosen(None, Some("trace"))), Some(LevelFilter::TRACE));
        for unset in [None, Some(""), Some(" ")] {
            let chosen = chosen(None, unset);
            assert_eq!((most(&chosen), &chosen.1), (Some(LevelFilter::INFO), &None), "{unset:?}");
        }
    }

    #[test]
    fn a_slip_in_the_environment_is_said_and_not_fatal() {
        let (filter, ignored) = filter(None, Some("canary=loud")).unwrap();
        assert_eq!(filter.max_level_hint(), Some(LevelFilter::INFO));
        assert!(ignored.unwrap().starts_with("RUST_LOG=canary=loud is not followed: "));
    }
}
