//! Real clients: many short connections, and some that never end. Sockets
//! belong to the network namespace of the thread that opens them, so each
//! client thread enters its host's first.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Error, ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::net::TcpSocket;

use super::Lab;

const PATIENCE: Duration = Duration::from_secs(10);
const KEEP_ALIVE: &[u8] = b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n";
const ONCE: &[u8] = b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n";

/// Moves the calling thread to a host.
pub(crate) fn enter(lab: &Lab, host: &str) -> Result<()> {
    let namespace = File::open(format!("/run/netns/{}", lab.namespace(host)))?;
    // SAFETY: changes this thread's namespace only.
    let failed = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0;
    ensure!(!failed, "entering {host}: {}", std::io::Error::last_os_error());
    Ok(())
}

/// What came of one connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The server's name.
    Answered(String),
    Refused,
    Reset,
    TimedOut,
    Other(String),
}

/// One request on one connection.
#[must_use]
pub fn fetch(to: SocketAddr) -> Outcome {
    match once(to) {
        Ok(name) => Outcome::Answered(name),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => Outcome::Refused,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Outcome::Reset,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Outcome::TimedOut,
            _ => Outcome::Other(error.to_string()),
        },
    }
}

fn once(to: SocketAddr) -> std::io::Result<String> {
    let mut stream = connect(to)?;
    stream.write_all(ONCE)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let empty = || std::io::Error::new(ErrorKind::UnexpectedEof, "no answer");
    answer.lines().last().map(str::to_owned).ok_or_else(empty)
}

/// Clients' ports, one after the other over all of a test: the kernel's own
/// choice comes back to the same ones, and a share of connections that hash
/// alike is not binomial.
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);
const FIRST_PORT: u16 = 2000;
const PORTS: u16 = 60_000;

fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let connecting = async { tokio::time::timeout(PATIENCE, connected(to)).await? };
    let stream = runtime.block_on(connecting)?.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection from the next port that has none to there.
pub(crate) async fn connected(to: SocketAddr) -> std::io::Result<tokio::net::TcpStream> {
    loop {
        let socket = match to.is_ipv4() {
            true => TcpSocket::new_v4(),
            false => TcpSocket::new_v6(),
        }?;
        socket.set_reuseaddr(true)?;
        let any: std::net::IpAddr = match to.is_ipv4() {
            true => Ipv4Addr::UNSPECIFIED.into(),
            false => Ipv6Addr::UNSPECIFIED.into(),
        };
        let port = FIRST_PORT + NEXT_PORT.fetch_add(1, Ordering::Relaxed) % PORTS;
        let connected = match socket.bind(SocketAddr::new(any, port)) {
            Ok(()) => socket.connect(to).await,
            Err(error) => Err(error),
        };
        // One that is held; there are many more ports.
        let is_taken = |error: &Error| {
            matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable)
        };
        if !connected.as_ref().is_err_and(is_taken) {
            return connected;
        }
    }
}

/// New connections at a bounded rate, from a few threads.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    /// Read by whoever is under way.
    gate: Arc<RwLock<()>>,
    outcomes: Arc<Mutex<BTreeMap<Outcome, u64>>>,
    first_failure: Arc<OnceLock<Instant>>,
    threads: Vec<JoinHandle<Result<()>>>,
}

/// Outcomes and how often each came.
pub type LoadReport = BTreeMap<Outcome, u64>;

impl Load {
    /// `total` connections at most, `per_second` of them at most.
    pub fn start(lab: &Arc<Lab>, to: SocketAddr, per_second: u32, total: u64) -> Self {
        const THREADS: u32 = 4;
        let stop = Arc::new(AtomicBool::new(false));
        let gate = Arc::new(RwLock::new(()));
        let outcomes = Arc::new(Mutex::new(BTreeMap::new()));
        let first_failure = Arc::new(OnceLock::new());
        let left = Arc::new(AtomicU64::new(total));
        let pause = Duration::from_secs(1) * THREADS / per_second.max(1);
        let threads = (0..THREADS).map(|_| {
            let (lab, stop, gate) = (Arc::clone(lab), Arc::clone(&stop), Arc::clone(&gate));
            let (outcomes, left) = (Arc::clone(&outcomes), Arc::clone(&left));
            let first_failure = Arc::clone(&first_failure);
            std::thread::spawn(move || {
                enter(&lab, "client")?;
                let mut next = Instant::now();
                let take = |n: u64| n.checked_sub(1);
                while !stop.load(Ordering::Relaxed)
                    && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
                {
                    let under_way = gate.read();
                    let outcome = fetch(to);
                    drop(under_way);
                    if !matches!(outcome, Outcome::Answered(_)) {
                        first_failure.get_or_init(Instant::now);
                    }
                    if let Ok(mut outcomes) = outcomes.lock() {
                        *outcomes.entry(outcome).or_default() += 1;
                    }
                    next += pause;
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
                Ok(())
            })
        });
        let threads = threads.collect();
        Self { stop, gate, outcomes, first_failure, threads }
    }

    /// Waits until none is under way; as long as this is held there are no more.
    pub fn hold_back(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came of it so far.
    #[must_use]
    pub fn so_far(&self) -> LoadReport {
        self.outcomes.lock().map(|outcomes| outcomes.clone()).unwrap_or_default()
    }

    /// When the first connection failed, as its client saw it.
    #[must_use]
    pub fn first_failure(&self) -> Option<Instant> {
        self.first_failure.get().copied()
    }

    /// Waits for the total.
    ///
    /// # Errors
    /// Where a thread could not do its work.
    pub fn finish(mut self) -> Result<LoadReport> {
        for thread in std::mem::take(&mut self.threads) {
            thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(self.outcomes.lock().map(|outcomes| outcomes.clone()).unwrap_or_default())
    }

    /// Stops now.
    ///
    /// # Errors
    /// Where a thread could not do its work.
    pub fn stop(self) -> Result<LoadReport> {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }
}

/// A test that fails half-way must not leave clients behind: they hold the lab.
impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

/// Keep-alive connections that are opened once and never again.
#[derive(Debug)]
pub struct Holders {
    stop: Arc<AtomicBool>,
    /// Nobody wants to know any more: without a last round, which takes its time
    /// where nobody answers.
    dropped: Arc<AtomicBool>,
    /// There until it is waited for.
    thread: Option<JoinHandle<Result<HoldersReport>>>,
}

impl Drop for Holders {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Relaxed);
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// What became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HoldersReport {
    pub connections: usize,
    pub requests: u64,
    /// Answered by another server than before.
    pub moved: u64,
    pub cut: Vec<Cut>,
    /// Connections by the server they are on.
    pub on: BTreeMap<String, u64>,
}

/// A connection that ended although nobody wanted it to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The server it was on.
    pub server: String,
    pub error: String,
    /// When its client noticed.
    pub at: Instant,
}

impl Holders {
    /// Opens `count` connections; returns when all have had an answer. Each
    /// then asks again about once `every`.
    ///
    /// # Errors
    /// Where one cannot be opened.
    pub fn start(lab: &Arc<Lab>, to: SocketAddr, count: usize, every: Duration) -> Result<Self> {
        let [stop, dropped] = [false; 2].map(|no| Arc::new(AtomicBool::new(no)));
        let (ready, opened) = std::sync::mpsc::channel();
        let (lab, ends) = (Arc::clone(lab), [Arc::clone(&stop), Arc::clone(&dropped)]);
        let thread = std::thread::spawn(move || {
            enter(&lab, "client")?;
            let mut held = Vec::new();
            for _ in 0..count {
                let mut stream = connect(to)?;
                let server = ask(&mut stream)?;
                held.push((stream, server));
            }
            ready.send(()).ok();
            Ok(hold(held, every, &ends))
        });
        let holders = Self { stop, dropped, thread: Some(thread) };
        if opened.recv().is_ok() {
            return Ok(holders);
        }
        holders.stop().context("opening keep-alive connections")?;
        anyhow::bail!("the keep-alive client ended early")
    }

    /// One last round, and the report.
    ///
    /// # Errors
    /// Where the thread could not do its work.
    pub fn stop(mut self) -> Result<HoldersReport> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("stopped twice")?;
        thread.join().map_err(|_| anyhow::anyhow!("the keep-alive client panicked"))?
    }
}

fn hold(
    held: Vec<(TcpStream, String)>,
    every: Duration,
    [stop, dropped]: &[Arc<AtomicBool>; 2],
) -> HoldersReport {
    let mut report = HoldersReport { connections: held.len(), ..HoldersReport::default() };
    for (_, server) in &held {
        *report.on.entry(server.clone()).or_default() += 1;
    }
    let mut held: Vec<_> = held.into_iter().map(Some).collect();
    loop {
        let last = stop.load(Ordering::Relaxed);
        let begun = Instant::now();
        for slot in &mut held {
            let Some((stream, server)) = slot else { continue };
            if dropped.load(Ordering::Relaxed) {
                return report;
            }
            match ask(stream) {
                Ok(name) => {
                    report.requests += 1;
                    report.moved += u64::from(name != *server);
                }
                Err(error) => {
                    let (server, error) = (server.clone(), error.to_string());
                    report.cut.push(Cut { server, error, at: Instant::now() });
                    *slot = None;
                }
            }
        }
        if last {
            return report;
        }
        while begun.elapsed() < every && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// One request on a connection that stays: the server's name.
fn ask(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(KEEP_ALIVE)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 2048];
    // Headers, an empty line, and the name with its line's end.
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        answer.extend(&buffer[..read]);
        let text = String::from_utf8_lossy(&answer);
        if let Some((_, body)) = text.split_once("\r\n\r\n")
            && let Some(name) = body.strip_suffix('\n')
        {
            return Ok(name.to_owned());
        }
    }
}

/// Runs `body` on a host.
///
/// # Errors
/// Where the host cannot be entered.
pub fn at<T: Send>(lab: &Lab, host: &str, body: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| enter(lab, host).map(|()| body()));
        thread.join().map_err(|_| anyhow::anyhow!("the client panicked"))?
    })
}
