//! The packets of a bed's flows.

use std::net::SocketAddr;

use anyhow::Result;
use canary_common::Exchange;

use super::{
    beds::{Bed, GUARDED, GUARDED_SERVICE, HOLDS, SERVICE, STEERED, STEERED_SERVICE, address},
    counted::Kind,
    wrapper::{Clients, Shot},
};
use crate::frame::{ACK, Frame, SYN, Transport};

/// Numbers of the first bytes that each side of a connection sends, and so
/// acknowledges.
pub const CLIENT_SEQ: u32 = 1001;
pub const SERVER_SEQ: u32 = 9001;

/// Whose first bytes say what they are.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// Flows of one client's address: 256.
const SHIFT: u32 = 8;
pub(super) const FIRST_PORT: u16 = 0x4000;

impl Bed {
    /// The flows that the table holds: `1 << bits`.
    #[must_use]
    pub fn clients(&self, bits: u32) -> Clients {
        let first = SocketAddr::new(address(self.v6, 0x0a00_0000), FIRST_PORT);
        Clients { first, bits, shift: SHIFT.min(bits) }
    }

    /// Flows that it does not.
    fn newcomers(&self, bits: u32) -> Clients {
        let first = SocketAddr::new(address(self.v6, 0x0a40_0000), FIRST_PORT);
        Clients { first, ..self.clients(bits) }
    }

    /// One of a service's first flow.
    pub(super) fn frame(&self, clients: &Clients, kind: Kind, service: u16) -> Frame {
        let (client, vip, backend) = (clients.first, self.vip(service), self.backend(HOLDS));
        match (kind, self.udp) {
            (Kind::ToClient, false) => Frame::tcp(backend, client, ACK, SERVER_SEQ, CLIENT_SEQ),
            (Kind::Opens, false) => Frame::tcp(client, vip, SYN, CLIENT_SEQ - 1, 0),
            (_, false) => Frame::tcp(client, vip, ACK, CLIENT_SEQ, SERVER_SEQ),
            (Kind::ToClient, true) => Frame::udp(backend, client).payload(b"one answer"),
            (_, true) => Frame::udp(client, vip).payload(b"a question"),
        }
    }

    /// Packets of the flows that the table holds.
    ///
    /// # Errors
    /// Where the wrapper has no such frame.
    pub fn pinned(&self, kind: Kind, bits: u32) -> Result<Shot> {
        self.pinned_of(kind, &self.clients(bits))
    }

    /// The same, of these.
    ///
    /// # Errors
    /// Where the wrapper has no such frame.
    pub fn pinned_of(&self, kind: Kind, clients: &Clients) -> Result<Shot> {
        Shot::of(&self.frame(clients, kind, SERVICE), clients)
    }

    /// First packets of flows that never were before.
    ///
    /// # Errors
    /// Where the wrapper has no such frame.
    pub fn opening(&self, backend: u16, bits: u32) -> Result<Shot> {
        let service = match backend {
            STEERED => STEERED_SERVICE,
            GUARDED => GUARDED_SERVICE,
            _ => SERVICE,
        };
        let clients = self.newcomers(bits);
        Ok(Shot::of(&self.frame(&clients, Kind::Opens, service), &clients)?.afresh())
    }

    /// A question and its answer, in turns, of the flows that the table holds:
    /// of datagrams.
    ///
    /// # Errors
    /// Where the wrapper has no such frames.
    pub fn datagrams(&self, bits: u32) -> Result<Shot> {
        let clients = self.clients(bits);
        Shot::in_turns(&self.handshake(&clients, SERVICE), &clients)
    }

    /// Packets to somewhere else.
    ///
    /// # Errors
    /// Where the wrapper has no such frame.
    pub fn elsewhere(&self, to: SocketAddr, bits: u32) -> Result<Shot> {
        let clients = self.clients(bits);
        Shot::of(&Frame { to, ..self.frame(&clients, Kind::ToBackend, SERVICE) }, &clients)
    }

    /// Requests and responses of the first flow, in turns.
    ///
    /// # Errors
    /// Where the wrapper has no such frames.
    pub fn exchange(&self) -> Result<Shot> {
        let clients = self.clients(0);
        let frames = self.talk(&clients, [REQUEST, RESPONSE]);
        Ok(Shot::in_turns(&frames, &clients)?.advancing())
    }

    /// What client and backend say, each as long as the wrapper's frames.
    #[must_use]
    pub fn talk(&self, clients: &Clients, words: [&[u8]; 2]) -> [Frame; 2] {
        let len = Exchange::data_len(self.v6);
        let frame = |kind, ack, words: &[u8]| {
            let mut data = words.to_vec();
            data.resize(len, b' ');
            let mut frame = self.frame(clients, kind, SERVICE).payload(&data);
            if let Transport::Tcp { ack: number, .. } = &mut frame.transport {
                *number = ack;
            }
            frame
        };
        [
            frame(Kind::ToBackend, SERVER_SEQ, words[0]),
            frame(Kind::ToClient, CLIENT_SEQ + len as u32, words[1]),
        ]
    }

    /// What opens a flow and ends with both sides having spoken.
    #[must_use]
    pub fn handshake(&self, clients: &Clients, service: u16) -> Vec<Frame> {
        let (client, vip, backend) = (clients.first, self.vip(service), self.backend(HOLDS));
        if self.udp {
            return vec![
                self.frame(clients, Kind::ToBackend, service),
                self.frame(clients, Kind::ToClient, service),
            ];
        }
        vec![
            Frame::tcp(client, vip, SYN, CLIENT_SEQ - 1, 0),
            Frame::tcp(backend, client, SYN | ACK, SERVER_SEQ - 1, CLIENT_SEQ),
            Frame::tcp(client, vip, ACK, CLIENT_SEQ, SERVER_SEQ),
        ]
    }
}
