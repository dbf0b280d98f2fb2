//! Fragments. The first has the ports and goes the way of its flow; where it
//! went stands in a bounded table, and the later ones follow it.

use core::mem::offset_of;

use aya_ebpf::bindings::BPF_ANY;
use canary_common::{Address, Backend, FlowKey, Reason};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    atomic, counters,
    directory::Host,
    flows::{self, Pin},
    layout::{Layout, Part},
    maps::{FRAGMENTS, hash_keys},
    packet::{Header, Packet},
    parse::{Ip, Parsed, ip_at},
    path::{Verdict, out, way_to},
    pick,
    rewrite::{End, Translation, rewrite_frame_and_ip},
};

/// A packet in fragments (RFC 791, 3.2; RFC 8200, 4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FragmentKey {
    pub source: Address,
    pub destination: Address,
    /// As it stands on the wire.
    pub id_be: u32,
    pub protocol: u32,
}

/// Where its first fragment went.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct FragmentWay {
    pub service: u16,
    pub backend: u16,
    pub cell: u16,
    /// 1: from the backend to the client, by the flow's way back; else 0.
    pub to_client: u16,
}

/// What the table holds.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NotedWay {
    /// A [`FragmentWay`].
    way: u64,
    /// The client's.
    port_be: u64,
}

const _: () = assert!(size_of::<FragmentKey>() == 40 && size_of::<FragmentWay>() == 8);

/// Which packet a fragment belongs to, beside its addresses.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// 1 of a first fragment, else 0.
    is_first: u32,
    id_be: u32,
    protocol: u32,
}

impl Identity {
    pub const WHOLE: Self = Self { is_first: 0, id_be: 0, protocol: 0 };

    #[inline(always)]
    pub fn of(packet: &Packet, layout: Layout, ip: Ip) -> Result<Self, Reason> {
        let is_first = u32::from(layout.part() == Part::First);
        if layout.part() == Part::Whole {
            return Ok(Self::WHOLE);
        }
        match ip {
            Ip::V4(ip) => {
                let id = ip.get::<u16, { offset_of!(Ipv4Hdr, id) }>();
                let protocol = u32::from(layout.protocol());
                Ok(Self { is_first, id_be: u32::from(id), protocol })
            }
            Ip::V6(_) => {
                let header = packet.header::<8>(layout.fragment_header());
                let header = header.ok_or(Reason::Truncated)?;
                let protocol = u32::from(header.get::<u8, 0>());
                Ok(Self { is_first, id_be: header.get::<u32, 4>(), protocol })
            }
        }
    }

    #[inline(always)]
    fn key(&self, ip: Ip) -> FragmentKey {
        let (id_be, protocol) = (self.id_be, self.protocol);
        FragmentKey { source: ip.source(), destination: ip.destination(), id_be, protocol }
    }
}

/// Leaves word of where a first fragment goes. Before it is translated.
#[inline(always)]
pub fn note(parsed: &Parsed, port_be: u16, way: FragmentWay) {
    let Identity { is_first, id_be, protocol } = parsed.fragment;
    if is_first == 0 {
        return;
    }
    // SAFETY: the same size, and any bytes are a number.
    let way = unsafe { core::mem::transmute::<FragmentWay, u64>(way) };
    match parsed.ip {
        Ip::V4(ip) => note_v4(ip, id_be, protocol, port_be, way),
        Ip::V6(ip) => note_v6(ip, id_be, protocol, port_be, way),
    }
}

/// Functions of their own, for the stack; with as many arguments as there are
/// registers.
#[inline(never)]
fn note_v4(ip: Header<{ Ipv4Hdr::LEN }>, id_be: u32, protocol: u32, port_be: u16, way: u64) {
    insert(Ip::V4(ip), Identity { is_first: 1, id_be, protocol }, port_be, way);
}

/// See [`note_v4`].
#[inline(never)]
fn note_v6(ip: Header<{ Ipv6Hdr::LEN }>, id_be: u32, protocol: u32, port_be: u16, way: u64) {
    insert(Ip::V6(ip), Identity { is_first: 1, id_be, protocol }, port_be, way);
}

#[inline(always)]
fn insert(ip: Ip, identity: Identity, port_be: u16, way: u64) {
    let way = NotedWay { way, port_be: u64::from(port_be) };
    // Without it the later ones go to the host.
    FRAGMENTS.insert(identity.key(ip), way, u64::from(BPF_ANY)).ok();
}

/// A later fragment.
#[inline(always)]
pub fn follow(packet: &Packet, layout: Layout, ingress: u32) -> Result<Verdict, Reason> {
    let (ethernet, ip) = ip_at(packet, layout)?;
    ip.not_mapped()?;
    let key = Identity::of(packet, layout, ip)?.key(ip);
    let noted = FRAGMENTS.get_ptr(key).ok_or(Reason::FragmentUnknown)?;
    // SAFETY: a live map value. It may become another packet's meanwhile, as
    // any may in a bounded table; each of the two words is whole.
    let (way, port_be) = unsafe {
        (atomic::load(&raw const (*noted).way), atomic::load(&raw const (*noted).port_be) as u16)
    };
    // SAFETY: the same size, and any bytes are a way.
    let way = unsafe { core::mem::transmute::<u64, FragmentWay>(way) };
    if ip.hop_limit() <= 1 {
        return Err(Reason::TtlExpired);
    }
    let host = Host::get().ok_or(Reason::Internal)?;
    let backend = pick::backend(host, way.backend, way.service).ok_or(Reason::FragmentUnknown)?;
    if way.to_client == 0 {
        return towards_backend(ethernet, ip, way, backend, ingress);
    }
    let client =
        FlowKey { client: ip.destination(), client_port_be: port_be, service: way.service };
    let pin = flows::find(&client, client.hash(hash_keys()), flows::now());
    let pin = pin.ok_or(Reason::FragmentUnknown)?;
    if pin.backend != way.backend {
        return Err(Reason::FragmentUnknown);
    }
    towards_client(ethernet, ip, way, backend, pin, ingress)
}

#[inline(always)]
fn towards_backend(
    ethernet: Header<{ EthHdr::LEN }>,
    ip: Ip,
    way: FragmentWay,
    backend: &Backend,
    ingress: u32,
) -> Result<Verdict, Reason> {
    let action = way_to(backend, ingress)?;
    if let Some(cell) = counters::cell(way.cell) {
        cell.packets_in += 1;
        cell.bytes_in += ip.bytes();
    }
    let translation = Translation::to_backend(End::Destination, backend);
    rewrite_frame_and_ip(ethernet, ip, &translation);
    Ok(Verdict { action, reason: Reason::Fragment })
}

#[inline(always)]
fn towards_client(
    ethernet: Header<{ EthHdr::LEN }>,
    ip: Ip,
    way: FragmentWay,
    backend: &Backend,
    pin: Pin,
    ingress: u32,
) -> Result<Verdict, Reason> {
    let host = Host::get().ok_or(Reason::Internal)?;
    let service = host.service(way.service).ok_or(Reason::Internal)?;
    let way_back = pin.way_back().ok_or(Reason::FragmentUnknown)?;
    let action = out(way_back.ifindex, ingress)?;
    if let Some(cell) = counters::cell(way.cell) {
        cell.packets_out += 1;
        cell.bytes_out += ip.bytes();
    }
    let translation = Translation::to_vip(End::Source, service, backend, &way_back.frame);
    rewrite_frame_and_ip(ethernet, ip, &translation);
    Ok(Verdict { action, reason: Reason::Fragment })
}
