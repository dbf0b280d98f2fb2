//! The command line's side of the API: one request, blocking.

use std::{
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::types::ApiError;
use crate::names;

/// Longer than the daemon may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Between two tries to get into the socket's queue.
const AGAIN: Duration = Duration::from_millis(5);
/// How often something is asked of a daemon that hangs up.
const TRIES: u32 = 4;

/// What went wrong between here and the daemon.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "no canary daemon answers on {}; start it with `canary run --config FILE`, or name its socket with --socket",
        .0.display()
    )]
    NoDaemon(PathBuf),
    #[error("{} may only be used by root and group {group}; try again with sudo", path.display())]
    Permission { path: PathBuf, group: String },
    /// The daemon's own words.
    #[error("{0}")]
    Refused(String),
    #[error("talking to the daemon on {}: {what}", path.display())]
    Broken { path: PathBuf, what: String },
}

/// A daemon's socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Asks for something.
    ///
    /// # Errors
    /// No daemon, no permission, or the daemon's refusal.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call::<(), T>(Method::GET, path, None)
    }

    /// Changes something.
    ///
    /// # Errors
    /// No daemon, no permission, or the daemon's refusal.
    pub fn put<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.call(Method::PUT, path, Some(body))
    }

    /// Has something done.
    ///
    /// # Errors
    /// No daemon, no permission, or the daemon's refusal.
    pub fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call::<(), T>(Method::POST, path, None)
    }

    /// The same, with what to do in the body.
    ///
    /// # Errors
    /// No daemon, no permission, or the daemon's refusal.
    pub fn order<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.call(Method::POST, path, Some(body))
    }

    /// Ends something.
    ///
    /// # Errors
    /// No daemon, no permission, or the daemon's refusal.
    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call::<(), T>(Method::DELETE, path, None)
    }

    /// Asks for lines of JSON without an end; each goes to `each`, until that
    /// fails or the daemon hangs up.
    ///
    /// # Errors
    /// As [`Client::get`]; or what `each` failed with.
    pub fn follow<T: DeserializeOwned, E: From<ClientError>>(
        &self,
        path: &str,
        mut each: impl FnMut(T) -> Result<(), E>,
    ) -> Result<(), E> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| self.broken(error))?;
        runtime.block_on(async {
            let begun = tokio::time::timeout(TIMEOUT, self.send(Method::GET, path, Vec::new()));
            let response = begun.await.unwrap_or_else(|_| Err(self.broken("no answer in time")))?;
            let status = response.status();
            let mut body = response.into_body();
            let mut rest = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| self.broken(error))?;
                rest.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                while status.is_success()
                    && let Some(end) = rest.iter().position(|byte| *byte == b'\n')
                {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    each(serde_json::from_slice(&line).map_err(|error| self.broken(error))?)?;
                }
            }
            if status.is_success() { Ok(()) } else { Err(self.refusal(status, &rest).into()) }
        })
    }

    fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| self.broken(error))?;
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| self.broken(error))?,
            None => Vec::new(),
        };
        let (status, bytes) = runtime.block_on(async {
            tokio::time::timeout(TIMEOUT, self.exchange(method, path, body))
                .await
                .unwrap_or_else(|_| Err(self.broken("no answer in time")))
        })?;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|error| self.broken(error));
        }
        Err(self.refusal(status, &bytes))
    }

    /// What the daemon said of why not.
    fn refusal(&self, status: StatusCode, body: &[u8]) -> ClientError {
        let said = serde_json::from_slice::<ApiError>(body);
        said.map_or_else(|_| self.broken(status), |refusal| ClientError::Refused(refusal.error))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let response = self.send(method, path, body).await?;
        let status = response.status();
        let collected = response.into_body().collect().await;
        Ok((status, collected.map_err(|error| self.broken(error))?.to_bytes()))
    }

    /// Where the daemon hangs up without a word (it may have been another's
    /// turn) the same is asked again, as RFC 9110 (9.2.2) has it: not by POST.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut left = if method == Method::POST { 0 } else { TRIES - 1 };
        loop {
            match self.try_to_send(method.clone(), path, body.clone()).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(_)) if left > 0 => left -= 1,
                Ok(Err(error)) => return Err(self.broken(error)),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// The inner error is that of a connection that there was.
    async fn try_to_send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<hyper::Result<Response<Incoming>>, ClientError> {
        let stream = self.connect().await.map_err(|e| self.unreachable(&e))?;
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(io).await.map_err(|error| self.broken(error))?;
        // Its errors show in the request's own.
        tokio::spawn(async move { connection.await.ok() });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "canary")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.broken(error))?;
        Ok(sender.send_request(request).await)
    }

    /// Where many connect at once the socket's queue may be full for a moment:
    /// the caller's time limits how long that is tried.
    async fn connect(&self) -> std::io::Result<UnixStream> {
        loop {
            match UnixStream::connect(&self.socket).await {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    tokio::time::sleep(AGAIN).await;
                }
                connected => return connected,
            }
        }
    }

    fn unreachable(&self, error: &std::io::Error) -> ClientError {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                ClientError::NoDaemon(self.socket.clone())
            }
            ErrorKind::PermissionDenied => ClientError::Permission {
                path: self.socket.clone(),
                group: group_of(&self.socket).unwrap_or_else(|| "of its own".to_owned()),
            },
            _ => self.broken(error),
        }
    }

    fn broken(&self, what: impl std::fmt::Display) -> ClientError {
        ClientError::Broken { path: self.socket.clone(), what: what.to_string() }
    }
}

/// The name of a file's group.
fn group_of(path: &Path) -> Option<String> {
    let gid = std::fs::metadata(path).ok()?.gid();
    Some(names::group_name(gid).unwrap_or_else(|| gid.to_string()))
}
