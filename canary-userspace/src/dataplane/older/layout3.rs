//! Layout 3, as far as it differs. The records of flows, services, backends and
//! of the directory are those of today. What is another: the hash of a flow's
//! key, and with it bucket, first way and tag; the directory's hash; services,
//! backends and directory were four maps, which are one value now, and which
//! half of the directory is in force stood in the settings. Nothing told which
//! flows may be in the overflow map, and nothing kept half of it for established
//! ones: the maps `OVERFLOWED` and `YOUNG` are new.

use canary_common::{
    Ctl, DIRECTORY_SLOTS, DirectoryEntry, DirectoryKey, EntryKind, Flow, FlowKey, HashKeys, Hashed,
    Ticks,
};

pub(super) const ABI: u32 = 3;
/// Maps whose place is in `REGISTER` now.
pub(super) const SERVICES: &str = "SERVICES";
pub(super) const BACKENDS: &str = "BACKENDS";
pub(super) const DIRECTORY: &str = "DIRECTORY";
/// The last one is not read: the directory is built anew.
pub(super) const GONE: [&str; 4] = [SERVICES, BACKENDS, DIRECTORY, "DISPLACEMENTS"];

/// Where its table had a flow.
pub(super) const fn hash(key: &FlowKey, keys: &HashKeys) -> Hashed {
    keys.hash(&key.client, (key.client_port_be as u32) << 16 | key.service as u32)
}

/// The record as today's program has it. `ctl` is the word that decides, read
/// with the rest of it.
pub(super) const fn to_current(flow: &Flow, ctl: Ctl, keys: &HashKeys) -> Flow {
    let mut flow = *flow;
    flow.ctl = retagged(ctl, flow.key.hash(keys)).0;
    // A time to it; to this one, that there is none.
    if flow.waiting_since == Ticks::UNTIMED {
        flow.waiting_since = Ticks::UNTIMED + 1;
    }
    flow
}

/// The other way, for a program of that layout that still runs.
pub(super) const fn from_current(flow: &Flow, keys: &HashKeys) -> Flow {
    let mut flow = *flow;
    flow.ctl = retagged(Ctl(flow.ctl), hash(&flow.key, keys)).0;
    if flow.waiting_since == Ticks::UNTIMED {
        flow.waiting_since = 0;
    }
    flow
}

const fn retagged(ctl: Ctl, hash: Hashed) -> Ctl {
    Ctl(0).claimed(Ctl::tag_of(hash)).with(ctl.state(), ctl.flags())
}

/// The half of the directory that is in force.
pub(super) const fn slots_of_half(half: u32) -> std::ops::Range<u32> {
    let first = (half & 1) * DIRECTORY_SLOTS;
    first..first + DIRECTORY_SLOTS
}

/// What the directory is to be built of anew.
pub(super) fn named(entries: impl Iterator<Item = DirectoryEntry>) -> Vec<(DirectoryKey, u32)> {
    entries
        .filter(|entry| entry.key.kind != EntryKind::Empty as u8)
        .map(|entry| (entry.key, entry.number))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use canary_common::{Address, FlowFlags, FlowState, FrameAddresses};
    use std::net::{IpAddr, Ipv4Addr};

    fn flow(i: u16, state: FlowState) -> Flow {
        let client = Address::from(IpAddr::from(Ipv4Addr::new(10, 1, (i >> 8) as u8, i as u8)));
        let key = FlowKey { client, client_port_be: i.rotate_left(3), service: i % 300 };
        Flow {
            ctl: Ctl(0).claimed(0x00ab_cdef).with(state, FlowFlags::DATA).0,
            key,
            backend: i,
            cell: i ^ 0x1111,
            deadline: 7 + u32::from(i),
            client_ifindex: 3,
            reply_frame: FrameAddresses { words: [1, 2, 3] },
            client_seq: 5,
            backend_seq: 6,
            waiting_since: u32::from(i),
        }
    }

    /// All of a record but its word.
    fn rest(flow: &Flow) -> (FlowKey, [u32; 6], [u32; 3]) {
        let numbers = [
            u32::from(flow.backend) << 16 | u32::from(flow.cell),
            flow.deadline,
            flow.client_ifindex,
            flow.client_seq,
            flow.backend_seq,
            flow.waiting_since,
        ];
        (flow.key, numbers, flow.reply_frame.words)
    }

    /// The value was computed by hand from that layout's source.
    #[test]
    fn the_hash_is_that_of_layout_3() {
        let keys = HashKeys::from_seed(1);
        let flow = flow(0x0102, FlowState::Established);
        assert_eq!(hash(&flow.key, &keys).0, 0x2799_cbe8_1733_2427);
        assert_ne!(hash(&flow.key, &keys), flow.key.hash(&keys));
    }

    #[test]
    fn a_record_is_found_by_its_new_tag_and_is_the_same_otherwise() {
        let keys = HashKeys::from_seed(7);
        for i in 2..2000 {
            for state in [FlowState::HalfOpen, FlowState::Established, FlowState::Closing] {
                let old = flow(i, state);
                let new = to_current(&old, Ctl(old.ctl), &keys);
                let ctl = Ctl(new.ctl);
                assert_eq!(ctl.tag(), Ctl::tag_of(new.key.hash(&keys)));
                assert_eq!((ctl.state(), ctl.flags()), (state, FlowFlags::DATA));
                assert_eq!(rest(&new), rest(&old));
                let back = from_current(&new, &keys);
                let ctl = Ctl(back.ctl);
                assert_eq!(ctl.tag(), Ctl::tag_of(hash(&old.key, &keys)));
                assert_eq!((ctl.state(), ctl.flags()), (state, FlowFlags::DATA));
                assert_eq!(rest(&back), rest(&old));
            }
        }
    }

    #[test]
    fn what_is_not_timed_is_no_time() {
        let keys = HashKeys::from_seed(7);
        let old = flow(Ticks::UNTIMED as u16, FlowState::Established);
        let new = to_current(&old, Ctl(old.ctl), &keys);
        assert_eq!(new.waiting_since, Ticks::UNTIMED + 1);
        let untimed = Flow { waiting_since: Ticks::UNTIMED, ..new };
        assert_eq!(from_current(&untimed, &keys).waiting_since, 0);
    }

    #[test]
    fn the_directory_is_read_from_the_half_in_force() {
        assert_eq!(slots_of_half(0), 0..DIRECTORY_SLOTS);
        assert_eq!(slots_of_half(1), DIRECTORY_SLOTS..2 * DIRECTORY_SLOTS);
        let key = DirectoryKey::new(EntryKind::Backend, Address::default(), 80, 6);
        let entries = [
            DirectoryEntry::default(),
            DirectoryEntry { key, number: 12, reserved: 0 },
            DirectoryEntry::default(),
        ];
        assert_eq!(named(entries.into_iter()), [(key, 12)]);
    }
}
