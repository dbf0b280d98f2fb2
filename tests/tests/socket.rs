//! The daemon's socket: garbage and silence from thousands of clients while
//! somebody asks something sane, and who may do what.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "what happens between fork and exec is one thing"
)]

use std::{
    fs,
    io::{Read as _, Write},
    net::TcpStream,
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::Path,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use canary::api::{
    client::Client,
    types::{History, SetWeight, Weight},
};
use canary_tests::{
    lab::{Daemon, Lab, at, config, wait_for},
    memory::resident,
    random::Random,
};

/// An operator does not wait longer, whatever others do, but for one time in a
/// hundred …
const PROMPT: Duration = Duration::from_millis(500);
/// … which is over by then, on a machine with other work to do.
const AT_MOST: Duration = Duration::from_millis(1500);
const METRICS: &str = "127.0.0.1:9871";
const GET: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: c\r\n\r\n";
const HALF: &[u8] = b"PUT /v1/services/web/weight HTTP/1.1\r\nHost: c\r\n\
Content-Type: application/json\r\nContent-Length: 14\r\n\r\n{\"split\":";

trait Wire: Write + Send {}
impl<T: Write + Send> Wire for T {}

/// The daemon's descriptors, and its memory beside the maps, in bytes.
fn used(pid: u32) -> Result<(usize, u64)> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    Ok((descriptors, resident(pid)? << 10))
}

/// The same of a daemon at rest. What its allocator keeps it gives back when the
/// books of a split are closed; so one is set, and the least of a while counts.
fn settled(daemon: &Daemon, pid: u32) -> Result<(usize, u64)> {
    daemon.cli(&["weight", "web", "50%"])?;
    daemon.cli(&["weight", "web", "0%"])?;
    let mut least = used(pid)?;
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(500));
        let now = used(pid)?;
        least = (least.0.min(now.0), least.1.min(now.1));
    }
    Ok(least)
}

/// This process holds as many connections as it may.
fn room_for_descriptors() -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls read and write this struct only.
    let got = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur = limit.rlim_max.min(65_536);
    // SAFETY: as above.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    ensure!(got == 0 && set == 0 && limit.rlim_cur >= 12_000, "12,000 descriptors are needed");
    Ok(())
}

/// Asks and changes as an operator would, again and again; gives each wait,
/// the longest last.
fn operator(socket: &Path, stop: &AtomicBool) -> Result<Vec<Duration>> {
    let client = Client::new(socket);
    let mut waits = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let split = if waits.len() % 4 == 0 { 0.5 } else { 0.0 };
        let began = Instant::now();
        let set: Weight = client.put("/v1/services/web/weight", &SetWeight { split })?;
        waits.push(began.elapsed());
        let began = Instant::now();
        let got: Weight = client.get("/v1/services/web/weight")?;
        waits.push(began.elapsed());
        ensure!(set == got && got.split == split, "{set:?}, {got:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    waits.sort();
    Ok(waits)
}

/// So many connect and say nothing, or something that is nothing.
fn crowd(
    size: u32,
    connect: &dyn Fn() -> Result<Box<dyn Wire>>,
    random: &mut Random,
) -> Result<()> {
    let mut all = Vec::new();
    for number in 0..size {
        let mut stream = connect()?;
        let said = match number % 4 {
            0 => Vec::new(),
            1 => GET[..random.place(GET.len())].to_vec(),
            2 => HALF.to_vec(),
            _ => (0..random.place(400)).map(|_| random.bits() as u8).collect(),
        };
        // It may have been shown out by now.
        stream.write_all(&said).ok();
        all.push(stream);
    }
    Ok(())
}

/// A byte at a time, and answers that nobody reads.
fn slow(connect: &dyn Fn() -> Result<Box<dyn Wire>>) -> Result<()> {
    let mut slow = (0..100).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    let mut deaf = (0..100).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    for stream in &mut deaf {
        stream.write_all(&GET.repeat(100)).ok();
    }
    for byte in GET.iter().chain(GET) {
        slow.iter_mut().for_each(|stream| stream.write_all(&[*byte]).unwrap_or(()));
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Garbage of all kinds, on the socket and over TCP, from the balancer.
fn garbage(lab: &Lab, socket: &Path, seed: u64) -> Result<()> {
    let unix = || -> Result<Box<dyn Wire>> {
        let stream = UnixStream::connect(socket)?;
        stream.set_write_timeout(Some(Duration::from_millis(5)))?;
        Ok(Box::new(stream))
    };
    let tcp = || -> Result<Box<dyn Wire>> {
        let stream = TcpStream::connect(METRICS)?;
        stream.set_write_timeout(Some(Duration::from_millis(5)))?;
        Ok(Box::new(stream))
    };
    let random = &mut Random::new(seed);
    crowd(10_000, &unix, random)?;
    slow(&unix)?;
    // More than its queue holds would wait for their SYNs to be sent again.
    at(lab, "lb", || crowd(1_000, &tcp, random).and_then(|()| slow(&tcp)))?
}

#[test]
fn garbage_is_harmless() {
    let body = || -> Result<()> {
        room_for_descriptors()?;
        let lab = Lab::new("garbage")?;
        let daemon = Daemon::start(&lab, &config(&lab, "", ""))?;
        let (pid, socket) = (daemon.pid()?, daemon.socket.clone());
        // The first round is the measure for the second.
        let mut before = (0, 0);
        for round in 0..2 {
            let stop = AtomicBool::new(false);
            let went = Mutex::new(None);
            std::thread::scope(|scope| -> Result<()> {
                scope.spawn(|| *went.lock().unwrap() = Some(operator(&socket, &stop)));
                let done = garbage(&lab, &socket, round);
                stop.store(true, Ordering::Relaxed);
                done
            })?;
            let waits = went.into_inner()?.context("the operator's end")??;
            let (times, longest) = (waits.len(), waits.last().copied().unwrap_or_default());
            let within = |share: usize| waits.get(times * share / 100).copied().unwrap_or_default();
            let (half, most) = (within(50), within(99));
            let went = format!("{times} asked: {half:?} (median), {most:?} (99 %), {longest:?}");
            eprintln!("round {round}: {went}");
            ensure!(times > 40 && most < PROMPT && longest < AT_MOST, "{went}");
            wait_for("the last to be gone", Duration::from_secs(15), || {
                used(pid).is_ok_and(|(descriptors, _)| round == 0 || descriptors <= before.0)
            })
            .with_context(|| format!("{before:?}, {:?}", used(pid)))?;
            let after = settled(&daemon, pid)?;
            eprintln!("descriptors and bytes: {before:?}, then {after:?}");
            ensure!(round == 0 || after.1 < before.1 + (3 << 20), "{before:?}, {after:?}");
            before = after;
        }
        ensure!(daemon.said().contains("say nothing"), "no word of it: {}", daemon.said());
        daemon.cli(&["detach"])?;
        Ok(())
    };
    body().unwrap();
}

/// curl as another user, in these groups; its status and what it said.
fn curl(
    daemon: &Daemon,
    user: u32,
    groups: &'static [u32],
    what: &[&str],
) -> Result<(u32, String)> {
    let mut command = Command::new("curl");
    command.args(["-s", "-m", "5", "-w", "\n%{http_code}", "--unix-socket"]).arg(&daemon.socket);
    command.args(what);
    let (first, rest) = groups.split_first().context("a group")?;
    let (first, rest) = (*first, rest.to_vec());
    // SAFETY: system calls only, between fork and exec.
    unsafe {
        command.pre_exec(move || {
            if libc::setgroups(rest.len(), rest.as_ptr()) != 0
                || libc::setgid(first) != 0
                || libc::setuid(user) != 0
            {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').context(text.clone())?;
    Ok((status.parse()?, body.to_owned()))
}

const NOBODY: u32 = 65_534;
const NOGROUP: u32 = 65_534;
/// Debian's own.
const ADM: u32 = 4;
const GAMES: u32 = 60;

const ASK: &[&str] = &["http://c/v1/services/web/weight"];
const CHANGE: &[&str] = &[
    "-X",
    "PUT",
    "-H",
    "Content-Type: application/json",
    "-d",
    "{\"split\":0.25}",
    "http://c/v1/services/web/weight",
];

#[test]
fn the_kernel_says_who_asks() {
    let body = || -> Result<()> {
        let lab = Lab::new("peers")?;
        let top = "socket_group = \"adm\"\nread_group = \"games\"";
        let daemon = Daemon::start(&lab, &config(&lab, top, ""))?;
        for (user, groups, asked, changed, says) in [
            (NOBODY, &[NOGROUP][..], 403, 403, "nobody (uid 65534) may not use this socket"),
            (NOBODY, &[GAMES], 200, 403, "nobody (uid 65534) may ask but change nothing"),
            (NOBODY, &[NOGROUP, 1, GAMES], 200, 403, "members of group adm may"),
            (NOBODY, &[NOGROUP, 1, ADM], 200, 200, "0.25"),
            (NOBODY, &[ADM], 200, 200, "0.25"),
            (0, &[0], 200, 200, "0.25"),
        ] {
            daemon.cli(&["weight", "web", "5%"])?;
            let (status, said) = curl(&daemon, user, groups, ASK)?;
            ensure!(status == asked, "{user} {groups:?} asks: {status} {said}");
            let (status, said) = curl(&daemon, user, groups, CHANGE)?;
            ensure!(status == changed, "{user} {groups:?} changes: {status} {said}");
            ensure!(said.contains(says), "{user} {groups:?}: {said}");
            let split = daemon.cli(&["weight", "web", "--json"])?;
            ensure!(split.contains("0.25") == (changed == 200), "{user} {groups:?}: {split}");
        }
        // In the log and in the history, with all that is known of who it was.
        let history: History = serde_json::from_str(&daemon.cli(&["history", "web", "--json"])?)?;
        let by = |user: &str| {
            let mut entries = history.entries.iter();
            entries.any(|entry| {
                entry.event == "weight"
                    && entry.split == 0.25
                    && entry.by.starts_with(&format!("{user}, pid "))
                    && entry.by.contains(", curl -s -m 5")
                    && entry.reason == format!("split set to 25 % by {}", entry.by)
                    && daemon.said().contains(&format!("web: {}", entry.reason))
            })
        };
        let known = by("nobody (uid 65534)") && by("root (uid 0)");
        ensure!(known, "{:?}\n{}", history.entries, daemon.said());
        let shown = daemon.cli(&["history", "web"])?;
        ensure!(shown.contains(", canary --socket "), "{shown}");
        ensure!(daemon.said().contains("refused nobody (uid 65534), pid "), "{}", daemon.said());
        daemon.cli(&["detach"])?;
        Ok(())
    };
    body().unwrap();
}

#[test]
fn over_tcp_nothing_is_changed() {
    let body = || -> Result<()> {
        let lab = Lab::new("tcponly")?;
        let daemon = Daemon::start(&lab, &config(&lab, "", ""))?;
        daemon.cli(&["weight", "web", "5%"])?;
        let ask = |what: &str| -> Result<String> {
            at(&lab, "lb", || {
                let mut stream = TcpStream::connect(METRICS)?;
                stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                write!(stream, "{what} HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n")?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                Ok(answer)
            })?
        };
        ensure!(ask("GET /metrics")?.contains("canary_split_ratio"));
        for (what, status) in [
            ("PUT /v1/services/web/weight", 403),
            ("POST /v1/detach", 403),
            ("GET /v1/status", 404),
            ("POST /metrics", 405),
        ] {
            let answer = ask(what)?;
            ensure!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer}");
            ensure!(status == 405 || answer.contains("Unix socket"), "{what}: {answer}");
            ensure!(status != 405 || answer.contains("allow: GET,HEAD"), "{what}: {answer}");
        }
        ensure!(daemon.cli(&["weight", "web", "--json"])?.contains("0.05"));
        daemon.cli(&["detach"])?;
        Ok(())
    };
    body().unwrap();
}
