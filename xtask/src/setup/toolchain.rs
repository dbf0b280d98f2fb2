//! The compiler of the kernel's program: a rustc with the sources of `core`
//! and leave to use `-Z build-std`.

use std::{env, path::Path};

use anyhow::{Result, bail, ensure};

use super::apt;
use crate::process::{command, find_program, output, run};

/// The name under which Debian's own rustc is linked into rustup; the build
/// script of canary-userspace looks for it.
const LINKED: &str = "canary-bpf";
/// The oldest that compiles the crates that the program is made of.
const OLDEST: Version = Version { major: 1, minor: 90 };
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u32,
    minor: u32,
}

impl Version {
    /// The first two numbers of `1.96.0+dfsg1-1`.
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        Some(Self { major, minor })
    }
}

/// A toolchain of rustup that compiles the kernel's program.
#[derive(Debug)]
pub(crate) struct Toolchain {
    pub(crate) name: String,
}

impl Toolchain {
    /// In the order in which the build script looks: the one asked for, the
    /// linked one, a nightly with sources.
    ///
    /// # Errors
    /// Without rustup; where the one asked for has no sources.
    pub(crate) fn find() -> Result<Option<Self>> {
        ensure!(
            find_program("rustup").is_some(),
            "rustup is not installed; it holds the compilers: https://rustup.rs"
        );
        if let Ok(asked) = env::var("CANARY_BPF_TOOLCHAIN") {
            ensure!(
                has_sources(&asked),
                "CANARY_BPF_TOOLCHAIN names {asked}, which has no sources of core: run `rustup \
                 toolchain install {asked} --component rust-src`, or unset the variable"
            );
            return Ok(Some(Self { name: asked }));
        }
        let list = output(command("rustup").args(["toolchain", "list"]))?;
        let names = names(&list);
        if names.contains(&LINKED) {
            // The build script takes it before any other, so it has to be whole.
            return Ok(has_sources(LINKED).then(|| Self { name: LINKED.to_owned() }));
        }
        let nightly = names.iter().find(|name| name.starts_with("nightly") && has_sources(name));
        Ok(nightly.map(|name| Self { name: (*name).to_owned() }))
    }

    /// What is to be installed of Debian for it: none where Debian's own is
    /// missing or too old.
    pub(crate) fn debian_packages() -> Vec<String> {
        let recent = apt::candidate("rustc-web")
            .and_then(|version| Version::parse(&version))
            .is_some_and(|version| version >= OLDEST);
        if recent { DEBIAN_PACKAGES.map(str::to_owned).to_vec() } else { Vec::new() }
    }

    /// Links Debian's rustc into rustup.
    ///
    /// # Errors
    /// Where rustup refuses, or the sources are not where they should be.
    pub(crate) fn link() -> Result<Self> {
        run(command("rustup").args(["toolchain", "link", LINKED, "/usr"]))?;
        ensure!(
            has_sources(LINKED),
            "Debian's rustc in /usr has no sources of core: apt-get install --reinstall {}",
            DEBIAN_PACKAGES.join(" ")
        );
        Ok(Self { name: LINKED.to_owned() })
    }

    /// Installs a nightly.
    ///
    /// # Errors
    /// Where rustup cannot, with all the ways there are.
    pub(crate) fn install_nightly() -> Result<Self> {
        eprintln!("set-up: installing rustup's nightly toolchain with rust-src");
        let install = ["toolchain", "install", "nightly", "--profile", "minimal"];
        let mut rustup = command("rustup");
        if let Err(error) = run(rustup.args(install).args(["--component", "rust-src"])) {
            bail!(
                "no compiler for the eBPF program: Debian has no rustc-web of {}.{} or later \
                 here, and {error:#}. With a network, run `rustup toolchain install nightly \
                 --component rust-src`; or name a toolchain with rust-src in CANARY_BPF_TOOLCHAIN",
                OLDEST.major,
                OLDEST.minor
            );
        }
        match Self::find()? {
            Some(found) => Ok(found),
            None => bail!("rustup installed a nightly, but it has no rust-src"),
        }
    }

    /// The version of LLVM it emits bitcode of; bpf-linker must have the same.
    ///
    /// # Errors
    /// Where the compiler doesn't run or doesn't say.
    pub(crate) fn llvm(&self) -> Result<u32> {
        let text = output(command("rustup").args(["run", &self.name, "rustc", "-vV"]))?;
        match llvm_major(&text) {
            Some(major) => Ok(major),
            None => bail!("rustc of toolchain {} does not tell its LLVM version", self.name),
        }
    }
}

fn names(list: &str) -> Vec<&str> {
    list.lines().filter_map(|line| line.split_whitespace().next()).collect()
}

fn llvm_major(verbose: &str) -> Option<u32> {
    let version = verbose.lines().find_map(|line| line.strip_prefix("LLVM version:"))?;
    version.trim().split('.').next()?.parse().ok()
}

fn has_sources(toolchain: &str) -> bool {
    output(command("rustup").args(["run", toolchain, "rustc", "--print", "sysroot"]))
        .is_ok_and(|root| Path::new(root.trim()).join("lib/rustlib/src/rust/library/core").exists())
}

#[cfg(test)]
mod tests {
    use super::{OLDEST, Version, llvm_major, names};

    #[test]
    fn versions_compare_as_numbers() {
        let recent = |text| Version::parse(text).is_some_and(|version| version >= OLDEST);
        assert!(recent("1.96.0+dfsg1-1~deb12u2"));
        assert!(recent("1.100.0"));
        assert!(!recent("1.85.0+dfsg3-1~deb12u3"));
        assert!(!recent("1.9.0"));
        assert!(!recent("unknown"));
    }

    #[test]
    fn the_list_of_toolchains_has_marks_behind_the_names() {
        let list = "stable-x86_64-unknown-linux-gnu (active, default)\ncanary-bpf\n";
        assert_eq!(names(list), ["stable-x86_64-unknown-linux-gnu", "canary-bpf"]);
    }

    #[test]
    fn llvm_is_in_the_long_version() {
        assert_eq!(llvm_major("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0\nrelease: 1.96.0\n"), None);
    }
}
