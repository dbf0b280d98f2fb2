//! What canary costs, and what others do. Run by `cargo xtask bench`, as root.
#![allow(clippy::print_stdout, reason = "its output is for people")]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use canary_tests::bench::{GROUPS, Group, baseline::Baseline, machine::Machine, report::Section};
use serde::Serialize;

const USAGE: &str = "\
usage: cargo xtask bench [--quick] [--only SECTION[,SECTION]...] [--json FILE]
                         [--compare] [--write-baseline]

--quick measures what CI prints, in about a minute; with --compare its ratios
are printed beside those of docs/performance-baseline.json, which
--write-baseline writes. The machine should have nothing else to do; which CPU
packets are measured on, `taskset` decides.";
/// From the workspace's root.
const BASELINE: &str = "docs/performance-baseline.json";

#[derive(Default)]
struct Arguments {
    quick: bool,
    only: Vec<String>,
    json: Option<PathBuf>,
    compare: bool,
    write_baseline: bool,
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
            "--compare" => read.compare = true,
            "--write-baseline" => read.write_baseline = true,
            _ => bail!("{USAGE}\n\nsections: {}", names()),
        }
    }
    let unknown = |name: &&String| GROUPS.iter().all(|group| group.name != **name);
    if let Some(name) = read.only.iter().find(unknown) {
        bail!("there is no section {name}; there are: {}", names());
    }
    // A part's figures would take the others' place, and a long run's are of
    // other rounds.
    if read.write_baseline && !(read.quick && read.only.is_empty()) {
        bail!("--write-baseline is for a whole run with --quick");
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
    compare(arguments, &Baseline::of(&machine, &sections))?;
    let version = env!("CARGO_PKG_VERSION");
    let report = Report { version, quick: arguments.quick, machine, sections };
    if let Some(file) = &arguments.json {
        write(file, &serde_json::to_string_pretty(&report)?)?;
    }
    Ok(())
}

fn compare(arguments: &Arguments, run: &Baseline) -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(BASELINE);
    if arguments.compare {
        println!("ratios beside the baseline's\n{}", run.beside(&Baseline::read(&file)?));
    }
    if arguments.write_baseline {
        write(&file, &serde_json::to_string_pretty(run)?)?;
    }
    Ok(())
}

/// Writes a file, and gives it to whose directory it is in: we may be root by
/// sudo, and the next to write it may not.
fn write(file: &Path, text: &str) -> Result<()> {
    let context = || format!("writing {}", file.display());
    std::fs::write(file, format!("{text}\n")).with_context(context)?;
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    let owner = std::fs::metadata(dir.unwrap_or(".".as_ref())).with_context(context)?;
    use std::os::unix::fs::{MetadataExt as _, chown};
    chown(file, Some(owner.uid()), Some(owner.gid())).with_context(context)
}
