//! Routes of rollouts, steering and drills.

use axum::{
    Json, Router,
    extract::{
        ConnectInfo, Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde::Deserialize;

use super::{Name, Requests, ask, body, json, query};
use crate::api::{
    request::{Peer, Request},
    types::{Drill, RolloutCommand, Steer},
};

/// Entries that are listed where no limit is asked for.
const DEFAULT_LISTED: usize = 50;

pub(super) fn routes() -> Router<Requests> {
    Router::new()
        .route("/v1/services/{service}/rollout", post(rollout))
        .route("/v1/services/{service}/explain", get(explain))
        .route("/v1/services/{service}/history", get(history))
        .route("/v1/services/{service}/plan", get(plan))
        .route("/v1/services/{service}/steer", get(steered).put(steer))
        .route("/v1/services/{service}/drill", get(drill).put(start_drill).delete(end_drill))
}

async fn rollout(
    State(requests): State<Requests>,
    ConnectInfo(by): ConnectInfo<Peer>,
    Name(service): Name,
    asked: Result<Json<RolloutCommand>, JsonRejection>,
) -> Response {
    match body(asked) {
        Ok(command) => {
            let request = |reply| Request::Rollout { service, command, by, reply };
            json(ask(&requests, request).await)
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn explain(State(requests): State<Requests>, Name(service): Name) -> Response {
    json(ask(&requests, |reply| Request::Explain { service, reply }).await)
}

#[derive(Deserialize)]
struct LimitQuery {
    limit: Option<usize>,
}

async fn history(
    State(requests): State<Requests>,
    Name(service): Name,
    asked: Result<Query<LimitQuery>, QueryRejection>,
) -> Response {
    match query(asked) {
        Ok(LimitQuery { limit }) => {
            let limit = limit.unwrap_or(DEFAULT_LISTED);
            json(ask(&requests, |reply| Request::History { service, limit, reply }).await)
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn plan(State(requests): State<Requests>, Name(service): Name) -> Response {
    json(ask(&requests, |reply| Request::Plan { service, reply }).await)
}

async fn steered(
    State(requests): State<Requests>,
    Name(service): Name,
    asked: Result<Query<LimitQuery>, QueryRejection>,
) -> Response {
    match query(asked) {
        Ok(LimitQuery { limit }) => {
            let limit = limit.unwrap_or(DEFAULT_LISTED);
            json(ask(&requests, |reply| Request::Steered { service, limit, reply }).await)
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn steer(
    State(requests): State<Requests>,
    ConnectInfo(by): ConnectInfo<Peer>,
    Name(service): Name,
    asked: Result<Json<Steer>, JsonRejection>,
) -> Response {
    match body(asked) {
        Ok(steer) => {
            json(ask(&requests, |reply| Request::Steer { service, steer, by, reply }).await)
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn drill(State(requests): State<Requests>, Name(service): Name) -> Response {
    json(ask(&requests, |reply| Request::Drill { service, reply }).await)
}

async fn start_drill(
    State(requests): State<Requests>,
    ConnectInfo(by): ConnectInfo<Peer>,
    Name(service): Name,
    asked: Result<Json<Drill>, JsonRejection>,
) -> Response {
    match body(asked) {
        Ok(drill) => {
            json(ask(&requests, |reply| Request::StartDrill { service, drill, by, reply }).await)
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn end_drill(
    State(requests): State<Requests>,
    ConnectInfo(by): ConnectInfo<Peer>,
    Name(service): Name,
) -> Response {
    json(ask(&requests, |reply| Request::EndDrill { service, by, reply }).await)
}
