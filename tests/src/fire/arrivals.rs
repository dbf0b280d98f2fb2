//! New connections at a steady rate, whatever becomes of those before: how many
//! are made, and how long it takes.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::lab::{Lab, connected, enter};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n";
/// As a patient client: SYNs at 0, 1, 3 and 7 s.
const PATIENCE: Duration = Duration::from_secs(10);

/// They come until this is stopped.
#[derive(Debug)]
pub struct Arrivals {
    stop: Arc<AtomicBool>,
    /// There until it is waited for.
    thread: Option<JoinHandle<Result<Vec<Arrival>>>>,
}

/// One that was tried.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When its client began, and when it was answered or gave up.
    pub at: Instant,
    pub ended: Instant,
    /// Or why it was not answered.
    pub came: Result<Came, String>,
}

/// One that was answered.
#[derive(Clone, Debug)]
pub struct Came {
    /// Until connected.
    pub took: Duration,
    /// Who answered.
    pub server: String,
}

/// Times in seconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Summary {
    pub tried: usize,
    pub answered: usize,
    /// By the first SYN.
    pub at_once: usize,
    pub median: f64,
    pub p99: f64,
    pub longest: f64,
}

impl Arrivals {
    /// So many a second, from the client's host.
    pub fn start(lab: &Arc<Lab>, to: SocketAddr, per_second: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (lab, stopping) = (Arc::clone(lab), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            enter(&lab, "client")?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(arrive(to, per_second, &stopping))
        });
        Self { stop, thread: Some(thread) }
    }

    /// No more of them; what became of each.
    ///
    /// # Errors
    /// Where the thread could not do its work.
    pub fn stop(mut self) -> Result<Vec<Arrival>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("stopped twice")?;
        thread.join().map_err(|_| anyhow::anyhow!("the arriving clients panicked"))?
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

async fn arrive(to: SocketAddr, per_second: u32, stop: &AtomicBool) -> Result<Vec<Arrival>> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second.max(1));
    let mut clients = tokio::task::JoinSet::new();
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        clients.spawn(async move {
            let at = Instant::now();
            let came = tokio::time::timeout(PATIENCE, come(to)).await;
            let came = came.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
            Arrival { at, ended: Instant::now(), came: came.map_err(|error| error.to_string()) }
        });
    }
    let mut arrivals = Vec::new();
    while let Some(arrival) = clients.join_next().await {
        arrivals.push(arrival.context("an arriving client panicked")?);
    }
    arrivals.sort_by_key(|arrival| arrival.at);
    Ok(arrivals)
}

async fn come(to: SocketAddr) -> std::io::Result<Came> {
    let begun = Instant::now();
    let mut stream = connected(to).await?;
    let took = begun.elapsed();
    stream.write_all(REQUEST).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let empty = || std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "no answer");
    let server = answer.lines().last().map(str::to_owned).ok_or_else(empty)?;
    Ok(Came { took, server })
}

impl Summary {
    #[must_use]
    pub fn of(arrivals: &[Arrival]) -> Self {
        let mut times: Vec<f64> =
            arrivals.iter().flat_map(|a| &a.came).map(|c| c.took.as_secs_f64()).collect();
        times.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = (times.len() as f64 * share) as usize;
            times.get(place.min(times.len().saturating_sub(1))).copied().unwrap_or(0.0)
        };
        Self {
            tried: arrivals.len(),
            answered: times.len(),
            at_once: times.iter().filter(|time| **time < 1.0).count(),
            median: at(0.5),
            p99: at(0.99),
            longest: at(1.0),
        }
    }

    /// For a row.
    #[must_use]
    pub fn words(&self) -> String {
        let share = |part: usize| 100.0 * part as f64 / self.tried.max(1) as f64;
        format!(
            "new connections: {} tried, {:.2} % answered, {:.2} % by the first SYN; connected in \
             {:.1} ms (median), {:.1} ms (99 %)",
            self.tried,
            share(self.answered),
            share(self.at_once),
            1e3 * self.median,
            1e3 * self.p99
        )
    }
}
