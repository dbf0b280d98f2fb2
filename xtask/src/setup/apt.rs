//! Debian's packages.

use anyhow::{Context as _, Result};

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
    use super::parse_candidate;

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
}
