//! The demo's end: what was seen, and whether it is as it should be.

use std::time::{Duration, Instant};

use canary::{
    api::types::{ServiceStatus, Status},
    stats::binomial_interval,
};

use super::HELD;
use crate::lab::{HoldersReport, Lab, LoadReport, Outcome};

/// 99.9 %, two-sided.
const Z: f64 = 3.29;
/// The daemon looks every 250 ms; the rest is for machines that are busy.
const ROLLBACK_WITHIN: Duration = Duration::from_secs(2);

/// A step's result, by the daemon's counters.
pub(super) struct Achieved {
    pub(super) service: String,
    pub(super) configured: f64,
    pub(super) canary: u64,
    pub(super) total: u64,
}

/// All that clients saw of one family.
pub(super) struct Family {
    pub(super) v6: bool,
    pub(super) load: LoadReport,
    pub(super) held: HoldersReport,
}

pub(super) struct Evidence {
    pub(super) steps: Vec<Achieved>,
    pub(super) families: Vec<Family>,
    /// Connections that failed before the fault, and those when it was over.
    pub(super) failed_before: u64,
    pub(super) failed_after: u64,
    /// When the canary's server was told to reset.
    pub(super) fault: Instant,
    /// From the first connection that was reset, as its client saw it, until
    /// both splits were 0.
    pub(super) rollback: Option<Duration>,
    /// The daemon's, with all clients gone.
    pub(super) status: Status,
}

/// A line of the summary.
pub(super) struct Line {
    pub(super) fine: bool,
    pub(super) text: String,
}

pub(super) fn connections(service: &ServiceStatus, track: &str) -> u64 {
    let tracks = service.tracks.iter().filter(|t| t.name == track);
    tracks.flat_map(|t| &t.backends).map(|b| b.counters.connections).sum()
}

pub(super) fn failures(report: &LoadReport) -> u64 {
    let failed = report.iter().filter(|(outcome, _)| !matches!(outcome, Outcome::Answered(_)));
    failed.map(|(_, count)| count).sum()
}

impl Evidence {
    pub(super) fn judge(&self) -> Vec<Line> {
        let mut lines: Vec<Line> = self.steps.iter().map(Achieved::judge).collect();
        lines.extend([self.served(), self.failed(), self.held(), self.counted(), self.timing()]);
        lines
    }

    fn served(&self) -> Line {
        let load = self.families.iter().flat_map(|f| &f.load);
        let answered = load.filter(|(outcome, _)| matches!(outcome, Outcome::Answered(_)));
        let once: u64 = answered.map(|(_, count)| count).sum();
        let kept: u64 = self.families.iter().map(|f| f.held.requests).sum();
        Line {
            fine: once > 0 && kept > 0,
            text: format!("requests served: {}, {kept} of them over keep-alive", once + kept),
        }
    }

    fn failed(&self) -> Line {
        let all: u64 = self.families.iter().map(|f| failures(&f.load)).sum();
        let by_fault = all.saturating_sub(self.failed_before + self.failed_after);
        Line {
            fine: self.failed_before == 0 && self.failed_after == 0 && by_fault > 0,
            text: format!(
                "requests failed: {} before the fault, {by_fault} met the broken canary, {} after \
                 the rollback",
                self.failed_before, self.failed_after
            ),
        }
    }

    /// The broken server may end its own connections, and nobody others'.
    fn held(&self) -> Line {
        let moved: u64 = self.families.iter().map(|f| f.held.moved).sum();
        let held: usize = self.families.iter().map(|f| f.held.connections).sum();
        let cuts = || self.families.iter().flat_map(|f| &f.held.cut);
        let by_server = |cut: &&crate::lab::Cut| cut.server == "c1" && cut.at > self.fault;
        let ended = cuts().filter(by_server).count();
        let cut = cuts().count() - ended;
        Line {
            fine: moved == 0 && cut == 0 && held == 2 * HELD,
            text: format!(
                "pinned connections that moved: {moved} of {held}; cut: {cut}; ended by the broken \
                 server itself: {ended}"
            ),
        }
    }

    /// Each stable server's connections as its clients count them, and as the
    /// daemon does.
    fn counted(&self) -> Line {
        let (mut seen, mut wrong) = (0, Vec::new());
        for family in &self.families {
            for host in ["s1", "s2"] {
                let answered = family.load.get(&Outcome::Answered(host.to_owned()));
                let held = family.held.on.get(host);
                let clients = answered.unwrap_or(&0) + held.unwrap_or(&0);
                let address = Lab::backend(host, family.v6);
                let backends = self.status.services.iter().flat_map(|s| &s.tracks);
                let backend = backends.flat_map(|t| &t.backends).find(|b| b.address == address);
                let counted = backend.map_or(0, |b| b.counters.connections);
                seen += clients;
                if counted != clients {
                    wrong.push(format!("{address} counted {counted}, its clients {clients}"));
                }
            }
        }
        let text = if wrong.is_empty() {
            format!("stable's {seen} connections counted alike by clients and canary")
        } else {
            wrong.join("; ")
        };
        Line { fine: wrong.is_empty(), text }
    }

    fn timing(&self) -> Line {
        let took = self.rollback.map_or("never".to_owned(), |t| format!("{} ms", t.as_millis()));
        Line {
            fine: self.rollback.is_some_and(|took| took < ROLLBACK_WITHIN),
            text: format!("from the first reset to split 0, both services: {took}"),
        }
    }
}

impl Achieved {
    fn judge(&self) -> Line {
        let (low, high) = binomial_interval(self.canary, self.total, Z);
        let share = self.canary as f64 / self.total.max(1) as f64;
        Line {
            fine: self.total > 0 && low <= self.configured && self.configured <= high,
            text: format!(
                "{:<4} configured {:>4.1} %, achieved {:>6.3} % of {} connections \
                 (99.9 % interval {:.3} to {:.3} %)",
                self.service,
                self.configured * 100.0,
                share * 100.0,
                self.total,
                low * 100.0,
                high * 100.0
            ),
        }
    }
}
