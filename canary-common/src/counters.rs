//! What is counted, and why a packet left the way it did.

/// A record of counters: its fields' names, sums and numbers follow from one
/// list.
macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident,)+ }) => {
        $(#[$doc])*
        #[repr(C, align(8))]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$field_doc])* pub $field: u64,)+ }

        impl $name {
            /// The fields' names, in their order.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($field),)+];

            /// Sum, field by field.
            pub const fn add(&mut self, other: &Self) {
                $(self.$field += other.$field;)+
            }

            /// Takes a part away, field by field; nothing goes below 0.
            pub const fn saturating_take(&mut self, part: &Self) {
                $(self.$field = self.$field.saturating_sub(part.$field);)+
            }

            /// What came on top of `before`, field by field.
            #[must_use]
            pub const fn since(&self, before: &Self) -> Self {
                Self { $($field: self.$field - before.$field,)+ }
            }

            /// A field by its name.
            #[must_use]
            pub fn field_mut(&mut self, name: &str) -> Option<&mut u64> {
                match name {
                    $(stringify!($field) => Some(&mut self.$field),)+
                    _ => None,
                }
            }

            /// The fields' values, in their order.
            pub fn values(&self) -> impl Iterator<Item = u64> {
                [$(self.$field,)+].into_iter()
            }
        }

        const _: () = assert!(size_of::<$name>() == 8 * $name::NAMES.len());
    };
}

counters! {
    /// Counters of one backend in one epoch, one record per CPU. The first line
    /// is all that a packet of an established flow touches.
    /// Bytes are IP bytes: headers and payload, without the Ethernet frame.
    Cell {
        /// Towards the backend. What the program answers itself is not.
        packets_in,
        bytes_in,
        /// Towards the client.
        packets_out,
        bytes_out,
        /// Flows born here: a SYN or a first datagram. Flows first seen in the
        /// middle are in `midstream` instead: they say nothing of the version.
        connections,
        /// Handshakes done (TCP), or answered (UDP).
        established,
        /// Flows taken over in the middle.
        midstream,
        /// RST by the backend before the handshake was done.
        refused,
        /// RST after it and before a FIN each way, each flow once: by whom.
        resets_backend,
        resets_client,
        /// Those of them where data had been sent.
        resets_backend_after_data,
        resets_client_after_data,
        /// RST after a FIN each way, each flow once: nobody's failure.
        resets_backend_after_fin,
        resets_client_after_fin,
        /// RST segments with a sequence number far outside of any window: not
        /// believed, the flow goes on.
        resets_backend_implausible,
        resets_client_implausible,
        /// SYNs seen again.
        syn_retransmits,
        /// Data segments that begin below the highest sequence number seen:
        /// sent again, or overtaken on the way.
        retransmits_backend,
        retransmits_client,
        /// Segments that offer a window of 0: by whom.
        zero_windows_backend,
        zero_windows_client,
        /// HTTP/1.x responses in the clear, by class of their status.
        http_1xx,
        http_2xx,
        http_3xx,
        http_4xx,
        http_5xx,
        /// Flows with at least one 5xx.
        connections_5xx,
        /// Flows with a fatal TLS alert in the clear: by whom.
        tls_alerts_backend,
        tls_alerts_client,
        /// Flows that ended with a FIN each way.
        closed,
        reserved0,
        reserved1,
    }
}

const _: () = assert!(size_of::<Cell>() == 256);

counters! {
    /// The part of a cell that both sides write (atomic adds): whoever finds a
    /// flow whose time is over, the program reusing its way or the daemon
    /// sweeping, takes the way and counts it, so it is counted once.
    SharedCell {
        handshake_timeouts,
        /// Half-open flows that had to make room for a new one.
        evicted,
        /// Established flows that went silent while the client waited for an
        /// answer to what it had sent.
        idle_cuts,
        reserved0,
    }
}

const _: () = assert!(size_of::<SharedCell>() == 32);

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
    /// Not IPv4 or IPv6 behind up to two VLAN tags (ARP, …): to the host.
    NotIp = 1, "not_ip";
    /// A header ends after the frame does: to the host.
    Truncated = 2, "truncated";
    /// A header that contradicts itself (version, header length): to the host.
    Malformed = 3, "malformed";
    /// IP, but neither TCP nor UDP nor an ICMP error, or behind headers that are
    /// not looked behind: to the host.
    NotTcpUdp = 4, "not_tcp_udp";
    /// A later fragment, by its first.
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
    /// A later fragment whose first was not seen, or long ago: to the host.
    FragmentUnknown = 18, "fragment_unknown";
    /// An ICMP error about a packet of a pinned flow, translated.
    IcmpError = 19, "icmp_error";
    /// From a client, answered with a RST by order: its flow's generation was
    /// ended, or a drill has it fail.
    Reset = 20, "reset";
    /// A client's SYN that a drill has nobody answer: dropped.
    FaultDropped = 21, "fault_dropped";
}
