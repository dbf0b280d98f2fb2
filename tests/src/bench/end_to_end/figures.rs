//! From turns to sections.

use anyhow::Result;

use super::{
    CLIENTS, RATE,
    way::{WAYS, Way},
};
use crate::bench::report::{By, Row, Section, Wanted};

/// What one way did in one round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// Requests a second over connections that stay.
    pub(super) kept: f64,
    /// Connections a second, of one request each.
    pub(super) fresh: f64,
    /// Gigabits a second.
    pub(super) stream: f64,
    /// Microseconds.
    pub(super) p50: f64,
    pub(super) p99: f64,
    /// Seconds for a million requests.
    pub(super) cpu: f64,
}

/// All turns so far, in order.
#[derive(Debug, Default)]
pub(super) struct Figures(Vec<(Way, Turn)>);

/// Of a section: its name and unit, what it counts, which figure it is, and
/// what is wanted of canary beside each other way.
struct Kind {
    name: &'static str,
    unit: &'static str,
    about: String,
    figure: fn(&Turn) -> f64,
    wanted: fn(Way) -> Option<Wanted>,
}

impl Figures {
    pub(super) fn add(&mut self, way: Way, turn: &Turn) {
        self.0.push((way, *turn));
    }

    /// # Errors
    /// Where nothing was measured.
    pub(super) fn sections(&self, rounds: usize) -> Result<Vec<Section>> {
        kinds().into_iter().map(|kind| self.section(kind, rounds)).collect()
    }

    fn section(&self, kind: Kind, rounds: usize) -> Result<Section> {
        let of = |way: Way| -> Vec<f64> {
            let turns = self.0.iter().filter(|(of, _)| *of == way);
            turns.map(|(_, turn)| (kind.figure)(turn)).collect()
        };
        let own = of(Way::Canary);
        let mut rows = Vec::new();
        for way in WAYS.into_iter().filter(|way| *way != Way::Canary) {
            rows.push(Row::of(way.name(), &of(way))?);
        }
        for way in WAYS.into_iter().filter(|way| *way != Way::Canary) {
            let row = Row::of(format!("canary over {}", way.name()), &own)?;
            let wanted = (kind.wanted)(way);
            rows.push(row.beside((way.name(), &of(way)), By::Ratio, &own, wanted)?);
        }
        let about = format!("{} {ABOUT} {rounds} rounds in turns.", kind.about);
        Ok(Section { name: kind.name.to_owned(), about, unit: kind.unit.to_owned(), rows })
    }
}

/// What holds for all of it.
const ABOUT: &str = "Client, servers and balancer share this machine's CPUs.";

fn kinds() -> Vec<Kind> {
    let at_rate = format!("{RATE} requests a second over {CLIENTS} connections");
    let nothing: fn(Way) -> Option<Wanted> = |_| None;
    let kind =
        |name, unit, about: String, figure| Kind { name, unit, about, figure, wanted: nothing };
    vec![
        Kind {
            wanted,
            ..kind("keep-alive", "req/s", format!("wrk, {CLIENTS} connections."), |t| t.kept)
        },
        Kind {
            wanted,
            ..kind("connections", "1/s", format!("wrk, {CLIENTS} at a time."), |t| t.fresh)
        },
        kind("stream", "Gbit/s", "One download.".to_owned(), |turn| turn.stream),
        kind("p50", "us", format!("{at_rate}, median."), |turn| turn.p50),
        kind("p99", "us", format!("{at_rate}, 99 %."), |turn| turn.p99),
        kind("cpu", "s/M req", format!("{at_rate}, CPU."), |turn| turn.cpu),
    ]
}

/// Of requests and connections a second.
const fn wanted(way: Way) -> Option<Wanted> {
    match way {
        Way::Plain => Some(Wanted::AtLeast(0.88)),
        Way::Nftables => Some(Wanted::AtLeast(1.05)),
        Way::Haproxy => Some(Wanted::AtLeast(1.2)),
        Way::Canary => None,
    }
}
