//! The hashes: known values (every host must agree on them), spread, and
//! independence of the parts that are used for different things. Inputs are
//! what real traffic has: neighbouring addresses and ports. Seeds are fixed,
//! so these tests give the same result each time; the bounds are five to six
//! standard deviations of what a random function would give.

use canary_common::{
    Address, Bucket, DEFAULT_TABLE_SIZE, DIRECTORY_GROUPS, DIRECTORY_SLOTS, DirectoryKey,
    EntryKind, FlowKey, HashKeys, Hashed, MAX_TABLE_SIZE, PROTO_TCP, Split, WAYS, pick_hash,
};
use std::{collections::HashSet, net::IpAddr};

/// splitmix64, as a source of test inputs.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn word(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }
}

/// A family of clients, by index: address and port in network byte order.
type Clients = (&'static str, fn(u32) -> (Address, u16));

fn v4(host: u32) -> Address {
    Address::from_v4_be(host.to_be())
}

fn v6(high: u64, low: u64) -> Address {
    Address::from(IpAddr::from((u128::from(high) << 64 | u128::from(low)).to_be_bytes()))
}

const CLIENTS: [Clients; 6] = [
    ("neighbouring IPv4 hosts, one port", |i| (v4(0x0a00_0000 + i), 40_000_u16.to_be())),
    ("first hosts of IPv4 networks, one port", |i| (v4(i << 8 | 1), 443_u16.to_be())),
    ("16 hosts, all ports", |i| (v4(0xc0a8_0000 + i / 65_536), (i as u16).to_be())),
    ("IPv4 hosts, ports in steps of two", |i| {
        (v4(0x0a01_0000 + i / 32_768), (i as u16).wrapping_mul(2).to_be())
    }),
    ("neighbouring IPv6 hosts, one port", |i| {
        (v6(0x2001_0db8_0000_0000, u64::from(i)), 40_000_u16.to_be())
    }),
    ("first hosts of IPv6 networks, one port", |i| {
        (v6(0x2001_0db8_0000_0000 + u64::from(i), 1), 40_000_u16.to_be())
    }),
];

/// Chi-squared of counts that should be equal, in standard deviations from its
/// mean (both are known from the number of bins).
fn excess(counts: &[u32]) -> f64 {
    let all: u64 = counts.iter().map(|&c| u64::from(c)).sum();
    let expected = all as f64 / counts.len() as f64;
    let chi2: f64 = counts.iter().map(|&c| (f64::from(c) - expected).powi(2) / expected).sum();
    let freedom = (counts.len() - 1) as f64;
    (chi2 - freedom) / (2.0 * freedom).sqrt()
}

/// Every client family under several seeds, sorted into `bins` by `bin`.
fn assert_even(what: &str, bins: usize, bin: impl Fn(&HashKeys, &Address, u16) -> usize) {
    for (name, client) in CLIENTS {
        for seed in 0..12 {
            let keys = HashKeys::from_seed(seed);
            let mut counts = vec![0_u32; bins];
            for i in 0..1 << 18 {
                let (address, port_be) = client(i);
                counts[bin(&keys, &address, port_be)] += 1;
            }
            let excess = excess(&counts);
            assert!(excess < 6.0, "{what}, {name}, seed {seed}: {excess:.1} deviations");
        }
    }
}

/// First outputs of splitmix64 for seed 0, as published with it.
#[test]
fn keys_are_splitmix64() {
    let words = HashKeys::from_seed(0).words;
    let outputs = [0, 2, 4].map(|i| u64::from(words[i + 1]) << 32 | u64::from(words[i]));
    assert_eq!(outputs, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
}

/// The formula once more, from RFC 4418 and MurmurHash3, in 128-bit numbers.
fn reference(keys: &HashKeys, message: [u32; 6]) -> u64 {
    let sum = (0..3).fold(0_u128, |sum, i| {
        let word = |j: usize| (u128::from(message[j]) + u128::from(keys.words[j])) % (1 << 32);
        sum + word(2 * i) * word(2 * i + 1)
    });
    let mut h = sum % (1 << 64);
    h ^= h >> 33;
    h = h * 0xff51_afd7_ed55_8ccd % (1 << 64);
    h ^= h >> 33;
    h = h * 0xc4ce_b9fe_1a85_ec53 % (1 << 64);
    h ^= h >> 33;
    h as u64
}

#[test]
fn hash_is_nh_and_fmix64() {
    let mut random = Random(1);
    let edges = [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX];
    for round in 0..20_000 {
        let keys = HashKeys::from_seed(random.next());
        let mut word = || match random.word() {
            w if round % 2 == 0 => w,
            w => edges[w as usize % edges.len()],
        };
        let address = Address { words_be: [word(), word(), word(), word()] };
        let extra = word();
        let [a, b, c, d] = address.words_be;
        let expected = reference(&keys, [a, b, c, d, extra, extra.rotate_left(16)]);
        assert_eq!(keys.hash(&address, extra), Hashed(expected));
    }
}

/// On every host and in every release: another value moves clients between
/// tracks. Worked out apart from this code. For little-endian hosts: words are
/// hashed as they stand in memory.
#[test]
#[cfg(target_endian = "little")]
fn picks_are_the_same_everywhere() {
    let keys = HashKeys::from_seed(42);
    let port_be = 40_000_u16.to_be();
    let client_v4 = v4(0xc000_0207);
    let client_v6 = v6(0x2001_0db8_0000_0000, 7);
    assert_eq!(pick_hash(&keys, &client_v4, port_be).0, PICK_V4);
    assert_eq!(pick_hash(&keys, &client_v4, 0).0, PICK_V4_ALONE);
    assert_eq!(pick_hash(&keys, &client_v6, port_be).0, PICK_V6);
}
const PICK_V4: u64 = 0x5639_4bfa_d0c5_d7e3;
const PICK_V4_ALONE: u64 = 0x156d_902e_44d8_f5e3;
const PICK_V6: u64 = 0xf349_291c_24e4_7152;

/// Each bit of the input flips each bit of the result half of the time.
#[test]
fn avalanche() {
    const TRIES: u32 = 4096;
    let mut random = Random(2);
    for input_bit in 0..160 {
        let mut flips = [0_u32; 64];
        for _ in 0..TRIES {
            let keys = HashKeys::from_seed(random.next());
            let address =
                Address { words_be: [random.word(), random.word(), random.word(), random.word()] };
            let extra = random.word();
            let (mut other, mut other_extra) = (address, extra);
            match other.words_be.get_mut(input_bit / 32) {
                Some(word) => *word ^= 1 << (input_bit % 32),
                None => other_extra ^= 1 << (input_bit % 32),
            }
            let changed = keys.hash(&address, extra).0 ^ keys.hash(&other, other_extra).0;
            for (bit, flips) in flips.iter_mut().enumerate() {
                *flips += (changed >> bit & 1) as u32;
            }
        }
        for (bit, &flips) in flips.iter().enumerate() {
            let deviation =
                (f64::from(flips) - f64::from(TRIES) / 2.0) / (f64::from(TRIES) / 4.0).sqrt();
            assert!(deviation.abs() < 5.5, "input {input_bit}, output {bit}: {deviation:.1}");
        }
    }
}

#[test]
fn split_hashes_are_even() {
    assert_even("split", 256, |keys, address, port_be| {
        pick_hash(keys, address, port_be).for_split(0) as usize >> 24
    });
}

#[test]
fn slots_are_even() {
    assert_even("slot", DEFAULT_TABLE_SIZE as usize, |keys, address, port_be| {
        pick_hash(keys, address, port_be).slot(DEFAULT_TABLE_SIZE) as usize
    });
}

/// Flows of the canary spread over its table as stable's do over theirs: every
/// combination of a sixteenth of the split and a sixteenth of the table is alike.
#[test]
fn split_and_slot_are_independent() {
    assert_even("split and slot", 256, |keys, address, port_be| {
        let hash = pick_hash(keys, address, port_be);
        (hash.for_split(0) >> 28) as usize * 16 + hash.slot(16) as usize
    });
}

#[test]
fn flow_table_buckets_are_even() {
    assert_even("bucket and way", 1 << 14, |keys, &client, client_port_be| {
        let hash = FlowKey { client, client_port_be, service: 3 }.hash(keys);
        Bucket::index(hash, (1 << 12) - 1) as usize * WAYS + Bucket::first_way(hash)
    });
}

#[test]
fn directory_groups_are_even() {
    assert_even("group", DIRECTORY_GROUPS as usize, |keys, &address, port_be| {
        DirectoryKey::new(EntryKind::Backend, address, port_be, PROTO_TCP).probe(keys).group()
            as usize
    });
}

/// Configured is what is achieved, within five standard deviations.
#[test]
fn shares_are_as_configured() {
    const FLOWS: u32 = 1 << 20;
    for (name, client) in CLIENTS {
        let keys = HashKeys::from_seed(7);
        for share in [0.0, 0.001, 0.01, 0.05, 0.5, 0.999, 1.0] {
            let Some(split) = Split::from_fraction(share) else { panic!("{share}") };
            let canary = (0..FLOWS)
                .filter(|&i| {
                    let (address, port_be) = client(i);
                    split.takes(pick_hash(&keys, &address, port_be).for_split(0))
                })
                .count() as f64;
            let expected = share * f64::from(FLOWS);
            let deviation = (f64::from(FLOWS) * share * (1.0 - share)).sqrt();
            assert!(
                (canary - expected).abs() <= 5.0 * deviation,
                "{name}: {canary} of {FLOWS} to the canary, {expected} wanted"
            );
        }
    }
}

/// No two of a million flows collide in all 64 bits, and in 32 no more often
/// than by chance (n^2 / 2^33 = 128 pairs).
#[test]
fn collisions_are_those_of_chance() {
    const FLOWS: u32 = 1 << 20;
    for (name, client) in CLIENTS {
        for seed in [3, 4] {
            let keys = HashKeys::from_seed(seed);
            let mut all = HashSet::with_capacity(FLOWS as usize);
            let (mut high, mut low) = (all.clone(), all.clone());
            for i in 0..FLOWS {
                let (address, port_be) = client(i);
                let hash = pick_hash(&keys, &address, port_be).0;
                assert!(all.insert(hash), "{name}, seed {seed}: 64 bits collide");
                high.insert(hash >> 32);
                low.insert(hash & 0xffff_ffff);
            }
            for (half, distinct) in [("high", high.len()), ("low", low.len())] {
                let collisions = all.len() - distinct;
                assert!(collisions < 200, "{name}, seed {seed}, {half}: {collisions} collisions");
            }
        }
    }
}

/// Pairs that collide under a multiply–xor hash for any key, and others an
/// attacker would try: under NH no key in 2^18 makes one collide.
#[test]
fn no_difference_collides_under_many_keys() {
    const MSB: u32 = 1 << 31;
    let base = [0x2001_0db8, 7, 9, 0x0a00_0001];
    let flip = |masks: [u32; 4]| Address { words_be: std::array::from_fn(|i| base[i] ^ masks[i]) };
    let pairs = [
        (flip([MSB, MSB, 0, 0]), 5, 5),
        (flip([MSB, 0, MSB, 0]), 5, 5),
        (flip([0, 0, MSB, MSB]), 5, 5 ^ MSB),
        (Address { words_be: [base[1], base[0], base[2], base[3]] }, 5, 5),
        (Address { words_be: [base[2], base[3], base[0], base[1]] }, 5, 5),
        (flip([0, 0, 0, 1]), 5, 4),
        (flip([0; 4]), 0x0001_0000, 0x0000_0001),
        (flip([u32::MAX; 4]), 0, u32::MAX),
    ];
    let mut random = Random(5);
    for _ in 0..1 << 18 {
        let keys = HashKeys::from_seed(random.next());
        for (other, extra, other_extra) in pairs {
            let here = keys.hash(&Address { words_be: base }, extra);
            assert_ne!(here, keys.hash(&other, other_extra), "{other:?} under {keys:?}");
        }
    }
}

/// Every slot gets as many of the 2^32 hashes as any other, give or take one.
#[test]
fn slots_stay_inside_and_take_equal_parts() {
    for size in [1, 2, 3, 13, DEFAULT_TABLE_SIZE, 65_537, MAX_TABLE_SIZE] {
        let slot = |low: u64| Hashed(0xabcd_ef01 << 32 | low).slot(size);
        assert_eq!(slot(0), 0);
        assert_eq!(slot(0xffff_ffff), size - 1);
        for wanted in (0..size).step_by(1 + size as usize / 1000) {
            // The first hash of a slot: wanted * 2^32 / size, rounded up.
            let first = (u64::from(wanted) << 32).div_ceil(u64::from(size));
            assert_eq!(slot(first), wanted);
            assert!(first == 0 || slot(first - 1) == wanted - 1);
        }
    }
}

/// The step is odd and the slots a power of two, so the displacements lead to
/// every slot once: the search for a free one is exhaustive.
#[test]
fn displacements_reach_every_slot() {
    let mut random = Random(6);
    for _ in 0..20 {
        let key = DirectoryKey::new(EntryKind::Service, v4(random.word()), 80, PROTO_TCP);
        let probe = key.probe(&HashKeys::from_seed(random.next()));
        let slots: HashSet<u32> = (0..DIRECTORY_SLOTS).map(|d| probe.slot(d)).collect();
        assert_eq!(slots.len(), DIRECTORY_SLOTS as usize);
        assert!(slots.iter().all(|&slot| slot < DIRECTORY_SLOTS));
        assert!(probe.group() < DIRECTORY_GROUPS);
    }
}

/// Another salt is another draw: as even, with nobody drawn twice, and no
/// relation between the two.
#[test]
fn a_salt_draws_anew() {
    for salt in [1, 2, 0x8000_0000, u32::MAX] {
        assert_even("salted split", 256, |keys, address, port_be| {
            pick_hash(keys, address, port_be).for_split(salt) as usize >> 24
        });
        assert_even("draw by draw", 256, |keys, address, port_be| {
            let hash = pick_hash(keys, address, port_be);
            (hash.for_split(0) >> 28) as usize * 16 + (hash.for_split(salt) >> 28) as usize
        });
        assert_even("salted split and slot", 256, |keys, address, port_be| {
            let hash = pick_hash(keys, address, port_be);
            (hash.for_split(salt) >> 28) as usize * 16 + hash.slot(16) as usize
        });
        // A permutation: no two hashes meet.
        let mut seen = std::collections::HashSet::new();
        assert!((0..1 << 16).all(|i: u64| {
            seen.insert(Hashed(i.wrapping_mul(0x9e37_79b1) << 32).for_split(salt))
        }));
    }
}

#[test]
fn no_salt_changes_nothing() {
    for hash in [0, 1, 0xdead_beef, u32::MAX] {
        assert_eq!(Hashed(u64::from(hash) << 32 | 7).for_split(0), hash);
    }
}
