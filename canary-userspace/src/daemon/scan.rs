//! The rolling look at the flow table: each tick a slice, for live pins per
//! backend and per cell, and to free what is over.

use std::{
    collections::BTreeSet,
    ops::Range,
    time::{Duration, Instant},
};

use canary_common::{FlowState, MAX_BACKENDS, MAX_CELLS};

use crate::dataplane::{FlowSnapshot, FlowTable};

/// Ticks in which the whole of a small table is passed.
const SLICES: u32 = 8;
/// Buckets of a slice at most: 16 MiB, some milliseconds.
const MAX_SLICE: u32 = 65_536;
/// The same while nobody waits for what a pass finds: 4 MiB. A table of a
/// million flows is passed in 8 s then, for a five-hundredth of a core.
const MAX_IDLE_SLICE: u32 = 16_384;
/// Tables up to here, with room for a million flows, are scanned whole when
/// somebody asks for counts: within 20 ms.
const SMALL: u32 = 524_288;
/// Who has asked for counts once asks again.
const AWAITED: Duration = Duration::from_secs(10);

/// Live pins, by what they hold on to.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    /// By backend number; closed flows that linger are not counted.
    by_backend: Vec<u64>,
    /// Whether there are any, lingering ones too, by cell.
    cells: Vec<bool>,
    pub(super) total: u64,
}

impl Default for Pins {
    fn default() -> Self {
        Self {
            by_backend: vec![0; MAX_BACKENDS as usize],
            cells: vec![false; MAX_CELLS as usize],
            total: 0,
        }
    }
}

impl Pins {
    fn count(&mut self, flow: &FlowSnapshot) {
        if let Some(cell) = self.cells.get_mut(usize::from(flow.cell)) {
            *cell = true;
        }
        if flow.ctl.state() != FlowState::Closing
            && let Some(count) = self.by_backend.get_mut(usize::from(flow.backend))
        {
            *count += 1;
            self.total += 1;
        }
    }

    pub(super) fn of(&self, backend: u16) -> u64 {
        self.by_backend.get(usize::from(backend)).copied().unwrap_or(0)
    }

    /// The cells that living flows were born under.
    pub(super) fn cells(&self) -> BTreeSet<u16> {
        (0..).zip(&self.cells).filter(|(_, lives)| **lives).map(|(cell, _)| cell).collect()
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
    /// Until then somebody waits for passes to end.
    awaited: Option<Instant>,
}

impl Scan {
    /// Does one slice; whether it ended a pass.
    /// What is over goes to `ended`. `swiftly`: something depends on it.
    pub(super) fn step(
        &mut self,
        table: &FlowTable,
        now: u32,
        swiftly: bool,
        ended: &mut dyn FnMut(&FlowSnapshot),
    ) -> bool {
        let swiftly = swiftly || self.awaited.is_some_and(|until| Instant::now() < until);
        let slice = slice(self.next, table.buckets(), swiftly);
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
    pub(super) fn pins(&mut self, table: &FlowTable, now: u32) -> Pins {
        if table.buckets() <= SMALL {
            return Pins::now(table, now);
        }
        self.awaited = Some(Instant::now() + AWAITED);
        self.last.clone()
    }
}

fn slice(start: u32, buckets: u32, swiftly: bool) -> Range<u32> {
    let most = if swiftly { MAX_SLICE } else { MAX_IDLE_SLICE };
    let len = buckets.div_ceil(SLICES).clamp(1, most);
    start..start.saturating_add(len).min(buckets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_the_table_once() {
        for (buckets, swiftly) in
            [1, 2, 7, 8, 131_072, 4_194_304].into_iter().flat_map(|b| [(b, true), (b, false)])
        {
            let most = if swiftly { MAX_SLICE } else { MAX_IDLE_SLICE };
            let mut next = 0;
            let mut steps = 0;
            while next < buckets {
                let slice = slice(next, buckets, swiftly);
                assert_eq!(slice.start, next);
                assert!(slice.end > slice.start && slice.len() <= most as usize);
                next = slice.end;
                steps += 1;
            }
            assert!(steps <= SLICES.max(buckets.div_ceil(most)), "{buckets}: {steps}");
        }
    }
}
