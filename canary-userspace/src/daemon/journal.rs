//! Files that grow by lines: each transition of a rollout with its evidence,
//! and looks at the counters, for `canary replay`. A line of JSON each.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

/// A file that is longer is put aside, in the place of the one put aside
/// before: two of them at most, a service.
const LONGEST: u64 = 16 << 20;

/// One kind of lines of one service.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    current: PathBuf,
    former: PathBuf,
}

impl Journal {
    /// `kind` is the directory's name under `state_dir`.
    pub(super) fn of(state_dir: &Path, kind: &str, service: &str) -> Self {
        let directory = state_dir.join(kind);
        Self {
            current: directory.join(format!("{service}.jsonl")),
            former: directory.join(format!("{service}.1.jsonl")),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.current
    }

    /// Appends a line. `sync`: it is on the disk when this returns.
    ///
    /// # Errors
    /// The file system's; the line may be there in part, and readers pass over
    /// what is no whole line.
    pub(super) fn append(&self, line: &impl Serialize, sync: bool) -> io::Result<()> {
        if fs::metadata(&self.current).is_ok_and(|file| file.len() >= LONGEST) {
            self.put_aside()?;
        }
        let file = self.write([line].into_iter())?;
        if sync { file.sync_data() } else { Ok(()) }
    }

    /// Appends lines that must all be kept; they are on the disk when this
    /// returns.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub(super) fn append_all(&self, lines: impl Iterator<Item = impl Serialize>) -> io::Result<()> {
        self.write(lines)?.sync_data()
    }

    /// Puts other lines in place of all there are, whole or not at all.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn replace(&self, lines: impl Iterator<Item = impl Serialize>) -> io::Result<()> {
        let new = Self {
            current: self.current.with_extension("new"),
            former: self.former.with_extension("new"),
        };
        fs::remove_file(&new.current).ok();
        new.append_all(lines)?;
        fs::rename(&new.current, &self.current)
    }

    fn write(&self, lines: impl Iterator<Item = impl Serialize>) -> io::Result<File> {
        if let Some(directory) = self.current.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut bytes = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut bytes, &line)?;
            bytes.push(b'\n');
        }
        let mut file = File::options().create(true).append(true).open(&self.current)?;
        file.write_all(&bytes)?;
        Ok(file)
    }

    /// The next line begins a new file.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn put_aside(&self) -> io::Result<()> {
        match fs::rename(&self.current, &self.former) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed,
        }
    }

    /// The last `most` lines, oldest first, of both files.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn last<T: DeserializeOwned>(&self, most: usize) -> io::Result<Vec<T>> {
        let mut lines = std::collections::VecDeque::new();
        for path in [&self.former, &self.current] {
            let file = match File::open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for line in BufReader::new(file).split(b'\n') {
                // A crash may have left half a line.
                if let Ok(entry) = serde_json::from_slice(&line?) {
                    lines.push_back(entry);
                    if lines.len() > most {
                        lines.pop_front();
                    }
                }
            }
        }
        Ok(lines.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_in_order_and_half_ones_do_not() -> io::Result<()> {
        let directory = std::env::temp_dir().join(format!("canary-journal-{}", std::process::id()));
        let journal = Journal::of(&directory, "history", "web");
        assert!(journal.last::<u32>(10)?.is_empty());
        for line in 0..5_u32 {
            journal.append(&line, line % 2 == 0)?;
        }
        journal.put_aside()?;
        File::options().create(true).append(true).open(journal.path())?.write_all(b"\"half")?;
        journal.append(&7_u32, true)?;
        journal.append(&8_u32, true)?;
        // The half line swallowed the one after it, and no more.
        assert_eq!(journal.last::<u32>(3)?, [3, 4, 8]);
        assert_eq!(journal.last::<u32>(10)?, [0, 1, 2, 3, 4, 8]);
        fs::remove_dir_all(&directory)
    }
}
