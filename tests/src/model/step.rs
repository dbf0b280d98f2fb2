//! What can happen, in few numbers: a case that failed is a list of these,
//! printed as it is pasted into a table.

use std::{borrow::Cow, fmt, net::SocketAddr};

use canary_common::FaultKind;

use super::{
    Model, key,
    orders::{Clients, GuardOrder, Steered},
    world,
};
use crate::frame::{Frame, Transport, checksum};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Client,
    /// The backend that the flow is pinned to, else the service's first.
    Pinned,
    /// This one of the service's backends.
    Backend(u8),
    /// A client, to a port of the service's address where no service is.
    Astray,
}

/// Beginnings of payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    Filler,
    /// A status line of HTTP/1.1.
    Response(u16),
    /// A TLS alert of this level.
    Alert(u8),
}

impl Data {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Filler => Vec::new(),
            Self::Response(status) => format!("HTTP/1.1 {status:03} So\r\n").into_bytes(),
            Self::Alert(level) => vec![21, 3, 3, 0, 2, level, 40],
        }
    }
}

/// One packet. `seq` and `ack` are counted from what the flow's record holds
/// for the two sides; without a record, from a fixed number each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pkt {
    pub service: u16,
    pub client: u8,
    pub port: u8,
    pub by: By,
    /// TCP's flags.
    pub flags: u8,
    pub seq: i32,
    pub ack: i32,
    /// Bytes of payload.
    pub len: u16,
    /// What it begins with.
    pub data: Data,
    pub window: u16,
    pub ttl: u8,
    /// IPv4 options, in words.
    pub options: u8,
    /// By which of some routers it came.
    pub router: u8,
    pub checksum_error: u16,
    /// UDP over IPv4 without a checksum.
    pub unchecked: bool,
}

/// What the fields are that are not named.
pub const PKT: Pkt = Pkt {
    service: 0,
    client: 1,
    port: 0,
    by: By::Client,
    flags: 2,
    seq: 0,
    ack: 0,
    len: 0,
    data: Data::Filler,
    window: 0x2000,
    ttl: 64,
    options: 0,
    router: 1,
    checksum_error: 0,
    unchecked: false,
};

/// A change to a frame's bytes; what lies outside of it changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    Xor(u16, u8),
    /// A 16-bit word, most significant byte first.
    Word(u16, u16),
    /// This many bytes are left, at least an Ethernet header.
    Cut(u16),
    /// Zeroes at the end.
    Grow(u16),
    /// The same packet as IPv6, with IPv4-mapped addresses.
    Mapped,
    /// A VLAN tag in front of what is there.
    Tag(u16),
    /// An extension header behind the IPv6 header: its kind, its length in
    /// units of eight bytes, less one, and its fourth byte.
    Extension(u8, u8, u8),
    /// A fragment of a packet: offset in units of eight bytes, whether more
    /// follow, and the packet's number.
    Fragment(u16, bool, u16),
    /// In place of a plain packet its sender's ICMP error, of this type, about
    /// one that it got; of that so many bytes behind the IP header. From a
    /// router: not from the packet's receiver itself.
    Error {
        kind: u8,
        quoted: u8,
        router: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Packet(Pkt),
    Mutated(Pkt, Cow<'static, [Edit]>),
    /// The canary's share, in thousandths.
    Split {
        service: u16,
        permille: u16,
    },
    /// Other tables, of the backends that the bits name: stable's, canary's.
    Switch {
        service: u16,
        masks: [u8; 2],
    },
    /// A backend is taken out of the configuration; `forget`: its pins too.
    Remove {
        backend: u16,
        forget: bool,
    },
    /// And put back.
    Restore {
        backend: u16,
    },
    NextHop {
        backend: u16,
        known: bool,
    },
    Guard {
        service: u16,
        order: GuardOrder,
    },
    /// `None`: by the split again.
    Steer {
        service: u16,
        clients: Clients,
        to: Option<Steered>,
    },
    /// Flows born to the canary so far are cut.
    Generation {
        service: u16,
    },
    /// All of the canary's new connections from these clients fail; `None`: the
    /// drill is over.
    Fault {
        service: u16,
        kind: Option<FaultKind>,
        clients: Clients,
    },
    /// See [`world::QUANTUM`]; `sweep`: user space gives back what is over.
    Time {
        quanta: u8,
        sweep: bool,
    },
}

impl Pkt {
    /// The packet's bytes, in a world that stands as the model says.
    #[must_use]
    pub fn bytes(&self, model: &Model) -> Vec<u8> {
        let client = world::client(self.service, self.client, self.port);
        let mut vip = world::address(world::SERVICES[usize::from(self.service)].vip);
        let flow = model.live(&key(client, self.service));
        let [client_seq, backend_seq] = flow.map_or([1_000_000, 9_000_000], |flow| {
            [flow.connection.client_seq, flow.connection.backend_seq]
        });
        let first = world::numbers().find(|n| world::backend_of(*n).service == self.service);
        let first = first.unwrap_or(1);
        let address = |number| world::address(world::backend_of(number).address);
        if self.by == By::Astray {
            vip.set_port(vip.port() + 1);
        }
        let pinned = flow.map_or(first, |flow| flow.backend);
        let (from, to, seq, ack) = match self.by {
            By::Client | By::Astray => (client, vip, client_seq, backend_seq),
            By::Pinned => (address(pinned), client, backend_seq, client_seq),
            By::Backend(i) => (address(first + u16::from(i % 3)), client, backend_seq, client_seq),
        };
        let seq = seq.wrapping_add_signed(self.seq);
        let ack = ack.wrapping_add_signed(self.ack);
        self.frame(from, to, seq, ack).bytes()
    }

    fn frame(&self, from: SocketAddr, to: SocketAddr, seq: u32, ack: u32) -> Frame {
        let mut frame = Frame::tcp(from, to, self.flags, seq, ack);
        if !super::is_tcp(self.service) {
            let unchecked = self.unchecked && from.is_ipv4();
            frame.transport = if unchecked { Transport::UdpUnchecked } else { Transport::Udp };
        }
        if from.is_ipv4() {
            frame.ip_options = vec![1; 4 * usize::from(self.options)];
        }
        let filler = |i: u16| (i.wrapping_mul(7) ^ self.len) as u8;
        let begins = self.data.bytes().into_iter().map(Some).chain(std::iter::repeat(None));
        frame.payload =
            (0..self.len).zip(begins).map(|(i, byte)| byte.unwrap_or(filler(i))).collect();
        frame.window = self.window;
        frame.checksum_error = self.checksum_error;
        frame.ttl(self.ttl).macs([2, 0, 0, 0, 1, 0], [2, 0, 0, 0, 2, self.router])
    }
}

impl Edit {
    pub fn apply(self, bytes: &mut Vec<u8>) {
        match self {
            Self::Xor(at, bits) => {
                if let Some(byte) = bytes.get_mut(usize::from(at)) {
                    *byte ^= bits;
                }
            }
            Self::Word(at, word) => {
                if let Some(pair) = bytes.get_mut(usize::from(at)..usize::from(at) + 2) {
                    pair.copy_from_slice(&word.to_be_bytes());
                }
            }
            // The kernel refuses test runs of less.
            Self::Cut(len) => bytes.truncate(usize::from(len).max(14)),
            Self::Grow(by) => bytes.resize(bytes.len() + usize::from(by), 0),
            Self::Mapped => mapped(bytes),
            Self::Tag(ethertype) => {
                let tag = [ethertype.to_be_bytes(), [0x20, 7]].concat();
                bytes.splice(12..12, tag);
            }
            Self::Extension(kind, len, fourth) => {
                let mut header = vec![0, len, 0, fourth];
                header.resize(8 + 8 * usize::from(len), 0);
                extend(bytes, kind, header);
            }
            Self::Fragment(offset, more, id) => fragment(bytes, offset, more, id),
            Self::Error { kind, quoted, router } => error(bytes, kind, quoted.into(), router),
        }
    }
}

const V4: [u8; 3] = [8, 0, 0x45];
const V6: [u8; 2] = [0x86, 0xdd];

/// `header` behind the IPv6 header; its first byte becomes what stood there.
fn extend(bytes: &mut Vec<u8>, kind: u8, mut header: Vec<u8>) {
    if bytes.len() < 54 || bytes[12..14] != V6 {
        return;
    }
    header[0] = std::mem::replace(&mut bytes[20], kind);
    let payload = u16::from_be_bytes([bytes[18], bytes[19]]).wrapping_add(header.len() as u16);
    bytes[18..20].copy_from_slice(&payload.to_be_bytes());
    bytes.splice(54..54, header);
}

fn fragment(bytes: &mut Vec<u8>, offset: u16, more: bool, id: u16) {
    if bytes.len() >= 34 && bytes[12..15] == V4 {
        let field = offset & 0x1fff | u16::from(more) << 13;
        bytes[18..20].copy_from_slice(&id.to_be_bytes());
        bytes[20..22].copy_from_slice(&field.to_be_bytes());
        seal(&mut bytes[14..34]);
        return;
    }
    let field = (offset << 3 | u16::from(more)).to_be_bytes();
    let header = [&[0, 0], &field[..], &[0, 0], &id.to_be_bytes()].concat();
    extend(bytes, 44, header);
}

/// The checksum of an IPv4 header.
fn seal(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = checksum(header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
}

fn error(bytes: &mut Vec<u8>, kind: u8, quoted: usize, router: bool) {
    let v4 = bytes.len() >= 34 && bytes[12..15] == V4;
    if !v4 && (bytes.len() < 54 || bytes[12..14] != V6) {
        return;
    }
    let (addresses, len, ip) = if v4 { (12, 4, 20) } else { (8, 16, 40) };
    let mut header = bytes[14..14 + ip].to_vec();
    let mut inner = header.clone();
    // The other way round, and some hops later.
    inner[addresses..addresses + 2 * len].rotate_left(len);
    inner[if v4 { 8 } else { 7 }] = 57;
    let mut behind = bytes[14 + ip..].to_vec();
    behind.truncate(quoted);
    if behind.len() >= 4 {
        behind[..4].rotate_left(2);
    }
    if v4 {
        seal(&mut inner);
    }
    let mut icmp = vec![kind, 1, 0, 0, 0, 0, 5, 0];
    icmp.extend(inner);
    icmp.extend(behind);
    if router {
        header[addresses + len - 1] ^= 0x80;
    }
    let total = (icmp.len() + if v4 { ip } else { 0 }) as u16;
    let (total_at, protocol_at, protocol) = if v4 { (2, 9, 1) } else { (4, 6, 58) };
    header[total_at..total_at + 2].copy_from_slice(&total.to_be_bytes());
    header[protocol_at] = protocol;
    let mut covered = icmp.clone();
    if v4 {
        seal(&mut header);
    } else {
        covered.extend(&header[8..40]);
        covered.extend([total.to_be_bytes(), [0, 58]].concat());
        // The sum is over whole words.
        if icmp.len() % 2 == 1 {
            covered.insert(icmp.len(), 0);
        }
    }
    let sum = checksum(&covered).to_be_bytes();
    icmp[2..4].copy_from_slice(&sum);
    bytes.truncate(14);
    bytes.extend(header);
    bytes.extend(icmp);
}

/// A plain IPv4 header replaced by an IPv6 one.
fn mapped(bytes: &mut Vec<u8>) {
    if bytes.len() < 34 || bytes[12..15] != [8, 0, 0x45] {
        return;
    }
    let payload = bytes.len() as u16 - 34;
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(payload.to_be_bytes());
    header.extend([bytes[23], bytes[22]]);
    for address in [26..30, 30..34] {
        header.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        header.extend(&bytes[address]);
    }
    bytes.splice(14..34, header);
    bytes[12..14].copy_from_slice(&[0x86, 0xdd]);
}

impl fmt::Display for Pkt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pkt { ")?;
        macro_rules! fields {
            ($($name:ident),+) => { $(
                if self.$name != PKT.$name {
                    write!(f, "{}: {:?}, ", stringify!($name), self.$name)?;
                }
            )+ };
        }
        fields!(service, client, port);
        if self.by != PKT.by {
            write!(f, "by: By::{:?}, ", self.by)?;
        }
        fields!(flags, seq, ack, len);
        if self.data != PKT.data {
            write!(f, "data: Data::{:?}, ", self.data)?;
        }
        fields!(window, ttl, options, router, checksum_error, unchecked);
        f.write_str("..PKT }")
    }
}

impl Step {
    /// The frame, where it is one.
    #[must_use]
    pub fn bytes(&self, model: &Model) -> Option<Vec<u8>> {
        match self {
            Self::Packet(pkt) => Some(pkt.bytes(model)),
            Self::Mutated(pkt, edits) => {
                let mut bytes = pkt.bytes(model);
                for edit in edits.iter() {
                    edit.apply(&mut bytes);
                }
                Some(bytes)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packet(pkt) => write!(f, "Step::Packet({pkt})"),
            Self::Mutated(pkt, edits) => {
                write!(f, "Step::Mutated({pkt}, Cow::Borrowed(&[")?;
                for edit in edits.iter() {
                    write!(f, "Edit::{edit:?}, ")?;
                }
                f.write_str("]))")
            }
            other => write!(f, "Step::{other:?}"),
        }
    }
}
