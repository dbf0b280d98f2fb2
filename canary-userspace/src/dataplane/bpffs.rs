//! The directory where maps and links are pinned.

use std::{
    ffi::CString,
    fs::{self, File, TryLockError},
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{MetadataExt as _, PermissionsExt as _, lchown},
        },
    },
    path::{Path, PathBuf},
};

use super::error::{Context as _, DataplaneError};

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// Where a bpffs is usually mounted.
const USUAL_MOUNT: &str = "/sys/fs/bpf";

/// Makes the directory, and mounts a bpffs at the usual place if none is there.
pub(super) fn prepare(path: &Path) -> Result<(), DataplaneError> {
    let doing = || format!("making {}", path.display());
    if path.starts_with(USUAL_MOUNT) && !is_bpffs(Path::new(USUAL_MOUNT)) {
        mount().context(|| {
            format!(
                "mounting a bpffs at {USUAL_MOUNT} (have it mounted before, with \
                 `mount -t bpf bpf {USUAL_MOUNT}`)"
            )
        })?;
        tracing::info!("mounted a bpffs at {USUAL_MOUNT}");
    }
    let existing = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    if !is_bpffs(existing) {
        return Err(DataplaneError::NotBpffs { path: path.to_owned() });
    }
    fs::create_dir_all(path).context(doing)
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

fn is_bpffs(path: &Path) -> bool {
    // SAFETY: statfs is plain data; zeroes are a value of it.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    let path = c_path(path);
    // SAFETY: a terminated string, and room for the answer.
    let failed = unsafe { libc::statfs(path.as_ptr(), &raw mut stat) } != 0;
    !failed && stat.f_type as i64 == BPF_FS_MAGIC
}

fn mount() -> io::Result<()> {
    let target = c_path(Path::new(USUAL_MOUNT));
    let name = c"bpf".as_ptr();
    // SAFETY: terminated strings; no data.
    let failed = unsafe { libc::mount(name, target.as_ptr(), name, 0, std::ptr::null()) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Where a map is pinned.
pub(super) fn map_path(bpffs: &Path, name: &str) -> PathBuf {
    bpffs.join(name)
}

/// Where an interface's link is pinned; the name tells the mode too. A bpffs
/// has no dots in names.
pub(super) fn link_path(bpffs: &Path, interface: &str, native: bool) -> PathBuf {
    let mode = if native { "native" } else { "generic" };
    bpffs.join(format!("link_{mode}_{}", interface.replace('%', "%25").replace('.', "%2e")))
}

/// Where links are pinned, in the order of their names.
///
/// # Errors
/// Where the directory cannot be read.
pub(super) fn links(bpffs: &Path) -> Result<Vec<PathBuf>, DataplaneError> {
    let entries = fs::read_dir(bpffs).context(|| format!("reading {}", bpffs.display()))?;
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    let is_link =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"link_"));
    let mut links: Vec<PathBuf> = paths.filter(is_link).collect();
    links.sort();
    Ok(links)
}

/// Detaches a pinned link; it is off its interface when this returns. The pin
/// stays, and leads nowhere.
pub(super) fn detach_link(path: &Path) -> io::Result<()> {
    /// Of `enum bpf_cmd` in linux/bpf.h; the second since Linux 5.9.
    const OBJ_GET: libc::c_long = 7;
    const LINK_DETACH: libc::c_long = 34;
    /// The parts of `union bpf_attr` for these.
    #[repr(C)]
    struct Get {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = c_path(path);
    let get = Get { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: the attributes, and the terminated string they name.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, OBJ_GET, &raw const get, size_of::<Get>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor of ours, just made.
    let link = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let number = link.as_raw_fd();
    // SAFETY: the attribute is the descriptor's number.
    let done = unsafe { libc::syscall(libc::SYS_bpf, LINK_DETACH, &raw const number, 4) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The sole right to what is pinned in a directory; goes with the process.
#[derive(Debug)]
pub(super) struct PinsLock(#[expect(dead_code, reason = "held, not used")] File);

impl PinsLock {
    /// # Errors
    /// Where another process has it, or the directory cannot be opened.
    pub(super) fn take(bpffs: &Path) -> Result<Self, DataplaneError> {
        let doing = || format!("opening {}", bpffs.display());
        let directory = File::open(bpffs).context(doing)?;
        match directory.try_lock() {
            Ok(()) => Ok(Self(directory)),
            Err(TryLockError::WouldBlock) => {
                let inode = directory.metadata().context(doing)?.ino();
                let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
                let holder = holder_of(&locks, inode);
                let holder = holder.map_or(String::new(), |pid| format!(" as {pid}{}", about(pid)));
                Err(DataplaneError::InUse { path: bpffs.to_owned(), holder })
            }
            Err(TryLockError::Error(error)) => {
                Err(error).context(|| format!("locking {}", bpffs.display()))
            }
        }
    }
}

/// What is known of a process besides its number: its command line, and when
/// it began. Nothing where /proc is closed.
fn about(pid: u32) -> String {
    let directory = PathBuf::from(format!("/proc/{pid}"));
    let command = fs::read(directory.join("cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&command).replace('\0', " ");
    let began = fs::metadata(&directory).and_then(|entry| entry.modified()).ok();
    let Some(began) = began.filter(|_| !words.trim().is_empty()) else { return String::new() };
    let since = humantime::format_rfc3339_seconds(began);
    format!(" (`{}`, since {since})", words.trim())
}

/// The process with a lock on an inode, from lines of /proc/locks such as
/// `1: FLOCK  ADVISORY  WRITE 1234 00:1c:5678 0 EOF`.
fn holder_of(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let kind = fields.next()?;
        let pid = fields.nth(2)?.parse().ok()?;
        let at: u64 = fields.next()?.rsplit(':').next()?.parse().ok()?;
        (kind == "FLOCK" && at == inode).then_some(pid)
    })
}

/// Makes the directory for a daemon that runs as this user and group, and gives
/// it what is pinned there. Who is not root has to be let through the bpffs's
/// root too, which systemd keeps to root: with leave to pass, not to look.
///
/// # Errors
/// Where a daemon runs on it, it is a bpffs's root, which others use, or
/// something cannot be given.
pub fn give(bpffs: &Path, uid: u32, gid: u32) -> Result<(), DataplaneError> {
    prepare(bpffs)?;
    let _lock = PinsLock::take(bpffs)?;
    let above: Vec<&Path> = bpffs.ancestors().skip(1).take_while(|path| is_bpffs(path)).collect();
    if above.is_empty() {
        return Err(DataplaneError::IsRoot { path: bpffs.to_owned() });
    }
    let doing = || format!("giving {} to uid {uid} (only root may)", bpffs.display());
    for directory in above {
        let mode = fs::metadata(directory).context(doing)?.permissions().mode();
        let passed = fs::Permissions::from_mode(mode | 0o011);
        fs::set_permissions(directory, passed).context(doing)?;
    }
    fs::set_permissions(bpffs, fs::Permissions::from_mode(0o700)).context(doing)?;
    for entry in fs::read_dir(bpffs).context(doing)? {
        lchown(entry.context(doing)?.path(), Some(uid), Some(gid)).context(doing)?;
    }
    lchown(bpffs, Some(uid), Some(gid)).context(doing)
}

/// [`remove_pins`], unless a process uses them.
///
/// # Errors
/// Where a daemon runs on them, or a file cannot be removed.
pub fn remove_unused_pins(bpffs: &Path) -> Result<Vec<String>, DataplaneError> {
    if !bpffs.exists() {
        return Ok(Vec::new());
    }
    let _lock = PinsLock::take(bpffs)?;
    remove_pins(bpffs)
}

/// Removes everything pinned in the directory, and it: links first, so that no
/// program runs on maps that go. What was removed. The kernel frees what nobody
/// else holds.
///
/// # Errors
/// Where a file cannot be removed; those before it are gone.
pub fn remove_pins(bpffs: &Path) -> Result<Vec<String>, DataplaneError> {
    if !bpffs.exists() {
        return Ok(Vec::new());
    }
    let names = unpin(bpffs)?;
    match fs::remove_dir(bpffs) {
        // Who is not root was given the directory, and not the one it is in.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        removed => removed.context(|| format!("removing {}", bpffs.display()))?,
    }
    Ok(names)
}

/// Removes all that is pinned in the directory, but not it.
pub(super) fn unpin(bpffs: &Path) -> Result<Vec<String>, DataplaneError> {
    let doing = || format!("removing what is pinned in {}", bpffs.display());
    let mut names: Vec<_> = fs::read_dir(bpffs)
        .context(doing)?
        .filter_map(Result::ok)
        .map(|entry| entry.file_name())
        .collect();
    names.sort_by_key(|name| !name.as_bytes().starts_with(b"link_"));
    for name in &names {
        fs::remove_file(bpffs.join(name)).context(doing)?;
    }
    Ok(names.iter().map(|name| name.to_string_lossy().into_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any directory has a lock, not only those of a bpffs.
    #[test]
    fn pins_have_one_user() -> Result<(), DataplaneError> {
        let name = format!("canary-pins-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).context(|| "making it")?;
        let first = PinsLock::take(&directory)?;
        let refused = remove_unused_pins(&directory).map_err(|error| error.to_string());
        let expected = format!(
            "{} is in use by a canary that runs as {} (`",
            directory.display(),
            std::process::id()
        );
        assert!(refused.as_ref().is_err_and(|text| text.starts_with(&expected)), "{refused:?}");
        drop(first);
        assert!(remove_unused_pins(&directory)?.is_empty());
        assert!(!directory.exists());
        Ok(())
    }

    #[test]
    fn a_lock_is_found_by_kind_and_inode() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 00:1c:5678 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 12 00:1c:567 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 13 00:1c:5678 0 EOF\n";
        assert_eq!(holder_of(locks, 5678), Some(13));
        assert_eq!(holder_of(locks, 56), None);
    }
}
