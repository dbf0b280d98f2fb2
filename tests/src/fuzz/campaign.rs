//! Many runs of one target.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Target, mutate::Mutator};
use crate::{random::Random, shrink::leave_out};

/// Bytes of an input, at most.
const LIMIT: usize = 8192;
/// Inputs that are mutated, at most: what comes later takes another's place.
const POOL: usize = 4096;
/// Tries to make a finding smaller.
const SHRINKING: usize = 20_000;

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub runs: u64,
    pub took: Duration,
    /// Inputs that showed something new, the corpus included.
    pub kept: usize,
    pub finding: Option<Finding>,
}

/// An input that must not be, and why.
#[derive(Clone, Debug)]
pub struct Finding {
    pub input: Vec<u8>,
    pub why: String,
    /// The run's number, or the file of the corpus.
    pub origin: String,
}

impl Finding {
    /// Writes the input where it will be found again: `target/fuzz/`.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&self, target: &Target) -> Result<PathBuf> {
        let directory =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/fuzz").join(target.name);
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("making {}", directory.display()))?;
        let path = directory.join(format!("{:016x}", super::mark(&self.input)));
        std::fs::write(&path, &self.input)
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(path.canonicalize().unwrap_or(path))
    }
}

impl Outcome {
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.runs as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// One run; a panic is a finding as any other.
fn run(target: &Target, input: &[u8]) -> Result<Vec<u64>, String> {
    catch_unwind(AssertUnwindSafe(|| (target.check)(input))).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", text.unwrap_or("without words")))
    })
}

/// The whole corpus, then `runs` inputs made from it, until something is found.
/// `before` sees each input before the target does.
///
/// # Errors
/// Where the corpus can't be read, or `before` fails.
pub fn campaign(
    target: &Target,
    runs: u64,
    seed: u64,
    mut before: impl FnMut(&[u8]) -> Result<()>,
) -> Result<Outcome> {
    let began = Instant::now();
    let mut seen = BTreeSet::new();
    let mut pool = Vec::new();
    let mut outcome = Outcome { runs: 0, took: Duration::ZERO, kept: 0, finding: None };
    for (path, input) in target.corpus()? {
        before(&input)?;
        match run(target, &input) {
            Ok(marks) => seen.extend(marks),
            Err(why) => {
                let origin = path.display().to_string();
                outcome.finding = Some(Finding { input, why, origin });
                outcome.took = began.elapsed();
                return Ok(outcome);
            }
        }
        pool.push(input);
    }
    let mut mutator = Mutator {
        random: Random::new(seed),
        format: target.format,
        dictionary: target.dictionary,
        limit: LIMIT,
    };
    while outcome.runs < runs && outcome.finding.is_none() {
        let input = mutator.child(&pool);
        before(&input)?;
        outcome.runs += 1;
        match run(target, &input) {
            Ok(marks) => {
                // All of them: `any` would stop at the first that is new.
                let new = marks.into_iter().filter(|&mark| seen.insert(mark)).count();
                if new > 0 && pool.len() < POOL {
                    pool.push(input);
                } else if new > 0 {
                    let place = mutator.random.place(POOL);
                    pool[place] = input;
                }
            }
            Err(_) => {
                let origin = format!("run {} with seed {seed}", outcome.runs);
                let (input, why) = smaller(target, input);
                outcome.finding = Some(Finding { input, why, origin });
            }
        }
    }
    outcome.kept = pool.len();
    outcome.took = began.elapsed();
    Ok(outcome)
}

/// What of the input the finding needs, and why that must not be.
fn smaller(target: &Target, input: Vec<u8>) -> (Vec<u8>, String) {
    let mut why = run(target, &input).err().unwrap_or_else(|| "not every time".into());
    let mut tries = 0;
    let fails = |less: &[u8]| {
        tries += 1;
        let found = tries <= SHRINKING && run(target, less).map_err(|reason| why = reason).is_err();
        Ok::<_, Infallible>(found)
    };
    let Ok(input) = leave_out(input, fails);
    (input, why)
}
