//! What the benchmark's wrapper program is told.

/// Bytes of the wrapper's frames: headers, and data in what is left.
pub const EXCHANGE_FRAME: usize = 96;

/// Two frames that go to a program in turns, a request and its response, each
/// time with the sequence numbers that follow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// Runs so far; the lowest bit says whose turn it is.
    pub runs: u64,
    /// Whether the frames are IPv6's.
    pub v6: u64,
    /// The next of each, as words of the frame's bytes.
    pub frames: [[u64; EXCHANGE_FRAME / 8]; 2],
}

impl Exchange {
    /// Where TCP's header begins in a frame.
    #[must_use]
    pub const fn tcp_at(v6: bool) -> usize {
        if v6 { 14 + 40 } else { 14 + 20 }
    }

    /// Bytes of data in each frame.
    #[must_use]
    pub const fn data_len(v6: bool) -> usize {
        EXCHANGE_FRAME - Self::tcp_at(v6) - 20
    }
}
