//! The first process of a virtual machine that `cargo xtask vm` boots: loads
//! the program into this kernel, says how much the verifier walked, runs the
//! tests that fit in, and powers off. Its report goes to the serial line, in
//! lines that begin with "VM "; the last one is "VM success" or says why not.
#![allow(clippy::print_stdout, reason = "the serial line is where its report goes")]

use std::{
    ffi::CString, fs, io::Write as _, os::fd::AsRawFd as _, path::Path, process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use canary::config::XdpMode;
use canary_tests::{netns::in_new_namespace, plane::Plane, shared};

/// As xtask puts them into the initramfs.
const MODULES: &str = "/modules";
const TESTS: &str = "/tests";
/// Programs of the object that are loaded; of the packet path the kernel takes
/// one, and the other has nothing to tell.
const PROGRAMS: [&str; 4] = ["canary", "canary_linear", "canary_where", "canary_clock"];
/// Rows of the packet table that stay out, and why: none has to do with the
/// kernel's version.
const LEFT_OUT: [(&str, &str); 2] = [
    ("the_largest_sizes_load_and_work", "takes a gibibyte"),
    ("splits_are_exact", "sends 100,000 packets"),
];

fn main() {
    if std::process::id() != 1 {
        println!("canary-vm-guest is the init of a virtual machine: run `cargo xtask vm`");
        std::process::exit(2);
    }
    // The last word, and the only one that xtask takes for success.
    match report() {
        Ok(()) => println!("\nVM success"),
        Err(error) => println!("\nVM failure {}", last_line(&format!("{error:#}"))),
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
    let line = fs::read_to_string("/proc/cmdline")?;
    let asked = line.split_whitespace().find_map(|word| word.strip_prefix("canary.guest="));
    match asked {
        Some("hello") => {
            println!("VM hello");
            return Ok(());
        }
        Some("panic") => return panic_kernel(),
        Some("run") => {}
        other => bail!("canary.guest={other:?} on the kernel's command line is nothing to do"),
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    println!("VM kernel {}", release.trim());
    // Debian's kernels have the JIT, but leave it to sysctl whether it is on.
    fs::write("/proc/sys/net/core/bpf_jit_enable", "1").context("switching the JIT on")?;
    load_modules()?;
    in_new_namespace(["cny-a", "cny-b"], verified)?;
    run_tests("conformance", &LEFT_OUT)?;
    run_tests("smoke", &[])
}

/// What a guest must never do, for a trial of whether that is noticed.
fn panic_kernel() -> Result<()> {
    println!("VM panics now");
    std::io::stdout().flush()?;
    fs::write("/proc/sysrq-trigger", "c").context("the kernel did not panic")
}

/// Loads the program, attaches it, and says what the verifier walked.
fn verified() -> Result<()> {
    let begun = Instant::now();
    let mut plane = match Plane::new(4096) {
        Ok(plane) => plane,
        Err(error) => {
            println!("VM refused {}", last_line(&format!("{error:#}")));
            bail!("the program does not load");
        }
    };
    println!("VM loaded {}", begun.elapsed().as_millis());
    let attached = plane.get().attach("cny-a", XdpMode::Native)?;
    ensure!(attached.native, "not native: {attached:?}");
    let mut counted = 0;
    for program in PROGRAMS {
        let info = plane.get().xdp(program).ok().and_then(|xdp| xdp.info().ok());
        let Some(info) = info else { continue };
        let count = info.verified_instruction_count().context("no count of instructions")?;
        println!("VM verified {program} {count}");
        counted += 1;
    }
    ensure!(counted >= 3, "{counted} programs are loaded");
    plane.get().detach("cny-a")?;
    Ok(())
}

/// A test program, in the words of Rust's own harness: xtask counts them.
fn run_tests(name: &str, left_out: &[(&str, &str)]) -> Result<()> {
    for (test, why) in left_out {
        println!("VM leaves out {test}: {why}");
    }
    let begun = Instant::now();
    let skip = left_out.iter().flat_map(|(test, _)| ["--skip", test]);
    let ended = Command::new(Path::new(TESTS).join(name))
        .arg("--test-threads=1")
        .args(skip)
        .env("PATH", "/bin")
        .env("RUST_BACKTRACE", "0")
        .env(shared::VARIABLE, "1")
        .status()
        .with_context(|| format!("running {name}"))?;
    ensure!(ended.success(), "{name}: {ended}");
    println!("VM tests {name} took {} s", begun.elapsed().as_secs());
    Ok(())
}

/// Of the verifier's thousands of lines the one that says what it minds: figures
/// follow it, and the kernel's error.
fn last_line(text: &str) -> &str {
    let telling = |line: &&str| {
        !line.trim().is_empty()
            && !["processed ", "verification time", "stack depth", ": "]
                .iter()
                .any(|begin| line.trim_start().starts_with(begin))
    };
    text.lines().rev().find(telling).unwrap_or(text).trim()
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

fn load_modules() -> Result<()> {
    fs::read_dir(MODULES)?.try_for_each(|entry| load_module(&entry?.path()))
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
