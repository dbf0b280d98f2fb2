//! A canary that is as good as stable: the same server on the same machine. By
//! default evidence (α = 1 %) at most one of a hundred such rollouts may be
//! taken back; held by a mismatch at most one step of a thousand.
//!
//! Each rollout is walked by the daemon from split 0 to promotion while clients
//! connect, then undone, and the next one begins: stable's record, which times
//! are compared with, grows from one to the next as it does in life. What the
//! judge has against the canary is asked for all the while; the largest it ever
//! was says more than a count of rollbacks that is 0.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use canary::{
    api::{
        client::Client,
        types::{Explanation, History},
    },
    judge::Judgement,
};
use serde::Serialize;

use super::{FAILURES_ALONE, all, failed};
use crate::lab::{Daemon, Lab, Load, Stage, VIP_V4, VIP_V6, address};

/// Between two looks at a rollout: the daemon looks as often.
const LOOK: Duration = Duration::from_millis(250);
/// The longest that a part of a rollout may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What came of one rollout.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Run {
    pub service: String,
    /// Of the service, from 1.
    pub number: u64,
    /// From its start until the new version served everything.
    pub seconds: f64,
    /// Connections that ended meanwhile, and those that were not answered.
    pub connections: u64,
    pub failed: u64,
    /// The new version is stable.
    pub completed: bool,
    /// Holds and rollbacks, in the daemon's words.
    pub trouble: Vec<String>,
    /// The largest evidence of harm that was seen, of all metrics together:
    /// harm is from `1/α` on, 100.
    pub harm: f64,
    /// What contributed most to it, and how much that was by itself.
    pub most: String,
    pub most_harm: f64,
    /// The largest evidence that a split was not kept; it is from 1,000 on.
    pub mismatch: f64,
}

/// A service and the address that its clients connect to.
pub type Front = (&'static str, &'static str);

/// Those of the lab's own configuration.
pub const TWO: [Front; 2] = [("web", VIP_V4), ("web6", VIP_V6)];
/// And more, on other ports of the VIP.
pub const FIVE: [Front; 5] = [
    ("web", VIP_V4),
    ("web6", VIP_V6),
    ("web81", "203.0.113.10:81"),
    ("web82", "203.0.113.10:82"),
    ("web83", "203.0.113.10:83"),
];

/// How many rollouts, and how long they last.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    pub fronts: &'a [Front],
    /// Of each of them, one after the other.
    pub rollouts: u64,
    /// New connections a second of each.
    pub per_second: u32,
    /// How long each of the steps lasts: 5, 25, 50, 100 %.
    pub step: Duration,
    /// How long stable alone is watched before the first rollout: times are
    /// judged by stable's from before.
    pub before: Duration,
    /// Whether times are watched too, as they are by default.
    pub times: bool,
}

/// Walks all services through their rollouts, side by side.
///
/// # Errors
/// Where a rollout neither completes nor is taken back in time, or something
/// is left behind.
pub fn walk(name: &str, plan: &Plan<'_>) -> Result<Vec<Run>> {
    let stage = stage(name, plan)?;
    let runs = thread::scope(|scope| {
        let threads: Vec<_> = plan
            .fronts
            .iter()
            .map(|front| scope.spawn(|| walk_one(&stage.lab, &stage.daemon, *front, plan)))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<Vec<Run>>>| {
            thread.join().map_err(|_| anyhow::anyhow!("a walk panicked"))?
        };
        threads.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    stage.end()?;
    Ok(runs.into_iter().flatten().collect())
}

/// Evidence is by default, but for what the plan leaves out; steps are short.
fn stage(name: &str, plan: &Plan<'_>) -> Result<Stage> {
    let lasts = format!("{}ms", plan.step.as_millis());
    let steps = ["5%", "25%", "50%", "100%"]
        .map(|split| format!("{{ split = \"{split}\", for = \"{lasts}\" }}"));
    let evidence = if plan.times { "" } else { FAILURES_ALONE };
    let rollout = format!("{evidence}\nrollout = {{ steps = [{}] }}", steps.join(", "));
    let [s1, s2, c1] = ["s1", "s2", "c1"].map(|host| Lab::backend(host, false));
    let more = plan.fronts.iter().filter(|front| !TWO.contains(front)).map(|(name, listen)| {
        format!(
            "[service.{name}]\nlisten = {listen:?}\nstable = [{s1:?}, {s2:?}]\n\
             canary = [{c1:?}]\n{rollout}\n"
        )
    });
    let top: String =
        ["[timeouts]\nclosing = \"1s\"\n".to_owned()].into_iter().chain(more).collect();
    Stage::new(name, &top, &rollout)
}

fn walk_one(lab: &Arc<Lab>, daemon: &Daemon, front: Front, plan: &Plan<'_>) -> Result<Vec<Run>> {
    let (service, listen) = front;
    let load = Load::start(lab, address(listen), plan.per_second, u64::MAX);
    thread::sleep(plan.before);
    let runs = (1..=plan.rollouts).map(|number| one(daemon, service, number, &load));
    let runs = runs.collect::<Result<Vec<_>>>();
    load.stop()?;
    runs
}

fn one(daemon: &Daemon, service: &str, number: u64, load: &Load) -> Result<Run> {
    let client = Client::new(&daemon.socket);
    let explain =
        || -> Result<Explanation> { Ok(client.get(&format!("/v1/services/{service}/explain"))?) };
    let begun = Instant::now();
    let before = load.so_far();
    daemon.cli(&["rollout", "start", service])?;
    let mut run = Run { service: service.to_owned(), number, ..Run::default() };
    loop {
        let now = explain()?;
        // Not one of another split, or of the rollout before.
        if let Ok(judgement) = serde_json::from_value::<Judgement>(now.judgement)
            && judgement.split == now.split.configured
        {
            run.note(&judgement);
        }
        if now.rollout.promoted || matches!(now.rollout.phase.as_str(), "rolling-back" | "idle") {
            run.completed = now.rollout.promoted;
            break;
        }
        ensure!(begun.elapsed() < PATIENCE, "{service} is stuck: {:?}", now.rollout);
        thread::sleep(LOOK);
    }
    run.seconds = begun.elapsed().as_secs_f64();
    let after = load.so_far();
    run.connections = all(&after) - all(&before);
    run.failed = failed(&after) - failed(&before);
    run.read(&serde_json::from_str(&daemon.cli(&["history", service, "--json"])?)?);
    if run.completed {
        daemon.cli(&["rollout", "undo", service])?;
    }
    let left = Instant::now();
    while explain()?.rollout.phase != "idle" {
        ensure!(left.elapsed() < PATIENCE, "{service} does not come to rest: {:?}", explain()?);
        thread::sleep(LOOK);
    }
    Ok(run)
}

impl Run {
    fn note(&mut self, judgement: &Judgement) {
        let harm = judgement.ln_harm.exp();
        if harm > self.harm {
            self.harm = harm;
            let failures = judgement.failures.iter().map(|f| (f.metric.name(), f.ln_harm));
            let times = judgement.times.iter().map(|t| (t.metric.name(), t.ln_harm));
            if let Some((metric, ln)) = failures.chain(times).max_by(|a, b| a.1.total_cmp(&b.1)) {
                (self.most, self.most_harm) = (metric.to_owned(), ln.exp());
            }
        }
        let mismatch = judgement.ln_mismatch.map_or(0.0, f64::exp);
        self.mismatch = self.mismatch.max(mismatch);
    }

    /// What the daemon wrote down of the last rollout: judgements of its
    /// transitions, and what was not a step forward.
    fn read(&mut self, history: &History) {
        let last = history.entries.last().map_or(0, |entry| entry.rollout);
        for entry in history.entries.iter().filter(|entry| entry.rollout == last) {
            if let Ok(judgement) = serde_json::from_value::<Judgement>(entry.evidence.clone())
                && !matches!(entry.event.as_str(), "start" | "undo")
            {
                self.note(&judgement);
            }
            if matches!(entry.event.as_str(), "hold" | "rollback" | "degraded") {
                let (event, split) = (&entry.event, entry.split * 100.0);
                self.trouble.push(format!("{event} at {split} %: {}", entry.reason));
            }
        }
    }
}
