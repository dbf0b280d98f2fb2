//! What tests and demo must not leave behind on the machine.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result};

use crate::process::{output, privileged, workspace};

/// Namespaces, interfaces and pins of tests and demo begin with it.
const PREFIX: &str = "cny-";
const BPFFS: &str = "/sys/fs/bpf";

/// What is there of ours, each said as a person would.
///
/// # Errors
/// Where the pins can't be listed: only root sees them.
pub(crate) fn find() -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    // Without ip-netns(8) having run, there is no such directory.
    let namespaces = names(Path::new("/run/netns"));
    let interfaces = names(Path::new("/sys/class/net"));
    found.extend(ours(&namespaces, "network namespace"));
    found.extend(ours(&interfaces, "interface"));
    found.extend(ours(&pins()?, &format!("pin in {BPFFS}:")));
    found.extend(daemons());
    Ok(found)
}

/// What is there now and was not before.
pub(crate) fn left(before: &BTreeSet<String>, now: &BTreeSet<String>) -> Vec<String> {
    now.difference(before).cloned().collect()
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn pins() -> Result<Vec<String>> {
    let text = output(privileged("ls", "looking for pins")?.args(["-1", BPFFS]))
        .context("looking for what the tests left on the bpffs")?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn ours(names: &[String], kind: &str) -> Vec<String> {
    names
        .iter()
        .filter(|name| name.starts_with(PREFIX))
        .map(|name| format!("{kind} {name}"))
        .collect()
}

/// Programs of this project that still run. One that runs as root does not
/// show its file to others, so this finds fewer without root.
fn daemons() -> Vec<String> {
    let target = workspace().join("target");
    let mut found = Vec::new();
    for pid in names(Path::new("/proc")) {
        let Ok(program) = fs::read_link(Path::new("/proc").join(&pid).join("exe")) else {
            continue;
        };
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if program.starts_with(&target) && name.starts_with("canary") {
            found.push(format!("process {pid}, {name}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{left, ours};

    #[test]
    fn only_names_of_ours_count() {
        let names = ["cny-client", "lo", "eth0", "xcny-1", "cny"].map(str::to_owned);
        assert_eq!(ours(&names, "interface"), ["interface cny-client"]);
    }

    #[test]
    fn what_was_there_before_is_not_left_over() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(left(&set(&["a", "b"]), &set(&["b", "c"])), ["c"]);
        assert!(left(&set(&["a"]), &set(&[])).is_empty());
    }
}
