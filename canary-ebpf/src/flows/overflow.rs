//! Flows whose bucket is full of live pins.

use aya_ebpf::bindings::BPF_ANY;
use canary_common::{Ctl, FlowKey, FlowState, Hashed, OverflowMarks};

use super::{
    ctl_of,
    ended::{Ended, book_end},
    insert::{NOBODY, NewFlow, OURS, copy_words, fill, pack},
    now,
};
use crate::{
    atomic,
    maps::{OVERFLOW, OVERFLOWED, SCRATCH, SETTINGS, YOUNG, young_mask},
};

/// The bucket is full of live pins.
#[inline(always)]
pub(super) fn overflow(hash: Hashed, new: &NewFlow) -> u64 {
    let Some(record) = SCRATCH.get_ptr_mut(0) else { return NOBODY };
    fill(record, new);
    make_room(hash, new);
    // SAFETY: a live map value, this CPU's.
    let flow = unsafe { &mut *record };
    flow.ctl = Ctl::default().claimed(Ctl::tag_of(hash)).with_bits(new.state, new.flags).0;
    // Whatever stands under the key is dead: `find` would have had it. The key
    // is the record's: see `replace`.
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "by value the record would go over the stack, which it is too large for"
    )]
    let full = OVERFLOW.insert(&flow.key, &*flow, u64::from(BPF_ANY)).is_err();
    if full {
        return NOBODY;
    }
    // After the insert: the daemon looks for records after it cleared a half.
    if let Some(marks) = OVERFLOWED.get_ptr_mut(0) {
        for half in 0..2 {
            // SAFETY: a word of a live map value.
            unsafe { atomic::or(mark_of(marks, half, hash), OverflowMarks::bit(hash)) };
        }
    }
    if let Some(settings) = SETTINGS.get_ptr_mut(0) {
        // SAFETY: a live map value.
        unsafe { atomic::store(&raw mut (*settings).overflowed, 1) };
    }
    OURS | pack(new.backend, new.cell)
}

/// Takes a new flow's place in [`YOUNG`]; the one before it there goes, where it
/// is not established. The kernel's own order is no help: whatever a flood's
/// packets were answered with makes its flows as recent as others'.
#[inline(always)]
fn make_room(hash: Hashed, new: &NewFlow) {
    let Some(place) = YOUNG.get_ptr_mut(Ctl::tag_of(hash) & young_mask()) else { return };
    // SAFETY: a live map value. Another CPU may be writing it: then it is the
    // key of no flow, or of one that is looked at below like any other.
    let former = unsafe { &*place };
    if let Some(flow) = OVERFLOW.get_ptr_mut(former) {
        let (old, ended) = (ctl_of(flow), Ended::of(flow));
        let young = old.state() == FlowState::Closing || old.state().is_evictable();
        // Whoever removes it books it.
        if young && OVERFLOW.remove(former).is_ok() {
            book_end(&ended, old, now());
        }
    }
    copy_words::<{ size_of::<FlowKey>() / 4 }>(place, &raw const new.key);
}

/// Whether the flow may stand in the overflow map: most do not, and need no
/// look-up there.
#[inline(always)]
pub(super) fn may_have_overflowed(hash: Hashed) -> bool {
    let Some(marks) = OVERFLOWED.get_ptr_mut(0) else { return true };
    // SAFETY: a live map value.
    let half = unsafe { atomic::load(&raw const (*marks).half) } & 1;
    // SAFETY: a word of a live map value.
    let word = unsafe { atomic::load(mark_of(marks, half as usize, hash)) };
    word & OverflowMarks::bit(hash) != 0
}

/// The word with a flow's bit. `half` is 0 or 1.
#[inline(always)]
fn mark_of(marks: *mut OverflowMarks, half: usize, hash: Hashed) -> *mut u64 {
    let number = half * OverflowMarks::WORDS + OverflowMarks::word(hash);
    // SAFETY: inside the two halves: both parts are masked.
    unsafe { (&raw mut (*marks).words).cast::<u64>().add(number) }
}
