//! `canary detach`.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::{
    Failure,
    commands::{PLAIN_PROGRESS, POLL, print},
    complain,
};
use crate::{
    api::{
        client::{Client, ClientError},
        types::{DetachDrain, SetDetachDrain},
    },
    dataplane,
};

const DRAIN: &str = "/v1/detach/drain";

/// Ctrl-C, `kill`, or the terminal went away.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

pub(super) fn detach(
    client: &Client,
    bpffs: &Path,
    drain: Option<Duration>,
) -> Result<(), Failure> {
    let left = drain.map(|timeout| wait_until_empty(client, timeout)).transpose()?;
    let removed: Vec<String> = match client.post("/v1/detach") {
        Ok(removed) => removed,
        Err(ClientError::NoDaemon(_)) if drain.is_none() => {
            dataplane::remove_unused_pins(bpffs).map_err(anyhow::Error::from)?
        }
        Err(error) => return Err(error.into()),
    };
    if removed.is_empty() {
        return print("nothing was attached\n");
    }
    let links = removed.iter().filter(|name| name.starts_with("link_")).count();
    let cut = match left {
        Some(left) if left > 0 => format!("; {left} connections were left, and are cut"),
        Some(_) => "; no connection was left".to_owned(),
        None => String::new(),
    };
    print(&format!(
        "detached from {links} interface(s), {} maps removed{cut}\n",
        removed.len() - links
    ))
}

/// How many connections are left, after that time at most. Where it is
/// interrupted, all is as it was.
fn wait_until_empty(client: &Client, timeout: Duration) -> Result<u64, Failure> {
    watch_signals();
    let begun = Instant::now();
    let mut state: DetachDrain = client.put(DRAIN, &SetDetachDrain { drain: true })?;
    let bar = ProgressBar::new(state.active);
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} ended ({elapsed})");
    bar.set_style(style.map_err(anyhow::Error::from)?);
    bar.set_message("draining before detach");
    let (mut most, mut said) = (state.active, begun);
    while state.active > 0 && begun.elapsed() < timeout {
        if INTERRUPTED.load(Ordering::Relaxed) {
            bar.abandon();
            let _: DetachDrain = client.put(DRAIN, &SetDetachDrain { drain: false })?;
            return Err(Failure::Other(anyhow::anyhow!(
                "interrupted: nothing was detached, and new connections are taken again"
            )));
        }
        most = most.max(state.active);
        bar.set_length(most);
        bar.set_position(most - state.active);
        if bar.is_hidden() && said.elapsed() >= PLAIN_PROGRESS {
            complain(&format!("draining before detach: {} left", state.active));
            said = Instant::now();
        }
        std::thread::sleep(POLL.min(timeout.saturating_sub(begun.elapsed())));
        state = client.get(DRAIN)?;
    }
    bar.finish_and_clear();
    Ok(state.active)
}

fn watch_signals() {
    extern "C" fn interrupted(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    let handler = interrupted as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { libc::signal(signal, handler) };
    }
}
