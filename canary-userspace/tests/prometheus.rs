//! Gates ask a real Prometheus, which scrapes an exporter of two tracks.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use canary::{
    config::rollout::{Bound, Gate, GateKind, OnFail, OnMissing, Strategy},
    outside::{About, Answer, ask},
};

/// The whole of it may take so long.
const PATIENCE: Duration = Duration::from_secs(25);

/// Of requests, by the counters of the exporter.
const ERRORS: &str = r#"sum(rate(cny_errors_total{track="{{track}}"}[5s]))
    / sum(rate(cny_requests_total{track="{{track}}"}[5s]))"#;

/// Serves counters that grow with each scrape: of the canary's requests 5 % are
/// errors, of stable's 1 %.
fn exporter() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for (scrape, stream) in listener.incoming().enumerate() {
            // Prometheus may hang up, as it does at its end.
            stream.and_then(|stream| expose(stream, scrape)).ok();
        }
    });
    port
}

fn expose(mut stream: TcpStream, scrape: usize) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while !lines.next().transpose()?.unwrap_or_default().is_empty() {}
    let mut text =
        "# TYPE cny_requests_total counter\n# TYPE cny_errors_total counter\n".to_owned();
    for (track, errors) in [("canary", 5), ("stable", 1), ("flawless", 0)] {
        let requests = 100 * scrape;
        let errors = errors * scrape;
        text += &format!("cny_requests_total{{track=\"{track}\"}} {requests}\n");
        text += &format!("cny_errors_total{{track=\"{track}\"}} {errors}\n");
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close";
    write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{text}", text.len())
}

/// A server on loopback with nothing but our exporter. Gone with the test.
struct Prometheus {
    child: Child,
    directory: PathBuf,
    url: String,
}

impl Prometheus {
    fn new(exporter: u16) -> Self {
        let directory = std::env::temp_dir().join(format!("cny-prometheus-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let config = directory.join("prometheus.yml");
        let scrape = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\n\
             scrape_configs: [{{job_name: cny, static_configs: [{{targets: ['127.0.0.1:{exporter}']}}]}}]\n"
        );
        fs::write(&config, scrape).unwrap();
        // Free a moment ago; another program that takes it meanwhile shows below.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(directory.join("log")).unwrap())
            .spawn();
        let child = child.unwrap_or_else(|error| {
            panic!(
                "cannot run prometheus ({error}); on Debian: \
                 apt-get install --no-install-recommends prometheus"
            )
        });
        Self { child, directory, url: format!("http://127.0.0.1:{port}") }
    }

    fn ask(&self, query: &str, bound: Bound, relative: bool) -> Answer {
        let gate = Gate {
            name: "errors".into(),
            asks: GateKind::Prometheus {
                url: self.url.clone(),
                query: query.into(),
                bound,
                relative,
            },
            every: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            retries: 0,
            on_fail: OnFail::Rollback,
            on_missing: OnMissing::Hold,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(ask(&gate, &about()))
    }

    /// Waits until it answers, and has scraped often enough for a rate.
    fn wait(&mut self) {
        let start = Instant::now();
        loop {
            let answer = self.ask(ERRORS, Bound::Max(1.0), true);
            if !matches!(answer, Answer::Missing { .. }) {
                return;
            }
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || start.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.directory.join("log")).unwrap();
                panic!("prometheus has no data, {answer:?}, {ended:?}; its log:\n{log}");
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.kill();
        fs::remove_dir_all(&self.directory).ok();
    }
}

fn about() -> About {
    About {
        rollout: "web-1".into(),
        service: "web".into(),
        phase: "baking".into(),
        step: 1,
        steps: 5,
        split: 0.01,
        step_split: 0.01,
        strategy: Strategy::Canary,
        reason: String::new(),
        started_at: SystemTime::now(),
        at: SystemTime::now(),
        canary: Vec::new(),
        stable: Vec::new(),
        evidence: serde_json::Value::Null,
    }
}

fn pass(detail: &str) -> Answer {
    Answer::Pass { detail: detail.into() }
}

fn fail(detail: &str) -> Answer {
    Answer::Fail { detail: detail.into() }
}

fn missing(detail: &str) -> Answer {
    Answer::Missing { detail: detail.into() }
}

#[test]
fn a_real_prometheus_is_asked() {
    let mut prometheus = Prometheus::new(exporter());
    prometheus.wait();

    let (max, min) = (Bound::Max, Bound::Min);
    let floor = format!("clamp_min({ERRORS}, 0.04)");
    let swapped = ERRORS.replace("cny_requests_total", "cny_absent");
    let unfinished = r#"sum(cny_errors_total{track="{{track}}"}"#;
    let only_canary = r#"sum(cny_errors_total{track="{{track}}", track!="stable"}) * 0"#;
    let flawless = r#"sum(rate(cny_errors_total{track=~"flawless|{{track}}"}[5s])) * 0"#;
    let table: [(&str, Bound, bool, Answer); 13] = [
        (ERRORS, max(0.06), false, pass("canary 0.05 ≤ 0.06")),
        (ERRORS, max(0.04), false, fail("canary 0.05 > 0.04")),
        (ERRORS, min(0.04), false, pass("canary 0.05 ≥ 0.04")),
        (ERRORS, max(1.5), true, fail("canary 0.05 > 1.5 × stable 0.01")),
        (ERRORS, max(6.0), true, pass("canary 0.05 ≤ 6 × stable 0.01")),
        (ERRORS, min(6.0), true, fail("canary 0.05 < 6 × stable 0.01")),
        (&floor, max(1.5), true, pass("canary 0.05 ≤ 1.5 × stable 0.04")),
        (flawless, max(1.5), true, pass("canary 0 ≤ 1.5 × stable 0")),
        ("scalar(vector(3))", max(2.0), false, fail("3 > 2")),
        (&swapped, max(1.0), false, missing("canary: no data (an empty result)")),
        (only_canary, max(1.0), true, missing("stable: no data (an empty result)")),
        ("scalar(cny_absent)", max(1.0), false, missing("no data (the result is NaN)")),
        ("cny_errors_total", max(1.0), false, missing("3 series instead of one; write sum(…)")),
    ];
    for (query, bound, relative, expected) in table {
        assert_eq!(prometheus.ask(query, bound, relative), expected, "{query}");
    }
    for (query, said) in [
        (unfinished, "canary: Prometheus says 400 Bad Request: bad_data: "),
        ("cny_errors_total[5s]", "a matrix instead of one number; "),
        ("\"text\"", "a string instead of one number; "),
    ] {
        let answer = prometheus.ask(query, max(1.0), false);
        assert!(
            matches!(&answer, Answer::Missing { detail } if detail.starts_with(said)),
            "{query}: {answer:?}"
        );
    }

    prometheus.kill();
    let answer = prometheus.ask(ERRORS, max(1.0), true);
    let said = format!("canary: connecting to {}: Connection refused", prometheus.url);
    assert!(
        matches!(&answer, Answer::Missing { detail } if detail.starts_with(&said)),
        "{answer:?}"
    );
}
