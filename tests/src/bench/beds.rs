//! Services whose packets are measured, their flow tables filled by real
//! handshakes.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use anyhow::{Context as _, Result, ensure};
use canary::{
    dataplane::{GuardOrder, Steering},
    plan::Write,
};
use canary_common::{Cidr, Reason, ServiceFlags, Signals, Timeouts, Told, Track};

use super::{
    counted::reasons_are,
    wrapper::{Shot, Wrapper},
};
use crate::plane::{INGRESS, NewBackend, Plane, TX};

/// Flows that the tables have room for, as the map of the reference.
pub const ROOM: u32 = 4 << 20;

/// Backends of the bed's service: the one of the flows that are there, and the
/// one that new flows go to, by which they are found and forgotten.
pub const HOLDS: u16 = 1;
pub const OPENS: u16 = 2;
/// Of new flows of the steered and of the guarded service.
pub const STEERED: u16 = 4;
pub const GUARDED: u16 = 6;

pub(super) const SERVICE: u16 = 1;
pub(super) const STEERED_SERVICE: u16 = 2;
pub(super) const GUARDED_SERVICE: u16 = 3;

/// Jiffies: longer than any benchmark.
const LONG: u32 = 1 << 28;

/// A service and its flows.
#[derive(Debug)]
pub struct Bed {
    pub plane: Plane,
    pub v6: bool,
    pub udp: bool,
    /// Where frames to the backends leave.
    out: u32,
    /// Backends whose counters are added up, in place of the one expected.
    pub together: Option<RangeInclusive<u16>>,
}

impl Bed {
    /// To which a backend's number is added: the last 32 bits of its address.
    pub(super) const BACKENDS: u32 = 0xac10_0000;

    /// With nothing but the program in it. `flows`: what the table has room for.
    ///
    /// # Errors
    /// Without root, or where the kernel refuses.
    pub fn bare(flows: u32, (v6, udp): (bool, bool), signals: u16, out: u32) -> Result<Self> {
        let plane = Plane::with_signals(flows, signals)?;
        Ok(Self { plane, v6, udp, out, together: None })
    }

    /// Has frames to the backend of the table's flows leave by another interface.
    ///
    /// # Errors
    /// The kernel's.
    pub fn leave_by(&mut self, ifindex: u32) -> Result<()> {
        let new = NewBackend {
            number: HOLDS,
            service: SERVICE,
            track: Track::Stable,
            vip: self.vip(SERVICE),
            address: self.backend(HOLDS),
            udp: self.udp,
            ifindex,
            resolved: true,
            shares_with: None,
        };
        Ok(self.plane.get().apply(&[
            Write::AllowInterface { ifindex },
            Write::Backend { number: HOLDS, record: new.record() },
        ])?)
    }

    /// With one service, all of whose flows are the first backend's.
    ///
    /// # Errors
    /// As [`Bed::bare`].
    pub fn new(flows: u32, v6: bool, udp: bool) -> Result<Self> {
        Self::with_signals(flows, (v6, udp), Signals::ALL)
    }

    /// # Errors
    /// As [`Bed::bare`].
    pub fn with_signals(flows: u32, kind: (bool, bool), signals: u16) -> Result<Self> {
        let mut bed = Self::bare(flows, kind, signals, INGRESS)?;
        bed.one_service()?;
        Ok(bed)
    }

    /// One service, see [`Bed::new`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn one_service(&mut self) -> Result<()> {
        self.service(SERVICE, 0, &[(HOLDS, Track::Stable), (OPENS, Track::Stable)])?;
        self.plane.weights(SERVICE, 0.0, &[HOLDS], &[])
    }

    /// One service, whose second backend is the canary's.
    ///
    /// # Errors
    /// As [`Bed::bare`].
    pub fn of_two_tracks(flows: u32) -> Result<Self> {
        let mut bed = Self::bare(flows, (false, false), Signals::ALL, INGRESS)?;
        bed.service(SERVICE, 0, &[(HOLDS, Track::Stable), (OPENS, Track::Canary)])?;
        Ok(bed)
    }

    /// Gives the canary so much of the new flows.
    ///
    /// # Errors
    /// The kernel's.
    pub fn split(&mut self, fraction: f64) -> Result<()> {
        self.plane.weights(SERVICE, fraction, &[HOLDS], &[OPENS])
    }

    /// And two more: one whose clients are steered, and one with a guard.
    ///
    /// # Errors
    /// The kernel's.
    pub fn steered_and_guarded(&mut self) -> Result<()> {
        let tracks = |stable| [(stable, Track::Stable), (stable + 1, Track::Canary)];
        self.service(STEERED_SERVICE, ServiceFlags::STEERED, &tracks(STEERED - 1))?;
        self.plane.weights(STEERED_SERVICE, 0.0, &[STEERED - 1], &[STEERED])?;
        let to = Steering { track: Track::Canary, always: false, expires_in: None };
        let clients = Cidr::new(self.clients(0).first.ip(), if self.v6 { 104 } else { 8 })
            .map_err(|error| anyhow::anyhow!("the clients' network: {error:?}"))?;
        self.plane.get().steer(STEERED_SERVICE, clients, &to)?;
        self.service(GUARDED_SERVICE, 0, &tracks(GUARDED - 1))?;
        self.plane.weights(GUARDED_SERVICE, 1.0, &[GUARDED - 1], &[GUARDED])?;
        let order = GuardOrder { budget: Some(1 << 40), dead_man: None, counts: Told::FAILURES };
        Ok(self.plane.get().arm_guard(GUARDED_SERVICE, &order)?)
    }

    pub(super) fn service(
        &mut self,
        number: u16,
        flags: u16,
        backends: &[(u16, Track)],
    ) -> Result<()> {
        let vip = self.vip(number);
        self.plane.service(number, vip, self.udp, flags)?;
        self.plane.change(number, |record| record.timeouts = LASTING)?;
        for &(backend, track) in backends {
            self.plane.backend(&NewBackend {
                number: backend,
                service: number,
                track,
                vip,
                address: self.backend(backend),
                udp: self.udp,
                ifindex: self.out,
                resolved: true,
                shares_with: None,
            })?;
        }
        Ok(())
    }

    /// A service's address and port.
    #[must_use]
    pub fn vip(&self, service: u16) -> SocketAddr {
        SocketAddr::new(address(self.v6, 0xcb00_7100 + u32::from(service)), 80)
    }

    /// A backend's.
    #[must_use]
    pub fn backend(&self, number: u16) -> SocketAddr {
        SocketAddr::new(address(self.v6, Self::BACKENDS + u32::from(number)), 8080)
    }

    /// Opens all flows of these, from the first packet to where both sides
    /// have spoken. Those before are forgotten; new ones go elsewhere.
    ///
    /// # Errors
    /// Where one was not opened as it should.
    pub fn fill(&mut self, wrapper: &mut Wrapper, bits: u32) -> Result<()> {
        self.forget(&[HOLDS, OPENS]);
        self.plane.weights(SERVICE, 0.0, &[HOLDS], &[])?;
        let clients = self.clients(bits);
        let mut shot = Shot::in_turns(&self.handshake(&clients, SERVICE), &clients)?;
        self.open_all(wrapper, &mut shot)?;
        self.plane.weights(SERVICE, 0.0, &[OPENS], &[])
    }

    /// Opens all of a shot's flows, each by these frames.
    ///
    /// # Errors
    /// Where one was not opened as it should.
    pub fn open_all(&mut self, wrapper: &mut Wrapper, shot: &mut Shot) -> Result<()> {
        let flows = u64::from(shot.flows());
        let before = self.counters(HOLDS)?;
        let packets = if self.udp { 2 } else { 3 };
        let packets = shot.flows() * packets;
        let ran = wrapper.run(self.plane.path()?, shot, packets)?;
        ran.answered(TX).context("filling the table")?;
        let after = self.counters(HOLDS)?;
        let pinned = if self.udp { 0 } else { flows };
        let reasons = [(Reason::NewFlow, flows), (Reason::Reply, flows), (Reason::Pinned, pinned)];
        reasons_are(&before, &after, &reasons)?;
        let cell = after.cell.since(&before.cell);
        ensure!(cell.established == flows, "{} of {flows} handshakes", cell.established);
        Ok(())
    }

    /// Gives back the ways of all flows of these backends.
    pub fn forget(&mut self, backends: &[u16]) {
        self.plane.get().flow_table().forget(backends);
        self.plane.get().renew_overflow_marks();
    }
}

pub(super) const LASTING: Timeouts = Timeouts {
    half_open: LONG,
    established: LONG,
    closing: LONG,
    unanswered: LONG,
    answered: LONG,
};

/// An address by its last 32 bits, one way in each family.
pub(super) fn address(v6: bool, word: u32) -> IpAddr {
    const PREFIX: u128 = 0x2001_0db8 << 96;
    if v6 { IpAddr::V6((PREFIX | u128::from(word)).into()) } else { IpAddr::V4(word.into()) }
}
