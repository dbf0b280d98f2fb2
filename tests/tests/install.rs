//! The Debian package under the real dpkg and the real systemd, with connections
//! that go on meanwhile.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, process::Command, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use canary::api::types::Status;
use canary_tests::lab::{
    Holders, Lab, Machine, Nginx, VIP_V4, VIP_V6, address, at, built, fetch, wait_for,
};

const UNIT: &str = "canary.service";
const FILE: &str = "/etc/canary/canary.toml";
/// Another directory for pins than usual.
const ELSEWHERE: &str = "/sys/fs/bpf/cny-elsewhere";
const SOON: Duration = Duration::from_secs(15);

/// Builds the package of a version, for the machine.
fn package(machine: &Machine, version: &str) -> Result<String> {
    let mut dist = Command::new(built("xtask")?);
    dist.args(["dist", "--version", version, "--binary"]).arg(built("canary")?);
    dist.arg("--output").arg(machine.packages());
    // It is read back at once.
    dist.env("DPKG_DEB_COMPRESSOR_TYPE", "none").env("SOURCE_DATE_EPOCH", "1700000000");
    let output = dist.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "xtask dist: {said}");
    let path = String::from_utf8(output.stdout)?;
    let name = path.trim().rsplit('/').next().context("no path")?;
    Ok(format!("/mnt/{name}"))
}

fn is_the_same_again(machine: &Machine, package_inside: &str) -> Result<()> {
    let file = machine.packages().join(package_inside.trim_start_matches("/mnt/"));
    let before = fs::read(&file)?;
    fs::remove_file(&file)?;
    package(machine, "0.1.0-1")?;
    ensure!(fs::read(&file)? == before, "two builds of one version differ");
    Ok(())
}

fn configuration(lab: &Lab, top: &str) -> String {
    let service = |name: &str, listen: &str, v6: bool| {
        let [s1, s2, c1] = ["s1", "s2", "c1"].map(|host| Lab::backend(host, v6));
        format!(
            "[service.{name}]\nlisten = {listen:?}\nstable = [{s1:?}, {s2:?}]\n\
             canary = [{c1:?}]\nweight = \"30%\"\n"
        )
    };
    let services = [service("web", VIP_V4, false), service("web6", VIP_V6, true)];
    format!("interfaces = {:?}\n{top}\n{}", lab.interfaces, services.concat())
}

fn status(machine: &Machine) -> Result<Status> {
    let output = machine.output("canary", &["status", "--json"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).with_context(|| format!("canary status: {said}"))
}

/// All interfaces have the program, and all backends are known.
fn is_well(machine: &Machine) -> Result<()> {
    wait_for("the daemon to be well", SOON, || {
        status(machine).is_ok_and(|status| {
            let attached = &status.data_plane.attached;
            status.warnings.is_empty() && attached.iter().all(|a| a.mode == "native")
        })
    })
    .with_context(|| machine.run("journalctl", &["-u", UNIT, "--no-pager"]).unwrap_or_default())
}

fn pid(machine: &Machine) -> Result<String> {
    machine.property(UNIT, "MainPID")
}

/// The program on the clients' interface.
fn program(lab: &Lab) -> Result<Option<String>> {
    let shown = lab.command("lb", "ip", &["-d", "link", "show", &Lab::interface("client")])?;
    let id = shown.split("prog/xdp id ").nth(1).and_then(|rest| rest.split(' ').next());
    Ok(id.map(str::to_owned))
}

/// What of ours differs from the system below the machine.
fn left(machine: &Machine) -> Result<Vec<String>> {
    // Character devices tell what was removed; pages that were read, `man` keeps.
    let line = "find /srv /run /sys/fs/bpf -name '*canary*' ! -type c ! -path '*/cache/man/*'";
    let found = machine.shell(line)?;
    Ok(found.lines().map(str::to_owned).collect())
}

fn installs_and_waits_for_its_file(machine: &Machine, package: &str) -> Result<()> {
    machine.run("dpkg", &["--install", package])?;
    ensure!(machine.property(UNIT, "UnitFileState")? == "enabled", "not enabled");
    ensure!(machine.property(UNIT, "ActiveState")? == "inactive", "it runs without a file");
    ensure!(machine.property(UNIT, "ConditionResult")? == "no", "no start was tried");
    // As installed, with the pages that it names.
    let verified = machine.run("systemd-analyze", &["verify", UNIT])?;
    ensure!(verified.trim().is_empty(), "systemd-analyze verify: {verified}");
    for page in ["canary", "canary-rollout-start", "canary.toml"] {
        let shown = machine.shell(&format!("man --warnings {page} 2>&1 > /dev/null"))?;
        ensure!(shown.is_empty(), "man {page}: {shown}");
    }
    let keys = machine.shell("man canary.toml | col -b")?;
    for key in ["interfaces", "half_open", "on_rollback", "histograms", "last_margin"] {
        ensure!(keys.contains(key), "canary.toml(5) has no {key}");
    }
    machine.shell("bash -n /usr/share/bash-completion/completions/canary")?;
    machine.run("getent", &["group", "canary"])?;
    let changed = machine.run("dpkg", &["--verify", "canary"])?;
    ensure!(changed.is_empty(), "files are not as packaged: {changed}");
    Ok(())
}

/// As docs/operating.md has it for who wants root, and as the unit was before
/// there was a user; but that had no `prepare`, which takes nothing then.
const BY_ROOT: &str = "[Service]\nUser=root\nExecStartPre=\n\
    ExecStartPre=+/usr/bin/canary prepare --user root --config /etc/canary/canary.toml\n\
    AmbientCapabilities=\nCapabilityBoundingSet=CAP_SETPCAP\n";
const DROP_IN: &str = "/etc/systemd/system/canary.service.d";

fn runs_as_root(machine: &Machine) -> Result<()> {
    machine.run("mkdir", &["-p", DROP_IN])?;
    machine.write(&format!("{DROP_IN}/root.conf"), BY_ROOT)?;
    machine.run("systemctl", &["daemon-reload"]).map(drop)
}

fn starts(lab: &Lab, machine: &Machine) -> Result<()> {
    machine.write(FILE, &configuration(lab, ""))?;
    runs_as_root(machine)?;
    machine.run("systemctl", &["start", UNIT])?;
    ensure!(machine.property(UNIT, "ActiveState")? == "active", "systemctl returned too early");
    is_well(machine)?;
    let line = machine.property(UNIT, "StatusText")?;
    ensure!(line.contains("web canary 30 %"), "its status: {line}");
    let socket = machine.run("stat", &["-c", "%G %a", "/run/canary/canary.sock"])?;
    ensure!(socket == "canary 660\n", "its socket: {socket}");
    ensure!(owners(machine)? == "root root root\n", "not by root: {}", owners(machine)?);
    Ok(())
}

/// Whose the pins, the state and the daemon are.
fn owners(machine: &Machine) -> Result<String> {
    let line = "echo $(find /sys/fs/bpf/canary -printf '%u\\n' | sort -u) \
         $(find /var/lib/canary -printf '%u\\n' | sort -u) \
         $(stat -c %U /proc/$(systemctl show --value -p MainPID canary))";
    machine.shell(line)
}

/// The user of its own has what the daemon needs, all of it, and no more.
fn is_nobody_else(machine: &Machine) -> Result<()> {
    ensure!(owners(machine)? == "canary canary canary\n", "{}", owners(machine)?);
    let modes = machine.shell("stat -c '%U %a' /sys/fs/bpf /sys/fs/bpf/canary /var/lib/canary")?;
    ensure!(modes == "root 1711\ncanary 700\ncanary 750\n", "{modes}");
    let socket = machine.run("stat", &["-c", "%U %G %a", "/run/canary/canary.sock"])?;
    ensure!(socket == "canary canary 660\n", "its socket: {socket}");
    let status = machine.shell(&format!("cat /proc/{}/status", pid(machine)?))?;
    let sets = status.lines().filter(|line| line.starts_with("Cap"));
    let sets: Vec<_> = sets.map(|line| line.split_whitespace().nth(1).unwrap_or("")).collect();
    // Inheritable, permitted, effective, bounding, ambient: CAP_BPF, CAP_PERFMON
    // and CAP_NET_ADMIN.
    let (none, three) = ("0000000000000000", "000000c000001000");
    ensure!(sets == [none, three, three, three, none], "{sets:?}");
    is_given_to_nobody_else(machine)
}

/// Pins that are in use, or nobody's alone, are given to nobody.
fn is_given_to_nobody_else(machine: &Machine) -> Result<()> {
    let (mistake, of_all) = ("/etc/mistake.toml", "/etc/of-all.toml");
    for (file, bpffs) in [(mistake, "/tmp/pins"), (of_all, "/sys/fs/bpf")] {
        machine.shell(&format!("(echo 'bpffs = {bpffs:?}'; cat {FILE}) > {file}"))?;
    }
    for (user, file, says) in [
        ("root", FILE, "is in use by a canary that runs"),
        ("no-such-user", FILE, "useradd -r no-such-user"),
        ("canary", mistake, "is not on a bpffs; mount one"),
        ("canary", of_all, "/sys/fs/bpf is the root of a bpffs"),
    ] {
        let arguments = ["prepare", "--user", user, "--config", file];
        let refused = machine.output("canary", &arguments)?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(!refused.status.success() && said.contains(says), "{user} {file}: {said}");
    }
    ensure!(owners(machine)? == "canary canary canary\n", "{}", owners(machine)?);
    machine.run("rm", &[mistake, of_all]).map(drop)
}

fn reloads(lab: &Lab, machine: &Machine) -> Result<()> {
    let before = pid(machine)?;
    machine.run("systemctl", &["reload", UNIT])?;
    machine.write(FILE, &configuration(lab, "no_such_key = 1"))?;
    let refused = machine.output("systemctl", &["reload", UNIT])?;
    ensure!(!refused.status.success(), "a file with a mistake was taken");
    ensure!(pid(machine)? == before, "a reload started another daemon");
    is_well(machine)
}

/// The file has a mistake: the daemon of before goes on. Then not: the next one
/// takes over, with another program.
fn upgrades(lab: &Lab, machine: &Machine, package: &str) -> Result<()> {
    let (daemon, before) = (pid(machine)?, program(lab)?);
    let said = machine.run("dpkg", &["--install", package])?;
    ensure!(said.contains("`no_such_key`") && said.contains("not"), "the upgrade said: {said}");
    ensure!(pid(machine)? == daemon, "it was restarted with a file it cannot read");
    ensure!(program(lab)? == before, "another program");
    machine.write(FILE, &configuration(lab, "signals = [\"http\"]"))?;
    // Nor with one that its user may not read; it goes on as root meanwhile.
    machine.run("chmod", &["0600", FILE])?;
    let said = machine.run("dpkg", &["--install", package])?;
    ensure!(said.contains("Permission denied") && said.contains("not"), "it said: {said}");
    ensure!(pid(machine)? == daemon, "it was restarted with a file it cannot read");
    machine.run("canary", &["weight", "web", "30%"])?;
    is_well(machine)?;
    machine.run("chmod", &["0644", FILE])?;
    machine.run("rm", &[&format!("{DROP_IN}/root.conf")])?;
    machine.run("dpkg", &["--install", package])?;
    ensure!(pid(machine)? != daemon, "the upgrade left the daemon of before");
    is_well(machine)?;
    let now = program(lab)?;
    ensure!(now.is_some() && now != before, "the same program: {now:?}");
    is_nobody_else(machine)
}

/// Root once more, and the user of its own once more, in place.
fn goes_back_and_forth(machine: &Machine) -> Result<()> {
    let restart = format!("systemctl daemon-reload && systemctl restart {UNIT}");
    runs_as_root(machine)?;
    machine.shell(&restart)?;
    is_well(machine)?;
    ensure!(owners(machine)? == "root root root\n", "{}", owners(machine)?);
    machine.run("rm", &[&format!("{DROP_IN}/root.conf")])?;
    machine.shell(&restart)?;
    is_well(machine)?;
    is_nobody_else(machine)
}

fn is_watched(machine: &Machine) -> Result<()> {
    // Thirty seconds otherwise.
    machine.write(&format!("{DROP_IN}/watchdog.conf"), "[Service]\nWatchdogSec=3s\n")?;
    machine.shell(&format!("systemctl daemon-reload && systemctl restart {UNIT}"))?;
    is_well(machine)?;
    let hung = pid(machine)?;
    machine.run("kill", &["-STOP", &hung])?;
    wait_for("the watchdog", SOON, || {
        pid(machine).is_ok_and(|now| now != hung && now != "0")
            && machine.property(UNIT, "NRestarts").is_ok_and(|times| times == "1")
    })?;
    is_well(machine)
}

/// A daemon that systemd knows nothing of has the pins: the package stays.
fn is_kept_for_another_daemon(lab: &Lab, machine: &Machine) -> Result<()> {
    machine.run("systemctl", &["stop", UNIT])?;
    let other = "/etc/other.toml";
    machine.write(other, &configuration(lab, "socket = \"/run/other.sock\""))?;
    machine.run("systemd-run", &["--unit=other", "canary", "run", "--config", other])?;
    wait_for("another daemon", SOON, || {
        machine.run("canary", &["--socket", "/run/other.sock", "status"]).is_ok()
    })?;
    let refused = machine.output("dpkg", &["--remove", "canary"])?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success() && said.contains("is in use by a canary"), "{said}");
    ensure!(program(lab)?.is_some(), "the program was taken off");
    machine.run("systemctl", &["stop", "other"])?;
    machine.run("rm", &[other]).map(drop)
}

fn is_removed(lab: &Lab, machine: &Machine, package: &str) -> Result<()> {
    let said = machine.run("dpkg", &["--remove", "canary"])?;
    ensure!(said.contains("connections through this host are cut"), "it said: {said}");
    ensure!(program(lab)?.is_none(), "the program is still on an interface");
    machine.run("test", &["!", "-e", "/sys/fs/bpf/canary"]).context("pins are left")?;
    ensure!(machine.shell("pidof canary || true")?.is_empty(), "a daemon is left");
    machine.shell(&format!("test -e {FILE} && test -d /var/lib/canary"))?;
    // It begins at once: the file is there. Its pins are elsewhere from now on.
    machine.write(FILE, &configuration(lab, &format!("bpffs = {ELSEWHERE:?}")))?;
    machine.run("dpkg", &["--install", package])?;
    is_well(machine)?;
    machine.run("test", &["-d", ELSEWHERE])?;
    let answer = at(lab, "client", || fetch(address(VIP_V4)))?;
    ensure!(format!("{answer:?}").starts_with("Answered"), "{answer:?}");
    Ok(())
}

fn is_purged(lab: &Lab, machine: &Machine) -> Result<()> {
    machine.run("dpkg", &["--purge", "canary"])?;
    ensure!(program(lab)?.is_none(), "the program is still on an interface");
    machine.run("test", &["!", "-e", ELSEWHERE]).context("pins are left")?;
    machine.run("rm", &["-r", DROP_IN])?;
    let left = left(machine)?;
    ensure!(left.is_empty(), "left after the purge: {left:?}");
    // User and group stay, by Debian's custom: files elsewhere may be theirs.
    let named = machine.shell("grep -rl canary /srv/etc || true")?;
    let is_theirs = |path: &&str| {
        let known = ["passwd", "group", "shadow", "gshadow"];
        known.iter().any(|file| path.trim_end_matches('-').ends_with(&format!("/etc/{file}")))
    };
    let others: Vec<_> = named.lines().filter(|path| !is_theirs(path)).collect();
    ensure!(others.is_empty(), "named after the purge: {others:?}");
    ensure!(!machine.output("dpkg", &["--status", "canary"])?.status.success(), "dpkg knows it");
    Ok(())
}

#[test]
fn a_package_lives_its_life() {
    let body = || -> Result<()> {
        let lab = Arc::new(Lab::new("install")?);
        let servers = ["s1", "s2", "c1"].map(|host| Nginx::start(&lab, host));
        let _servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
        let machine = Machine::boot(&lab, "lb")?;
        let [first, second] = ["0.1.0-1", "0.1.0-2"].map(|version| package(&machine, version));
        let (first, second) = (first?, second?);
        is_the_same_again(&machine, &first)?;
        installs_and_waits_for_its_file(&machine, &first)?;
        starts(&lab, &machine)?;
        let every = Duration::from_millis(50);
        let holders = [VIP_V4, VIP_V6].map(|vip| Holders::start(&lab, address(vip), 50, every));
        reloads(&lab, &machine)?;
        upgrades(&lab, &machine, &second)?;
        goes_back_and_forth(&machine)?;
        is_watched(&machine)?;
        machine.run("systemctl", &["stop", UNIT])?;
        // Nobody steers; traffic flows.
        std::thread::sleep(Duration::from_millis(500));
        machine.run("systemctl", &["start", UNIT])?;
        is_well(&machine)?;
        for holders in holders {
            let report = holders?.stop()?;
            eprintln!("{} connections, {} requests", report.connections, report.requests);
            ensure!(report.cut.is_empty() && report.moved == 0, "{report:?}");
            ensure!(report.on.len() == 3, "not on all servers: {:?}", report.on);
        }
        is_kept_for_another_daemon(&lab, &machine)?;
        is_removed(&lab, &machine, &second)?;
        is_purged(&lab, &machine)
    };
    body().unwrap();
}
