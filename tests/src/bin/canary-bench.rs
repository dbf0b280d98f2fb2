//! What canary costs, and what others do. Run by `cargo xtask bench`, as root.
#![allow(clippy::print_stdout, reason = "its output is for people")]

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use canary_tests::bench::{GROUPS, Group, machine::Machine, report::Section};
use serde::Serialize;

const USAGE: &str = "\
usage: cargo xtask bench [--quick] [--only SECTION[,SECTION]...] [--json FILE]

--quick measures what CI prints, in about a minute. The machine should have
nothing else to do; which CPU packets are measured on, `taskset` decides.";

#[derive(Default)]
struct Arguments {
    quick: bool,
    only: Vec<String>,
    json: Option<PathBuf>,
}

/// All that was measured, and on what.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    quick: bool,
    machine: Machine,
    sections: Vec<Section>,
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Arguments> {
    let mut read = Arguments::default();
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().with_context(|| format!("{argument} what?\n{USAGE}"));
        match argument.as_str() {
            "--quick" => read.quick = true,
            "--only" => read.only.extend(value()?.split(',').map(str::to_owned)),
            "--json" => read.json = Some(value()?.into()),
            _ => bail!("{USAGE}\n\nsections: {}", names()),
        }
    }
    let unknown = |name: &&String| GROUPS.iter().all(|group| group.name != **name);
    if let Some(name) = read.only.iter().find(unknown) {
        bail!("there is no section {name}; there are: {}", names());
    }
    Ok(read)
}

fn names() -> String {
    GROUPS.iter().map(|group| group.name).collect::<Vec<_>>().join(", ")
}

fn run(arguments: &Arguments) -> Result<()> {
    let machine = Machine::read()?;
    println!("{machine}");
    let wanted = |group: &&Group| match arguments.only.is_empty() {
        true => group.quick || !arguments.quick,
        false => arguments.only.iter().any(|name| name == group.name),
    };
    let mut sections = Vec::new();
    for group in GROUPS.iter().filter(wanted) {
        eprintln!("bench: measuring {}", group.name);
        let measured = (group.run)(arguments.quick).with_context(|| group.name.to_owned())?;
        for section in &measured {
            println!("{section}");
        }
        sections.extend(measured);
    }
    let version = env!("CARGO_PKG_VERSION");
    let report = Report { version, quick: arguments.quick, machine, sections };
    if let Some(file) = &arguments.json {
        write(file, &serde_json::to_string_pretty(&report)?)?;
    }
    Ok(())
}

/// Writes a file, and gives it to whose directory it is in: we may be root by
/// sudo, and the next to write it may not.
fn write(file: &PathBuf, text: &str) -> Result<()> {
    let context = || format!("writing {}", file.display());
    std::fs::write(file, format!("{text}\n")).with_context(context)?;
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    let owner = std::fs::metadata(dir.unwrap_or(".".as_ref())).with_context(context)?;
    use std::os::unix::fs::{MetadataExt as _, chown};
    chown(file, Some(owner.uid()), Some(owner.gid())).with_context(context)
}
