//! The server: routes, limits, and who may ask what where.

mod trial;

use std::{
    io::ErrorKind,
    num::NonZeroU32,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{
        ConnectInfo, DefaultBodyLimit, FromRequestParts, Path as UrlPath, Query, State,
        connect_info::Connected,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::IncomingStream,
};
use canary_common::Split;
use serde::Deserialize;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{mpsc, oneshot},
};

use super::{
    parse_client,
    request::{FlowFilter, Peer, Refusal, RefusalKind, Reply, Request},
    types::{ApiError, SetDetachDrain, SetDrain, SetWeight},
};
use crate::metrics;

/// Largest body that is read, bytes.
const MAX_BODY: usize = 64 << 10;
/// The daemon answers within this, or something is wrong with it.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A request, its body included, may take this long.
const REQUEST_WITHIN: Duration = Duration::from_secs(11);
/// Flows listed where no limit is asked for.
const DEFAULT_FLOWS: usize = 50;

type Requests = mpsc::Sender<Request>;

/// The socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "another canary daemon answers on {0}; stop it first, or give this one another `socket`"
    )]
    Taken(PathBuf),
    #[error("{0} is in the way and no socket; remove it, or give `socket` another path")]
    NoSocket(PathBuf),
    #[error("binding {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        // Nobody's uid where the kernel does not tell.
        stream.io().peer_cred().map_or(Self { uid: u32::MAX, pid: None }, |credentials| Self {
            uid: credentials.uid(),
            pid: credentials.pid(),
        })
    }
}

/// Binds the socket; one that nobody listens on any more is replaced.
///
/// # Errors
/// Where somebody does, or the path cannot be had.
pub fn bind_unix(path: &Path) -> Result<UnixListener, BindError> {
    let io = |source| BindError::Io { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(io)?;
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(BindError::Taken(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            // Linux refuses alike where the path is no socket at all: a file
            // named by mistake must not be lost.
            if !std::fs::symlink_metadata(path).map_err(io)?.file_type().is_socket() {
                return Err(BindError::NoSocket(path.to_owned()));
            }
            std::fs::remove_file(path).map_err(io)?;
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(io)?;
    let permissions = std::fs::Permissions::from_mode(0o660);
    std::fs::set_permissions(path, permissions).map_err(io)?;
    Ok(listener)
}

/// Serves the API until the listener fails.
///
/// # Errors
/// The listener's.
pub async fn serve_unix(listener: UnixListener, requests: Requests) -> std::io::Result<()> {
    let service = router(requests).into_make_service_with_connect_info::<Peer>();
    axum::serve(listener, service).await
}

/// Serves the metrics, read-only.
///
/// # Errors
/// The listener's.
pub async fn serve_metrics(listener: TcpListener, requests: Requests) -> std::io::Result<()> {
    let router = Router::new()
        .route("/", get(async || "canary: see /metrics\n"))
        .route("/healthz", get(async || "ok\n"))
        .route("/metrics", get(metrics_text))
        .with_state(requests);
    axum::serve(listener, router).await
}

fn router(requests: Requests) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/services/{service}/weight", get(get_weight).put(set_weight))
        .route("/v1/services/{service}/drain", get(drain_status).put(set_drain))
        .route("/v1/services/{service}/where", get(where_to))
        .route("/v1/services/{service}/flows", get(flows))
        .route("/v1/services/{service}/flows/follow", get(follow))
        .route("/v1/reload", post(reload))
        .route("/v1/detach", post(detach))
        .route("/v1/detach/drain", get(detach_drain).put(set_detach_drain))
        .route("/metrics", get(metrics_text))
        .merge(trial::routes())
        .fallback(async || error(StatusCode::NOT_FOUND, "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            error(StatusCode::METHOD_NOT_ALLOWED, "this path does not take that method")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(in_time))
        .with_state(requests)
}

/// A request whose body does not come is given up: `ask` limits the daemon's
/// part only, so this leaves it a moment to say so first.
async fn in_time(request: axum::extract::Request, next: Next) -> Response {
    tokio::time::timeout(REQUEST_WITHIN, next.run(request)).await.unwrap_or_else(|_| {
        error(StatusCode::REQUEST_TIMEOUT, "the request did not come whole in time; send it again")
    })
}

fn error(status: StatusCode, message: impl Into<String>) -> Response {
    (status, Json(ApiError { error: message.into() })).into_response()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.kind {
            RefusalKind::NotFound => StatusCode::NOT_FOUND,
            RefusalKind::BadRequest => StatusCode::BAD_REQUEST,
            RefusalKind::Conflict => StatusCode::CONFLICT,
            RefusalKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        error(status, self.message)
    }
}

/// Sends a request to the daemon's task and waits for its answer.
async fn ask<T>(
    requests: &Requests,
    request: impl FnOnce(Reply<T>) -> Request,
) -> Result<T, Refusal> {
    let (reply, answer) = oneshot::channel();
    let gone = || Refusal::internal("the daemon is stopping");
    let exchange = async {
        requests.send(request(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    };
    tokio::time::timeout(ANSWER_WITHIN, exchange)
        .await
        .unwrap_or_else(|_| Err(Refusal::internal("the daemon did not answer in time")))
}

fn body<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, Refusal> {
    body.map(|Json(body)| body).map_err(|rejection| {
        Refusal::bad_request(match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => format!("the body is over {MAX_BODY} bytes"),
            _ => rejection.body_text(),
        })
    })
}

fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Refusal> {
    query.map(|Query(query)| query).map_err(|e| Refusal::bad_request(e.body_text()))
}

fn json<T: serde::Serialize>(answer: Result<T, Refusal>) -> Response {
    answer.map(Json).into_response()
}

/// The service of the path; one that is no text is refused as all else is.
struct Name(String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let name = UrlPath::<String>::from_request_parts(parts, state).await;
        name.map(|UrlPath(name)| Self(name)).map_err(|e| Refusal::bad_request(e.body_text()))
    }
}

#[derive(Deserialize)]
struct StatusQuery {
    service: Option<String>,
}

async fn status(
    State(requests): State<Requests>,
    asked: Result<Query<StatusQuery>, QueryRejection>,
) -> Response {
    match query(asked) {
        Ok(StatusQuery { service }) => {
            json(ask(&requests, |reply| Request::Status { service, reply }).await)
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn get_weight(State(requests): State<Requests>, Name(service): Name) -> Response {
    json(ask(&requests, |reply| Request::GetWeight { service, reply }).await)
}

async fn set_weight(
    State(requests): State<Requests>,
    ConnectInfo(by): ConnectInfo<Peer>,
    Name(service): Name,
    asked: Result<Json<SetWeight>, JsonRejection>,
) -> Response {
    let split = body(asked).and_then(|SetWeight { split }| {
        Split::from_fraction(split).ok_or_else(|| {
            Refusal::bad_request(format!("{split} is no share; write a fraction from 0 to 1"))
        })
    });
    match split {
        Ok(split) => {
            json(ask(&requests, |reply| Request::SetWeight { service, split, by, reply }).await)
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn set_drain(
    State(requests): State<Requests>,
    ConnectInfo(by): ConnectInfo<Peer>,
    Name(service): Name,
    asked: Result<Json<SetDrain>, JsonRejection>,
) -> Response {
    match body(asked) {
        Ok(SetDrain { target, drain }) => {
            let request = |reply| Request::SetDrain { service, target, drain, by, reply };
            json(ask(&requests, request).await)
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn set_detach_drain(
    State(requests): State<Requests>,
    ConnectInfo(by): ConnectInfo<Peer>,
    asked: Result<Json<SetDetachDrain>, JsonRejection>,
) -> Response {
    match body(asked) {
        Ok(SetDetachDrain { drain }) => {
            let request = |reply| Request::DetachDrain { drain: Some(drain), by, reply };
            json(ask(&requests, request).await)
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn detach_drain(
    State(requests): State<Requests>,
    ConnectInfo(by): ConnectInfo<Peer>,
) -> Response {
    json(ask(&requests, |reply| Request::DetachDrain { drain: None, by, reply }).await)
}

#[derive(Deserialize)]
struct DrainQuery {
    target: String,
}

async fn drain_status(
    State(requests): State<Requests>,
    Name(service): Name,
    asked: Result<Query<DrainQuery>, QueryRejection>,
) -> Response {
    match query(asked) {
        Ok(DrainQuery { target }) => {
            json(ask(&requests, |reply| Request::DrainStatus { service, target, reply }).await)
        }
        Err(refusal) => refusal.into_response(),
    }
}

#[derive(Deserialize)]
struct WhereQuery {
    client: String,
}

async fn where_to(
    State(requests): State<Requests>,
    Name(service): Name,
    asked: Result<Query<WhereQuery>, QueryRejection>,
) -> Response {
    let client = query(asked)
        .and_then(|WhereQuery { client }| parse_client(&client).map_err(Refusal::bad_request));
    match client {
        Ok((client, port)) => {
            json(ask(&requests, |reply| Request::Where { service, client, port, reply }).await)
        }
        Err(refusal) => refusal.into_response(),
    }
}

#[derive(Deserialize)]
struct FlowsQuery {
    track: Option<String>,
    backend: Option<String>,
    limit: Option<usize>,
}

async fn flows(
    State(requests): State<Requests>,
    Name(service): Name,
    asked: Result<Query<FlowsQuery>, QueryRejection>,
) -> Response {
    match query(asked) {
        Ok(FlowsQuery { track, backend, limit }) => {
            let limit = limit.unwrap_or(DEFAULT_FLOWS);
            let filter = FlowFilter { track, backend };
            json(ask(&requests, |reply| Request::Flows { service, filter, limit, reply }).await)
        }
        Err(refusal) => refusal.into_response(),
    }
}

#[derive(Deserialize)]
struct FollowQuery {
    track: Option<String>,
    backend: Option<String>,
    one_in: Option<NonZeroU32>,
}

/// Lines of JSON, until whoever asked hangs up.
async fn follow(
    State(requests): State<Requests>,
    Name(service): Name,
    asked: Result<Query<FollowQuery>, QueryRejection>,
) -> Response {
    let FollowQuery { track, backend, one_in } = match query(asked) {
        Ok(asked) => asked,
        Err(refusal) => return refusal.into_response(),
    };
    let filter = FlowFilter { track, backend };
    let one_in = one_in.map_or(1, NonZeroU32::get);
    match ask(&requests, |reply| Request::Follow { service, filter, one_in, reply }).await {
        Ok(events) => {
            let lines = futures_util::stream::unfold(events, async |mut events| {
                let event = events.recv().await?;
                let line = serde_json::to_string(&event).map(|line| line + "\n");
                Some((line, events))
            });
            let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
            (headers, Body::from_stream(lines)).into_response()
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn reload(State(requests): State<Requests>, ConnectInfo(by): ConnectInfo<Peer>) -> Response {
    json(ask(&requests, |reply| Request::Reload { by, reply }).await)
}

async fn detach(State(requests): State<Requests>, ConnectInfo(by): ConnectInfo<Peer>) -> Response {
    json(ask(&requests, |reply| Request::Detach { by, reply }).await)
}

async fn metrics_text(State(requests): State<Requests>) -> Response {
    match ask(&requests, |reply| Request::Metrics { reply }).await {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}
