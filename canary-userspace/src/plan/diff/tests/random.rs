//! Long walks of changes drawn at random; the maps check each write.

use canary_common::MAX_SHARING;

use super::*;

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }

    fn address(&mut self) -> String {
        format!("10.0.0.{}:80", 1 + self.below(12))
    }
}

fn new_service(random: &mut Random, world: &World) -> Option<DesiredService> {
    let which = random.below(MAX_SHARING as usize);
    let name = format!("s{which}");
    if world.desired.services.iter().any(|s| s.config.name == name) {
        return None;
    }
    let listen = format!("192.0.2.{which}:80");
    let (stable, canary) = (random.address(), random.address());
    let canary = if stable == canary { vec![] } else { vec![canary.as_str()] };
    Some(service(&name, &listen, &[stable.as_str()], &canary))
}

fn change(random: &mut Random, world: &mut World) {
    let count = world.desired.services.len();
    let kind = random.below(9);
    if count == 0 || kind == 0 {
        world.desired.services.extend(new_service(random, world));
        world.desired.services.sort_by(|a, b| a.config.name.cmp(&b.config.name));
        return;
    }
    let index = random.below(count);
    let address = random.address().parse().unwrap();
    if kind == 1 && random.below(3) == 0 {
        world.desired.services.remove(index);
        return;
    }
    let service = &mut world.desired.services[index];
    let has = service.backends().any(|(_, b)| b.address == address);
    match kind {
        2 | 3 => service.split = fraction(random.below(101) as f64 / 100.0),
        4 if !has && random.below(2) == 0 => service.config.canary.push(backend(address)),
        4 if !has => service.config.stable.push(backend(address)),
        5 if service.config.stable.len() > 1 => {
            service.config.stable.remove(0);
        }
        5 | 6 => {
            service.config.canary.pop();
        }
        7 if service.drained.remove(&address) => {}
        7 => {
            service.drained.insert(address);
        }
        _ => service.config.stable[0].weight = random.below(4) as u32,
    }
}

fn backend(address: SocketAddr) -> config::Backend {
    config::Backend { address, weight: 1 }
}

#[test]
fn no_packet_sees_half_a_change() {
    for seed in 0..20 {
        let mut random = Random(seed);
        let mut world = World::new(Vec::new());
        for _ in 0..150 {
            for _ in 0..=random.below(3) {
                change(&mut random, &mut world);
            }
            world.resolve();
            world.settle();
            // All flows have ended: only current cells are taken.
            if random.below(10) == 0 {
                let current = world.observed.backends.values().flat_map(|b| b.cells);
                world.observed.cells = current.collect();
            }
        }
        for _ in 0..2 {
            world.settle();
        }
        assert_eq!(world.settle(), [], "seed {seed} does not come to rest");
    }
}

/// One service changed: the plan that looks at it alone is the whole one.
#[test]
fn a_change_of_one_service_is_planned_from_it_alone() {
    let mut alike = 0;
    for seed in 100..120 {
        let mut random = Random(seed);
        let mut world = World::new(Vec::new());
        for _ in 0..150 {
            let before = world.desired.services.clone();
            change(&mut random, &mut world);
            world.resolve();
            let shown = |service: &DesiredService| format!("{service:?}");
            let is_new = |s: &&DesiredService| !before.iter().any(|b| shown(b) == shown(s));
            let changed: Vec<_> = world.desired.services.iter().filter(is_new).cloned().collect();
            let some = Desired { services: changed, ..world.desired.clone() };
            let somebody_left = world.desired.services.len() < before.len();
            if let Some(some) = plan_some(&some, &world.observed).unwrap()
                && !somebody_left
            {
                let whole = plan(&world.desired, &world.observed).unwrap();
                assert_eq!(some.writes, whole.writes, "seed {seed}");
                assert_eq!(format!("{:?}", some.after), format!("{:?}", whole.after));
                alike += 1;
            }
            world.settle();
        }
    }
    assert!(alike > 1000, "{alike} only were planned so");
}
