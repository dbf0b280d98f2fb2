//! What must survive the daemon: what operators said, and the counters of
//! cells that were folded. Written whole, synced, renamed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, TryLockError},
    io::{ErrorKind, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use canary_common::{Histogram, Latencies};
use serde::{Deserialize, Serialize};

use super::{health::SavedHealth, ledger::SavedLedger, promotion::Promoted, state::Runtime};
use crate::rollout;

/// The file's content.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) services: BTreeMap<String, SavedService>,
    #[serde(default)]
    pub(super) health: SavedHealth,
    /// What is forgotten since an earlier file was lost, until a reload.
    #[serde(default)]
    pub(super) lost: Option<String>,
    pub(super) books: Vec<SavedBook>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedService {
    /// In parts of 2^32.
    pub(super) split: u64,
    /// The maps have 0 meanwhile, as all of the canary are unwell.
    #[serde(default)]
    pub(super) withheld: bool,
    pub(super) drained: BTreeSet<SocketAddr>,
    /// The configuration's weight when it was last read.
    pub(super) file_weight: f64,
    /// Why the canary was taken out, if it was.
    pub(super) rolled_back: Option<String>,
    pub(super) rollbacks: u64,
    #[serde(default)]
    pub(super) promoted: Option<Promoted>,
    #[serde(default)]
    pub(super) ledger: SavedLedger,
    #[serde(default)]
    pub(super) trial: SavedTrial,
}

/// A rollout, and what the data plane was told for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct SavedTrial {
    rollout: rollout::State,
    retiring: BTreeSet<SocketAddr>,
    salt: u32,
    asked_salt: Option<String>,
    generation: u8,
    epoch: u64,
    diverted: u64,
    began: f64,
}

impl Default for SavedTrial {
    fn default() -> Self {
        Self::of(&Runtime::default())
    }
}

impl SavedTrial {
    pub(super) fn of(runtime: &Runtime) -> Self {
        Self {
            rollout: runtime.rollout.clone(),
            retiring: runtime.retiring.clone(),
            salt: runtime.salt,
            asked_salt: runtime.asked_salt.clone(),
            generation: runtime.generation,
            epoch: runtime.epoch,
            diverted: runtime.diverted,
            began: runtime.began,
        }
    }

    /// The inverse; the rest is as it is at first.
    pub(super) fn runtime(&self) -> Runtime {
        let Self { rollout, retiring, salt, asked_salt, generation, epoch, diverted, began } =
            self.clone();
        Runtime {
            rollout,
            retiring,
            salt,
            asked_salt,
            generation,
            epoch,
            diverted,
            began,
            ..Runtime::default()
        }
    }
}

/// A backend's counters up to its living cells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedBook {
    pub(super) service: String,
    pub(super) backend: String,
    pub(super) cells: BTreeSet<u16>,
    /// Counters that are not 0, by the names of the cell's fields.
    pub(super) base: BTreeMap<String, u64>,
    /// Of handshakes and of first bytes.
    pub(super) times: [SavedTimes; 2],
}

/// A histogram: its sum, and the buckets that are not 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedTimes {
    sum: u64,
    counts: BTreeMap<usize, u64>,
}

impl SavedTimes {
    /// Of handshakes and of first bytes.
    pub(super) fn both(times: &Latencies) -> [Self; 2] {
        [&times.handshake, &times.first_byte].map(Self::of)
    }

    /// The inverse.
    pub(super) fn latencies([handshake, first_byte]: &[Self; 2]) -> Latencies {
        Latencies { handshake: handshake.histogram(), first_byte: first_byte.histogram() }
    }

    fn of(histogram: &Histogram) -> Self {
        let counts = histogram.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0);
        Self { sum: histogram.sum, counts: counts.collect() }
    }

    fn histogram(&self) -> Histogram {
        let mut histogram = Histogram { sum: self.sum, ..Histogram::default() };
        for (bucket, count) in &self.counts {
            if let Some(place) = histogram.counts.get_mut(*bucket) {
                *place = *count;
            }
        }
        histogram
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("{what} {path}: {source}")]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error(
        "another canary daemon{holder} works on {path}; stop it first, or give this one another `state_dir`"
    )]
    Locked { path: PathBuf, holder: String },
}

/// The state directory, held by this daemon alone.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    /// Its lock goes with the process.
    _lock: File,
}

/// What was found.
#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    Saved(Saved),
    /// Unreadable, and why.
    Damaged(String),
}

impl Store {
    /// Takes the directory.
    pub(super) fn open(directory: &Path) -> Result<Self, StoreError> {
        let io = |what, path: &Path, source| StoreError::Io { what, path: path.to_owned(), source };
        fs::create_dir_all(directory).map_err(|e| io("making", directory, e))?;
        let path = directory.join("lock");
        let options = File::options().create(true).truncate(false).read(true).write(true).clone();
        let (mut lock, writable) = match options.open(&path) {
            Ok(lock) => (lock, true),
            // One that cannot write anything down is better than none: it says
            // so, and a lock takes no writing.
            Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => {
                let lock = File::open(&path).or_else(|_| File::open(directory));
                (lock.map_err(|_| io("opening", &path, error))?, false)
            }
            Err(error) => return Err(io("opening", &path, error)),
        };
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                let holder = fs::read_to_string(&path).unwrap_or_default();
                let holder = match holder.trim() {
                    // The disk was full, or is read-only.
                    "" => String::new(),
                    pid => format!(" (pid {pid})"),
                };
                StoreError::Locked { path: directory.to_owned(), holder }
            }
            TryLockError::Error(error) => io("locking", &path, error),
        })?;
        let pid = std::process::id().to_string();
        // For people; on a full disk they do without.
        if writable
            && let Err(error) = lock.set_len(0).and_then(|()| lock.write_all(pid.as_bytes()))
        {
            tracing::warn!("{}", io("writing", &path, error));
        }
        Ok(Self { directory: directory.to_owned(), _lock: lock })
    }

    pub(super) fn load(&self) -> Found {
        match fs::read(self.file()) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(saved) => Found::Saved(saved),
                Err(error) => Found::Damaged(self.keep_damaged(&error)),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => Found::Nothing,
            Err(error) => Found::Damaged(format!("{}: {error}", self.file().display())),
        }
    }

    /// Of a file that should be there.
    pub(super) fn nothing_there(&self) -> String {
        format!("{} is not there, but maps of an earlier daemon are", self.file().display())
    }

    /// A copy for people, as the next save takes its place. Until then it stays:
    /// one that dies before is followed by one that finds the same.
    fn keep_damaged(&self, why: &serde_json::Error) -> String {
        let (file, copy) = (self.file(), self.directory.join("state.json.damaged"));
        match fs::copy(&file, &copy) {
            Ok(_) => format!("{}, kept as {}: {why}", file.display(), copy.display()),
            Err(_) => format!("{}: {why}", file.display()),
        }
    }

    pub(super) fn save(&self, saved: &Saved) -> Result<(), StoreError> {
        let temporary = self.directory.join("state.json.new");
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(saved)?)?;
            file.sync_all()?;
            fs::rename(&temporary, self.file())?;
            File::open(&self.directory)?.sync_all()
        };
        write().map_err(|source: std::io::Error| StoreError::Io {
            what: "writing",
            path: self.file(),
            source,
        })
    }

    /// A sign of life; no more than a file's time.
    pub(super) fn breathe(&self) {
        let path = self.alive();
        let file = File::options().create(true).truncate(false).write(true).open(path);
        // A full disk says so when the state is written.
        file.and_then(|file| file.set_modified(SystemTime::now())).ok();
    }

    /// How long nobody gave one; very long where nobody ever did.
    pub(super) fn away(&self) -> Duration {
        let last = fs::metadata(self.alive()).and_then(|file| file.modified());
        last.map_or(Duration::MAX, |last| last.elapsed().unwrap_or_default())
    }

    fn alive(&self) -> PathBuf {
        self.directory.join("alive")
    }

    fn file(&self) -> PathBuf {
        self.directory.join("state.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_kept() -> Result<(), Box<dyn std::error::Error>> {
        let directory = std::env::temp_dir().join(format!("canary-torn-{}", std::process::id()));
        let store = Store::open(&directory)?;
        fs::write(store.file(), "{\"services\": {")?;
        for _ in 0..2 {
            let Found::Damaged(why) = store.load() else { return Err("it is read".into()) };
            assert!(why.contains("state.json.damaged"), "{why}");
        }
        store.save(&Saved::default())?;
        assert!(matches!(store.load(), Found::Saved(_)));
        assert_eq!(fs::read(directory.join("state.json.damaged"))?, b"{\"services\": {");
        fs::remove_dir_all(&directory)?;
        Ok(())
    }

    /// Whatever the wall clock has done meanwhile.
    #[test]
    fn time_away_is_never_negative() -> Result<(), Box<dyn std::error::Error>> {
        let directory = std::env::temp_dir().join(format!("canary-away-{}", std::process::id()));
        let store = Store::open(&directory)?;
        assert_eq!(store.away(), Duration::MAX);
        store.breathe();
        assert!(store.away() < Duration::from_secs(60));
        let hour = Duration::from_secs(3600);
        let alive = || File::options().write(true).open(store.alive());
        // The clock went back an hour: who was away cannot be told, and holds
        // nothing up.
        alive()?.set_modified(SystemTime::now() + hour)?;
        assert_eq!(store.away(), Duration::ZERO);
        // It went on by an hour: as if nobody had been here, which is safe.
        alive()?.set_modified(SystemTime::now() - hour)?;
        assert!(store.away() >= hour);
        fs::remove_dir_all(&directory)?;
        Ok(())
    }

    #[test]
    fn a_directory_has_one_daemon() -> Result<(), StoreError> {
        let directory = std::env::temp_dir().join(format!("canary-store-{}", std::process::id()));
        let first = Store::open(&directory)?;
        let refused = Store::open(&directory).map(drop).map_err(|error| error.to_string());
        let expected = format!(
            "another canary daemon (pid {}) works on {}; stop it first, or give this one another `state_dir`",
            std::process::id(),
            directory.display()
        );
        assert_eq!(refused, Err(expected));
        drop(first);
        let again = Store::open(&directory).map(drop);
        let _ = fs::remove_dir_all(&directory);
        again
    }
}
