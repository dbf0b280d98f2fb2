//! Half an hour of everything at once, by chance, and what must be so all the
//! while.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use canary::stats::binomial_interval;

use super::{
    Arrival, Arrivals, Crowd, Flood, Row, Summary,
    flood::{DATAGRAMS, seen},
    life::{Life, frames_in},
};
use crate::{
    lab::{Lab, Load, Nginx, Stage, VIP_V4, address, all_answered, wait_for},
    random::Random,
};

/// How long, and which chances.
#[derive(Clone, Copy, Debug)]
pub struct SoakPlan {
    pub lasts: Duration,
    pub seed: u64,
    pub connections: usize,
    /// Real new ones, a second.
    pub per_second: u32,
}

impl SoakPlan {
    #[must_use]
    pub const fn of_minutes(minutes: u64, seed: u64) -> Self {
        let lasts = Duration::from_secs(60 * minutes);
        Self { lasts, seed, connections: 1000, per_second: 300 }
    }

    #[must_use]
    pub const fn short() -> Self {
        let lasts = Duration::from_secs(30);
        Self { lasts, seed: 1, connections: 300, per_second: 100 }
    }
}

/// What is closed is soon forgotten. No rollback: the canary is one
/// server, which a flood overloads before stable's, and rightly so is it judged.
const SERVICE: &str = "timeouts = { closing = \"2s\" }\n\
                       rollback = { enabled = false }";
const EVERY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);
const BURST: u64 = 30_000;
/// Between two faults, at most.
const PAUSE_MS: u64 = 1500;
/// The share of the time after which no daemon is ended any more: its memory
/// is to be seen over the rest.
const LAST_LIFE: f64 = 0.6;
/// Failures that are told one by one.
const SHOWN: usize = 20;
/// 99.99 %, two-sided.
const Z: f64 = 3.89;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Kill,
    Restart,
    Stand,
    Reload,
    Weight,
    Drain,
    Server,
    Burst,
}

impl Fault {
    /// As often as they come.
    const CHANCES: [(u64, Self); 8] = [
        (1, Self::Kill),
        (1, Self::Restart),
        (2, Self::Stand),
        (3, Self::Reload),
        (3, Self::Weight),
        (2, Self::Drain),
        (1, Self::Server),
        (3, Self::Burst),
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::Restart => "restart",
            Self::Stand => "SIGSTOP",
            Self::Reload => "reload",
            Self::Weight => "weight",
            Self::Drain => "drain",
            Self::Server => "server restarted",
            Self::Burst => "flood",
        }
    }
}

/// A time when connections may fail, as their server was not there.
type Excuse = (Instant, Instant);

struct Soak {
    arrivals: Arrivals,
    /// The first, and one for those who lost their server.
    crowds: Vec<Crowd>,
    stage: Stage,
    random: Random,
    plain: String,
    split: f64,
    life: Life,
    faults: BTreeMap<Fault, u64>,
    excuses: Vec<Excuse>,
    /// Cut as their server was restarted.
    excused: u64,
    cut: u64,
    bursts: u64,
}

/// A row; what was broken besides is an error.
///
/// # Errors
/// Where something is not as it must be; connections that were cut or moved
/// without a reason are in the row.
pub fn soak(plan: &SoakPlan) -> Result<Vec<Row>> {
    let mut soak = Soak::new(plan)?;
    let frames = Frames::count(&soak.stage)?;
    let begun = Instant::now();
    while begun.elapsed() < plan.lasts {
        let last_life = begun.elapsed() > plan.lasts.mul_f64(LAST_LIFE);
        let fault = soak.random.weighted(&Fault::CHANCES);
        if last_life && matches!(fault, Fault::Kill | Fault::Restart) {
            continue;
        }
        *soak.faults.entry(fault).or_default() += 1;
        soak.inflict(fault).with_context(|| format!("{} ({:?})", fault.name(), soak.faults))?;
        let pause = Duration::from_millis(soak.random.below(PAUSE_MS));
        std::thread::sleep(pause);
        soak.check().with_context(|| format!("after {} ({:?})", fault.name(), soak.faults))?;
    }
    soak.end(&frames, begun.elapsed())
}

impl Soak {
    fn new(plan: &SoakPlan) -> Result<Self> {
        let stage = Stage::in_lab(Lab::new("soak")?, "", SERVICE)?;
        let plain = std::fs::read_to_string(&stage.daemon.config)? + DATAGRAMS;
        std::fs::write(&stage.daemon.config, &plain)?;
        stage.daemon.cli(&["reload"])?;
        stage.daemon.cli(&["weight", "web", "30%"])?;
        let to = address(VIP_V4);
        let crowd = Crowd::start(&stage.lab, to, plan.connections, EVERY)?;
        let arrivals = Arrivals::start(&stage.lab, to, plan.per_second);
        let life = Life::begin(stage.daemon.pid()?);
        Ok(Self {
            arrivals,
            crowds: vec![crowd],
            stage,
            random: Random::new(plan.seed),
            plain,
            split: 0.3,
            life,
            faults: BTreeMap::new(),
            excuses: Vec::new(),
            excused: 0,
            cut: 0,
            bursts: 0,
        })
    }

    fn inflict(&mut self, fault: Fault) -> Result<()> {
        let s1 = Lab::backend("s1", false);
        let daemon = &mut self.stage.daemon;
        match fault {
            Fault::Kill | Fault::Restart => {
                if fault == Fault::Kill {
                    daemon.kill();
                } else {
                    daemon.stop()?;
                }
                std::thread::sleep(Duration::from_millis(self.random.below(500)));
                daemon.restart(&self.stage.lab)?;
                self.life = Life::begin(daemon.pid()?);
            }
            Fault::Stand => {
                daemon.signal(libc::SIGSTOP)?;
                std::thread::sleep(Duration::from_millis(self.random.below(2000)));
                daemon.signal(libc::SIGCONT)?;
            }
            Fault::Reload => {
                let weight = 1 + self.random.below(9);
                let weighed = format!("stable = [{{ address = {s1:?}, weight = {weight} }},");
                let text = self.plain.replacen(&format!("stable = [{s1:?},"), &weighed, 1);
                std::fs::write(&daemon.config, text)?;
                daemon.cli(&["reload"])?;
            }
            Fault::Weight => {
                let percent = self.random.below(60);
                self.split = percent as f64 / 100.0;
                daemon.cli(&["weight", "web", &format!("{percent}%")])?;
            }
            Fault::Drain => {
                daemon.cli(&["drain", "web", &s1])?;
                std::thread::sleep(Duration::from_millis(self.random.below(500)));
                daemon.cli(&["drain", "web", &s1, "--undo"])?;
            }
            Fault::Server => self.restart_server()?,
            Fault::Burst => {
                let flood = Flood::ALL[self.random.below(3) as usize];
                // Ever other senders, until its ports come round.
                let first = self.bursts % 60 * BURST;
                self.bursts += 1;
                flood.burst(&self.stage.lab, first, BURST)?;
            }
        }
        Ok(())
    }

    /// One of stable's, which cuts those on it; as many come anew.
    fn restart_server(&mut self) -> Result<()> {
        let from = Instant::now();
        self.stage.servers[1].stop();
        self.stage.servers[1] = Nginx::start(&self.stage.lab, "s2")?;
        let until = Instant::now() + Duration::from_secs(1);
        self.excuses.push((from, until));
        let mut excused = 0;
        for crowd in &mut self.crowds {
            let report = crowd.lap()?;
            let on_it = report.cut.iter().filter(|cut| cut.server == "s2").count() as u64;
            excused += on_it;
            self.cut += report.cut.len() as u64 - on_it;
        }
        self.excused += excused;
        if excused > 0 {
            let (to, count) = (address(VIP_V4), excused as usize);
            self.crowds.push(Crowd::start(&self.stage.lab, to, count, EVERY)?);
        }
        // Who has lost all of them is not asked any more.
        self.crowds.retain(|crowd| {
            let report = crowd.so_far();
            report.moved > 0 || (report.cut.len() as u64) < report.connections
        });
        Ok(())
    }

    /// What must be so at any time.
    fn check(&mut self) -> Result<()> {
        let status = self.stage.daemon.status()?;
        ensure!(status.warnings.is_empty(), "{:?}", status.warnings);
        let web = status.services.iter().find(|s| s.name == "web").context("no service")?;
        ensure!(
            (web.split.configured - self.split).abs() < 1e-9,
            "the split is {}, ordered was {}",
            web.split.configured,
            self.split
        );
        let tracks = status.services.iter().flat_map(|service| &service.tracks);
        let by_backend: u64 = tracks.flat_map(|t| &t.backends).map(|b| b.counters.active).sum();
        let active = status.data_plane.flows.active;
        ensure!(by_backend == active, "{active} pins, {by_backend} of backends");
        ensure!(status.data_plane.attached.iter().all(|a| a.mode == "native"), "{status:?}");
        self.life.look()
    }

    fn end(mut self, frames: &Frames, lasted: Duration) -> Result<Vec<Row>> {
        let mut report = super::CrowdReport::default();
        for crowd in &mut self.crowds {
            let lap = crowd.lap()?;
            self.cut += lap.cut.len() as u64;
            let all = crowd.so_far();
            report.connections += all.connections;
            report.requests += all.requests;
            report.moved += all.moved;
            report.longest_wait = report.longest_wait.max(all.longest_wait);
        }
        let arrivals = self.arrivals.stop()?;
        let summary = Summary::of(&arrivals);
        let unexcused = unexcused(&arrivals, &self.excuses);
        ensure!(
            unexcused.is_empty(),
            "{} new connections failed without a reason ({summary:?}): {:#?}",
            unexcused.len(),
            unexcused.iter().take(SHOWN).collect::<Vec<_>>()
        );
        let held = self.crowds.iter().map(Crowd::so_far);
        let held: u64 = held.map(|all| all.connections - all.cut.len() as u64).sum();
        only_held_are_left(&self.stage, held)?;
        split_holds(&self.stage)?;
        self.life.is_flat()?;
        drop(self.crowds);
        frames.all_have_a_reason(&self.stage)?;
        let faults: Vec<_> =
            self.faults.iter().map(|(fault, count)| format!("{} {count}", fault.name())).collect();
        let mut row = Row::of(&format!("soak, {:.0} s", lasted.as_secs_f64()), &report);
        row.cut = self.cut;
        let notes = format!(
            "{}; {} connections cut with their server and opened anew; {}; the last daemon: {}",
            faults.join(", "),
            self.excused,
            summary.words(),
            self.life
        );
        self.stage.end()?;
        Ok(vec![row.notes(notes)])
    }
}

/// New connections that failed while all servers were there: when, in seconds
/// since the first, for how long, and why.
fn unexcused(arrivals: &[Arrival], excuses: &[Excuse]) -> Vec<String> {
    let Some(first) = arrivals.first().map(|arrival| arrival.at) else { return Vec::new() };
    let mut unexcused = Vec::new();
    for Arrival { at, ended, came } in arrivals {
        let is_excused = |(from, until): &Excuse| at < until && from < ended;
        if let Err(why) = came
            && !excuses.iter().any(is_excused)
        {
            let (at, took) = (at.duration_since(first), ended.duration_since(*at));
            unexcused.push(format!("after {at:.3?}, within {took:.3?}: {why}"));
        }
    }
    unexcused
}

/// Opened less ended is what is there: the pins are those that clients hold.
fn only_held_are_left(stage: &Stage, held: u64) -> Result<()> {
    let pins = || {
        let status = stage.daemon.status().ok()?;
        let web = status.services.iter().find(|service| service.name == "web")?;
        let backends = web.tracks.iter().flat_map(|track| &track.backends);
        Some(backends.map(|backend| backend.counters.active).sum::<u64>())
    };
    wait_for("what is over to be forgotten", PATIENCE, || pins() == Some(held))
        .with_context(|| format!("{held} connections are held, {:?} are pinned", pins()))
}

fn split_holds(stage: &Stage) -> Result<()> {
    const TOTAL: u64 = 3000;
    stage.daemon.cli(&["weight", "web", "20%"])?;
    let report = Load::start(&stage.lab, address(VIP_V4), 20_000, TOTAL).finish()?;
    let canary = all_answered(&report, TOTAL)?;
    let (low, high) = binomial_interval(canary, TOTAL, Z);
    ensure!(low <= 0.2 && 0.2 <= high, "{canary} of {TOTAL} is not 20 %");
    Ok(())
}

/// Frames that came in, by the driver, beside those that the program counted.
struct Frames {
    came: u64,
    counted: u64,
}

impl Frames {
    fn count(stage: &Stage) -> Result<Self> {
        let (came, counted) = (frames_in(&stage.lab)?, seen(&stage.daemon)?);
        Ok(Self { came, counted })
    }

    /// The reasons' sum is the packets seen. The first count was made under
    /// traffic: what came between its two halves is the difference allowed.
    fn all_have_a_reason(&self, stage: &Stage) -> Result<()> {
        const UNDER_TRAFFIC: u64 = 2000;
        let now = || Self::count(stage);
        let quiet = || now().and_then(|first| Ok(now()?.came == first.came));
        wait_for("silence", PATIENCE, || quiet().is_ok_and(|quiet| quiet))?;
        let now = now()?;
        let (came, counted) = (now.came - self.came, now.counted - self.counted);
        ensure!(
            came.abs_diff(counted) < UNDER_TRAFFIC,
            "{came} frames came in, {counted} have a reason"
        );
        Ok(())
    }
}
