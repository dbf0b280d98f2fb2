#![allow(clippy::unwrap_used, reason = "tests")]

mod cases;
mod maps;
mod random;

use std::net::SocketAddr;

use canary_common::{FrameAddresses, Split};

use self::maps::Maps;
use super::{super::Hop, *};
use crate::config;

/// What is wanted, what is in the maps, and what the daemon believes is.
#[derive(Clone, Default)]
struct World {
    desired: Desired,
    maps: Maps,
    observed: Observed,
}

impl World {
    fn new(services: Vec<DesiredService>) -> Self {
        let mut world = Self::default();
        world.desired.jiffies_per_second = 250;
        world.desired.services = services;
        world.resolve();
        world
    }

    /// Every backend gets a next hop.
    fn resolve(&mut self) {
        let addresses: Vec<SocketAddr> = self
            .desired
            .services
            .iter()
            .flat_map(|service| service.backends().map(|(_, b)| b.address).collect::<Vec<_>>())
            .collect();
        for address in addresses {
            let frame = FrameAddresses::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
            self.desired.hops.entry(address.ip()).or_insert(Hop { ifindex: 3, frame });
        }
    }

    /// Plans, carries out, checks.
    fn settle(&mut self) -> Vec<Write> {
        let planned = plan(&self.desired, &self.observed).unwrap();
        self.maps.carry_out(&planned);
        self.observed = planned.after;
        planned.writes
    }

    fn service(&mut self, name: &str) -> &mut DesiredService {
        self.desired.services.iter_mut().find(|s| s.config.name == name).unwrap()
    }

    fn number(&self, index: usize) -> u16 {
        let config = &self.desired.services[index].config;
        self.observed.service_number(config.listen, protocol_number(config.protocol)).unwrap()
    }
}

fn backends(addresses: &[&str]) -> Vec<config::Backend> {
    let backend = |a: &&str| config::Backend { address: a.parse().unwrap(), weight: 1 };
    addresses.iter().map(backend).collect()
}

fn service(name: &str, listen: &str, stable: &[&str], canary: &[&str]) -> DesiredService {
    DesiredService {
        config: config::Service {
            signals: canary_common::Signals::ALL,
            name: name.to_owned(),
            listen: listen.parse().unwrap(),
            protocol: config::Protocol::Tcp,
            stable: backends(stable),
            canary: backends(canary),
            weight: 0.0,
            affinity: config::Affinity::Flow,
            seed: name.to_owned(),
            table_size: 251,
            timeouts: config::Timeouts::default(),
            rollback: config::Rollback::default(),
            rollout: None,
            evidence: config::Evidence::default(),
            health: Default::default(),
            steer: Vec::new(),
        },
        split: Split::NONE,
        drained: BTreeSet::new(),
        unwell: BTreeSet::new(),
        salt: 0,
        generation: 0,
        steered: false,
        epoch: 0,
    }
}

fn web() -> DesiredService {
    let stable = ["10.0.0.11:80", "10.0.0.12:80"];
    service("web", "192.0.2.1:80", &stable, &["10.0.0.21:80"])
}

fn fraction(fraction: f64) -> Split {
    Split::from_fraction(fraction).unwrap()
}
