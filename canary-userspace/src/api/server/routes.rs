//! What can be asked and changed on the Unix socket, but for rollouts.

use std::num::NonZeroU32;

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use canary_common::Split;
use hyper::body::Bytes;
use serde::Deserialize;

use super::{
    Answer, Requests,
    access::MayChange,
    ask,
    asked::{Asked, By, Change, Name, Order},
    caller::Caller,
    limit_of,
    seats::Limits,
};
use crate::{
    api::{
        parse_client,
        request::{FlowFilter, Refusal, Request},
        types::{
            DetachDrain, DrainStatus, Flows, Reloaded, SetDetachDrain, SetDrain, SetWeight, Status,
            Weight, Where,
        },
    },
    metrics,
};

/// Who may follow flows at the same time: each has its own queue, and a record
/// of every flow.
const FOLLOWERS: Limits = Limits { total: 16, each: 8 };

pub(super) fn routes() -> Router<Requests> {
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
}

#[derive(Deserialize)]
struct StatusQuery {
    service: Option<String>,
}

async fn status(
    State(requests): State<Requests>,
    Asked(StatusQuery { service }): Asked<StatusQuery>,
) -> Result<Response, Refusal> {
    let one = service.is_some();
    let make = async {
        let asked = ask(&requests, |reply| Request::Status { service, reply });
        let Json::<Status>(status) = asked.await?;
        serde_json::to_vec(&status).map(Bytes::from).map_err(Refusal::internal)
    };
    let text = if one { make.await? } else { requests.status.answer(make).await? };
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

async fn get_weight(State(requests): State<Requests>, Name(service): Name) -> Answer<Weight> {
    ask(&requests, |reply| Request::GetWeight { service, reply }).await
}

async fn set_weight(
    State(requests): State<Requests>,
    Change { service, by, asked: SetWeight { split } }: Change<SetWeight>,
) -> Answer<Weight> {
    let split = Split::from_fraction(split).ok_or_else(|| {
        Refusal::bad_request(format!("{split} is no share; write a fraction from 0 to 1"))
    })?;
    ask(&requests, |reply| Request::SetWeight { service, split, by, reply }).await
}

async fn set_drain(
    State(requests): State<Requests>,
    Change { service, by, asked: SetDrain { target, drain } }: Change<SetDrain>,
) -> Answer<DrainStatus> {
    ask(&requests, |reply| Request::SetDrain { service, target, drain, by, reply }).await
}

#[derive(Deserialize)]
struct DrainQuery {
    target: String,
}

async fn drain_status(
    State(requests): State<Requests>,
    Name(service): Name,
    Asked(DrainQuery { target }): Asked<DrainQuery>,
) -> Answer<DrainStatus> {
    ask(&requests, |reply| Request::DrainStatus { service, target, reply }).await
}

#[derive(Deserialize)]
struct WhereQuery {
    client: String,
}

async fn where_to(
    State(requests): State<Requests>,
    Name(service): Name,
    Asked(WhereQuery { client }): Asked<WhereQuery>,
) -> Answer<Where> {
    let (client, port) = parse_client(&client).map_err(Refusal::bad_request)?;
    ask(&requests, |reply| Request::Where { service, client, port, reply }).await
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
    Asked(FlowsQuery { track, backend, limit }): Asked<FlowsQuery>,
) -> Answer<Flows> {
    let limit = limit_of(limit)?;
    let filter = FlowFilter { track, backend };
    ask(&requests, |reply| Request::Flows { service, filter, limit, reply }).await
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
    axum::Extension(caller): axum::Extension<Caller>,
    Name(service): Name,
    Asked(FollowQuery { track, backend, one_in }): Asked<FollowQuery>,
) -> Result<Response, Refusal> {
    let filter = FlowFilter { track, backend };
    let one_in = one_in.map_or(1, NonZeroU32::get);
    let streaming = caller.place.streams(FOLLOWERS).ok_or_else(|| {
        Refusal::busy(format!(
            "{} follow flows already, or {} of you; end one of them first",
            FOLLOWERS.total, FOLLOWERS.each
        ))
    })?;
    let asked = ask(&requests, |reply| Request::Follow { service, filter, one_in, reply });
    let Json(events) = asked.await?;
    let lines =
        futures_util::stream::unfold((events, streaming), async |(mut events, streaming)| {
            let event = events.recv().await?;
            let line = serde_json::to_string(&event).map(|line| line + "\n");
            Some((line, (events, streaming)))
        });
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((headers, Body::from_stream(lines)).into_response())
}

async fn reload(State(requests): State<Requests>, By(by): By) -> Answer<Reloaded> {
    ask(&requests, |reply| Request::Reload { by, reply }).await
}

async fn detach(State(requests): State<Requests>, By(by): By) -> Answer<Vec<String>> {
    ask(&requests, |reply| Request::Detach { by, reply }).await
}

async fn set_detach_drain(
    State(requests): State<Requests>,
    Order { by, asked: SetDetachDrain { drain } }: Order<SetDetachDrain>,
) -> Answer<DetachDrain> {
    ask(&requests, |reply| Request::DetachDrain { drain: Some(drain), waits: true, by, reply })
        .await
}

async fn detach_drain(
    State(requests): State<Requests>,
    axum::Extension(MayChange(waits)): axum::Extension<MayChange>,
    By(by): By,
) -> Answer<DetachDrain> {
    ask(&requests, |reply| Request::DetachDrain { drain: None, waits, by, reply }).await
}

pub(super) async fn metrics_text(State(requests): State<Requests>) -> Result<Response, Refusal> {
    let make = async {
        let Json(text) = ask(&requests, |reply| Request::Metrics { reply }).await?;
        Ok(Bytes::from(text))
    };
    let text = requests.metrics.answer(make).await?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
