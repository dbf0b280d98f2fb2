//! Connections that are held, and new ones all the while.

use std::{
    sync::{
        Arc, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{Holders, Lab, Load, Outcome, Stage, VIP_V4, address, enter, fetch};

/// How often who is held asks again.
const EVERY: Duration = Duration::from_millis(50);
/// Longer than any answer, shorter than until a SYN is sent again (1 s).
const SLOW: Duration = Duration::from_millis(700);
/// From one new connection that is timed to the next.
const TIMED_EVERY: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Debug)]
pub struct Traffic {
    holders: Vec<Holders>,
    load: Load,
    timed: Timed,
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct TrafficReport {
    /// Connections held, and requests on them.
    pub held: usize,
    pub requests: u64,
    /// New connections.
    pub new: u64,
    /// New ones that were timed, and those that waited for a packet to be sent
    /// again.
    pub timed: u64,
    pub slow: u64,
}

impl Traffic {
    /// Holds so many connections on stable and as many on the canary. Who loses
    /// its pin after this goes to another server: the split is another then.
    ///
    /// # Errors
    /// Where a connection cannot be opened.
    pub fn start(bed: &Stage, held: usize, per_second: u32) -> Result<Self> {
        let lab: &Arc<Lab> = &bed.lab;
        bed.daemon.cli(&["weight", "web", "0"])?;
        let stable = Holders::start(lab, address(VIP_V4), held, EVERY)?;
        bed.daemon.cli(&["weight", "web", "100%"])?;
        let canary = Holders::start(lab, address(VIP_V4), held, EVERY)?;
        bed.daemon.cli(&["weight", "web", "50%"])?;
        let load = Load::start(lab, address(VIP_V4), per_second, u64::MAX);
        Ok(Self { holders: vec![stable, canary], load, timed: Timed::start(lab) })
    }

    /// See [`Load::hold_back`]; those whose time is taken go on, none of them is asserted.
    pub fn hold_back(&self) -> RwLockWriteGuard<'_, ()> {
        self.load.hold_back()
    }

    /// Nobody was cut, moved or refused.
    ///
    /// # Errors
    /// Where somebody was.
    pub fn end(self, bed: &Stage) -> Result<TrafficReport> {
        bed.daemon.cli(&["weight", "web", "100%"])?;
        let said = || bed.daemon.said();
        let (mut held, mut requests) = (0, 0);
        for holders in self.holders {
            std::thread::sleep(2 * EVERY);
            let report = holders.stop()?;
            ensure!(report.cut.is_empty() && report.moved == 0, "{report:?}\n{}", said());
            held += report.connections;
            requests += report.requests;
            bed.daemon.cli(&["weight", "web", "0"])?;
        }
        let report = self.load.stop()?;
        let failed: Vec<_> =
            report.iter().filter(|(o, _)| !matches!(o, Outcome::Answered(_))).collect();
        ensure!(failed.is_empty(), "{failed:?} of {report:?}\n{}", said());
        let (timed, slow) = self.timed.stop();
        Ok(TrafficReport { held, requests, new: report.values().sum(), timed, slow })
    }
}

/// New connections one after the other, and how long each took.
#[derive(Debug)]
struct Timed {
    stop: Arc<AtomicBool>,
    counts: Arc<[AtomicU64; 2]>,
    thread: Option<JoinHandle<()>>,
}

impl Timed {
    fn start(lab: &Arc<Lab>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let counts = Arc::new([const { AtomicU64::new(0) }; 2]);
        let (lab, stopping, counting) = (Arc::clone(lab), Arc::clone(&stop), Arc::clone(&counts));
        let thread = std::thread::spawn(move || {
            if enter(&lab, "client").is_err() {
                return;
            }
            while !stopping.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let answered = matches!(fetch(address(VIP_V4)), Outcome::Answered(_));
                let slow = !answered || begun.elapsed() > SLOW;
                counting[0].fetch_add(1, Ordering::Relaxed);
                counting[1].fetch_add(u64::from(slow), Ordering::Relaxed);
                std::thread::sleep(TIMED_EVERY.saturating_sub(begun.elapsed()));
            }
        });
        Self { stop, counts, thread: Some(thread) }
    }

    /// Of how many, and how many were slow.
    fn stop(self) -> (u64, u64) {
        let counts = Arc::clone(&self.counts);
        drop(self);
        (counts[0].load(Ordering::Relaxed), counts[1].load(Ordering::Relaxed))
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
