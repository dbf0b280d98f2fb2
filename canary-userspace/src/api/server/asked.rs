//! What is taken out of a request, and how it is refused where it is not there.

use std::time::Duration;

use axum::{
    Json,
    extract::{
        FromRequest, FromRequestParts, Path as UrlPath, Query, Request as HttpRequest,
        rejection::JsonRejection,
    },
    http::{StatusCode, request::Parts},
};
use serde::de::DeserializeOwned;

use super::{MAX_BODY, caller::Caller};
use crate::api::request::{Peer, Refusal};

/// A request's body must be here within this.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// The service of the path; one that is no text is refused as all else is.
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let name = UrlPath::<String>::from_request_parts(parts, state).await;
        name.map(|UrlPath(name)| Self(name)).map_err(|e| Refusal::bad_request(e.body_text()))
    }
}

/// What stands behind the `?`.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|e| Refusal::bad_request(e.body_text()))
    }
}

/// Who changes something.
pub(super) struct By(pub(super) Peer);

impl<S: Send + Sync> FromRequestParts<S> for By {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let credentials = parts.extensions.get::<Caller>().and_then(|c| c.credentials.clone());
        match credentials {
            Some(credentials) => Ok(Self(credentials.named().await)),
            None => Err(Refusal::forbidden("nobody is known at the other end of this socket")),
        }
    }
}

/// A change: by whom, and what, of the body.
pub(super) struct Order<T> {
    pub(super) by: Peer,
    pub(super) asked: T,
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequest<S> for Order<T> {
    type Rejection = Refusal;

    async fn from_request(request: HttpRequest, state: &S) -> Result<Self, Refusal> {
        let (mut parts, body) = request.into_parts();
        let caller = parts.extensions.get::<Caller>().cloned();
        let request = HttpRequest::from_parts(parts.clone(), body);
        // Until the body is here the next move is the client's.
        if let Some(caller) = &caller {
            caller.place.waits();
        }
        let body = Json::<T>::from_request(request, state);
        let body = tokio::time::timeout(BODY_WITHIN, body).await;
        if let Some(caller) = &caller {
            caller.place.works();
        }
        let Json(asked) = body.map_err(|_| Refusal::too_late())?.map_err(|e| bad_body(&e))?;
        let By(by) = By::from_request_parts(&mut parts, state).await?;
        Ok(Self { by, asked })
    }
}

/// A change of a service: which, by whom, and what.
pub(super) struct Change<T> {
    pub(super) service: String,
    pub(super) by: Peer,
    pub(super) asked: T,
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequest<S> for Change<T> {
    type Rejection = Refusal;

    async fn from_request(request: HttpRequest, state: &S) -> Result<Self, Refusal> {
        let (mut parts, body) = request.into_parts();
        let Name(service) = Name::from_request_parts(&mut parts, state).await?;
        let request = HttpRequest::from_parts(parts, body);
        let Order { by, asked } = Order::from_request(request, state).await?;
        Ok(Self { service, by, asked })
    }
}

fn bad_body(rejection: &JsonRejection) -> Refusal {
    Refusal::bad_request(match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => format!("the body is over {MAX_BODY} bytes"),
        _ => rejection.body_text(),
    })
}
