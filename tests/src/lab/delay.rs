//! A long link: packets from the far host take milliseconds, each connection's
//! all the same time, so that their order stays.

use std::{
    collections::BinaryHeap,
    fs::File,
    io::{Read as _, Write as _},
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{Lab, at};

/// Every connection's delay is at least this.
const LEAST: Duration = Duration::from_millis(3);
/// And less than this more.
const SPREAD: Duration = Duration::from_millis(24);
/// How often the threads look whether they are to end.
const PULSE: Duration = Duration::from_millis(100);
/// TUNSETIFF of linux/if_tun.h; IFF_TUN and IFF_NO_PI.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const FLAGS: libc::c_short = 0x1001;

/// The link, while this lives.
#[derive(Debug)]
pub struct DelayLine {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl DelayLine {
    /// Puts `far`, one of [`super::FAR`], behind `host`, which becomes a
    /// router with this link to it.
    ///
    /// # Errors
    /// Where a command fails, or without `/dev/net/tun`.
    pub fn between(lab: &Lab, host: &str, far: &str) -> Result<Self> {
        let near = at(lab, host, || tun("far0"))??;
        let there = at(lab, far, || tun("eth0"))??;
        lab.route_behind(host, far)?;
        let over = Arc::new(AtomicBool::new(false));
        let mut line = Self { over, threads: Vec::new() };
        line.carry(near.try_clone()?, there.try_clone()?, |_| Duration::ZERO);
        line.carry(there, near, delay_of);
        Ok(line)
    }

    fn carry(&mut self, from: File, to: File, delay: fn(&[u8]) -> Duration) {
        let (sender, receiver) = channel();
        let over = Arc::clone(&self.over);
        self.threads.push(std::thread::spawn(move || take(from, &sender, &over, delay)));
        self.threads.push(std::thread::spawn(move || give(to, &receiver)));
    }
}

impl Drop for DelayLine {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // What a link that is gone says is of no interest.
            thread.join().ok();
        }
    }
}

/// A packet on its way: the earliest is the greatest.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Carried {
    due: std::cmp::Reverse<(Instant, u64)>,
    bytes: Vec<u8>,
}

fn take(
    mut from: File,
    to: &Sender<Carried>,
    over: &AtomicBool,
    delay: fn(&[u8]) -> Duration,
) -> Result<()> {
    let mut buffer = vec![0; 65_536];
    let mut number = 0;
    while !over.load(Ordering::Relaxed) {
        let mut poll = libc::pollfd { fd: from.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid descriptor.
        if unsafe { libc::poll(&raw mut poll, 1, PULSE.as_millis() as i32) } <= 0 {
            continue;
        }
        let len = from.read(&mut buffer)?;
        let bytes = buffer[..len].to_vec();
        number += 1;
        let due = std::cmp::Reverse((Instant::now() + delay(&bytes), number));
        to.send(Carried { due, bytes }).context("the other end is gone")?;
    }
    Ok(())
}

fn give(mut to: File, from: &Receiver<Carried>) -> Result<()> {
    let mut waiting = BinaryHeap::<Carried>::new();
    loop {
        let now = Instant::now();
        let next = waiting.peek().map(|carried| carried.due.0.0);
        if next.is_some_and(|due| due <= now) {
            let carried = waiting.pop().context("it was there")?;
            to.write_all(&carried.bytes)?;
            continue;
        }
        match from.recv_timeout(next.map_or(PULSE, |due| due - now)) {
            Ok(carried) => waiting.push(carried),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// By the connection's ports, both ways the same.
fn delay_of(packet: &[u8]) -> Duration {
    let header = if packet.first().is_some_and(|first| first >> 4 == 4) { 20 } else { 40 };
    let Some(&[a, b, c, d]) = packet.get(header..header + 4) else { return LEAST };
    let ports = u16::from_be_bytes([a, b]) ^ u16::from_be_bytes([c, d]);
    let share = u32::from(ports).wrapping_mul(0x9e37_79b1) >> 16;
    LEAST + SPREAD * share / (1 << 16)
}

/// A new interface of this thread's namespace, whose packets the file has.
fn tun(name: &str) -> Result<File> {
    let file = File::options().read(true).write(true).open("/dev/net/tun");
    let file = file.context("opening /dev/net/tun: is the kernel's module tun there?")?;
    // SAFETY: zeroes are a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = FLAGS;
    // SAFETY: the request lives through the call.
    let failed = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) } < 0;
    ensure!(!failed, "making {name}: {}", std::io::Error::last_os_error());
    Ok(file)
}
