//! Client and server over a real socket, with a task in the daemon's place
//! that answers from a table.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bounds;

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    thread::JoinHandle,
    time::Duration,
};

use canary_common::Split;
use tokio::sync::{mpsc, oneshot};

use super::{
    client::{Client, ClientError},
    parse_client,
    request::{FlowFilter, Refusal, Request},
    server::{BindError, Bound, bind_unix, serve_metrics, serve_unix},
    types::{
        ApiError, Drill, DrillReport, Explanation, Flows, FollowedFlow, Forecast, History,
        HistoryEntry, Reloaded, RolloutCommand, RolloutStatus, SetWeight, Status, Steer, Steered,
        Weight, Where,
    },
};
use crate::{config::SocketAccess, names};

/// A directory of its own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("canary-api-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("canary.sock")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// A server in a thread, stopped at the end.
struct Served {
    directory: Directory,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    fn new(name: &str, mut answer: impl FnMut(Request) + Send + 'static) -> Self {
        let directory = Directory::new(name);
        let socket = directory.socket();
        let (stop, mut stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let bound = bind_unix(&socket, &SocketAccess::default()).unwrap();
                let (sender, mut requests) = mpsc::channel(4);
                tokio::spawn(serve_unix(bound, sender));
                ready.send(()).unwrap();
                loop {
                    tokio::select! {
                        Some(request) = requests.recv() => answer(request),
                        _ = &mut stopped => return,
                    }
                }
            });
        });
        is_ready.recv().unwrap();
        Self { directory, stop: Some(stop), thread: Some(thread) }
    }

    fn client(&self) -> Client {
        Client::new(&self.directory.socket())
    }

    /// What comes back for these bytes until the server hangs up.
    fn raw(&self, bytes: &[u8]) -> String {
        self.exchange(bytes, |_| ())
    }

    /// The same where the client hangs up its side first.
    fn raw_cut(&self, bytes: &[u8]) -> String {
        self.exchange(bytes, |stream| stream.shutdown(Shutdown::Write).unwrap_or(()))
    }

    fn exchange(&self, bytes: &[u8], then: impl FnOnce(&UnixStream)) -> String {
        let mut stream = UnixStream::connect(self.directory.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        // The server may hang up before it has read all.
        stream.write_all(bytes).ok();
        then(&stream);
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        String::from_utf8(answer).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.take().unwrap().send(()).ok();
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "the server's thread panicked");
    }
}

/// What is asked of rollouts, steering and drills; each answer tells what came.
fn trial(request: Request) {
    match request {
        Request::Rollout { command, reply, .. } => {
            let reason = format!("{} {} {:?}", command.command, command.full, command.salt);
            reply.send(Ok(RolloutStatus { reason, ..RolloutStatus::default() })).unwrap();
        }
        Request::Explain { service, reply } => {
            reply.send(Ok(Explanation { service, ..Explanation::default() })).unwrap();
        }
        Request::History { limit, reply, .. } => {
            let entry = HistoryEntry { rollout: limit as u64, ..HistoryEntry::default() };
            let history = History { entries: vec![entry], ..History::default() };
            reply.send(Ok(history)).unwrap();
        }
        Request::Plan { service, reply } => {
            reply.send(Ok(Forecast { service, ..Forecast::default() })).unwrap();
        }
        Request::Steer { steer, reply, .. } => {
            let changed = steer.clients.len() as u64;
            reply.send(Ok(Steered { changed, ..Steered::default() })).unwrap();
        }
        Request::Steered { limit, reply, .. } => {
            reply.send(Ok(Steered { total: limit as u64, ..Steered::default() })).unwrap();
        }
        Request::StartDrill { drill, reply, .. } => {
            reply.send(Ok(DrillReport { drill, ..DrillReport::default() })).unwrap();
        }
        Request::EndDrill { reply, .. } => {
            reply.send(Ok(DrillReport { over: true, ..DrillReport::default() })).unwrap();
        }
        Request::Drill { reply, .. } => {
            reply.send(Err(Refusal::not_found("there was no drill"))).unwrap();
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn rollouts_steering_and_drills_have_their_routes() {
    let served = Served::new("trial", owner());
    let client = Client::new(&served.directory.socket());
    let at = |what: &str| format!("/v1/services/web/{what}");
    let order =
        RolloutCommand { command: "promote".to_owned(), full: true, salt: Some("a".to_owned()) };
    let status: RolloutStatus = client.order(&at("rollout"), &order).unwrap();
    assert_eq!(status.reason, "promote true Some(\"a\")");
    let explanation: Explanation = client.get(&at("explain")).unwrap();
    assert_eq!(explanation.service, "web");
    for (path, limit) in [("history", 50), ("history?limit=3", 3)] {
        let history: History = client.get(&at(path)).unwrap();
        assert_eq!(history.entries[0].rollout, limit);
    }
    let forecast: Forecast = client.get(&at("plan")).unwrap();
    assert_eq!(forecast.service, "web");
    let steer = Steer { clients: vec!["192.0.2.0/24".to_owned(); 2], ..Steer::default() };
    let steered: Steered = client.put(&at("steer"), &steer).unwrap();
    assert_eq!(steered.changed, 2);
    let steered: Steered = client.get(&at("steer?limit=9")).unwrap();
    assert_eq!(steered.total, 9);
    let drill = Drill { fault: "reset".to_owned(), share: 0.5, lasts: 3.0, ..Drill::default() };
    let report: DrillReport = client.put(&at("drill"), &drill).unwrap();
    assert_eq!(report.drill, drill);
    let report: DrillReport = client.delete(&at("drill")).unwrap();
    assert!(report.over);
    let none = client.get::<DrillReport>(&at("drill"));
    assert!(matches!(none, Err(ClientError::Refused(words)) if words == "there was no drill"));
    let bad = client.order::<_, RolloutStatus>(&at("rollout"), &7);
    assert!(matches!(bad, Err(ClientError::Refused(_))), "{bad:?}");
}

/// The fake owner of the state: one service, "web", at 5 %.
fn owner() -> impl FnMut(Request) + Send + 'static {
    let mut split = Split::from_fraction(0.05).unwrap();
    move |request| match request {
        Request::Status { service, reply } => {
            let version = service.unwrap_or_else(|| "all".to_owned());
            reply.send(Ok(Status { version, ..Status::default() })).unwrap();
        }
        Request::GetWeight { service, reply } => {
            let known = service == "web";
            let weight = Weight { service, split: split.fraction() };
            let unknown = || Refusal::not_found("there is no such service");
            reply.send(known.then_some(weight).ok_or_else(unknown)).unwrap();
        }
        Request::SetWeight { service, split: new, by, reply } => {
            // SAFETY: getuid has no preconditions and cannot fail.
            let uid = unsafe { libc::getuid() };
            assert_eq!((by.uid, by.pid), (uid, Some(std::process::id() as i32)));
            assert_eq!(by.user, names::user_name(uid));
            assert!(by.command.unwrap().starts_with("canary-"), "this test's own");
            split = new;
            reply.send(Ok(Weight { service, split: split.fraction() })).unwrap();
        }
        Request::Where { service, client, port, reply } => {
            let client = format!("{client} {port:?}");
            reply.send(Ok(Where { service, client, ..Where::default() })).unwrap();
        }
        Request::Flows { filter, limit, reply, .. } => {
            let expected = FlowFilter {
                track: Some("canary".to_owned()),
                backend: Some("[2001:db8::1]:80".to_owned()),
            };
            assert_eq!((filter, limit), (expected, 7));
            reply.send(Ok(Flows { total: 3, ..Flows::default() })).unwrap();
        }
        Request::Follow { service, filter, one_in, reply } => {
            if service != "web" {
                return reply.send(Err(Refusal::not_found("there is no such service"))).unwrap();
            }
            assert_eq!((filter.track.as_deref(), one_in), (Some("canary"), 9));
            let (sender, receiver) = mpsc::channel(4);
            for lost in [0, 5] {
                let event = "new".to_owned();
                sender.try_send(FollowedFlow { event, lost, ..FollowedFlow::default() }).unwrap();
            }
            reply.send(Ok(receiver)).unwrap();
        }
        Request::Reload { reply, .. } => {
            reply.send(Ok(Reloaded { changes: vec!["web: weight".to_owned()] })).unwrap();
        }
        Request::Metrics { reply } => reply.send(Ok("canary_up 1\n".to_owned())).unwrap(),
        Request::Detach { reply, .. } => reply.send(Err(Refusal::conflict("not now"))).unwrap(),
        // As a daemon that stops in the middle.
        Request::SetDrain { .. } | Request::DrainStatus { .. } => {}
        request => trial(request),
    }
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> String {
    match answer {
        Err(ClientError::Refused(message)) => message,
        other => panic!("a refusal was due: {other:?}"),
    }
}

#[test]
fn requests_arrive_whole_and_answers_come_back() {
    let served = Served::new("whole", owner());
    let client = served.client();
    assert_eq!(client.get::<Status>("/v1/status").unwrap().version, "all");
    assert_eq!(client.get::<Status>("/v1/status?service=web").unwrap().version, "web");
    let place: Where =
        client.get("/v1/services/web/where?client=%5B2001%3Adb8%3A%3A1%5D%3A4711").unwrap();
    assert_eq!(place.client, "2001:db8::1 Some(4711)");
    let flows: Flows = client
        .get("/v1/services/web/flows?limit=7&track=canary&backend=%5B2001%3Adb8%3A%3A1%5D%3A80")
        .unwrap();
    assert_eq!(flows.total, 3);
    assert_eq!(client.post::<Reloaded>("/v1/reload").unwrap().changes, ["web: weight"]);
}

#[test]
fn events_come_line_by_line_until_the_daemon_hangs_up() {
    let served = Served::new("follow", owner());
    let path = |service| format!("/v1/services/{service}/flows/follow?one_in=9&track=canary");
    let mut heard = Vec::new();
    let followed = served.client().follow(&path("web"), |event: FollowedFlow| {
        heard.push((event.event, event.lost));
        Ok::<_, ClientError>(())
    });
    assert!(followed.is_ok(), "{followed:?}");
    assert_eq!(heard, [("new".to_owned(), 0), ("new".to_owned(), 5)]);
    let none = |_: FollowedFlow| Ok::<_, ClientError>(());
    let said = refusal(served.client().follow(&path("shop"), none));
    assert!(said.contains("no such service"), "{said}");
}

/// The share travels as a JSON number: every split there is must survive it.
#[test]
fn a_split_is_the_same_on_both_sides() {
    let served = Served::new("split", owner());
    let client = served.client();
    for parts in [0, 1, 4_294_967, 42_949_673, 0x7fff_ffff, (1 << 32) - 1, 1 << 32] {
        let split = Split::from_parts(parts).fraction();
        let set: Weight = client.put("/v1/services/web/weight", &SetWeight { split }).unwrap();
        assert_eq!(Split::from_fraction(set.split).map(Split::parts), Some(parts));
        let got: Weight = client.get("/v1/services/web/weight").unwrap();
        assert_eq!(got, set);
    }
}

#[test]
fn refusals_carry_the_daemons_words() {
    let served = Served::new("refusals", owner());
    let client = served.client();
    let unknown = client.get::<Weight>("/v1/services/nope/weight");
    assert_eq!(refusal(unknown), "there is no such service");
    assert_eq!(refusal(client.post::<Vec<String>>("/v1/detach")), "not now");
    let stopping = client.get::<Weight>("/v1/services/web/drain?target=canary");
    assert_eq!(refusal(stopping), "the daemon is stopping");
    let share = client.put::<_, Weight>("/v1/services/web/weight", &SetWeight { split: 5.0 });
    assert_eq!(refusal(share), "5 is no share; write a fraction from 0 to 1");
    let nobody = refusal(client.get::<Where>("/v1/services/web/where?client=here"));
    assert!(nobody.starts_with("\"here\" is no client; write"), "{nobody}");
}

#[test]
fn every_error_is_json_with_its_status() {
    let served = Served::new("errors", owner());
    let put = |head: &str, body: &str| {
        let length = body.len();
        format!(
            "PUT /v1/services/web/weight HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\
             Content-Length: {length}\r\n{head}\r\n\r\n{body}"
        )
    };
    let json = "Content-Type: application/json";
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n");
    let huge = format!("{{\"split\": 0.1, \"x\": \"{}\"}}", "x".repeat(70_000));
    for (request, status, says) in [
        (get("/v2/status"), 404, "nothing at this path"),
        (get("/v1/reload"), 405, "does not take that method"),
        (get("/v1/services/nope/weight"), 404, "no such service"),
        (get("/v1/services/web/where"), 400, "client"),
        (get("/v1/services/web/flows?limit=many"), 400, "limit"),
        (get("/v1/services/web/flows/follow?one_in=0"), 400, "one_in"),
        (get("/v1/services/web/drain?target=canary"), 500, "is stopping"),
        (put(json, "{"), 400, "JSON"),
        (put(json, "{\"split\": \"all\"}"), 400, "split"),
        (put(json, "\u{0}\u{1}\u{2}"), 400, "JSON"),
        (put("X: y", "{\"split\": 0.1}"), 400, "Content-Type"),
        (put(json, &huge), 400, "over 65536 bytes"),
        (get("/v1/services/web/flows?limit=100001"), 400, "100000 at most"),
        (get("/v1/services/web/history?limit=18446744073709551615"), 400, "at most"),
        (get("/v1/services/%ff/weight"), 400, "UTF-8"),
    ] {
        let answer = served.raw(request.as_bytes());
        let first = request.lines().next().unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{first}: {answer}");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        let said: ApiError = serde_json::from_str(body).unwrap();
        assert!(said.error.contains(says), "{first}: {}", said.error);
    }
}

#[test]
fn metrics_are_served_as_prometheus_wants_them() {
    let served = Served::new("metrics", owner());
    let answer =
        served.raw(b"GET /metrics HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n").to_lowercase();
    assert!(answer.starts_with("http/1.1 200 "), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(answer.ends_with("\r\n\r\ncanary_up 1\n"), "{answer}");
}

/// Anyone who reaches the port may ask: it reads, and only the metrics.
#[test]
fn over_tcp_there_are_only_metrics() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (sender, mut requests) = mpsc::channel(4);
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            tokio::spawn(serve_metrics(listener, sender));
            let mut answer = owner();
            while let Some(request) = requests.recv().await {
                assert!(matches!(request, Request::Metrics { .. }), "{request:?}");
                answer(request);
            }
        });
    });
    let ask = |what: &str| {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        write!(stream, "{what} HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for (what, status, end) in [
        ("GET /metrics", 200, "\r\n\r\ncanary_up 1\n"),
        ("GET /healthz", 200, "\r\n\r\nok\n"),
        ("GET /", 200, "see /metrics\n"),
        ("HEAD /metrics", 200, "\r\n\r\n"),
        ("POST /metrics", 405, ""),
        ("DELETE /healthz", 405, ""),
        ("OPTIONS /", 405, ""),
        ("GET /v1/status", 404, "with `canary` or curl --unix-socket\"}"),
        ("POST /v1/detach", 403, "with `canary` or curl --unix-socket\"}"),
        ("PUT /v1/services/web/weight", 403, "with `canary` or curl --unix-socket\"}"),
        ("DELETE /v1/services/web/drill", 403, "with `canary` or curl --unix-socket\"}"),
        ("POST /elsewhere", 404, ""),
    ] {
        let answer = ask(what);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer}");
        assert!(answer.ends_with(end), "{what}: {answer}");
        let allows = answer.to_lowercase().contains("\r\nallow: get,head\r\n");
        assert_eq!(allows, status == 405, "{what}: {answer}");
    }
}

#[test]
fn without_a_daemon_the_client_says_so() {
    let directory = Directory::new("nobody");
    let socket = directory.socket();
    let asked = Client::new(&socket).get::<Status>("/v1/status");
    assert!(matches!(&asked, Err(ClientError::NoDaemon(path)) if *path == socket), "{asked:?}");
    // Left behind by a daemon that was killed.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let asked = Client::new(&socket).get::<Status>("/v1/status");
    assert!(matches!(asked, Err(ClientError::NoDaemon(_))), "{asked:?}");
}

/// Binding needs a runtime to register with.
fn bind_as(path: &Path, access: &SocketAccess) -> Result<Bound, BindError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { bind_unix(path, access) })
}

fn bind(path: &Path) -> Result<Bound, BindError> {
    bind_as(path, &SocketAccess::default())
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let served = Served::new("stale", owner());
    let live = served.directory.socket();
    assert!(matches!(bind(&live), Err(BindError::Taken(path)) if path == live));
    assert_eq!(served.client().get::<Status>("/v1/status").unwrap().version, "all");

    let directory = Directory::new("stale-left");
    let left = directory.0.join("deeper").join("canary.sock");
    drop(bind(&left).unwrap());
    assert!(left.exists(), "a listener leaves its socket behind");
    let again = bind(&left).unwrap();
    let mode = std::fs::metadata(&left).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    drop(again);
}

#[test]
fn a_file_that_is_no_socket_is_kept() {
    let directory = Directory::new("file");
    let path = directory.0.join("precious");
    std::fs::write(&path, "data").unwrap();
    assert!(matches!(bind(&path), Err(BindError::NoSocket(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
}

#[test]
fn clients_are_read_in_every_form() {
    for (text, address, port) in [
        ("192.0.2.1", "192.0.2.1", None),
        ("192.0.2.1:4711", "192.0.2.1", Some(4711)),
        ("2001:db8::1", "2001:db8::1", None),
        ("[2001:db8::1]", "2001:db8::1", None),
        ("[2001:db8::1]:4711", "2001:db8::1", Some(4711)),
        // Without brackets it is all address.
        ("2001:db8::1:4711", "2001:db8::1:4711", None),
    ] {
        assert_eq!(parse_client(text), Ok((address.parse().unwrap(), port)), "{text}");
    }
    for text in ["", "localhost", "192.0.2.1:", "192.0.2.1:65536", "192.0.2", "[::1", "::1]"] {
        assert!(parse_client(text).is_err(), "{text}");
    }
}
