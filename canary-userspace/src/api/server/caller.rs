//! The other end of a connection, and its seat.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::oneshot;

use super::{
    access::Credentials,
    seats::{Admission, Limits, Seats},
};

/// Whom a limit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    User(u32),
    Address(IpAddr),
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(uid) => write!(f, "uid {uid}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// All seats of a listener. A seat ends its connection where it is taken away.
#[derive(Clone, Debug)]
pub(super) struct Hall(Arc<Mutex<Seats<Holder, oneshot::Sender<()>>>>);

impl Hall {
    pub(super) fn new(limits: Limits) -> Self {
        Self(Arc::new(Mutex::new(Seats::new(limits))))
    }

    /// A seat, what is ready once it is taken away, and whether it was
    /// another's. Nobody else comes in until there is one, or certainly none.
    pub(super) async fn admit(
        &self,
        holder: Holder,
    ) -> Option<(Place, oneshot::Receiver<()>, bool)> {
        loop {
            let (ends, ended) = oneshot::channel();
            let admission = self.seats().admit(holder, ends, Instant::now());
            let (id, displaced) = match admission {
                Admission::Free(id) => (id, false),
                Admission::Instead(id) => (id, true),
                Admission::Later(then) => {
                    tokio::time::sleep_until(then.into()).await;
                    continue;
                }
                Admission::Full => return None,
            };
            let place = Place(Arc::new(Held { hall: self.clone(), id }));
            return Some((place, ended, displaced));
        }
    }

    /// Connections whose next move is the daemon's.
    pub(super) fn working(&self) -> usize {
        self.seats().working()
    }

    fn seats(&self) -> MutexGuard<'_, Seats<Holder, oneshot::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A seat that is held until the last of its connection is dropped.
#[derive(Clone, Debug)]
pub(super) struct Place(Arc<Held>);

#[derive(Debug)]
struct Held {
    hall: Hall,
    id: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.hall.seats().leave(self.id);
    }
}

impl Place {
    pub(super) fn waits(&self) {
        self.0.hall.seats().waits(self.0.id, Instant::now());
    }

    pub(super) fn works(&self) {
        self.0.hall.seats().works(self.0.id);
    }

    /// The daemon's part is done, but for an answer without an end.
    pub(super) fn answered(&self) {
        self.0.hall.seats().answered(self.0.id, Instant::now());
    }

    pub(super) fn sent(&self) {
        self.0.hall.seats().sent(self.0.id, Instant::now());
    }

    /// An answer without an end begins, if there is room for one more.
    pub(super) fn streams(&self, limits: Limits) -> Option<Streaming> {
        let room = self.0.hall.seats().streams(self.0.id, limits);
        room.then(|| Streaming(self.clone()))
    }
}

/// Kept as long as such an answer goes on. Its connection may be used again.
#[derive(Debug)]
pub(super) struct Streaming(Place);

impl Drop for Streaming {
    fn drop(&mut self) {
        let Place(held) = &self.0;
        held.hall.seats().streams_no_more(held.id, Instant::now());
    }
}

/// In each request's extensions.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// On a Unix socket.
    pub(super) credentials: Option<Credentials>,
    pub(super) place: Place,
}
