//! Users and groups of this host by name and number (NSS), and what a process
//! was started as. All of these may wait, for a directory server for one.

use std::{
    ffi::{CStr, CString},
    fs, io,
    mem::MaybeUninit,
};

/// For strings of one entry; a group of thousands of members needs more, and
/// gets it.
const FIRST_BUFFER: usize = 1 << 10;
const LARGEST_BUFFER: usize = 1 << 20;
/// Of a command line, characters that are shown.
const SHOWN: usize = 120;

/// A user's name; `None` where there is none of this number.
#[must_use]
pub fn user_name(uid: u32) -> Option<String> {
    look_up(
        |entry, buffer, found| {
            // SAFETY: all of it is valid for the call; `found` is only read
            // while `buffer` lives.
            unsafe { libc::getpwuid_r(uid, entry, buffer.as_mut_ptr().cast(), buffer.len(), found) }
        },
        |entry: &libc::passwd| text(entry.pw_name),
    )
    .ok()
    .flatten()
}

/// A group's name; `None` where there is none of this number.
#[must_use]
pub fn group_name(gid: u32) -> Option<String> {
    look_up(
        |entry, buffer, found| {
            // SAFETY: as in `user_name`.
            unsafe { libc::getgrgid_r(gid, entry, buffer.as_mut_ptr().cast(), buffer.len(), found) }
        },
        |entry: &libc::group| text(entry.gr_name),
    )
    .ok()
    .flatten()
}

/// The numbers of a user and of its own group.
///
/// # Errors
/// Where it could not be looked up; `None` says that there is none.
pub fn user_ids(name: &str) -> io::Result<Option<(u32, u32)>> {
    let Ok(name) = CString::new(name) else { return Ok(None) };
    look_up(
        |entry, buffer, found| {
            let (text, len) = (buffer.as_mut_ptr().cast(), buffer.len());
            // SAFETY: as in `user_name`.
            unsafe { libc::getpwnam_r(name.as_ptr(), entry, text, len, found) }
        },
        |entry: &libc::passwd| Some((entry.pw_uid, entry.pw_gid)),
    )
}

/// The number of a group that is given by name, or by number.
///
/// # Errors
/// Where it could not be looked up; `None` says that there is none.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    if let Ok(gid) = name.parse() {
        return Ok(Some(gid));
    }
    let Ok(name) = CString::new(name) else { return Ok(None) };
    look_up(
        |entry, buffer, found| {
            let (text, len) = (buffer.as_mut_ptr().cast(), buffer.len());
            // SAFETY: as in `user_name`.
            unsafe { libc::getgrnam_r(name.as_ptr(), entry, text, len, found) }
        },
        |entry: &libc::group| Some(entry.gr_gid),
    )
}

/// One of the `get…_r` functions, with a buffer that is large enough.
fn look_up<E, T>(
    ask: impl Fn(*mut E, &mut [u8], *mut *mut E) -> libc::c_int,
    take: impl FnOnce(&E) -> Option<T>,
) -> io::Result<Option<T>> {
    let mut buffer = vec![0_u8; FIRST_BUFFER];
    loop {
        let mut entry = MaybeUninit::<E>::uninit();
        let mut found = std::ptr::null_mut();
        match ask(entry.as_mut_ptr(), &mut buffer, &raw mut found) {
            0 if found.is_null() => return Ok(None),
            // SAFETY: it was found, so `entry` is written, and `found` is it.
            0 => return Ok(take(unsafe { &*found })),
            libc::ERANGE if buffer.len() < LARGEST_BUFFER => buffer.resize(2 * buffer.len(), 0),
            // "The given name was not found", in other words (getgrnam(3)).
            libc::ENOENT | libc::ESRCH => return Ok(None),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn text(name: *const libc::c_char) -> Option<String> {
    if name.is_null() {
        return None;
    }
    // SAFETY: the C library ends its strings, and the buffer they are in lives.
    let name = unsafe { CStr::from_ptr(name) };
    Some(name.to_string_lossy().into_owned())
}

/// A process's command line, as far as it can be shown in one line. It is what
/// the process says of itself. `None` where it is gone, or hidden from us.
#[must_use]
pub fn command_of(pid: i32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let shown = shown(&line);
    (!shown.is_empty()).then_some(shown)
}

/// Words as in a shell, without the program's path, and nothing that moves a
/// terminal's cursor or begins a line of a log.
fn shown(line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line);
    let mut words = line.trim_end_matches('\0').split('\0');
    let program = words.next().unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or(program);
    let all = std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ");
    let mut shown: String =
        all.chars().map(|c| if c.is_control() { '?' } else { c }).take(SHOWN).collect();
    if all.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_and_nobody_is_invented() {
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert_eq!(group_name(0).as_deref(), Some("root"));
        assert_eq!(user_ids("root").ok().flatten(), Some((0, 0)));
        assert_eq!(user_ids("no-such-user-here").ok().flatten(), None);
        assert_eq!(group_id("root").ok().flatten(), Some(0));
        assert_eq!(group_id("4711").ok().flatten(), Some(4711));
        assert_eq!(group_id("no-such-group-here").ok().flatten(), None);
        assert_eq!(user_name(3_999_999_999), None);
    }

    #[test]
    fn a_command_is_one_line_without_its_path() {
        assert_eq!(shown(b"/usr/bin/canary\0weight\0web\x0010\0"), "canary weight web 10");
        assert_eq!(shown(b"sh\0-c\0a\nb\x1b[2J\0"), "sh -c a?b?[2J");
        assert_eq!(shown(b"\xff\0"), "\u{fffd}");
        assert_eq!(shown(b""), "");
        let long = shown(&[b'x'; 500]);
        assert!(long.ends_with('…') && long.chars().count() == SHOWN + 1, "{long}");
        let own = command_of(std::process::id().cast_signed());
        assert!(own.is_some_and(|line| line.starts_with("canary-")), "this test's own");
    }
}
