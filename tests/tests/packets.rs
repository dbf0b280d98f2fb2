//! Packets that real networks have, over a real attachment: ICMP, narrow links,
//! fragments, jumbo frames. One lab at a time; nothing stays behind.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use canary::api::types::Status;
use canary_tests::{
    lab::{Daemon, HOSTS, Lab, Nginx, PORT, Process, VIP_V4, VIP_V6, config, wait_for},
    netns::ip,
};

/// The least that IPv6 allows: both families' discovery is needed.
const NARROW: u32 = 1280;
const BYTES: usize = 3_000_000;

fn verdicts(status: &Status, reason: &str) -> u64 {
    status.verdicts.iter().filter(|v| v.reason == reason).map(|v| v.packets).sum()
}

fn url(vip: &str, path: &str) -> String {
    format!("http://{vip}/{path}")
}

/// A host's address to the VIP is the host's own: what is no service's reaches
/// its stack.
#[test]
fn ping_to_the_vip_answers() {
    let body = || -> Result<()> {
        let lab = Lab::new("ping")?;
        let daemon = Daemon::start(&lab, &config(&lab, "", ""))?;
        let before = daemon.status()?;
        for (vip, family) in [("203.0.113.10", "-4"), ("2001:db8:cafe::10", "-6")] {
            ip(&["-n", &lab.namespace("lb"), "addr", "add", vip, "dev", "lo"])?;
            let answered = || {
                let ping = ["-c", "3", "-i", "0.2", "-W", "2", family, vip];
                lab.command("client", "ping", &ping).is_ok_and(|text| text.contains(" 0% packet"))
            };
            wait_for("pings to be answered", Duration::from_secs(10), answered)?;
        }
        ensure!(verdicts(&daemon.status()?, "not_tcp_udp") >= verdicts(&before, "not_tcp_udp") + 6);
        daemon.cli(&["detach"]).map(drop)
    };
    body().unwrap();
}

/// Downloads over a narrow link before the client, uploads over one before the
/// server: both complete only where "too big" reaches the sender, in words
/// that it knows.
#[test]
fn path_mtu_discovery_works_through_the_balancer() {
    let body = || -> Result<()> {
        let lab = Lab::new("pmtu")?;
        lab.put_behind("client", "fc", NARROW)?;
        lab.put_behind("s1", "fs", NARROW)?;
        let _near = Nginx::start(&lab, "s2")?;
        let _far = Nginx::start(&lab, "fs")?;
        let text = config(&lab, "", "");
        // The near server for downloads, the far one for uploads.
        let text = text.replace(&Lab::backend("s1", false), &Lab::backend("fs", false));
        let text = text.replace(&Lab::backend("s1", true), &Lab::backend("fs", true));
        let daemon = Daemon::start(&lab, &text)?;
        std::fs::write(lab.directory.join("upload"), vec![b'u'; BYTES])?;
        for (vip, service, v6) in [(VIP_V4, "web", false), (VIP_V6, "web6", true)] {
            let (near, far) = (Lab::backend("s2", v6), Lab::backend("fs", v6));
            daemon.cli(&["drain", service, &far])?;
            let before = verdicts(&daemon.status()?, "icmp_error");
            let got = download(&lab, "fc", vip)?;
            ensure!(got == BYTES, "{got} of {BYTES} bytes came over {vip}");
            let told = verdicts(&daemon.status()?, "icmp_error");
            ensure!(told > before, "the download over {vip} was never too big");
            knows_the_mtu(&lab, "s2", &Lab::address("fc", v6))?;

            daemon.cli(&["drain", service, &far, "--undo"])?;
            daemon.cli(&["drain", service, &near])?;
            let upload = format!("@{}/upload", lab.directory.display());
            let answer = lab.command(
                "client",
                "curl",
                &["-sS", "-m", "30", "--data-binary", &upload, &url(vip, "up")],
            )?;
            ensure!(answer == "fs\n", "the upload over {vip} was answered by {answer:?}");
            let told_again = verdicts(&daemon.status()?, "icmp_error");
            ensure!(told_again > told, "the upload over {vip} was never too big");
            knows_the_mtu(&lab, "client", vip.rsplit_once(':').unwrap().0)?;
            daemon.cli(&["drain", service, &near, "--undo"])?;
        }
        daemon.cli(&["detach"]).map(drop)
    };
    body().unwrap();
}

fn download(lab: &Lab, host: &str, vip: &str) -> Result<usize> {
    let range = format!("0-{}", BYTES - 1);
    let arguments = ["-sS", "-m", "30", "-r", &range, "-o", "/dev/null", "-w", "%{size_download}"];
    let large = url(vip, "large");
    let size = lab.command(host, "curl", &[&arguments[..], &[&large]].concat())?;
    Ok(size.parse()?)
}

/// What a sender's kernel has learnt.
fn knows_the_mtu(lab: &Lab, host: &str, to: &str) -> Result<()> {
    let route = lab.command(host, "ip", &["route", "get", to.trim_matches(['[', ']'])])?;
    ensure!(route.contains(&format!("mtu {NARROW}")), "{host} knows of no MTU: {route}");
    Ok(())
}

const ECHO: &str = "
import socket, sys
echo = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
echo.bind(('::', int(sys.argv[1])))
while True:
    data, sender = echo.recvfrom(65535)
    echo.sendto(data[::-1], sender)
";

const ASK: &str = "
import os, socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
for size in (4000, 1473, 9001, 30000):
    asking = socket.socket(family, socket.SOCK_DGRAM)
    asking.settimeout(5)
    question = os.urandom(size)
    asking.sendto(question, (sys.argv[1], int(sys.argv[2])))
    assert asking.recv(65535) == question[::-1], size
print('whole')
";

/// Datagrams that no link has room for, in fragments both ways.
#[test]
fn large_datagrams_come_back_whole() {
    let body = || -> Result<()> {
        let lab = Lab::new("fragments")?;
        let mut echo = lab.on("s1", "python3");
        echo.args(["-c", ECHO, &PORT.to_string()]).stdout(Stdio::null());
        let _echo = Process::start(&mut echo)?;
        let udp = |name: &str, listen: &str, v6| {
            let backend = Lab::backend("s1", v6);
            format!(
                "[service.{name}]\nlisten = {listen:?}\nprotocol = \"udp\"\nstable = [{backend:?}]\n"
            )
        };
        let services =
            [udp("echo", "203.0.113.20:7", false), udp("echo6", "[2001:db8:cafe::20]:7", true)];
        let text = format!("{}\n{}", config(&lab, "", ""), services.concat());
        let daemon = Daemon::start(&lab, &text)?;
        let before = daemon.status()?;
        for vip in ["203.0.113.20", "2001:db8:cafe::20"] {
            let said = lab.command("client", "python3", &["-c", ASK, vip, "7"])?;
            ensure!(said == "whole\n", "{said}");
        }
        let after = daemon.status()?;
        let fragments = verdicts(&after, "fragment") - verdicts(&before, "fragment");
        // 4000, 1473, 9001 and 30000 bytes: 2, 1, 6 and 20 later ones, four ways.
        ensure!(fragments >= 4 * 29, "{fragments} later fragments");
        let unknown = verdicts(&after, "fragment_unknown");
        ensure!(unknown == verdicts(&before, "fragment_unknown"), "{unknown} of nobody");
        daemon.cli(&["detach"]).map(drop)
    };
    body().unwrap();
}

/// Frames larger than a page: the program sees the beginning of each.
#[test]
fn jumbo_frames_go_through() {
    let body = || -> Result<()> {
        let lab = Lab::new("jumbo")?;
        for host in HOSTS {
            let device = Lab::interface(host);
            ip(&["-n", &lab.namespace("lb"), "link", "set", &device, "mtu", "9000"])?;
            ip(&["-n", &lab.namespace(host), "link", "set", "eth0", "mtu", "9000"])?;
        }
        let servers = ["s1", "s2", "c1"].map(|host| Nginx::start(&lab, host));
        let _servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
        let daemon = Daemon::start(&lab, &config(&lab, "", ""))?;
        let attached = daemon.status()?.data_plane.attached;
        ensure!(attached.iter().all(|a| a.mode == "native"), "{attached:?}");
        for vip in [VIP_V4, VIP_V6] {
            let got = download(&lab, "client", vip)?;
            ensure!(got == BYTES, "{got} of {BYTES} bytes came over {vip}");
        }
        for service in daemon.status()?.services {
            let backends = service.tracks.iter().flat_map(|track| &track.backends);
            let (bytes, packets) = backends
                .map(|b| (b.counters.bytes_out, b.counters.packets_out))
                .fold((0, 0), |sum, b| (sum.0 + b.0, sum.1 + b.1));
            let size = bytes.checked_div(packets).context("no packets")?;
            ensure!(size > 4000, "{}: {size} bytes a packet", service.name);
        }
        daemon.cli(&["detach"]).map(drop)
    };
    body().unwrap();
}
