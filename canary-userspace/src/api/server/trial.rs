//! Routes of rollouts, steering and drills.

use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use serde::Deserialize;

use super::{
    Answer, Requests, ask,
    asked::{Asked, By, Change, Name},
    limit_of,
};
use crate::api::{
    request::Request,
    types::{
        Drill, DrillReport, Explanation, Forecast, History, RolloutCommand, RolloutStatus, Steer,
        Steered,
    },
};

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
    Change { service, by, asked: command }: Change<RolloutCommand>,
) -> Answer<RolloutStatus> {
    ask(&requests, |reply| Request::Rollout { service, command, by, reply }).await
}

async fn explain(State(requests): State<Requests>, Name(service): Name) -> Answer<Explanation> {
    ask(&requests, |reply| Request::Explain { service, reply }).await
}

#[derive(Deserialize)]
struct LimitQuery {
    limit: Option<usize>,
}

async fn history(
    State(requests): State<Requests>,
    Name(service): Name,
    Asked(LimitQuery { limit }): Asked<LimitQuery>,
) -> Answer<History> {
    let limit = limit_of(limit)?;
    ask(&requests, |reply| Request::History { service, limit, reply }).await
}

async fn plan(State(requests): State<Requests>, Name(service): Name) -> Answer<Forecast> {
    ask(&requests, |reply| Request::Plan { service, reply }).await
}

async fn steered(
    State(requests): State<Requests>,
    Name(service): Name,
    Asked(LimitQuery { limit }): Asked<LimitQuery>,
) -> Answer<Steered> {
    let limit = limit_of(limit)?;
    ask(&requests, |reply| Request::Steered { service, limit, reply }).await
}

async fn steer(
    State(requests): State<Requests>,
    Change { service, by, asked: steer }: Change<Steer>,
) -> Answer<Steered> {
    ask(&requests, |reply| Request::Steer { service, steer, by, reply }).await
}

async fn drill(State(requests): State<Requests>, Name(service): Name) -> Answer<DrillReport> {
    ask(&requests, |reply| Request::Drill { service, reply }).await
}

async fn start_drill(
    State(requests): State<Requests>,
    Change { service, by, asked: drill }: Change<Drill>,
) -> Answer<DrillReport> {
    ask(&requests, |reply| Request::StartDrill { service, drill, by, reply }).await
}

async fn end_drill(
    State(requests): State<Requests>,
    Name(service): Name,
    By(by): By,
) -> Answer<DrillReport> {
    ask(&requests, |reply| Request::EndDrill { service, by, reply }).await
}
