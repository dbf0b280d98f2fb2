//! Finds or installs what building and testing need, and says what it does.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::run::{as_root, finish, has, output, workspace};

/// Debian's rustc with its sources, and the LLVM it is built on: the only
/// stable compiler that can build `core` for BPF without a download.
const EBPF_PACKAGES: [&str; 7] = [
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "llvm-22-dev",
    "libpolly-22-dev",
    "libzstd-dev",
    "zlib1g-dev",
];
/// Where that LLVM is.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
/// The linker's version, of the same LLVM major as the compiler.
const BPF_LINKER: &str = "0.13.0";
/// The rustup name of Debian's compiler; canary-userspace/build.rs knows it.
const TOOLCHAIN: &str = "canary-bpf";

/// Programs that tests and demo use, and the Debian packages they are in.
const TOOLS: [(&str, &str); 8] = [
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("nginx", "nginx-light"),
    ("curl", "curl"),
    ("nsenter", "util-linux"),
    ("promtool", "prometheus"),
    ("prometheus-node-exporter", "prometheus-node-exporter"),
    ("cc", "gcc"),
];

/// Makes the machine ready; fast where it is.
pub(crate) fn setup() -> Result<()> {
    check_kernel()?;
    install_tools()?;
    set_up_ebpf()
}

fn check_kernel() -> Result<()> {
    if !PathBuf::from("/sys/kernel/btf/vmlinux").exists() {
        bail!("this kernel has no BTF (/sys/kernel/btf/vmlinux); canary needs Linux 5.15 with BTF");
    }
    Ok(())
}

fn is_debian() -> bool {
    fs::read_to_string("/etc/os-release").is_ok_and(|text| names_debian(&text))
}

/// Whether an os-release file is Debian's, or a descendant's.
fn names_debian(os_release: &str) -> bool {
    os_release.lines().any(|line| {
        let Some((key, value)) = line.split_once('=') else { return false };
        let mut words = value.trim_matches('"').split_whitespace();
        matches!(key, "ID" | "ID_LIKE") && words.any(|word| word == "debian")
    })
}

fn install_tools() -> Result<()> {
    let missing: Vec<_> = TOOLS.iter().filter(|(program, _)| !has(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_debian() {
        let list: Vec<_> = missing
            .iter()
            .map(|(program, package)| format!("  {program} (Debian's package {package})"))
            .collect();
        bail!("missing; install with your system's package manager:\n{}", list.join("\n"));
    }
    let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    install(&packages)
}

fn install(packages: &[&str]) -> Result<()> {
    eprintln!("installing Debian packages: {}", packages.join(" "));
    as_root("apt-get", &["update", "-qq"])?;
    let mut arguments = vec!["install", "-qq", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    as_root("apt-get", &arguments)
}

/// A linked Debian compiler, else a nightly with sources, else Debian's is
/// installed and linked.
fn set_up_ebpf() -> Result<()> {
    let list = output("rustup", &["toolchain", "list"])
        .context("canary is built with rustup's stable toolchain; see rustup.rs")?;
    let names: Vec<&str> = list.lines().filter_map(|l| l.split_whitespace().next()).collect();
    let linker = workspace().join(".tools/bin/bpf-linker");
    if names.contains(&TOOLCHAIN) && (linker.exists() || has("bpf-linker")) {
        return Ok(());
    }
    let nightly = names.iter().find(|name| name.starts_with("nightly") && has_sources(name));
    if let (Some(nightly), true) = (nightly, has("bpf-linker")) {
        eprintln!("the eBPF program is built with {nightly} and the bpf-linker on the path");
        return Ok(());
    }
    if !is_debian() {
        bail!(
            "the eBPF toolchain is missing; get it with\n  \
             rustup toolchain install nightly --component rust-src\n  \
             cargo install bpf-linker"
        );
    }
    if !PathBuf::from(LLVM_PREFIX).join("include").exists() || !has_sources_of("/usr") {
        install(&EBPF_PACKAGES)?;
    }
    eprintln!("the eBPF program is built with Debian's rustc (rustup toolchain {TOOLCHAIN})");
    finish(Command::new("rustup").args(["toolchain", "link", TOOLCHAIN, "/usr"]))?;
    if linker.exists() {
        return Ok(());
    }
    eprintln!("building bpf-linker {BPF_LINKER} into .tools (about a minute)");
    finish(
        Command::new("cargo")
            .args(["install", "bpf-linker", "--quiet", "--version", BPF_LINKER])
            .args(["--no-default-features", "--features", "llvm-22", "--root"])
            .arg(workspace().join(".tools"))
            .env("LLVM_PREFIX", LLVM_PREFIX)
            // Not into the workspace's own directory.
            .env_remove("CARGO_TARGET_DIR")
            .current_dir("/"),
    )
}

fn has_sources(toolchain: &str) -> bool {
    output("rustup", &["run", toolchain, "rustc", "--print", "sysroot"])
        .is_ok_and(|sysroot| has_sources_of(sysroot.trim()))
}

fn has_sources_of(sysroot: &str) -> bool {
    PathBuf::from(sysroot).join("lib/rustlib/src/rust/library/core").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_its_descendants() {
        assert!(names_debian("NAME=\"Debian\"\nID=debian\n"));
        assert!(names_debian("ID=ubuntu\nID_LIKE=debian\n"));
        assert!(names_debian("ID=x\nID_LIKE=\"foo debian\"\n"));
        assert!(!names_debian("ID=fedora\nNAME=debianish\n"));
    }
}
