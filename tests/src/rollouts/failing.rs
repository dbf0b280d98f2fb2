//! A canary that fails, on real connections: how soon it is out, by whom, and
//! what it cost.
//!
//! The canary fails from the first connection of a rollout's first step on.
//! Time begins when a client of it first saw a failure, and ends
//!
//! - for the **kernel's budget**, at the moment that the guard's own record
//!   names (`spent_at`): from there on each new flow of the canary's goes to
//!   stable;
//! - for the **daemon**, when the split in the kernel's map is 0.
//!
//! Both are read from the pinned maps every half millisecond, so that it is
//! not the daemon's word, nor its time. Connections are those of both versions
//! that their clients have ended by then; a handful are under way, so they are
//! good to about four. The budget is the daemon's own verdict, computed ahead
//! at each look for the case that nothing but failures follows. It is spent
//! first where failures come faster than looks, four a second.
//!
//! With the daemon **stopped** (`SIGSTOP`) as soon as the first failure was
//! seen nobody is there but the kernel: with the budget that the daemon had
//! set last the canary must be out of new flows. It is let go on a second
//! later, and then has to make a rollback of it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use canary_common::Guard;
use serde::Serialize;

use super::{
    FAILURES_ALONE, all, failed,
    kernel::{Kernel, monotonic_ns},
};
use crate::lab::{Behaviour, Load, Stage, VIP_V4, address, wait_for};

/// New connections a second, both versions.
pub const PER_SECOND: u32 = 500;
/// The longest that one rollout may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at the maps.
const GLANCE: Duration = Duration::from_micros(500);
/// What was under way when the guard tripped has ended after this.
const SETTLED: Duration = Duration::from_millis(300);
/// How long no failure may follow then.
const QUIET: Duration = Duration::from_secs(1);

/// What is the matter with the canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It resets so many percent of its connections instead of answering.
    Resets(u8),
    /// Nothing listens.
    Refuses,
}

impl Fault {
    pub const ALL: [Self; 4] = [Self::Resets(1), Self::Resets(5), Self::Resets(100), Self::Refuses];

    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Resets(percent) => format!("resets {percent} %"),
            Self::Refuses => "refuses all".to_owned(),
        }
    }
}

/// When something was so, since the first failure.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct When {
    pub seconds: f64,
    /// Of both versions.
    pub connections: u64,
}

/// What came of one rollout.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Run {
    /// The guard sent new flows to stable; `null` where the daemon was first.
    pub kernel: Option<When>,
    /// The split is 0.
    pub daemon: When,
    /// Connections that met a failure, from the first to the last.
    pub failed: u64,
    /// Budgets that were spent before, and given anew: no harm, the daemon said.
    pub refilled: u32,
    /// Of a stopped daemon.
    pub stopped: Option<Stopped>,
}

/// What the kernel did alone.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Stopped {
    /// Failures that the guard still had a budget for when the daemon stood.
    pub budget: u64,
    /// Failures of the canary's that the guard counted from there on.
    pub failed: u64,
    /// Of those, after it had sent the first new flow to stable: connections
    /// that were under way.
    pub late: u64,
    /// Connections in the second after which none may fail.
    pub quiet: u64,
    /// Seconds from letting the daemon go on until the split was 0.
    pub daemon_seconds: f64,
}

/// A stage for failing canaries at one split.
///
/// # Errors
/// Where it does not come up.
pub fn stage(name: &str, split: &str) -> Result<Stage> {
    // Failures alone are measured: drawing who fails costs the server time, too,
    // and times have taken it out first. And the budget, not the dead-man
    // switch, which would act after 10 s.
    let extra = format!(
        "{FAILURES_ALONE}\nrollout = {{ dead_man = \"10m\", max_away = \"10m\", steps = [\
         {{ split = \"{split}\", for = \"10m\" }}, {{ split = \"100%\", for = \"1s\" }}] }}"
    );
    Stage::new(name, "[timeouts]\nclosing = \"1s\"", &extra)
}

/// Makes the canary's server behave so until the stage ends, or another fault.
///
/// # Errors
/// Where it does not.
pub fn make(stage: &mut Stage, fault: Fault) -> Result<()> {
    match fault {
        Fault::Resets(100) => stage.canary_server().behave(Behaviour::Resetting)?,
        Fault::Resets(percent) => {
            stage.canary_server().behave(Behaviour::ResettingSome(percent))?;
        }
        Fault::Refuses => stage.canary_server().stop(),
    }
    // A worker that has been told goes on for what it has accepted.
    std::thread::sleep(SETTLED);
    Ok(())
}

/// One rollout of a canary that fails already; with `stop` the daemon is
/// stopped meanwhile.
///
/// # Errors
/// Where it is not taken out, or goes on failing after it was.
pub fn run(stage: &Stage, stop: bool) -> Result<Run> {
    // Now and then a daemon that is to be stopped has rolled back before.
    const TRIES: u32 = 5;
    for _ in 0..TRIES {
        if let Some(run) = try_run(stage, stop)? {
            return Ok(run);
        }
    }
    bail!("the daemon was faster than its being stopped, {TRIES} times")
}

/// `None` where the daemon could not be stopped in time.
fn try_run(stage: &Stage, stop: bool) -> Result<Option<Run>> {
    let kernel = Kernel::open(&stage.lab.bpffs(), address(VIP_V4))?;
    stage.daemon.cli(&["rollout", "start", "web"])?;
    wait_for("the first step", PATIENCE, || kernel.service.split() > 0.0)?;
    let load = Load::start(&stage.lab, address(VIP_V4), PER_SECOND, u64::MAX);
    let mut watch = Watch { stage, kernel: &kernel, load: &load, begun: None, run: Run::default() };
    let done = if stop { watch.kernel_alone()? } else { watch.both()? };
    let mut run = watch.run;
    std::thread::sleep(SETTLED);
    run.failed = failed(&load.stop()?);
    // It is known to be bad; nobody needs to wait for its last connections.
    stage.daemon.cli(&["weight", "web", "0"])?;
    Ok(done.then_some(run))
}

const fn is_spent(guard: &Guard) -> bool {
    guard.bad >= guard.limit && guard.spent_at != 0
}

/// The first failure that a client saw.
#[derive(Clone, Copy, Debug)]
struct First {
    at_ns: u64,
    /// Connections until then.
    connections: u64,
}

struct Watch<'a> {
    stage: &'a Stage,
    kernel: &'a Kernel,
    load: &'a Load,
    begun: Option<First>,
    run: Run,
}

impl Watch<'_> {
    /// Until something is so; `None` is not yet.
    fn until<T>(
        &mut self,
        what: &str,
        mut so: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(found) = so(self)? {
                return Ok(found);
            }
            std::thread::sleep(GLANCE);
        }
        bail!("waited {PATIENCE:?} in vain for {what}; {}", self.story())
    }

    /// For when it goes otherwise.
    fn story(&self) -> String {
        let said = self.stage.daemon.cli(&["explain", "web"]).unwrap_or_else(|e| e.to_string());
        format!("so far {:?} of {:?}; explained:\n{said}", self.run, self.load.so_far())
    }

    /// When the split is 0.
    fn out(&mut self) -> Result<Option<When>> {
        if self.kernel.service.split() > 0.0 {
            return Ok(None);
        }
        self.first_failure();
        let when = self.when(monotonic_ns());
        ensure!(when.is_some(), "taken out without a failure; {}", self.story());
        Ok(when)
    }

    fn first_failure(&mut self) -> Option<First> {
        if self.begun.is_none() {
            let at = self.load.first_failure()?;
            let ago = at.elapsed().as_nanos() as u64;
            let connections = all(&self.load.so_far());
            self.begun = Some(First { at_ns: monotonic_ns() - ago, connections });
        }
        self.begun
    }

    /// At `at_ns`, which is now or has just been. The packet is seen before
    /// its client is woken, so what follows at once may be before the first
    /// failure by a hair.
    fn when(&self, at_ns: u64) -> Option<When> {
        let first = self.begun?;
        let connections = all(&self.load.so_far()).saturating_sub(first.connections);
        let seconds = at_ns.saturating_sub(first.at_ns) as f64 / 1e9;
        Some(When { seconds, connections })
    }

    /// The guard, and the run's book of it.
    fn look_at_guard(&mut self) -> Result<Guard> {
        let guard = self.kernel.guard()?;
        if self.run.kernel.is_none() && is_spent(&guard) {
            self.run.kernel = self.when(guard.spent_at);
        } else if self.run.kernel.is_some() && !is_spent(&guard) {
            self.run.kernel = None;
            self.run.refilled += 1;
        }
        Ok(guard)
    }

    /// Kernel and daemon, each as it does.
    fn both(&mut self) -> Result<bool> {
        self.run.daemon = self.until("a rollback", |watch| {
            // In this order: a guard that is spent is seen before the split.
            watch.first_failure();
            watch.look_at_guard()?;
            watch.out()
        })?;
        Ok(true)
    }

    /// The daemon stands from the first failure on. Whether it could be
    /// stopped before it did something.
    fn kernel_alone(&mut self) -> Result<bool> {
        self.until("a failure", |watch| {
            if watch.first_failure().is_none() {
                watch.out()?;
            }
            Ok(watch.begun)
        })?;
        let pid = self.stage.daemon.pid()?;
        signal(pid, libc::SIGSTOP)?;
        wait_for("the daemon to stand", PATIENCE, || is_stopped(pid))?;
        let stood = self.kernel.guard()?;
        let budget = stood.limit.saturating_sub(stood.bad);
        if self.kernel.service.split() <= 0.0 {
            signal(pid, libc::SIGCONT)?;
            return Ok(false);
        }
        self.until("the budget to be spent", |watch| {
            watch.look_at_guard()?;
            Ok(watch.run.kernel)
        })?;
        std::thread::sleep(SETTLED);
        let (before, settled) = (self.load.so_far(), self.kernel.guard()?);
        std::thread::sleep(QUIET);
        let (after, last) = (self.load.so_far(), self.kernel.guard()?);
        ensure!(
            failed(&after) == failed(&before) && last.bad == settled.bad,
            "new connections met the canary after its budget was spent: {before:?}, then {after:?}"
        );
        ensure!(last.diverted > stood.diverted, "no new flow was sent to stable: {last:?}");
        signal(pid, libc::SIGCONT)?;
        let again = monotonic_ns();
        self.run.daemon = self.until("a rollback", Self::out)?;
        self.run.stopped = Some(Stopped {
            budget,
            failed: last.bad - stood.bad,
            late: last.bad.saturating_sub(last.limit),
            quiet: all(&after) - all(&before),
            daemon_seconds: (monotonic_ns() - again) as f64 / 1e9,
        });
        Ok(true)
    }
}

fn signal(pid: u32, signal: libc::c_int) -> Result<()> {
    let pid = i32::try_from(pid)?;
    // SAFETY: a signal to a process of the lab's.
    let failed = unsafe { libc::kill(pid, signal) } != 0;
    ensure!(!failed, "signal {signal} to {pid}: {}", std::io::Error::last_os_error());
    Ok(())
}

/// By proc(5): the state is the first field after the program's name.
fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}
