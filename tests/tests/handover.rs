//! Who has the traffic: the kernel before a detach, another host.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    io::Read as _,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use canary_tests::{
    lab::{
        Daemon, Holders, Lab, Load, Outcome, Stage, VIP_V4, address, all_answered, at,
        fetch, wait_for,
    },
    netns::ip,
};

const SOON: Duration = Duration::from_secs(15);
const EVERY: Duration = Duration::from_millis(100);

fn answers(lab: &Lab, daemon: &Daemon) -> Result<()> {
    let outcome = at(lab, "client", || fetch(address(VIP_V4)))?;
    ensure!(matches!(outcome, Outcome::Answered(_)), "{outcome:?}\n{}", daemon.said());
    Ok(())
}

/// A command under way, which does not outlive a test that fails.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        Ok(Self(
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?,
        ))
    }

    fn interrupt(&self) {
        // SAFETY: a signal to a child of ours.
        unsafe { libc::kill(self.0.id().cast_signed(), libc::SIGINT) };
    }

    /// Its exit code, and all that it said.
    fn end(mut self) -> Result<(Option<i32>, String)> {
        wait_for("the command to end", SOON, || self.0.try_wait().is_ok_and(|s| s.is_some()))?;
        let mut said = String::new();
        self.0.stdout.take().context("no stdout")?.read_to_string(&mut said)?;
        self.0.stderr.take().context("no stderr")?.read_to_string(&mut said)?;
        Ok((self.0.wait()?.code(), said))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn is_draining(bed: &Stage) -> bool {
    bed.daemon.status().is_ok_and(|s| s.warnings.iter().any(|w| w.contains("detach --drain")))
}

/// New connections go to the kernel, here to a server of the balancer's own;
/// Ctrl-C takes it back; who is left at the end is waited for.
#[test]
fn a_detach_waits_for_connections() {
    let body = || {
        let bed = Stage::new("leave", "", "")?;
        ip(&["-n", &bed.lab.namespace("lb"), "addr", "add", "203.0.113.10/32", "dev", "lo"])?;
        let listener = at(&bed.lab, "lb", || TcpListener::bind(VIP_V4))??;
        listener.set_nonblocking(true)?;
        let holders = Holders::start(&bed.lab, address(VIP_V4), 30, EVERY)?;
        let accepted = || listener.accept().is_ok();
        let connects = || -> Result<bool> {
            let patience = Duration::from_secs(2);
            at(&bed.lab, "client", || {
                std::net::TcpStream::connect_timeout(&address(VIP_V4), patience).is_ok()
            })
        };
        answers(&bed.lab, &bed.daemon)?;
        ensure!(!accepted(), "the balancer's own server has connections already");

        let leaving = Running::start(&mut bed.daemon.command(&["detach", "--drain"]))?;
        wait_for("the drain", SOON, || is_draining(&bed))?;
        ensure!(connects()? && accepted(), "new connections do not go to the kernel");
        leaving.interrupt();
        let (code, said) = leaving.end()?;
        ensure!(code == Some(1) && said.contains("nothing was detached"), "{code:?} {said}");
        ensure!(!is_draining(&bed), "it is not taken back");
        answers(&bed.lab, &bed.daemon)?;
        ensure!(!accepted(), "the kernel still has new connections");

        // Whose asker is gone without a word ends by itself.
        let leaving = Running::start(&mut bed.daemon.command(&["detach", "--drain"]))?;
        wait_for("the drain", SOON, || is_draining(&bed))?;
        drop(leaving);
        wait_for("its end", SOON, || !is_draining(&bed)).with_context(|| bed.daemon.said())?;
        answers(&bed.lab, &bed.daemon)?;

        let leaving = Running::start(&mut bed.daemon.command(&["detach", "--drain"]))?;
        wait_for("the drain", SOON, || is_draining(&bed))?;
        std::thread::sleep(Duration::from_secs(1));
        let report = holders.stop()?;
        ensure!(report.cut.is_empty() && report.moved == 0, "{report:?}\n{}", bed.daemon.said());
        let (code, said) = leaving.end()?;
        ensure!(code == Some(0) && said.contains("no connection was left"), "{code:?} {said}");
        ensure!(!bed.lab.bpffs().exists(), "pins are left");
        let links = bed.lab.command("lb", "ip", &["link"])?;
        ensure!(!links.contains("xdp"), "programs are left after detach: {links}");
        Ok(())
    };
    body().unwrap();
}

/// After the timeout what is left is cut, and said to be.
#[test]
fn a_detach_waits_no_longer_than_it_was_told() {
    let body = || {
        let bed = Stage::new("leave2", "", "")?;
        let holders = Holders::start(&bed.lab, address(VIP_V4), 7, EVERY)?;
        let said = bed.daemon.cli(&["detach", "--drain", "--timeout", "1s"])?;
        ensure!(said.contains("; 7 connections were left, and are cut"), "{said}");
        drop(holders);
        // Without a daemon nobody can drain, and nothing is touched.
        let refused = bed.daemon.cli(&["detach", "--drain"]).err().context("it was not refused")?;
        ensure!(refused.to_string().contains("no canary daemon answers"), "{refused}");
        Ok(())
    };
    body().unwrap();
}

/// The VIP comes to this host and goes again, announced by ARP as VRRP does it,
/// while it is not the address that carries traffic, but the program.
#[test]
fn a_vip_moves_in_and_out() {
    let body = || {
        let bed = Stage::new("vrrp", "", "")?;
        let (lb, client) = (bed.lab.namespace("lb"), Lab::interface("client"));
        let holders = Holders::start(&bed.lab, address(VIP_V4), 30, EVERY)?;
        let load = Load::start(&bed.lab, address(VIP_V4), 200, u64::MAX);
        bed.lab.sysctl("lb", &format!("net.ipv4.conf.{client}.arp_notify"), "1")?;
        for _ in 0..5 {
            ip(&["-n", &lb, "addr", "add", "203.0.113.10/32", "dev", &client])?;
            std::thread::sleep(Duration::from_millis(200));
            // It is the host's own now, for all that is no service's.
            bed.lab.command("client", "ping", &["-c", "1", "-W", "2", "203.0.113.10"])?;
            answers(&bed.lab, &bed.daemon)?;
            ip(&["-n", &lb, "addr", "del", "203.0.113.10/32", "dev", &client])?;
            std::thread::sleep(Duration::from_millis(200));
            answers(&bed.lab, &bed.daemon)?;
        }
        let warnings = bed.daemon.status()?.warnings;
        ensure!(warnings.is_empty(), "{warnings:?}");
        let report = load.stop()?;
        all_answered(&report, report.values().sum())?;
        let report = holders.stop()?;
        ensure!(report.cut.is_empty() && report.moved == 0, "{report:?}\n{}", bed.daemon.said());
        bed.end()
    };
    body().unwrap();
}
