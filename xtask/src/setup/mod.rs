//! Finds what building and testing take, and installs what is missing.

mod apt;
mod distro;
mod kernel;
mod linker;
pub(crate) mod qemu;
mod toolchain;
mod tools;

use anyhow::{Result, bail, ensure};

use distro::Distro;
use toolchain::Toolchain;
use tools::Tool;

use crate::process::{find_program, is_root};

/// Installs what is missing, and says what; does nothing where all is there.
///
/// # Errors
/// Where something can't be installed; on other systems than Debian and its
/// descendants, where something is missing, with the way to each.
pub(crate) fn run() -> Result<()> {
    let tools = tools::missing();
    let toolchain = Toolchain::find()?;
    let linker = linker::find();
    if let (true, Some(toolchain), Some(linker)) = (tools.is_empty(), &toolchain, &linker) {
        eprintln!("set-up: toolchain {}, {}; nothing to do", toolchain.name, linker.display());
        return Ok(());
    }
    let distro = Distro::read();
    if !distro.is_debian() {
        bail!(advice(&distro, &tools, toolchain.is_none(), linker.is_none()));
    }
    eprintln!("set-up: this is {}", distro.name);
    apt::update()?;
    let toolchain = install(&tools, toolchain)?;
    let linker = match linker {
        Some(found) => found,
        None => linker::build(&toolchain)?,
    };
    eprintln!("set-up: done; toolchain {}, {}", toolchain.name, linker.display());
    Ok(())
}

/// The same, and what only the benchmark runs.
///
/// # Errors
/// As [`run`].
pub(crate) fn for_bench() -> Result<()> {
    run()?;
    with(&tools::BENCH)
}

/// What the virtual machines take besides [`run`].
///
/// # Errors
/// As [`run`].
pub(crate) fn for_vm() -> Result<()> {
    with(&tools::VM)?;
    if qemu::find().is_some() {
        return Ok(());
    }
    let distro = Distro::read();
    if !distro.is_debian() {
        bail!(advice(&distro, &[&tools::QEMU], false, false));
    }
    qemu::unpack()
}

fn with(tools: &'static [Tool]) -> Result<()> {
    let missing = tools::missing_of(tools);
    if missing.is_empty() {
        return Ok(());
    }
    let distro = Distro::read();
    if !distro.is_debian() {
        bail!(advice(&distro, &missing, false, false));
    }
    apt::update()?;
    let packages: Vec<String> = missing.iter().map(|tool| tool.package.to_owned()).collect();
    apt::install(&packages)?;
    let left: Vec<String> = tools::missing_of(tools).iter().map(|tool| tool.advice()).collect();
    ensure!(left.is_empty(), "installed, but still not to be found: {}", left.join("; "));
    Ok(())
}

/// `cargo xtask setup`: [`run`], what the virtual machines take, and a word on
/// the kernel and on root.
///
/// # Errors
/// As [`run`]. A kernel that can't run canary can still build it.
pub(crate) fn run_and_judge() -> Result<()> {
    run()?;
    for_vm()?;
    for problem in kernel::problems() {
        eprintln!("set-up: building works, running will not: {problem}");
    }
    if !is_root()? && find_program("sudo").is_none() {
        eprintln!("set-up: tests and demo need root, and sudo is not installed: run them as root");
    }
    Ok(())
}

/// Before something runs on this kernel.
///
/// # Errors
/// Where the kernel lacks something, with all of it and what to do.
pub(crate) fn require_kernel(what: &str) -> Result<()> {
    let problems = kernel::problems();
    ensure!(problems.is_empty(), "{what} can't run here: {}", problems.join("; "));
    Ok(())
}

/// Tools and toolchain in one go of apt-get.
fn install(tools: &[&Tool], toolchain: Option<Toolchain>) -> Result<Toolchain> {
    let mut packages: Vec<String> = tools.iter().map(|tool| tool.package.to_owned()).collect();
    // Of two tools from one package, which stand side by side.
    packages.dedup();
    let compiler = if toolchain.is_none() { Toolchain::debian_packages() } else { Vec::new() };
    packages.extend(compiler.iter().cloned());
    if packages.contains(&"gcc".to_owned()) {
        packages.push("libc6-dev".into());
    }
    if !packages.is_empty() {
        apt::install(&packages)?;
    }
    let left: Vec<String> = tools::missing().iter().map(|tool| tool.advice()).collect();
    ensure!(left.is_empty(), "installed, but still not to be found: {}", left.join("; "));
    match toolchain {
        Some(found) => Ok(found),
        None if compiler.is_empty() => Toolchain::install_nightly(),
        None => Toolchain::link(),
    }
}

/// What to do by hand on a system whose packages we don't know.
fn advice(distro: &Distro, tools: &[&Tool], toolchain: bool, linker: bool) -> String {
    let mut lines = vec![format!(
        "this is {}; set-up installs things on Debian and its descendants only. Missing here:",
        distro.name
    )];
    lines.extend(tools.iter().map(|tool| tool.advice()));
    if toolchain {
        lines.push(
            "the eBPF program's compiler: `rustup toolchain install nightly --component rust-src`"
                .into(),
        );
    }
    if linker {
        lines.push(format!(
            "bpf-linker (of that compiler's LLVM): `cargo install bpf-linker --version {}` with \
             LLVM's development package, or a release from \
             https://github.com/aya-rs/bpf-linker/releases on the PATH",
            linker::VERSION
        ));
    }
    lines.push("then run this again".into());
    lines.join("\n  ")
}

#[cfg(test)]
mod tests {
    use super::{Distro, advice, tools::Tool};

    #[test]
    fn advice_names_what_is_missing_and_only_that() {
        let fedora = Distro { name: "Fedora Linux 42".into(), ..Distro::default() };
        let wrk = Tool::new(&["wrk"], "wrk", "package wrk", "load");
        let text = advice(&fedora, &[&wrk], true, false);
        assert!(text.starts_with("this is Fedora Linux 42;"), "{text}");
        assert!(text.contains("\n  wrk (load): package wrk\n"), "{text}");
        assert!(text.contains("nightly --component rust-src"), "{text}");
        assert!(!text.contains("bpf-linker"), "{text}");
    }
}
