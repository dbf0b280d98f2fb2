//! Webhooks by https: the authority is one of our own, which only
//! `SSL_CERT_FILE` names. So the questions are asked by a process of its own.
//! Backends' checks by https, too.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use canary::{
    config::{
        parse,
        rollout::{Gate, GateKind, OnFail, OnMissing, Strategy},
    },
    outside::{About, Answer, Probe, ask},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio_rustls::rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
};

/// In the environment of the process that asks: where.
const URL: &str = "CNY_HTTPS_URL";

/// An authority in PEM, and a certificate of it for a name, with its key.
fn certificates(name: &str) -> (String, CertificateDer<'static>, PrivatePkcs8KeyDer<'static>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    (authority, certificate.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der()))
}

/// Answers every request with 200. Gives its port.
fn server(certificate: CertificateDer<'static>, key: PrivatePkcs8KeyDer<'static>) -> u16 {
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key.into())
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(config.clone()).unwrap();
            let mut stream = StreamOwned::new(connection, stream.unwrap());
            // A client that does not trust us hangs up here.
            if stream.read(&mut [0; 8192]).is_ok_and(|read| read > 0) {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret").unwrap();
            }
        }
    });
    port
}

/// A backend's check, by the keys that stand in place of a URL.
fn check(port: u16, keys: &str) {
    let text = format!(
        "interfaces = ['eth0']\n[service.web]\nlisten = '203.0.113.10:80'\n\
         stable = ['10.0.0.11:8080']\nhealth = {{ check = 'https', {keys} }}\n"
    );
    let config = parse(&text, "test").unwrap();
    let backend = ([127, 0, 0, 1], port).into();
    let probe = Probe::new("web", "stable", backend, &config.services[0].health[0]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let probed = runtime.block_on(probe.ask());
    eprintln!("answer: {} {}", probed.outcome.name(), probed.detail);
}

/// What the process that asks does; its answer is on standard error.
fn client(url: String) {
    if let Some((port, keys)) = url.strip_prefix("check ").and_then(|asked| asked.split_once(' ')) {
        return check(port.parse().unwrap(), keys);
    }
    let gate = Gate {
        name: "https".into(),
        asks: GateKind::Webhook { url },
        every: Duration::from_secs(10),
        timeout: Duration::from_secs(10),
        retries: 0,
        on_fail: OnFail::Rollback,
        on_missing: OnMissing::Hold,
    };
    let now = SystemTime::now();
    let about = About {
        rollout: "web-1".into(),
        service: "web".into(),
        phase: "baking".into(),
        step: 1,
        steps: 5,
        split: 0.01,
        step_split: 0.01,
        strategy: Strategy::Canary,
        reason: String::new(),
        started_at: now,
        at: now,
        canary: Vec::new(),
        stable: Vec::new(),
        evidence: serde_json::Value::Null,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(ask(&gate, &about));
    // With what was kept of the first: authorities, and the session.
    assert_eq!(runtime.block_on(ask(&gate, &about)), answer);
    let said = match &answer {
        Answer::Pass { detail } => format!("pass {detail}"),
        Answer::Fail { detail } => format!("fail {detail}"),
        Answer::Missing { detail } => format!("missing {detail}"),
    };
    eprintln!("answer: {said}");
}

/// What a process with these roots is answered.
fn asked(roots: &Path, url: &str) -> String {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "https_by_the_systems_roots", "--nocapture"])
        .env("SSL_CERT_FILE", roots)
        .env_remove("SSL_CERT_DIR")
        .env(URL, url)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let answer = said.lines().find_map(|line| line.strip_prefix("answer: "));
    answer.unwrap_or_else(|| panic!("{output:?}")).to_owned()
}

#[test]
fn https_by_the_systems_roots() {
    if let Ok(url) = env::var(URL) {
        return client(url);
    }
    let (authority, certificate, key) = certificates("localhost");
    let (other, _, _) = certificates("localhost");
    let port = server(certificate, key);
    let directory = env::temp_dir().join(format!("cny-https-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let (right, wrong) = (file("right.pem", &authority), file("wrong.pem", &other));
    let empty = file("empty.pem", "");

    let by_name = format!("https://localhost:{port}/gate");
    let by_address = format!("https://127.0.0.1:{port}/gate");
    let answers = [
        asked(&right, &by_name),
        asked(&wrong, &by_name),
        asked(&right, &by_address),
        asked(&empty, &by_name),
        asked(&right, &format!("check {port} host = 'localhost'")),
        asked(&wrong, &format!("check {port} host = 'localhost'")),
        asked(&right, &format!("check {port} verify = true")),
        asked(&empty, &format!("check {port} verify = false, body = 'secret'")),
    ];
    fs::remove_dir_all(&directory).unwrap();
    for (answer, expected) in answers.iter().zip([
        "pass 200 OK: secret".to_owned(),
        format!("missing connecting to https://localhost:{port}: TLS: invalid peer certificate: "),
        format!("missing connecting to https://127.0.0.1:{port}: TLS: invalid peer certificate: "),
        format!(
            "missing connecting to https://localhost:{port}: no certificates of authorities are "
        ),
        "pass 200 OK".to_owned(),
        "fail connecting to https://localhost: TLS: invalid peer certificate: ".to_owned(),
        // The certificate is not for an address.
        format!("fail connecting to https://127.0.0.1:{port}: TLS: invalid peer certificate: "),
        "pass 200 OK".to_owned(),
    ]) {
        assert!(answer.starts_with(&expected), "{answer}\n{expected}");
    }
}
