//! The daemon in a lab, with a configuration of a given size.

use std::{fmt::Write as _, net::SocketAddr};

use anyhow::{Result, ensure};
use canary::dataplane::{Dataplane, OpenOptions};
use canary_common::Signals;

use super::table;
use crate::{
    lab::{Daemon, Lab},
    register::InForce,
};

/// Of labs here.
const NAME: &str = "user";
/// Where all backends are. One host has all the addresses: by default a host
/// keeps 1,024 neighbours at most, so racks of more are behind a router.
const FAR_NETWORK: &str = "10.128.0.0/16";

/// A size of configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    services: usize,
    /// Of each service; one of them is the canary's.
    backends: usize,
    table_size: u32,
    /// Room in the flow table.
    flows: u32,
}

impl Shape {
    pub(super) const ONE: Self = Self {
        name: "1 service, 3 backends",
        services: 1,
        backends: 3,
        table_size: 16_381,
        flows: super::MILLION,
    };
    /// As many as there may be.
    pub(super) const WIDE: Self = Self {
        name: "512 services, 4,096 backends",
        services: 512,
        backends: 8,
        table_size: 16_381,
        flows: 262_144,
    };
    /// All in one service, and the largest table there is.
    pub(super) const DEEP: Self = Self {
        name: "1 service, 4,096 backends",
        services: 1,
        backends: 4096,
        table_size: 131_071,
        flows: 262_144,
    };
}

/// What a text differs in from the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// So many services have another first backend.
    pub(super) services: usize,
}

/// A lab with a daemon. Dropped front to back.
#[derive(Debug)]
pub(super) struct Bed {
    pub(super) daemon: Daemon,
    pub(super) lab: Lab,
    pub(super) shape: Shape,
}

impl Bed {
    /// The daemon is not started yet.
    pub(super) fn new(shape: Shape) -> Result<Self> {
        let lab = Lab::new(NAME)?;
        let gateway = Lab::address("s1", false);
        lab.command("lb", "ip", &["route", "add", FAR_NETWORK, "via", &gateway])?;
        lab.command("s1", "ip", &["route", "add", "local", FAR_NETWORK, "dev", "lo"])?;
        let daemon = Daemon::prepare(&lab, &text(&lab, shape, Change::default()))?;
        Ok(Self { daemon, lab, shape })
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<()> {
        self.daemon.cli(&["detach"])?;
        let Self { daemon, lab, .. } = self;
        drop(daemon);
        lab.remove();
        let left = lab.residue();
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }

    /// Another configuration, for the next reload.
    pub(super) fn rewrite(&self, change: Change) -> Result<()> {
        Ok(std::fs::write(&self.daemon.config, text(&self.lab, self.shape, change))?)
    }

    /// What a service listens at.
    pub(super) fn listen(number: usize) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 1 + (number / 64) as u8], 8000 + (number % 64) as u16))
    }

    /// A backend's address.
    pub(super) fn far(service: usize, backend: usize) -> SocketAddr {
        let number = (service * 8 + backend) as u16;
        let [high, low] = number.to_be_bytes();
        SocketAddr::from(([10, 128, high, low], 8080))
    }

    /// Has new flows to the first service in the daemon's own table, by the
    /// real program.
    pub(super) fn fill(&self, flows: u32) -> Result<()> {
        let options = OpenOptions {
            bpffs: self.lab.bpffs(),
            flows,
            log: false,
            signals: Signals::ALL,
            sole: false,
        };
        let (plane, _) = Dataplane::open(&options)?;
        table::fill(&plane, Self::listen(0), flows)
    }

    /// The first service as the program sees it.
    pub(super) fn in_force(&self) -> Result<InForce> {
        InForce::open(&self.lab.bpffs(), Self::listen(0))
    }
}

/// The first service's name.
pub(super) const FIRST: &str = "s000";

/// The configuration. The first service is UDP: its first datagram is a
/// forwarded packet, and pins a flow.
fn text(lab: &Lab, shape: Shape, change: Change) -> String {
    let directory = lab.directory.display();
    let interfaces: Vec<_> = lab.interfaces.iter().map(|name| format!("{name:?}")).collect();
    let mut text = format!(
        "interfaces = [{}]\nflows = {}\nsocket = \"{directory}/canary.sock\"\nbpffs = {:?}\n\
         state_dir = \"{directory}/state\"\n\n[timeouts]\nunanswered = \"1h\"\nanswered = \"1h\"\n",
        interfaces.join(", "),
        shape.flows,
        lab.bpffs()
    );
    for service in 0..shape.services {
        let mut backends: Vec<String> =
            (0..shape.backends).map(|backend| Bed::far(service, backend).to_string()).collect();
        if service < change.services {
            // Of another number than any there is.
            backends[0] = Bed::far(shape.services + service, 0).to_string();
        }
        let canary = backends.pop().unwrap_or_default();
        let protocol = if service == 0 { "udp" } else { "tcp" };
        write!(
            text,
            "\n[service.s{service:03}]\nlisten = \"{}\"\nprotocol = {protocol:?}\n\
             table_size = {}\nstable = {backends:?}\ncanary = [{canary:?}]\n",
            Bed::listen(service),
            shape.table_size,
        )
        .ok();
    }
    text
}
