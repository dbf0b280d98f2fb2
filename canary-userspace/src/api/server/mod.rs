//! The server: who may ask what where, and within which bounds.

mod access;
mod asked;
mod bind;
mod caller;
mod connection;
mod routes;
mod seats;
mod stalling;
mod together;
mod trial;

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request as HttpRequest},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};

use super::{
    request::{Refusal, RefusalKind, Reply, Request},
    types::ApiError,
};

pub use access::Access;
pub use bind::{BindError, Bound, bind_unix};
pub use connection::Connections;

use together::Together;

/// Largest body that is read, bytes.
const MAX_BODY: usize = 64 << 10;
/// The daemon answers within this, or something is wrong with it.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// What is listed where no limit is asked for.
const DEFAULT_LISTED: usize = 50;
/// What is listed at most: some 20 MB.
const MOST_LISTED: usize = 100_000;

/// What the handlers share.
#[derive(Clone, Debug)]
struct Requests {
    sender: mpsc::Sender<Request>,
    status: Together,
    metrics: Together,
}

impl From<mpsc::Sender<Request>> for Requests {
    fn from(sender: mpsc::Sender<Request>) -> Self {
        Self { sender, status: Together::default(), metrics: Together::default() }
    }
}

/// What a handler has to say.
type Answer<T> = Result<Json<T>, Refusal>;

/// Serves the API until the listener fails.
///
/// # Errors
/// The listener's.
pub async fn serve_unix(bound: Bound, requests: mpsc::Sender<Request>) -> std::io::Result<()> {
    let Bound { listener, access } = bound;
    on_unix(access, requests).serve(listener).await.map(|never| match never {})
}

/// Serves the metrics, read-only.
///
/// # Errors
/// The listener's.
pub async fn serve_metrics(
    listener: TcpListener,
    requests: mpsc::Sender<Request>,
) -> std::io::Result<()> {
    over_tcp(requests).serve(listener).await.map(|never| match never {})
}

/// The Unix socket's connections.
#[must_use]
pub fn on_unix(access: Access, requests: mpsc::Sender<Request>) -> Connections {
    Connections::new(connection::UNIX, router(access, requests.into()))
}

/// Those of the metrics' listener.
#[must_use]
pub fn over_tcp(requests: mpsc::Sender<Request>) -> Connections {
    Connections::new(connection::TCP, metrics_router(requests.into()))
}

fn router(access: Access, requests: Requests) -> Router {
    with_fallbacks(routes::routes().merge(trial::routes()))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(access, access::permitted))
        .with_state(requests)
}

fn metrics_router(requests: Requests) -> Router {
    let router = Router::new()
        .route("/", get(async || "canary: see /metrics\n"))
        .route("/healthz", get(async || "ok\n"))
        .route("/metrics", get(routes::metrics_text));
    with_fallbacks(router).layer(middleware::from_fn(reads_only)).with_state(requests)
}

fn with_fallbacks(router: Router<Requests>) -> Router<Requests> {
    router
        .fallback(async || error(StatusCode::NOT_FOUND, "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            error(StatusCode::METHOD_NOT_ALLOWED, "this path does not take that method")
        })
}

/// What would be a change on the socket is told where to go.
async fn reads_only(request: HttpRequest, next: Next) -> Response {
    if request.uri().path().starts_with("/v1/") {
        let (status, what) = match access::asks(request.method()) {
            true => (StatusCode::NOT_FOUND, "over TCP there are only /metrics and /healthz"),
            false => (StatusCode::FORBIDDEN, "over TCP nothing can be changed"),
        };
        return error(
            status,
            format!("{what}; use the daemon's Unix socket, with `canary` or curl --unix-socket"),
        );
    }
    next.run(request).await
}

fn error(status: StatusCode, message: impl Into<String>) -> Response {
    (status, Json(ApiError { error: message.into() })).into_response()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.kind {
            RefusalKind::NotFound => StatusCode::NOT_FOUND,
            RefusalKind::BadRequest => StatusCode::BAD_REQUEST,
            RefusalKind::Forbidden => StatusCode::FORBIDDEN,
            RefusalKind::TooLate => StatusCode::REQUEST_TIMEOUT,
            RefusalKind::Conflict => StatusCode::CONFLICT,
            RefusalKind::Busy => StatusCode::SERVICE_UNAVAILABLE,
            RefusalKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        error(status, self.message)
    }
}

/// Sends a request to the daemon's task and waits for its answer.
async fn ask<T>(requests: &Requests, request: impl FnOnce(Reply<T>) -> Request) -> Answer<T> {
    let (reply, answer) = oneshot::channel();
    let gone = || Refusal::internal("the daemon is stopping");
    let exchange = async {
        requests.sender.send(request(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    };
    tokio::time::timeout(ANSWER_WITHIN, exchange)
        .await
        .unwrap_or_else(|_| Err(Refusal::internal("the daemon did not answer in time")))
        .map(Json)
}

/// How many are listed.
fn limit_of(asked: Option<usize>) -> Result<usize, Refusal> {
    let limit = asked.unwrap_or(DEFAULT_LISTED);
    if limit > MOST_LISTED {
        return Err(Refusal::bad_request(format!("limit is {MOST_LISTED} at most")));
    }
    Ok(limit)
}
