//! The rolling look at the flow table: each tick a slice, for live pins per
//! backend and per cell, and to free what is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use canary_common::FlowState;

use crate::dataplane::{FlowSnapshot, FlowTable};

/// Ticks in which the whole of a small table is passed.
const SLICES: u32 = 8;
/// Buckets of a slice at most: 16 MiB, some milliseconds.
const MAX_SLICE: u32 = 65_536;
/// Tables up to here are scanned whole when somebody asks for counts.
const SMALL: u32 = 262_144;

/// Live pins, by what they hold on to.
#[derive(Clone, Debug, Default)]
pub(super) struct Pins {
    /// By backend number; closed flows that linger are not counted.
    pub(super) by_backend: BTreeMap<u16, u64>,
    /// Cells of all of them, lingering ones too.
    pub(super) cells: BTreeSet<u16>,
    pub(super) total: u64,
}

impl Pins {
    fn count(&mut self, flow: &FlowSnapshot) {
        self.cells.insert(flow.cell);
        if flow.ctl.state() != FlowState::Closing {
            *self.by_backend.entry(flow.backend).or_default() += 1;
            self.total += 1;
        }
    }

    pub(super) fn of(&self, backend: u16) -> u64 {
        self.by_backend.get(&backend).copied().unwrap_or(0)
    }

    /// All of the table, now.
    pub(super) fn now(table: &FlowTable, now: u32) -> Self {
        let mut pins = Self::default();
        table.scan(now, 0..table.buckets(), &mut |flow| pins.count(flow));
        pins
    }
}

/// The pass that is under way, and the last whole one.
#[derive(Debug, Default)]
pub(super) struct Scan {
    next: u32,
    passing: Pins,
    pub(super) last: Pins,
    /// Whole passes so far.
    pub(super) passes: u64,
}

impl Scan {
    /// Does one slice; whether it ended a pass.
    /// What is over goes to `ended`.
    pub(super) fn step(
        &mut self,
        table: &FlowTable,
        now: u32,
        ended: &mut dyn FnMut(&FlowSnapshot),
    ) -> bool {
        let slice = slice(self.next, table.buckets());
        self.next = slice.end;
        let passing = &mut self.passing;
        table.pass(now, slice, ended, &mut |flow| passing.count(flow));
        if self.next < table.buckets() {
            return false;
        }
        self.end_pass();
        true
    }

    /// A whole pass from the beginning, at once.
    pub(super) fn whole(
        &mut self,
        table: &FlowTable,
        now: u32,
        ended: &mut dyn FnMut(&FlowSnapshot),
    ) {
        self.passing = Pins::default();
        let passing = &mut self.passing;
        table.pass(now, 0..table.buckets(), ended, &mut |flow| passing.count(flow));
        self.end_pass();
    }

    fn end_pass(&mut self) {
        self.next = 0;
        self.last = std::mem::take(&mut self.passing);
        self.passes += 1;
    }

    /// Counts for a question: of now where that costs little, else of the last
    /// pass.
    pub(super) fn pins(&self, table: &FlowTable, now: u32) -> Pins {
        if table.buckets() <= SMALL { Pins::now(table, now) } else { self.last.clone() }
    }
}

fn slice(start: u32, buckets: u32) -> Range<u32> {
    let len = buckets.div_ceil(SLICES).clamp(1, MAX_SLICE);
    start..start.saturating_add(len).min(buckets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_the_table_once() {
        for buckets in [1, 2, 7, 8, 131_072, 4_194_304] {
            let mut next = 0;
            let mut steps = 0;
            while next < buckets {
                let slice = slice(next, buckets);
                assert_eq!(slice.start, next);
                assert!(slice.end > slice.start && slice.len() <= MAX_SLICE as usize);
                next = slice.end;
                steps += 1;
            }
            assert!(steps <= SLICES.max(buckets.div_ceil(MAX_SLICE)), "{buckets}: {steps}");
        }
    }
}
