//! Connections, from their beginning to their end, within bounds.

use std::{
    convert::Infallible,
    io,
    time::{Duration, Instant},
};

use axum::{Router, body::Body, http::Request};
use hyper::{body::Incoming, server::conn::http1, service::Service as _};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

use super::{
    access::Credentials,
    caller::{Caller, Hall, Holder, Place},
    seats::Limits,
    stalling::Stalling,
};

/// On the Unix socket: few people, and what they script. All of one user's
/// leave room for three more.
pub(super) const UNIX: Limits = Limits { total: 512, each: 128 };
/// Over TCP: whoever scrapes the metrics.
pub(super) const TCP: Limits = Limits { total: 128, each: 64 };
/// A request's head must be here within this; so long may a connection be idle
/// as well.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// An answer must be read within this, from the moment that it stalls.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// Where descriptors or memory are short. Who is connected goes on meanwhile.
const BREATHER: Duration = Duration::from_millis(100);
/// Of warnings alike, one in so long.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// To whoever finds all seats taken by work.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
retry-after: 1\r\nconnection: close\r\ncontent-length: 77\r\n\r\n\
{\"error\":\"the daemon works for too many clients already; try again shortly\"}\n";

/// Something that is connected to.
pub(super) trait Door {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next one to come in.
    fn enter(&self) -> impl Future<Output = io::Result<Guest<Self::Stream>>> + Send;
    /// Some bytes, if they go at once.
    fn tell(stream: &Self::Stream, bytes: &[u8]);
}

pub(super) struct Guest<S> {
    stream: S,
    holder: Holder,
    credentials: Option<Credentials>,
}

impl Door for UnixListener {
    type Stream = UnixStream;

    async fn enter(&self) -> io::Result<Guest<UnixStream>> {
        let (stream, _) = self.accept().await?;
        let credentials = Credentials::of(&stream);
        let holder = Holder::User(credentials.uid);
        Ok(Guest { stream, holder, credentials: Some(credentials) })
    }

    fn tell(stream: &UnixStream, bytes: &[u8]) {
        stream.try_write(bytes).ok();
    }
}

impl Door for TcpListener {
    type Stream = TcpStream;

    async fn enter(&self) -> io::Result<Guest<TcpStream>> {
        let (stream, address) = self.accept().await?;
        Ok(Guest { stream, holder: Holder::Address(address.ip()), credentials: None })
    }

    fn tell(stream: &TcpStream, bytes: &[u8]) {
        stream.try_write(bytes).ok();
    }
}

/// What a listener's connections share.
#[derive(Clone, Debug)]
pub struct Connections {
    hall: Hall,
    router: TowerToHyperService<Router>,
}

impl Connections {
    pub(super) fn new(limits: Limits, router: Router) -> Self {
        Self { hall: Hall::new(limits), router: TowerToHyperService::new(router) }
    }

    /// Serves all who come in, until the listener fails for good.
    pub(super) async fn serve<D: Door>(&self, door: D) -> io::Result<Infallible> {
        let mut warned = Warned::default();
        loop {
            match door.enter().await {
                Ok(guest) => self.admit::<D>(guest, &mut warned).await,
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) if is_shortage(&error) => {
                    warned.warn(&format!("no room for a connection: {error}"));
                    tokio::time::sleep(BREATHER).await;
                }
                Err(error) => return Err(error),
            }
            // Whoever came in may speak before the next one does: a flood of
            // others does not take the seat of a client with something to say.
            tokio::task::yield_now().await;
        }
    }

    async fn admit<D: Door>(&self, guest: Guest<D::Stream>, warned: &mut Warned) {
        let Guest { stream, holder, credentials } = guest;
        let Some((place, ended, displaced)) = self.hall.admit(holder).await else {
            warned.warn(&format!("{holder} is refused: the daemon works for too many clients"));
            return D::tell(&stream, TOO_MANY);
        };
        if displaced {
            warned.warn(&format!("many clients that say nothing: {holder} gets the place of one"));
        }
        let served = serve_one(stream, Caller { credentials, place }, self.router.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = served => {}
                // Its seat was given to another.
                _ = ended => {}
            }
        });
    }

    /// Serves one connection that is there already, to its end, as one that
    /// came in; over TCP it comes from this host.
    pub async fn one(&self, stream: UnixStream, tcp: bool) {
        let credentials = (!tcp).then(|| Credentials::of(&stream));
        let holder = credentials
            .as_ref()
            .map_or(Holder::Address(std::net::Ipv4Addr::LOCALHOST.into()), |credentials| {
                Holder::User(credentials.uid)
            });
        if let Some((place, _ended, _)) = self.hall.admit(holder).await {
            serve_one(stream, Caller { credentials, place }, self.router.clone()).await;
        }
    }

    /// Connections whose next move is the daemon's.
    #[must_use]
    pub fn working(&self) -> usize {
        self.hall.working()
    }
}

/// All requests of a connection, one after the other.
async fn serve_one(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    caller: Caller,
    router: TowerToHyperService<Router>,
) {
    let stream = Stalling::new(stream, caller.place.clone(), READ_WITHIN);
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(caller.clone());
        answer(router.clone(), request, caller.place.clone())
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!("a connection of the API: {error}");
    }
}

async fn answer(
    router: TowerToHyperService<Router>,
    request: Request<Body>,
    place: Place,
) -> Result<axum::response::Response, Infallible> {
    place.works();
    let answer = router.call(request).await;
    place.answered();
    answer
}

/// The one that came is gone already; the next may come.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn is_shortage(error: &io::Error) -> bool {
    let short = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|number| short.contains(&number))
}

/// When a warning was last given.
#[derive(Debug, Default)]
struct Warned(Option<Instant>);

impl Warned {
    fn warn(&mut self, what: &str) {
        if self.0.is_none_or(|last| last.elapsed() >= WARN_EVERY) {
            self.0 = Some(Instant::now());
            tracing::warn!("{what} (said once a minute at most)");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_is_as_long_as_it_says() {
        let text = String::from_utf8_lossy(TOO_MANY);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<crate::api::types::ApiError>(body).is_ok(), "{body}");
    }

    #[test]
    fn one_users_connections_leave_room_for_others() {
        for limits in [UNIX, TCP] {
            assert!(limits.each * 2 <= limits.total);
        }
    }
}
