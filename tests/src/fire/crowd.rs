//! Keep-alive connections by the thousand, held open by one thread: opened
//! once, never again.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
};

use crate::lab::{Cut, Lab, connected, enter};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n";
/// For an answer: three retransmissions of TCP's.
const PATIENCE: Duration = Duration::from_secs(15);
/// Handshakes under way at once, while they are opened.
const OPENING: usize = 64;
const OPENED_WITHIN: Duration = Duration::from_secs(60);

/// The connections. They end when this is dropped.
#[derive(Debug)]
pub struct Crowd {
    every: Duration,
    shared: Arc<Shared>,
    /// There until it is waited for.
    thread: Option<JoinHandle<Result<()>>>,
    /// What there was at the end of the last lap.
    before: CrowdReport,
}

/// What became of them, in all or in a lap.
#[derive(Clone, Debug, Default)]
pub struct CrowdReport {
    /// Live when it began.
    pub connections: u64,
    pub requests: u64,
    /// Answers by another server than the connection's first.
    pub moved: u64,
    pub cut: Vec<Cut>,
    /// From a request to its answer.
    pub longest_wait: Duration,
    /// Connections by the server they are on.
    pub on: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    requests: AtomicU64,
    moved: AtomicU64,
    /// Microseconds; of this lap.
    longest_wait: AtomicU64,
    cut: Mutex<Vec<Cut>>,
    on: Mutex<BTreeMap<String, u64>>,
    /// Answers of each connection; what was cut has as many as there can be.
    answers: Vec<AtomicU64>,
}

impl Crowd {
    /// Opens `count` connections from the client's host; returns when all have
    /// had an answer. Each then asks again once `every`.
    ///
    /// # Errors
    /// Where one cannot be opened.
    pub fn start(lab: &Arc<Lab>, to: SocketAddr, count: usize, every: Duration) -> Result<Self> {
        let answers = (0..count).map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new(Shared { answers, ..Shared::default() });
        let (lab, sharing) = (Arc::clone(lab), Arc::clone(&shared));
        let (opened, opening) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            enter(&lab, "client")?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(hold_all(&sharing, to, every, &opened))
        });
        let mut crowd =
            Self { every, shared, thread: Some(thread), before: CrowdReport::default() };
        for number in 0..count {
            let one = opening.recv_timeout(OPENED_WITHIN);
            one.with_context(|| format!("{number} of {count} connections were opened"))?
                .context("opening a keep-alive connection")?;
        }
        crowd.before = crowd.so_far();
        Ok(crowd)
    }

    /// All since the beginning.
    #[must_use]
    pub fn so_far(&self) -> CrowdReport {
        let shared = &self.shared;
        CrowdReport {
            connections: shared.answers.len() as u64,
            requests: shared.requests.load(Ordering::Relaxed),
            moved: shared.moved.load(Ordering::Relaxed),
            cut: lock(&shared.cut).clone(),
            longest_wait: Duration::from_micros(shared.longest_wait.load(Ordering::Relaxed)),
            on: lock(&shared.on).clone(),
        }
    }

    /// Waits until each has asked, and been answered, once more; then what
    /// happened since the last lap.
    ///
    /// # Errors
    /// Where one of them does neither get an answer nor an error.
    pub fn lap(&mut self) -> Result<CrowdReport> {
        let answers = || self.shared.answers.iter().map(|count| count.load(Ordering::Relaxed));
        // The first of two may have been asked before.
        let wanted: Vec<u64> = answers().map(|count| count.saturating_add(2)).collect();
        let begun = Instant::now();
        while !answers().zip(&wanted).all(|(count, wanted)| count >= *wanted) {
            let late = begun.elapsed() > 3 * (self.every + PATIENCE);
            ensure!(!late, "connections neither answer nor end");
            std::thread::sleep(Duration::from_millis(20));
        }
        let now = self.so_far();
        let before = std::mem::replace(&mut self.before, now.clone());
        self.shared.longest_wait.store(0, Ordering::Relaxed);
        Ok(CrowdReport {
            connections: before.connections - before.cut.len() as u64,
            requests: now.requests - before.requests,
            moved: now.moved - before.moved,
            cut: now.cut[before.cut.len()..].to_vec(),
            ..now
        })
    }

    /// One last lap, and all since the beginning.
    ///
    /// # Errors
    /// As [`Crowd::lap`].
    pub fn stop(mut self) -> Result<CrowdReport> {
        self.lap()?;
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("stopped twice")?;
        thread.join().map_err(|_| anyhow::anyhow!("the keep-alive clients panicked"))??;
        Ok(self.so_far())
    }
}

/// A test that fails half-way must not leave clients behind: they hold the lab.
impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Opened = mpsc::Sender<std::io::Result<()>>;

async fn hold_all(
    shared: &Arc<Shared>,
    to: SocketAddr,
    every: Duration,
    opened: &Opened,
) -> Result<()> {
    let opening = Arc::new(Semaphore::new(OPENING));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..shared.answers.len() {
        let (shared, opening, opened) = (Arc::clone(shared), Arc::clone(&opening), opened.clone());
        tasks.spawn(async move {
            let permit = opening.acquire().await;
            let first = open(to).await;
            drop(permit);
            let (stream, server) = match first {
                Ok(first) => first,
                Err(error) => return drop(opened.send(Err(error))),
            };
            *lock(&shared.on).entry(server.clone()).or_default() += 1;
            opened.send(Ok(())).ok();
            // Not all at once.
            let first = every * number as u32 / shared.answers.len() as u32;
            tokio::time::sleep(first).await;
            if let Err(error) = hold(&shared, number, stream, &server, every).await {
                let error = error.to_string();
                lock(&shared.cut).push(Cut { server, error, at: Instant::now() });
                shared.answers[number].store(u64::MAX, Ordering::Relaxed);
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a keep-alive client panicked")?;
    }
    Ok(())
}

async fn open(to: SocketAddr) -> std::io::Result<(TcpStream, String)> {
    let mut stream = tokio::time::timeout(PATIENCE, connected(to)).await??;
    stream.set_nodelay(true)?;
    let server = ask(&mut stream).await?;
    Ok((stream, server))
}

async fn hold(
    shared: &Shared,
    number: usize,
    mut stream: TcpStream,
    server: &str,
    every: Duration,
) -> std::io::Result<()> {
    while !shared.stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let name = ask(&mut stream).await?;
        let waited = asked.elapsed();
        shared.requests.fetch_add(1, Ordering::Relaxed);
        shared.moved.fetch_add(u64::from(name != server), Ordering::Relaxed);
        shared.longest_wait.fetch_max(waited.as_micros() as u64, Ordering::Relaxed);
        shared.answers[number].fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(every.saturating_sub(waited)).await;
    }
    Ok(())
}

/// One request: the server's name.
async fn ask(stream: &mut TcpStream) -> std::io::Result<String> {
    let asking = async {
        stream.write_all(REQUEST).await?;
        let mut answer = Vec::new();
        // Headers, an empty line, and the name with its line's end.
        loop {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let text = String::from_utf8_lossy(&answer);
            if let Some((_, body)) = text.split_once("\r\n\r\n")
                && let Some(name) = body.strip_suffix('\n')
            {
                return Ok(name.to_owned());
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await?
}
