//! What those who follow flows are told. Nothing, and next to no work, while
//! nobody does.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use canary_common::{FlowEvent, FlowKey, Told};

use crate::{
    atomic,
    maps::{EVENTS, SETTINGS, hash_keys},
};

/// Tells of a flow's beginning and end, and of the times between.
#[inline(always)]
pub fn tell(key: &FlowKey, backend: u16, told: Told) {
    if told.has(Told::EVENTS) && one_in() != 0 {
        canary_tell(key, u32::from(backend), told.0);
    }
}

/// One flow in so many is followed; 0: none is.
#[inline(always)]
fn one_in() -> u32 {
    // SAFETY: a live map value.
    SETTINGS.get_ptr(0).map_or(0, |settings| unsafe { atomic::load(&raw const (*settings).follow) })
}

/// A function of its own to the verifier. `key` is never null.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn canary_tell(key: *const FlowKey, backend: u32, told: u64) -> u32 {
    if key.is_null() {
        return 0;
    }
    // SAFETY: not null, and the caller's reference otherwise.
    let key = unsafe { *key };
    if !key.is_followed(hash_keys(), one_in()) {
        return 0;
    }
    // SAFETY: no arguments, no preconditions.
    let at = unsafe { bpf_ktime_get_ns() };
    let event = FlowEvent { at, told, key, backend: backend as u16, reserved: 0 };
    match EVENTS.reserve::<FlowEvent>(0) {
        Some(mut entry) => {
            entry.write(event);
            entry.submit(0);
        }
        None => dropped(),
    }
    0
}

/// The ring had no room.
#[inline(always)]
fn dropped() {
    if let Some(settings) = SETTINGS.get_ptr_mut(0) {
        // SAFETY: a live map value.
        unsafe { atomic::add(&raw mut (*settings).events_dropped, 1) };
    }
}
