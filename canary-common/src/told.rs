//! What a packet tells of its flow: the word between the state machine, the
//! counters and those who follow flows.

use crate::FlowKey;

/// What a packet told: bits 0 to 31 stand for the counters of its flow's cell,
/// in their order, each to be raised by one; then what is to be done; from bit
/// 36 on a time that is over, in [`crate::Ticks`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told(pub u64);

/// The [`Told`] that raises this counter of a [`crate::Cell`].
#[macro_export]
macro_rules! told {
    ($counter:ident) => {
        $crate::Told(1 << (core::mem::offset_of!($crate::Cell, $counter) / size_of::<u64>()))
    };
}

impl Told {
    pub const NOTHING: Self = Self(0);
    pub const NEW_FLOW: Self = told!(connections);
    pub const MIDSTREAM: Self = told!(midstream);
    /// The client begins to wait.
    pub const STARTS: Self = Self(1 << 32);
    /// The wait for the SYN-ACK is over, or that for an answer.
    pub const HANDSHAKE: Self = Self(1 << 33);
    pub const FIRST_BYTE: Self = Self(1 << 34);
    /// A new connection from the same client port: not this flow any more.
    pub const REOPENED: Self = Self(1 << 35);
    const WAITED: u32 = 36;
    /// What the followers of a flow are told of.
    pub const EVENTS: Self = Self::NEW_FLOW
        .and(Self::MIDSTREAM)
        .and(Self::HANDSHAKE)
        .and(Self::FIRST_BYTE)
        .and(told!(refused))
        .and(told!(resets_backend))
        .and(told!(resets_client))
        .and(told!(closed));

    #[inline(always)]
    #[must_use]
    pub const fn has(self, any: Self) -> bool {
        self.0 & any.0 != 0
    }

    #[inline(always)]
    #[must_use]
    pub const fn and(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    /// All but these.
    #[inline(always)]
    #[must_use]
    pub const fn without(self, those: Self) -> Self {
        Self(self.0 & !those.0)
    }

    /// This where `condition` holds; without a branch, of which the verifier
    /// walks both sides.
    #[inline(always)]
    #[must_use]
    pub const fn when(self, condition: bool) -> Self {
        Self(self.0 * condition as u64)
    }

    /// What a guard may count: events that speak against the version.
    pub const FAILURES: Self = told!(refused)
        .and(told!(resets_backend))
        .and(told!(resets_backend_after_data))
        .and(told!(resets_client))
        .and(told!(resets_client_after_data))
        .and(told!(zero_windows_backend))
        .and(told!(http_5xx))
        .and(told!(connections_5xx))
        .and(told!(tls_alerts_backend))
        .and(told!(tls_alerts_client));

    /// With the length of a wait; what is longer than its bits stays below.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, ticks: u32) -> Self {
        let most = u32::MAX >> (Self::WAITED - 32);
        let ticks = if ticks < most { ticks } else { most };
        Self(self.0 | (ticks as u64) << Self::WAITED)
    }

    /// Whether the cell's counter of this number is to be raised.
    #[inline(always)]
    #[must_use]
    pub const fn counts(self, number: usize) -> bool {
        number < 32 && self.0 & 1 << number != 0
    }

    #[inline(always)]
    #[must_use]
    pub const fn waited(self) -> u32 {
        (self.0 >> Self::WAITED) as u32
    }

    /// Whether there is something to be booked.
    #[inline(always)]
    #[must_use]
    pub const fn is_booked(self) -> bool {
        self.0 & !(Self::STARTS.0 | Self::REOPENED.0) != 0
    }
}

/// What the program tells those who follow flows, through the ring `EVENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowEvent {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub at: u64,
    /// A [`Told`] with at least one of [`Told::EVENTS`].
    pub told: u64,
    pub key: FlowKey,
    /// Index into `BACKENDS`.
    pub backend: u16,
    pub reserved: u16,
}

const _: () = assert!(size_of::<FlowEvent>() == 40);
