//! The guard: what the program does by itself between two looks of the daemon.
//! It counts the canary's bad events, and keeps new flows from the canary
//! where these are more than the budget allows, or the daemon is silent.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use canary_common::{Guard, Told};

use crate::{atomic, flows, maps::GUARDS};

/// Whether a service's guard keeps new flows from the canary.
#[inline(always)]
pub fn stops(service: u16) -> bool {
    let Some(guard) = GUARDS.get_ptr(u32::from(service)) else { return false };
    // SAFETY: fields of a live map value, each read whole.
    let (armed, bad, limit, deadline) = unsafe {
        (
            atomic::load(&raw const (*guard).armed),
            atomic::load(&raw const (*guard).bad),
            atomic::load(&raw const (*guard).limit),
            atomic::load(&raw const (*guard).deadline),
        )
    };
    Guard::stops(armed, bad, limit, deadline, flows::jiffies())
}

/// A new flow of the canary's went to stable.
#[inline(always)]
pub fn diverted(service: u16) {
    if let Some(guard) = GUARDS.get_ptr_mut(u32::from(service)) {
        // SAFETY: a field of a live map value.
        unsafe { atomic::add(&raw mut (*guard).diverted, 1) };
    }
}

/// Counts what a packet told of a flow of the canary's, if the guard is to
/// count it. To be called when the cell has it.
#[inline(always)]
pub fn count(service: u32, told: Told) {
    let Some(guard) = GUARDS.get_ptr_mut(service) else { return };
    // SAFETY: fields of a live map value, each read whole.
    let (armed, counts) = unsafe {
        (atomic::load(&raw const (*guard).armed), atomic::load(&raw const (*guard).counts))
    };
    if armed == 0 || told.0 & Told::FAILURES.0 & counts == 0 {
        return;
    }
    // SAFETY: fields of a live map value. The limit after the addition: a
    // daemon that raises it meanwhile has seen fewer events than there are.
    let (before, limit) = unsafe {
        let before = atomic::fetch_add(&raw mut (*guard).bad, 1);
        (before, atomic::load(&raw const (*guard).limit))
    };
    if before.wrapping_add(1) == limit {
        // SAFETY: no arguments, no preconditions.
        let now = unsafe { bpf_ktime_get_ns() };
        // SAFETY: a field of a live map value.
        unsafe { atomic::store(&raw mut (*guard).spent_at, now) };
    }
}
