//! Programs that canary is measured beside, from user space.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData},
    programs::{Xdp, XdpMode},
};
use canary::{dataplane::BENCH_OBJECT, plan::checksum_deltas};
use canary_common::{FrameAddresses, NatTarget};

use super::wrapper::{Shot, Wrapper, load, program_of};
use crate::plane::{BACKEND_MAC, DROP, OWN_MAC, PASS, TX};

/// What they are; each does more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rival {
    Pass,
    Drop,
    /// Parses Ethernet, IPv4 and TCP, swaps the MACs, sends back.
    Swap,
    /// The same with a look-up in a map of the kind `LRU_HASH`.
    Lru,
    /// A stateless NAT.
    Nat,
}

impl Rival {
    const ALL: [Self; 5] = [Self::Pass, Self::Drop, Self::Swap, Self::Lru, Self::Nat];

    const fn program(self) -> &'static str {
        match self {
            Self::Pass => "canary_pass",
            Self::Drop => "canary_drop",
            Self::Swap => "canary_swap",
            Self::Lru => "canary_lru",
            Self::Nat => "canary_nat",
        }
    }

    /// What it answers with.
    #[must_use]
    pub const fn action(self) -> u32 {
        match self {
            Self::Pass => PASS,
            Self::Drop => DROP,
            Self::Swap | Self::Lru | Self::Nat => TX,
        }
    }
}

const FILL: &str = "canary_lru_fill";
/// Slots of the NAT's table, and targets behind it.
const NAT_SLOTS: u32 = 65_537;
const NAT_TARGETS: u32 = 16;

/// All of them, with their maps.
#[allow(missing_debug_implementations, reason = "aya's programs have none")]
pub struct Rivals {
    ebpf: Ebpf,
    misses: Array<MapData, u64>,
}

impl Rivals {
    /// With room for so many flows in the map of flows, and a NAT of `vip`.
    ///
    /// # Errors
    /// Without root, or before Linux 5.18, which knows no multi-buffer frames.
    pub fn load(entries: u32, vip: SocketAddr) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        let mut ebpf = loader
            .map_max_entries("LRU", entries)
            .load(BENCH_OBJECT)
            .context("the benchmark's object")?;
        for name in Rival::ALL.map(Rival::program).into_iter().chain([FILL]) {
            load(&mut ebpf, name)?;
        }
        let mut map = |name: &str| ebpf.take_map(name).with_context(|| format!("no map {name}"));
        fill_nat(&mut Array::try_from(map("NAT_SLOTS")?)?, map("NAT_TARGETS")?.try_into()?, vip)?;
        let misses = Array::try_from(map("MISSES")?)?;
        Ok(Self { ebpf, misses })
    }

    /// # Errors
    /// Where the object has no such program.
    pub fn program(&self, rival: Rival) -> Result<&Xdp> {
        program_of(&self.ebpf, rival.program())
    }

    /// Puts all of a shot's flows into the map of flows.
    ///
    /// # Errors
    /// Where one finds no room.
    pub fn fill(&self, wrapper: &mut Wrapper, shot: &mut Shot) -> Result<()> {
        let flows = shot.flows();
        let ran = wrapper.run(program_of(&self.ebpf, FILL)?, shot, flows)?;
        ran.answered(TX).context("filling the map of flows")?;
        self.no_misses()
    }

    /// Has these interfaces of this thread's namespace drop what comes in.
    ///
    /// # Errors
    /// Where one is not there, or knows no native programs.
    pub fn drop_on(&mut self, interfaces: &[&str]) -> Result<()> {
        let program = self.ebpf.program_mut(Rival::Drop.program()).context("no program")?;
        let program: &mut Xdp = program.try_into()?;
        for interface in interfaces {
            program
                .attach(interface, XdpMode::Driver)
                .with_context(|| format!("attaching to {interface}"))?;
        }
        Ok(())
    }

    /// # Errors
    /// Where a program did not find what was put there.
    pub fn no_misses(&self) -> Result<()> {
        let misses = self.misses.get(&0, 0)?;
        ensure!(misses == 0, "{misses} packets of the references found nothing");
        Ok(())
    }
}

fn fill_nat(
    slots: &mut Array<MapData, u32>,
    mut targets: Array<MapData, NatTarget>,
    vip: SocketAddr,
) -> Result<()> {
    for i in 0..NAT_TARGETS {
        let address = std::net::Ipv4Addr::from(0xac10_0100 + i);
        let (address_delta, transport_delta) =
            checksum_deltas(vip, SocketAddr::from((address, 8080)));
        let target = NatTarget {
            address_be: u32::from_ne_bytes(address.octets()),
            port_be: 8080_u16.to_be(),
            address_delta,
            transport_delta,
            reserved: 0,
            frame: FrameAddresses::new(BACKEND_MAC, OWN_MAC),
        };
        targets.set(i, target, 0)?;
    }
    for slot in 0..NAT_SLOTS {
        slots.set(slot, slot % NAT_TARGETS, 0)?;
    }
    Ok(())
}
