//! The flow table. A bucket is four ways of one cache line; a way is taken,
//! changed and given back by compare-and-swap on its [`Ctl`] word. Flows whose
//! bucket is full of live pins stand in the overflow map, in the same form.
//!
//! Two CPUs that see a flow's first packet at once must not make two records.
//! A claim shows the key's tag, is fully ordered, and each looks for the other
//! after its own claim: at least one sees the other's. The higher way gives
//! up; the lower waits until the higher has given up or published, and gives
//! up in the second case.

mod ended;
mod insert;
mod overflow;
mod pin;

use aya_ebpf::helpers::generated::bpf_jiffies64;
use canary_common::{Bucket, Ctl, Flow, FlowKey, FlowState, Hashed, WAYS, deadline_passed};

pub use insert::{Inserted, NewFlow, Vacancy, insert, take, vacancy};
pub use pin::{Pin, WayBack};

use crate::{
    atomic,
    maps::{FLOWS, OVERFLOW, flow_bucket_mask},
};
use overflow::may_have_overflowed;

/// The kernel's tick counter.
#[inline(always)]
pub fn jiffies() -> u64 {
    // SAFETY: no arguments, no preconditions.
    unsafe { bpf_jiffies64() }
}

/// Its low 32 bits.
#[inline(always)]
pub fn now() -> u32 {
    jiffies() as u32
}

/// The live record of a flow.
#[inline(always)]
pub fn find(key: &FlowKey, hash: Hashed, now: u32) -> Option<Pin> {
    let bucket = FLOWS.get_ptr_mut(Bucket::index(hash, flow_bucket_mask()))?;
    let first = Bucket::first_way(hash);
    for i in 0..WAYS {
        let flow = way(bucket, first + i);
        if let Some(pin) = read(flow, key, Ctl::tag_of(hash), now) {
            return Some(pin);
        }
    }
    if !may_have_overflowed(hash) {
        return None;
    }
    read(OVERFLOW.get_ptr_mut(key)?, key, Ctl::tag_of(hash), now)
}

/// The live record of a flow in one of these states, whose numbers follow each
/// other, where its tag stands in one way.
#[inline(always)]
pub fn find_in(
    states: (FlowState, FlowState),
    key: &FlowKey,
    hash: Hashed,
    now: u32,
) -> Option<Pin> {
    const STATE: u64 = 0xff;
    const TAG: u64 = 0xffff_ff00_0000_0000;
    let bucket = FLOWS.get_ptr_mut(Bucket::index(hash, flow_bucket_mask()))?;
    let first = Bucket::first_way(hash);
    let first_wanted = hash.0 & TAG | states.0 as u64;
    let others = states.1 as u64 - states.0 as u64;
    let is_wanted = |ctl: Ctl| (ctl.0 & (TAG | STATE)).wrapping_sub(first_wanted) <= others;
    let mut found = first;
    for i in 0..WAYS {
        found = first + i;
        if is_wanted(ctl_of(way(bucket, found))) {
            break;
        }
    }
    // One record is read, wherever it stands: the verifier would walk what
    // follows once for each.
    let flow = way(bucket, atomic::unknown(found));
    let ctl = ctl_of(flow);
    if !is_wanted(ctl) {
        return None;
    }
    read_as(flow, ctl, key, now)
}

#[inline(always)]
fn way(bucket: *mut Bucket, number: usize) -> *mut Flow {
    // SAFETY: masked to the bucket's ways.
    unsafe { bucket.cast::<Flow>().add(number & (WAYS - 1)) }
}

#[inline(always)]
fn ctl_of(flow: *const Flow) -> Ctl {
    // SAFETY: a live map value.
    Ctl(unsafe { atomic::load(&raw const (*flow).ctl) })
}

#[inline(always)]
fn exchange(flow: *mut Flow, old: Ctl, new: Ctl) -> bool {
    // SAFETY: a live map value; `ctl` is its first, aligned word.
    unsafe { atomic::compare_exchange(&raw mut (*flow).ctl, old.0, new.0) == old.0 }
}

#[inline(always)]
fn deadline_of(flow: *const Flow) -> u32 {
    // SAFETY: a live map value.
    unsafe { atomic::load(&raw const (*flow).deadline) }
}

/// The record in this way, where it is this key's and alive.
#[inline(always)]
fn read(flow: *mut Flow, key: &FlowKey, tag: u32, now: u32) -> Option<Pin> {
    let ctl = ctl_of(flow);
    if ctl.tag() != tag || matches!(ctl.state(), FlowState::Free | FlowState::Claimed) {
        return None;
    }
    read_as(flow, ctl, key, now)
}

/// The same, for whoever has looked at `ctl`.
#[inline(always)]
fn read_as(flow: *mut Flow, ctl: Ctl, key: &FlowKey, now: u32) -> Option<Pin> {
    // SAFETY: a live map value; another CPU may be writing it, which the
    // second look at `ctl` finds out. Volatile, each of them: a plain read may
    // be moved behind that look by the compiler, and then it proves nothing.
    let (client, rest, backend, cell) = unsafe {
        (
            atomic::load((&raw const (*flow).key.client).cast::<[u64; 2]>()),
            atomic::load((&raw const (*flow).key.client_port_be).cast::<u32>()),
            atomic::load(&raw const (*flow).backend),
            atomic::load(&raw const (*flow).cell),
        )
    };
    let wide = key.client.wide();
    let same = (client[0] ^ wide[0]) | (client[1] ^ wide[1]) == 0 && rest == key.rest();
    if !same || deadline_passed(deadline_of(flow), now) {
        return None;
    }
    let pin = Pin { flow, ctl, backend, cell };
    ((ctl_of(flow).0 ^ ctl.0) & Ctl::IDENTITY == 0).then_some(pin)
}
