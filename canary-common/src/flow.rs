//! The flow table's records: one cache line a flow.

use crate::{Address, FrameAddresses, HashKeys, Hashed};

/// Ways of a bucket.
pub const WAYS: usize = 4;

/// Who a flow is: the service's number stands for VIP, port and protocol.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub client: Address,
    pub client_port_be: u16,
    /// Index into `SERVICES`.
    pub service: u16,
}

const _: () = assert!(size_of::<FlowKey>() == 20);

impl FlowKey {
    #[inline(always)]
    #[must_use]
    pub const fn hash(&self, keys: &HashKeys) -> Hashed {
        keys.hash(&self.client, self.client_port_be as u32).beside(self.service)
    }

    /// Port and service in one word, as they stand in memory.
    #[inline(always)]
    #[must_use]
    pub const fn rest(&self) -> u32 {
        let ([a, b], [c, d]) = (self.client_port_be.to_ne_bytes(), self.service.to_ne_bytes());
        u32::from_ne_bytes([a, b, c, d])
    }

    /// Whether it is the one flow in so many that is followed; 0: none is.
    #[inline(always)]
    #[must_use]
    pub const fn is_followed(&self, keys: &HashKeys, one_in: u32) -> bool {
        // Other bits than those that choose bucket and way.
        one_in != 0 && ((self.hash(keys).0 >> 40) as u32).is_multiple_of(one_in)
    }
}

/// A flow's place in its life. `Free` is what a zeroed map holds.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowState {
    Free = 0,
    /// Claimed, being written.
    Claimed = 1,
    /// TCP before the handshake is done, or taken over in the middle.
    HalfOpen = 2,
    Established = 3,
    /// A FIN each way or a RST was seen; lingers.
    Closing = 4,
    /// UDP without an answer yet, and with one.
    Unanswered = 5,
    Answered = 6,
}

impl FlowState {
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        match bits {
            1 => Self::Claimed,
            2 => Self::HalfOpen,
            3 => Self::Established,
            4 => Self::Closing,
            5 => Self::Unanswered,
            6 => Self::Answered,
            _ => Self::Free,
        }
    }

    /// May make room for a new flow.
    #[inline(always)]
    #[must_use]
    pub const fn is_evictable(self) -> bool {
        matches!(self, Self::HalfOpen | Self::Unanswered)
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Claimed => "claimed",
            Self::HalfOpen => "half-open",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Unanswered => "unanswered",
            Self::Answered => "answered",
        }
    }
}

/// Bits that a flow collects.
#[derive(Clone, Copy, Debug)]
pub struct FlowFlags;

impl FlowFlags {
    /// The backend sent its SYN-ACK.
    pub const ANSWERED: u16 = 1;
    pub const FIN_CLIENT: u16 = 2;
    pub const FIN_BACKEND: u16 = 4;
    /// First seen in the middle: its failures are not the version's.
    pub const MIDSTREAM: u16 = 8;
    /// Booked as a failure already.
    pub const BAD: u16 = 16;
    /// Closed by a RST, or one came after both FINs.
    pub const RESET: u16 = 32;
    /// A side has sent data.
    pub const DATA: u16 = 64;
    /// A response with status 5xx was seen.
    pub const HTTP_5XX: u16 = 128;
    /// A fatal TLS alert was seen.
    pub const ALERT_CLIENT: u16 = 256;
    pub const ALERT_BACKEND: u16 = 512;
    /// The service's generation when the flow was born to the canary, in four
    /// bits; 0 of a flow that was born elsewhere, or is not to be cut.
    pub const GENERATION: u16 = Self::GENERATIONS << Self::GENERATION_SHIFT;
    /// The highest generation.
    pub const GENERATIONS: u16 = 15;
    const GENERATION_SHIFT: u32 = 10;
    /// Drawn to fail, in a drill.
    pub const FAULTED: u16 = 1 << 14;

    /// The flags of a flow of this generation, see
    /// [`crate::Service::generation`].
    #[inline(always)]
    #[must_use]
    pub const fn of_generation(generation: u8) -> u16 {
        (generation as u16) << Self::GENERATION_SHIFT & Self::GENERATION
    }

    /// Whether a flow's packets are to be looked at before they are forwarded:
    /// it is of another generation than the service is now, or is to fail.
    #[inline(always)]
    #[must_use]
    pub const fn is_marked(flags: u16, generation: u8) -> bool {
        let marks = flags & (Self::GENERATION | Self::FAULTED);
        marks != 0 && marks != Self::of_generation(generation)
    }

    /// Whether a flow was born to the canary under another generation.
    #[inline(always)]
    #[must_use]
    pub const fn is_outdated(flags: u16, generation: u8) -> bool {
        let born = flags & Self::GENERATION;
        born != 0 && generation != 0 && born != Self::of_generation(generation)
    }
}

/// The word that decides a way: bits 0–7 state, 8–23 flags, 24–39 generation,
/// 40–63 tag (bits of the key's hash). All changes are compare-and-swap; a
/// claim raises the generation, so a reader that finds the word unchanged
/// after reading the rest has read one record and not two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ctl(pub u64);

impl Ctl {
    /// The tag's and the generation's bits.
    pub const IDENTITY: u64 = 0xffff_ffff_ff00_0000;

    #[inline(always)]
    #[must_use]
    pub const fn state(self) -> FlowState {
        FlowState::from_bits(self.0 as u8)
    }

    #[inline(always)]
    #[must_use]
    pub const fn flags(self) -> u16 {
        (self.0 >> 8) as u16
    }

    #[inline(always)]
    #[must_use]
    pub const fn has(self, flags: u16) -> bool {
        self.flags() & flags == flags
    }

    #[inline(always)]
    #[must_use]
    pub const fn tag(self) -> u32 {
        (self.0 >> 40) as u32
    }

    #[inline(always)]
    #[must_use]
    pub const fn tag_of(hash: Hashed) -> u32 {
        (hash.0 >> 40) as u32
    }

    /// The word of a claim on a way that held `self`.
    #[inline(always)]
    #[must_use]
    pub const fn claimed(self, tag: u32) -> Self {
        let generation = ((self.0 >> 24) + 1) & 0xffff;
        Self((tag as u64) << 40 | generation << 24 | FlowState::Claimed as u64)
    }

    /// The same way with another state and flags.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, state: FlowState, flags: u16) -> Self {
        Self(self.0 & Self::IDENTITY | (flags as u64) << 8 | state as u64)
    }

    /// The same way with another state and flags, as numbers.
    #[inline(always)]
    #[must_use]
    pub const fn with_bits(self, state: u16, flags: u16) -> Self {
        Self(self.0 & Self::IDENTITY | (flags as u64) << 8 | (state as u64 & 0xff))
    }

    /// The same way given back: only the generation stays.
    #[inline(always)]
    #[must_use]
    pub const fn freed(self) -> Self {
        Self(self.0 & 0x00_00ff_ff00_0000)
    }
}

/// One flow, both directions, one cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    /// A [`Ctl`].
    pub ctl: u64,
    pub key: FlowKey,
    /// Index into `BACKENDS`.
    pub backend: u16,
    /// Index into `CELLS`: where everything of this flow is booked.
    pub cell: u16,
    /// When the flow's time is over, in jiffies (low 32 bits).
    pub deadline: u32,
    /// Where the client's packets come from, so that replies go back there.
    pub client_ifindex: u32,
    /// How a reply's frame begins: to the client's side, from this host.
    pub reply_frame: FrameAddresses,
    /// Host byte order. Until the handshake is done the client's initial
    /// sequence number, then the next one the client will send.
    pub client_seq: u32,
    /// Host byte order. The next sequence number the backend will send.
    pub backend_seq: u32,
    /// Since when the client waits: for the SYN-ACK, then for the answer to
    /// what it sent. In [`crate::Ticks`]; 0 while it waits for nothing.
    pub waiting_since: u32,
}

const _: () = assert!(size_of::<Flow>() == 64);

impl Flow {
    /// Whether a flow whose time ended in this state was a handshake that
    /// nobody answered: of those whose beginning was seen.
    #[inline(always)]
    #[must_use]
    pub const fn was_unanswered(ctl: Ctl) -> bool {
        const OTHERWISE: u16 =
            FlowFlags::ANSWERED | FlowFlags::MIDSTREAM | FlowFlags::BAD | FlowFlags::RESET;
        matches!(ctl.state(), FlowState::HalfOpen) && ctl.flags() & OTHERWISE == 0
    }

    /// Whether it was cut while its client waited for an answer.
    #[inline(always)]
    #[must_use]
    pub const fn was_cut(ctl: Ctl, waiting_since: u32) -> bool {
        matches!(ctl.state(), FlowState::Established)
            && waiting_since != 0
            && !ctl.has(FlowFlags::MIDSTREAM)
    }
}

/// One bucket: its ways side by side.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    pub ways: [Flow; WAYS],
}

const _: () = assert!(size_of::<Bucket>() == 256);

impl Bucket {
    /// The way where a look-up starts: most flows stand there, so that most
    /// look-ups touch one line.
    #[inline(always)]
    #[must_use]
    pub const fn first_way(hash: Hashed) -> usize {
        (hash.0 >> 38) as usize & (WAYS - 1)
    }

    /// The bucket of a key among `mask + 1` (a power of two).
    #[inline(always)]
    #[must_use]
    pub const fn index(hash: Hashed, mask: u32) -> u32 {
        hash.0 as u32 & mask
    }
}

/// Which flows may stand in the overflow map, a bit for many: all others need
/// no look-up there. Of the two halves the program reads one and sets bits in
/// both, so that the daemon can make the other anew.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct OverflowMarks {
    /// The half that is read: 0 or 1.
    pub half: u32,
    pub reserved: u32,
    pub words: [[u64; Self::WORDS]; 2],
}

impl OverflowMarks {
    /// Of a half: 32,768 bits. A thousand flows that overflowed send 3 % of
    /// the misses to the map in vain.
    pub const WORDS: usize = 512;
    /// Other bits of the hash than those a bucket is found by.
    const SHIFT: u32 = 40;

    /// The word of a flow's bit in a half.
    #[inline(always)]
    #[must_use]
    pub const fn word(hash: Hashed) -> usize {
        (hash.0 >> (Self::SHIFT + 6)) as usize & (Self::WORDS - 1)
    }

    /// The bit in its word.
    #[inline(always)]
    #[must_use]
    pub const fn bit(hash: Hashed) -> u64 {
        1 << ((hash.0 >> Self::SHIFT) & 63)
    }
}

const _: () = assert!(size_of::<OverflowMarks>() == 8 + 2 * 8 * OverflowMarks::WORDS);

/// Whether `deadline` lies before `now`, both in jiffies modulo 2^32.
#[inline(always)]
#[must_use]
pub const fn deadline_passed(deadline: u32, now: u32) -> bool {
    (deadline.wrapping_sub(now) as i32) < 0
}
