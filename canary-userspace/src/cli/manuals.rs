//! Manual pages, one for each command, from the definition that the command
//! line itself is parsed by.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use anyhow::Context as _;
use clap::Command;
use clap_mangen::Man;

use super::{DEFAULT_BPFFS, DEFAULT_CONFIG, DEFAULT_SOCKET, EXIT_CODES};

/// What clap knows nothing of.
const FILES: [(&str, &str); 4] = [
    (DEFAULT_CONFIG, "the configuration, canary.toml(5)"),
    (DEFAULT_SOCKET, "where the daemon listens; HTTP and JSON"),
    (DEFAULT_BPFFS, "what goes on without a daemon: program, flows, counters"),
    ("/var/lib/canary", "the state of rollouts, and their history"),
];

/// Writes `canary.1`, `canary-run.1` and so on.
pub(super) fn write(canary: Command, directory: &Path) -> anyhow::Result<()> {
    let mut pages = Vec::new();
    let mut canary = canary.disable_help_subcommand(true);
    // Names such as canary-rollout-start, and the options that all have.
    canary.build();
    collect(&canary, &mut pages);
    for command in pages {
        let path = directory.join(format!("{}.1", name(&command)));
        let mut text = Vec::new();
        page(&command, &mut text)
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn collect(command: &Command, pages: &mut Vec<Command>) {
    pages.push(command.clone());
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        collect(sub, pages);
    }
}

fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn page(command: &Command, out: &mut Vec<u8>) -> io::Result<()> {
    let whole = !name(command).contains('-');
    let man = Man::new(command.clone());
    // Not `render_title`: without a date it has the others in its place.
    let version = env!("CARGO_PKG_VERSION");
    writeln!(out, ".TH {} 1 \"\" \"canary {version}\" canary", name(command))?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    man.render_options_section(out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(out)?;
    }
    writeln!(out, ".SH \"EXIT STATUS\"")?;
    let codes = EXIT_CODES.trim_start_matches("Exit codes: ").trim_end_matches('.');
    for (code, meaning) in codes.split(", ").filter_map(|entry| entry.split_once(' ')) {
        tagged(out, code, meaning)?;
    }
    if whole {
        writeln!(out, ".SH FILES")?;
        for (path, what) in FILES {
            tagged(out, path, what)?;
        }
    }
    writeln!(out, ".SH \"SEE ALSO\"")?;
    if !whole {
        writeln!(out, ".BR canary (1),")?;
    }
    writeln!(out, ".BR canary.toml (5)")
}

fn tagged(out: &mut Vec<u8>, tag: &str, text: &str) -> io::Result<()> {
    writeln!(out, ".TP\n.B {tag}\n{text}")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_command_has_a_page() {
        let mut canary = Cli::command().disable_help_subcommand(true);
        canary.build();
        let mut pages = Vec::new();
        collect(&canary, &mut pages);
        let names: Vec<_> = pages.iter().map(name).collect();
        for wanted in ["canary", "canary-run", "canary-rollout-start", "canary-completions"] {
            assert!(names.contains(&wanted), "no {wanted} in {names:?}");
        }
        assert!(!names.iter().any(|name| name.contains("help")), "{names:?}");
        assert!(!names.contains(&"canary-manuals"), "{names:?}");
    }

    #[test]
    fn a_page_has_the_exit_codes_one_by_one() {
        let mut text = Vec::new();
        page(&Cli::command(), &mut text).expect("a page");
        let text = String::from_utf8(text).expect("text");
        assert!(text.contains(".TP\n.B 4\nno daemon answers\n"), "{text}");
        assert!(text.contains(&format!(".TP\n.B {DEFAULT_CONFIG}\n")), "{text}");
    }
}
