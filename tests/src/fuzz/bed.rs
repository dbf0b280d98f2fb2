//! Where a packet lies while the program's code, built for this host, reads it.

use canary_ebpf::packet::Packet;

/// Bytes on either side of the packet that must neither matter nor change.
const MARGIN: usize = 1024;

/// A packet between margins.
pub(super) struct Bed {
    bytes: Vec<u8>,
    fill: u8,
    len: usize,
}

impl Bed {
    pub(super) fn new(packet: &[u8], fill: u8) -> Self {
        let mut bytes = vec![fill; packet.len() + 2 * MARGIN];
        bytes[MARGIN..MARGIN + packet.len()].copy_from_slice(packet);
        Self { bytes, fill, len: packet.len() }
    }

    pub(super) fn packet(&mut self) -> Packet {
        let start = self.bytes.as_mut_ptr().expose_provenance() + MARGIN;
        // SAFETY: inside of `bytes`, which nothing else touches meanwhile.
        unsafe { Packet::new(start, start + self.len) }
    }

    pub(super) fn inside(&self) -> &[u8] {
        &self.bytes[MARGIN..MARGIN + self.len]
    }

    pub(super) fn margins_are_whole(&self) -> bool {
        let margin = [self.fill; MARGIN];
        self.bytes.starts_with(&margin) && self.bytes[MARGIN + self.len..] == margin
    }
}
