//! The file for node_exporter.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Puts `text` at `path`, so that a reader finds the old file or the new one
/// and never a part: written under another name in the same directory (hidden,
/// and not ending in `.prom`, so that node_exporter does not read it), fsynced,
/// renamed. Mode 0644, whatever the umask. Only one writer at a time.
///
/// # Errors
/// Of the file system, with the path in the text; the temporary file is gone.
pub fn write_textfile(path: &Path, text: &str) -> io::Result<()> {
    let temporary = temporary_name(path)?;
    let result = write_synced(&temporary, text).and_then(|()| fs::rename(&temporary, path));
    result.map_err(|error| {
        // It may not even exist; the first error is the one to report.
        _ = fs::remove_file(&temporary);
        io::Error::new(
            error.kind(),
            format!("cannot write the metrics to {}: {error}", path.display()),
        )
    })
}

fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} names no file; the textfile needs one ending in .prom", path.display()),
        ));
    };
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".tmp");
    Ok(path.with_file_name(hidden))
}

fn write_synced(temporary: &Path, text: &str) -> io::Result<()> {
    // What a crash may have left. A new file then, never one (or a symbolic
    // link) that somebody else put there.
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file: File =
        OpenOptions::new().write(true).create_new(true).mode(0o644).open(temporary)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.sync_all()
}
