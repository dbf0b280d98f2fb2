//! Established connections by the hundred thousand, of frames alone: each shakes
//! hands on the wire, and is asked later whether it is still where it was.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    spray::{Segment, Template},
    wire::Wire,
};
use crate::{
    frame::{ACK, SYN},
    lab::{Lab, PORT, VIP_V4, address},
};

/// Where their clients are: shared address space (RFC 6598), nobody's here.
const NETWORK: u32 = u32::from_be_bytes([100, 64, 0, 0]);
const ADDRESSES: u32 = 1 << 16;
const FIRST_PORT: u16 = 1024;
/// Connections under way at once: no queue on the way is that short.
const BATCH: u32 = 128;
/// A frame may be lost where a queue is full, or late where the machine has
/// other work; then it is sent again, after ever longer waits.
const TRIES: u32 = 30;
/// Of who may not be there any more.
const QUESTIONS: u32 = 6;
const PATIENCE: Duration = Duration::from_millis(60);

const SERVERS: [&str; 3] = ["s1", "s2", "c1"];
/// Sequence numbers of the client, and of its server.
const ISN: u32 = 1_000_000;
const SERVER_ISN: u32 = 2_000_000;

/// The connections, and the wires they go over.
#[derive(Debug)]
pub struct Pins {
    client: Wire,
    servers: Vec<Wire>,
    /// SYN and ACK.
    to_vip: [Template; 2],
    owners: Vec<Owner>,
}

/// Number of a server; none yet.
type Owner = Option<usize>;

/// What became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Their server's packets did not reach them as the VIP's.
    pub lost: u64,
    /// Their own went to another server.
    pub moved: u64,
}

impl Pins {
    /// Opens so many, to the service `web` of the lab. The servers' kernels
    /// hear nothing of it: what they would answer is answered here.
    ///
    /// # Errors
    /// Where some could not be opened.
    pub fn establish(lab: &Arc<Lab>, count: u32) -> Result<Self> {
        for host in SERVERS {
            deafen(lab, host)?;
        }
        let client = Wire::open(lab, "client")?;
        let servers = SERVERS.map(|host| Wire::open(lab, host));
        let servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
        let macs = (client.balancer_mac, client.own_mac);
        let to_vip = [SYN, ACK].map(|flags| Template::new(address(VIP_V4), Some(flags), macs));
        let owners = vec![None; count as usize];
        let mut pins = Self { client, servers, to_vip, owners };
        for first in (0..count).step_by(BATCH as usize) {
            let batch: Vec<u32> = (first..count.min(first + BATCH)).collect();
            pins.shake_hands(&batch)?;
        }
        let opened = pins.owners.iter().flatten().count();
        ensure!(opened == count as usize, "{opened} of {count} connections were opened");
        Ok(pins)
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.owners.len() as u64
    }

    /// How many each server has.
    #[must_use]
    pub fn on(&self) -> BTreeMap<&'static str, u64> {
        let mut on = BTreeMap::new();
        for owner in self.owners.iter().flatten() {
            *on.entry(SERVERS[*owner]).or_default() += 1;
        }
        on
    }

    /// Who is not answered begins anew, as a client does: where the flow table
    /// is full a new flow may have to make room for a newer one.
    fn shake_hands(&mut self, batch: &[u32]) -> Result<()> {
        let mut left = batch.to_vec();
        for _ in 0..TRIES {
            for (number, server) in self.to_servers(&left, SYN, TRIES)? {
                self.owners[number as usize] = Some(server);
            }
            let answered = self.to_clients(&left, SYN | ACK, QUESTIONS)?;
            let answered: Vec<u32> = answered.into_keys().collect();
            self.to_servers(&answered, ACK, TRIES)?;
            left.retain(|number| !answered.contains(number));
            if left.is_empty() {
                return Ok(());
            }
        }
        bail!("{} of {} connections were not answered", left.len(), batch.len())
    }

    /// Asks each: its server sends it a packet, and it sends one to its server.
    /// To be done under weights by which who is not pinned any more goes
    /// elsewhere.
    ///
    /// # Errors
    /// The kernel's.
    pub fn verify(&self) -> Result<Verified> {
        let mut verified = Verified::default();
        let all: Vec<u32> = (0..self.owners.len() as u32).collect();
        for batch in all.chunks(BATCH as usize) {
            let reached = self.to_clients(batch, ACK, QUESTIONS)?;
            verified.lost += (batch.len() - reached.len()) as u64;
            // With a pin or without, it is heard somewhere.
            let at = self.to_servers(batch, ACK, TRIES)?;
            ensure!(at.len() == batch.len(), "{} of {} were heard", at.len(), batch.len());
            let is_home = |(number, server): &(&u32, &usize)| {
                self.owners[**number as usize] == Some(**server)
            };
            verified.moved += at.iter().filter(|heard| !is_home(heard)).count() as u64;
        }
        Ok(verified)
    }

    /// Each client of the batch sends this; at which server it was heard.
    fn to_servers(&self, batch: &[u32], flags: u8, tries: u32) -> Result<BTreeMap<u32, usize>> {
        let template = &self.to_vip[usize::from(flags != SYN)];
        let mut heard = BTreeMap::new();
        for tried in 1..=tries {
            let missing = batch.iter().filter(|number| !heard.contains_key(*number));
            let frames: Vec<_> =
                missing.map(|number| by_client(template, *number, flags)).collect();
            if frames.is_empty() {
                break;
            }
            self.client.send(&frames)?;
            for (server, wire) in self.servers.iter().enumerate() {
                let patience = if server == 0 { PATIENCE / 10 * tried } else { Duration::ZERO };
                wire.hear(patience, |frame| {
                    let segment = Segment::read(frame).filter(|s| s.to.port() == PORT);
                    if let Some(number) = segment.and_then(|s| number_of(s.from)) {
                        heard.insert(number, server);
                    }
                    heard.len() == batch.len()
                })?;
            }
        }
        Ok(heard)
    }

    /// The server of each client of the batch sends it this; who has got it
    /// from the VIP.
    fn to_clients(&self, batch: &[u32], flags: u8, tries: u32) -> Result<BTreeMap<u32, ()>> {
        let SocketAddr::V4(vip) = address(VIP_V4) else { return Ok(BTreeMap::new()) };
        let mut heard = BTreeMap::new();
        for _ in 0..tries {
            for (server, wire) in self.servers.iter().enumerate() {
                let missing = batch.iter().filter(|number| {
                    self.owners[**number as usize] == Some(server) && !heard.contains_key(*number)
                });
                let frames: Vec<_> =
                    missing.map(|number| by_server(server, wire, *number, flags)).collect();
                wire.send(&frames)?;
            }
            let all = self.client.hear(PATIENCE, |frame| {
                let segment = Segment::read(frame).filter(|segment| segment.from == vip);
                if let Some(number) = segment.and_then(|segment| number_of(segment.to)) {
                    heard.insert(number, ());
                }
                heard.len() == batch.len()
            })?;
            if all {
                break;
            }
        }
        Ok(heard)
    }
}

fn by_client(template: &Template, number: u32, flags: u8) -> Vec<u8> {
    let isn = ISN + number;
    let (seq, ack) = if flags == SYN { (isn, 0) } else { (isn + 1, SERVER_ISN + 1) };
    template.frame(client_of(number), seq, ack)
}

/// Made from nothing: their destination is another each time.
fn by_server(server: usize, wire: &Wire, number: u32, flags: u8) -> Vec<u8> {
    let from: SocketAddr = address(&Lab::backend(SERVERS[server], false));
    let seq = if flags == ACK { SERVER_ISN + 1 } else { SERVER_ISN };
    crate::frame::Frame::tcp(from, client_of(number).into(), flags, seq, ISN + number + 1)
        .macs(wire.balancer_mac, wire.own_mac)
        .bytes()
}

fn client_of(number: u32) -> SocketAddrV4 {
    let port = FIRST_PORT + (number / ADDRESSES) as u16;
    SocketAddrV4::new(Ipv4Addr::from_bits(NETWORK + number % ADDRESSES), port)
}

/// The inverse; `None` of who is none of them.
fn number_of(client: SocketAddrV4) -> Option<u32> {
    let address = client.ip().to_bits().checked_sub(NETWORK).filter(|at| *at < ADDRESSES)?;
    let port = client.port().checked_sub(FIRST_PORT)?;
    Some(u32::from(port) * ADDRESSES + address)
}

/// Has a host's kernel ignore them.
fn deafen(lab: &Lab, host: &str) -> Result<()> {
    let rules = "table ip cny_fire { chain first { type filter hook prerouting priority raw; \
                 ip saddr 100.64.0.0/10 drop; }; }";
    lab.command(host, "nft", &[rules]).map(drop).context("making a server deaf")
}
