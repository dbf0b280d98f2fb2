//! What the package installs.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{Package, control, page};
use crate::process::{command, output, run, workspace};

const DOC: &str = "usr/share/doc/canary";
const UNIT: &str = "usr/lib/systemd/system/canary.service";
/// From the workspace as they are.
const FILES: [(&str, &str); 5] = [
    ("packaging/canary.service", UNIT),
    ("packaging/canary.sysusers", "usr/lib/sysusers.d/canary.conf"),
    ("packaging/canary.tmpfiles", "usr/lib/tmpfiles.d/canary.conf"),
    ("packaging/deb/copyright", "usr/share/doc/canary/copyright"),
    ("packaging/deb/lintian-overrides", "usr/share/lintian/overrides/canary"),
];
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/canary"),
    ("zsh", "usr/share/zsh/vendor-completions/_canary"),
    ("fish", "usr/share/fish/vendor_completions.d/canary.fish"),
];
/// Pages of docs/ that are for who runs it.
const PAGES: [&str; 6] =
    ["configuration", "evidence", "hooks", "operating", "reliability", "rollouts"];
const MANUALS: &str = "usr/share/man";

/// Puts all of it below the package's root, which is made anew.
///
/// # Errors
/// Where a file cannot be read or written, or the binary does not run.
pub(super) fn fill(package: &Package) -> Result<()> {
    let root = package.root();
    if package.source.exists() {
        fs::remove_dir_all(&package.source)
            .with_context(|| format!("removing {}", package.source.display()))?;
    }
    let installed = root.join("usr/bin/canary");
    place(&package.binary, &installed, 0o755)?;
    run(command("strip").args(["--strip-all", "--remove-section=.comment"]).arg(&installed))?;
    for (from, to) in FILES {
        place(&workspace().join(from), &root.join(to), 0o644)?;
    }
    for (shell, to) in COMPLETIONS {
        let script = output(command(&package.binary).args(["completions", shell]))?;
        write(&root.join(to), script, 0o644)?;
    }
    // For the file that it does not start without.
    make_directory(&root.join("etc/canary"))?;
    documents(&root.join(DOC), package)?;
    manuals(&root.join(MANUALS), package)
}

fn documents(to: &Path, package: &Package) -> Result<()> {
    for example in listed(&workspace().join("config"))? {
        let name = example.file_name().context("an example without a name")?;
        place(&example, &to.join("examples").join(name), 0o644)?;
    }
    for name in PAGES {
        let name = format!("{name}.md");
        place(&workspace().join("docs").join(&name), &to.join(&name), 0o644)?;
    }
    let news = to.join("changelog");
    place(&workspace().join("CHANGELOG.md"), &news, 0o644)?;
    compress(&news)?;
    let news = to.join("changelog.Debian");
    write(&news, control::changelog(package)?, 0o644)?;
    compress(&news)
}

fn manuals(to: &Path, package: &Package) -> Result<()> {
    let (commands, files) = (to.join("man1"), to.join("man5"));
    make_directory(&commands)?;
    run(command(&package.binary).arg("manuals").arg(&commands))?;
    let reference = workspace().join("docs/configuration.md");
    let text = fs::read_to_string(&reference)
        .with_context(|| format!("reading {}", reference.display()))?;
    let text = page::configuration(&text, env!("CARGO_PKG_VERSION"));
    write(&files.join("canary.toml.5"), text, 0o644)?;
    for manual in listed(&commands)?.into_iter().chain(listed(&files)?) {
        fs::set_permissions(&manual, fs::Permissions::from_mode(0o644))
            .with_context(|| format!("opening {} to all", manual.display()))?;
        compress(&manual)?;
    }
    Ok(())
}

fn compress(file: &Path) -> Result<()> {
    // Without name and time, so that the same text is the same bytes.
    run(command("gzip").args(["-9n"]).arg(file))
}

/// The files of a directory, sorted.
fn listed(directory: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("listing {}", directory.display());
    let mut files = fs::read_dir(directory)
        .and_then(|entries| {
            entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()
        })
        .with_context(context)?;
    files.sort();
    Ok(files)
}

/// All regular files below, sorted.
pub(super) fn below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in listed(directory)? {
        if path.is_dir() {
            found.extend(below(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

pub(super) fn place(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    write(to, bytes, mode)
}

/// Writes a file with this mode, whatever the umask.
pub(super) fn write(path: &Path, bytes: impl AsRef<[u8]>, mode: u32) -> Result<()> {
    let context = || format!("writing {}", path.display());
    if let Some(directory) = path.parent() {
        make_directory(directory)?;
    }
    fs::write(path, bytes).with_context(context)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(context)
}

/// A directory and those above that are missing, as all may enter them.
fn make_directory(path: &Path) -> Result<()> {
    let context = || format!("making {}", path.display());
    if path.exists() {
        return Ok(());
    }
    if let Some(above) = path.parent() {
        make_directory(above)?;
    }
    fs::create_dir(path).with_context(context)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).with_context(context)
}
