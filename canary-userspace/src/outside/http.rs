//! One request on a connection of its own.

use std::{io, net::SocketAddr, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{self, HeaderValue},
    http::{request::Builder, uri::Authority},
};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::{Instant, timeout},
};

use super::{tls, words};

/// Of an answer's status line and headers, in bytes.
const HEADER_BYTES: usize = 64 << 10;
const HEADERS: usize = 100;

/// Why an address is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("not a URL; write http://HOST:PORT/PATH or https://HOST/PATH")]
    NotOne,
    #[error("its scheme is neither http nor https")]
    Scheme,
    #[error("it has no host")]
    NoHost,
    #[error("its user name or password cannot be sent: percent-encode what is not plain ASCII")]
    Login,
}

/// Where a `POST` goes. What it shows of itself are scheme, host and port: a
/// path may be a secret (Slack's is), and so may a login.
#[derive(Clone)]
pub struct Target {
    tls: bool,
    /// Without an IPv6 address' brackets.
    host: String,
    port: u16,
    /// As the `Host` header wants it.
    authority: String,
    path: String,
    query: Option<String>,
    login: Option<HeaderValue>,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority)
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Target({self})")
    }
}

impl Target {
    /// Reads `http[s]://[USER:PASSWORD@]HOST[:PORT][/PATH][?QUERY]`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(url: &str) -> Result<Self, UrlError> {
        let uri: Uri = url.parse().map_err(|_| UrlError::NotOne)?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) => return Err(UrlError::Scheme),
            None => return Err(UrlError::NotOne),
        };
        let authority = uri.authority().ok_or(UrlError::NoHost)?;
        let (login, authority) = match authority.as_str().rsplit_once('@') {
            Some((login, rest)) => (Some(basic(login)?), rest),
            None => (None, authority.as_str()),
        };
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(UrlError::NoHost);
        }
        // A port that is no number of 16 bits is none to hyper, and would be 80.
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let port = match (uri.port_u16(), has_port) {
            (Some(port @ 1..), _) => port,
            (_, true) => return Err(UrlError::NotOne),
            (_, false) if tls => 443,
            (_, false) => 80,
        };
        Ok(Self {
            tls,
            host: host.to_owned(),
            port,
            authority: authority.to_owned(),
            path: uri.path().to_owned(),
            query: uri.query().map(ToOwned::to_owned),
            login,
        })
    }

    /// A backend. `host` is whom it is asked as, with or without a port; `path`
    /// has its query.
    pub(super) fn of(to: SocketAddr, tls: bool, host: Option<&str>, path: &str) -> Self {
        let authority = host.map_or_else(|| to.to_string(), ToOwned::to_owned);
        let name = authority.parse::<Authority>().ok();
        let name = name.map(|name| name.host().trim_matches(['[', ']']).to_owned());
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (path, None),
        };
        Self {
            tls,
            host: name.unwrap_or_else(|| to.ip().to_string()),
            port: to.port(),
            authority,
            path: path.to_owned(),
            query,
            login: None,
        }
    }

    fn path_and_query(&self) -> String {
        let query = self.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{}{query}", self.path)
    }

    /// The same with more of a path; the query stays behind it.
    pub(super) fn below(mut self, more: &str) -> Self {
        self.path = format!("{}{more}", self.path.trim_end_matches('/'));
        self
    }
}

/// The `Authorization` of `USER:PASSWORD`, each percent-encoded.
fn basic(login: &str) -> Result<HeaderValue, UrlError> {
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let mut plain: Vec<u8> = percent_decode_str(user).collect();
    plain.push(b':');
    plain.extend(percent_decode_str(password));
    let text = format!("Basic {}", BASE64_STANDARD.encode(plain));
    let mut value = HeaderValue::try_from(text).map_err(|_| UrlError::Login)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("finding the address of {host}")]
    Resolve { host: String, source: io::Error },
    #[error("{0} has no address")]
    NoAddress(String),
    #[error("connecting to {to}")]
    Connect { to: Target, source: io::Error },
    #[error("connecting to {to}")]
    Tls { to: Target, source: tls::TlsError },
    #[error("talking HTTP to {to}")]
    Http { to: Target, source: hyper::Error },
    #[error("making the request")]
    Request(#[from] hyper::http::Error),
}

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    /// Where a redirect leads.
    pub(super) location: Option<String>,
    /// The beginning.
    pub(super) body: Vec<u8>,
    /// Whether the body is not longer than that.
    pub(super) whole: bool,
}

impl Reply {
    /// The status and what the body says, for people.
    pub(super) fn words(&self) -> String {
        words::with(self.status, &words::said(&self.body))
    }

    /// Nobody follows a redirect here: it would turn the `POST` into a `GET`,
    /// or send the rollout's state to somebody who was not named.
    pub(super) fn redirect(&self) -> String {
        let to = words::said(self.location.as_deref().unwrap_or("nowhere").as_bytes());
        format!("{} to {to}: redirects are not followed, name the last address", self.status)
    }

    /// Whether it means that somebody could not answer now.
    pub(super) fn is_no_answer(&self) -> bool {
        let later =
            [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
        self.status.is_server_error() || later.contains(&self.status)
    }
}

/// What is posted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Post<'a> {
    pub(super) content_type: &'static str,
    pub(super) body: &'a str,
    /// As much of the answer's body is read.
    pub(super) limit: usize,
}

/// Posts something. The caller ends it after `within`; connecting shares that out among
/// the host's addresses, so that one which swallows packets does not eat it all.
pub(super) async fn post(
    to: &Target,
    what: Post<'_>,
    within: Duration,
) -> Result<Reply, HttpError> {
    let stream = connect(to, within).await?;
    // Small requests, each waited for.
    stream.set_nodelay(true).ok();
    speak(stream, to, true, request(to, what)?, what.limit).await
}

/// Gets something on a connection that stands; `verify`: from whom the
/// certificate says it is. As much of the body as `limit` is read. The caller
/// ends it where it takes too long.
pub(super) async fn get(
    stream: TcpStream,
    to: &Target,
    verify: bool,
    limit: usize,
) -> Result<Reply, HttpError> {
    let request = head(Request::get(to.path_and_query()), to).body(Full::default())?;
    speak(stream, to, verify, request, limit).await
}

async fn speak(
    stream: TcpStream,
    to: &Target,
    verify: bool,
    request: Request<Full<Bytes>>,
    limit: usize,
) -> Result<Reply, HttpError> {
    if to.tls {
        let stream = tls::client(stream, &to.host, verify).await;
        let stream = stream.map_err(|source| HttpError::Tls { to: to.clone(), source })?;
        exchange(stream, to, request, limit).await
    } else {
        exchange(stream, to, request, limit).await
    }
}

async fn connect(to: &Target, within: Duration) -> Result<TcpStream, HttpError> {
    let begun = Instant::now();
    let host = &to.host;
    let found = lookup_host((host.as_str(), to.port)).await;
    let found = found.map_err(|source| HttpError::Resolve { host: host.clone(), source })?;
    let addresses: Vec<_> = found.collect();
    let mut failed = None;
    for (place, address) in addresses.iter().enumerate() {
        let left = within.saturating_sub(begun.elapsed());
        let share = left / u32::try_from(addresses.len() - place).unwrap_or(u32::MAX);
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failed = Some(error),
            Err(elapsed) => failed = Some(elapsed.into()),
        }
    }
    Err(match failed {
        Some(source) => HttpError::Connect { to: to.clone(), source },
        None => HttpError::NoAddress(host.clone()),
    })
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    to: &Target,
    request: Request<Full<Bytes>>,
    limit: usize,
) -> Result<Reply, HttpError> {
    let broken = |source| HttpError::Http { to: to.clone(), source };
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEADER_BYTES).max_headers(HEADERS);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let mut reply = std::pin::pin!(async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let location = response.headers().get(header::LOCATION);
        let location = location.map(|value| String::from_utf8_lossy(value.as_bytes()).into());
        let (body, whole) = match limit {
            // Nobody looks at it, so nobody waits for it.
            0 => (Vec::new(), false),
            _ => read(response.into_body(), limit).await.map_err(broken)?,
        };
        Ok(Reply { status, location, body, whole })
    });
    // The connection is driven here and not in a task of its own, so that it
    // ends with the question. It may be done before its last bytes are read.
    tokio::select! {
        reply = &mut reply => return reply,
        _ = connection => {}
    }
    reply.await
}

fn request(to: &Target, what: Post<'_>) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let mut request = head(Request::post(to.path_and_query()), to)
        .header(header::ACCEPT, "application/json, */*;q=0.1")
        .header(header::CONTENT_TYPE, what.content_type);
    if let Some(login) = &to.login {
        request = request.header(header::AUTHORIZATION, login);
    }
    request.body(Full::new(Bytes::copy_from_slice(what.body.as_bytes())))
}

fn head(request: Builder, to: &Target) -> Builder {
    request
        .header(header::HOST, &to.authority)
        .header(header::USER_AGENT, concat!("canary/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
}

/// The first `limit` bytes, and whether there are no more.
async fn read(mut body: Incoming, limit: usize) -> Result<(Vec<u8>, bool), hyper::Error> {
    let mut kept = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        let data = frame.data_ref().map_or(&[][..], |data| data);
        let room = limit - kept.len();
        if data.len() > room {
            kept.extend_from_slice(&data[..room]);
            return Ok((kept, false));
        }
        kept.extend_from_slice(data);
    }
    Ok((kept, true))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        for (url, host, port, authority, path) in [
            ("http://a", "a", 80, "a", "/"),
            ("https://a.example/b?c=d", "a.example", 443, "a.example", "/b"),
            ("http://10.0.0.1:9090/x/", "10.0.0.1", 9090, "10.0.0.1:9090", "/x/"),
            ("https://[2001:db8::1]", "2001:db8::1", 443, "[2001:db8::1]", "/"),
            ("http://[::1]:81/", "::1", 81, "[::1]:81", "/"),
            ("http://me:secret@a:1/", "a", 1, "a:1", "/"),
        ] {
            let target = Target::parse(url).unwrap();
            let got = (target.host.as_str(), target.port, target.authority.as_str());
            assert_eq!((got, target.path.as_str()), ((host, port, authority), path), "{url}");
            let shown = format!("{}://{authority}", url.split_once(':').unwrap().0);
            assert_eq!(target.to_string(), shown);
            assert_eq!(format!("{target:?}"), format!("Target({shown})"));
        }
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for (url, error) in [
            ("", UrlError::NotOne),
            ("prometheus:9090", UrlError::NotOne),
            ("/api", UrlError::NotOne),
            ("http://", UrlError::NotOne),
            ("http://a b/", UrlError::NotOne),
            ("http://a:99999/", UrlError::NotOne),
            ("http://a:x/", UrlError::NotOne),
            ("http://a:0/", UrlError::NotOne),
            ("unix:///run/x", UrlError::NotOne),
            ("ftp://a/", UrlError::Scheme),
        ] {
            assert_eq!(Target::parse(url).unwrap_err(), error, "{url}");
        }
    }

    #[test]
    fn a_path_grows_before_the_query() {
        for (url, path, query) in [
            ("http://a", "/api", None),
            ("http://a/", "/api", None),
            ("http://a/p/?x=1", "/p/api", Some("x=1")),
        ] {
            let target = Target::parse(url).unwrap().below("/api");
            assert_eq!((target.path.as_str(), target.query.as_deref()), (path, query));
        }
    }
}
