//! The readers of HTTP status lines and TLS alerts, beside readers that take
//! the same bytes as text and as a list.

use std::net::SocketAddr;

use canary_common::Signals;
use canary_ebpf::{
    parse::parse,
    signals::{http_status_class, is_fatal_alert, segment},
};

use super::{Format, Target, bed::Bed, mark};
use crate::frame::{ACK, Frame};

pub const TARGET: Target =
    Target { name: "signals", format: Format::Binary, dictionary: DICTIONARY, check };

const DICTIONARY: &[&[u8]] = &[
    b"HTTP/1.1 ",
    b"HTTP/1.0 ",
    b"HTTP/2 ",
    b"200 OK\r\n",
    b"503",
    b"100",
    b"599",
    b"600",
    b"000",
    b"\x15\x03\x01\x00\x02\x02",
    b"\x15\x03\x03\x00\x02\x01\x00",
    b"\x16\x03\x01",
    b"\x00\x02",
];

/// Longer data is cut: only its beginning is read.
const MTU: usize = 1400;

/// The input is a segment's data.
fn check(data: &[u8]) -> Result<Vec<u64>, String> {
    let data = &data[..data.len().min(MTU)];
    let (client, backend) = (SocketAddr::from(([1; 4], 1)), SocketAddr::from(([2; 4], 2)));
    let frame = Frame::tcp(backend, client, ACK, 1, 1).payload(data).bytes();
    let mut bed = Bed::new(&frame, 0xff);
    let packet = bed.packet();
    let parsed = parse(&packet).map_err(|reason| format!("the frame is {}", reason.name()))?;
    let segment = segment(&packet, &parsed, true, Signals::ALL);
    if segment.len as usize != data.len() {
        return Err(format!("{} bytes of data are {}", data.len(), segment.len));
    }
    let read = (http_status_class(&segment.head), alerts(segment.len, &segment.head));
    let plain = (status_class(data), is_alert(data));
    if read != plain {
        return Err(format!("{read:?} was read, and it is {plain:?}"));
    }
    Ok(vec![mark(read), mark(data.len().min(16))])
}

/// The program asks for a whole record.
fn alerts(len: u32, head: &[u32; 3]) -> bool {
    len >= 7 && is_fatal_alert(head)
}

fn status_class(data: &[u8]) -> u8 {
    let Some(Ok(line)) = data.get(..12).map(str::from_utf8) else { return 0 };
    let Some((version, status)) = line.split_once(' ') else { return 0 };
    match status.parse::<u16>() {
        Ok(status @ 100..600) if ["HTTP/1.0", "HTTP/1.1"].contains(&version) => {
            (status / 100) as u8
        }
        _ => 0,
    }
}

fn is_alert(data: &[u8]) -> bool {
    matches!(data, [21, 3, 0..=4, 0, 2, 2, _, ..])
}
