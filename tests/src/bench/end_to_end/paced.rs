//! Requests at a fixed rate, whatever becomes of those before: their times
//! count from when each was due, so that a stall shows in all that it held up.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::lab::{Lab, at};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(5);
/// Of `PR_SET_TIMERSLACK`, in nanoseconds: wake up when it is time.
const SLACK: libc::c_ulong = 1;

/// Times of requests, sorted.
#[derive(Clone, Debug)]
pub(super) struct Times(Vec<Duration>);

impl Times {
    pub(super) const fn requests(&self) -> u64 {
        self.0.len() as u64
    }

    /// Microseconds that this share of the requests took at most.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    }
}

/// A connection, and when the request that it carries was due.
struct Client {
    stream: TcpStream,
    due: Instant,
    answer: Vec<u8>,
}

/// `rate` requests a second for so long, over `clients` connections that stay.
///
/// # Errors
/// Where a connection or a request fails, or the rate cannot be kept.
pub(super) fn run(
    lab: &Lab,
    to: &[SocketAddr],
    clients: usize,
    rate: u32,
    time: Duration,
) -> Result<Times> {
    let paced = at(lab, "client", || {
        let to = to.iter().cycle().take(clients);
        let clients = to.map(|to| Client::connect(*to)).collect::<Result<Vec<_>>>()?;
        pace(clients, rate, time)
    });
    paced?.context("requests at a fixed rate")
}

fn pace(mut clients: Vec<Client>, rate: u32, time: Duration) -> Result<Times> {
    // SAFETY: concerns this thread's own timers only.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, SLACK) };
    let every = Duration::from_secs(1) / rate;
    let total = (time.as_secs_f64() * f64::from(rate)) as usize;
    let readable = |client: &Client| libc::pollfd {
        fd: client.stream.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let mut polled: Vec<_> = clients.iter().map(readable).collect();
    let mut idle: Vec<usize> = (0..clients.len()).collect();
    let mut times = Vec::with_capacity(total);
    let begun = Instant::now();
    let (mut due, mut sent) = (begun, 0);
    while times.len() < total {
        while sent < total && due <= Instant::now() {
            let Some(free) = idle.pop() else { break };
            clients[free].ask(due)?;
            (due, sent) = (due + every, sent + 1);
        }
        ensure!(begun.elapsed() < time * 2 + PATIENCE, "{rate} a second are too many");
        let until_next = due.saturating_duration_since(Instant::now());
        let waiting = sent == total || idle.is_empty();
        let ready = poll(&mut polled, if waiting { PATIENCE } else { until_next })?;
        ensure!(ready > 0 || !waiting, "no answer within {PATIENCE:?}");
        for (number, _) in polled.iter().enumerate().filter(|(_, polled)| polled.revents != 0) {
            if let Some(took) = clients[number].hear()? {
                times.push(took);
                idle.push(number);
            }
        }
    }
    times.sort_unstable();
    Ok(Times(times))
}

/// How many of them can be read from, by then.
fn poll(polled: &mut [libc::pollfd], within: Duration) -> Result<usize> {
    let within = libc::timespec {
        tv_sec: within.as_secs().cast_signed(),
        tv_nsec: i64::from(within.subsec_nanos()),
    };
    let count = polled.len() as libc::nfds_t;
    // SAFETY: both live through the call, and the count is the slice's.
    let ready =
        unsafe { libc::ppoll(polled.as_mut_ptr(), count, &raw const within, std::ptr::null()) };
    usize::try_from(ready).map_err(|_| std::io::Error::last_os_error().into())
}

impl Client {
    fn connect(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(to).with_context(|| format!("connecting to {to}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, due: Instant::now(), answer: Vec::new() })
    }

    fn ask(&mut self, due: Instant) -> Result<()> {
        self.due = due;
        self.answer.clear();
        self.stream.write_all(REQUEST).context("sending a request")
    }

    /// How long the request took, if its answer is whole now.
    fn hear(&mut self) -> Result<Option<Duration>> {
        let mut buffer = [0; 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => bail!("the server ended a connection"),
            Ok(read) => self.answer.extend(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error).context("reading an answer"),
        }
        if !is_whole(&self.answer) {
            return Ok(None);
        }
        ensure!(self.answer.starts_with(b"HTTP/1.1 200 "), "an answer that is none");
        Ok(Some(self.due.elapsed()))
    }
}

/// Headers, an empty line, and the server's name with its line's end.
fn is_whole(answer: &[u8]) -> bool {
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n");
    body.is_some_and(|at| answer.len() > at + 4 && answer.ends_with(b"\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_ranks() {
        let times = Times((1..=200).map(Duration::from_micros).collect());
        assert_eq!(times.quantile(0.5), 100.0);
        assert_eq!(times.quantile(0.99), 198.0);
        assert!(Times(Vec::new()).quantile(0.5).is_nan());
    }

    #[test]
    fn an_answer_is_whole_with_its_body() {
        for part in ["HTTP/1.1 200 OK\r\nA: b\r\n", "HTTP/1.1 200 OK\r\nA: b\r\n\r\n"] {
            assert!(!is_whole(part.as_bytes()), "{part:?}");
        }
        assert!(is_whole(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\ns1\n"));
    }

    #[test]
    fn a_stall_shows_in_what_was_due_meanwhile() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let to = server.local_addr().expect("an address");
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().expect("a client");
            let mut request = vec![0; REQUEST.len()];
            for number in 0..20 {
                stream.read_exact(&mut request).expect("a request");
                if number == 0 {
                    std::thread::sleep(Duration::from_millis(50));
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nx\n").expect("a client");
            }
        });
        let clients = vec![Client::connect(to).expect("the server")];
        let times = pace(clients, 1000, Duration::from_millis(20)).expect("all answered");
        serving.join().expect("the server");
        assert_eq!(times.requests(), 20);
        // The last was due 19 ms after the first, which took 50.
        assert!(times.quantile(0.01) >= 30_000.0, "{times:?}");
        assert!(times.quantile(1.0) >= 50_000.0, "{times:?}");
    }
}
