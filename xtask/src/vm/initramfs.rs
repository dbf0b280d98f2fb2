//! What a guest boots with: the tests, the daemon, the few programs they start,
//! the libraries of all of them, and the kernel's modules.

mod cpio;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};

use super::{directory, kernel::Kernel};
use crate::process::{cargo, command, find_program, output, run, workspace};
use cpio::Archive;

/// Test programs that run in a guest, with what is left out there, are the
/// guest's choice (`canary-vm-guest`).
const TESTS: [&str; 2] = ["conformance", "smoke"];
/// The guest's first process.
const GUEST: &str = "canary-vm-guest";
/// What tests start.
const PROGRAMS: [&str; 4] = ["ip", "ethtool", "nsenter", "sysctl"];
/// Modules of Debian's cloud kernels that the tests need. None of them needs
/// another.
const MODULES: [&str; 1] = ["veth"];
const DIRECTORIES: [&str; 10] =
    ["bin", "dev", "etc", "modules", "proc", "root", "run", "sys", "tests", "tmp"];

/// Files of every guest, by their place in it.
#[derive(Debug)]
pub(super) struct Files(BTreeMap<String, PathBuf>);

impl Files {
    /// Builds and gathers them.
    ///
    /// # Errors
    /// Where the tests do not compile or a program is missing.
    pub(super) fn build() -> Result<Self> {
        let package = ["--package", "canary-tests"];
        run(cargo().arg("build").args(package).args(["--bin", GUEST]))?;
        let debug = workspace().join("target/debug");
        let mut programs = BTreeMap::from([
            ("init".to_owned(), stripped(GUEST, &debug.join(GUEST))?),
            // Where tests look for it: above themselves.
            ("canary".to_owned(), stripped("canary", &debug.join("canary"))?),
        ]);
        for (name, built) in TESTS.iter().zip(built_tests()?) {
            programs.insert(format!("tests/{name}"), stripped(name, &built)?);
        }
        for name in PROGRAMS {
            let found = find_program(name)
                .with_context(|| format!("no program {name}: run `cargo xtask setup`"))?;
            programs.insert(format!("bin/{name}"), found);
        }
        let mut files = programs.clone();
        for program in programs.values() {
            files.extend(libraries(program)?);
        }
        Ok(Self(files))
    }

    /// Writes the initramfs for a kernel.
    ///
    /// # Errors
    /// Where the kernel lacks a module, or there is no room for the file.
    pub(super) fn initramfs(&self, kernel: &Kernel) -> Result<PathBuf> {
        let path = kernel.initramfs();
        let doing = || format!("writing {}", path.display());
        let mut archive =
            Archive::new(BufWriter::new(fs::File::create(&path).with_context(doing)?));
        for name in self.directories() {
            archive.directory(&name)?;
        }
        archive.console("dev/console")?;
        for (name, from) in &self.0 {
            let bytes = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
            archive.file(name, &bytes)?;
        }
        for name in MODULES {
            archive.file(&format!("modules/{name}.ko"), &module(kernel, name)?)?;
        }
        archive.finish().and_then(|mut file| file.flush()).with_context(doing)?;
        Ok(path)
    }

    /// Those of the files too, each after the one that it is in.
    fn directories(&self) -> Vec<String> {
        let mut all: Vec<String> = DIRECTORIES.map(str::to_owned).to_vec();
        for name in self.0.keys() {
            let parents = Path::new(name).ancestors().skip(1).filter(|dir| *dir != Path::new(""));
            all.extend(parents.map(|dir| dir.display().to_string()));
        }
        all.sort();
        all.dedup();
        all
    }
}

/// Removes what [`Files::initramfs`] wrote.
///
/// # Errors
/// Where it can't be.
pub(super) fn remove(kernels: &[Kernel]) -> Result<()> {
    for kernel in kernels {
        let path = kernel.initramfs();
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

/// The programs of [`TESTS`], in that order.
fn built_tests() -> Result<Vec<PathBuf>> {
    let mut build = cargo();
    build.args(["test", "--no-run", "--message-format=json", "--package", "canary-tests"]);
    for name in TESTS {
        build.args(["--test", name]);
    }
    // Its errors go to the screen as they come.
    let ran = build.stderr(Stdio::inherit()).output().context("running cargo")?;
    ensure!(ran.status.success(), "the tests do not compile");
    let messages = String::from_utf8_lossy(&ran.stdout);
    let built = TESTS.iter().map(|name| {
        let found = messages.lines().find_map(|line| test_program(line, name));
        found.with_context(|| format!("cargo built no test {name}"))
    });
    built.collect()
}

/// The file of cargo's message, where it is of this test.
fn test_program(message: &str, name: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let target = message.get("target")?;
    let of_kind = target.get("kind")?.as_array()?.iter().any(|kind| kind == "test");
    let executable = message.get("executable")?.as_str()?;
    (of_kind && target.get("name")? == name).then(|| executable.into())
}

/// A copy without symbols: these are nine tenths of it.
fn stripped(name: &str, from: &Path) -> Result<PathBuf> {
    let to = directory().join("files").join(name);
    fs::create_dir_all(directory().join("files"))?;
    run(command("strip").arg("-o").arg(&to).arg(from))?;
    Ok(to)
}

/// The loader and the libraries that a program wants, by their places.
fn libraries(program: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let listed = output(command("ldd").arg(program))?;
    ensure!(!listed.contains("not found"), "a library of {}: {listed}", program.display());
    Ok(parse_ldd(&listed))
}

/// Lines such as `libc.so.6 => /lib/libc.so.6 (0x7f)` and `/lib64/ld.so (0x7f)`.
fn parse_ldd(text: &str) -> BTreeMap<String, PathBuf> {
    let paths = text.lines().filter_map(|line| {
        let path = line.split_whitespace().find(|word| word.starts_with('/'))?;
        Some((path.trim_start_matches('/').to_owned(), PathBuf::from(path)))
    });
    paths.collect()
}

/// A module's bytes, unpacked.
fn module(kernel: &Kernel, name: &str) -> Result<Vec<u8>> {
    let file = format!("{name}.ko");
    let mut dirs = vec![kernel.root.join("lib/modules"), kernel.root.join("usr/lib/modules")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                dirs.push(path);
            } else if entry.file_name().to_string_lossy().starts_with(&file) {
                return unpacked(&path);
            }
        }
    }
    anyhow::bail!("{} has no module {name}", kernel.release)
}

fn unpacked(path: &Path) -> Result<Vec<u8>> {
    let unpacker = match path.extension().and_then(|kind| kind.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(path).with_context(|| format!("reading {}", path.display())),
    };
    let unpacked = command(unpacker).arg("-dc").arg(path).output();
    let unpacked = unpacked.with_context(|| format!("running {unpacker}"))?;
    ensure!(unpacked.status.success(), "{unpacker} can't unpack {}", path.display());
    Ok(unpacked.stdout)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{parse_ldd, test_program};

    #[test]
    fn libraries_keep_their_places() {
        let text = "\tlinux-vdso.so.1 (0x7ffe)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f34)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x7f35)\n";
        let found: Vec<_> = parse_ldd(text).into_keys().collect();
        assert_eq!(found, ["lib/x86_64-linux-gnu/libc.so.6", "lib64/ld-linux-x86-64.so.2"]);
        assert!(parse_ldd("\tstatically linked\n").is_empty());
    }

    #[test]
    fn a_test_is_told_from_a_library_of_its_name() {
        let message = |kind: &str, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"smoke"}},"executable":{executable}}}"#
            )
        };
        let built = message("test", r#""/t/smoke-1""#);
        assert_eq!(test_program(&built, "smoke"), Some(PathBuf::from("/t/smoke-1")));
        assert_eq!(test_program(&built, "other"), None);
        assert_eq!(test_program(&message("lib", "null"), "smoke"), None);
        assert_eq!(test_program("warning: x", "smoke"), None);
    }
}
