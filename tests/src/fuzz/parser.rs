//! The packet parsers, and the translation of what it found: whatever the bytes,
//! nothing outside the packet is read or written.

use canary_common::{Address, FrameAddresses, Reason, Signals};
use canary_ebpf::{
    layout::walk,
    packet::Packet,
    parse::{Parsed, parse, parse_at, parse_whole_or_first},
    rewrite::{End, Translation, rewrite},
    signals::segment,
};

use super::{Format, Target, bed::Bed, mark};

pub const TARGET: Target =
    Target { name: "parser", format: Format::Binary, dictionary: DICTIONARY, check };

/// EtherTypes, the first bytes of headers, protocols with their neighbours.
const DICTIONARY: &[&[u8]] = &[
    &[0x08, 0x00],
    &[0x86, 0xdd],
    &[0x81, 0x00],
    &[0x88, 0xa8],
    &[0x91, 0x00],
    &[0x08, 0x00, 0x45],
    &[0x08, 0x00, 0x4f],
    &[0x86, 0xdd, 0x60],
    &[0x81, 0x00, 0x00, 0x01],
    &[0x88, 0xa8, 0x00, 0x02],
    &[0x40, 0x06],
    &[0x40, 0x11],
    &[0x40, 0x01],
    &[0x06, 0x40],
    &[0x11, 0x40],
    &[0x3a, 0x40],
    &[0x20, 0x00],
    &[0x00, 0x01],
    &[0x3f, 0xff],
    &[0x00, 0x00, 0x05, 0x02, 0x00, 0x00, 0x01, 0x00],
    &[0x2b, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00],
    &[0x2c, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x01],
    &[0x3c, 0xff],
    &[0x33, 0x04],
    &[0x03, 0x04],
    &[0x0b, 0x00],
    &[0x02, 0x00],
];

/// Everything that can be asked of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fields {
    v6: bool,
    protocol: u8,
    addresses: [[u32; 4]; 2],
    ports_be: [u16; 2],
    hop_limit: u8,
    ip_bytes: u64,
    reply_frame: [u32; 3],
    /// Flags and window; sequence and acknowledgement number, length; the
    /// data's first bytes.
    segment: (u8, u16, [u32; 3], [u32; 3]),
}

impl Fields {
    fn of(packet: &Packet, parsed: &Parsed) -> Self {
        let segment = segment(packet, parsed, true, Signals::ALL);
        Self {
            v6: matches!(parsed.ip, canary_ebpf::parse::Ip::V6(_)),
            protocol: parsed.protocol(),
            addresses: [parsed.source().words_be, parsed.destination().words_be],
            ports_be: [parsed.source_port_be(), parsed.destination_port_be()],
            hop_limit: parsed.hop_limit(),
            ip_bytes: parsed.ip_bytes(),
            reply_frame: parsed.reply_frame().words,
            segment: (
                segment.flags,
                segment.window,
                [segment.seq, segment.ack, segment.len],
                segment.head,
            ),
        }
    }
}

/// What the parser says of the packet, and what translation makes of it at
/// either end.
type Seen = (Result<Fields, Reason>, [Vec<u8>; 2]);

fn look(packet: &[u8], fill: u8) -> Result<Seen, String> {
    let mut bed = Bed::new(packet, fill);
    let read = bed.packet();
    let fields = by_either(&read).map(|parsed| Fields::of(&read, &parsed));
    if let Ok(plain) = parse(&read) {
        let layout = walk(&read);
        let same = parse_at(&read, layout).map(|parsed| Fields::of(&read, &parsed));
        if same.as_ref() != Ok(&Fields::of(&read, &plain)) {
            return Err(format!("a plain packet's layout {layout:?} gives {same:?}"));
        }
    }
    if bed.inside() != packet || !bed.margins_are_whole() {
        return Err("reading a packet has changed it".into());
    }
    let mut translated = [Vec::new(), Vec::new()];
    for (end, translated) in [End::Source, End::Destination].into_iter().zip(&mut translated) {
        let mut bed = Bed::new(packet, fill);
        if let Ok(parsed) = by_either(&bed.packet()) {
            translate(&parsed, end);
        }
        if !bed.margins_are_whole() {
            return Err(format!("translating the {end:?} has written outside of the packet"));
        }
        bed.inside().clone_into(translated);
    }
    Ok((fields, translated))
}

/// As the program does: what is not plain by its layout.
fn by_either(packet: &Packet) -> Result<Parsed, Reason> {
    match parse(packet) {
        Err(Reason::NotIp | Reason::Fragment | Reason::NotTcpUdp) => {
            parse_whole_or_first(packet, walk(packet))
        }
        parsed => parsed,
    }
}

fn translate(parsed: &Parsed, end: End) {
    let address = Address { words_be: [0x1111_1111, 0x2222_2222, 0x3333_3333, 0x4444_4444] };
    let frame = FrameAddresses::new([0xaa; 6], [0xbb; 6]);
    rewrite(
        parsed,
        &Translation {
            end,
            address: &address,
            port_be: 0x5555,
            address_delta: 0x6666,
            transport_delta: 0x7777,
            frame: &frame,
        },
    );
}

fn check(packet: &[u8]) -> Result<Vec<u64>, String> {
    let zeroes = look(packet, 0x00)?;
    let ones = look(packet, 0xff)?;
    if zeroes != ones {
        return Err(format!("what is beside the packet matters: {zeroes:?}, or {ones:?}"));
    }
    let (fields, translated) = zeroes;
    Ok(match fields {
        Err(reason) => {
            if translated.iter().any(|bytes| bytes != packet) {
                return Err("a packet that is refused was changed".into());
            }
            vec![mark((reason.name(), packet.len().min(128)))]
        }
        Ok(fields) => {
            let until = last_change(packet, &translated[0]);
            vec![mark((fields.v6, fields.protocol, until)), mark((until, packet.len().min(128)))]
        }
    })
}

/// Where translation wrote its last byte: tells where the transport header is.
fn last_change(before: &[u8], after: &[u8]) -> Option<usize> {
    before.iter().zip(after).rposition(|(before, after)| before != after)
}
