//! bpf-linker, which makes one object of the program's bitcode.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::{apt, toolchain::Toolchain};
use crate::process::{cargo, find_program, output, run, workspace};

/// Of crates.io; what the versions of aya in Cargo.lock were tried with.
pub(crate) const VERSION: &str = "0.13.0";
/// The LLVMs it can be linked with.
const LLVMS: std::ops::RangeInclusive<u32> = 21..=23;

/// The one built here, else the one on the path.
pub(crate) fn find() -> Option<PathBuf> {
    let own = tools_dir().join("bin").join("bpf-linker");
    if runs(&own) { Some(own) } else { find_program("bpf-linker").filter(|file| runs(file)) }
}

/// A linker whose LLVM is gone is as good as none.
fn runs(linker: &Path) -> bool {
    linker.exists() && output(std::process::Command::new(linker).arg("--version")).is_ok()
}

pub(super) fn tools_dir() -> PathBuf {
    workspace().join(".tools")
}

/// Builds it with Debian's LLVM, of the version that the toolchain has.
///
/// # Errors
/// Where Debian has no such LLVM, or the build fails.
pub(crate) fn build(toolchain: &Toolchain) -> Result<PathBuf> {
    let llvm = toolchain.llvm()?;
    ensure!(
        LLVMS.contains(&llvm),
        "toolchain {} has LLVM {llvm}, and bpf-linker {VERSION} takes {} to {}: name another \
         toolchain in CANARY_BPF_TOOLCHAIN, or put a bpf-linker for LLVM {llvm} on the PATH",
        toolchain.name,
        LLVMS.start(),
        LLVMS.end()
    );
    let missing = missing_packages(llvm);
    if !missing.is_empty() {
        apt::install(&missing).with_context(|| {
            format!(
                "bpf-linker is built with LLVM {llvm}, that of toolchain {}; or put a bpf-linker \
                 of your own on the PATH (https://github.com/aya-rs/bpf-linker/releases)",
                toolchain.name
            )
        })?;
    }
    eprintln!("set-up: building bpf-linker {VERSION} with LLVM {llvm} into .tools");
    let mut install = cargo();
    install
        .env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"))
        .args(["install", "bpf-linker", "--locked", "--force", "--quiet", "--version", VERSION])
        .args(["--no-default-features", "--features", &format!("llvm-{llvm}"), "--root"])
        .arg(tools_dir());
    run(&mut install)?;
    find().context("bpf-linker was built, but does not run")
}

fn missing_packages(llvm: u32) -> Vec<String> {
    let mut packages = vec![format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
    packages.extend(["libzstd-dev", "zlib1g-dev"].map(str::to_owned));
    packages.retain(|package| !apt::is_installed(package));
    if find_program("c++").is_none() {
        // LLVM is C++: linking takes its standard library.
        packages.push("g++".into());
    }
    packages
}
