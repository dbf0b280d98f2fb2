//! Builds the eBPF object that the daemon carries, and the benchmark's.
//!
//! `aya-build` would do this, but it sets the compiler's flags itself, and the
//! program wants `-C target-cpu=v3` (32-bit operations and atomics, Linux 5.12).

use std::{
    env,
    error::Error,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Debian's own rustc and its sources, linked by `cargo xtask setup`.
const LINKED: &str = "canary-bpf";
/// Names another toolchain, for those who have one of their own.
const ASKED: &str = "CANARY_BPF_TOOLCHAIN";
const NOT_SET_UP: &str = "the eBPF toolchain is not set up; run `cargo xtask setup`";

/// What the object is made of, from the workspace's root. The root's own
/// Cargo.toml has the versions of the dependencies and the profile.
const INPUTS: [&str; 7] = [
    "canary-ebpf/src",
    "canary-ebpf/Cargo.toml",
    "canary-common/src",
    "canary-common/Cargo.toml",
    "canary-userspace/build.rs",
    "Cargo.toml",
    "Cargo.lock",
];

/// What is built, and the names that `include_bytes` has for it.
const OBJECTS: [(&str, &str); 2] =
    [("canary-ebpf", "canary.bpf.o"), ("canary-ebpf-bench", "bench.bpf.o")];

/// Settings of cargo that say how to reach the network and where things are
/// kept; the other `CARGO_*` are what the outer cargo says to its own build.
const KEPT: [&str; 6] =
    ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_TERM_"];

fn main() {
    if let Err(error) = build() {
        // Panics of build scripts bury their message in a backtrace.
        println!("cargo::error={error}");
        std::process::exit(1);
    }
}

fn build() -> Result<()> {
    let workspace = Path::new(&env::var("CARGO_MANIFEST_DIR")?)
        .parent()
        .ok_or("the crate is not in its workspace")?
        .to_owned();
    for input in INPUTS {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    println!("cargo::rerun-if-env-changed={ASKED}");

    let toolchain = toolchain()?;
    let linker = linker(&workspace)?;
    let target = match env::var("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    // One directory for all profiles, with a lock of its own: the cargo that
    // runs this script holds the lock of its own directory.
    let target_dir = workspace.join("target").join("bpf");
    let mut cargo = Command::new("rustup");
    cargo
        .args(["run", &toolchain, "cargo", "build", "--quiet", "--package", "canary-ebpf"])
        .args(["--bins", "--release", "-Z", "build-std=core", "--target", target])
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir(&workspace);
    for (name, _) in env::vars_os() {
        if is_outer(&name.to_string_lossy()) {
            cargo.env_remove(&name);
        }
    }
    cargo
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&linker)?)
        // Lets a stable compiler take `-Z`.
        .env("RUSTC_BOOTSTRAP", "1");
    let output = cargo.output().map_err(|error| format!("{NOT_SET_UP} (rustup: {error})"))?;
    if !output.status.success() {
        return Err(format!(
            "building the eBPF program with toolchain {toolchain} failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        )
        .replace('\n', "\ncargo::error=")
        .into());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for (object, copy) in OBJECTS {
        fs::copy(target_dir.join(target).join("release").join(object), out.join(copy))?;
    }
    Ok(())
}

/// Whether a variable is what the outer cargo, or clippy, says to its own
/// compiler, and so would mislead the one for the kernel's program.
fn is_outer(name: &str) -> bool {
    let compiler =
        ["RUSTC", "RUSTDOC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO"];
    compiler.contains(&name)
        || name.starts_with("CARGO_") && !KEPT.iter().any(|kept| name.starts_with(kept))
}

/// The one asked for, else the one that set-up linked, else a nightly.
fn toolchain() -> Result<String> {
    if let Ok(asked) = env::var(ASKED) {
        return Ok(asked);
    }
    let list = Command::new("rustup").args(["toolchain", "list"]).output();
    let list = list.map_err(|error| format!("{NOT_SET_UP} (rustup: {error})"))?;
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let names: Vec<&str> = list.lines().filter_map(|l| l.split_whitespace().next()).collect();
    if names.contains(&LINKED) {
        return Ok(LINKED.to_owned());
    }
    names
        .into_iter()
        .find(|name| name.starts_with("nightly") && has_sources(name))
        .map(str::to_owned)
        .ok_or_else(|| NOT_SET_UP.into())
}

fn has_sources(toolchain: &str) -> bool {
    let sysroot =
        Command::new("rustup").args(["run", toolchain, "rustc", "--print", "sysroot"]).output();
    sysroot.is_ok_and(|output| {
        let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        sysroot.join("lib/rustlib/src/rust/library/core").exists()
    })
}

/// The linker that set-up built, else the one on the path.
fn linker(workspace: &Path) -> Result<PathBuf> {
    let own = workspace.join(".tools").join("bin").join("bpf-linker");
    let path = env::var_os("PATH").unwrap_or_default();
    let found = std::iter::once(own)
        .chain(env::split_paths(&path).map(|dir| dir.join("bpf-linker")))
        .find(|file| file.is_file())
        .ok_or_else(|| format!("{NOT_SET_UP} (no bpf-linker)"))?;
    // Only the one taken: cargo holds a missing file for a changed one, and
    // would build the object anew every time.
    println!("cargo::rerun-if-changed={}", found.display());
    Ok(found)
}

fn flags(linker: &Path) -> Result<OsString> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let mut flags = OsString::from(format!("--cfg=bpf_target_arch=\"{arch}\""));
    for flag in ["-Cdebuginfo=2", "-Clink-arg=--btf", "-Ctarget-cpu=v3", "-Clinker="] {
        flags.push("\x1f");
        flags.push(flag);
    }
    flags.push(linker);
    Ok(flags)
}
