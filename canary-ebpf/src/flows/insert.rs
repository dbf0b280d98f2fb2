//! A new flow's record.

use canary_common::{
    Bucket, Ctl, Flow, FlowKey, FlowState, FrameAddresses, Hashed, WAYS, deadline_passed,
};

use super::{
    ctl_of, deadline_of,
    ended::book_previous,
    exchange, find,
    overflow::{may_have_overflowed, overflow},
    read, way,
};
use crate::{
    atomic,
    maps::{FLOWS, SCRATCH, flow_bucket_mask},
};

/// How often a new flow tries to claim before it goes on without a pin.
const CLAIM_TRIES: usize = 3;

/// Reads of another CPU's claim before giving up: it publishes within tens of
/// nanoseconds, or its virtual CPU is not running.
const RIVAL_SPINS: usize = 32;

/// A record to be, as it goes to the inserting function: no padding, the
/// verifier wants every byte written.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NewFlow {
    pub key: FlowKey,
    pub backend: u16,
    pub cell: u16,
    pub deadline: u32,
    pub client_ifindex: u32,
    pub reply_frame: FrameAddresses,
    pub client_seq: u32,
    pub waiting_since: u32,
    /// A [`FlowState`].
    pub state: u16,
    /// [`FlowFlags`].
    pub flags: u16,
}

const _: () = assert!(size_of::<NewFlow>() == 56);

/// What came of an insertion.
#[derive(Clone, Copy, Debug)]
pub struct Inserted {
    /// The new record stands; else another CPU was first, and its is named.
    pub ours: bool,
    /// Where the flow is pinned now; 0 where it could not be: too many CPUs at
    /// once on the same bucket.
    pub backend: u16,
    pub cell: u16,
}

/// Makes a record: in place of the flow's own old one (`replaces`), else in a
/// free way, else in place of the oldest closed flow, else of the oldest
/// half-open one, else in the overflow map.
#[inline(always)]
pub fn insert(new: &NewFlow, hash: Hashed, replaces: bool, now: u32) -> Inserted {
    let packed = canary_insert(new, hash.0, u32::from(replaces), now);
    Inserted { ours: packed & OURS != 0, backend: packed as u16, cell: (packed >> 16) as u16 }
}

/// Bit of [`canary_insert`]'s answer beside backend (0–15) and cell (16–31).
pub(super) const OURS: u64 = 1 << 32;

/// No record could be made.
pub(super) const NOBODY: u64 = 0;

/// The way changed hands; another may be free.
const TAKEN: u64 = u64::MAX - 1;

/// A function of its own to the verifier. `new` is never null.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn canary_insert(new: *const NewFlow, hash: u64, replaces: u32, now: u32) -> u64 {
    if new.is_null() {
        return NOBODY;
    }
    // SAFETY: not null, and the caller's reference otherwise.
    let new = unsafe { &*new };
    let hash = Hashed(hash);
    if replaces != 0 {
        return replace(new, hash, now);
    }
    let Some(bucket) = FLOWS.get_ptr_mut(Bucket::index(hash, flow_bucket_mask())) else {
        return NOBODY;
    };
    for _ in 0..CLAIM_TRIES {
        let (number, old) = candidate(bucket, Bucket::first_way(hash), now);
        if number == NO_WAY {
            return overflow(hash, new);
        }
        let inserted = insert_at(Vacancy { bucket, number, old }, new, hash, now);
        if inserted != TAKEN {
            return inserted;
        }
    }
    NOBODY
}

/// A way that may be taken, and what it holds.
#[derive(Clone, Copy, Debug)]
pub struct Vacancy {
    bucket: *mut Bucket,
    number: usize,
    old: Ctl,
}

/// Where a flow's record may be made that certainly has none: its tag stands in
/// none of its bucket's ways, and it is not in the overflow map. `None` where
/// that is not certain, or no way may be taken.
#[inline(always)]
pub fn vacancy(hash: Hashed, now: u32) -> Option<Vacancy> {
    let bucket = FLOWS.get_ptr_mut(Bucket::index(hash, flow_bucket_mask()))?;
    let tag = Ctl::tag_of(hash);
    for i in 0..WAYS {
        if ctl_of(way(bucket, i)).tag() == tag {
            return None;
        }
    }
    if may_have_overflowed(hash) {
        return None;
    }
    let (number, old) = candidate(bucket, Bucket::first_way(hash), now);
    (number != NO_WAY).then_some(Vacancy { bucket, number, old })
}

/// Makes a record in this way. `false`: another CPU was first, at the way or
/// with the flow.
#[inline(always)]
pub fn take(vacancy: Vacancy, new: &NewFlow, hash: Hashed, now: u32) -> bool {
    insert_at(vacancy, new, hash, now) & OURS != 0
}

/// As [`canary_insert`]'s answer, or [`TAKEN`].
#[inline(always)]
fn insert_at(vacancy: Vacancy, new: &NewFlow, hash: Hashed, now: u32) -> u64 {
    let Vacancy { bucket, number, old } = vacancy;
    let flow = way(bucket, number);
    let claim = old.claimed(Ctl::tag_of(hash));
    if !exchange(flow, old, claim) {
        return TAKEN;
    }
    book_previous(flow, old, now);
    let rival = rival(bucket, number, &new.key, Ctl::tag_of(hash), now);
    if rival == NO_RIVAL {
        return write(flow, claim, new);
    }
    exchange(flow, claim, claim.freed());
    if rival == BUSY { NOBODY } else { rival }
}

/// Puts a new flow in place of the live record of the same key.
#[inline(always)]
fn replace(new: &NewFlow, hash: Hashed, now: u32) -> u64 {
    // To Linux 6.1 a map's key may not be what a global function's
    // argument points to; and on the stack there is no room for it.
    let Some(record) = SCRATCH.get_ptr_mut(0) else { return NOBODY };
    // SAFETY: a live map value, this CPU's.
    let key = unsafe { &mut (*record).key };
    copy_words::<{ size_of::<FlowKey>() / 4 }>(key, &raw const new.key);
    let Some(pin) = find(key, hash, now) else { return NOBODY };
    let claim = pin.ctl.claimed(Ctl::tag_of(hash));
    if !exchange(pin.flow, pin.ctl, claim) {
        return NOBODY;
    }
    write(pin.flow, claim, new)
}

/// In place of a way's number.
const NO_WAY: usize = usize::MAX;

/// The way a new flow may take, and what it holds; [`NO_WAY`] where all hold
/// live pins. Plain numbers instead of an `Option`: the verifier loses sight
/// of what stands behind a discriminant.
#[inline(always)]
fn candidate(bucket: *mut Bucket, first: usize, now: u32) -> (usize, Ctl) {
    let mut best = (NO_WAY, Ctl::default());
    let mut best_deadline = 0;
    let mut best_closed = false;
    for i in 0..WAYS {
        let number = (first + i) & (WAYS - 1);
        let flow = way(bucket, number);
        let ctl = ctl_of(flow);
        let state = ctl.state();
        if state == FlowState::Free {
            return (number, ctl);
        }
        if state == FlowState::Claimed {
            continue;
        }
        let deadline = deadline_of(flow);
        if deadline_passed(deadline, now) {
            return (number, ctl);
        }
        let closed = state == FlowState::Closing;
        if !closed && !state.is_evictable() {
            continue;
        }
        let older = deadline_passed(deadline, best_deadline);
        if best.0 == NO_WAY || closed && !best_closed || closed == best_closed && older {
            best = (number, ctl);
            best_deadline = deadline;
            best_closed = closed;
        }
    }
    best
}

/// Answers of [`rival`] beside a packed backend and cell, which is never 0.
const NO_RIVAL: u64 = 0;

const BUSY: u64 = u64::MAX;

/// Whether another CPU is making, or made, a record of the same flow: the
/// latter as in [`canary_insert`]'s answer.
#[inline(always)]
fn rival(bucket: *mut Bucket, mine: usize, key: &FlowKey, tag: u32, now: u32) -> u64 {
    for i in 1..WAYS {
        let number = (mine + i) & (WAYS - 1);
        let flow = way(bucket, number);
        for _ in 0..RIVAL_SPINS {
            let ctl = ctl_of(flow);
            if ctl.tag() != tag || ctl.state() != FlowState::Claimed || number < mine {
                break;
            }
        }
        let ctl = ctl_of(flow);
        if ctl.tag() == tag && ctl.state() == FlowState::Claimed {
            return BUSY;
        }
        if let Some(pin) = read(flow, key, tag, now) {
            return pack(pin.backend, pin.cell);
        }
    }
    NO_RIVAL
}

#[inline(always)]
pub(super) fn pack(backend: u16, cell: u16) -> u64 {
    u64::from(cell) << 16 | u64::from(backend)
}

/// Fills a claimed way and publishes it.
#[inline(always)]
fn write(flow: *mut Flow, claim: Ctl, new: &NewFlow) -> u64 {
    fill(flow, new);
    // Fully ordered: whoever sees the state sees the record.
    exchange(flow, claim, claim.with_bits(new.state, new.flags));
    OURS | pack(new.backend, new.cell)
}

#[inline(always)]
pub(super) fn fill(flow: *mut Flow, new: &NewFlow) {
    // SAFETY: a live map value that is ours: claimed, or this CPU's scratch.
    let record = unsafe { &mut *flow };
    copy_words::<{ size_of::<FlowKey>() / 4 }>(&raw mut record.key, &raw const new.key);
    record.backend = new.backend;
    record.cell = new.cell;
    record.deadline = new.deadline;
    record.client_ifindex = new.client_ifindex;
    copy_words::<{ size_of::<FrameAddresses>() / 4 }>(
        &raw mut record.reply_frame,
        &raw const new.reply_frame,
    );
    record.client_seq = new.client_seq;
    record.backend_seq = 0;
    record.waiting_since = new.waiting_since;
}

/// Copies a record of `N` words. Left to itself the compiler has it done by a
/// call that goes byte by byte.
#[inline(always)]
pub(super) fn copy_words<const N: usize>(to: *mut impl Copy, from: *const impl Copy) {
    let (to, from) = (to.cast::<u32>(), from.cast::<u32>());
    for i in 0..N {
        // SAFETY: the caller's two records have so many words.
        unsafe { atomic::store(to.add(i), atomic::load(from.add(i))) };
    }
}
