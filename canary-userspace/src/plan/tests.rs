#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeSet, net::SocketAddr};

use canary_common::{BackendFlags, FrameAddresses, Split, WeightTable};

use super::{Desired, DesiredService, Hop, Observed, Planned, Write, generation_of, plan};
use crate::config;

fn config_of(text: &str) -> config::Config {
    config::parse(&format!("interfaces = [\"eth0\"]\n{text}"), "test.toml").unwrap()
}

const WEB: &str = r#"
[service.web]
listen = "203.0.113.10:80"
stable = ["10.0.0.11:8080", "10.0.0.12:8080"]
canary = ["10.0.0.21:8080"]
"#;

fn desired(text: &str, split: f64) -> Desired {
    let services = config_of(text).services.into_iter().map(|config| DesiredService {
        config,
        split: Split::from_fraction(split).unwrap(),
        drained: BTreeSet::new(),
        unwell: BTreeSet::new(),
        salt: 0,
        generation: 0,
        steered: false,
        epoch: 0,
    });
    Desired { services: services.collect(), jiffies_per_second: 250, ..Desired::default() }
}

fn weights(after: &Observed, service: u16) -> WeightTable {
    WeightTable::unpack(after.services[&service].weights)
}

/// Position of the first write of a kind.
fn first(planned: &Planned, what: fn(&Write) -> bool) -> usize {
    planned.writes.iter().position(what).unwrap()
}

fn last(planned: &Planned, what: fn(&Write) -> bool) -> usize {
    planned.writes.iter().rposition(what).unwrap()
}

const IS_WEIGHTS: fn(&Write) -> bool = |w| matches!(w, Write::Weights { .. });
const IS_TABLE: fn(&Write) -> bool = |w| matches!(w, Write::Table { .. });
const IS_BACKEND: fn(&Write) -> bool = |w| matches!(w, Write::Backend { .. });
const IS_CLEAR: fn(&Write) -> bool = |w| matches!(w, Write::ClearCell { .. });
const IS_DIRECTORY: fn(&Write) -> bool = |w| matches!(w, Write::Directory { .. });
const IS_DROP: fn(&Write) -> bool = |w| {
    matches!(w, Write::DropTable { .. } | Write::DropBackend { .. } | Write::DropService { .. })
};

#[test]
fn a_new_service_is_named_last() {
    let planned = plan(&desired(WEB, 0.05), &Observed::default()).unwrap();
    assert!(last(&planned, IS_CLEAR) < first(&planned, IS_BACKEND));
    assert!(last(&planned, IS_BACKEND) < first(&planned, IS_TABLE));
    assert!(last(&planned, IS_TABLE) < first(&planned, IS_WEIGHTS));
    assert!(last(&planned, IS_WEIGHTS) < first(&planned, IS_DIRECTORY));
    assert_eq!(planned.after.backends.len(), 3);
    let weights = weights(&planned.after, *planned.after.services.keys().next().unwrap());
    assert!(weights.tables.iter().all(|table| *table != 0));
    assert_eq!(weights.split, Split::from_fraction(0.05).unwrap());
    // Nobody is number 0, and no cell is shared.
    let cells: BTreeSet<u16> = planned.after.backends.values().map(|b| b.cells[0]).collect();
    assert!(cells.len() == 3 && !cells.contains(&0) && !planned.after.backends.contains_key(&0));
}

#[test]
fn what_is_as_wanted_is_left_alone() {
    let wanted = desired(WEB, 0.05);
    let planned = plan(&wanted, &Observed::default()).unwrap();
    assert_eq!(plan(&wanted, &planned.after).unwrap().writes, []);
}

#[test]
fn a_split_is_fresh_cells_and_one_word() {
    let before = plan(&desired(WEB, 0.05), &Observed::default()).unwrap().after;
    let planned = plan(&desired(WEB, 0.10), &before).unwrap();
    let writes = &planned.writes;
    assert_eq!(writes.iter().filter(|w| IS_WEIGHTS(w)).count(), 1);
    assert!(!writes.iter().any(|w| IS_TABLE(w) || IS_DIRECTORY(w) || IS_DROP(w)));
    let (number, old) = before.services.iter().next().unwrap();
    let (old, new) = (WeightTable::unpack(old.weights), weights(&planned.after, *number));
    assert!(new.parity != old.parity && new.tables == old.tables);
    for (number, backend) in &*planned.after.backends {
        let (old, new) = (before.backends[number].cells, backend.cells);
        let parity = usize::from(weights(&planned.after, backend.service).parity);
        assert_ne!(new[parity], old[parity], "a fresh cell for flows born now");
        assert_eq!(new[parity ^ 1], old[parity ^ 1], "older flows keep theirs");
    }
}

#[test]
fn a_drain_changes_one_table() {
    let mut wanted = desired(WEB, 0.05);
    let before = plan(&wanted, &Observed::default()).unwrap().after;
    let drained: SocketAddr = "10.0.0.11:8080".parse().unwrap();
    wanted.services[0].drained.insert(drained);
    let planned = plan(&wanted, &before).unwrap();
    let number = *before.services.keys().next().unwrap();
    let gone = before.backend_number(number, drained).unwrap();
    let tables: Vec<_> = planned
        .writes
        .iter()
        .filter_map(|write| match write {
            Write::Table { slots, .. } => Some(slots),
            _ => None,
        })
        .collect();
    assert_eq!(tables.len(), 1);
    assert!(!tables[0].contains(&gone));
    // The old table goes when nobody can look there any more; the pins stay.
    assert!(!planned.writes.iter().any(IS_DROP));
    let old = weights(&before, number).tables[0];
    let next = plan(&wanted, &planned.after).unwrap();
    assert_eq!(next.writes, [Write::DropTable { number: old }]);
    assert!(!planned.writes.iter().any(|w| matches!(w, Write::ForgetPins { .. })));
    assert_ne!(planned.after.backends[&gone].flags & BackendFlags::PRESENT, 0);
}

/// Who is unwell leaves its track's table, and nobody else moves more than
/// Maglev moves them.
#[test]
fn who_is_unwell_leaves_and_comes_back_to_the_same_slots() {
    let stable: Vec<String> = (11..21).map(|n| format!("'10.0.0.{n}:8080'")).collect();
    let text =
        format!("[service.web]\nlisten = '203.0.113.10:80'\nstable = [{}]\n", stable.join(", "));
    let mut wanted = desired(&text, 0.0);
    let slots = |planned: &Planned| match planned.writes.iter().find_map(|write| match write {
        Write::Table { slots, .. } => Some(slots.clone()),
        _ => None,
    }) {
        Some(slots) => slots,
        None => panic!("no table: {:?}", planned.writes),
    };
    let first = plan(&wanted, &Observed::default()).unwrap();
    let unwell: SocketAddr = "10.0.0.11:8080".parse().unwrap();
    wanted.services[0].unwell.insert(unwell);
    let second = plan(&wanted, &first.after).unwrap();
    let number = *first.after.services.keys().next().unwrap();
    let gone = first.after.backend_number(number, unwell).unwrap();
    let (before, after) = (slots(&first), slots(&second));
    assert!(before.contains(&gone) && !after.contains(&gone));
    let moved = before.iter().zip(&after).filter(|(b, a)| **b != gone && b != a).count();
    assert!(moved * 20 < before.len(), "{moved} of {} slots moved needlessly", before.len());
    assert!(!second.writes.iter().any(|w| matches!(w, Write::ForgetPins { .. })));
    wanted.services[0].unwell.clear();
    assert_eq!(slots(&plan(&wanted, &second.after).unwrap()), before);
}

#[test]
fn a_track_without_usable_backends_has_no_table() {
    let mut wanted = desired(WEB, 0.5);
    wanted.services[0].drained.insert("10.0.0.21:8080".parse().unwrap());
    let planned = plan(&wanted, &Observed::default()).unwrap();
    let number = *planned.after.services.keys().next().unwrap();
    assert_eq!(weights(&planned.after, number).tables[1], 0);
}

#[test]
fn removed_backends_lose_their_pins_and_then_their_number() {
    let before = plan(&desired(WEB, 0.0), &Observed::default()).unwrap().after;
    let fewer = WEB.replace(", \"10.0.0.12:8080\"", "");
    let planned = plan(&desired(&fewer, 0.0), &before).unwrap();
    let number = *before.services.keys().next().unwrap();
    let gone = before.backend_number(number, "10.0.0.12:8080".parse().unwrap()).unwrap();
    assert!(planned.writes.contains(&Write::DropBackend { number: gone }));
    assert!(planned.writes.contains(&Write::ForgetPins { backends: vec![gone] }));
    assert!(last(&planned, IS_WEIGHTS) < first(&planned, IS_DIRECTORY));
    assert!(last(&planned, IS_DIRECTORY) < first(&planned, IS_DROP));
    // A number is used again as late as can be.
    let planned = plan(&desired(WEB, 0.0), &planned.after).unwrap();
    assert!(!planned.after.backends.contains_key(&gone));
}

#[test]
fn a_removed_service_leaves_nothing() {
    let before = plan(&desired(WEB, 0.0), &Observed::default()).unwrap().after;
    let planned = plan(
        &desired("[service.b]\nlisten = \"203.0.113.11:80\"\nstable = [\"10.0.0.1:1\"]", 0.0),
        &before,
    )
    .unwrap();
    assert_eq!((planned.after.services.len(), planned.after.backends.len()), (1, 1));
    assert_eq!(planned.after.unnamed.len(), 2);
    assert_eq!(planned.after.tables.len(), 3);
}

#[test]
fn identity_outlives_the_daemon() {
    let wanted = desired(WEB, 0.05);
    let before = plan(&wanted, &Observed::default()).unwrap().after;
    // What a new daemon finds: records, and no word of tables or directory.
    let found = Observed {
        services: before.services.clone(),
        backends: before.backends.clone(),
        cells: before.cells.clone(),
        ..Observed::default()
    };
    let planned = plan(&wanted, &found).unwrap();
    assert!(planned.after.services.keys().eq(before.services.keys()));
    assert!(planned.after.backends.keys().eq(before.backends.keys()));
    let number = *before.services.keys().next().unwrap();
    let (old, new) = (weights(&before, number), weights(&planned.after, number));
    assert_eq!(old.split, new.split);
    // Fresh tables under fresh numbers: the old ones serve until the switch.
    assert!(new.tables.iter().all(|table| !old.tables.contains(table)));
}

#[test]
fn who_shares_an_address_is_chained_and_named_once() {
    let both = format!(
        "{WEB}\n[service.other]\nlisten = \"203.0.113.20:80\"\nstable = [\"10.0.0.11:8080\"]"
    );
    let planned = plan(&desired(&both, 0.0), &Observed::default()).unwrap();
    let sharing: Vec<_> = planned
        .after
        .backends
        .iter()
        .filter(|(_, b)| b.address == "10.0.0.11".parse::<std::net::IpAddr>().unwrap().into())
        .collect();
    let [(first, head), (second, tail)] = sharing[..] else { panic!("{sharing:?}") };
    let chained = head.next_sharing == *second && tail.next_sharing == 0
        || tail.next_sharing == *first && head.next_sharing == 0;
    assert!(chained, "{head:?} {tail:?}");
    assert_eq!(planned.after.directory.len(), 2 + 3);
}

#[test]
fn next_hops_make_a_backend_reachable() {
    let mut wanted = desired(WEB, 0.0);
    let before = plan(&wanted, &Observed::default()).unwrap().after;
    assert!(before.backends.values().all(|b| b.flags & BackendFlags::RESOLVED == 0));
    let hop = Hop { ifindex: 7, frame: FrameAddresses::new([2; 6], [4; 6]) };
    wanted.hops.insert("10.0.0.21".parse().unwrap(), hop);
    let planned = plan(&wanted, &before).unwrap();
    assert_eq!(planned.writes.iter().filter(|w| IS_BACKEND(w)).count(), 1);
    assert_eq!(planned.writes[0], Write::AllowInterface { ifindex: 7 });
    assert!(!planned.writes.iter().any(IS_WEIGHTS));
}

#[test]
fn salt_and_generation_are_one_record() {
    let mut wanted = desired(WEB, 0.05);
    let before = plan(&wanted, &Observed::default()).unwrap().after;
    wanted.services[0].salt = 7;
    wanted.services[0].generation = 15;
    let planned = plan(&wanted, &before).unwrap();
    let [Write::Service { record, .. }] = planned.writes[..] else {
        panic!("{:?}", planned.writes)
    };
    assert_eq!((record.salt, record.generation), (7, 1));
    let number = *before.services.keys().next().unwrap();
    assert_eq!(weights(&planned.after, number), weights(&before, number));
}

/// Of whatever number, and the next one.
#[test]
fn a_generation_is_never_none_nor_the_one_before() {
    let mut service = desired(WEB, 0.0).services.remove(0);
    let mut of = |generation| {
        service.generation = generation;
        service.record_generation()
    };
    for generation in 0..=u8::MAX {
        let (now, next) = (of(generation), of(generation.wrapping_add(1)));
        assert!((1..=15).contains(&now) && now != next, "{generation}: {now}, {next}");
        assert_eq!(of(generation_of(now)), now);
    }
}

#[test]
fn an_epoch_begins_when_it_is_asked_for() {
    let mut wanted = desired(WEB, 0.05);
    let before = plan(&wanted, &Observed::default()).unwrap().after;
    wanted.services[0].epoch = 3;
    let planned = plan(&wanted, &before).unwrap();
    let number = *before.services.keys().next().unwrap();
    let (old, new) = (weights(&before, number), weights(&planned.after, number));
    assert_eq!(new, WeightTable { parity: old.parity ^ 1, ..old });
    assert_eq!(planned.writes.iter().filter(|w| IS_CLEAR(w)).count(), 3);
    assert_eq!(planned.writes.iter().filter(|w| IS_WEIGHTS(w)).count(), 1);
    assert!(!planned.writes.iter().any(IS_TABLE));
    // Once; and the split's own epoch is not another one.
    assert_eq!(plan(&wanted, &planned.after).unwrap().writes, []);
    wanted.services[0].epoch = 4;
    wanted.services[0].split = Split::from_fraction(0.1).unwrap();
    let planned = plan(&wanted, &planned.after).unwrap();
    assert_eq!(planned.writes.iter().filter(|w| IS_WEIGHTS(w)).count(), 1);
    assert_eq!(plan(&wanted, &planned.after).unwrap().writes, []);
    // Who asks for none in particular has any.
    wanted.services[0].epoch = 0;
    assert_eq!(plan(&wanted, &planned.after).unwrap().writes, []);
    // A daemon that remembers the number goes on with it.
    wanted.services[0].epoch = 4;
    let found = Observed { epochs: [(number, 4)].into(), ..planned.after.clone() };
    assert_eq!(plan(&wanted, &found).unwrap().writes, []);
    let forgot = Observed { epochs: [].into(), ..planned.after };
    assert!(plan(&wanted, &forgot).unwrap().writes.iter().any(IS_WEIGHTS));
}

#[test]
fn who_is_steered_has_a_cell_of_their_own_in_every_epoch() {
    let mut wanted = desired(WEB, 0.05);
    let before = plan(&wanted, &Observed::default()).unwrap().after;
    assert!(before.backends.values().all(|backend| backend.steered_cell == 0));
    wanted.services[0].steered = true;
    let planned = plan(&wanted, &before).unwrap();
    // The cells, and who has them, before the service has anybody booked there.
    let is_service: fn(&Write) -> bool = |w| matches!(w, Write::Service { .. });
    assert!(last(&planned, IS_CLEAR) < first(&planned, IS_BACKEND));
    assert!(last(&planned, IS_BACKEND) < first(&planned, is_service));
    assert!(!planned.writes.iter().any(|w| IS_WEIGHTS(w) || IS_TABLE(w)));
    let steered = planned.after.clone();
    for (number, backend) in &*steered.backends {
        assert_eq!(backend.cells, before.backends[number].cells);
        assert!(steered.cells.contains(&backend.steered_cell));
        assert!(!before.cells.contains(&backend.steered_cell));
    }
    // Another epoch, and nobody steered any more: they stay.
    wanted.services[0].split = Split::ALL;
    wanted.services[0].steered = false;
    let after = plan(&wanted, &steered).unwrap().after;
    for (number, backend) in &*after.backends {
        assert_eq!(backend.steered_cell, steered.backends[number].steered_cell);
    }
}
