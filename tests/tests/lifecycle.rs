//! The data plane outlives what happens to the daemon and to interfaces.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use canary::{
    api::types::Attached,
    config::XdpMode,
    dataplane::{Dataplane, OpenOptions, remove_pins},
};
use canary_tests::{
    lab::{Daemon, Holders, Lab, Outcome, Stage, VIP_V4, address, at, config, fetch, wait_for},
    netns::{in_new_namespace, ip},
};

const SOON: Duration = Duration::from_secs(10);

fn interface(daemon: &Daemon, name: &str) -> Result<Attached> {
    let attached = daemon.status()?.data_plane.attached;
    attached.into_iter().find(|a| a.interface == name).with_context(|| format!("no {name}"))
}

fn becomes(daemon: &Daemon, name: &str, mode: &str) -> Result<()> {
    wait_for(&format!("{name} to be {mode}"), SOON, || {
        interface(daemon, name).is_ok_and(|a| a.mode == mode)
    })
    .with_context(|| daemon.said())
}

fn answers(bed: &Stage) -> Result<()> {
    let outcome = at(&bed.lab, "client", || fetch(address(VIP_V4)))?;
    ensure!(matches!(outcome, Outcome::Answered(_)), "{outcome:?}\n{}", bed.daemon.said());
    Ok(())
}

/// Pulls the veth between the balancer and a host. Returns the host's MAC: the
/// router or server behind a card that comes back is the same one.
fn pull(lab: &Lab, host: &str) -> Result<String> {
    let shown = lab.command(host, "ip", &["-o", "link", "show", "eth0"])?;
    let mac = shown.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next());
    ip(&["-n", &lab.namespace("lb"), "link", "del", &Lab::interface(host)])?;
    Ok(mac.context("no MAC")?.to_owned())
}

#[test]
fn interfaces_come_and_go() {
    let body = || {
        let bed = Stage::new("ifaces", "", "")?;
        let lb = bed.lab.namespace("lb");
        let (client, s1) = (Lab::interface("client"), Lab::interface("s1"));
        let every = Duration::from_millis(100);
        let holders = Holders::start(&bed.lab, address(VIP_V4), 40, every)?;
        std::thread::sleep(Duration::from_millis(300));
        // The clients' side: its flows get their replies by another number.
        let mac = pull(&bed.lab, "client")?;
        becomes(&bed.daemon, &client, "gone")?;
        let warned = bed.daemon.status()?.warnings;
        ensure!(warned.iter().any(|w| w.contains(&client)), "{warned:?}");
        bed.lab.plug("client", 0, Some(&mac))?;
        becomes(&bed.daemon, &client, "native")?;
        answers(&bed)?;
        // A backend's side: its next hop is another.
        let mac = pull(&bed.lab, "s1")?;
        becomes(&bed.daemon, &s1, "gone")?;
        bed.lab.plug("s1", 1, Some(&mac))?;
        becomes(&bed.daemon, &s1, "native")?;
        // Another name, MAC and MTU.
        for name in [&s1, &client] {
            ip(&["-n", &lb, "link", "set", name, "address", "02:00:00:00:77:01"])?;
            ip(&["-n", &lb, "link", "set", name, "mtu", "1400"])?;
            ip(&["-n", &lb, "link", "set", name, "mtu", "1500"])?;
        }
        answers(&bed)?;
        ip(&["-n", &lb, "link", "set", &s1, "down"])?;
        ip(&["-n", &lb, "link", "set", &s1, "name", "cnyother"])?;
        ip(&["-n", &lb, "link", "set", "cnyother", "up"])?;
        wait_for("the new name", SOON, || {
            interface(&bed.daemon, &s1).is_ok_and(|a| a.reason.contains("cnyother"))
        })?;
        ensure!(interface(&bed.daemon, &s1)?.mode == "native");
        answers(&bed)?;
        ip(&["-n", &lb, "link", "set", "cnyother", "down"])?;
        ip(&["-n", &lb, "link", "set", "cnyother", "name", &s1])?;
        ip(&["-n", &lb, "link", "set", &s1, "up"])?;
        // Those went when it was down.
        ip(&["-n", &lb, "-6", "addr", "replace", "fd77:1::1/64", "dev", &s1, "nodad"])?;
        // The clients' router fails over to one with another MAC.
        let there = bed.lab.namespace("client");
        ip(&["-n", &there, "link", "set", "eth0", "address", "02:00:00:00:77:02"])?;
        answers(&bed)?;
        // The VIP moves in and away, as with VRRP.
        ip(&["-n", &lb, "addr", "add", "203.0.113.10/32", "dev", &client])?;
        answers(&bed)?;
        ip(&["-n", &lb, "addr", "del", "203.0.113.10/32", "dev", &client])?;
        wait_for("all to be well", SOON, || {
            bed.daemon.status().is_ok_and(|status| status.warnings.is_empty())
        })
        .with_context(|| bed.daemon.said())?;
        // What was lost meanwhile is sent again within seconds.
        std::thread::sleep(Duration::from_secs(4));
        let report = holders.stop()?;
        ensure!(report.cut.is_empty() && report.moved == 0, "{report:?}\n{}", bed.daemon.said());
        bed.end()
    };
    body().unwrap();
}

#[test]
fn a_start_waits_for_interfaces_and_says_who_has_them() {
    let body = || {
        let lab = Lab::new("late")?;
        let (lb, c1) = (lab.namespace("lb"), Lab::interface("c1"));
        let text =
            config(&lab, "", "").replacen("interfaces = [", "interfaces = [\"cnylate\", ", 1);
        let mut daemon = Daemon::prepare(&lab, &text)?;
        // Another program on one of them.
        let other = PathBuf::from("/sys/fs/bpf/cny-late-switch");
        let options = options(&other, 0, 1024);
        at(&lab, "lb", || -> Result<()> {
            let (mut plane, _) = Dataplane::open(&options)?;
            plane.attach(&Lab::interface("c1"), XdpMode::Auto)?;
            Ok(())
        })??;
        let shown = lab.command("lb", "ip", &["-d", "link", "show", &c1])?;
        let id = shown.split("prog/xdp id ").nth(1).and_then(|s| s.split(' ').next());
        let id = id.context("no program")?.to_owned();
        daemon.launch(&lab)?;
        let said = format!(
            "interface {c1} already has an XDP program, \"canary\", id {id}; that is another"
        );
        wait_for("the refusal", SOON, || daemon.said().contains(&said))
            .with_context(|| daemon.said())?;
        daemon.kill();
        ensure!(!lab.bpffs().exists(), "a start that failed left maps");
        remove_pins(&other)?;
        daemon.launch(&lab)?;
        becomes(&daemon, "cnylate", "gone")?;
        becomes(&daemon, &c1, "native")?;
        ip(&["-n", &lb, "link", "add", "cnylate", "type", "veth", "peer", "name", "cnypeer"])?;
        becomes(&daemon, "cnylate", "native")?;
        daemon.cli(&["detach"])?;
        Ok(())
    };
    body().unwrap();
}

fn options(bpffs: &Path, signals: u16, flows: u32) -> OpenOptions {
    OpenOptions { bpffs: bpffs.to_owned(), flows, log: false, signals, sole: false }
}

/// Pins that go also where the test fails.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        remove_pins(&self.0).ok();
    }
}

/// Programs built differently take over from each other while packets come in:
/// each packet is seen by one of them.
#[test]
fn an_upgrade_passes_no_packet_by() {
    let pins = Pins("/sys/fs/bpf/cny-upgrade".into());
    let body = || -> Result<()> {
        for name in ["cnyup0", "cnyup1"] {
            // No neighbour discovery among the packets that are counted.
            fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1")?;
            ip(&["link", "set", name, "arp", "off"])?;
        }
        ip(&["addr", "add", "10.88.0.1/24", "dev", "cnyup0"])?;
        let (mut plane, _) = Dataplane::open(&options(&pins.0, 0, 1024))?;
        plane.attach("cnyup1", XdpMode::Native)?;
        // What the kernel itself sends when a link comes up is over by then.
        std::thread::sleep(Duration::from_secs(1));
        let seen = |plane: &Dataplane| -> Result<u64> { Ok(plane.verdicts()?.iter().sum()) };
        let socket = UdpSocket::bind("10.88.0.1:0")?;
        socket.connect("10.88.0.2:9")?;
        let before = seen(&plane)?;
        let (sent, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let mut ids = std::collections::BTreeSet::from([program_id(&plane)?]);
        std::thread::scope(|scope| -> Result<()> {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    sent.fetch_add(u64::from(socket.send(b"x").is_ok()), Ordering::Relaxed);
                }
            });
            let upgrades = (1..=10).try_for_each(|round: u16| -> Result<()> {
                let earlier = sent.load(Ordering::Relaxed);
                let (next, _) = Dataplane::open(&options(&pins.0, round % 2, 1024))?;
                ensure!(next.adopted(), "maps were made anew");
                plane = next;
                plane.attach("cnyup1", XdpMode::Native)?;
                ids.insert(program_id(&plane)?);
                ensure!(sent.load(Ordering::Relaxed) > earlier, "nothing was sent meanwhile");
                Ok(())
            });
            stop.store(true, Ordering::Relaxed);
            upgrades
        })?;
        ensure!(ids.len() == 11, "the same programs: {ids:?}");
        let sent = sent.into_inner();
        std::thread::sleep(Duration::from_millis(200));
        let seen = seen(&plane)? - before;
        ensure!(seen == sent, "sent {sent}, seen {seen}");
        Ok(())
    };
    in_new_namespace(["cnyup0", "cnyup1"], body).unwrap();
}

/// The mode that the configuration asks for now is the one it gets; `auto`
/// leaves what there is.
#[test]
fn a_start_changes_the_mode() {
    let pins = Pins("/sys/fs/bpf/cny-mode".into());
    let body = || -> Result<()> {
        for (mode, native) in [
            (XdpMode::Native, true),
            (XdpMode::Generic, false),
            (XdpMode::Auto, false),
            (XdpMode::Native, true),
            (XdpMode::Auto, true),
        ] {
            let (mut plane, _) = Dataplane::open(&options(&pins.0, 0, 1024))?;
            let attachment = plane.attach("cnymode1", mode)?;
            ensure!(attachment.native == native, "{mode:?}: {attachment:?}");
            let shown = ip(&["link", "show", "cnymode1"])?;
            ensure!(shown.contains("xdpgeneric") != native, "{mode:?}: {shown}");
        }
        Ok(())
    };
    in_new_namespace(["cnymode0", "cnymode1"], body).unwrap();
}

/// A mode that an interface cannot have leaves it as it is: the loopback has no
/// native XDP.
#[test]
fn a_mode_that_cannot_be_had_leaves_the_former() {
    let pins = Pins("/sys/fs/bpf/cny-nomode".into());
    let body = || -> Result<()> {
        let (mut plane, _) = Dataplane::open(&options(&pins.0, 0, 1024))?;
        plane.attach("lo", XdpMode::Generic)?;
        let refused = plane.set_mode("lo", XdpMode::Native);
        let refused = refused.err().context("native XDP on a loopback")?.to_string();
        ensure!(refused.contains("in native mode"), "{refused}");
        let shown = ip(&["link", "show", "lo"])?;
        ensure!(shown.contains("xdpgeneric"), "{shown}");
        ensure!(plane.attachments().count() == 1, "{plane:?}");
        // And it is pinned: the next one finds it.
        drop(plane);
        let (mut next, _) = Dataplane::open(&options(&pins.0, 0, 1024))?;
        ensure!(!next.attach("lo", XdpMode::Auto)?.native);
        Ok(())
    };
    in_new_namespace(["cnynomo0", "cnynomo1"], body).unwrap();
}

/// Native, generic and back under traffic, by a reload: what is held goes on.
/// In the moment between, packets go to the kernel, so a connection that speaks
/// just then may be cut (the client's host answers the backend's own address):
/// the others are neither cut nor moved.
#[test]
fn a_reload_changes_the_mode() {
    let body = || {
        let bed = Stage::new("modes", "", "")?;
        let every = Duration::from_millis(100);
        let holders = Holders::start(&bed.lab, address(VIP_V4), 40, every)?;
        for mode in ["generic", "native", "generic", "native"] {
            let text = config(&bed.lab, &format!("xdp_mode = \"{mode}\""), "");
            fs::write(&bed.daemon.config, text)?;
            let said = bed.daemon.cli(&["reload"])?;
            ensure!(said.contains(&format!("xdp_mode: {mode}")), "{said}");
            let attached = bed.daemon.status()?.data_plane.attached;
            ensure!(attached.iter().all(|a| a.mode == mode), "{attached:?}");
            answers(&bed)?;
        }
        let said = bed.daemon.said();
        let gaps: Vec<_> = said.lines().filter(|l| l.contains("went to the kernel")).collect();
        ensure!(gaps.len() == 4 * bed.lab.interfaces.len(), "{said}");
        std::thread::sleep(Duration::from_secs(1));
        let report = holders.stop()?;
        ensure!(report.cut.len() <= 4 && report.moved == 0, "{report:?}\n{said}");
        bed.end()
    };
    body().unwrap();
}

fn program_id(plane: &Dataplane) -> Result<u32> {
    Ok(plane.xdp(plane.program())?.info()?.id())
}
