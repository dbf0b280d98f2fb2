//! The daemon: one task owns all state; requests, ticks and the kernel's news
//! reach it one after the other.

mod apply;
mod books;
mod follow;
mod health;
mod hops;
mod interfaces;
mod journal;
mod leave;
mod ledger;
mod notify;
mod past;
mod promotion;
mod reload;
mod requests;
mod rights;
mod scan;
mod state;
mod status;
mod store;
mod tick;
mod trial;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::MissedTickBehavior,
};

use crate::{
    api::{request::Request, server},
    config, logging, metrics,
};
use notify::Notifier;
use state::Daemon;

/// The controller looks, and a slice of the flow table is swept.
const TICK: Duration = Duration::from_millis(250);
/// Traffic that the stack does not see confirms no neighbour.
const REFRESH_NEIGHBOURS: Duration = Duration::from_secs(10);
/// For the answer to `detach` to be on its way before the end.
const LAST_ANSWER: Duration = Duration::from_millis(100);
/// Requests that may wait.
const QUEUE: usize = 64;

/// What the loop does next.
enum Flow {
    GoOn,
    Stop,
}

/// Runs the daemon until it is told to stop. Traffic goes on afterwards.
///
/// # Errors
/// What keeps it from starting: nothing has been changed then that a next
/// start would not take up.
pub fn run(config_path: &Path, log_level: Option<&str>) -> Result<()> {
    let config = config::load_to_run(config_path)?;
    logging::init(&config.log, log_level)?;
    rights::check()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(config_path, config))
}

async fn serve(config_path: &Path, config: config::Config) -> Result<()> {
    let mut notifier = Notifier::from_environment()?;
    let unix = server::bind_unix(&config.socket, &config.socket_access)?;
    let tcp = match config.metrics.listen {
        Some(address) => Some(
            TcpListener::bind(address)
                .await
                .with_context(|| format!("binding {address} (metrics.listen)"))?,
        ),
        None => None,
    };
    let socket = config.socket.clone();
    let mut daemon = Daemon::start(config_path, config).await?;
    // What mounting a bpffs, low ports and others' files may have needed.
    rights::give_up_others()?;
    let (sender, mut requests) = mpsc::channel(QUEUE);
    tokio::spawn(server::serve_unix(unix, sender.clone()));
    if let Some(tcp) = tcp {
        tokio::spawn(server::serve_metrics(tcp, sender));
    }
    tracing::info!(
        "canary {} is up; its socket is {}",
        env!("CARGO_PKG_VERSION"),
        socket.display()
    );
    notifier.ready();
    let ended = event_loop(&mut daemon, &mut requests, &mut notifier).await;
    notifier.stopping();
    std::fs::remove_file(&socket).ok();
    daemon.save();
    ended
}

async fn event_loop(
    daemon: &mut Daemon,
    requests: &mut mpsc::Receiver<Request>,
    notifier: &mut Notifier,
) -> Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut tick = every(TICK);
    let mut refresh = every(REFRESH_NEIGHBOURS);
    let mut textfile = every(daemon.config.metrics.textfile_interval);
    loop {
        tokio::select! {
            Some(request) = requests.recv() => {
                if matches!(daemon.handle(request).await, Flow::Stop) {
                    tokio::time::sleep(LAST_ANSWER).await;
                    tracing::info!("detached; stopping");
                    return Ok(());
                }
            }
            _ = tick.tick() => {
                daemon.tick();
                notifier.goes_round(Instant::now(), || daemon.status_line());
            }
            () = daemon.followers.ready() => daemon.followers.pass_on(),
            () = daemon.resolver.changed() => daemon.follow_changes().await,
            Some(news) = daemon.inbox.next() => daemon.heard(&news),
            Some(report) = daemon.health.next() => daemon.checked(report),
            _ = refresh.tick() => daemon.refresh_neighbours().await,
            _ = textfile.tick() => write_textfile(daemon),
            _ = hangup.recv() => {
                notifier.reloading();
                // Its outcome is in the log.
                daemon.reload().await.ok();
                notifier.ready();
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tracing::info!("stopping; traffic goes on without me (`canary detach` ends it)");
    Ok(())
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

fn write_textfile(daemon: &mut Daemon) {
    let Some(path) = daemon.config.metrics.textfile.clone() else { return };
    let written = daemon
        .metrics_text()
        .map_err(|refusal| refusal.message)
        .and_then(|text| metrics::write_textfile(&path, &text).map_err(|error| error.to_string()));
    if let Err(error) = written {
        tracing::warn!("writing {}: {error}", path.display());
    }
}
