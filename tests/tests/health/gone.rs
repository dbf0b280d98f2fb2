//! Hosts that fall silent: what becomes of those who were on them.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use canary::api::types::BackendHealth;
use canary_tests::lab::{Holders, Lab, Stage, VIP_V4, address, at, fetch, wait_for};

use super::{OFTEN, S1, SOON, SWIFT, backend, health, inline, wait_for_state};

const FALL_SILENT: &str = "add table inet dead; add chain inet dead in { type filter hook input \
                           priority 0; policy drop; }";

/// A host that is silent: handshakes go elsewhere when its backend is down, and
/// connections when it is gone.
#[test]
fn clients_of_a_dead_host_go_elsewhere() {
    let body = || {
        let extra = inline(&SWIFT.replace("never", "1s"));
        let stage = Stage::new("gone", "", &extra)?;
        let held = Holders::start(&stage.lab, address(VIP_V4), 20, OFTEN)?;
        let died = Instant::now();
        stage.lab.command("s1", "nft", &[FALL_SILENT])?;
        // Begun before anybody knows: a SYN that is sent again is picked again.
        let lab = Arc::clone(&stage.lab);
        let early = at(&lab, "client", || {
            let begun = Instant::now();
            let names: Vec<_> = (0..6).map(|_| fetch(address(VIP_V4))).collect();
            (names, begun.elapsed())
        })?;
        eprintln!("six connections at once after the host's death: {early:?}");
        let gone = |h: BackendHealth| h.gone;
        wait_for("gone", SOON, || health(&stage, S1).is_ok_and(gone))
            .with_context(|| stage.daemon.said())?;
        eprintln!("from the host's death to its flows given back: {:?}", died.elapsed());
        wait_for("no flow", SOON, || {
            backend(&stage, "stable", S1).is_ok_and(|b| b.counters.active == 0)
        })?;
        let report = held.stop()?;
        let elsewhere = report.cut.iter().filter(|cut| cut.server != "s1").count();
        ensure!(elsewhere == 0 && report.moved == 0, "{report:?}");
        let on_dead = report.on.get("s1").copied().unwrap_or(0);
        ensure!(on_dead > 0 && report.cut.len() as u64 == on_dead, "{report:?}");
        let cut = report.cut.iter().map(|cut| (cut.at - died, &cut.error)).collect::<Vec<_>>();
        eprintln!("its clients heard: {cut:?}");
        ensure!(report.cut.iter().all(|cut| cut.error.contains("reset")), "{cut:?}");
        stage.lab.command("s1", "nft", &["delete table inet dead"])?;
        wait_for_state(&stage, "stable", S1, "active")?;
        ensure!(!health(&stage, S1)?.gone);
        stage.end()
    };
    body().unwrap();
}

const UDP_VIP: &str = "203.0.113.11:53";
const UDP_PORT: u16 = 5353;

/// Answers datagrams with its host's name, until it is told to stop.
fn udp_server(
    lab: &Arc<Lab>,
    host: &'static str,
    stop: &Arc<AtomicBool>,
) -> thread::JoinHandle<()> {
    let (lab, stop) = (Arc::clone(lab), Arc::clone(stop));
    thread::spawn(move || {
        let serve = || -> std::io::Result<()> {
            let socket = UdpSocket::bind((Lab::address(host, false), UDP_PORT))?;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            while !stop.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut [0; 64]) {
                    // The host may be cut off.
                    socket.send_to(host.as_bytes(), from).ok();
                }
            }
            Ok(())
        };
        at(&lab, host, serve).unwrap().unwrap();
    })
}

/// Whoever answers a datagram.
fn asked(socket: &UdpSocket) -> Option<String> {
    socket.send(b"who").ok()?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}

fn ask_until_elsewhere(stage: &Stage) -> Result<Duration> {
    let to: SocketAddr = address(UDP_VIP);
    at(&stage.lab, "client", || {
        let mut on_s1 = Vec::new();
        for _ in 0..16 {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            let server = asked(&socket).context("no answer")?;
            if server == "s1" {
                on_s1.push(socket);
            }
        }
        ensure!(!on_s1.is_empty(), "nobody is on s1");
        stage.lab.command("s1", "nft", &[FALL_SILENT])?;
        let died = Instant::now();
        for socket in &on_s1 {
            while asked(socket).is_none_or(|server| server != "s2") {
                ensure!(died.elapsed() < 2 * SOON, "{}", stage.daemon.said());
            }
        }
        Ok(died.elapsed())
    })?
}

/// The same sockets go on elsewhere.
#[test]
fn datagrams_of_a_dead_host_go_on_elsewhere() {
    let body = || {
        let [s1, s2] = ["s1", "s2"].map(|host| format!("{}:{UDP_PORT}", Lab::address(host, false)));
        let service = format!(
            "[service.dns]\nlisten = {UDP_VIP:?}\nprotocol = \"udp\"\nstable = [{s1:?}, {s2:?}]\n\
             health = {{ check = \"tcp\", port = 8080, interval = \"100ms\", timeout = \"100ms\", \
             gone_after = \"1s\" }}\n"
        );
        let stage = Stage::new("datagrams", &service, "")?;
        let stop = Arc::new(AtomicBool::new(false));
        let servers = ["s1", "s2"].map(|host| udp_server(&stage.lab, host, &stop));
        thread::sleep(Duration::from_millis(200));
        let took = ask_until_elsewhere(&stage);
        stop.store(true, Ordering::Relaxed);
        for server in servers {
            server.join().map_err(|_| anyhow::anyhow!("a server panicked"))?;
        }
        eprintln!("from the host's death until its clients were served elsewhere: {:?}", took?);
        stage.end()
    };
    body().unwrap();
}
