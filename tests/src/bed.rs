//! A service with a stable and a canary backend under test runs, and what one
//! packet must come to: verdict, reason, every byte, and what is counted.
#![allow(clippy::missing_errors_doc, reason = "every one of them is the test's failure")]

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use canary_common::{Cell, Reason, SharedCell, Signals, Track};

use crate::{
    frame::{ACK, Frame, SYN},
    netns::in_new_namespace,
    plane::{BACKEND_MAC, INGRESS, NewBackend, OWN_MAC, PASS, Plane, TX},
};

pub const STABLE: u16 = 1;
pub const CANARY: u16 = 2;
pub const ISN: u32 = 1000;
pub const BACKEND_ISN: u32 = 900_000;

/// One service with a stable and a canary backend; all to stable.
#[derive(Debug)]
pub struct Bed {
    pub plane: Plane,
    pub vip: SocketAddr,
    pub client: SocketAddr,
    pub stable: SocketAddr,
    pub canary: SocketAddr,
    pub udp: bool,
}

pub fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

impl Bed {
    pub fn new(v6: bool, udp: bool) -> Result<Self> {
        Self::with(v6, udp, 4096, INGRESS, true)
    }

    pub fn with(v6: bool, udp: bool, flows: u32, out: u32, resolved: bool) -> Result<Self> {
        Self::make(v6, udp, flows, (out, resolved), Signals::ALL)
    }

    /// The same with these signals only, switched at load.
    pub fn with_signals(v6: bool, signals: u16) -> Result<Self> {
        Self::make(v6, false, 4096, (INGRESS, true), signals)
    }

    fn make(
        v6: bool,
        udp: bool,
        flows: u32,
        (out, resolved): (u32, bool),
        signals: u16,
    ) -> Result<Self> {
        let [vip, client, stable, canary] = match v6 {
            false => ["203.0.113.10:80", "198.51.100.7:40000", "10.0.0.11:8080", "10.0.0.21:8081"],
            true => [
                "[2001:db8::10]:80",
                "[2001:db8:1::7]:40000",
                "[fd00::11]:8080",
                "[fd00:0:0:1::21]:8081",
            ],
        }
        .map(address);
        let mut plane = Plane::with_signals(flows, signals)?;
        plane.service(1, vip, udp, 0)?;
        let backend = NewBackend {
            number: STABLE,
            service: 1,
            track: Track::Stable,
            vip,
            address: stable,
            udp,
            ifindex: out,
            resolved,
            shares_with: None,
        };
        plane.backend(&backend)?;
        plane.backend(&NewBackend {
            number: CANARY,
            track: Track::Canary,
            address: canary,
            ..backend
        })?;
        plane.weights(1, 0.0, &[STABLE], &[CANARY])?;
        Ok(Self { plane, vip, client, stable, canary, udp })
    }

    pub fn syn(&self) -> Frame {
        Frame::tcp(self.client, self.vip, SYN, ISN, 0)
    }

    pub fn opening(&self) -> Frame {
        if self.udp { Frame::udp(self.client, self.vip).payload(b"question") } else { self.syn() }
    }

    pub fn client_says(&self, flags: u8) -> Frame {
        Frame::tcp(self.client, self.vip, flags, ISN + 1, BACKEND_ISN + 1)
    }

    pub fn syn_ack(&self) -> Frame {
        Frame::tcp(self.stable, self.client, SYN | ACK, BACKEND_ISN, ISN + 1)
    }

    pub fn backend_says(&self, flags: u8) -> Frame {
        Frame::tcp(self.stable, self.client, flags, BACKEND_ISN + 1, ISN + 1)
    }

    /// What the client's frame must become.
    pub fn towards(&self, frame: &Frame, backend: SocketAddr) -> Frame {
        Frame { to: backend, ttl: frame.ttl - 1, ..frame.clone() }.macs(BACKEND_MAC, OWN_MAC)
    }

    /// What the backend's frame must become: back the way the client's came.
    pub fn back(&self, frame: &Frame) -> Frame {
        let client = self.opening();
        Frame { from: self.vip, ttl: frame.ttl - 1, ..frame.clone() }
            .macs(client.from_mac, client.to_mac)
    }

    /// Runs `frame`; it must leave with `reason`, translated to `becomes`, and
    /// be counted at `backend` as `counts` says.
    pub fn expect(
        &mut self,
        frame: &Frame,
        reason: Reason,
        becomes: &Frame,
        backend: u16,
        counts: impl FnOnce(&mut Cell),
    ) -> Result<()> {
        let (mut expected, _) = self.plane.counters(backend)?;
        let ran = self.plane.run(&frame.bytes())?;
        ensure!(ran.reason == reason, "{:?} instead of {reason:?}", ran.reason);
        ensure!(ran.action == TX, "action {}", ran.action);
        ensure!(
            ran.bytes == becomes.bytes(),
            "bytes\n{:02x?}\ninstead of\n{:02x?}",
            ran.bytes,
            becomes.bytes()
        );
        if reason == Reason::Reply {
            expected.packets_out += 1;
            expected.bytes_out += frame.ip_bytes();
        } else {
            expected.packets_in += 1;
            expected.bytes_in += frame.ip_bytes();
        }
        counts(&mut expected);
        let (counted, _) = self.plane.counters(backend)?;
        ensure!(counted == expected, "counted {counted:?}\ninstead of {expected:?}");
        Ok(())
    }

    /// To the stable backend, by `reason`.
    pub fn forwarded(
        &mut self,
        frame: &Frame,
        reason: Reason,
        counts: impl FnOnce(&mut Cell),
    ) -> Result<()> {
        let becomes = self.towards(frame, self.stable);
        self.expect(frame, reason, &becomes, STABLE, counts)
    }

    pub fn replied(&mut self, frame: &Frame, counts: impl FnOnce(&mut Cell)) -> Result<()> {
        let becomes = self.back(frame);
        self.expect(frame, Reason::Reply, &becomes, STABLE, counts)
    }

    /// To the host, untouched, and counted nowhere.
    pub fn passed(&mut self, bytes: &[u8], reason: Reason) -> Result<()> {
        let before = (self.plane.counters(STABLE)?, self.plane.counters(CANARY)?);
        let ran = self.plane.run(bytes)?;
        ensure!(ran.reason == reason, "{:?} instead of {reason:?}", ran.reason);
        ensure!(ran.action == PASS && ran.bytes == bytes, "not passed untouched");
        let after = (self.plane.counters(STABLE)?, self.plane.counters(CANARY)?);
        ensure!(after == before, "something was counted");
        Ok(())
    }

    pub fn handshake(&mut self) -> Result<()> {
        self.forwarded(&self.syn(), Reason::NewFlow, |c| c.connections += 1)?;
        self.replied(&self.syn_ack(), |_| ())?;
        self.forwarded(&self.client_says(ACK), Reason::Pinned, |c| c.established += 1)
    }

    pub fn shared(&mut self) -> Result<SharedCell> {
        Ok(self.plane.counters(STABLE)?.1)
    }
}

pub fn isolated(body: impl FnOnce() -> Result<()> + Send) {
    let result = in_new_namespace(["cny-a", "cny-b"], body);
    assert!(result.is_ok(), "{:?}", result.err());
}

/// For both families.
pub fn both(udp: bool, body: impl Fn(&mut Bed) -> Result<()> + Sync) {
    isolated(|| {
        for v6 in [false, true] {
            body(&mut Bed::new(v6, udp)?).with_context(|| format!("v6: {v6}"))?;
        }
        Ok(())
    });
}

pub fn wait_jiffies(bed: &mut Bed, jiffies: u32) {
    let hz = bed.plane.get().hz();
    std::thread::sleep(Duration::from_millis(u64::from(jiffies + 3) * 1000 / u64::from(hz)));
}
