//! The first process of a virtual machine that `cargo xtask vm` starts: loads
//! the program into this kernel, says how much the verifier walked, runs the
//! packet table, and powers off. It does not run anywhere else.
#![allow(clippy::print_stdout, reason = "the serial line is where its report goes")]

use std::{ffi::CString, fs, os::fd::AsRawFd as _, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use canary_tests::{netns::in_new_namespace, plane::Plane};

/// As `xtask` puts them into the initramfs.
const MODULES: &str = "/modules";
const CONFORMANCE: &str = "/conformance";
const PROGRAMS: [&str; 5] =
    ["canary", "canary_linear", "canary_decide", "canary_where", "canary_clock"];

fn main() {
    if std::process::id() != 1 {
        println!("canary-vm-guest is the init of a virtual machine: run `cargo xtask vm`");
        std::process::exit(2);
    }
    // The last word, and the only one that xtask takes for success.
    match report() {
        Ok(()) => println!("\nVM success"),
        Err(error) => println!("\nVM failure {error:#}"),
    }
    // SAFETY: writes caches, then ends the machine.
    unsafe { libc::sync() };
    // SAFETY: nothing is left to lose.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
}

fn report() -> Result<()> {
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("bpf", "/sys/fs/bpf"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
    ] {
        mount(kind, at)?;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    println!("VM kernel {}", release.trim());
    // Debian's kernels have the JIT, but leave it to sysctl whether it is on.
    fs::write("/proc/sys/net/core/bpf_jit_enable", "1").context("switching the JIT on")?;
    load_modules()?;
    in_new_namespace(["cny-a", "cny-b"], verified)?;
    let table = Command::new(CONFORMANCE)
        .arg("--test-threads=1")
        .env("RUST_BACKTRACE", "0")
        .status()
        .context("running the packet table")?;
    ensure!(table.success(), "the packet table: {table}");
    println!("VM conformance passed");
    Ok(())
}

/// Loads the program, attaches it, and says what the verifier walked.
fn verified() -> Result<()> {
    let mut plane = Plane::new(1024)?;
    let mut counted = 0;
    for program in PROGRAMS {
        let Ok(xdp) = plane.get().xdp(program) else { continue };
        // What this kernel was not given, as it took the twin.
        let Ok(info) = xdp.info() else { continue };
        // Linux before 5.16 does not count.
        let count = info.verified_instruction_count().unwrap_or(0);
        println!("VM verified {program} {count}");
        counted += 1;
    }
    ensure!(counted > 0, "no program is loaded");
    Ok(())
}

fn mount(kind: &str, at: &str) -> Result<()> {
    fs::create_dir_all(at).with_context(|| format!("making {at}"))?;
    let (kind, target) = (CString::new(kind)?, CString::new(at)?);
    // SAFETY: terminated strings; no data.
    let failed =
        unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) }
            != 0;
    let error = std::io::Error::last_os_error();
    // A kernel may have mounted its devices itself.
    ensure!(!failed || error.raw_os_error() == Some(libc::EBUSY), "mounting {at}: {error}");
    Ok(())
}

/// In the order of their names, which is the order of their dependencies.
fn load_modules() -> Result<()> {
    let mut files: Vec<_> =
        fs::read_dir(MODULES)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();
    files.iter().try_for_each(|file| load_module(file))
}

fn load_module(path: &Path) -> Result<()> {
    let file = fs::File::open(path)?;
    // SAFETY: an open descriptor, an empty terminated string, no flags.
    let failed =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) } != 0;
    let error = std::io::Error::last_os_error();
    ensure!(!failed || error.raw_os_error() == Some(libc::EEXIST), "{}: {error}", path.display());
    Ok(())
}
