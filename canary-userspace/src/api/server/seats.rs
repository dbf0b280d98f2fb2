//! Who holds a connection. Where all are taken, a newcomer gets that of whoever
//! has waited longest without the daemon working for him: those who connect and
//! say nothing, or half of it, or do not read, keep nobody out. Pure: the time
//! is an argument.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// `H` is whom a limit is for (a user, an address), `D` what ends the
/// connection when it is dropped.
#[derive(Debug)]
pub(super) struct Seats<H, D> {
    limits: Limits,
    taken: HashMap<u64, Seat<H, D>>,
    next: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) total: usize,
    /// Of one holder.
    pub(super) each: usize,
}

/// So long everybody may keep a place and say nothing: a client whose CPU is
/// busy loses none to a flood of others.
pub(super) const GRACE: Duration = Duration::from_millis(20);

#[derive(Debug)]
struct Seat<H, D> {
    holder: H,
    /// Since when the next move is the client's; `None`: it is the daemon's.
    waits_since: Option<Instant>,
    /// An answer without an end: only its holder gives it up.
    streams: bool,
    _ends: D,
}

/// What a newcomer got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Free(u64),
    /// Somebody's who waited; that connection is over.
    Instead(u64),
    /// Nothing before then: all have just come.
    Later(Instant),
    /// Nothing: the daemon works for all who hold one.
    Full,
}

impl<H: Eq + Hash, D> Seats<H, D> {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, taken: HashMap::new(), next: 0 }
    }

    /// `ends` is dropped where there is no place.
    pub(super) fn admit(&mut self, holder: H, ends: D, now: Instant) -> Admission {
        let own = self.taken.values().filter(|seat| seat.holder == holder).count();
        let mut displaced = false;
        if own >= self.limits.each || self.taken.len() >= self.limits.total {
            let only = (own >= self.limits.each).then_some(&holder);
            let Some((since, longest)) = self.longest_waiting(only) else {
                return Admission::Full;
            };
            if now < since + GRACE {
                return Admission::Later(since + GRACE);
            }
            self.taken.remove(&longest);
            displaced = true;
        }
        let id = self.next;
        self.next += 1;
        let seat = Seat { holder, waits_since: Some(now), streams: false, _ends: ends };
        self.taken.insert(id, seat);
        if displaced { Admission::Instead(id) } else { Admission::Free(id) }
    }

    /// Of one holder, or of all.
    fn longest_waiting(&self, only: Option<&H>) -> Option<(Instant, u64)> {
        self.taken
            .iter()
            .filter(|(_, seat)| only.is_none_or(|holder| seat.holder == *holder))
            .filter_map(|(id, seat)| Some((seat.waits_since?, *id)))
            .min()
    }

    /// The next move is the client's: to ask, to send the rest, to read.
    pub(super) fn waits(&mut self, id: u64, now: Instant) {
        if let Some(seat) = self.taken.get_mut(&id) {
            seat.waits_since = Some(now);
        }
    }

    /// The next move is the daemon's.
    pub(super) fn works(&mut self, id: u64) {
        if let Some(seat) = self.taken.get_mut(&id) {
            seat.waits_since = None;
        }
    }

    /// The daemon's part is done, but for an answer without an end.
    pub(super) fn answered(&mut self, id: u64, now: Instant) {
        if let Some(seat) = self.taken.get_mut(&id) {
            seat.waits_since = (!seat.streams).then_some(now);
        }
    }

    /// All of an answer so far was taken, after a while.
    pub(super) fn sent(&mut self, id: u64, now: Instant) {
        if let Some(seat) = self.taken.get_mut(&id)
            && seat.waits_since.is_some()
        {
            seat.waits_since = (!seat.streams).then_some(now);
        }
    }

    /// An answer without an end begins, if there are fewer than `limits` of
    /// them.
    pub(super) fn streams(&mut self, id: u64, limits: Limits) -> bool {
        let Some(seat) = self.taken.get(&id) else { return false };
        let all = self.taken.values().filter(|other| other.streams);
        let (total, own) = all.fold((0, 0), |(total, own), other| {
            (total + 1, own + usize::from(other.holder == seat.holder))
        });
        if total >= limits.total || own >= limits.each {
            return false;
        }
        if let Some(seat) = self.taken.get_mut(&id) {
            seat.streams = true;
        }
        true
    }

    /// It has an end after all.
    pub(super) fn streams_no_more(&mut self, id: u64, now: Instant) {
        if let Some(seat) = self.taken.get_mut(&id) {
            seat.streams = false;
            seat.waits_since = Some(now);
        }
    }

    pub(super) fn leave(&mut self, id: u64) {
        self.taken.remove(&id);
    }

    /// Those whose next move is the daemon's.
    pub(super) fn working(&self) -> usize {
        self.taken.values().filter(|seat| seat.waits_since.is_none()).count()
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.taken.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats() -> Seats<&'static str, ()> {
        Seats::new(Limits { total: 4, each: 2 })
    }

    #[test]
    fn whoever_waited_longest_makes_room() {
        let mut seats = seats();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(seats.admit("alice", (), at(0)), Admission::Free(0));
        assert_eq!(seats.admit("alice", (), at(1)), Admission::Free(1));
        // Alice's own first one, though there is room; not before its time.
        assert_eq!(seats.admit("alice", (), at(0)), Admission::Later(at(0) + GRACE));
        assert_eq!(seats.admit("alice", (), at(2)), Admission::Instead(2));
        assert_eq!(seats.admit("bob", (), at(3)), Admission::Free(3));
        assert_eq!(seats.admit("bob", (), at(4)), Admission::Free(4));
        assert_eq!(seats.len(), 4);
        // Carol has none: anybody's.
        assert_eq!(seats.admit("carol", (), at(5)), Admission::Instead(5));
        seats.waits(3, at(6));
        seats.waits(2, at(7));
        assert_eq!(seats.admit("dave", (), at(8)), Admission::Instead(6));
        // It was number 4.
        seats.leave(4);
        assert_eq!(seats.len(), 4);
    }

    #[test]
    fn work_is_not_interrupted() {
        let mut seats = seats();
        let now = Instant::now();
        seats.admit("alice", (), now);
        seats.admit("alice", (), now);
        seats.works(0);
        seats.works(1);
        assert_eq!((seats.admit("alice", (), now), seats.working()), (Admission::Full, 2));
        assert_eq!(seats.admit("bob", (), now), Admission::Free(2));
        // One that does not read its answer.
        seats.waits(0, now);
        assert_eq!(seats.admit("alice", (), now + GRACE), Admission::Instead(3));
        seats.leave(1);
        seats.leave(1);
        assert_eq!(seats.admit("alice", (), now), Admission::Free(4));
    }

    #[test]
    fn streams_are_bounded_and_stay_while_they_are_read() {
        let mut seats = seats();
        let now = Instant::now();
        let limits = Limits { total: 2, each: 1 };
        for holder in ["alice", "alice", "bob", "carol"] {
            seats.admit(holder, (), now);
        }
        assert!(seats.streams(0, limits) && !seats.streams(1, limits));
        assert!(seats.streams(2, limits) && !seats.streams(3, limits));
        seats.works(0);
        seats.sent(0, now);
        seats.leave(1);
        seats.works(3);
        seats.works(2);
        assert_eq!(seats.admit("alice", (), now), Admission::Free(4));
        seats.works(4);
        assert_eq!(seats.admit("dave", (), now), Admission::Full);
        // Whoever does not read a stream waits as others do.
        seats.waits(0, now);
        assert_eq!(seats.admit("dave", (), now + GRACE), Admission::Instead(5));
        assert!(seats.streams(3, limits), "alice's ended");
        // One that ended by itself; its connection is as any other's.
        seats.streams_no_more(3, now);
        assert_eq!(seats.admit("erin", (), now + GRACE), Admission::Instead(6));
        // A displaced one's last words change nothing.
        seats.sent(0, now);
        assert!(!seats.streams(0, limits));
    }
}
