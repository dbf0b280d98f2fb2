//! TLS with the system's roots.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{InvalidDnsNameError, ServerName},
    },
};

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error(
        "no certificates of authorities are to be found ({0}); install the system's, package \
         ca-certificates, or name a file with SSL_CERT_FILE"
    )]
    NoRoots(String),
    #[error("{0} is no name that a certificate could be for")]
    Name(String, #[source] InvalidDnsNameError),
    #[error("TLS")]
    Rustls(#[from] tokio_rustls::rustls::Error),
    #[error("TLS")]
    Handshake(#[source] std::io::Error),
    #[error("reading the system's certificates was cut short")]
    Cut(#[from] tokio::task::JoinError),
}

/// To read the authorities takes tens of milliseconds; one that is added has to
/// wait for no longer than this.
const FRESH: Duration = Duration::from_secs(60);

/// The last one, and when it was read. Sessions are resumed by it too.
static LAST: Mutex<Option<(Instant, Arc<ClientConfig>)>> = Mutex::new(None);

/// Begins TLS as a client of `host`, a name or an address.
pub(super) async fn client(
    stream: TcpStream,
    host: &str,
) -> Result<TlsStream<TcpStream>, TlsError> {
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|error| TlsError::Name(host.to_owned(), error))?;
    let connector = TlsConnector::from(config().await?);
    connector.connect(name, stream).await.map_err(TlsError::Handshake)
}

async fn config() -> Result<Arc<ClientConfig>, TlsError> {
    let last = || LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((read, config)) = &*last()
        && read.elapsed() < FRESH
    {
        return Ok(config.clone());
    }
    // Files, and not for the daemon's only thread.
    let config = Arc::new(tokio::task::spawn_blocking(read).await??);
    *last() = Some((Instant::now(), config.clone()));
    Ok(config)
}

fn read() -> Result<ClientConfig, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        let errors = if errors.is_empty() { "none is there".into() } else { errors.join("; ") };
        return Err(TlsError::NoRoots(errors));
    }
    let provider = Arc::new(ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
