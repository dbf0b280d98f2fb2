//! Who has the traffic: the kernel before a detach, another host, a daemon
//! without root.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    io::Read as _,
    net::TcpListener,
    os::unix::fs::chown,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use canary_tests::{
    lab::{
        Daemon, Holders, Lab, Load, Nginx, Outcome, Stage, VIP_V4, address, all_answered, at,
        config, fetch, wait_for,
    },
    netns::ip,
};

const SOON: Duration = Duration::from_secs(15);
const EVERY: Duration = Duration::from_millis(100);
/// Debian's `nobody`; any number would do.
const NOBODY: u32 = 65534;
/// CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF.
const NEEDED: u64 = 1 << 12 | 1 << 38 | 1 << 39;

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

/// Somebody who may ask, and no more, asks how far it is.
fn looks_on(bed: &Stage) -> Result<()> {
    let socket = bed.daemon.socket.display().to_string();
    let arguments = ["--reuid=65534", "--regid=60", "--clear-groups", "curl", "-sSf", "-o"];
    let mut reader = Command::new("setpriv");
    reader.args(arguments).args(["/dev/null", "--unix-socket", &socket]);
    let output = reader.arg("http://c/v1/detach/drain").output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// New connections go to the kernel, here to a server of the balancer's own;
/// Ctrl-C takes it back; who is left at the end is waited for.
#[test]
fn a_detach_waits_for_connections() {
    let body = || {
        let bed = Stage::new("leave", "read_group = \"games\"", "")?;
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

        // Whose asker is gone without a word ends by itself, whoever looks on.
        let leaving = Running::start(&mut bed.daemon.command(&["detach", "--drain"]))?;
        wait_for("the drain", SOON, || is_draining(&bed))?;
        drop(leaving);
        wait_for("its end", SOON, || looks_on(&bed).is_ok() && !is_draining(&bed))
            .with_context(|| bed.daemon.said())?;
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

/// The capability sets of all threads of a process, by their names.
fn capabilities(pid: u32) -> Result<Vec<(String, u64)>> {
    let mut sets = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        for line in status.lines().filter(|line| line.starts_with("Cap")) {
            let (name, bits) = line.split_once(":\t").context("no tab")?;
            sets.push((name.to_owned(), u64::from_str_radix(bits, 16)?));
        }
    }
    Ok(sets)
}

fn keeps_no_more_than_needed(daemon: &Daemon, bounded: bool) -> Result<()> {
    for (name, bits) in capabilities(daemon.pid()?)? {
        let wanted = match name.as_str() {
            "CapEff" | "CapPrm" => NEEDED,
            "CapBnd" if bounded => NEEDED,
            "CapBnd" => continue,
            _ => 0,
        };
        ensure!(bits == wanted, "{name} is {bits:x}, not {wanted:x}");
    }
    Ok(())
}

/// A hook that notes what it may do.
fn hook(directory: &Path) -> String {
    let noted = directory.join("hook-caps");
    format!(
        r#"rollout = {{ steps = [{{ split = "50%", for = "1s" }}], hooks = [
           {{ name = "look", on = ["before-start"], command = ["/bin/cp", "/proc/self/status", {noted:?}], retries = 0 }} ] }}"#
    )
}

fn a_hook_has_none(lab: &Lab, daemon: &Daemon) -> Result<()> {
    daemon.cli(&["rollout", "start", "web"])?;
    let noted = lab.directory.join("hook-caps");
    wait_for("the hook", SOON, || fs::read_to_string(&noted).is_ok_and(|s| s.contains("CapAmb")))
        .with_context(|| daemon.said())?;
    let status = fs::read_to_string(&noted)?;
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        let none = format!("{set}:\t0000000000000000");
        ensure!(status.contains(&none), "a hook has capabilities: {status}");
    }
    fs::remove_file(&noted)?;
    daemon.cli(&["rollout", "abort", "web"]).map(drop)
}

#[test]
fn root_keeps_what_it_needs() {
    let body = || {
        let lab = Lab::new("rights")?;
        let extra = hook(&lab.directory);
        let bed = Stage::in_lab(lab, "", &extra)?;
        keeps_no_more_than_needed(&bed.daemon, true)?;
        a_hook_has_none(&bed.lab, &bed.daemon)?;
        // All that a daemon does later: maps, links, netlink, files.
        bed.daemon.cli(&["weight", "web", "20%"])?;
        let text = config(&bed.lab, "xdp_mode = \"generic\"", &extra);
        fs::write(&bed.daemon.config, text)?;
        bed.daemon.cli(&["reload"])?;
        answers(&bed.lab, &bed.daemon)?;
        bed.end()
    };
    body().unwrap();
}

/// Directories of its user, the three capabilities, and nothing else.
#[test]
fn it_runs_without_root() {
    let body = || {
        let lab = Lab::new("noroot")?;
        let _servers: Vec<Nginx> =
            ["s1", "s2", "c1"].map(|h| Nginx::start(&lab, h)).into_iter().collect::<Result<_>>()?;
        let mut daemon = Daemon::prepare(&lab, &config(&lab, "", &hook(&lab.directory)))?;
        fs::create_dir_all(lab.bpffs())?;
        for directory in [&lab.bpffs(), &lab.directory, &lab.directory.join("textfile")] {
            chown(directory, Some(NOBODY), Some(NOBODY))?;
        }
        let user = NOBODY.to_string();
        let capabilities = "-all,+bpf,+net_admin,+perfmon";
        let launch = |lab: &Lab, daemon: &mut Daemon, capabilities: &str| {
            let arguments = [
                "--reuid",
                &user,
                "--regid",
                &user,
                "--clear-groups",
                "--inh-caps",
                capabilities,
                "--ambient-caps",
                capabilities,
                "--bounding-set",
                capabilities,
                "--",
            ];
            daemon.launch_by(lab, "setpriv", &arguments)
        };
        let comes_up = |daemon: &Daemon| {
            let is_well = || {
                daemon.status().is_ok_and(|s| {
                    s.warnings.is_empty()
                        && s.data_plane.attached.iter().all(|a| a.mode == "native")
                })
            };
            wait_for("the daemon", SOON, is_well).with_context(|| daemon.said())
        };
        // One too few is said, and nothing is made.
        launch(&lab, &mut daemon, "-all,+bpf,+net_admin")?;
        wait_for("the refusal", SOON, || daemon.said().contains("canary needs CAP_PERFMON"))
            .with_context(|| daemon.said())?;
        ensure!(fs::read_dir(lab.bpffs())?.next().is_none(), "maps without rights");
        launch(&lab, &mut daemon, capabilities)?;
        comes_up(&daemon)?;
        keeps_no_more_than_needed(&daemon, false)?;
        a_hook_has_none(&lab, &daemon)?;
        let lab = std::sync::Arc::new(lab);
        let holders = Holders::start(&lab, address(VIP_V4), 20, EVERY)?;
        // Restarted, at another size, under other weights, in another mode.
        daemon.kill();
        let text = config(&lab, "flows = 1024", &hook(&lab.directory));
        fs::write(&daemon.config, text)?;
        launch(&lab, &mut daemon, capabilities)?;
        comes_up(&daemon)?;
        daemon.cli(&["weight", "web", "100%"])?;
        answers(&lab, &daemon)?;
        let report = holders.stop()?;
        ensure!(report.cut.is_empty() && report.moved == 0, "{report:?}\n{}", daemon.said());
        daemon.cli(&["detach"])?;
        let links = lab.command("lb", "ip", &["link"])?;
        ensure!(!links.contains("xdp"), "programs are left after detach: {links}");
        Ok(())
    };
    body().unwrap();
}
