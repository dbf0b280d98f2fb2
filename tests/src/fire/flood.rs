//! Floods of packets that nobody means, against connections that somebody does.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{
    Arrivals, Crowd, Pins, Row, Summary,
    life::frames_on,
    spray::Template,
    uplink,
    wire::{BATCH, Wire},
};
use crate::{
    frame::{ACK, SYN},
    lab::{Daemon, Lab, Stage, VIP_V4, address, wait_for},
};

/// What comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    Syn,
    Ack,
    Udp,
}

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct FloodPlan {
    /// Distinct senders of each flood.
    pub packets: u64,
    pub pins: u32,
    /// Real keep-alive connections beside them.
    pub connections: usize,
    /// Real new ones, a second.
    pub per_second: u32,
}

impl FloodPlan {
    pub const LONG: Self =
        Self { packets: 10_000_000, pins: 100_000, connections: 500, per_second: 200 };
    pub const SHORT: Self =
        Self { packets: 400_000, pins: 20_000, connections: 200, per_second: 100 };
}

/// Where they come from: benchmarking's addresses (RFC 2544).
const NETWORK: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const ADDRESSES: u64 = 1 << 17;
/// What UDP's flood is for; nobody listens there.
const UDP: &str = "203.0.113.10:53";
pub(super) const DATAGRAMS: &str = "[service.dns]\nlisten = \"203.0.113.10:53\"\nprotocol = \"udp\"\n\
                         stable = [\"10.77.1.2:5353\", \"10.77.2.2:5353\"]\n";

impl Flood {
    pub const ALL: [Self; 3] = [Self::Syn, Self::Ack, Self::Udp];

    const fn name(self) -> &'static str {
        match self {
            Self::Syn => "SYN flood",
            Self::Ack => "ACK flood",
            Self::Udp => "UDP flood",
        }
    }

    /// First of its senders' ports: those of one flood are no other's.
    const fn first_port(self) -> u16 {
        match self {
            Self::Syn => 1024,
            Self::Ack => 20_000,
            Self::Udp => 40_000,
        }
    }

    fn template(self, wire: &Wire) -> Template {
        let macs = (wire.balancer_mac, wire.own_mac);
        match self {
            Self::Syn => Template::new(address(VIP_V4), Some(SYN), macs),
            Self::Ack => Template::new(address(VIP_V4), Some(ACK), macs),
            Self::Udp => Template::new(address(UDP), None, macs),
        }
    }

    /// Sends packets of ever other senders from the client's host until the
    /// program has seen `wanted`.
    ///
    /// # Errors
    /// Where most do not arrive.
    pub fn send(self, lab: &Lab, wanted: u64) -> Result<Flooded> {
        let (_, end) = Wire::for_floods(lab)?;
        let came = || frames_on(lab, &end);
        let before = came()?;
        let begun = Instant::now();
        let (mut number, mut sent, mut arrived) = (0, 0, 0);
        // Others come by that wire too, so both must be so.
        while arrived.min(sent) < wanted {
            let round = (wanted - arrived.min(sent)).clamp(BATCH as u64, 1 << 18);
            sent += self.burst(lab, number, round)?;
            number += round;
            arrived = came()? - before;
            ensure!(number < 4 * wanted + (1 << 20), "of {sent} packets {arrived} arrived");
        }
        Ok(Flooded { sent, seconds: begun.elapsed().as_secs_f64() })
    }

    /// Sends packets of `count` senders, from that number on, whatever becomes
    /// of them; how many the wire has taken.
    ///
    /// # Errors
    /// Where there is no wire.
    pub fn burst(self, lab: &Lab, first: u64, count: u64) -> Result<u64> {
        let (wire, _) = Wire::for_floods(lab)?;
        let template = self.template(&wire);
        let mut sent = 0;
        for batch in (first..first + count).step_by(BATCH) {
            let numbers = batch..(first + count).min(batch + BATCH as u64);
            let frame = |number| template.frame(self.sender(number), number as u32, 1);
            sent += wire.send(&numbers.map(frame).collect::<Vec<_>>())? as u64;
        }
        Ok(sent)
    }

    fn sender(self, number: u64) -> SocketAddrV4 {
        let port = self.first_port() + (number / ADDRESSES) as u16;
        SocketAddrV4::new(Ipv4Addr::from_bits(NETWORK + (number % ADDRESSES) as u32), port)
    }
}

/// A flood that is over.
#[derive(Clone, Copy, Debug)]
pub struct Flooded {
    pub sent: u64,
    pub seconds: f64,
}

/// Packets that the program has seen.
///
/// # Errors
/// Where the daemon does not answer.
pub(super) fn seen(daemon: &Daemon) -> Result<u64> {
    Ok(daemon.status()?.verdicts.iter().map(|verdict| verdict.packets).sum())
}

/// Each kind against the same pins.
///
/// # Errors
/// Where something does not come up; what was cut or moved is in the rows.
pub fn floods(plan: &FloodPlan) -> Result<Vec<Row>> {
    let mut lab = Lab::new("flood")?;
    uplink::add(&mut lab)?;
    let stage = Stage::in_lab(lab, "", "")?;
    let text = std::fs::read_to_string(&stage.daemon.config)?;
    std::fs::write(&stage.daemon.config, text + DATAGRAMS)?;
    stage.daemon.cli(&["reload"])?;
    stage.daemon.cli(&["weight", "web", "30%"])?;
    let pins = Pins::establish(&stage.lab, plan.pins)?;
    let on = pins.on();
    ensure!(on.len() == 3, "all three servers have some: {on:?}");
    let mut crowd =
        Crowd::start(&stage.lab, address(VIP_V4), plan.connections, Duration::from_secs(1))?;
    let mut rows = Vec::new();
    for flood in Flood::ALL {
        rows.push(against(&stage, flood, &pins, &mut crowd, plan)?);
    }
    drop(crowd);
    stage.end()?;
    Ok(rows)
}

fn against(
    stage: &Stage,
    flood: Flood,
    pins: &Pins,
    crowd: &mut Crowd,
    plan: &FloodPlan,
) -> Result<Row> {
    let to: SocketAddr = address(VIP_V4);
    let evicted = |stage: &Stage| counted(stage, |counters| counters.evicted);
    let before = evicted(stage)?;
    let arrivals = Arrivals::start(&stage.lab, to, plan.per_second);
    let flooded = flood.send(&stage.lab, plan.packets)?;
    let arrivals = Summary::of(&arrivals.stop()?);
    let over = Instant::now();
    wait_for("connections as quick as before", Duration::from_secs(30), || quick(stage, to))?;
    let recovered = over.elapsed();
    let report = crowd.lap()?;
    // Who is not pinned any more goes elsewhere now.
    let s1 = Lab::backend("s1", false);
    stage.daemon.cli(&["weight", "web", "0%"])?;
    stage.daemon.cli(&["drain", "web", &s1])?;
    let verified = pins.verify()?;
    stage.daemon.cli(&["drain", "web", &s1, "--undo"])?;
    stage.daemon.cli(&["weight", "web", "30%"])?;
    let overflow = stage.daemon.status()?.data_plane.flows.overflow;
    let rate = plan.packets as f64 / flooded.seconds / 1e3;
    let notes = format!(
        "{} pins and {} real connections; {rate:.0} thousand packets a second; {}; {} half-open \
         flows made room, {overflow} are in the overflow map",
        pins.count(),
        report.connections,
        arrivals.words(),
        evicted(stage)? - before,
    );
    let mut row = Row::of(&format!("{} of {} senders", flood.name(), plan.packets), &report);
    row.connections += pins.count();
    row.cut += verified.lost;
    row.moved += verified.moved;
    ensure!(arrivals.answered > 0, "nobody got in: {arrivals:?}");
    Ok(row.recovered(recovered).notes(notes))
}

/// Ten connections in a row that are made at once.
pub(super) fn quick(stage: &Stage, to: SocketAddr) -> bool {
    let begun = Instant::now();
    let all = crate::lab::at(&stage.lab, "client", || {
        (0..10).all(|_| matches!(crate::lab::fetch(to), crate::lab::Outcome::Answered(_)))
    });
    all.is_ok_and(|all| all) && begun.elapsed() < Duration::from_millis(200)
}

/// A counter over all backends.
pub(super) fn counted(
    stage: &Stage,
    counter: impl Fn(&canary::api::types::Counters) -> u64,
) -> Result<u64> {
    let status = stage.daemon.status()?;
    let tracks = status.services.iter().flat_map(|service| &service.tracks);
    Ok(tracks.flat_map(|track| &track.backends).map(|backend| counter(&backend.counters)).sum())
}
