//! From turns to sections.

use anyhow::Result;

use super::{CLIENTS, RATE, polling::Polling, way::Way};
use crate::bench::report::{By, Row, Section, Wanted, spread};

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

/// All turns of one polling so far, in order.
#[derive(Debug)]
pub(super) struct Figures {
    polling: Polling,
    turns: Vec<(Way, Turn)>,
    /// Shares of all CPUs that others had, before each turn.
    others: Vec<f64>,
}

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
    pub(super) const fn new(polling: Polling) -> Self {
        Self { polling, turns: Vec::new(), others: Vec::new() }
    }

    pub(super) const fn polling(&self) -> Polling {
        self.polling
    }

    pub(super) fn add(&mut self, way: Way, turn: &Turn) {
        self.turns.push((way, *turn));
    }

    pub(super) fn others(&mut self, share: f64) {
        self.others.push(share);
    }

    /// # Errors
    /// Where nothing was measured.
    pub(super) fn sections(&self, rounds: usize) -> Result<Vec<Section>> {
        let others = spread(&self.others)?[1] * 100.0;
        let about = format!(
            "{ABOUT}; {}; {rounds} rounds in turns, others had {others:.0} % of the CPUs before one",
            self.polling.about()
        );
        kinds().iter().map(|kind| self.section(kind, &about)).collect()
    }

    fn section(&self, kind: &Kind, about: &str) -> Result<Section> {
        let of = |way: Way| -> Vec<f64> {
            let turns = self.turns.iter().filter(|(of, _)| *of == way);
            turns.map(|(_, turn)| (kind.figure)(turn)).collect()
        };
        let own = of(Way::Canary);
        let mut rows = Vec::new();
        for way in RIVALS {
            rows.push(Row::of(way.name(), &of(way))?);
        }
        for way in RIVALS {
            let row = Row::of(format!("canary, beside {}", way.name()), &own)?;
            let wanted = (kind.wanted)(way);
            rows.push(row.beside((way.name(), &of(way)), By::Ratio, &own, wanted)?);
        }
        let about = format!("{}. {about}", kind.about);
        Ok(Section {
            name: format!("end-to-end-{}{}", kind.name, self.polling.suffix()),
            about,
            unit: kind.unit.to_owned(),
            rows,
        })
    }
}

const RIVALS: [Way; 3] = [Way::Plain, Way::Nftables, Way::Haproxy];

/// What holds for all of it; docs/end-to-end.md has the whole.
const ABOUT: &str = "Client, balancer and two nginx in namespaces, all on this machine's CPUs";

fn kinds() -> [Kind; 6] {
    let paced = format!("{RATE} requests a second over {CLIENTS} connections");
    let kind = |name, unit, about, figure| Kind { name, unit, about, figure, wanted: |_| None };
    let kept = format!("Requests a second, wrk with {CLIENTS} connections");
    let fresh = format!("Connections of one request, wrk with {CLIENTS} at a time");
    let p50 = format!("{paced}: half took at most, from when they were due");
    let p99 = format!("{paced}: 99 % took at most, from when they were due");
    let cpu = format!("{paced}: time that all CPUs were busy, per million requests");
    [
        Kind { wanted, ..kind("keep-alive", "req/s", kept, |turn| turn.kept) },
        Kind { wanted, ..kind("connections", "1/s", fresh, |turn| turn.fresh) },
        kind("stream", "Gbit/s", "One download".to_owned(), |turn| turn.stream),
        kind("p50", "us", p50, |turn| turn.p50),
        kind("p99", "us", p99, |turn| turn.p99),
        kind("cpu", "s", cpu, |turn| turn.cpu),
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::{super::way::WAYS, *};

    #[test]
    fn canary_stands_beside_each_of_the_others() {
        let turn = |kept| Turn { kept, fresh: 1.0, stream: 1.0, p50: 1.0, p99: 1.0, cpu: 1.0 };
        let mut figures = Figures::new(Polling::Threads);
        for (way, kept) in WAYS.into_iter().zip([100.0, 80.0, 60.0, 90.0]) {
            figures.others(0.5);
            figures.add(way, &turn(kept));
        }
        let sections = figures.sections(1).unwrap();
        let rows = &sections[0].rows;
        let ratios: Vec<f64> =
            rows.iter().filter_map(|row| Some(row.against.as_ref()?.value)).collect();
        assert_eq!(ratios, [0.9, 1.125, 1.5]);
        assert!(rows.iter().filter(|row| row.against.is_some()).all(|row| row.median == 90.0));
        assert!(sections[0].about.contains("others had 50 %"), "{}", sections[0].about);
        assert!(Figures::new(Polling::Direct).sections(1).is_err());
    }
}
