//! What is counted, and why a packet left the way it did.

/// Counters of one backend in one epoch, one record per CPU. The first line
/// is all that a packet of an established flow touches.
/// Bytes are IP bytes: headers and payload, without the Ethernet frame.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Towards the backend.
    pub packets_in: u64,
    pub bytes_in: u64,
    /// Towards the client.
    pub packets_out: u64,
    pub bytes_out: u64,
    /// Flows born here: a SYN or a first datagram. Flows first seen in the
    /// middle are in `midstream` instead: they say nothing of the version.
    pub connections: u64,
    /// Handshakes done (TCP), or answered (UDP).
    pub established: u64,
    /// Flows taken over in the middle.
    pub midstream: u64,
    /// RST by the backend before the handshake was done.
    pub refused: u64,
    /// RST by the backend, by the client, after it.
    pub resets_backend: u64,
    pub resets_client: u64,
    /// SYNs seen again.
    pub syn_retransmits: u64,
    /// Flows that ended with a FIN each way.
    pub closed: u64,
    pub reserved: [u64; 4],
}

const _: () = assert!(size_of::<Cell>() == 128);

impl Cell {
    /// Sum, field by field.
    pub fn add(&mut self, other: &Self) {
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
        self.connections += other.connections;
        self.established += other.established;
        self.midstream += other.midstream;
        self.refused += other.refused;
        self.resets_backend += other.resets_backend;
        self.resets_client += other.resets_client;
        self.syn_retransmits += other.syn_retransmits;
        self.closed += other.closed;
    }
}

/// The part of a cell that both sides write (atomic adds): whoever finds a
/// handshake that nobody answered, the program reusing its way or the daemon
/// sweeping, takes the way and counts it, so it is counted once.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedCell {
    pub handshake_timeouts: u64,
    /// Half-open flows that had to make room for a new one.
    pub evicted: u64,
}

const _: () = assert!(size_of::<SharedCell>() == 16);

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)+) => {
        /// Why a packet left the program. The value is the index of a per-CPU
        /// counter; the counters' sum is the number of packets seen.
        ///
        /// As wide as a pointer: beside one in a `Result`, a narrower value
        /// makes the compiler take the pointer apart, which the kernel's
        /// verifier refuses.
        #[repr(u64)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name = $value,)+ }

        impl Reason {
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];
            /// Size of the counter map.
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// The inverse of `as`; what is no reason is [`Reason::Internal`].
            #[inline(always)]
            #[must_use]
            pub const fn from_number(number: u32) -> Self {
                match number {
                    $($value => Self::$name,)+
                    _ => Self::Internal,
                }
            }

            /// Stable name, used as the label of `canary_packet_verdicts_total`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

reasons! {
    /// Neither to a service nor from a backend: to the host, untouched.
    NotOurs = 0, "not_ours";
    /// Not IPv4 or IPv6 (ARP, VLAN tags, …): to the host.
    NotIp = 1, "not_ip";
    /// A header ends after the frame does: to the host.
    Truncated = 2, "truncated";
    /// A header that contradicts itself (version, header length): to the host.
    Malformed = 3, "malformed";
    /// IP, but neither TCP nor UDP (ICMP, …): to the host.
    NotTcpUdp = 4, "not_tcp_udp";
    /// A fragment: to the host.
    Fragment = 5, "fragment";
    /// TTL or hop limit used up: to the host, which tells the sender.
    TtlExpired = 6, "ttl_expired";
    /// Client to backend by a pin.
    Pinned = 7, "pinned";
    /// Client to backend, first packet of a flow.
    NewFlow = 8, "new_flow";
    /// Client to backend, TCP without SYN and without pin, by the current table.
    Midstream = 9, "midstream";
    /// Client to backend without a pin: a RST of an unknown flow, or two CPUs
    /// at once on a first packet.
    Unpinned = 10, "unpinned";
    /// Backend to client by a pin.
    Reply = 11, "reply";
    /// From a backend, but of no flow of ours: to the host, untouched.
    NoPin = 12, "no_pin";
    /// No track has a usable backend: to the host.
    NoBackend = 13, "no_backend";
    /// The backend's next hop is not known: to the host, which resolves it.
    Unresolved = 14, "unresolved";
    /// Every candidate backend already serves this client's address and port
    /// for another service: to the host.
    Collision = 15, "collision";
    /// The redirect map has no such interface: to the host.
    NoInterface = 16, "no_interface";
    /// Something that cannot be, as a map that is not there: to the host.
    Internal = 17, "internal";
}
