/// What the `canary_where` program writes over the packet it was asked about:
/// the outcome of the same functions that decide for real packets, nothing
/// booked and nothing pinned. All in host byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WhereAnswer {
    /// 1 where the packet reached a service; else the rest is zero.
    pub found: u32,
    /// Index into `SERVICES`.
    pub service: u32,
    /// 1 where a live pin decided, 0 where the table did.
    pub pinned: u32,
    /// Index into `BACKENDS`; 0 where no track has a usable one.
    pub backend: u32,
    /// The flow's hash that is compared with the split.
    pub split_hash: u32,
    /// Slot of the track's table.
    pub slot: u32,
    /// State of the pin, a `FlowState` as number.
    pub state: u32,
    /// A `Reason` as number: how such a packet would leave.
    pub reason: u32,
    /// The packed weight table that was in force.
    pub weights: u64,
    /// 1 where the canary would have been it, but for the guard.
    pub guarded: u32,
    /// Whether the client has a track of its own: 0 no, 1 stable, 2 canary.
    pub steered: u32,
}

const _: () = assert!(size_of::<WhereAnswer>() == 48);
