//! From the daemon's start to its first work.

use std::{
    net::UdpSocket,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use canary::api::{client::Client, types::Weight};

use super::{
    Effort,
    bed::{Bed, FIRST},
    since,
};
use crate::{
    bench::report::Row,
    lab::{PORT, at},
};

/// Between two datagrams, and two questions.
const PAUSE: Duration = Duration::from_micros(200);
const PATIENCE: Duration = Duration::from_secs(20);

/// New, and taking over. The daemon runs when this is done.
pub(super) fn rows(bed: &mut Bed, effort: Effort) -> Result<Vec<Row>> {
    let rounds = if effort.quick { 2 } else { 5 };
    let (mut new, mut again) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        new.push(first_datagram(bed)?);
        bed.daemon.kill();
        again.push(first_answer(bed)?);
        if round + 1 < rounds {
            bed.daemon.cli(&["detach"])?;
            bed.daemon.kill();
        }
    }
    let name = bed.shape.name;
    Ok(vec![
        Row::of(format!("{name}: new"), &new)?,
        Row::of(format!("{name}: taking over"), &again)?,
    ])
}

/// Starts the daemon with nothing pinned, while a client sends to the first
/// service; until its server hears of it.
fn first_datagram(bed: &mut Bed) -> Result<f64> {
    ensure!(!bed.lab.bpffs().exists(), "something is pinned already");
    let (heard, over) = (Mutex::new(None), AtomicBool::new(false));
    let Bed { daemon, lab, .. } = bed;
    let (lab, heard, over) = (&*lab, &heard, &over);
    std::thread::scope(|scope| {
        let server = scope.spawn(move || at(lab, "s1", || listen(heard, over))?);
        let client = scope.spawn(move || at(lab, "client", || send(over))?);
        // Both are at it.
        std::thread::sleep(Duration::from_millis(20));
        let begun = Instant::now();
        let started = daemon.launch(lab);
        let answered = started.and_then(|()| in_charge(daemon.socket.as_path()));
        let is_heard = || heard.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        while answered.is_ok() && !is_heard() && begun.elapsed() < PATIENCE {
            std::thread::sleep(PAUSE);
        }
        over.store(true, Ordering::Relaxed);
        for thread in [server, client] {
            thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        answered.with_context(|| daemon.said())?;
        let at = heard.lock().unwrap_or_else(PoisonError::into_inner).take();
        let at: Instant = at.context("no datagram came through")?;
        Ok(at.duration_since(begun).as_secs_f64() * 1e3)
    })
}

/// Notes when the first datagram came.
fn listen(heard: &Mutex<Option<Instant>>, over: &AtomicBool) -> Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", PORT))?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    while !over.load(Ordering::Relaxed) {
        if socket.recv(&mut [0; 64]).is_ok() {
            *heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            break;
        }
    }
    Ok(())
}

/// From another port each time: the host's own idea of where the first went
/// is not asked.
fn send(over: &AtomicBool) -> Result<()> {
    while !over.load(Ordering::Relaxed) {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        // Before the start the host knows no way there.
        socket.send_to(b"are you there?", Bed::listen(0)).ok();
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Starts a daemon beside what is pinned, which forwards meanwhile; until it
/// answers.
fn first_answer(bed: &mut Bed) -> Result<f64> {
    let begun = Instant::now();
    bed.daemon.launch(&bed.lab)?;
    in_charge(&bed.daemon.socket).with_context(|| bed.daemon.said())?;
    Ok(since(begun))
}

/// The daemon answers once it has set everything up.
fn in_charge(socket: &std::path::Path) -> Result<()> {
    let (client, path) = (Client::new(socket), format!("/v1/services/{FIRST}/weight"));
    let begun = Instant::now();
    loop {
        match client.get::<Weight>(&path) {
            Ok(_) => return Ok(()),
            Err(error) if begun.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}
