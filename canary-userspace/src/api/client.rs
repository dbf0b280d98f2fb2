//! The command line's side of the API: one request, blocking.

use std::{
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
};
use serde::{Serialize, de::DeserializeOwned};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixStream;

use super::types::ApiError;
use crate::names;

/// Longer than the daemon may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Until something is asked again.
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
            let response = self.in_time(|by| self.send(by, Method::GET, path, Vec::new())).await?;
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
        let exchange = self.in_time(|by| self.exchange(by, method, path, body));
        let (status, bytes) = runtime.block_on(exchange)?;
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

    /// `what`, which is told when it has to be over.
    async fn in_time<T, F>(&self, what: impl FnOnce(Instant) -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let by = Instant::now() + TIMEOUT;
        let done = tokio::time::timeout_at(by.into(), what(by)).await;
        done.unwrap_or_else(|_| Err(self.broken("no answer in time")))
    }

    async fn exchange(
        &self,
        by: Instant,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let response = self.send(by, method, path, body).await?;
        let status = response.status();
        let collected = response.into_body().collect().await;
        Ok((status, collected.map_err(|error| self.broken(error))?.to_bytes()))
    }

    /// Where the daemon hangs up without a word (it may have been another's
    /// turn) the same is asked again, as RFC 9110 (9.2.2) has it: not by POST.
    async fn send(
        &self,
        by: Instant,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut left = if method == Method::POST { 0 } else { TRIES - 1 };
        loop {
            match self.try_to_send(by, method.clone(), path, body.clone()).await {
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
        by: Instant,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<hyper::Result<Response<Incoming>>, ClientError> {
        let stream = connect(&self.socket, by).and_then(UnixStream::from_std);
        let stream = stream.map_err(|e| self.unreachable(&e))?;
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

    fn unreachable(&self, error: &std::io::Error) -> ClientError {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                ClientError::NoDaemon(self.socket.clone())
            }
            ErrorKind::PermissionDenied => ClientError::Permission {
                path: self.socket.clone(),
                group: group_of(&self.socket).unwrap_or_else(|| "of its own".to_owned()),
            },
            ErrorKind::WouldBlock | ErrorKind::TimedOut => self.broken(format!(
                "{} s were not enough to get into its queue: the daemon hangs, or too many ask at \
                 once; try again",
                TIMEOUT.as_secs()
            )),
            _ => self.broken(error),
        }
    }

    fn broken(&self, what: impl std::fmt::Display) -> ClientError {
        ClientError::Broken { path: self.socket.clone(), what: what.to_string() }
    }
}

/// Connects, and takes its turn where the socket's queue is full: the kernel
/// wakes in order who waits in the call itself (`unix_wait_for_peer`), and who
/// asks without blocking only ever finds a place that nobody waits for. The
/// thread is the caller's own, so it may wait; `SO_SNDTIMEO` ends that.
fn connect(path: &Path, by: Instant) -> io::Result<std::os::unix::net::UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let address = SockAddr::unix(path)?;
    loop {
        let left = by.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        socket.set_write_timeout(Some(left))?;
        match socket.connect(&address) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            connected => break connected?,
        }
    }
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// The name of a file's group.
fn group_of(path: &Path) -> Option<String> {
    let gid = std::fs::metadata(path).ok()?.gid();
    Some(names::group_name(gid).unwrap_or_else(|| gid.to_string()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(100);

    #[test]
    fn a_full_queue_is_waited_for_and_not_for_ever() -> io::Result<()> {
        let name = format!("canary-queue-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::remove_file(&path).ok();
        let listener = UnixListener::bind(&path)?;
        // Where the queue ends is the host's to say.
        let mut queued = Vec::new();
        let full = loop {
            match connect(&path, Instant::now() + MOMENT) {
                Ok(stream) => queued.push(stream),
                Err(error) => break error,
            }
        };
        let client = Client::new(&path);
        let said = client.unreachable(&full).to_string();
        let expected = "were not enough to get into its queue";
        assert!(!queued.is_empty() && said.contains(expected), "{}: {said}", queued.len());
        // There is room again while this one waits.
        let waits = std::thread::spawn({
            let path = path.clone();
            move || connect(&path, Instant::now() + 100 * MOMENT).map(drop)
        });
        std::thread::sleep(MOMENT);
        assert!(!waits.is_finished());
        listener.accept()?;
        let went = waits.join().map_err(|_| io::Error::other("the thread panicked"))?;
        std::fs::remove_file(&path)?;
        went
    }
}
