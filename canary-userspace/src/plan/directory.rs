//! The directory, built: a slot of its own for each key.
//!
//! Hash and displace (Belazzougui, Botelho, Dietzfelbinger: "Hash, Displace,
//! and Compress", ESA 2009): a key's hash names its group, and the group's
//! displacement moves all its keys at once to slots that nobody else has.
//! Groups are placed largest first, while there is most room.

use std::{cmp::Reverse, net::IpAddr};

use canary_common::{
    DIRECTORY_GROUPS, DIRECTORY_SLOTS, DirectoryEntry, DirectoryKey, EntryKind, HashKeys, PORTS,
    PROTO_TCP, PROTO_UDP, Probe,
};

/// One half of the directory, as the program reads it.
#[derive(Clone, Debug)]
pub struct Built {
    /// By group, [`DIRECTORY_GROUPS`] of them.
    pub displacements: Vec<u32>,
    /// By slot, [`DIRECTORY_SLOTS`] of them; the empty ones are all zero.
    pub entries: Vec<DirectoryEntry>,
}

/// Why there is no directory for these keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    #[error("{} is in the directory twice, for numbers {first} and {second}", describe(key))]
    Duplicate { key: DirectoryKey, first: u32, second: u32 },
    #[error("a key of kind {kind} is neither a service's nor a backend's")]
    Kind { kind: u8 },
    #[error("{keys} addresses and ports, {DIRECTORY_SLOTS} is the most; remove some")]
    TooMany { keys: usize },
    /// Two keys whose hashes agree in every bit that counts (at the most keys
    /// there can be, one in 60,000 sets of secret keys), or far too many keys.
    #[error(
        "no free place for {} beside {} others; \
         change its port, or detach and start anew, which draws other secret keys",
        describe(key),
        others
    )]
    NoPlace { key: DirectoryKey, others: usize },
}

fn describe(key: &DirectoryKey) -> String {
    let kind = match key.kind {
        kind if kind == EntryKind::Service as u8 => "service",
        kind if kind == EntryKind::Backend as u8 => "backend",
        _ => "entry",
    };
    let protocol = match key.protocol {
        PROTO_TCP => "tcp".to_owned(),
        PROTO_UDP => "udp".to_owned(),
        other => format!("protocol {other}"),
    };
    let address = std::net::SocketAddr::new(IpAddr::from(key.address), u16::from_be(key.port_be));
    format!("{kind} {address} ({protocol})")
}

/// A key on its way to a slot.
struct Placed {
    probe: Probe,
    entry: DirectoryEntry,
}

/// The directory of `entries`, each a key and the number it stands for, under
/// the secret `keys` that the program hashes with.
///
/// # Errors
/// See [`DirectoryError`]; nothing else fails.
pub fn build(entries: &[(DirectoryKey, u32)], keys: &HashKeys) -> Result<Built, DirectoryError> {
    if entries.len() > DIRECTORY_SLOTS as usize {
        return Err(DirectoryError::TooMany { keys: entries.len() });
    }
    let mut built = Built {
        displacements: vec![0; DIRECTORY_GROUPS as usize],
        entries: vec![DirectoryEntry::default(); DIRECTORY_SLOTS as usize],
    };
    let mut groups = group(entries, keys)?;
    // The sort is stable: the same keys in the same order give the same result.
    groups.sort_by_key(|group| Reverse(group.len()));
    for members in &groups {
        place(&mut built, members, entries.len())?;
    }
    Ok(built)
}

/// The map `PORTS` for these keys.
#[must_use]
pub fn ports(entries: &[(DirectoryKey, u32)]) -> Vec<u8> {
    let mut ports = vec![0; PORTS];
    for (key, _) in entries {
        ports[usize::from(key.port_be)] |= key.port_bit();
    }
    ports
}

/// The keys by group, empty groups left out, duplicates refused.
fn group(
    entries: &[(DirectoryKey, u32)],
    keys: &HashKeys,
) -> Result<Vec<Vec<Placed>>, DirectoryError> {
    let mut groups: Vec<Vec<Placed>> = Vec::new();
    groups.resize_with(DIRECTORY_GROUPS as usize, Vec::new);
    for &(key, number) in entries {
        if key.kind != EntryKind::Service as u8 && key.kind != EntryKind::Backend as u8 {
            return Err(DirectoryError::Kind { kind: key.kind });
        }
        let probe = key.probe(keys);
        let members = &mut groups[probe.group() as usize];
        if let Some(twin) = members.iter().find(|member| member.entry.key == key) {
            let first = twin.entry.number;
            return Err(DirectoryError::Duplicate { key, first, second: number });
        }
        members.push(Placed { probe, entry: DirectoryEntry { key, number, reserved: 0 } });
    }
    groups.retain(|members| !members.is_empty());
    Ok(groups)
}

/// Finds the first displacement under which all of a group stand on slots that
/// are free and differ, and writes them there.
fn place(built: &mut Built, members: &[Placed], all: usize) -> Result<(), DirectoryError> {
    let mut slots = Vec::with_capacity(members.len());
    // Slots are taken modulo DIRECTORY_SLOTS, so larger ones only repeat these.
    for displacement in 0..DIRECTORY_SLOTS {
        slots.clear();
        for member in members {
            let slot = member.probe.slot(displacement);
            let free = built.entries[slot as usize].key.kind == EntryKind::Empty as u8;
            if !free || slots.contains(&slot) {
                break;
            }
            slots.push(slot);
        }
        if slots.len() == members.len() {
            for (member, &slot) in members.iter().zip(&slots) {
                built.entries[slot as usize] = member.entry;
            }
            built.displacements[members[0].probe.group() as usize] = displacement;
            return Ok(());
        }
    }
    Err(DirectoryError::NoPlace { key: members[0].entry.key, others: all - 1 })
}

impl Built {
    /// The number of a key, found as the program finds it.
    #[must_use]
    pub fn get(&self, key: &DirectoryKey, keys: &HashKeys) -> Option<u32> {
        let probe = key.probe(keys);
        let displacement = *self.displacements.get(probe.group() as usize)?;
        let entry = self.entries.get(probe.slot(displacement) as usize)?;
        (entry.key == *key).then_some(entry.number)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use canary_common::{Address, MAX_BACKENDS, MAX_SERVICES};
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn v4(i: u32) -> Address {
        Address::from(IpAddr::from(Ipv4Addr::from(0x0a00_0000 + i)))
    }

    fn v6(i: u32) -> Address {
        Address::from(IpAddr::from(Ipv6Addr::from((0x2001_0db8 << 96) + u128::from(i))))
    }

    /// Services and backends of both families and protocols: neighbouring
    /// addresses and ports, as configurations have them.
    fn keys_like_real(count: u32) -> Vec<(DirectoryKey, u32)> {
        (0..count)
            .map(|i| {
                let address = if i % 3 == 0 { v6(i / 8) } else { v4(i / 8) };
                let protocol = if i % 5 == 0 { PROTO_UDP } else { PROTO_TCP };
                let kind = if i % 17 == 0 { EntryKind::Service } else { EntryKind::Backend };
                let port = (8000 + i % 8) as u16;
                (DirectoryKey::new(kind, address, port.to_be(), protocol), i)
            })
            .collect()
    }

    fn check(entries: &[(DirectoryKey, u32)], keys: &HashKeys) {
        let built = build(entries, keys).unwrap();
        assert_eq!(built.displacements.len(), DIRECTORY_GROUPS as usize);
        assert_eq!(built.entries.len(), DIRECTORY_SLOTS as usize);
        for (key, number) in entries {
            assert_eq!(built.get(key, keys), Some(*number), "{}", describe(key));
        }
        let filled = built.entries.iter().filter(|e| e.key.kind != 0).count();
        assert_eq!(filled, entries.len());
    }

    #[test]
    fn every_key_is_found_and_no_other_is() {
        let most = MAX_SERVICES + MAX_BACKENDS;
        for count in [0, 1, 2, 10, 1000, most] {
            let entries = keys_like_real(count);
            for seed in 0..4 {
                check(&entries, &HashKeys::from_seed(seed));
            }
        }
        let keys = HashKeys::from_seed(99);
        let entries = keys_like_real(most);
        let built = build(&entries, &keys).unwrap();
        for &(key, _) in &entries {
            let absent = [
                DirectoryKey { port_be: key.port_be ^ 0x1000, ..key },
                DirectoryKey { protocol: 132, ..key },
                DirectoryKey { kind: 3 - key.kind, ..key },
                DirectoryKey { kind: EntryKind::Empty as u8, ..key },
            ];
            for other in absent {
                assert_eq!(built.get(&other, &keys), None, "{}", describe(&other));
            }
        }
    }

    #[test]
    fn the_most_keys_find_a_place_under_many_seeds() {
        let entries = keys_like_real(MAX_SERVICES + MAX_BACKENDS);
        for seed in 1000..1040 {
            check(&entries, &HashKeys::from_seed(seed));
        }
    }

    #[test]
    fn an_empty_directory_finds_nobody() {
        let keys = HashKeys::from_seed(1);
        let built = build(&[], &keys).unwrap();
        assert!(keys_like_real(1000).iter().all(|(key, _)| built.get(key, &keys).is_none()));
    }

    #[test]
    fn a_key_twice_is_refused() {
        let mut entries = keys_like_real(10);
        entries.push((entries[3].0, 77));
        let error = build(&entries, &HashKeys::from_seed(1)).unwrap_err();
        let expected = DirectoryError::Duplicate { key: entries[3].0, first: 3, second: 77 };
        assert_eq!(error, expected);
        assert_eq!(
            error.to_string(),
            "backend [2001:db8::]:8003 (tcp) is in the directory twice, for numbers 3 and 77"
        );
    }

    #[test]
    fn a_key_without_kind_is_refused() {
        let entries = [(DirectoryKey::default(), 1)];
        let error = build(&entries, &HashKeys::from_seed(1)).unwrap_err();
        assert_eq!(error, DirectoryError::Kind { kind: 0 });
    }

    #[test]
    fn more_keys_than_slots_are_refused() {
        let entries = keys_like_real(DIRECTORY_SLOTS + 1);
        let error = build(&entries, &HashKeys::from_seed(1)).unwrap_err();
        assert_eq!(error, DirectoryError::TooMany { keys: DIRECTORY_SLOTS as usize + 1 });
    }

    /// Hash keys of zero make NH blind: all these hash alike, as two unlucky
    /// keys would under good ones. The search has to end and say so.
    #[test]
    fn keys_that_cannot_be_told_apart_are_an_error() {
        let blind = HashKeys::default();
        let twin = |word| {
            let address = Address { words_be: [word, 0, 0, 0] };
            DirectoryKey::new(EntryKind::Service, address, 80_u16.to_be(), PROTO_TCP)
        };
        let entries = [(twin(1), 1), (twin(2), 2)];
        let error = build(&entries, &blind).unwrap_err();
        assert_eq!(error, DirectoryError::NoPlace { key: twin(1), others: 1 });
    }
}
