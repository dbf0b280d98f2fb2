//! Many services, each with backends of its own, and flows over all of them.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use canary::plan::Write;
use canary_common::{
    Address, EntryKind, PROTO_TCP, Service, Signals, Split, Track, WeightTable, pick_hash,
};

use super::{
    beds::{Bed, LASTING, address},
    counted::Kind,
    wrapper::{Ends, Shot},
};
use crate::plane::{INGRESS, NewBackend, TABLE_SIZE, directory_key, service_record, table_of};

/// So many services, of so many backends each.
#[derive(Clone, Copy, Debug)]
pub struct Many {
    /// A power of two.
    pub services: u16,
    pub each: u16,
}

impl Many {
    #[must_use]
    pub const fn backends(self) -> u16 {
        self.services * self.each
    }

    /// A service's backends; backend 0 is nobody.
    fn of(self, service: u16) -> Vec<u16> {
        (0..self.each).map(|i| 1 + service * self.each + i).collect()
    }

    /// They, and nothing else, in a table with room for so many flows.
    ///
    /// # Errors
    /// Without root, or where the kernel refuses.
    pub fn bed(self, room: u32) -> Result<Bed> {
        let mut bed = Bed::bare(room, (false, false), Signals::ALL, INGRESS)?;
        let (mut writes, mut entries) = (Vec::new(), Vec::new());
        for service in 0..self.services {
            writes.extend(self.writes(&bed, service)?);
            let key = directory_key(EntryKind::Service, bed.vip(service), PROTO_TCP);
            entries.push((key, u32::from(service)));
            for number in self.of(service) {
                let key = directory_key(EntryKind::Backend, bed.backend(number), PROTO_TCP);
                entries.push((key, u32::from(number)));
            }
        }
        writes.push(Write::Directory { entries });
        bed.plane.get().apply(&writes)?;
        bed.together = Some(1..=self.backends());
        Ok(bed)
    }

    fn writes(self, bed: &Bed, service: u16) -> Result<Vec<Write>> {
        let vip = bed.vip(service);
        let mut writes: Vec<Write> = self
            .of(service)
            .into_iter()
            .map(|number| {
                let new = NewBackend {
                    number,
                    service,
                    track: Track::Stable,
                    vip,
                    address: bed.backend(number),
                    udp: false,
                    ifindex: INGRESS,
                    resolved: true,
                    shares_with: None,
                };
                Write::Backend { number, record: new.record() }
            })
            .collect();
        let table = service + 1;
        writes.extend([
            Write::Service { number: service, record: record(vip, service) },
            Write::Table { number: table, slots: self.table(service)? },
            Write::Weights {
                service,
                weights: WeightTable { split: Split::NONE, tables: [table, 0], parity: 0 },
            },
        ]);
        Ok(writes)
    }

    fn table(self, service: u16) -> Result<Vec<u16>> {
        table_of(&self.of(service)).context("a table of no backend")
    }

    /// The backend of each of a shot's flows, as the program will pick it.
    ///
    /// # Errors
    /// Where a service has no backend.
    pub fn picks(self, bed: &Bed, shot: &Shot) -> Result<Vec<u16>> {
        let tables: Vec<Vec<u16>> =
            (0..self.services).map(|service| self.table(service)).collect::<Result<_>>()?;
        let keys: Vec<_> =
            (0..self.services).map(|service| record(bed.vip(service), service).pick).collect();
        let pick = |flow: u32| {
            let service = flow as usize & (usize::from(self.services) - 1);
            let (address, port) = shot.client(flow);
            let client = Address::from(IpAddr::V4(address.into()));
            let slot = pick_hash(&keys[service], &client, port.to_be()).slot(TABLE_SIZE);
            tables[service][slot as usize]
        };
        Ok((0..shot.flows()).map(pick).collect())
    }

    /// The frames that open flows, one after the other.
    ///
    /// # Errors
    /// Where the wrapper has no such frames.
    pub fn opening(self, bed: &Bed, bits: u32, list: u32) -> Result<Shot> {
        let clients = bed.clients(bits);
        Shot::in_turns(&bed.handshake(&clients, 0), &clients)?.between(&self.ends(bed, list))
    }

    /// Packets of flows that are there.
    ///
    /// # Errors
    /// Where the wrapper has no such frame.
    pub fn pinned(self, bed: &Bed, kind: Kind, (bits, list): (u32, u32)) -> Result<Shot> {
        let clients = bed.clients(bits);
        let frame = bed.frame(&clients, kind, 0);
        Shot::in_turns(&[frame], &clients)?.between(&self.ends(bed, list))
    }

    /// `list`: where the flows' backends begin in the wrapper's.
    fn ends(self, bed: &Bed, list: u32) -> Ends {
        let backend = address(false, Bed::BACKENDS);
        Ends { vip: bed.vip(0).ip(), services: u32::from(self.services), backend, list }
    }
}

fn record(vip: SocketAddr, service: u16) -> Service {
    service_record(service, vip, PROTO_TCP, 0, LASTING)
}
