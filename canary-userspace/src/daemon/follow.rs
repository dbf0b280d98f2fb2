//! Those who follow flows (`canary flows --follow`): events from the program's
//! ring and from the sweep, with the times between them, to whoever listens.
//! While nobody does, the program writes none.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aya::maps::{MapData, RingBuf};
use canary_common::{
    Address, Flow, FlowEvent, FlowKey, FlowState, HashKeys, Ticks, Told, Track, told,
};
use tokio::{io::unix::AsyncFd, sync::mpsc};

use crate::{
    api::{request::FlowFilter, types::FollowedFlow},
    dataplane::FlowSnapshot,
};

/// Events that a listener may be behind; more are lost to it, and counted.
const QUEUE: usize = 4096;
/// Events passed on at once: other requests are served in between.
const BATCH: usize = 4096;
/// Flows whose times are kept for a listener. A flow beyond has its events
/// without times.
const KEPT: usize = 65_536;

/// Backends by number, as a listener's filter has them.
pub(super) type Wanted = Vec<(u16, Track, SocketAddr)>;

/// The ring's reading end, and all listeners.
pub(super) struct Followers {
    ring: AsyncFd<RingBuf<MapData>>,
    keys: HashKeys,
    /// The last batch left some.
    more: bool,
    listeners: Vec<Listener>,
}

#[derive(Debug)]
struct Listener {
    service: String,
    filter: FlowFilter,
    /// One flow in so many.
    one_in: u32,
    number: u16,
    wanted: Wanted,
    sender: mpsc::Sender<FollowedFlow>,
    /// Lost since the last event that went out.
    lost: u64,
    flows: HashMap<FlowKey, Since>,
}

/// What is known of a flow that is followed.
#[derive(Clone, Copy, Debug, Default)]
struct Since {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    born: u64,
    handshake: Option<f64>,
    first_byte: Option<f64>,
}

impl Since {
    /// Seconds from birth to then; `None` where that was not seen.
    fn lived(&self, then: u64) -> Option<f64> {
        (self.born != 0).then(|| then.saturating_sub(self.born) as f64 / 1e9)
    }
}

impl std::fmt::Debug for Followers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Followers").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

impl Followers {
    /// # Errors
    /// Where the ring cannot be waited for.
    pub(super) fn new(ring: RingBuf<MapData>, keys: HashKeys) -> std::io::Result<Self> {
        // SAFETY: the ring owns its descriptor and keeps it open; it goes into
        // the `AsyncFd`, which ends before it does.
        let ring = unsafe { AsyncFd::register(ring) }?;
        Ok(Self { ring, keys, more: false, listeners: Vec::new() })
    }

    /// Returns when there are events.
    pub(super) async fn ready(&self) {
        if self.more {
            return;
        }
        if let Ok(mut ready) = self.ring.readable().await {
            // Before the ring is read: what comes in between wakes again.
            ready.clear_ready();
        }
    }

    pub(super) fn add(
        &mut self,
        service: &str,
        filter: FlowFilter,
        one_in: u32,
        (number, wanted): (u16, Wanted),
    ) -> mpsc::Receiver<FollowedFlow> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.listeners.push(Listener {
            service: service.to_owned(),
            filter,
            one_in,
            number,
            wanted,
            sender,
            lost: 0,
            flows: HashMap::new(),
        });
        receiver
    }

    /// Who listens to what, for [`Followers::renew`].
    pub(super) fn filters(&self) -> Vec<(String, FlowFilter)> {
        self.listeners.iter().map(|l| (l.service.clone(), l.filter.clone())).collect()
    }

    /// Numbers as they are after a reload; whose service is gone is let go.
    pub(super) fn renew(&mut self, numbers: Vec<Option<(u16, Wanted)>>) {
        let mut numbers = numbers.into_iter();
        self.listeners.retain_mut(|listener| {
            let Some((number, wanted)) = numbers.next().flatten() else { return false };
            (listener.number, listener.wanted) = (number, wanted);
            true
        });
    }

    /// What the program has to tell of: one flow in so many; 0 of none. Those
    /// who hung up are forgotten.
    pub(super) fn one_in(&mut self) -> u32 {
        self.listeners.retain(|listener| !listener.sender.is_closed());
        let mut all = self.listeners.iter().map(|listener| listener.one_in);
        let first = all.next().unwrap_or(0);
        // Of several shares the program tells of all flows, and each listener
        // gets its own.
        if all.all(|one_in| one_in == first) { first } else { 1 }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Passes on what is in the ring.
    pub(super) fn pass_on(&mut self) {
        let clock = Clock::now();
        for _ in 0..BATCH {
            let Some(item) = self.ring.get_mut().next() else {
                self.more = false;
                return;
            };
            let Some(event) = read(&item) else { continue };
            for listener in &mut self.listeners {
                listener.hear(&event, &self.keys, &clock);
            }
        }
        self.more = true;
    }

    /// A flow whose time was over.
    pub(super) fn ended(&mut self, flow: &FlowSnapshot) {
        let clock = Clock::now();
        for listener in &mut self.listeners {
            listener.ended(flow, &self.keys, &clock);
        }
    }
}

/// An event's bytes in the ring; `None` where they are none.
fn read(item: &[u8]) -> Option<FlowEvent> {
    let bytes: &[u8; size_of::<FlowEvent>()] = item.try_into().ok()?;
    // SAFETY: any bytes are an event.
    Some(unsafe { std::mem::transmute_copy(bytes) })
}

/// Both clocks at once, nanoseconds: the program's, and the wall's.
struct Clock {
    monotonic: u64,
    wall: u64,
}

impl Clock {
    fn now() -> Self {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: room for the answer.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
        let monotonic = Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { monotonic: monotonic.as_nanos() as u64, wall: wall.as_nanos() as u64 }
    }

    /// Seconds since 1970.
    fn seconds(&self, monotonic: u64) -> f64 {
        let ago = self.monotonic.saturating_sub(monotonic);
        self.wall.saturating_sub(ago) as f64 / 1e9
    }
}

impl Listener {
    fn hear(&mut self, event: &FlowEvent, keys: &HashKeys, clock: &Clock) {
        let told = Told(event.told);
        let Some((track, backend)) = self.listens_to(&event.key, event.backend, keys) else {
            return;
        };
        let since = self.times(&event.key, told, event.at);
        let Some(kind) = Kind::of(told) else { return };
        if kind.ends {
            self.flows.remove(&event.key);
        }
        self.send(FollowedFlow {
            at: clock.seconds(event.at),
            event: kind.name.to_owned(),
            by: kind.by.map(str::to_owned),
            after_data: kind.after_data,
            lived: if kind.ends { since.lived(event.at) } else { None },
            ..followed(&event.key, track, backend, &since)
        });
    }

    fn ended(&mut self, flow: &FlowSnapshot, keys: &HashKeys, clock: &Clock) {
        let Some((track, backend)) = self.listens_to(&flow.key, flow.backend, keys) else {
            return;
        };
        // The end of what is closing was told already.
        if flow.ctl.state() == FlowState::Closing {
            return;
        }
        let since = self.flows.remove(&flow.key).unwrap_or_default();
        let event = if Flow::was_unanswered(flow.ctl) { "unanswered" } else { "idle" };
        let now = clock.monotonic;
        self.send(FollowedFlow {
            at: clock.seconds(now),
            event: event.to_owned(),
            lived: since.lived(now),
            ..followed(&flow.key, track, backend, &since)
        });
    }

    fn listens_to(
        &self,
        key: &FlowKey,
        backend: u16,
        keys: &HashKeys,
    ) -> Option<(Track, SocketAddr)> {
        if key.service != self.number || !key.is_followed(keys, self.one_in) {
            return None;
        }
        let found = self.wanted.iter().find(|(number, ..)| *number == backend);
        found.map(|(_, track, address)| (*track, *address))
    }

    /// Notes what the event says of times; all that is known.
    fn times(&mut self, key: &FlowKey, told: Told, at: u64) -> Since {
        if told.has(Told::NEW_FLOW.and(Told::MIDSTREAM)) {
            self.flows.remove(key);
        }
        let room = self.flows.len() < KEPT;
        let mut since = self.flows.get(key).copied().unwrap_or_default();
        let waited = Some(Ticks::seconds(u64::from(told.waited())));
        if told.has(Told::NEW_FLOW) {
            since.born = at;
        }
        if told.has(Told::HANDSHAKE) {
            since.handshake = waited;
        }
        if told.has(Told::FIRST_BYTE) && since.first_byte.is_none() {
            since.first_byte = waited;
        }
        if room || self.flows.contains_key(key) {
            self.flows.insert(*key, since);
        }
        since
    }

    fn send(&mut self, event: FollowedFlow) {
        match self.sender.try_send(FollowedFlow { lost: self.lost, ..event }) {
            Ok(()) => self.lost = 0,
            Err(_) => self.lost += 1,
        }
    }
}

/// What every event says of its flow.
fn followed(key: &FlowKey, track: Track, backend: SocketAddr, since: &Since) -> FollowedFlow {
    let client = IpAddr::from(Address { ..key.client });
    FollowedFlow {
        client: SocketAddr::new(client, u16::from_be(key.client_port_be)).to_string(),
        track: track.name().to_owned(),
        backend: backend.to_string(),
        handshake: since.handshake,
        first_byte: since.first_byte,
        ..FollowedFlow::default()
    }
}

/// What an event is called.
struct Kind {
    name: &'static str,
    by: Option<&'static str>,
    after_data: Option<bool>,
    ends: bool,
}

impl Kind {
    /// `None`: it tells of times alone.
    fn of(told: Told) -> Option<Self> {
        let plain = |name, ends| Some(Self { name, by: None, after_data: None, ends });
        let reset = |by, after_data| {
            let after_data = Some(told.has(after_data));
            Some(Self { name: "reset", by: Some(by), after_data, ends: true })
        };
        if told.has(told!(refused)) {
            plain("refused", true)
        } else if told.has(told!(resets_backend)) {
            reset("backend", told!(resets_backend_after_data))
        } else if told.has(told!(resets_client)) {
            reset("client", told!(resets_client_after_data))
        } else if told.has(told!(closed)) {
            plain("closed", true)
        } else if told.has(Told::NEW_FLOW) {
            plain("new", false)
        } else if told.has(Told::MIDSTREAM) {
            plain("midstream", false)
        } else {
            None
        }
    }
}
