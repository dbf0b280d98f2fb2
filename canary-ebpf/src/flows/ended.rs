//! What is booked of a flow whose record another one takes.

use canary_common::{Ctl, Flow, deadline_passed};

use super::deadline_of;
use crate::{atomic, counters};

/// Books what the way's former flow came to. The way is claimed.
#[inline(always)]
pub(super) fn book_previous(flow: *const Flow, old: Ctl, now: u32) {
    book_end(&Ended::of(flow), old, now);
}

/// What is booked of a flow that ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    cell: u16,
    waiting_since: u32,
    deadline: u32,
}

impl Ended {
    #[inline(always)]
    pub(super) fn of(flow: *const Flow) -> Self {
        // SAFETY: a live map value.
        let (cell, waiting_since) = unsafe {
            (atomic::load(&raw const (*flow).cell), atomic::load(&raw const (*flow).waiting_since))
        };
        Self { cell, waiting_since, deadline: deadline_of(flow) }
    }
}

#[inline(always)]
pub(super) fn book_end(ended: &Ended, old: Ctl, now: u32) {
    let cell = ended.cell;
    if Flow::was_cut(old, ended.waiting_since) {
        counters::idle_cut(cell);
    }
    if !old.state().is_evictable() {
        return;
    }
    if !deadline_passed(ended.deadline, now) {
        counters::evicted(cell);
    } else if Flow::was_unanswered(old) {
        counters::handshake_timeout(cell);
    }
}
