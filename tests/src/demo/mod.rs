//! The demo: a canary release walked by hand, and a broken canary taken out by
//! the daemon, under real load.
#![allow(clippy::print_stdout, reason = "it is a show")]

mod screen;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use canary::{
    api::types::{ServiceStatus, Status},
    stats::binomial_interval,
};

use crate::lab::{
    Behaviour, Daemon, Holders, HoldersReport, Lab, Load, LoadReport, Nginx, Outcome, VIP_V4,
    VIP_V6, config, wait_for,
};
use screen::Screen;

/// Its namespaces are cny-client, cny-lb, …
const NAME: &str = "";
/// New connections a second, per family.
const RATE: u32 = 350;
/// Keep-alive connections that never reconnect, per family.
const HELD: usize = 40;
/// 99.9 %, two-sided.
const Z: f64 = 3.29;
const STEPS: [&str; 4] = ["0%", "1%", "10%", "50%"];
const STEP: Duration = Duration::from_secs(6);

/// A step's result.
struct Achieved {
    service: String,
    configured: f64,
    canary: u64,
    total: u64,
}

/// Everything that runs during the show. Dropped front to back.
struct Show {
    daemon: Daemon,
    servers: Vec<Nginx>,
    lab: Arc<Lab>,
    screen: Screen,
    interrupted: Arc<AtomicBool>,
}

/// Runs the demo; whether everything was as it should be.
///
/// # Errors
/// Where it could not be run.
pub fn main(arguments: impl Iterator<Item = String>) -> Result<bool> {
    let mut keep = false;
    for argument in arguments {
        match argument.as_str() {
            "--keep" => keep = true,
            "--clean" => {
                // A new lab removes what an older one left, and goes itself.
                drop(Lab::new(NAME)?);
                println!("the demo's lab is removed");
                return Ok(true);
            }
            other => bail!("{other:?}? There are --keep and --clean"),
        }
    }
    let mut lab = Lab::new(NAME)?;
    if keep {
        lab.keep();
    }
    let interrupted = on_interrupt();
    let servers = ["s1", "s2", "c1"].map(|host| Nginx::start(&lab, host));
    let servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
    let daemon = Daemon::start(&lab, &config(&lab, "", ""))?;
    let lab = Arc::new(lab);
    // Clients that still run hold on to the lab: it is removed by name.
    let of_all = Arc::clone(&lab);
    let mut show = Show { daemon, servers, lab, screen: Screen::new(), interrupted };
    let outcome = show.run();
    if keep && outcome.is_ok() {
        show.stay();
    } else {
        drop(show);
        of_all.remove();
    }
    outcome
}

/// A flag that Ctrl-C and `kill` raise, so that the lab is cleared away.
fn on_interrupt() -> Arc<AtomicBool> {
    static RAISED: AtomicBool = AtomicBool::new(false);
    extern "C" fn raise(_: libc::c_int) {
        RAISED.store(true, Ordering::SeqCst);
    }
    let handler = raise as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { libc::signal(signal, handler) };
    }
    let flag = Arc::new(AtomicBool::new(false));
    let watched = Arc::clone(&flag);
    std::thread::spawn(move || {
        while !RAISED.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(50));
        }
        watched.store(true, Ordering::SeqCst);
    });
    flag
}

impl Show {
    fn run(&mut self) -> Result<bool> {
        let every = Duration::from_millis(500);
        let v4 = VIP_V4.parse().context("an address")?;
        let v6 = VIP_V6.parse().context("an address")?;
        // Some of the held connections begin on the canary.
        for service in ["web", "web6"] {
            self.daemon.cli(&["weight", service, "30%"])?;
        }
        let holders = [
            Holders::start(&self.lab, v4, HELD, every)?,
            Holders::start(&self.lab, v6, HELD, every)?,
        ];
        let load = Load::start(&self.lab, v4, RATE, u64::MAX);
        let load6 = Load::start(&self.lab, v6, RATE, u64::MAX);
        let mut achieved = Vec::new();
        for percent in STEPS {
            achieved.extend(self.step(percent)?);
        }
        let s1 = Lab::backend("s1", false);
        self.daemon.cli(&["drain", "web", &s1])?;
        self.watch(&format!("drain web {s1}"), Duration::from_secs(3))?;
        self.daemon.cli(&["drain", "web", &s1, "--undo"])?;
        self.watch(&format!("drain web {s1} --undo"), Duration::from_secs(3))?;
        // The connections that are held end well before the fault: it may cut
        // those on the canary, and that is no failure of the splitter's.
        let mut held = HoldersReport::default();
        for holder in holders {
            merge(&mut held, holder.stop()?);
        }
        let healthy = failures(&load.so_far()) + failures(&load6.so_far());
        let rollback = self.break_canary()?;
        self.watch("the canary is out; stable carries all", Duration::from_secs(2))?;
        let mut all = load.stop()?;
        for (outcome, count) in load6.stop()? {
            *all.entry(outcome).or_default() += count;
        }
        Ok(self.summary(&achieved, &held, healthy, &all, rollback))
    }

    /// One split for both families; what was achieved.
    fn step(&mut self, percent: &str) -> Result<Vec<Achieved>> {
        for service in ["web", "web6"] {
            self.daemon.cli(&["weight", service, percent])?;
        }
        let before = self.daemon.status()?;
        self.watch(&format!("weight web {percent}; weight web6 {percent}"), STEP)?;
        let after = self.daemon.status()?;
        let mut achieved = Vec::new();
        for (before, after) in before.services.iter().zip(&after.services) {
            let canary = connections(after, "canary") - connections(before, "canary");
            let stable = connections(after, "stable") - connections(before, "stable");
            achieved.push(Achieved {
                service: after.name.clone(),
                configured: after.split.configured,
                canary,
                total: canary + stable,
            });
        }
        Ok(achieved)
    }

    /// Shows the status for a while.
    fn watch(&mut self, command: &str, time: Duration) -> Result<()> {
        let begun = Instant::now();
        self.screen.command(command);
        while begun.elapsed() < time {
            ensure!(!self.interrupted.load(Ordering::SeqCst), "interrupted; the lab is removed");
            self.screen.show(&self.daemon.status()?);
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }

    /// The canary's server begins to reset; the time from its first reset on
    /// the wire until both services' splits are 0.
    fn break_canary(&mut self) -> Result<Option<Duration>> {
        self.screen.command("the canary's server begins to reset every connection");
        let canary = self.servers.last().context("no canary")?;
        canary.behave(Behaviour::Resetting)?;
        let out = |status: &Status| status.services.iter().all(|s| s.split.configured == 0.0);
        let mut first = None;
        let waited = wait_for("the rollback", Duration::from_secs(15), || {
            let Ok(status) = self.daemon.status() else { return false };
            if first.is_none() && status.services.iter().any(|s| resets(s) > 0) {
                first = Some(Instant::now());
            }
            out(&status)
        });
        self.screen.show(&self.daemon.status()?);
        Ok(waited.ok().and(first).map(|first| first.elapsed()))
    }

    fn summary(
        &self,
        achieved: &[Achieved],
        held: &HoldersReport,
        healthy_failures: u64,
        all: &LoadReport,
        rollback: Option<Duration>,
    ) -> bool {
        let mut sound = true;
        let mut line = |fine: bool, text: String| {
            sound &= fine;
            println!("  {} {text}", if fine { "ok " } else { "BAD" });
        };
        println!("\nSummary");
        for step in achieved {
            let (low, high) = binomial_interval(step.canary, step.total, Z);
            let share = step.canary as f64 / step.total.max(1) as f64;
            let fine = step.total > 0 && low <= step.configured && step.configured <= high;
            line(
                fine,
                format!(
                    "{:<4} configured {:>4.1} %, achieved {:>6.3} % of {} connections (99.9 % interval {:.3} to {:.3} %)",
                    step.service,
                    step.configured * 100.0,
                    share * 100.0,
                    step.total,
                    low * 100.0,
                    high * 100.0
                ),
            );
        }
        let answered: u64 = all
            .iter()
            .filter(|(outcome, _)| matches!(outcome, Outcome::Answered(_)))
            .map(|(_, count)| count)
            .sum();
        line(answered > 0, format!("requests served: {}", answered + held.requests));
        line(
            healthy_failures == 0 && held.cut.is_empty(),
            format!(
                "requests failed while all servers were good: {}",
                healthy_failures + held.cut.len() as u64
            ),
        );
        let by_fault = failures(all) - healthy_failures;
        line(
            by_fault > 0,
            format!("requests that met the broken canary before it was out: {by_fault}"),
        );
        line(
            held.moved == 0 && held.connections == 2 * HELD,
            format!("pinned connections that moved: {} of {}", held.moved, held.connections),
        );
        let took = rollback.map_or("never".to_owned(), |took| format!("{} ms", took.as_millis()));
        line(
            rollback.is_some_and(|took| took < Duration::from_secs(1)),
            format!("first reset seen to split 0, both services: {took}"),
        );
        sound
    }

    /// Leaves the lab to the user.
    fn stay(self) {
        let (client, socket) = (self.lab.namespace("client"), self.daemon.socket.display());
        println!("\nThe lab stays. Try");
        println!("  ip netns exec {client} curl http://{VIP_V4}/");
        println!("  ip netns exec {client} curl 'http://{VIP_V6}/'");
        println!("  target/release/canary --socket {socket} status --watch");
        println!("  target/release/canary --socket {socket} weight web 5%");
        println!("and remove it with `cargo xtask demo -- --clean`.");
        if let Some(canary) = self.servers.last() {
            canary.behave(Behaviour::Good).ok();
        }
        // Servers and daemon end with their owners, who end here without it.
        std::mem::forget(self);
    }
}

fn connections(service: &ServiceStatus, track: &str) -> u64 {
    let tracks = service.tracks.iter().filter(|t| t.name == track);
    tracks.flat_map(|t| &t.backends).map(|b| b.counters.connections).sum()
}

fn resets(service: &ServiceStatus) -> u64 {
    let canary = service.tracks.iter().filter(|t| t.name == "canary");
    canary.flat_map(|t| &t.backends).map(|b| b.counters.resets_backend).sum()
}

fn failures(report: &LoadReport) -> u64 {
    let failed = report.iter().filter(|(outcome, _)| !matches!(outcome, Outcome::Answered(_)));
    failed.map(|(_, count)| count).sum()
}

fn merge(sum: &mut HoldersReport, one: HoldersReport) {
    sum.connections += one.connections;
    sum.requests += one.requests;
    sum.moved += one.moved;
    sum.cut.extend(one.cut);
}
