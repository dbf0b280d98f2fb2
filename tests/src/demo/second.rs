//! The second act: rollouts that go by themselves, of a good canary to its end
//! and of one that fails now and then.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use canary::api::types::{History, ServiceStatus};

use super::{Show, verdict::Line};
use crate::lab::{Behaviour, Holders, HoldersReport, Load, LoadReport, Outcome, VIP_V4};

/// Steps that fit into a show, and as little asked of safety.
pub(super) const ROLLOUT: &str = r#"
[service.web.rollout]
steps = [
    { split = "1%", for = "3s" },
    { split = "5%", for = "15s" },
    { split = "25%", for = "2s", until = "safe" },
    { split = "50%", for = "2s", until = "safe" },
    { split = "100%", for = "3s" },
]

[service.web.evidence]
safe_margin = "2%"
"#;

/// New connections a second.
const RATE: u32 = 500;
const HELD: usize = 40;
/// Of the bad canary's connections.
const FAILS_PERCENT: u8 = 3;
const PATIENCE: Duration = Duration::from_secs(90);
const SETTLES: Duration = Duration::from_millis(500);

/// What was seen of both rollouts.
pub(super) struct SecondAct {
    /// How long the good one took; `None`: it never came to its end.
    completed: Option<Duration>,
    /// The splits it went through.
    steps: Vec<f64>,
    during_good: LoadReport,
    held: HoldersReport,
    /// From the bad one's first failure until its split was 0.
    caught: Option<Duration>,
    at_split: f64,
    reason: String,
    met: u64,
    during_bad: LoadReport,
}

impl Show {
    pub(super) fn second_act(&mut self) -> Result<SecondAct> {
        let to: SocketAddr = VIP_V4.parse().context("an address")?;
        let canary = self.servers.last().context("no canary")?;
        canary.behave(Behaviour::Good)?;
        // nginx takes its new configuration a moment later.
        std::thread::sleep(SETTLES);
        let held = Holders::start(&self.lab, to, HELD, Duration::from_millis(500))?;
        let load = Load::start(&self.lab, to, RATE, u64::MAX);
        let begun = Instant::now();
        self.daemon.cli(&["rollout", "start", "web"])?;
        self.screen.command("rollout start web");
        let done = self.until(&["draining", "complete", "idle"])?;
        let completed = done.rollout.promoted.then(|| begun.elapsed());
        let steps = self.steps()?;
        let held = held.stop()?;
        let during_good = load.stop()?;
        if completed.is_some() {
            self.daemon.cli(&["rollout", "undo", "web"])?;
            self.screen.command("rollout undo web: back to the old version, for the next try");
            self.until(&["idle"])?;
        }

        let canary = self.servers.last().context("no canary")?;
        canary.behave(Behaviour::ResettingSome(FAILS_PERCENT))?;
        std::thread::sleep(SETTLES);
        let load = Load::start(&self.lab, to, RATE, u64::MAX);
        self.daemon.cli(&["rollout", "start", "web"])?;
        self.screen
            .command(&format!("rollout start web; its canary fails {FAILS_PERCENT} % of the time"));
        let out = self.until(&["rolling-back", "idle", "draining", "complete"])?;
        let caught = load.first_failure().map(|first| first.elapsed());
        let reason = out.rollout.reason.clone();
        let at_split =
            self.history()?.entries.iter().rev().find(|e| e.event == "step").map(|e| e.split);
        let during_bad = load.stop()?;
        Ok(SecondAct {
            completed,
            steps,
            during_good,
            held,
            caught: caught.filter(|_| !out.rollout.promoted),
            at_split: at_split.unwrap_or(0.0),
            reason,
            met: during_bad.get(&Outcome::Reset).copied().unwrap_or(0),
            during_bad,
        })
    }

    fn history(&self) -> Result<History> {
        Ok(serde_json::from_str(&self.daemon.cli(&["history", "web", "--json"])?)?)
    }

    /// The splits of the last rollout.
    fn steps(&self) -> Result<Vec<f64>> {
        let entries = self.history()?.entries;
        Ok(entries.iter().filter(|e| e.event == "step").map(|e| e.split).collect())
    }

    /// Shows the service until its rollout is in one of these phases.
    fn until(&mut self, phases: &[&str]) -> Result<ServiceStatus> {
        let begun = Instant::now();
        loop {
            let mut status = self.daemon.status()?;
            status.services.retain(|service| service.name == "web");
            self.screen.show(&status);
            let service = status.services.pop().context("the service is gone")?;
            if phases.contains(&service.rollout.phase.as_str()) || begun.elapsed() > PATIENCE {
                return Ok(service);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Connections that were not answered.
fn failed(report: &LoadReport) -> u64 {
    super::verdict::failures(report)
}

fn total(report: &LoadReport) -> u64 {
    report.values().sum()
}

impl SecondAct {
    pub(super) fn judge(&self) -> Vec<Line> {
        vec![self.good(), self.kept(), self.bad()]
    }

    fn good(&self) -> Line {
        let steps: Vec<String> = self.steps.iter().map(|s| format!("{} %", s * 100.0)).collect();
        let took =
            self.completed.map_or("never".to_owned(), |t| format!("{:.1} s", t.as_secs_f64()));
        Line {
            fine: self.completed.is_some() && self.steps == [0.01, 0.05, 0.25, 0.5, 1.0],
            text: format!(
                "a good canary became stable by itself: {} in {took}, {} connections",
                steps.join(" → "),
                total(&self.during_good)
            ),
        }
    }

    fn kept(&self) -> Line {
        let (held, failed) = (&self.held, failed(&self.during_good));
        Line {
            fine: failed == 0 && held.moved == 0 && held.cut.is_empty() && held.connections == HELD,
            text: format!(
                "meanwhile failed: {failed}; pinned connections that moved: {} of {}, cut: {}",
                held.moved,
                held.connections,
                held.cut.len()
            ),
        }
    }

    fn bad(&self) -> Line {
        let took = self.caught.map_or("never".to_owned(), |t| format!("{:.1} s", t.as_secs_f64()));
        Line {
            fine: self.caught.is_some() && (self.at_split - 0.05).abs() < 1e-9 && self.met > 0,
            text: format!(
                "one that fails {FAILS_PERCENT} % was out at {} %, {took} after its first failure; \
                 {} of {} connections met one\n       ({})",
                self.at_split * 100.0,
                self.met,
                total(&self.during_bad),
                self.reason
            ),
        }
    }
}
