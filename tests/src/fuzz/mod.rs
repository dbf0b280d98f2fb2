//! Fuzzing without a toolchain of its own: inputs of a committed corpus are
//! mutated by their structure and given to a target, again and again. No
//! coverage is measured; an input that makes a target show something new joins
//! those that are mutated.
//!
//! A new target is a file with a `check`, a line in [`TARGETS`], and a directory
//! of its name in `tests/corpus/`.

pub mod api;
mod bed;
pub mod campaign;
pub mod config;
pub mod mutate;
pub mod parser;
pub mod signals;

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

pub use mutate::Format;

/// Something that takes bytes from strangers.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    pub format: Format,
    /// Pieces that mean something to it.
    pub dictionary: &'static [&'static [u8]],
    pub check: Check,
}

/// What the target showed, each as a number: one that no input before gave
/// makes this one interesting. An `Err`, as a panic, is a finding.
pub type Check = fn(&[u8]) -> Result<Vec<u64>, String>;

pub const TARGETS: &[Target] = &[parser::TARGET, signals::TARGET, config::TARGET, api::TARGET];

impl Target {
    /// # Errors
    /// Where there is none of that name, with the names there are.
    pub fn find(name: &str) -> Result<&'static Self> {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        TARGETS
            .iter()
            .find(|target| target.name == name)
            .with_context(|| format!("no target `{name}`; there are: {}", names.join(", ")))
    }

    /// One run, for fuzzers to which a panic is a finding.
    ///
    /// # Panics
    /// Where something is found.
    pub fn assert(&self, input: &[u8]) {
        if let Err(why) = (self.check)(input) {
            panic!("{}: {why}", self.name);
        }
    }

    /// The committed inputs, in the order of their names.
    ///
    /// # Errors
    /// Where there are none, or one can't be read.
    pub fn corpus(&self) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name);
        let mut files = fs::read_dir(&directory)
            .and_then(|entries| {
                entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>()
            })
            .with_context(|| format!("reading {}", directory.display()))?;
        ensure!(!files.is_empty(), "{} is empty", directory.display());
        files.sort();
        let read = |path: PathBuf| {
            let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            Ok((path, bytes))
        };
        files.into_iter().map(read).collect()
    }
}

/// A number for something a target shows; the same in every run.
fn mark(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}
