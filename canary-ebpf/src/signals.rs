//! What is read from the data itself, and the global function that takes a
//! flow along. The readers are pure: the first bytes of a segment's data in,
//! what they are out.

use core::mem::offset_of;

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use canary_common::{Service, Signals, Ticks, Told};
use network_types::tcp::TcpHdr;

use crate::{
    maps::signals,
    packet::{Header, Packet},
    parse::{Parsed, Transport},
    tcp::{By, Segment, TCP_FLAGS, Tracked},
};

/// Signals to read for a service.
#[inline(always)]
pub fn wanted(service: &Service) -> u16 {
    signals() as u16 & service.signals
}

/// Now, never 0.
#[inline(always)]
pub fn tick() -> u32 {
    // SAFETY: no arguments, no preconditions.
    Ticks::from_nanoseconds(unsafe { bpf_ktime_get_ns() })
}

/// Class of an HTTP/1.x response's status, 1 to 5, from the data's first
/// twelve bytes as they stand in memory; 0 where they are no such response
/// (RFC 9112, 4: `HTTP/1.1 200`).
#[inline(always)]
#[must_use]
pub const fn http_status_class(head: &[u32; 3]) -> u8 {
    const HTTP: u32 = u32::from_be_bytes(*b"HTTP");
    const VERSION: u32 = u32::from_be_bytes(*b"/1.0");
    let minor = u32::from_be(head[1]).wrapping_sub(VERSION);
    let [space, class, tens, units] = u32::from_be(head[2]).to_be_bytes();
    let class = class.wrapping_sub(b'0');
    let is_response = u32::from_be(head[0]) == HTTP
        && minor <= 1
        && space == b' '
        && tens.is_ascii_digit()
        && units.is_ascii_digit()
        && class <= 5;
    if is_response { class } else { 0 }
}

/// Whether data that begins with these bytes, as they stand in memory, is a
/// fatal alert in the clear (RFC 8446, 5.1 and 6): record type 21, version
/// 3.x, length 2, level 2.
#[inline(always)]
#[must_use]
pub const fn is_fatal_alert(head: &[u32; 3]) -> bool {
    let [kind, major, minor, high] = u32::from_be(head[0]).to_be_bytes();
    let [low, level, ..] = u32::from_be(head[1]).to_be_bytes();
    kind == 21 && major == 3 && minor <= 4 && high == 0 && low == 2 && level == 2
}

/// What a packet's meaning is read from.
#[inline(always)]
pub fn segment(packet: &Packet, parsed: &Parsed, from_backend: bool, wanted: u16) -> Segment {
    match (parsed.transport, from_backend) {
        (Transport::Tcp(tcp), _) => segment_of(packet, parsed, tcp, from_backend, wanted),
        (Transport::Udp(_), false) => Segment::datagram(By::ClientDatagram),
        (Transport::Udp(_), true) => Segment::datagram(By::BackendDatagram),
    }
}

/// Where a segment's data begins, in bytes from its header, and its length.
#[inline(always)]
fn data_of(parsed: &Parsed, tcp: Header<{ TcpHdr::LEN }>) -> (u32, u32) {
    let header = u32::from(tcp.get::<u8, { offset_of!(TcpHdr, _bitfield_1) }>() >> 4) * 4;
    // Less than nothing where the headers contradict each other.
    let len = (parsed.transport_bytes() as u32).wrapping_sub(header) as i32;
    (header, if len > 0 { len as u32 } else { 0 })
}

/// The first `M` bytes of a segment's data, where there are so many.
#[inline(always)]
pub fn data<const M: usize>(
    packet: &Packet,
    parsed: &Parsed,
    tcp: Header<{ TcpHdr::LEN }>,
) -> Option<Header<M>> {
    let (distance, len) = data_of(parsed, tcp);
    if (len as usize) < M {
        return None;
    }
    tcp.after::<M>(packet, distance)
}

#[inline(always)]
fn segment_of(
    packet: &Packet,
    parsed: &Parsed,
    tcp: Header<{ TcpHdr::LEN }>,
    from_backend: bool,
    wanted: u16,
) -> Segment {
    let (header, len) = data_of(parsed, tcp);
    Segment {
        seq: u32::from_be(tcp.get::<u32, { offset_of!(TcpHdr, seq) }>()),
        ack: u32::from_be(tcp.get::<u32, { offset_of!(TcpHdr, ack_seq) }>()),
        len,
        head: if len > 0 && wanted & (Signals::HTTP | Signals::TLS) != 0 {
            head(packet, tcp, header, len)
        } else {
            [0; 3]
        },
        window: tcp.get::<u16, { offset_of!(TcpHdr, window) }>(),
        flags: tcp.get::<u8, { TCP_FLAGS }>(),
        by: if from_backend { By::Backend } else { By::Client },
    }
}

/// The data's first twelve bytes, or of a TLS alert, which is shorter, eight.
#[inline(always)]
fn head(packet: &Packet, tcp: Header<{ TcpHdr::LEN }>, distance: u32, len: u32) -> [u32; 3] {
    if len >= 12
        && let Some(head) = tcp.after::<12>(packet, distance)
    {
        return [head.get::<u32, 0>(), head.get::<u32, 4>(), head.get::<u32, 8>()];
    }
    if let Some(head) = tcp.after::<7>(packet, distance) {
        return [head.get::<u32, 0>(), u32::from(head.get::<u16, 4>()), 0];
    }
    [0; 3]
}

/// [`Tracked::step`] with the times, as a function of its own to the verifier:
/// it walks the state machine once, and not once for each way to come here.
#[inline(always)]
pub fn step(flow: &mut Tracked, segment: &Segment, wanted: u16) -> Told {
    Told(canary_step(flow, segment, u32::from(wanted)))
}

/// Neither is ever null.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn canary_step(flow: *mut Tracked, segment: *const Segment, wanted: u32) -> u64 {
    if flow.is_null() || segment.is_null() {
        return Told::NOTHING.0;
    }
    // SAFETY: not null, and the caller's references otherwise.
    let (flow, segment) = unsafe { (&mut *flow, &*segment) };
    let told = flow.step(segment, wanted as u16 & signals() as u16);
    timed(flow, told).0
}

/// [`Tracked::carry`] with the times.
#[inline(always)]
pub fn carry(flow: &mut Tracked, segment: &Segment, wanted: u16) -> Told {
    let told = flow.carry(segment, wanted);
    timed(flow, told)
}

/// Reads the clock where a wait begins or ends.
#[inline(always)]
fn timed(flow: &mut Tracked, told: Told) -> Told {
    if told.has(Told::STARTS) {
        flow.waiting_since = tick();
    } else if told.has(Told(Told::HANDSHAKE.0 | Told::FIRST_BYTE.0)) {
        let waited = tick().wrapping_sub(flow.waiting_since);
        flow.waiting_since = 0;
        return told.after(waited);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(line: &[u8; 12]) -> u8 {
        http_status_class(&words(line))
    }

    fn words(bytes: &[u8; 12]) -> [u32; 3] {
        let word = |at: usize| core::array::from_fn(|i| bytes[at + i]);
        [0, 4, 8].map(|at| u32::from_ne_bytes(word(at)))
    }

    #[test]
    fn status_lines_are_read_and_nothing_else() {
        assert_eq!(class(b"HTTP/1.1 200"), 2);
        assert_eq!(class(b"HTTP/1.0 503"), 5);
        assert_eq!(class(b"HTTP/1.1 100"), 1);
        assert_eq!(class(b"HTTP/1.1 599"), 5);
        for other in [
            b"HTTP/1.2 200",
            b"HTTP/2.0 200",
            b"http/1.1 200",
            b"HTTP/1.1 000",
            b"HTTP/1.1 600",
            b"HTTP/1.1 2x0",
            b"HTTP/1.1 20 ",
            b"HTTP/1.1\t200",
            b"GET / HTTP/1",
            b"\0\0\0\0\0\0\0\0\0\0\0\0",
        ] {
            assert_eq!(class(other), 0, "{other:?}");
        }
    }

    #[test]
    fn fatal_alerts_are_read_and_nothing_else() {
        let alert = |[a, b, c, d, e, f]: [u8; 6]| {
            is_fatal_alert(&words(&[a, b, c, d, e, f, 0, 0, 0, 0, 0, 0]))
        };
        for minor in [0, 1, 3, 4] {
            assert!(alert([21, 3, minor, 0, 2, 2]));
        }
        for other in [
            [21, 3, 3, 0, 2, 1],  // close_notify and other warnings
            [21, 3, 3, 0, 26, 2], // encrypted
            [22, 3, 3, 0, 2, 2],  // a handshake record
            [21, 2, 3, 0, 2, 2],
            [21, 3, 5, 0, 2, 2],
            [21, 3, 3, 1, 2, 2],
        ] {
            assert!(!alert(other), "{other:?}");
        }
    }
}
