//! What every run must have counted: so many packets, no more and no fewer,
//! by reason and in the backend's cell.

use std::ops::RangeInclusive;

use anyhow::{Result, ensure};
use canary_common::{Cell, Reason, Signals, Timed};

use super::{
    beds::Bed,
    wrapper::{Shot, Wrapper},
};
use crate::plane::{PASS, TX};

/// What the packets of a run must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of a pinned flow, to the backend.
    ToBackend,
    /// Of a pinned flow, from the backend.
    ToClient,
    /// A flow's first.
    Opens,
    NotOurs,
    /// Requests and responses with data in turns, of which these signals are
    /// read.
    Exchange(u16),
    /// Questions and answers in turns over UDP, all of them timed.
    Datagrams,
}

/// And who is counted at.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub kind: Kind,
    pub backend: u16,
    /// What the last packet is answered by.
    pub action: u32,
}

/// How many times a run may have taken.
type Times = RangeInclusive<u64>;
const NO_TIMES: Times = 0..=0;

/// Counters, before and after.
#[derive(Clone, Debug)]
pub struct Counters {
    reasons: Vec<u64>,
    pub cell: Cell,
    /// First-byte times of the cell.
    times: u64,
}

impl Bed {
    /// Backends whose counters are looked at where this one is expected.
    #[must_use]
    pub fn counted_at(&self, backend: u16) -> Vec<u16> {
        self.together.clone().unwrap_or(backend..=backend).collect()
    }

    /// # Errors
    /// The kernel's.
    pub fn counters(&mut self, backend: u16) -> Result<Counters> {
        let reasons = self.plane.get().verdicts()?;
        let (mut cell, mut times) = (Cell::default(), 0);
        for backend in self.counted_at(backend) {
            cell.add(&self.plane.counters(backend)?.0);
            times += self.plane.get().latencies(2 * backend).first_byte.count();
        }
        Ok(Counters { reasons, cell, times })
    }

    /// Nanoseconds a packet; an error where one of them was anything else than
    /// what is expected.
    ///
    /// # Errors
    /// See above, and the kernel's.
    pub fn run(
        &mut self,
        wrapper: &mut Wrapper,
        shot: &mut Shot,
        runs: u32,
        expected: &Expected,
    ) -> Result<f64> {
        let before = self.counters(expected.backend)?;
        let ran = wrapper.run(self.plane.path()?, shot, runs)?;
        ran.answered(expected.action)?;
        self.counted(&before, u64::from(runs), shot.ip_bytes(0), expected)?;
        Ok(ran.nanoseconds)
    }

    /// That so many packets since `before` were what is expected.
    ///
    /// # Errors
    /// Where they were not.
    pub fn counted(
        &mut self,
        before: &Counters,
        runs: u64,
        ip_bytes: u64,
        expected: &Expected,
    ) -> Result<()> {
        let after = self.counters(expected.backend)?;
        let (reasons, cell, times) = expected.kind.counts(runs, ip_bytes);
        reasons_are(before, &after, &reasons)?;
        let counted = after.cell.since(&before.cell);
        ensure!(counted == cell, "counted {counted:?}\ninstead of {cell:?}");
        let timed = after.times - before.times;
        ensure!(times.contains(&timed), "{timed} times, and not {times:?}");
        Ok(())
    }
}

impl Kind {
    /// What so many packets come to: reasons, counters, and times.
    fn counts(self, runs: u64, ip_bytes: u64) -> (Vec<(Reason, u64)>, Cell, Times) {
        let towards =
            |packets| Cell { packets_in: packets, bytes_in: packets * ip_bytes, ..Cell::default() };
        let back = |packets| Cell {
            packets_out: packets,
            bytes_out: packets * ip_bytes,
            ..Cell::default()
        };
        match self {
            Self::ToBackend => (vec![(Reason::Pinned, runs)], towards(runs), NO_TIMES),
            Self::ToClient => (vec![(Reason::Reply, runs)], back(runs), NO_TIMES),
            Self::Opens => {
                let cell = Cell { connections: runs, ..towards(runs) };
                (vec![(Reason::NewFlow, runs)], cell, NO_TIMES)
            }
            Self::NotOurs => (vec![(Reason::NotOurs, runs)], Cell::default(), NO_TIMES),
            Self::Datagrams => {
                let (reasons, cell, _) = Self::Exchange(0).counts(runs, ip_bytes);
                (reasons, cell, runs / 2..=runs / 2)
            }
            Self::Exchange(signals) => {
                let each = runs / 2;
                let read = |signal| if signals & signal != 0 { each } else { 0 };
                let mut cell = Cell { http_2xx: read(Signals::HTTP), ..towards(each) };
                cell.add(&back(each));
                let reasons = vec![(Reason::Pinned, each), (Reason::Reply, each)];
                // Drawn by a hash: five standard deviations, of rounds as short
                // as they come.
                let drawn = read(Signals::LATENCY) / u64::from(Timed::ONE_IN);
                (reasons, cell, drawn - drawn / 10..=drawn + drawn / 10)
            }
        }
    }
}

impl Expected {
    #[must_use]
    pub const fn new(kind: Kind, backend: u16) -> Self {
        let action = if matches!(kind, Kind::NotOurs) { PASS } else { TX };
        Self { kind, backend, action }
    }
}

/// What so many packets of a kind come to: reasons, and counters.
#[must_use]
pub fn counts_of(kind: Kind, runs: u64, ip_bytes: u64) -> (Vec<(Reason, u64)>, Cell) {
    let (reasons, cell, _) = kind.counts(runs, ip_bytes);
    (reasons, cell)
}

/// That these, and no others, were counted between.
///
/// # Errors
/// Where not.
pub fn reasons_are(before: &Counters, after: &Counters, reasons: &[(Reason, u64)]) -> Result<()> {
    let mut wrong = Vec::new();
    for &reason in Reason::ALL {
        let number = reason as usize;
        let counted = after.reasons[number] - before.reasons[number];
        let wanted: u64 =
            reasons.iter().filter(|(which, _)| *which == reason).map(|(_, runs)| runs).sum();
        if counted != wanted {
            wrong.push(format!("{counted} packets of {}, not {wanted}", reason.name()));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join(", "));
    Ok(())
}
