//! Every map, once: what for, who writes, who reads, how large. Sizes marked
//! "set at load" follow the configuration.

use aya_ebpf::{
    bindings::{BPF_F_INNER_MAP, BPF_F_MMAPABLE},
    btf_maps,
    macros::{btf_map, map},
    maps::{Array, LpmTrie, LruHashMap, PerCpuArray, RingBuf, xdp::DevMapHash},
};
use canary_common::{
    Bucket, Cell, Fault, Flow, FlowKey, Guard, HashKeys, Latencies, MAX_CELLS, MAX_SERVICES,
    MAX_STEERED, MAX_TABLES, OverflowMarks, Reason, Register, Settings, SharedCell, Steer,
    TABLE_WORD,
};

use crate::{
    atomic,
    fragments::{FragmentKey, NotedWay},
};

/// What changes at run time and concerns every packet. Written by the daemon
/// through a mapping; `overflowed` is set by the program.
#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Services, backends, and the directory of their addresses.
#[map]
pub static REGISTER: Array<Register> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Maglev tables by number; 0 stays empty. The daemon puts each in place
/// whole. Inner maps differ in size (`BPF_F_INNER_MAP`, Linux 5.10).
#[btf_map]
pub static TABLES: btf_maps::ArrayOfMaps<
    btf_maps::Array<[u16; TABLE_WORD], 1, { (BPF_F_INNER_MAP | BPF_F_MMAPABLE) as usize }>,
    { MAX_TABLES as usize },
> = btf_maps::ArrayOfMaps::new();

/// Guards by service. Read for new flows that the split gives to the canary,
/// and where something bad happens there. Orders are written by the daemon,
/// counts by the program, both atomically.
#[map]
pub static GUARDS: Array<Guard> = Array::with_max_entries(MAX_SERVICES, BPF_F_MMAPABLE);

/// Drills by service. Read for new flows of the canary's, and for packets of
/// those that were drawn to fail. Written by the daemon but for the count.
#[map]
pub static FAULTS: Array<Fault> = Array::with_max_entries(MAX_SERVICES, BPF_F_MMAPABLE);

/// Clients with a track of their own, by service and network (a
/// [`canary_common::SteerKey`], longest prefix first), each family its own. Written by the daemon; read for
/// new flows of services that have [`canary_common::ServiceFlags::STEERED`].
#[map]
pub static STEER_V4: LpmTrie<[u16; 3], Steer> = LpmTrie::with_max_entries(MAX_STEERED, 0);
#[map]
pub static STEER_V6: LpmTrie<[u16; 9], Steer> = LpmTrie::with_max_entries(MAX_STEERED, 0);

/// The flow table. Written by the program, and by the daemon's sweep, both by
/// compare-and-swap. Size set at load: a power of two of buckets.
#[map]
pub static FLOWS: Array<Bucket> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Flows whose bucket was full of live pins. Size set at load.
#[map]
pub static OVERFLOW: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(1024, 0);

/// Which flows may stand there.
#[map]
pub static OVERFLOWED: Array<OverflowMarks> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Of flows that went to the overflow map one for each place, by a part of
/// their hash: the last. Who comes to the same place ends the one before, where
/// that is not established. So those can never be more than half of the map,
/// and never push an established flow out of it. Size set at load.
#[map]
pub static YOUNG: Array<FlowKey> = Array::with_max_entries(512, 0);

/// Where an overflow record is put together: it is too large for the stack.
#[map]
pub static SCRATCH: PerCpuArray<Flow> = PerCpuArray::with_max_entries(1, 0);

/// Counters by cell. Written by the program, zeroed by the daemon before use.
#[map]
pub static CELLS: PerCpuArray<Cell> = PerCpuArray::with_max_entries(MAX_CELLS, 0);

/// Counters by cell that the daemon's sweep adds to as well.
#[map]
pub static SHARED_CELLS: Array<SharedCell> = Array::with_max_entries(MAX_CELLS, BPF_F_MMAPABLE);

/// Times by cell. Added to by the program, atomically; one for all CPUs, for
/// a cell's two histograms are large and no backend answers so often that its
/// line is fought for.
#[map]
pub static LATENCIES: Array<Latencies> = Array::with_max_entries(MAX_CELLS, BPF_F_MMAPABLE);

/// What is told to those who follow flows: [`FlowEvent`]s, read by the daemon.
/// Nothing is written while nobody follows. Not pinned: it ends with those
/// who read it.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);

/// Some five thousand events: a burst between two looks of the daemon.
const EVENTS_BYTES: u32 = 256 << 10;

/// Where packets in fragments go, by addresses, number and protocol. Written
/// by the program for each first fragment; a later one without an entry goes
/// to the host.
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, NotedWay> =
    LruHashMap::with_max_entries(MAX_FRAGMENTED, 0);

/// Packets in fragments at once: at 10 ms between a packet's fragments, 1.6
/// million such packets a second.
const MAX_FRAGMENTED: u32 = 16_384;

/// Packets by [`Reason`].
#[map]
pub static REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::COUNT, 0);

/// Interfaces that packets may leave by, keyed by interface number. Written
/// by the daemon.
#[map]
pub static INTERFACES: DevMapHash = DevMapHash::with_max_entries(1024, 0);

/// Load-time constants: the verifier sees their values and drops what they
/// switch off.
#[unsafe(no_mangle)]
static FLOW_BUCKET_MASK: u32 = 0;
#[unsafe(no_mangle)]
static YOUNG_MASK: u32 = 0;
#[unsafe(no_mangle)]
static JIFFIES_PER_SECOND: u32 = 250;
#[unsafe(no_mangle)]
static HASH_KEYS: HashKeys = HashKeys { words: [0; 6], reserved: [0; 2] };
#[unsafe(no_mangle)]
static LOG: u32 = 0;
#[unsafe(no_mangle)]
static SIGNALS: u32 = 0;

macro_rules! constant {
    ($name:ident, $from:ident, $type:ty, $doc:literal) => {
        #[doc = $doc]
        #[inline(always)]
        pub fn $name() -> $type {
            // SAFETY: a static is live and aligned; volatile, for the loader
            // replaces the value that the compiler sees.
            unsafe { atomic::load(&raw const $from) }
        }
    };
}

constant!(flow_bucket_mask, FLOW_BUCKET_MASK, u32, "Buckets of the flow table, less one.");
constant!(young_mask, YOUNG_MASK, u32, "Places of [`YOUNG`], less one.");
constant!(jiffies_per_second, JIFFIES_PER_SECOND, u32, "The kernel's HZ.");
constant!(signals, SIGNALS, u32, "The kinds of [`canary_common::Signals`] that are read at all.");
constant!(log_enabled, LOG, u32, "Whether rare events are logged.");

/// Secret keys of flow table and directory. By reference, and one the compiler
/// cannot see through: the loader replaces the value, and a copy would take
/// stack that the path has better use for.
#[inline(always)]
pub fn hash_keys() -> &'static HashKeys {
    #[allow(unused_mut, reason = "only the BPF target changes it")]
    let mut keys: *const HashKeys = &raw const HASH_KEYS;
    #[cfg(target_arch = "bpf")]
    // SAFETY: no instruction at all; the pointer stays what it was.
    unsafe {
        core::arch::asm!("/* {keys} */", keys = inout(reg) keys, options(pure, nomem, nostack));
    }
    // SAFETY: a static is live and aligned, and nobody writes it.
    unsafe { &*keys }
}
