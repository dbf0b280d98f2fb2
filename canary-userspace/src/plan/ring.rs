//! Maglev tables: which backend of a track a flow's hash means.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, section 3.4. Each backend has its own permutation of
//! the slots and in its turn takes the first slot of it that is still free, so
//! that a backend that comes or goes moves little but its own share.
//!
//! The paper leaves weights open ("by altering the relative frequency of the
//! backends' turns"). Here everybody's number of slots is worked out first, to
//! the slot, and its turns are then spread evenly over the filling.

use std::{borrow::Cow, cmp::Reverse};

/// One candidate for a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingBackend<'a> {
    /// What the table's slots hold for it: its index in the `BACKENDS` map.
    pub number: u16,
    /// Its address and port as text. The permutation follows from this and the
    /// seed alone, so every host builds the same table, whatever the numbers.
    /// No two of one table may be the same.
    pub name: Cow<'a, str>,
    /// Share of the slots, relative to the others'; 0 gets none.
    pub weight: u32,
}

/// The table of `size` slots, each a backend's number; `None` where nobody has
/// a weight above 0 (or `size` is 0).
///
/// The result does not depend on the order of `backends`, and on their numbers
/// only by what is written into the slots. `size` should be a prime
/// ([`is_prime`]) of at least 100 times the backends. Everybody's slots are
/// within one of its exact share, so a share of less than one may get none.
#[must_use]
pub fn build(backends: &[RingBackend<'_>], size: u32, seed: u64) -> Option<Vec<u16>> {
    if size == 0 {
        return None;
    }
    let mut present: Vec<&RingBackend<'_>> = backends.iter().filter(|b| b.weight > 0).collect();
    if present.is_empty() {
        return None;
    }
    // The number decides only between equal names, which should not be.
    present.sort_unstable_by(|a, b| a.name.cmp(&b.name).then(a.number.cmp(&b.number)));

    let weights: Vec<u32> = present.iter().map(|b| b.weight).collect();
    let mut seats: Vec<Seat> = present.iter().map(|b| Seat::new(b, size, seed)).collect();
    Some(fill(&mut seats, &turns(&quotas(&weights, size)), size))
}

/// A backend on its walk through its permutation.
struct Seat {
    /// The slot it asks for next.
    next: u32,
    /// Distance to the one after, modulo the size; prime to it.
    skip: u32,
    number: u16,
}

impl Seat {
    fn new(backend: &RingBackend<'_>, size: u32, seed: u64) -> Self {
        let hash = name_hash(&backend.name, seed);
        // The paper's offset and skip, from two hashes independent of each other.
        let next = (hash % u64::from(size)) as u32;
        let mut skip = 1;
        if size > 2 {
            skip += (mix(hash ^ 0x9e37_79b9_7f4a_7c15) % u64::from(size - 1)) as u32;
            // Never for a prime. Without it another size could leave slots
            // that no backend reaches, and the filling would not end.
            while gcd(skip, size) != 1 {
                skip = skip % (size - 1) + 1;
            }
        }
        Self { next, skip, number: backend.number }
    }

    fn advance(&mut self, size: u32) {
        // Both are below `size`, so this cannot overflow as their sum could.
        let room = size - self.skip;
        self.next = if self.next >= room { self.next - room } else { self.next + self.skip };
    }
}

/// Slots of each backend, `size` in all: its exact share, rounded down, and one
/// of what is left over for the largest remainders. So nobody is off by a slot.
fn quotas(weights: &[u32], size: u32) -> Vec<u32> {
    let all: u64 = weights.iter().map(|&w| u64::from(w)).sum();
    let exact = |weight: u32| u64::from(size) * u64::from(weight);
    let mut quotas: Vec<u32> = weights.iter().map(|&w| (exact(w) / all) as u32).collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    // Stable: among equals, the first in the order of names.
    by_remainder.sort_by_key(|&i| Reverse(exact(weights[i]) % all));
    let left = size - quotas.iter().sum::<u32>();
    for &i in by_remainder.iter().take(left as usize) {
        quotas[i] += 1;
    }
    quotas
}

/// Who takes a slot in each turn, as indices into `quotas`.
///
/// Turn k (from 0) of a backend falls at the time (k + 1/2) / its quota, so
/// everybody's turns are spread evenly from first to last. Time is cut into
/// rounds in which the largest quota has one turn; within a round the order is
/// that of `quotas`. In whole numbers, so that every host gets the same.
fn turns(quotas: &[u32]) -> Vec<u32> {
    let rounds = u64::from(quotas.iter().copied().max().unwrap_or(0));
    let round_of = |k: u32, quota: u32| {
        ((2 * u64::from(k) + 1) * rounds).div_ceil(2 * u64::from(quota)) as usize - 1
    };
    // A counting sort, which keeps the order within a round.
    let mut starts = vec![0_u32; rounds as usize + 1];
    for &quota in quotas {
        for k in 0..quota {
            starts[round_of(k, quota) + 1] += 1;
        }
    }
    for round in 1..starts.len() {
        starts[round] += starts[round - 1];
    }
    let mut order = vec![0_u32; quotas.iter().sum::<u32>() as usize];
    for (index, &quota) in quotas.iter().enumerate() {
        for k in 0..quota {
            let place = &mut starts[round_of(k, quota)];
            order[*place as usize] = index as u32;
            *place += 1;
        }
    }
    order
}

/// Gives each turn's backend the next slot of its permutation that is free.
/// Free slots are bits of their own: at the largest size that is 16 KiB, which
/// stays in the first-level cache while the walks jump about in it.
fn fill(seats: &mut [Seat], order: &[u32], size: u32) -> Vec<u16> {
    let mut table = vec![0_u16; size as usize];
    let mut taken = vec![0_u64; size.div_ceil(64) as usize];
    for &index in order {
        let seat = &mut seats[index as usize];
        while taken[(seat.next / 64) as usize] >> (seat.next % 64) & 1 == 1 {
            seat.advance(size);
        }
        taken[(seat.next / 64) as usize] |= 1 << (seat.next % 64);
        table[seat.next as usize] = seat.number;
        seat.advance(size);
    }
    table
}

/// 64 bits that follow from a text and a seed, the same on every host and in
/// every version: FNV-1a (Fowler, Noll, Vo), then spread over all bits.
#[must_use]
pub fn name_hash(name: &str, seed: u64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ mix(seed);
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    mix(hash)
}

/// The finaliser of splitmix64 (Steele et al. 2014).
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Whether `n` is a prime. At most 2^16 divisions.
#[must_use]
pub const fn is_prime(n: u32) -> bool {
    if n < 4 {
        return n >= 2;
    }
    if n.is_multiple_of(2) {
        return false;
    }
    let mut divisor = 3;
    while divisor <= n / divisor {
        if n.is_multiple_of(divisor) {
            return false;
        }
        divisor += 2;
    }
    true
}

/// The smallest prime that is not below `n`; where 32 bits hold none, the
/// largest that they hold.
#[must_use]
pub const fn next_prime(n: u32) -> u32 {
    const LARGEST: u32 = 4_294_967_291;
    if n >= LARGEST {
        return LARGEST;
    }
    let mut candidate = n;
    while !is_prime(candidate) {
        candidate += 1;
    }
    candidate
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use canary_common::{DEFAULT_TABLE_SIZE, MAX_TABLE_SIZE};
    use std::collections::BTreeMap;

    /// `weights[i]` for the backend with number `i + 1`.
    fn backends(weights: &[u32]) -> Vec<RingBackend<'static>> {
        weights
            .iter()
            .enumerate()
            .map(|(i, &weight)| RingBackend {
                number: i as u16 + 1,
                name: format!("10.{}.{}.{}:8080", i >> 16, i >> 8 & 255, i & 255).into(),
                weight,
            })
            .collect()
    }

    fn shares(table: &[u16]) -> BTreeMap<u16, u32> {
        let mut shares = BTreeMap::new();
        for &number in table {
            *shares.entry(number).or_default() += 1;
        }
        shares
    }

    fn moved(before: &[u16], after: &[u16]) -> usize {
        assert_eq!(before.len(), after.len());
        before.iter().zip(after).filter(|(a, b)| a != b).count()
    }

    /// Which is below 1 % from 100 slots a backend.
    #[test]
    fn shares_follow_weights_to_the_slot() {
        let many: Vec<u32> = (0..160).map(|i| 1 + i % 7).collect();
        let skewed: Vec<u32> = (0..50).map(|i| if i == 7 { 100_000 } else { 1_000 }).collect();
        let cases: &[&[u32]] = &[
            &[1],
            &[1, 1],
            &[1, 10],
            &[10, 1],
            &[3, 0, 2],
            &[1; 3],
            &[1; 160],
            &[u32::MAX, u32::MAX, 1 << 31],
            &many,
            &skewed,
        ];
        for weights in cases {
            for size in [1009, DEFAULT_TABLE_SIZE, 65_537, MAX_TABLE_SIZE] {
                let table = build(&backends(weights), size, 7).unwrap();
                assert_eq!(table.len(), size as usize);
                let shares = shares(&table);
                let all: u64 = weights.iter().map(|&w| u64::from(w)).sum();
                for (i, &weight) in weights.iter().enumerate() {
                    let got = shares.get(&(i as u16 + 1)).copied().unwrap_or(0);
                    let exact = f64::from(size) * f64::from(weight) / all as f64;
                    assert!(
                        (f64::from(got) - exact).abs() < 1.0,
                        "weight {weight} of {all}: {got} slots of {size}, {exact} would be exact"
                    );
                    assert!(weight > 0 || got == 0, "weight 0 got {got} slots");
                }
            }
        }
    }

    #[test]
    fn equal_weights_differ_by_one_slot_at_most() {
        for n in [1, 2, 3, 10, 100, 160] {
            let shares = shares(&build(&backends(&vec![5; n]), DEFAULT_TABLE_SIZE, 3).unwrap());
            assert_eq!(shares.len(), n);
            let (least, most) =
                (shares.values().min().copied().unwrap(), shares.values().max().copied().unwrap());
            assert!(most - least <= 1, "{n} backends: {least} to {most} slots");
        }
    }

    #[test]
    fn one_to_ten_is_one_to_ten() {
        let shares = shares(&build(&backends(&[1, 10]), DEFAULT_TABLE_SIZE, 1).unwrap());
        let ratio = f64::from(shares[&2]) / f64::from(shares[&1]);
        assert!((ratio - 10.0).abs() < 0.1, "{ratio}");
    }

    #[test]
    fn nobody_and_weight_zero() {
        assert_eq!(build(&[], 13, 1), None);
        assert_eq!(build(&backends(&[0, 0]), 13, 1), None);
        assert_eq!(build(&backends(&[1]), 0, 1), None);
        assert_eq!(build(&backends(&[0, 4]), 13, 1), Some(vec![2; 13]));
        // Weight 0 is as good as not there.
        let with = build(&backends(&[2, 3, 0]), 1009, 1);
        assert_eq!(with, build(&backends(&[2, 3]), 1009, 1));
    }

    #[test]
    fn weights_count_by_their_ratio_only() {
        let of = |weights| build(&backends(weights), 1009, 1);
        assert_eq!(of(&[1, 2, 3]), of(&[1000, 2000, 3000]));
    }

    #[test]
    fn order_of_the_input_does_not_matter() {
        let mut list = backends(&[1, 10, 3, 3, 7]);
        let table = build(&list, 1009, 5);
        list.reverse();
        assert_eq!(build(&list, 1009, 5), table);
        list.swap(0, 3);
        assert_eq!(build(&list, 1009, 5), table);
    }

    #[test]
    fn names_decide_and_numbers_do_not() {
        let list = backends(&[1, 2, 3]);
        let table = build(&list, 1009, 5).unwrap();
        let renumbered: Vec<_> =
            list.iter().map(|b| RingBackend { number: 4000 - b.number * 7, ..b.clone() }).collect();
        let expected: Vec<u16> = table.iter().map(|n| 4000 - n * 7).collect();
        assert_eq!(build(&renumbered, 1009, 5).unwrap(), expected);

        let mut renamed = list;
        renamed[1].name = "10.9.9.9:8080".into();
        let other = build(&renamed, 1009, 5).unwrap();
        assert!(moved(&table, &other) > 100, "a new name is a new permutation");
    }

    #[test]
    fn seeds_give_different_tables() {
        let list = backends(&[1; 10]);
        let (a, b) = (build(&list, 1009, 1).unwrap(), build(&list, 1009, 2).unwrap());
        // Two unrelated tables of ten agree in a tenth of the slots.
        assert!((800..1000).contains(&moved(&a, &b)), "{}", moved(&a, &b));
    }

    /// Beyond the slots that must move, at most 2 % of a table of the default
    /// size do, up to the 160 backends it is meant for (the largest of 180
    /// tries each: 1.3 % with 10, 1.8 % with 160). Tables of a thousand slots
    /// can do worse.
    #[test]
    fn one_leaving_or_coming_moves_little_else() {
        for (n, size) in
            [(2, 1009), (10, DEFAULT_TABLE_SIZE), (160, DEFAULT_TABLE_SIZE), (10, 65_537)]
        {
            for seed in 0..5 {
                let all = backends(&vec![1; n]);
                let before = build(&all, size, seed).unwrap();
                for gone in [0, n / 2, n - 1] {
                    let mut left = all.clone();
                    let number = left.remove(gone).number;
                    let after = build(&left, size, seed).unwrap();
                    let least = before.iter().filter(|&&b| b == number).count();
                    let extra = moved(&before, &after) - least;
                    assert!(
                        extra as f64 <= 0.02 * f64::from(size),
                        "{n} backends, {size} slots, {gone} leaves: {extra} moved beyond {least}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_weight_that_changes_moves_little_else() {
        let before = build(&backends(&[10; 10]), 16_381, 1).unwrap();
        let mut weights = [10; 10];
        weights[4] = 5;
        let after = build(&backends(&weights), 16_381, 1).unwrap();
        // The fifth goes from 10/100 to 5/95 of the slots.
        let least = 16_381.0 * (0.1 - 5.0 / 95.0);
        let extra = moved(&before, &after) as f64 - least;
        assert!(extra <= 0.02 * 16_381.0, "{extra} moved beyond {least}");
    }

    #[test]
    fn fills_any_size_even_one_that_is_no_prime() {
        for size in 1..200 {
            let table = build(&backends(&[1, 2, 3]), size, 9).unwrap();
            assert_eq!(table.len(), size as usize);
            assert!(table.iter().all(|n| (1..=3).contains(n)));
        }
    }

    #[test]
    fn the_largest_table_is_filled() {
        let weights: Vec<u32> = (0..4096).map(|i| if i % 2 == 0 { 1 } else { 10_000 }).collect();
        let table = build(&backends(&weights), MAX_TABLE_SIZE, 1).unwrap();
        assert!(table.iter().all(|n| (1..=4096).contains(n)));
    }

    /// Another value here means that hosts of different versions disagree.
    #[test]
    fn golden() {
        let table = build(&backends(&[1, 2, 4]), 31, 42).unwrap();
        assert_eq!(table, GOLDEN);
        assert_eq!(name_hash("10.0.0.11:8080", 42), GOLDEN_HASH);
    }
    const GOLDEN: [u16; 31] = [
        3, 2, 3, 3, 3, 3, 3, 1, 3, 2, 2, 3, 1, 3, 2, 3, 3, 2, 3, 2, 2, 3, 2, 3, 1, 3, 3, 2, 1, 3, 3,
    ];
    const GOLDEN_HASH: u64 = 0x581f_bc2d_835d_25ea;

    #[test]
    fn primes() {
        let small: Vec<u32> = (0..40).filter(|&n| is_prime(n)).collect();
        assert_eq!(small, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37]);
        assert!(is_prime(DEFAULT_TABLE_SIZE) && is_prime(MAX_TABLE_SIZE));
        assert!(is_prime(65_537) && !is_prime(65_536) && !is_prime(127 * 127));
        assert!(is_prime(4_294_967_291) && !is_prime(u32::MAX));
        assert_eq!([0, 2, 8, 13, 16_382].map(next_prime), [2, 2, 11, 13, 16_411]);
        assert_eq!(next_prime(u32::MAX), 4_294_967_291);
    }
}
