//! What the benchmark's programs are told. The drawing of flows is here for it
//! is the same on both sides: who made a table's flows finds them again.

/// Bytes of a wrapper's frames: headers, and data in what is left.
pub const EXCHANGE_FRAME: usize = 96;
/// Frames that a program can get in turns: a handshake's.
pub const EXCHANGE_TURNS: usize = 3;

/// Frames that go to a program in turns, each turn for another flow, drawn by
/// a generator that comes by all of its flows before it comes by one again.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Exchange {
    /// The flow drawn last.
    pub flow: u32,
    /// Of the generator, see [`Exchange::draw`]: odd, and 1 in its last two bits;
    pub multiplier: u32,
    /// odd;
    pub increment: u32,
    /// flows less one, a power of two.
    pub mask: u32,
    /// The first flow's client: the last 32 bits of its address, and its port,
    /// both in host byte order.
    pub address: u32,
    pub port: u32,
    /// Flows of one address, less one, as a mask and as a shift.
    pub port_mask: u32,
    pub address_shift: u32,
    /// Where a flow's service is drawn as well: the first one's address, as
    /// above, and their number less one, a power of two; 0 where the frames
    /// say which one.
    pub vip: u32,
    pub vip_mask: u32,
    /// The first backend's address, as above, to which the list of backends
    /// adds; 0 where the frames say which one. And where in the list the first
    /// flow's is, in words.
    pub backend: u32,
    pub list: u32,
    /// The next frame's number, and how many there are.
    pub turn: u32,
    pub turns: u32,
    /// A bit for each frame: it goes to the client, and not to the other end.
    pub to_client: u32,
    /// Bytes of data in each frame, by which the next one's sequence and
    /// acknowledgement numbers are higher; 0 leaves them.
    pub data: u32,
    /// As words of their bytes.
    pub frames: [[u64; EXCHANGE_FRAME / 8]; EXCHANGE_TURNS],
}

const _: () = assert!(size_of::<Exchange>() == 64 + EXCHANGE_FRAME * EXCHANGE_TURNS);

impl Exchange {
    /// Where TCP's header begins in a frame.
    #[must_use]
    pub const fn tcp_at(v6: bool) -> usize {
        if v6 { 14 + 40 } else { 14 + 20 }
    }

    /// Bytes of data that a frame has room for.
    #[must_use]
    pub const fn data_len(v6: bool) -> usize {
        EXCHANGE_FRAME - Self::tcp_at(v6) - 20
    }

    /// The next flow: a linear congruential generator modulo a power of two,
    /// of full period (Hull and Dobell, "Random number generators", 1962).
    #[inline(always)]
    pub const fn draw(&mut self) -> u32 {
        let next = self.flow.wrapping_mul(self.multiplier).wrapping_add(self.increment);
        self.flow = next & self.mask;
        self.flow
    }

    /// Last 32 bits of a flow's client's address, and its port, host byte order.
    #[inline(always)]
    #[must_use]
    pub const fn client(&self, flow: u32) -> (u32, u16) {
        let address = self.address.wrapping_add(flow >> (self.address_shift & 31));
        (address, self.port.wrapping_add(flow & self.port_mask) as u16)
    }

    /// The same of its service's address.
    #[inline(always)]
    #[must_use]
    pub const fn service(&self, flow: u32) -> u32 {
        self.vip.wrapping_add(flow & self.vip_mask)
    }

    /// Where a flow's backend stands in the list: the word, and the bit in it
    /// from which on 16 are the backend's number.
    #[inline(always)]
    #[must_use]
    pub const fn listed(&self, flow: u32) -> (u32, u32) {
        (self.list.wrapping_add(flow / 4), flow % 4 * 16)
    }
}

/// Where the benchmark's stateless NAT sends packets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct NatTarget {
    pub address_be: u32,
    pub port_be: u16,
    /// As a backend's, see [`crate::Backend`].
    pub address_delta: u16,
    pub transport_delta: u16,
    pub reserved: u16,
    /// How the frame begins.
    pub frame: crate::FrameAddresses,
}

const _: () = assert!(size_of::<NatTarget>() == 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flow_is_drawn_once_a_period() {
        for (multiplier, increment, bits) in [(5, 1, 0), (0x5851_f42d, 77, 10), (1, 3, 8)] {
            let mask = (1 << bits) - 1;
            let mut exchange = Exchange { multiplier, increment, mask, ..Exchange::default() };
            let mut seen = [false; 1 << 10];
            for _ in 0..=mask {
                let flow = exchange.draw() as usize;
                assert!(!seen[flow], "{flow} comes again");
                seen[flow] = true;
            }
            assert!(seen[..=mask as usize].iter().all(|&was| was));
        }
    }

    #[test]
    fn flows_have_clients_of_their_own() {
        let exchange = Exchange {
            address: 0x0a00_0000,
            port: 0x4000,
            port_mask: 255,
            address_shift: 8,
            ..Exchange::default()
        };
        assert_eq!(exchange.client(0), (0x0a00_0000, 0x4000));
        assert_eq!(exchange.client(255), (0x0a00_0000, 0x40ff));
        assert_eq!(exchange.client(0x1_2345), (0x0a00_0123, 0x4045));
    }
}
