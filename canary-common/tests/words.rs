//! The words that are switched atomically, and what is read out of them.

use canary_common::{
    Cell, Ctl, FlowFlags, FlowState, Hashed, MAX_SPLIT, MAX_TABLES, Reason, Split, Track,
    WeightTable, deadline_passed,
};

const SPLITS: [u64; 7] = [0, 1, 0x0ccc_cccd, 1 << 31, (1 << 32) - 1, 1 << 32, 0x1_0000_0000 / 1000];

#[test]
fn weight_table_survives_packing() {
    for parts in SPLITS {
        for stable in [0, 1, 0x5555, MAX_TABLES as u16 - 1, 0x7fff] {
            for canary in [0, 1, 0x2aaa, MAX_TABLES as u16 - 1, 0x7fff] {
                for parity in [0, 1] {
                    let split = Split::from_parts(parts);
                    let table = WeightTable { split, tables: [stable, canary], parity };
                    assert_eq!(WeightTable::unpack(table.pack()), table);
                }
            }
        }
    }
}

/// The places of the fields are part of the layout that pinned maps keep.
#[test]
fn weight_table_fields_have_their_places() {
    let empty = WeightTable::default();
    assert_eq!(empty.pack(), 0);
    for (table, word) in [
        (WeightTable { split: Split::ALL, ..empty }, 1 << 32),
        (WeightTable { split: Split::from_parts(0xffff_ffff), ..empty }, 0xffff_ffff),
        (WeightTable { tables: [0x7fff, 0], ..empty }, 0x7fff << 33),
        (WeightTable { tables: [0, 0x7fff], ..empty }, 0x7fff << 48),
        (WeightTable { parity: 1, ..empty }, 1 << 63),
    ] {
        assert_eq!(table.pack(), word, "{table:?}");
    }
    const { assert!(MAX_TABLES <= 0x8000, "a table's number has 15 bits") };
}

/// Any bytes in a map are a valid value: what no packing makes is taken as "all".
#[test]
fn weight_table_of_any_word_is_valid() {
    for word in [u64::MAX, 0x1_ffff_ffff, 0x1_0000_0001, 0x8000_0001_8000_0000] {
        let table = WeightTable::unpack(word);
        assert_eq!(table.split, Split::ALL);
        assert_eq!(WeightTable::unpack(table.pack()), table);
    }
}

#[test]
fn tracks_without_a_table_get_nothing() {
    use Track::{Canary, Stable};
    // (split, tables, track of hash 0, of the middle, of the last)
    let half = 1 << 31;
    for (parts, tables, expected) in [
        (0, [1, 2], [Some(Stable), Some(Stable), Some(Stable)]),
        (1, [1, 2], [Some(Canary), Some(Stable), Some(Stable)]),
        (half, [1, 2], [Some(Canary), Some(Stable), Some(Stable)]),
        (half + 1, [1, 2], [Some(Canary), Some(Canary), Some(Stable)]),
        (MAX_SPLIT - 1, [1, 2], [Some(Canary), Some(Canary), Some(Stable)]),
        (MAX_SPLIT, [1, 2], [Some(Canary), Some(Canary), Some(Canary)]),
        // No canary: stable has all, whatever the split.
        (MAX_SPLIT, [1, 0], [Some(Stable), Some(Stable), Some(Stable)]),
        // No stable: canary has all, unless it must not have any.
        (1, [0, 2], [Some(Canary), Some(Canary), Some(Canary)]),
        (0, [0, 2], [None, None, None]),
        (half, [0, 0], [None, None, None]),
    ] {
        let table = WeightTable { split: Split::from_parts(parts), tables, parity: 0 };
        let got = [0, half as u32, u32::MAX].map(|hash| table.track_for(hash));
        assert_eq!(got, expected, "split {parts}, tables {tables:?}");
    }
}

#[test]
fn split_is_exact_at_its_ends_and_edges() {
    assert_eq!(Split::from_fraction(0.0), Some(Split::NONE));
    assert_eq!(Split::from_fraction(-0.0), Some(Split::NONE));
    assert_eq!(Split::from_fraction(1.0), Some(Split::ALL));
    assert_eq!(Split::from_fraction(0.5).map(Split::parts), Some(1 << 31));
    assert_eq!(Split::from_parts(MAX_SPLIT + 1), Split::ALL);
    for refused in [-1e-300, 1.0 + f64::EPSILON, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(Split::from_fraction(refused), None, "{refused}");
    }
    // Of the 2^32 hashes exactly `parts` are taken: those below it.
    for parts in SPLITS {
        let split = Split::from_parts(parts);
        assert!(parts == 0 || split.takes((parts - 1) as u32), "{parts}");
        assert!(parts == MAX_SPLIT || !split.takes(parts as u32), "{parts}");
        assert_eq!(split.takes(0), parts > 0);
        assert_eq!(split.takes(u32::MAX), parts == MAX_SPLIT);
    }
}

/// Nearest: never off by more than half a part, and back again to the part.
#[test]
fn split_rounds_to_the_nearest_part() {
    for i in 0..=100_000_u32 {
        let fraction = f64::from(i) / 100_000.0;
        let Some(split) = Split::from_fraction(fraction) else { panic!("{fraction}") };
        let error = (split.fraction() - fraction).abs();
        assert!(error <= 0.5 / MAX_SPLIT as f64, "{fraction}: {error}");
        assert_eq!(Split::from_fraction(split.fraction()), Some(split));
    }
}

/// From 5 % to 10 %: nobody leaves the canary, and exactly the difference joins.
#[test]
fn a_larger_split_only_adds() {
    let (small, large) = (Split::from_parts(MAX_SPLIT / 20), Split::from_parts(MAX_SPLIT / 10));
    for hash in (0..=u32::MAX).step_by(9973) {
        assert!(!small.takes(hash) || large.takes(hash));
        let joins = u64::from(hash) >= small.parts() && u64::from(hash) < large.parts();
        assert_eq!(!small.takes(hash) && large.takes(hash), joins);
    }
}

const STATES: [FlowState; 7] = [
    FlowState::Free,
    FlowState::Claimed,
    FlowState::HalfOpen,
    FlowState::Established,
    FlowState::Closing,
    FlowState::Unanswered,
    FlowState::Answered,
];

fn generation(ctl: Ctl) -> u64 {
    ctl.0 >> 24 & 0xffff
}

#[test]
fn a_claim_names_its_flow_and_raises_the_generation() {
    for before in [0, 1, 0x1234, 0xfffe, 0xffff] {
        for state in STATES {
            let old = Ctl(0xabcdef << 40 | before << 24 | 0xffff << 8 | state as u64);
            let new = old.claimed(0x12_3456);
            assert_eq!(new.state(), FlowState::Claimed);
            assert_eq!(new.flags(), 0, "flags of the old flow do not stay");
            assert_eq!(new.tag(), 0x12_3456);
            assert_eq!(generation(new), (before + 1) & 0xffff);
            assert_ne!(new.0 & Ctl::IDENTITY, old.0 & Ctl::IDENTITY);
        }
    }
}

#[test]
fn changes_of_state_keep_who_a_way_is() {
    let claimed = Ctl(0xbeef << 24).claimed(0xff_ffff);
    let mut ctl = claimed;
    for state in STATES {
        for flags in [0, FlowFlags::ANSWERED, FlowFlags::RESET | FlowFlags::BAD, u16::MAX] {
            ctl = ctl.with(state, flags);
            assert_eq!((ctl.state(), ctl.flags()), (state, flags));
            assert_eq!(ctl.0 & Ctl::IDENTITY, claimed.0 & Ctl::IDENTITY);
        }
    }
    let freed = ctl.freed();
    assert_eq!((freed.state(), freed.flags(), freed.tag()), (FlowState::Free, 0, 0));
    assert_eq!(generation(freed), generation(claimed));
}

#[test]
fn flags_are_asked_for_all_together() {
    let both = FlowFlags::FIN_CLIENT | FlowFlags::FIN_BACKEND;
    let one = Ctl(0).with(FlowState::Established, FlowFlags::FIN_CLIENT);
    assert!(one.has(FlowFlags::FIN_CLIENT) && !one.has(FlowFlags::FIN_BACKEND) && !one.has(both));
    assert!(Ctl(0).with(FlowState::Established, both).has(both));
    let all = [
        FlowFlags::ANSWERED,
        FlowFlags::FIN_CLIENT,
        FlowFlags::FIN_BACKEND,
        FlowFlags::MIDSTREAM,
        FlowFlags::BAD,
        FlowFlags::RESET,
    ];
    assert_eq!(all.iter().fold(0, |bits, flag| bits | flag).count_ones(), all.len() as u32);
}

#[test]
fn states_survive_as_bits_and_only_half_ones_make_room() {
    for state in STATES {
        assert_eq!(FlowState::from_bits(state as u8), state);
        let half = matches!(state, FlowState::HalfOpen | FlowState::Unanswered);
        assert_eq!(state.is_evictable(), half, "{}", state.name());
    }
    for bits in 7..=u8::MAX {
        assert_eq!(FlowState::from_bits(bits), FlowState::Free);
    }
    assert_eq!(Ctl::default().state(), FlowState::Free, "a zeroed map is free");
}

#[test]
fn tags_are_the_hashs_upper_bits() {
    let hash = Hashed(0x1234_5678_9abc_def0);
    assert_eq!(Ctl::tag_of(hash), 0x12_3456);
    assert_eq!(Ctl(0).claimed(Ctl::tag_of(hash)).tag(), Ctl::tag_of(hash));
}

#[test]
fn deadlines_hold_across_the_wrap() {
    for (deadline, now, passed) in [
        (100, 99, false),
        (100, 100, false),
        (100, 101, true),
        (5, u32::MAX, false),
        (u32::MAX, 0, true),
        (u32::MAX - 3, 2, true),
        (0x8000_0000, 1, false),
        (0, 0x7fff_ffff, true),
    ] {
        assert_eq!(deadline_passed(deadline, now), passed, "{deadline} at {now}");
    }
}

#[test]
fn reasons_are_indices_with_names_of_their_own() {
    let mut names = std::collections::HashSet::new();
    for (i, reason) in Reason::ALL.iter().enumerate() {
        assert_eq!(*reason as usize, i);
        assert!(names.insert(reason.name()), "{}", reason.name());
        let plain = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(reason.name().chars().all(plain), "{}", reason.name());
    }
    assert_eq!(Reason::COUNT as usize, names.len());
}

#[test]
fn cells_add_up_in_every_field() {
    let mut one = Cell::default();
    for (value, name) in (1..).zip(Cell::NAMES) {
        one.field_mut(name).into_iter().for_each(|field| *field = value);
    }
    assert!(one.values().eq(1..=Cell::NAMES.len() as u64), "{one:?}");
    assert_eq!((one.packets_in, one.bytes_in), (1, 2));
    let mut sum = one;
    sum.add(&one);
    assert!(sum.values().eq(one.values().map(|value| 2 * value)), "{sum:?}");
    assert_eq!(sum.since(&one), one);
    assert_eq!(one.field_mut("nothing"), None);
}
