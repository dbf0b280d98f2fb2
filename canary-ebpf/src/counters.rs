//! Where things are counted.

use core::{mem::offset_of, ptr::addr_of_mut};

use canary_common::{
    Backend, BackendFlags, Cell, Histogram, Latencies, Reason, SharedCell, Told, told,
};

use crate::{
    atomic, guard,
    maps::{CELLS, LATENCIES, REASONS, SHARED_CELLS},
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

/// What most packets tell that tell anything: booked without a call. Neither is
/// a failure.
const OFTEN: Told = Told::NEW_FLOW.and(told!(http_2xx));

/// Books what a packet told of a flow of this backend's. Most tell nothing.
#[inline(always)]
pub fn book(backend: &Backend, number: u16, told: Told) {
    if told.has(OFTEN)
        && let Some(cell) = cell(number)
    {
        cell.connections += u64::from(told.has(Told::NEW_FLOW));
        cell.http_2xx += u64::from(told.has(told!(http_2xx)));
    }
    let told = told.without(OFTEN);
    if told.is_booked() {
        let canary = backend.flags & BackendFlags::CANARY != 0;
        let guarded = canary && told.has(Told::FAILURES) && !backend.is_steered(number);
        let guard = if guarded { u32::from(backend.service) } else { NO_GUARD };
        canary_book(u32::from(number), told.0, guard);
    }
}

/// No service has this number.
const NO_GUARD: u32 = u32::MAX;

/// A function of its own to the verifier, which walks each bit's two ways. The
/// cell first and the guard then: who reads them the other way round has every
/// event that the guard has counted.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn canary_book(cell: u32, told: u64, guarded: u32) -> u32 {
    let told = Told(told);
    if let Some(counts) = CELLS.get_ptr_mut(cell) {
        let counts = counts.cast::<u64>();
        for number in 0..Cell::NAMES.len() {
            if told.counts(number) {
                // SAFETY: a field of a live map value that no other CPU
                // touches.
                unsafe { *counts.add(number) += 1 };
            }
        }
    }
    if told.has(Told::HANDSHAKE) {
        book_wait(cell, offset_of!(Latencies, handshake), told.waited());
    }
    if told.has(Told::FIRST_BYTE) {
        book_wait(cell, offset_of!(Latencies, first_byte), told.waited());
    }
    if guarded != NO_GUARD {
        guard::count(guarded, told);
    }
    0
}

/// A wait of so many ticks is over.
#[inline(always)]
fn book_wait(cell: u32, which: usize, ticks: u32) {
    let Some(latencies) = LATENCIES.get_ptr_mut(cell) else { return };
    // SAFETY: a live map value; `which` is one of its histograms.
    let histogram = unsafe { latencies.byte_add(which) }.cast::<Histogram>();
    let bucket = atomic::unknown(Histogram::bucket(ticks));
    if bucket >= Histogram::BUCKETS {
        return;
    }
    // SAFETY: inside the histogram, by the line above.
    unsafe {
        atomic::add(addr_of_mut!((*histogram).sum), u64::from(ticks));
        let counts = addr_of_mut!((*histogram).counts).cast::<u64>();
        atomic::add(counts.add(bucket), 1);
    }
}

/// A half-open flow made room for another.
#[inline(always)]
pub fn evicted(cell: u16) {
    book_end(cell, offset_of!(SharedCell, evicted));
}

/// An established flow's time ended while its client waited.
#[inline(always)]
pub fn idle_cut(cell: u16) {
    book_end(cell, offset_of!(SharedCell, idle_cuts));
}

/// A handshake's time ended without an answer.
#[inline(always)]
pub fn handshake_timeout(cell: u16) {
    book_end(cell, offset_of!(SharedCell, handshake_timeouts));
}

#[inline(always)]
fn book_end(cell: u16, field: usize) {
    if let Some(shared) = SHARED_CELLS.get_ptr_mut(u32::from(cell)) {
        // SAFETY: a field of a live map value.
        unsafe { atomic::add(shared.byte_add(field).cast(), 1) };
    }
}
