//! QEMU, for guests with other kernels.
//!
//! It is unpacked into `.tools`, not installed: Debian's package can't stand
//! beside another version's `qemu-utils`, which is not ours to take away.

use std::{
    env::join_paths,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{apt, linker::tools_dir, tools};
use crate::process::{command, find_program, output};

const PROGRAM: &str = tools::QEMU.programs[0];

/// Where it is.
pub(crate) enum Qemu {
    /// On the path, as the system has it.
    Installed(PathBuf),
    /// Below a directory, with the libraries that this machine had not.
    Unpacked(PathBuf),
}

/// The one on the path, else the one unpacked here.
pub(crate) fn find() -> Option<Qemu> {
    let installed = find_program(PROGRAM).map(Qemu::Installed);
    installed.or_else(|| Some(Qemu::Unpacked(root())).filter(Qemu::runs))
}

fn root() -> PathBuf {
    tools_dir().join("qemu")
}

/// Unpacks it.
///
/// # Errors
/// Where apt can't fetch it, or it does not run.
pub(crate) fn unpack() -> Result<()> {
    eprintln!("set-up: unpacking QEMU into .tools");
    let (root, unpacking) = (root(), root().with_extension("unpacking"));
    for left in [&root, &unpacking] {
        if left.exists() {
            fs::remove_dir_all(left).with_context(|| format!("removing {}", left.display()))?;
        }
    }
    let way_on = || format!("no QEMU for the virtual machines; {}", tools::QEMU.advice());
    apt::update()?;
    apt::unpack(tools::QEMU.package, &unpacking).with_context(way_on)?;
    // Whole or not there.
    fs::rename(&unpacking, &root)?;
    output(Qemu::Unpacked(root).command().arg("--version")).map(drop).with_context(way_on)
}

impl Qemu {
    fn runs(&self) -> bool {
        matches!(self, Self::Unpacked(root) if program_of(root).is_file())
            && output(self.command().arg("--version")).is_ok()
    }

    /// Finds its libraries, modules and firmware wherever it is.
    pub(crate) fn command(&self) -> Command {
        let root = match self {
            Self::Installed(program) => return command(program),
            Self::Unpacked(root) => root,
        };
        let mut qemu = command(program_of(root));
        let libraries = libraries(root);
        if let Ok(path) = join_paths(&libraries) {
            qemu.env("LD_LIBRARY_PATH", path);
        }
        if let Some(modules) = libraries.iter().map(|dir| dir.join("qemu")).find(|dir| dir.is_dir())
        {
            qemu.env("QEMU_MODULE_DIR", modules);
        }
        for firmware in ["usr/share/qemu", "usr/share/seabios"] {
            qemu.arg("-L").arg(root.join(firmware));
        }
        qemu
    }
}

fn program_of(root: &Path) -> PathBuf {
    root.join("usr/bin").join(PROGRAM)
}

/// Directories such as `usr/lib/x86_64-linux-gnu`.
fn libraries(root: &Path) -> Vec<PathBuf> {
    let places = ["lib", "usr/lib"].into_iter().filter_map(|dir| fs::read_dir(root.join(dir)).ok());
    let entries = places.flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.to_string_lossy().ends_with("-linux-gnu")).collect()
}
