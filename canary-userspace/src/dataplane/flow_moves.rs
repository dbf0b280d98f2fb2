//! Moving flows between tables while programs run on them: by the rules of the
//! program itself (`canary-ebpf/src/flows/`), each way by compare-and-swap.

use std::{mem::offset_of, sync::atomic::Ordering};

use canary_common::{
    Bucket, Ctl, Flow, FlowFlags, FlowKey, FlowState, HashKeys, Hashed, WAYS, deadline_passed,
};

use super::FlowTable;

/// No service has this number: nobody looks for a record under it.
const NO_SERVICE: u16 = u16::MAX;
/// Looks at a way that a CPU is about to publish: that takes nanoseconds, or
/// its virtual CPU is not running.
const CLAIM_LOOKS: usize = 1000;
/// How often a way that packets take at the same time is tried for.
const HOLD_TRIES: usize = 8;

/// A record, and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    bucket: u32,
    way: usize,
    pub(super) flow: Flow,
    pub(super) ctl: Ctl,
}

/// Whether a record only keeps its way from being taken, see
/// [`FlowTable::hold`].
pub(super) fn is_held(flow: &Flow) -> bool {
    flow.key.service == NO_SERVICE
}

/// What a record of the same flow in two tables comes to: whichever program
/// saw a flow's later moves. `None` where `kept` has it all already, or the two
/// are not the same flow.
pub(super) fn merged(kept: &Flow, kept_ctl: Ctl, other: &Flow, other_ctl: Ctl) -> Option<Ctl> {
    if !is_same(kept, kept_ctl, other, other_ctl) {
        return None;
    }
    let flags = kept_ctl.flags() | other_ctl.flags();
    let furthest = if order(other_ctl) > order(kept_ctl) { other_ctl } else { kept_ctl };
    let state = match furthest.state() {
        FlowState::Established if has_ended(flags) => FlowState::Closing,
        state => state,
    };
    let next = kept_ctl.with(state, flags);
    (next != kept_ctl).then_some(next)
}

/// Whether a TCP flow with these flags is closed.
pub(super) const fn has_ended(flags: u16) -> bool {
    const FINS: u16 = FlowFlags::FIN_CLIENT | FlowFlags::FIN_BACKEND;
    flags & FINS == FINS || flags & FlowFlags::RESET != 0
}

/// Whether two records under one key are the same flow's.
const fn is_same(kept: &Flow, kept_ctl: Ctl, other: &Flow, other_ctl: Ctl) -> bool {
    // Of one that lasts a half-open copy can be older, or the port was used again:
    // by a SYN, so that this is a younger flow.
    let is_younger = kept_ctl.state().is_evictable()
        && !other_ctl.state().is_evictable()
        && !kept_ctl.has(FlowFlags::MIDSTREAM)
        && !began_with(other, kept.client_seq);
    kept.backend == other.backend && kept.cell == other.cell && !is_younger
}

/// Whether the client of a flow that lasts began with this sequence number, a
/// moment ago: it has sent little since.
const fn began_with(flow: &Flow, initial: u32) -> bool {
    const LITTLE: u32 = 1 << 24;
    matches!(flow.client_seq.wrapping_sub(initial), 1..=LITTLE)
}

/// States as a flow goes through them.
const fn order(ctl: Ctl) -> u8 {
    match ctl.state() {
        FlowState::Free | FlowState::Claimed => 0,
        FlowState::HalfOpen | FlowState::Unanswered => 1,
        FlowState::Established | FlowState::Answered => 2,
        FlowState::Closing => 3,
    }
}

/// Of two sequence numbers the later one.
const fn later(a: u32, b: u32) -> u32 {
    if (b.wrapping_sub(a) as i32) > 0 { b } else { a }
}

impl FlowTable {
    /// Where the bucket of a key with this hash is, and the way where its look-up starts.
    fn home(&self, hash: Hashed) -> (u32, usize) {
        (Bucket::index(hash, self.buckets() - 1), Bucket::first_way(hash))
    }

    /// The live record under this key in the table; `now` in jiffies.
    pub(super) fn find(&self, key: &FlowKey, keys: &HashKeys, now: u32) -> Option<Found> {
        self.find_at(key.hash(keys), key, now)
    }

    /// The same in a table that has it by this hash.
    pub(super) fn find_at(&self, hash: Hashed, key: &FlowKey, now: u32) -> Option<Found> {
        let (bucket, first) = self.home(hash);
        let mut ways = (0..WAYS).map(|i| (first + i) % WAYS);
        ways.find_map(|way| {
            let (flow, ctl) = self.record(bucket, way)?;
            let is_it = flow.key == *key && !deadline_passed(flow.deadline, now);
            is_it.then_some(Found { bucket, way, flow, ctl })
        })
    }

    /// Makes a record of a flow that has none. `false`: its bucket is full of
    /// live ones.
    pub(super) fn place(&self, flow: &Flow, keys: &HashKeys) -> bool {
        let hash = flow.key.hash(keys);
        let ((bucket, first), tag) = (self.home(hash), Ctl::tag_of(hash));
        (0..WAYS).map(|i| (first + i) % WAYS).any(|way| {
            let there = self.ctl(bucket, way);
            let held = || self.record(bucket, way).is_some_and(|(flow, _)| is_held(&flow));
            (there.state() == FlowState::Free || held()) && self.fill(bucket, way, there, tag, flow)
        })
    }

    /// Takes every free way out of use, until [`Self::release`] or the deadline
    /// (in jiffies), so that flows born meanwhile go to the overflow map. What
    /// might make room for them, a flow that is not established or is closed,
    /// is given to `spill` and leaves its way, where that says so.
    pub(super) fn hold(
        &self,
        now: u32,
        deadline: u32,
        spill: &mut dyn FnMut(&Flow, Ctl) -> bool,
    ) -> u64 {
        let key = FlowKey { service: NO_SERVICE, ..FlowKey::default() };
        let holder = Flow {
            ctl: Ctl::default().with(FlowState::Established, 0).0,
            key,
            deadline,
            ..Flow::default()
        };
        let mut held = 0;
        for bucket in 0..self.buckets() {
            for way in 0..WAYS {
                // A packet may take it in between; then there is another flow.
                let tries = (0..HOLD_TRIES).any(|_| {
                    self.make_free(bucket, way, now, spill) && {
                        let there = self.ctl(bucket, way);
                        // The tag is nobody's: no look-up stops at it but by chance.
                        there.state() == FlowState::Free
                            && self.fill(bucket, way, there, way as u32, &holder)
                    }
                });
                held += u64::from(tries);
            }
        }
        held
    }

    /// Has a way free for [`Self::hold`]; `false` where it is to stay as it is.
    fn make_free(
        &self,
        bucket: u32,
        way: usize,
        now: u32,
        spill: &mut dyn FnMut(&Flow, Ctl) -> bool,
    ) -> bool {
        let there = self.published(bucket, way);
        let Some((flow, ctl)) = self.record(bucket, way) else {
            return there.state() == FlowState::Free;
        };
        if is_held(&flow) {
            // Of a daemon that ended in the middle: its deadline is nearer.
            return self.free(bucket, way, ctl);
        }
        if deadline_passed(flow.deadline, now) {
            let is_over = self.free(bucket, way, ctl);
            if is_over {
                self.book_end(&flow, ctl, &mut super::Swept::default());
            }
            return is_over;
        }
        let makes_room = ctl.state().is_evictable() || ctl.state() == FlowState::Closing;
        makes_room && spill(&flow, ctl) && self.free(bucket, way, ctl)
    }

    /// Gives back what [`Self::hold`] took.
    pub(super) fn release(&self) {
        self.each_record(0..self.buckets(), |bucket, way, flow, ctl| {
            if is_held(flow) {
                self.free(bucket, way, ctl);
            }
        });
    }

    /// Has closed flows keep their ways as if they were established, until
    /// [`Self::let_closed_go`]: so new flows do not take these.
    pub(super) fn keep_closed(&self) {
        self.restate(|ctl| match ctl.state() {
            FlowState::Closing => Some(FlowState::Established),
            _ => None,
        });
    }

    /// The inverse: what ended has its mark.
    pub(super) fn let_closed_go(&self) {
        self.restate(|ctl| match ctl.state() {
            FlowState::Established if has_ended(ctl.flags()) => Some(FlowState::Closing),
            _ => None,
        });
    }

    /// Gives records another state, where no packet does so meanwhile.
    fn restate(&self, to: impl Fn(Ctl) -> Option<FlowState>) {
        self.each_record(0..self.buckets(), |bucket, way, _, ctl| {
            if let Some(state) = to(ctl) {
                let offset = way * size_of::<Flow>() + offset_of!(Flow, ctl);
                let (word, next) = (self.table.word(bucket, offset), ctl.with(state, ctl.flags()));
                word.compare_exchange(ctl.0, next.0, Ordering::AcqRel, Ordering::Relaxed).ok();
            }
        });
    }

    /// A record of the overflow map into the table, where its bucket has room or
    /// has it already. `now` and how long a closed flow lingers in jiffies.
    pub(super) fn bring_home(&self, flow: &Flow, keys: &HashKeys, (now, closing): (u32, u32)) {
        if self.find(&flow.key, keys, now).is_none() && !self.place(flow, keys) {
            return;
        }
        // From here on the program finds it in the table. What a packet noted in
        // the overflow map until then goes along.
        let late = self.lock().get(&flow.key, 0);
        if let (Ok(late), Some(found)) = (late, self.find(&flow.key, keys, now)) {
            self.merge(found, &late, Ctl(late.ctl), (now, closing));
        }
        // Evicted in between: it is in the table anyhow.
        self.lock().remove(&flow.key).ok();
    }

    /// Ends a record without a word in the books: it goes on elsewhere.
    pub(super) fn leave(&self, found: &Found) -> bool {
        self.free(found.bucket, found.way, found.ctl)
    }

    /// Brings a record to where another one of the same flow is. `closing` is
    /// the time that a closed flow lingers, in jiffies. Whether it changed.
    pub(super) fn merge(
        &self,
        mut found: Found,
        other: &Flow,
        other_ctl: Ctl,
        (now, closing): (u32, u32),
    ) -> bool {
        let at = |field| found.way * size_of::<Flow>() + field;
        let was = found.ctl;
        let mut next = merged(&found.flow, found.ctl, other, other_ctl);
        let mut changed = false;
        while let Some(ctl) = next {
            let word = self.table.word(found.bucket, at(offset_of!(Flow, ctl)));
            match word.compare_exchange(found.ctl.0, ctl.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    (changed, found.ctl) = (true, ctl);
                    if ctl.state() == FlowState::Closing {
                        let deadline = at(offset_of!(Flow, deadline));
                        let deadline = self.table.half_word(found.bucket, deadline);
                        deadline.store(now.wrapping_add(closing), Ordering::Release);
                    }
                    break;
                }
                Err(there) if (there ^ found.ctl.0) & Ctl::IDENTITY != 0 => return changed,
                Err(there) => {
                    found.ctl = Ctl(there);
                    next = merged(&found.flow, found.ctl, other, other_ctl);
                }
            }
        }
        if !is_same(&found.flow, was, other, other_ctl) {
            return changed;
        }
        for (field, before, theirs) in [
            (offset_of!(Flow, client_seq), found.flow.client_seq, other.client_seq),
            (offset_of!(Flow, backend_seq), found.flow.backend_seq, other.backend_seq),
        ] {
            // A backend that has said nothing yet has none.
            let latest = if before == 0 { theirs } else { later(before, theirs) };
            if latest != before {
                // Unless a packet moved it meanwhile: that one knows better.
                let word = self.table.half_word(found.bucket, at(field));
                word.compare_exchange(before, latest, Ordering::AcqRel, Ordering::Relaxed).ok();
            }
        }
        let state = found.ctl.state();
        if state == other_ctl.state() && !matches!(state, FlowState::Closing) {
            self.move_deadline(&found, other.deadline);
        }
        changed
    }

    /// To a later end, unless a packet moved it meanwhile.
    fn move_deadline(&self, found: &Found, deadline: u32) {
        let before = found.flow.deadline;
        let offset = found.way * size_of::<Flow>() + offset_of!(Flow, deadline);
        let latest = later(before, deadline);
        if latest != before {
            let word = self.table.half_word(found.bucket, offset);
            word.compare_exchange(before, latest, Ordering::AcqRel, Ordering::Relaxed).ok();
        }
    }

    fn ctl(&self, bucket: u32, way: usize) -> Ctl {
        let offset = way * size_of::<Flow>() + offset_of!(Flow, ctl);
        Ctl(self.table.word(bucket, offset).load(Ordering::Acquire))
    }

    /// The same, after a CPU that is about to write there has done so.
    fn published(&self, bucket: u32, way: usize) -> Ctl {
        for _ in 0..CLAIM_LOOKS {
            let ctl = self.ctl(bucket, way);
            if ctl.state() != FlowState::Claimed {
                return ctl;
            }
            std::hint::spin_loop();
        }
        self.ctl(bucket, way)
    }

    /// Writes a record into a way that holds `there`: claims, fills, publishes.
    fn fill(&self, bucket: u32, way: usize, there: Ctl, tag: u32, flow: &Flow) -> bool {
        let base = way * size_of::<Flow>();
        let word = self.table.word(bucket, base + offset_of!(Flow, ctl));
        let claim = there.claimed(tag);
        if word.compare_exchange(there.0, claim.0, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        // SAFETY: the same size, and any bytes are words.
        let words = unsafe { std::mem::transmute::<Flow, [u64; 8]>(*flow) };
        for (i, value) in words.iter().enumerate().skip(1) {
            self.table.word(bucket, base + 8 * i).store(*value, Ordering::Release);
        }
        let ctl = Ctl(flow.ctl);
        word.store(claim.with(ctl.state(), ctl.flags()).0, Ordering::SeqCst);
        true
    }
}

const _: () = assert!(offset_of!(Flow, ctl) == 0, "the first word is written last");

#[cfg(test)]
mod tests {
    use super::*;

    fn ctl(state: FlowState, flags: u16) -> Ctl {
        Ctl::default().claimed(7).with(state, flags)
    }

    fn merge(kept: Ctl, other: Ctl) -> Option<(FlowState, u16)> {
        let flow = Flow::default();
        merged(&flow, kept, &flow, other).map(|ctl| (ctl.state(), ctl.flags()))
    }

    #[test]
    fn the_flow_that_went_further_counts() {
        use FlowState::{Closing, Established, HalfOpen};
        let data = FlowFlags::DATA;
        assert_eq!(merge(ctl(Established, data), ctl(Established, data)), None);
        assert_eq!(merge(ctl(Established, 0), ctl(Established, data)), Some((Established, data)));
        assert_eq!(merge(ctl(Established, 0), ctl(Closing, 0)), Some((Closing, 0)));
        assert_eq!(merge(ctl(Closing, 0), ctl(Established, 0)), None);
        let midstream = FlowFlags::MIDSTREAM;
        let taken = merge(ctl(HalfOpen, midstream), ctl(Established, 0));
        assert_eq!(taken, Some((Established, midstream)));
    }

    #[test]
    fn fins_that_two_programs_saw_close_it() {
        let (client, backend) = (FlowFlags::FIN_CLIENT, FlowFlags::FIN_BACKEND);
        let both = merge(ctl(FlowState::Established, client), ctl(FlowState::Established, backend));
        assert_eq!(both, Some((FlowState::Closing, client | backend)));
    }

    #[test]
    fn another_flow_on_the_same_port_stays_as_it_is() {
        let young = ctl(FlowState::HalfOpen, 0);
        assert_eq!(merge(young, ctl(FlowState::Established, 0)), None);
        let (here, there) = (Flow::default(), Flow { backend: 3, ..Flow::default() });
        let (kept, other) = (ctl(FlowState::Established, 0), ctl(FlowState::Closing, 0));
        assert_eq!(merged(&here, kept, &there, other), None);
    }

    #[test]
    fn a_half_open_copy_is_of_the_flow_that_began_like_it() {
        let half_open = Flow { client_seq: u32::MAX - 5, ..Flow::default() };
        let (before, answered) = (ctl(FlowState::HalfOpen, 0), FlowFlags::ANSWERED);
        for (seq, is_same) in [(1 << 20, true), (u32::MAX - 5, false), (1 << 30, false)] {
            let lasting = Flow { client_seq: seq, ..Flow::default() };
            let merged =
                merged(&half_open, before, &lasting, ctl(FlowState::Established, answered));
            assert_eq!(merged.is_some(), is_same, "{seq}");
        }
    }

    #[test]
    fn sequence_numbers_wrap() {
        assert_eq!(later(u32::MAX, 4), 4);
        assert_eq!(later(4, u32::MAX), 4);
        assert_eq!(later(7, 7), 7);
    }
}
