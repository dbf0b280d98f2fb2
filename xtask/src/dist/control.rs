//! What dpkg is told of the package.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    Package,
    files::{below, place, write},
};
use crate::process::{command, output, workspace};

const DESCRIPTION: &str = "XDP canary traffic splitter
 Splits new connections between a stable and a canary version of a service, in
 the network driver and without a proxy, and keeps each connection where it
 began. It counts what every backend does, raises the canary's share step by
 step as the evidence allows, and takes one that fails out by itself.
 .
 It wants Linux 6.1 or later with BTF, and does nothing until there is an
 /etc/canary/canary.toml; see canary.toml(5).
";
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Writes `DEBIAN`; the files have to be there.
///
/// # Errors
/// Where dpkg-shlibdeps fails, or a file cannot be written.
pub(super) fn write_all(package: &Package) -> Result<()> {
    let root = package.root();
    let debian = root.join("DEBIAN");
    let depends = depends(package)?;
    let files = below(&root)?;
    write(&debian.join("md5sums"), sums(&root, &files)?, 0o644)?;
    let control = format!(
        "Package: canary\nVersion: {}\nArchitecture: {}\nMaintainer: {}\n\
         Installed-Size: {}\nDepends: {depends}\nSection: net\nPriority: optional\n\
         Description: {DESCRIPTION}",
        package.version,
        package.architecture,
        maintainer(),
        kibibytes(&files)?,
    );
    write(&debian.join("control"), control, 0o644)?;
    for script in SCRIPTS {
        let from = workspace().join("packaging/deb").join(script);
        place(&from, &debian.join(script), 0o755)?;
    }
    Ok(())
}

/// As Debian's own tools take it from the environment.
fn maintainer() -> String {
    let name = env::var("DEBFULLNAME").unwrap_or_else(|_| "the canary developers".into());
    let mail = env::var("DEBEMAIL").unwrap_or_else(|_| "canary@localhost".into());
    format!("{name} <{mail}>")
}

/// Libraries that the binary is linked with, as dpkg knows them, and what the
/// scripts run: systemd, or the part of it that makes users where another init
/// runs.
fn depends(package: &Package) -> Result<String> {
    let control = "Source: canary\nMaintainer: canary\n\nPackage: canary\nArchitecture: any\n";
    write(&package.source.join("debian/control"), control, 0o644)?;
    let mut look = command("dpkg-shlibdeps");
    look.current_dir(&package.source).args(["-O", "debian/canary/usr/bin/canary"]);
    let found = output(&mut look)?;
    let libraries = found.trim().strip_prefix("shlibs:Depends=").unwrap_or_default();
    ensure!(libraries.contains("libc6"), "dpkg-shlibdeps does not name libc6: {found:?}");
    Ok(format!("{libraries}, systemd | systemd-standalone-sysusers | systemd-sysusers"))
}

/// Of dpkg's own bookkeeping: who changed a file, `dpkg --verify` says.
fn sums(root: &Path, files: &[PathBuf]) -> Result<String> {
    let mut sum = command("md5sum");
    sum.current_dir(root);
    for file in files {
        sum.arg(file.strip_prefix(root).context("a file outside of the package")?);
    }
    output(&mut sum)
}

/// Policy 5.6.20 has each file rounded up, and not what the disk makes of it.
fn kibibytes(files: &[PathBuf]) -> Result<u64> {
    files.iter().try_fold(0, |sum, file| {
        let size = fs::metadata(file).with_context(|| format!("looking at {}", file.display()))?;
        Ok(sum + size.len().div_ceil(1024))
    })
}

/// Debian's changelog: what changed is in the project's own.
///
/// # Errors
/// Where `date` does not run.
pub(super) fn changelog(package: &Package) -> Result<String> {
    let when = format!("@{}", package.epoch);
    let date = output(command("date").env("LC_ALL", "C").args(["--utc", "-R", "-d", &when]))?;
    Ok(format!(
        "canary ({}) unstable; urgency=medium\n\n  * See changelog.gz.\n\n -- {}  {}\n",
        package.version,
        maintainer(),
        date.trim()
    ))
}
