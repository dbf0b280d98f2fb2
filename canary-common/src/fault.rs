//! A drill's synthetic failures.

use crate::Address;

/// How a flow is made to fail.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The client's first data is answered with a RST.
    Reset = 1,
    /// Its SYN is dropped.
    Drop = 2,
    /// Its SYN is answered with a RST.
    Refuse = 3,
    /// The backend's HTTP/1.x responses say 5xx, whatever they said.
    Http5xx = 4,
}

impl FaultKind {
    pub const ALL: [Self; 4] = [Self::Reset, Self::Drop, Self::Refuse, Self::Http5xx];

    /// The inverse of `as`.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Reset),
            2 => Some(Self::Drop),
            3 => Some(Self::Refuse),
            4 => Some(Self::Http5xx),
            _ => None,
        }
    }

    /// The command line's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Drop => "drop",
            Self::Refuse => "refuse",
            Self::Http5xx => "5xx",
        }
    }
}

/// The drill of one service, one cache line. All zero, there is none. Of TCP
/// only, and of connections whose SYN was seen.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Jiffies, all 64 bits; past it nothing fails any more, whoever is there
    /// to end it. Written last.
    pub until: u64,
    /// Of the canary's new connections, in parts of 2^32.
    pub share: u64,
    /// Connections that were made to fail. Added to by the program.
    pub faulted: u64,
    /// A [`FaultKind`].
    pub kind: u32,
    pub reserved: u32,
    /// The clients that it hits: those whose address is `network` under `mask`.
    pub network: Address,
    pub mask: Address,
}

const _: () = assert!(size_of::<Fault>() == 64);

impl Fault {
    #[inline(always)]
    #[must_use]
    pub const fn hits(&self, client: &Address) -> bool {
        client.and(&self.mask).same(&self.network)
    }
}
