//! TLS with the system's roots, or with whoever answers.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{self, CryptoProvider, ring},
        pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime},
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

/// The same for those whose certificate nobody looks at.
static UNVERIFIED: OnceLock<Arc<ClientConfig>> = OnceLock::new();

/// Begins TLS as a client of `host`, a name or an address. Without `verify`
/// whoever answers will do.
pub(super) async fn client(
    stream: TcpStream,
    host: &str,
    verify: bool,
) -> Result<TlsStream<TcpStream>, TlsError> {
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|error| TlsError::Name(host.to_owned(), error))?;
    let config = if verify { config().await? } else { unverified()? };
    let connector = TlsConnector::from(config);
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

fn unverified() -> Result<Arc<ClientConfig>, TlsError> {
    if let Some(config) = UNVERIFIED.get() {
        return Ok(config.clone());
    }
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let anybody = Arc::new(Anybody(provider));
    let builder = builder.dangerous().with_custom_certificate_verifier(anybody);
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(UNVERIFIED.get_or_init(|| Arc::new(config)).clone())
}

/// Takes any certificate, of which the other end must have the key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
