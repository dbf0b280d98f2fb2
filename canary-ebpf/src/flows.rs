//! The flow table. A bucket is four ways of one cache line; a way is taken,
//! changed and given back by compare-and-swap on its [`Ctl`] word. Flows whose
//! bucket is full of live pins stand in the overflow map, in the same form.
//!
//! Two CPUs that see a flow's first packet at once must not make two records.
//! A claim shows the key's tag, is fully ordered, and each looks for the other
//! after its own claim: at least one sees the other's. The higher way gives
//! up; the lower waits until the higher has given up or published, and gives
//! up in the second case.

use core::mem::offset_of;

use aya_ebpf::{bindings::BPF_ANY, helpers::generated::bpf_jiffies64};
use canary_common::{
    Bucket, Ctl, Flow, FlowKey, FlowState, FrameAddresses, Hashed, OverflowMarks, WAYS,
    deadline_passed,
};
use network_types::eth::EthHdr;

use crate::{
    atomic, counters,
    maps::{
        FLOWS, OVERFLOW, OVERFLOWED, SCRATCH, SETTINGS, YOUNG, flow_bucket_mask,
        jiffies_per_second, young_mask,
    },
    packet::Header,
    parse::Parsed,
    tcp::Tracked,
};

/// How often a new flow tries to claim before it goes on without a pin.
const CLAIM_TRIES: usize = 3;
/// Reads of another CPU's claim before giving up: it publishes within tens of
/// nanoseconds, or its virtual CPU is not running.
const RIVAL_SPINS: usize = 32;

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

/// A live record, and what of it every packet needs, read consistently.
#[derive(Clone, Copy, Debug)]
pub struct Pin {
    flow: *mut Flow,
    ctl: Ctl,
    pub backend: u16,
    pub cell: u16,
}

/// Where the client's packets come from.
#[derive(Clone, Copy, Debug)]
pub struct WayBack {
    pub ifindex: u32,
    pub frame: FrameAddresses,
}

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

/// The live record of an established flow, where its tag stands in one way.
#[inline(always)]
pub fn established(key: &FlowKey, hash: Hashed, now: u32) -> Option<Pin> {
    const STATE: u64 = 0xff;
    const TAG: u64 = 0xffff_ff00_0000_0000;
    let bucket = FLOWS.get_ptr_mut(Bucket::index(hash, flow_bucket_mask()))?;
    let first = Bucket::first_way(hash);
    let wanted = hash.0 & TAG | FlowState::Established as u64;
    let mut found = first;
    for i in 0..WAYS {
        found = first + i;
        if ctl_of(way(bucket, found)).0 & (TAG | STATE) == wanted {
            break;
        }
    }
    // One record is read, wherever it stands: the verifier would walk what
    // follows once for each.
    let flow = way(bucket, atomic::unknown(found));
    let ctl = ctl_of(flow);
    if ctl.0 & (TAG | STATE) != wanted {
        return None;
    }
    read_as(flow, ctl, key, now)
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
const OURS: u64 = 1 << 32;
/// No record could be made.
const NOBODY: u64 = 0;
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

impl Pin {
    #[inline(always)]
    pub fn state(&self) -> FlowState {
        self.ctl.state()
    }

    /// [`canary_common::FlowFlags`].
    #[inline(always)]
    pub fn flags(&self) -> u16 {
        self.ctl.flags()
    }

    #[inline(always)]
    pub fn tracked(&self) -> Tracked {
        let (client_seq, backend_seq) = self.seqs();
        Tracked {
            state: self.ctl.state(),
            flags: self.ctl.flags(),
            client_seq,
            backend_seq,
            waiting_since: self.waiting_since(),
            reserved: 0,
        }
    }

    #[inline(always)]
    fn seqs(&self) -> (u32, u32) {
        // SAFETY: a live map value.
        let client = unsafe { atomic::load(&raw const (*self.flow).client_seq) };
        // SAFETY: as above.
        (client, unsafe { atomic::load(&raw const (*self.flow).backend_seq) })
    }

    #[inline(always)]
    fn waiting_since(&self) -> u32 {
        // SAFETY: a live map value.
        unsafe { atomic::load(&raw const (*self.flow).waiting_since) }
    }

    /// Writes what a packet changed of the record as [`Pin::tracked`] gave it.
    /// `false`: another CPU changed the state at the same time; read it again
    /// with [`Pin::again`].
    #[inline(always)]
    pub fn commit(&mut self, before: &Tracked, next: &Tracked) -> bool {
        let ctl = self.ctl.with(next.state, next.flags);
        if ctl != self.ctl {
            if !exchange(self.flow, self.ctl, ctl) {
                return false;
            }
            self.ctl = ctl;
        }
        if next.client_seq != before.client_seq {
            // SAFETY: a live map value.
            unsafe { atomic::store(&raw mut (*self.flow).client_seq, next.client_seq) };
        }
        if next.backend_seq != before.backend_seq {
            // SAFETY: a live map value.
            unsafe { atomic::store(&raw mut (*self.flow).backend_seq, next.backend_seq) };
        }
        if next.waiting_since != before.waiting_since {
            // SAFETY: a live map value.
            unsafe { atomic::store(&raw mut (*self.flow).waiting_since, next.waiting_since) };
        }
        true
    }

    /// Reads the state again; `false` where the record is another flow's now.
    #[inline(always)]
    pub fn again(&mut self) -> bool {
        let ctl = ctl_of(self.flow);
        let same = (ctl.0 ^ self.ctl.0) & Ctl::IDENTITY == 0;
        if same {
            self.ctl = ctl;
        }
        same
    }

    /// Moves the end of the flow's time to `timeout` jiffies from now, once a
    /// second at most: the two directions may be on two CPUs, and the line
    /// need not go to and fro for less.
    #[inline(always)]
    pub fn extend(&self, timeout: u32, now: u32) {
        let deadline = now.wrapping_add(timeout);
        if deadline.wrapping_sub(deadline_of(self.flow)).wrapping_add(1) > jiffies_per_second() {
            // SAFETY: a live map value.
            unsafe { atomic::store(&raw mut (*self.flow).deadline, deadline) };
        }
    }

    /// Whether the client's packets still come from where replies go.
    #[inline(always)]
    pub fn comes_by(&self, frame: &Header<{ EthHdr::LEN }>, ingress: u32) -> bool {
        const SOURCE: usize = offset_of!(EthHdr, src_addr);
        // SAFETY: a live map value.
        let (ifindex, words) = unsafe {
            let words = &raw const (*self.flow).reply_frame.words;
            let ends = [atomic::load(&raw const (*words)[0]), atomic::load(&raw const (*words)[1])];
            (atomic::load(&raw const (*self.flow).client_ifindex), ends)
        };
        ifindex == ingress
            && words[0] == frame.get::<u32, SOURCE>()
            && words[1] as u16 == frame.get::<u16, { SOURCE + size_of::<u32>() }>()
    }

    /// Has replies go where this packet of the client's came from, should that
    /// be another neighbour or interface than before: routers fail over. Only of
    /// flows that make no room for others, so that nobody else has the record by
    /// now; that it was still this flow's when the two were compared is looked at
    /// afterwards. A reply that is on its way meanwhile may meet half of it, and
    /// is sent again.
    #[inline(always)]
    pub fn follow_client(&self, parsed: &Parsed, ingress: u32) {
        if !matches!(self.state(), FlowState::Established | FlowState::Answered)
            || self.comes_by(&parsed.ethernet, ingress)
            || (ctl_of(self.flow).0 ^ self.ctl.0) & Ctl::IDENTITY != 0
        {
            return;
        }
        let frame = parsed.reply_frame();
        // SAFETY: a live map value.
        unsafe {
            atomic::store(&raw mut (*self.flow).client_ifindex, ingress);
            let words = &raw mut (*self.flow).reply_frame.words;
            for (i, word) in frame.words.into_iter().enumerate() {
                atomic::store(words.cast::<u32>().add(i), word);
            }
        }
    }

    /// `None` where the record became another flow's while reading.
    #[inline(always)]
    pub fn way_back(&self) -> Option<WayBack> {
        let flow = self.flow;
        // SAFETY: a live map value; read word by word, in this order, and
        // confirmed below. See `read` for why volatile.
        let way_back = unsafe {
            let words = &raw const (*flow).reply_frame.words;
            WayBack {
                ifindex: atomic::load(&raw const (*flow).client_ifindex),
                frame: FrameAddresses {
                    words: [
                        atomic::load(&raw const (*words)[0]),
                        atomic::load(&raw const (*words)[1]),
                        atomic::load(&raw const (*words)[2]),
                    ],
                },
            }
        };
        ((ctl_of(flow).0 ^ self.ctl.0) & Ctl::IDENTITY == 0).then_some(way_back)
    }
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

/// Books what the way's former flow came to. The way is claimed.
#[inline(always)]
fn book_previous(flow: *const Flow, old: Ctl, now: u32) {
    book_end(&Ended::of(flow), old, now);
}

/// What is booked of a flow that ends.
#[derive(Clone, Copy, Debug)]
struct Ended {
    cell: u16,
    waiting_since: u32,
    deadline: u32,
}

impl Ended {
    #[inline(always)]
    fn of(flow: *const Flow) -> Self {
        // SAFETY: a live map value.
        let (cell, waiting_since) = unsafe {
            (atomic::load(&raw const (*flow).cell), atomic::load(&raw const (*flow).waiting_since))
        };
        Self { cell, waiting_since, deadline: deadline_of(flow) }
    }
}

#[inline(always)]
fn book_end(ended: &Ended, old: Ctl, now: u32) {
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
fn pack(backend: u16, cell: u16) -> u64 {
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
fn fill(flow: *mut Flow, new: &NewFlow) {
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
fn copy_words<const N: usize>(to: *mut impl Copy, from: *const impl Copy) {
    let (to, from) = (to.cast::<u32>(), from.cast::<u32>());
    for i in 0..N {
        // SAFETY: the caller's two records have so many words.
        unsafe { atomic::store(to.add(i), atomic::load(from.add(i))) };
    }
}

/// The bucket is full of live pins.
#[inline(always)]
fn overflow(hash: Hashed, new: &NewFlow) -> u64 {
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
fn may_have_overflowed(hash: Hashed) -> bool {
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
