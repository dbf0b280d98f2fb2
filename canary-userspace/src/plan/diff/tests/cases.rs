//! One rule a test.

use canary_common::{Address, MAX_CELLS, MAX_SPLIT};

use super::*;

const CLIENTS: u32 = 20_000;

fn picks(world: &World) -> Vec<(Track, u16)> {
    (0..CLIENTS).map(|client| world.maps.pick(world.number(0), client).unwrap()).collect()
}

#[test]
fn a_settled_world_needs_nothing() {
    let mut world = World::new(vec![web()]);
    assert!(!world.settle().is_empty());
    assert_eq!(world.settle(), []);
}

#[test]
fn more_split_moves_only_stable_flows_to_canary() {
    let mut world = World::new(vec![web()]);
    world.settle();
    let mut before = picks(&world);
    for percent in [0.05, 0.1, 0.5, 1.0] {
        world.service("web").split = fraction(percent);
        world.settle();
        let after = picks(&world);
        for (old, new) in before.iter().zip(&after) {
            let moved_up = (old.0, new.0) == (Track::Stable, Track::Canary);
            assert!(old == new || moved_up, "{old:?} became {new:?}");
        }
        let canary = after.iter().filter(|(track, _)| *track == Track::Canary).count();
        let share = canary as f64 / f64::from(CLIENTS);
        assert!((share - percent).abs() < 0.015, "{share} instead of {percent}");
        before = after;
    }
}

#[test]
fn a_split_is_one_word_and_fresh_cells() {
    let mut world = World::new(vec![web()]);
    world.settle();
    let old = world.maps.clone();
    world.service("web").split = fraction(0.25);
    let writes = world.settle();
    let count = |is: fn(&Write) -> bool| writes.iter().filter(|write| is(write)).count();
    assert_eq!(count(|w| matches!(w, Write::Weights { .. })), 1);
    assert_eq!(count(|w| matches!(w, Write::ClearCell { .. })), 3);
    assert_eq!(count(|w| matches!(w, Write::Backend { .. })), 3);
    assert_eq!(writes.len(), 7, "{writes:?}");
    let word = |maps: &Maps| WeightTable::unpack(maps.services[&world.number(0)].weights);
    let (before, now) = (word(&old), word(&world.maps));
    assert_eq!(now.split.parts(), MAX_SPLIT / 4);
    assert_eq!(now.tables, before.tables);
    assert_ne!(now.parity, before.parity);
    for (number, record) in &world.maps.backends {
        let former = old.backends[number];
        let parity = usize::from(before.parity);
        assert_eq!(record.cells[parity], former.cells[parity], "older flows' cell stays");
        assert_ne!(record.cells[parity ^ 1], former.cells[parity ^ 1]);
    }
}

#[test]
fn drained_and_weightless_backends_have_no_slot() {
    let mut world = World::new(vec![web()]);
    world.service("web").split = fraction(0.5);
    world.service("web").config.stable[0].weight = 0;
    world.settle();
    let stable = world.observed.backend_number(world.number(0), "10.0.0.12:80".parse().unwrap());
    let chosen = picks(&world);
    assert!(chosen.iter().any(|(track, _)| *track == Track::Canary));
    assert!(chosen.iter().filter(|(t, _)| *t == Track::Stable).all(|(_, n)| Some(*n) == stable));

    let canary = "10.0.0.21:80".parse().unwrap();
    world.service("web").drained.insert(canary);
    world.settle();
    assert!(picks(&world).iter().all(|(track, _)| *track == Track::Stable));
    let word = WeightTable::unpack(world.maps.services[&world.number(0)].weights);
    assert_eq!((word.tables[1], word.split), (0, fraction(0.5)));
    // The record stays: older flows are pinned to it.
    assert!(world.observed.backend_number(world.number(0), canary).is_some());
}

#[test]
fn numbers_stay_and_come_back_late() {
    let mut world = World::new(vec![web()]);
    world.settle();
    let number = |world: &World, address: &str| {
        world.observed.backend_number(world.number(0), address.parse().unwrap())
    };
    let (gone, kept) = (number(&world, "10.0.0.12:80"), number(&world, "10.0.0.11:80"));
    world.service("web").config.stable = backends(&["10.0.0.11:80", "10.0.0.13:80"]);
    world.resolve();
    let writes = world.settle();
    assert_eq!(number(&world, "10.0.0.11:80"), kept);
    assert_eq!(number(&world, "10.0.0.12:80"), None);
    assert!(writes.contains(&Write::DropBackend { number: gone.unwrap() }));
    assert_eq!(writes.last(), Some(&Write::ForgetPins { backends: vec![gone.unwrap()] }));
    world.service("web").config.stable = backends(&["10.0.0.11:80", "10.0.0.14:80"]);
    world.resolve();
    world.settle();
    assert_ne!(number(&world, "10.0.0.14:80"), gone, "reused though others were never used");
}

#[test]
fn a_dropped_table_outlives_the_packets_that_may_look_there() {
    let mut world = World::new(vec![web()]);
    world.settle();
    let dropped = |writes: &[Write]| -> Vec<u16> {
        let number = |write: &Write| match write {
            Write::DropTable { number } => Some(*number),
            _ => None,
        };
        writes.iter().filter_map(number).collect()
    };
    let former = WeightTable::unpack(world.maps.services[&world.number(0)].weights).tables[0];
    world.service("web").config.stable[0].weight = 3;
    assert!(dropped(&world.settle()).is_empty());
    assert_eq!(dropped(&world.settle()), [former]);
    assert_eq!(world.settle(), []);
}

#[test]
fn a_taken_over_service_keeps_numbers_and_split() {
    let mut world = World::new(vec![web()]);
    world.service("web").split = fraction(0.3);
    world.settle();
    let (services, records) = (world.maps.services.clone(), world.maps.backends.clone());
    // What a new daemon reads from the maps.
    world.observed = Observed {
        services: services.clone().into_iter().collect(),
        backends: records.clone().into_iter().collect(),
        cells: records.values().flat_map(|b| b.cells).collect(),
        ..Observed::default()
    };
    world.settle();
    assert!(services.keys().eq(world.maps.services.keys()));
    for (number, record) in &world.maps.backends {
        let former = &records[number];
        assert_eq!((record.address, record.service), (former.address, former.service));
    }
    let word = |s: &Service| WeightTable::unpack(s.weights);
    let number = world.number(0);
    assert_eq!(word(&world.maps.services[&number]).split, word(&services[&number]).split);
}

#[test]
fn shared_backends_are_found_by_all_their_services() {
    let shared = ["10.0.0.11:80"];
    let mut world = World::new(vec![
        service("b", "192.0.2.2:80", &shared, &[]),
        service("c", "192.0.2.3:80", &shared, &["10.0.0.12:80"]),
    ]);
    world.settle();
    // One that comes first in the order of names, then the middle one goes.
    world.desired.services.insert(0, service("a", "192.0.2.1:80", &shared, &[]));
    world.settle();
    world.desired.services.remove(1);
    world.settle();
    let heads = world.observed.directory.iter().filter(|(key, _)| {
        key.kind == canary_common::EntryKind::Backend as u8
            && key.address == Address::from("10.0.0.11".parse::<std::net::IpAddr>().unwrap())
    });
    assert_eq!(heads.count(), 1);
}

#[test]
fn a_number_between_two_sharing_ones_breaks_no_chain() {
    let shared = ["10.0.0.11:80"];
    let behind = |name: &str, last: u8| service(name, &format!("192.0.2.{last}:80"), &shared, &[]);
    let mut world = World::new(vec![behind("a", 1), behind("b", 2), behind("c", 3)]);
    world.settle();
    world.desired.services.remove(1);
    world.settle();
    let who = |world: &World, index| {
        world.observed.backend_number(world.number(index), shared[0].parse().unwrap()).unwrap()
    };
    // All other numbers were given out meanwhile.
    world.observed.cursor.backend = who(&world, 0);
    world.desired.services.push(behind("d", 4));
    world.settle();
    assert!((who(&world, 0)..who(&world, 1)).contains(&who(&world, 2)));
}

#[test]
fn a_silent_neighbour_keeps_its_last_next_hop() {
    let mut world = World::new(vec![web()]);
    let silent = "10.0.0.21:80".parse::<SocketAddr>().unwrap();
    world.desired.hops.remove(&silent.ip());
    world.settle();
    let record = |world: &World| {
        world.maps.backends[&world.observed.backend_number(world.number(0), silent).unwrap()]
    };
    assert_eq!(record(&world).flags & BackendFlags::RESOLVED, 0);
    world.resolve();
    let writes = world.settle();
    assert_eq!(record(&world).flags & BackendFlags::RESOLVED, BackendFlags::RESOLVED);
    assert!(
        writes.iter().all(|w| matches!(w, Write::Backend { .. } | Write::AllowInterface { .. }))
    );
    world.desired.hops.remove(&silent.ip());
    assert_eq!(world.settle(), []);
    // Another way is taken as soon as there is one.
    let frame = FrameAddresses::new([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 8]);
    world.desired.hops.insert(silent.ip(), Hop { ifindex: 7, frame });
    world.settle();
    assert_eq!((record(&world).ifindex, record(&world).frame), (7, frame));
}

#[test]
fn without_free_cells_a_split_changes_all_the_same() {
    let mut world = World::new(vec![web()]);
    world.service("web").split = fraction(0.5);
    world.settle();
    world.observed.cells.extend(1..MAX_CELLS as u16);
    world.service("web").split = Split::NONE;
    let planned = plan(&world.desired, &world.observed).unwrap();
    assert!(planned.short_of_cells);
    world.maps.carry_out(&planned);
    let word = WeightTable::unpack(world.maps.services[&world.number(0)].weights);
    assert_eq!(word.split, Split::NONE);
    // A new backend would count nowhere.
    world.service("web").config.canary = backends(&["10.0.0.22:80"]);
    assert_eq!(plan(&world.desired, &planned.after).map(|_| ()), Err(Full::Cells));
}

#[test]
fn wherever_writes_fail_the_next_plan_mends_it() {
    let mut settled = World::new(vec![web(), service("x", "192.0.2.9:53", &["10.0.0.9:53"], &[])]);
    settled.settle();
    let mut wanted = settled.desired.clone();
    wanted.services[0].split = fraction(0.5);
    wanted.services[0].config.stable = backends(&["10.0.0.12:80", "10.0.0.13:80"]);
    wanted.services[1] = service("y", "192.0.2.8:53", &["10.0.0.9:53"], &["10.0.0.8:53"]);
    let planned = plan(&wanted, &settled.observed).unwrap();
    for done in 0..=planned.writes.len() {
        // Once forward again, once back to what was.
        for next in [&wanted, &settled.desired] {
            let mut world = settled.clone();
            world.maps.carry_out_part(&planned, done);
            let uncertain = world.observed.uncertain(&planned.after);
            let again = plan(next, &uncertain).unwrap();
            let count = again.writes.len();
            world.maps.carry_out_part(&again, count);
            world.desired = next.clone();
            world.observed = again.after;
            // What the failed plan made and nothing names goes last.
            for _ in 0..2 {
                let writes = plan(&world.desired, &world.observed).unwrap();
                assert!(writes.writes.iter().all(|w| matches!(w, Write::DropTable { .. })));
                world.observed = writes.after;
            }
            assert_eq!(world.maps.services, *world.observed.services, "after {done} writes");
            assert_eq!(world.maps.backends, *world.observed.backends, "after {done} writes");
            assert_eq!(world.maps.directory.len(), world.observed.directory.len());
        }
    }
}
