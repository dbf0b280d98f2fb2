//! The checks: a task for each backend, whose results come back to the
//! daemon's.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use canary_common::Track;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::sleep,
};

use super::super::books::Key;
use crate::{
    config,
    outside::{Probe, Probed},
};

/// Results that wait for the daemon.
const QUEUE: usize = 256;
/// Checks under way at once: each has a descriptor, and a process has 1,024 by
/// default.
const AT_ONCE: usize = 256;
/// All first checks go out within this.
const FIRST_WITHIN: Duration = Duration::from_secs(1);

/// What a check found.
#[derive(Debug)]
pub(in crate::daemon) struct Report {
    pub(super) key: Key,
    pub(super) probed: Probed,
}

/// How often.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pace {
    interval: Duration,
    /// A fraction of it.
    jitter: f64,
}

/// A backend's checks. They end when this is dropped.
#[derive(Debug)]
struct Asking {
    probe: Probe,
    pace: Pace,
    task: JoinHandle<()>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Checks {
    sender: mpsc::Sender<Report>,
    reports: mpsc::Receiver<Report>,
    asking: BTreeMap<Key, Asking>,
    permits: Arc<Semaphore>,
}

impl Default for Checks {
    fn default() -> Self {
        let (sender, reports) = mpsc::channel(QUEUE);
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        Self { sender, reports, asking: BTreeMap::new(), permits }
    }
}

impl Checks {
    pub(super) async fn next(&mut self) -> Option<Report> {
        self.reports.recv().await
    }

    /// One that is there already.
    pub(super) fn waiting(&mut self) -> Option<Report> {
        self.reports.try_recv().ok()
    }

    /// Asks these from now on, and nobody else. Who is asked the same already
    /// is not begun anew.
    pub(super) fn follow<'a>(
        &mut self,
        wanted: impl Iterator<Item = (Key, Track, &'a config::Health)>,
    ) {
        let mut former = std::mem::take(&mut self.asking);
        for (key, track, rules) in wanted {
            let Some(probe) = Probe::new(&key.0, track.name(), key.1, rules) else { continue };
            let pace = Pace { interval: rules.interval, jitter: rules.jitter };
            let same = former.remove(&key).filter(|asking| {
                asking.probe == probe && asking.pace == pace && !asking.task.is_finished()
            });
            let asking = same.unwrap_or_else(|| self.begin(key.clone(), probe, pace));
            self.asking.insert(key, asking);
        }
    }

    fn begin(&self, key: Key, probe: Probe, pace: Pace) -> Asking {
        let (sender, permits) = (self.sender.clone(), self.permits.clone());
        let asked = probe.clone();
        let task = tokio::spawn(async move {
            sleep(pace.interval.min(FIRST_WITHIN).mul_f64(random())).await;
            // Neither ends before the daemon does.
            while let Ok(permit) = permits.acquire().await {
                let probed = asked.ask().await;
                drop(permit);
                if sender.send(Report { key: key.clone(), probed }).await.is_err() {
                    return;
                }
                sleep(pace.next(random())).await;
            }
        });
        Asking { probe, pace, task }
    }
}

impl Pace {
    /// Until the next check; `random` is from 0 to 1.
    fn next(self, random: f64) -> Duration {
        self.interval.mul_f64(1.0 + self.jitter * (2.0 * random - 1.0))
    }
}

/// From 0 to 1. Without randomness all beat together, which is no harm to speak of.
fn random() -> f64 {
    f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_spread_around_what_is_configured() {
        let pace = Pace { interval: Duration::from_secs(2), jitter: 0.1 };
        let millis = [0.0, 0.5, 1.0].map(|random| pace.next(random).as_millis());
        assert_eq!(millis, [1800, 2000, 2200]);
    }
}
