//! The flow table as user space sees it: scanned at memory speed, and swept of
//! flows whose time is over.

use std::{
    collections::BTreeSet,
    mem::offset_of,
    ops::Range,
    os::fd::AsFd as _,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use aya::maps::{HashMap, IterableMap as _, MapData};
use canary_common::{Bucket, Ctl, Flow, FlowKey, FlowState, SharedCell, deadline_passed};

use super::{batch, mapping::Mapping};

/// The table and the overflow map.
#[derive(Debug)]
pub struct FlowTable {
    pub(super) table: Mapping<Bucket>,
    pub(super) shared_cells: Mapping<SharedCell>,
    pub(super) overflow: Mutex<HashMap<MapData, FlowKey, Flow>>,
}

/// One live flow.
#[derive(Clone, Copy, Debug)]
pub struct FlowSnapshot {
    pub key: FlowKey,
    pub ctl: Ctl,
    /// Index into `BACKENDS`.
    pub backend: u16,
    /// Index into `CELLS`.
    pub cell: u16,
    /// Jiffies, low 32 bits.
    pub deadline: u32,
}

/// What a sweep gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub freed: u64,
    /// Handshakes without an answer among them, now booked.
    pub handshake_timeouts: u64,
    /// Flows whose client waited for an answer, now booked.
    pub idle_cuts: u64,
}

const CTL: usize = offset_of!(Flow, ctl);
const FLOW_WORDS: usize = size_of::<Flow>() / 8;

impl FlowTable {
    /// Buckets of the table, a power of two.
    pub const fn buckets(&self) -> u32 {
        self.table.len()
    }

    /// Gives every live flow in these buckets to `each`; with bucket 0 also
    /// those in the overflow map. `now` in jiffies.
    pub fn scan(&self, now: u32, buckets: Range<u32>, each: &mut dyn FnMut(&FlowSnapshot)) {
        let with_overflow = buckets.start == 0;
        self.each_record(buckets, |_, _, flow, ctl| {
            if !deadline_passed(flow.deadline, now) {
                each(&snapshot(flow, ctl));
            }
        });
        if with_overflow {
            self.scan_overflow(now, each);
        }
    }

    /// Frees what is over in these buckets (with bucket 0, in the overflow map
    /// too) and books handshakes that nobody answered. Whoever takes a way
    /// books it, so the program and the sweep never book the same one.
    /// Each that it ends goes to `ended`.
    pub fn sweep(
        &self,
        now: u32,
        buckets: Range<u32>,
        ended: &mut dyn FnMut(&FlowSnapshot),
    ) -> Swept {
        self.pass(now, buckets, ended, &mut |_| ())
    }

    /// Sweep and scan at once: each line is read from memory only once. What
    /// lives goes to `living`.
    pub fn pass(
        &self,
        now: u32,
        buckets: Range<u32>,
        ended: &mut dyn FnMut(&FlowSnapshot),
        living: &mut dyn FnMut(&FlowSnapshot),
    ) -> Swept {
        let mut swept = Swept::default();
        let with_overflow = buckets.start == 0;
        self.each_record(buckets, |bucket, way, flow, ctl| {
            if !deadline_passed(flow.deadline, now) {
                living(&snapshot(flow, ctl));
            } else if self.free(bucket, way, ctl) {
                self.book_end(flow, ctl, &mut swept);
                ended(&snapshot(flow, ctl));
            }
        });
        if with_overflow {
            self.drop_overflow(
                |flow| deadline_passed(flow.deadline, now),
                |flow| {
                    self.book_end(flow, Ctl(flow.ctl), &mut swept);
                    ended(&snapshot(flow, Ctl(flow.ctl)));
                },
            );
            self.scan_overflow(now, living);
        }
        swept
    }

    /// Gives back every way pinned to these backends; how many there were.
    pub fn forget(&self, backends: &[u16]) -> u64 {
        let gone: BTreeSet<u16> = backends.iter().copied().collect();
        let mut freed = 0;
        self.each_record(0..self.buckets(), |bucket, way, flow, ctl| {
            if gone.contains(&flow.backend) && self.free(bucket, way, ctl) {
                freed += 1;
            }
        });
        self.drop_overflow(|flow| gone.contains(&flow.backend), |_| freed += 1);
        freed
    }

    /// Gives back those ways pinned to these backends that `which` wants, in use as
    /// they are, and books them as if their time were over: nobody will answer
    /// them any more. Each goes to `ended`.
    pub fn give_back(
        &self,
        backends: &BTreeSet<u16>,
        which: fn(Ctl) -> bool,
        ended: &mut dyn FnMut(&FlowSnapshot),
    ) -> Swept {
        let mut swept = Swept::default();
        self.each_record(0..self.buckets(), |bucket, way, flow, ctl| {
            if backends.contains(&flow.backend) && which(ctl) && self.free(bucket, way, ctl) {
                self.book_end(flow, ctl, &mut swept);
                ended(&snapshot(flow, ctl));
            }
        });
        self.drop_overflow(
            |flow| {
                let ctl = Ctl(flow.ctl);
                backends.contains(&flow.backend) && is_live(ctl) && which(ctl)
            },
            |flow| {
                self.book_end(flow, Ctl(flow.ctl), &mut swept);
                ended(&snapshot(flow, Ctl(flow.ctl)));
            },
        );
        swept
    }

    /// Replies of flows whose clients came by one interface leave by another
    /// from now on: one that is back has another number. How many there were.
    /// Not those in the overflow map: it is the program's to write.
    pub fn move_clients(&self, from: u32, to: u32) -> u64 {
        let mut moved = 0;
        self.each_record(0..self.buckets(), |bucket, way, flow, _| {
            if flow.client_ifindex != from {
                return;
            }
            let offset = way * size_of::<Flow>() + offset_of!(Flow, client_ifindex);
            let word = self.table.half_word(bucket, offset);
            // Unless the way changed hands: what stands there now knows better.
            let swapped = word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed);
            moved += u64::from(swapped.is_ok());
        });
        moved
    }

    /// Records in the overflow map, dead ones included.
    pub fn overflow_len(&self) -> u64 {
        self.overflow_records().len() as u64
    }

    /// Every way in use of these buckets, read consistently.
    pub(super) fn each_record(
        &self,
        buckets: Range<u32>,
        mut each: impl FnMut(u32, usize, &Flow, Ctl),
    ) {
        for bucket in buckets {
            let (ways, _) = self.table.words(bucket).as_chunks();
            for (way, words) in ways.iter().enumerate() {
                if let Some((flow, ctl)) = read_record(words) {
                    each(bucket, way, &flow, ctl);
                }
            }
        }
    }

    fn scan_overflow(&self, now: u32, each: &mut dyn FnMut(&FlowSnapshot)) {
        for flow in self.overflow_records() {
            if is_live(Ctl(flow.ctl)) && !deadline_passed(flow.deadline, now) {
                each(&snapshot(&flow, Ctl(flow.ctl)));
            }
        }
    }

    /// A way in use, see [`read_record`].
    pub(super) fn record(&self, bucket: u32, way: usize) -> Option<(Flow, Ctl)> {
        let (ways, _) = self.table.words(bucket).as_chunks();
        read_record(&ways[way])
    }

    /// Takes a way out of use, unless it changed since `ctl` was read.
    pub(super) fn free(&self, bucket: u32, way: usize, ctl: Ctl) -> bool {
        self.table
            .word(bucket, way * size_of::<Flow>() + CTL)
            .compare_exchange(ctl.0, ctl.freed().0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    pub(super) fn book_end(&self, flow: &Flow, ctl: Ctl, swept: &mut Swept) {
        swept.freed += 1;
        let book = |field| {
            let word = self.shared_cells.word(u32::from(flow.cell), field);
            word.fetch_add(1, Ordering::Relaxed);
        };
        if Flow::was_unanswered(ctl) {
            swept.handshake_timeouts += 1;
            book(offset_of!(SharedCell, handshake_timeouts));
        }
        if Flow::was_cut(ctl, flow.waiting_since) {
            swept.idle_cuts += 1;
            book(offset_of!(SharedCell, idle_cuts));
        }
    }

    /// None where the kernel refuses: they are few, and come up at the next look.
    fn overflow_records(&self) -> Vec<Flow> {
        self.read_overflow().unwrap_or_default()
    }

    /// What is in the overflow map; `None`, and a warning, where the kernel
    /// refuses.
    pub(super) fn read_overflow(&self) -> Option<Vec<Flow>> {
        let overflow = self.lock();
        let records = batch::values::<FlowKey, Flow>(overflow.map().fd().as_fd());
        records.inspect_err(|error| tracing::warn!("reading the overflow map: {error}")).ok()
    }

    pub(super) fn drop_overflow(&self, over: impl Fn(&Flow) -> bool, mut each: impl FnMut(&Flow)) {
        let gone: Vec<_> = self.overflow_records().into_iter().filter(over).collect();
        let mut overflow = self.lock();
        for flow in gone {
            // Evicted in between: nothing to book, it was not ours to end.
            if overflow.remove(&flow.key).is_ok() {
                each(&flow);
            }
        }
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<MapData, FlowKey, Flow>> {
        self.overflow.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A way in use; `None` too where it changed hands while being read: what stands
/// there now was born after the scan began.
#[inline]
fn read_record(words: &[AtomicU64; FLOW_WORDS]) -> Option<(Flow, Ctl)> {
    let ctl = Ctl(words[CTL / 8].load(Ordering::Acquire));
    if !is_live(ctl) {
        return None;
    }
    let copy = std::array::from_fn(|i| words[i].load(Ordering::Acquire));
    // SAFETY: the same size, and any bytes are a flow.
    let flow = unsafe { std::mem::transmute::<[u64; FLOW_WORDS], Flow>(copy) };
    let after = Ctl(words[CTL / 8].load(Ordering::Acquire));
    ((after.0 ^ ctl.0) & Ctl::IDENTITY == 0 && is_live(after)).then_some((flow, after))
}

/// Whether a record stands there, its time over or not.
pub(super) const fn is_live(ctl: Ctl) -> bool {
    !matches!(ctl.state(), FlowState::Free | FlowState::Claimed)
}

const fn snapshot(flow: &Flow, ctl: Ctl) -> FlowSnapshot {
    FlowSnapshot {
        key: flow.key,
        ctl,
        backend: flow.backend,
        cell: flow.cell,
        deadline: flow.deadline,
    }
}
