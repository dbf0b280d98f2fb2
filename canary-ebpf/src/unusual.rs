//! Packets that are not plain: which of the ways below each takes.

use canary_common::{PROTO_ICMP, PROTO_ICMPV6, Reason};

use crate::layout::{Layout, Part};

/// What is done with a packet of some layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusual {
    /// The same as with a plain one: tags and extension headers stay.
    Packet,
    /// See [`crate::fragments`].
    LaterFragment,
    /// See [`crate::icmp`].
    IcmpError,
}

impl Unusual {
    /// # Errors
    /// The reason for which it goes to the host, untouched.
    #[inline(always)]
    pub fn of(layout: Layout) -> Result<Self, Reason> {
        if let Some(reason) = layout.reason() {
            return Err(reason);
        }
        match (layout.part(), layout.protocol(), layout.is_v6()) {
            (Part::Later, ..) => Ok(Self::LaterFragment),
            (Part::Whole, PROTO_ICMP, false) | (Part::Whole, PROTO_ICMPV6, true) => {
                Ok(Self::IcmpError)
            }
            (_, PROTO_ICMP | PROTO_ICMPV6, _) => Err(Reason::NotTcpUdp),
            _ => Ok(Self::Packet),
        }
    }
}
