//! The daemon's server, over a real pair of sockets: once as the Unix socket's,
//! once as the metrics' listener, with a stand-in for the daemon behind both.

mod answers;
mod daemon;

use std::{cell::LazyCell, io::Write as _, os::fd::AsRawFd as _, time::Duration};

use canary::api::server::{Access, Connections, on_unix, over_tcp};
use tokio::{net::UnixStream, runtime::Runtime, sync::mpsc};

use super::{Format, Target, mark};
use answers::answers;
use daemon::{Arrived, StandIn};

pub const TARGET: Target =
    Target { name: "api", format: Format::Text, dictionary: DICTIONARY, check };

const DICTIONARY: &[&[u8]] = &[
    b"GET ",
    b"HEAD ",
    b"PUT ",
    b"POST ",
    b"DELETE ",
    b"OPTIONS ",
    b"CONNECT ",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"/v1/status?service=web",
    b"/v1/services/web/weight",
    b"/v1/services/web/drain?target=canary",
    b"/v1/services/web/drill",
    b"/v1/services/web/steer",
    b"/v1/services/web/rollout",
    b"/v1/services/web/flows?limit=18446744073709551615",
    b"/v1/services/web/flows/follow?one_in=1",
    b"/v1/services/%2e%2e%2fweb/where?client=%5B::1%5D:1",
    b"/v1/reload",
    b"/v1/detach",
    b"/metrics",
    b" HTTP/1.1\r\n",
    b" HTTP/1.0\r\n",
    b"Content-Length: 13\r\n",
    b"Content-Length: 18446744073709551616\r\n",
    b"Content-Length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Type: application/json\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"\r\n\r\n",
    b"{\"split\":0.1}",
    b"{\"split\":1e999}",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"\x00",
    b"\xff\xfe",
    b"%",
    b"%00",
];

/// All of it is done long before, or something waits for ever.
const HANGS: Duration = Duration::from_secs(5);
/// Turns of the runtime without anything new after which there is nothing more.
const QUIET_TURNS: u32 = 4;

struct Bed {
    runtime: Runtime,
    unix: Connections,
    tcp: Connections,
    daemon: StandIn,
}

impl Bed {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // Sockets are looked at in each turn.
            .event_interval(1)
            .build()
            .expect("a runtime");
        let (sender, requests) = mpsc::channel(8);
        let daemon = StandIn::default();
        runtime.spawn(daemon.clone().serve(requests));
        let unix = on_unix(Access::own(), sender.clone());
        Self { runtime, unix, tcp: over_tcp(sender), daemon }
    }

    /// What comes back, and what got as far as the daemon.
    fn exchange(&self, input: &[u8], tcp: bool) -> Result<(Vec<u8>, Arrived), String> {
        self.daemon.take();
        let server = if tcp { &self.tcp } else { &self.unix };
        let exchange = async {
            let (theirs, ours) = UnixStream::pair().map_err(|e| e.to_string())?;
            let served = server.one(theirs, tcp);
            let ((), answer) = tokio::join!(served, ask(ours, input, server));
            Ok::<_, String>(answer)
        };
        let exchange = self.runtime.block_on(async { tokio::time::timeout(HANGS, exchange).await });
        let answer = exchange.map_err(|_| "the connection does not end")??;
        Ok((answer, self.daemon.take()))
    }
}

/// Says all of it, and hangs up once the server has no more to say.
async fn ask(stream: UnixStream, input: &[u8], server: &Connections) -> Vec<u8> {
    // An input fits into the socket's buffer.
    let mut stream = stream.into_std().expect("a socket");
    stream.write_all(input).ok();
    let stream = UnixStream::from_std(stream).expect("a socket");
    let (mut answer, mut quiet) = (Vec::new(), 0);
    while quiet < QUIET_TURNS {
        let before = answer.len();
        match stream.try_read_buf(&mut answer) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        let moves = answer.len() > before || server.working() > 0 || unread(&stream) > 0;
        quiet = if moves { 0 } else { quiet + 1 };
        tokio::task::yield_now().await;
    }
    answer
}

/// Bytes that the other end has not taken yet.
fn unread(stream: &UnixStream) -> libc::c_int {
    let mut bytes = 0;
    // SAFETY: the kernel writes one int.
    unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    bytes
}

/// What the kernel's buffer of a pair takes at once.
const LONGEST: usize = 64 << 10;

fn check(input: &[u8]) -> Result<Vec<u64>, String> {
    thread_local! {
        static BED: LazyCell<Bed> = LazyCell::new(Bed::new);
    }
    let input = &input[..input.len().min(LONGEST)];
    BED.with(|bed| {
        let mut marks = Vec::new();
        for tcp in [false, true] {
            let (answer, arrived) = bed.exchange(input, tcp)?;
            let statuses = answers(&answer).map_err(|why| {
                format!("{why}, over TCP: {tcp}: {}", String::from_utf8_lossy(&answer))
            })?;
            holds(input, tcp, &statuses, &arrived)?;
            marks.extend(statuses.iter().map(|status| mark((tcp, status))));
            marks.extend(arrived.kinds.iter().map(|kind| mark((tcp, kind))));
            marks.push(mark((tcp, statuses.len().min(4), arrived.kinds.len().min(4))));
        }
        Ok(marks)
    })
}

/// What must be, whatever was said.
fn holds(input: &[u8], tcp: bool, statuses: &[u16], arrived: &Arrived) -> Result<(), String> {
    if let Some(wrong) = &arrived.wrong {
        return Err(wrong.clone());
    }
    let says = |word: &[u8]| input.windows(word.len()).any(|part| part == word);
    let methods = [&b"PUT "[..], b"POST ", b"DELETE "];
    if arrived.changes > 0 && (tcp || !methods.iter().any(|method| says(method))) {
        return Err(format!("{:?} changed something, over TCP: {tcp}", arrived.kinds));
    }
    if tcp && arrived.kinds.iter().any(|kind| *kind != "metrics") {
        return Err(format!("over TCP the daemon was asked for {:?}", arrived.kinds));
    }
    // 100 (Continue) is none yet.
    let answered = statuses.iter().filter(|status| **status >= 200).count();
    if answered < arrived.kinds.len() {
        return Err(format!("{:?} were asked for, {statuses:?} answered", arrived.kinds));
    }
    if statuses.contains(&500) {
        return Err("an internal error".into());
    }
    Ok(())
}
