//! The file and the facts about this host: all that is not pure.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;
use toml::{Spanned, de::DeTable};

use super::{
    Config, Mistakes, draft,
    mistakes::Problems,
    read::{Draft, read_interfaces},
    suggest::{closest, or_list},
};
use crate::names;

/// Why no configuration could be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot list this host's interfaces from {INTERFACES}: {0}")]
    Interfaces(io::Error),
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
}

/// Interfaces that a message names at most; a host of containers has hundreds.
const LISTED: usize = 10;

/// The calling thread's network namespace, whichever one /sys was mounted in.
const INTERFACES: &str = "/proc/thread-self/net/dev";

/// Reads a file and checks everything, this host's interfaces included.
pub fn load(path: &Path) -> Result<Config, LoadError> {
    let (text, present) = read(path)?;
    Ok(parse_on_host(&text, &path.to_string_lossy(), &present)?)
}

/// [`load`] for a daemon that starts or reloads: interfaces may come later, as
/// they do while a host boots, as long as one of them is there, or maps of an
/// earlier daemon are. Otherwise it is more likely a mistake.
///
/// # Errors
/// As [`load`].
pub fn load_to_run(path: &Path) -> Result<Config, LoadError> {
    let (text, present) = read(path)?;
    let path = path.to_string_lossy();
    if let Ok(config) = super::parse(&text, &path)
        && (config.interfaces.iter().any(|name| present.contains(name))
            || config.bpffs.join("SETTINGS").exists())
    {
        return Ok(config);
    }
    // With the mistakes of both kinds.
    Ok(parse_on_host(&text, &path, &present)?)
}

/// A file's text, and this host's interfaces.
fn read(path: &Path) -> Result<(String, Vec<String>), LoadError> {
    let bytes =
        fs::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    let listing = fs::read_to_string(INTERFACES).map_err(LoadError::Interfaces)?;
    Ok((text(bytes, &path.to_string_lossy())?, interface_names(&listing)))
}

/// TOML is UTF-8; the first byte that is not is a mistake with a place.
fn text(bytes: Vec<u8>, path: &str) -> Result<String, Mistakes> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        // The replacement character begins where the bad byte stood.
        let text = String::from_utf8_lossy(error.as_bytes());
        let mut problems = Problems::new(&text);
        let end = valid + char::REPLACEMENT_CHARACTER.len_utf8();
        problems.add(valid..end, "a byte that is not UTF-8", "save the file as UTF-8");
        problems.into_mistakes(path)
    })
}

/// [`super::parse`] and [`check_host`] in one, so that the mistakes of both
/// come together.
fn parse_on_host(text: &str, path: &str, present: &[String]) -> Result<Config, Mistakes> {
    let mut problems = Problems::new(text);
    let Draft { config, interfaces, groups, .. } = draft(text, &mut problems);
    check_interfaces(&interfaces, present, &mut problems);
    check_groups(&groups, &mut problems);
    problems.finish(path)?;
    Ok(config)
}

/// The names in the kernel's list: two lines of headings, then `name: numbers`.
fn interface_names(listing: &str) -> Vec<String> {
    listing
        .lines()
        .skip(2)
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect()
}

/// Whether this host has what a configuration names. `text` is what `config`
/// was made from, for the places; `interfaces_present` are the host's.
pub fn check_host(
    config: &Config,
    text: &str,
    path: &str,
    interfaces_present: &[String],
) -> Result<(), Mistakes> {
    // Only for the places: what is wrong with the text itself is not asked.
    let tree = DeTable::parse_recoverable(text).0;
    let written = read_interfaces(tree.get_ref(), &mut Problems::new(text));
    let interfaces: Vec<Spanned<String>> = config
        .interfaces
        .iter()
        .map(|name| {
            let place = written.iter().find(|written| written.get_ref() == name);
            Spanned::new(place.map_or(0..0, Spanned::span), name.clone())
        })
        .collect();
    let mut problems = Problems::new(text);
    check_interfaces(&interfaces, interfaces_present, &mut problems);
    problems.finish(path)
}

fn check_interfaces(names: &[Spanned<String>], present: &[String], problems: &mut Problems<'_>) {
    for name in names {
        if present.contains(name.get_ref()) {
            continue;
        }
        let message = format!("this host has no interface \"{}\"", name.get_ref());
        let meant = closest(name.get_ref(), present.iter().map(String::as_str))
            .map_or_else(String::new, |meant| format!("did you mean \"{meant}\"? "));
        let help = match present {
            [] => "it has none at all: run this in the right network namespace".to_owned(),
            _ => format!("{meant}write {}", some_of(present)),
        };
        problems.add(name.span(), message, help);
    }
}

fn check_groups(groups: &[Spanned<String>], problems: &mut Problems<'_>) {
    for name in groups {
        let said = match names::group_id(name.get_ref()) {
            Ok(Some(_)) => continue,
            Ok(None) => format!("this host has no group \"{}\"", name.get_ref()),
            Err(error) => format!("looking up group \"{}\": {error}", name.get_ref()),
        };
        let help = "make it with groupadd, or write another, as `getent group` shows them";
        problems.add(name.span(), said, help);
    }
}

/// The host's interfaces, as many as one can read.
fn some_of(present: &[String]) -> String {
    match present.get(..LISTED) {
        Some(first) if present.len() > LISTED => {
            format!(
                "one of the {} that `ip link` shows, as {}",
                present.len(),
                or_list(first, "\"")
            )
        }
        _ => or_list(present, "\""),
    }
}
