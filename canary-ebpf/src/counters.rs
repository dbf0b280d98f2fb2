//! Where things are counted.

use canary_common::{Cell, Reason};

use crate::{
    atomic,
    maps::{CELLS, REASONS, SHARED_CELLS},
};

/// This CPU's counters of a cell.
#[inline(always)]
pub fn cell(number: u16) -> Option<&'static mut Cell> {
    // SAFETY: a live map value that no other CPU touches; this program is not
    // interrupted by itself, and makes no second reference while it has one.
    CELLS.get_ptr_mut(u32::from(number)).map(|cell| unsafe { &mut *cell })
}

#[inline(always)]
pub fn reason(reason: Reason) {
    if let Some(count) = REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: a live map value that no other CPU touches.
        unsafe { *count += 1 };
    }
}

/// A half-open flow made room for another.
#[inline(always)]
pub fn evicted(cell: u16) {
    if let Some(shared) = SHARED_CELLS.get_ptr_mut(u32::from(cell)) {
        // SAFETY: a live map value.
        unsafe { atomic::add(&raw mut (*shared).evicted, 1) };
    }
}

/// A handshake's time ended without an answer.
#[inline(always)]
pub fn handshake_timeout(cell: u16) {
    if let Some(shared) = SHARED_CELLS.get_ptr_mut(u32::from(cell)) {
        // SAFETY: a live map value.
        unsafe { atomic::add(&raw mut (*shared).handshake_timeouts, 1) };
    }
}
