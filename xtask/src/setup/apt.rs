//! Debian's packages.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};

use crate::process::{command, output, privileged, run};

/// Installs the packages named in its arguments.
///
/// Nothing that is installed here may start: a web server or a Prometheus on
/// the developer's machine is not what was asked for. policy-rc.d is Debian's
/// way to say so, and it is only ours to write where there is none.
/// `--no-remove`: Debian's rustc-web can't be beside Debian's rustc or rustup,
/// and those are not ours to take away.
const INSTALL: &str = r#"
set -eu
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get install --yes --no-install-recommends --no-remove "$@"
# Neither at the next boot: only what was not there before.
if [ -d /run/systemd/system ]; then
    for package in "$@"; do
        case $package in
        nginx-light) systemctl disable --quiet nginx.service || true ;;
        haproxy | prometheus | prometheus-node-exporter)
            systemctl disable --quiet "$package.service" || true ;;
        esac
    done
fi
"#;

/// Fetches the lists of packages.
///
/// # Errors
/// Without root and sudo. Where only the fetching fails, the lists there are
/// may do, and apt-get's own words are on the screen.
pub(crate) fn update() -> Result<()> {
    let mut update = privileged("apt-get", "fetching Debian's lists of packages")?;
    if let Err(error) = run(update.args(["update", "-qq"])) {
        eprintln!("set-up: {error:#}; going on with the lists that are there");
    }
    Ok(())
}

/// Installs packages, without starting anything.
///
/// # Errors
/// Without root and sudo, or where apt-get fails.
pub(crate) fn install(packages: &[String]) -> Result<()> {
    let list = packages.join(" ");
    eprintln!("set-up: installing Debian packages: {list}");
    let mut shell = privileged("sh", &format!("installing the packages {list}"))?;
    run(shell.args(["-c", INSTALL, "set-up"]).args(packages)).with_context(|| {
        format!(
            "Debian packages could not be installed; by hand: apt-get update && apt-get install \
             --no-install-recommends {list}"
        )
    })
}

/// Unpacks a package below a directory, with whatever it depends on and this
/// machine has not. Nothing is installed, and root is not needed.
///
/// # Errors
/// Where apt knows no such package, or can't fetch all of it.
pub(crate) fn unpack(package: &str, directory: &Path) -> Result<()> {
    let archives = directory.join("archives");
    fs::create_dir_all(&archives)?;
    let mut plan = command("apt-get");
    plan.env("LC_ALL", "C").args(["install", "--simulate", "--no-install-recommends", package]);
    let needed = parse_new(&output(&mut plan)?);
    ensure!(!needed.is_empty(), "apt has nothing to unpack for {package}");
    // The user that apt fetches as may not write here.
    let sandbox = ["-qq", "-o", "APT::Sandbox::User=root", "download"];
    let mut download = command("apt-get");
    run(download.args(sandbox).args(needed).current_dir(&archives))?;
    for archive in fs::read_dir(&archives)? {
        run(command("dpkg").arg("-x").arg(archive?.path()).arg(directory))?;
    }
    fs::remove_dir_all(archives).context("removing what was unpacked")
}

/// `PACKAGE=VERSION` of each that a simulation would install; those that are
/// there in another version stay as they are.
fn parse_new(simulation: &str) -> Vec<String> {
    let lines = simulation.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
        let version = rest.split_whitespace().next()?;
        (!name.contains(' ')).then(|| format!("{name}={version}"))
    });
    lines.collect()
}

/// The version that would be installed, or none.
pub(crate) fn candidate(package: &str) -> Option<String> {
    // Without a language of its own, the word looked for is always there.
    let text = output(command("apt-cache").env("LC_ALL", "C").args(["policy", package])).ok()?;
    parse_candidate(&text)
}

fn parse_candidate(policy: &str) -> Option<String> {
    let line = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim();
    (line != "(none)").then(|| line.to_owned())
}

/// Whether a package is installed, whole.
pub(crate) fn is_installed(package: &str) -> bool {
    let query = ["-W", "-f", "${db:Status-Status}", package];
    output(command("dpkg-query").args(query)).is_ok_and(|status| status == "installed")
}

#[cfg(test)]
mod tests {
    use super::{parse_candidate, parse_new};

    #[test]
    fn a_candidate_is_a_version() {
        let text = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  \
                    Version table:\n     1.96.0+dfsg1-1~deb12u2 500\n";
        assert_eq!(parse_candidate(text).as_deref(), Some("1.96.0+dfsg1-1~deb12u2"));
    }

    #[test]
    fn no_candidate_is_none() {
        assert_eq!(parse_candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        // apt-cache says nothing at all of a package it never heard of.
        assert_eq!(parse_candidate(""), None);
    }
    #[test]
    fn what_is_there_is_not_unpacked() {
        let text = "Reading package lists...\nRemv qemu-utils [1:10.0]\n\
                    Inst seabios (1.16.2-1 Debian:12.15/oldstable [all])\n\
                    Inst libc6 [2.36-8] (2.36-9 Debian:12.15/oldstable [amd64])\n\
                    Inst qemu (1:7.2+b3 Debian:12.15/oldstable, Debian-Security:12 [amd64]) []\n\
                    Conf seabios (1.16.2-1 Debian:12.15/oldstable [all])\n";
        assert_eq!(parse_new(text), ["seabios=1.16.2-1", "qemu=1:7.2+b3"]);
    }
}
