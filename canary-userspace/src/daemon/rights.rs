//! Capabilities: what the daemon needs, and that it keeps no others once it is
//! up. What it runs, hooks and gates, has none at all.

use std::io;

/// Loading programs and making maps; attaching, netlink and test runs; and what
/// the verifier grants to those who may look at the kernel's memory. Numbers of
/// linux/capability.h.
const NEEDED: [(u32, &str); 3] = [(39, "CAP_BPF"), (12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON")];
/// May do what CAP_BPF and CAP_PERFMON may.
const SYS_ADMIN: u32 = 21;
const SETPCAP: u32 = 8;
/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION: u32 = 0x2008_0522;
/// `SECBIT_NOROOT`, and its lock: a program run by root gets no capabilities
/// for being run by root.
const NO_ROOT: libc::c_ulong = 0b11;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub(super) enum RightsError {
    #[error(
        "canary needs {missing}, which this process has not; run it as root, or give them to its \
         user (`AmbientCapabilities=` of its unit, or `setpriv --ambient-caps`)"
    )]
    Missing { missing: String },
    #[error("{doing}: {source}")]
    Kernel { doing: &'static str, source: io::Error },
}

/// `struct __user_cap_header_struct`; 0 is the calling thread.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`, two of them: the low halves, the high ones.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Of what is needed, what is not there.
fn missing(effective: u64) -> Vec<&'static str> {
    let has = |number: u32| effective & 1 << number != 0;
    let lacks = |number: u32| !has(number) && (number == 12 || !has(SYS_ADMIN));
    NEEDED.into_iter().filter(|(number, _)| lacks(*number)).map(|(_, name)| name).collect()
}

/// Of what there is, what is needed. CAP_SYS_ADMIN alone stands for two others.
fn kept(permitted: u64) -> u64 {
    let needed = NEEDED.into_iter().fold(0, |all, (number, _)| all | 1 << number);
    let kept = permitted & needed;
    if kept == needed { kept } else { kept | permitted & 1 << SYS_ADMIN }
}

/// Before anything is changed.
///
/// # Errors
/// Where something is missing, by name.
pub(super) fn check() -> Result<(), RightsError> {
    let [low, high] = read()?;
    let missing = missing(u64::from(high.effective) << 32 | u64::from(low.effective));
    if missing.is_empty() {
        return Ok(());
    }
    Err(RightsError::Missing { missing: missing.join(", ") })
}

/// Keeps what is needed from now on, and nothing else: of the calling thread,
/// and of those that it starts.
///
/// # Errors
/// Where the kernel refuses.
pub(super) fn give_up_others() -> Result<(), RightsError> {
    let [low, high] = read()?;
    let permitted = u64::from(high.permitted) << 32 | u64::from(low.permitted);
    let kept = kept(permitted);
    if permitted & 1 << SETPCAP != 0 {
        bound(kept)?;
        let no_root = [NO_ROOT, 0, 0, 0];
        prctl("setting the securebits", libc::PR_SET_SECUREBITS, no_root)?;
    }
    let clear = [libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0, 0, 0];
    prctl("clearing the ambient capabilities", libc::PR_CAP_AMBIENT, clear)?;
    write(kept)?;
    tracing::debug!("capabilities kept: {kept:#x}");
    Ok(())
}

/// Nothing that this process runs can have more, setuid or not.
fn bound(kept: u64) -> Result<(), RightsError> {
    for number in (0..64).filter(|number| kept & 1 << number == 0) {
        let drop = [number as libc::c_ulong, 0, 0, 0];
        match prctl("bounding the capabilities", libc::PR_CAPBSET_DROP, drop) {
            // The kernel knows no more of them.
            Err(RightsError::Kernel { source, .. })
                if source.raw_os_error() == Some(libc::EINVAL) =>
            {
                break;
            }
            done => done?,
        }
    }
    Ok(())
}

fn prctl(
    doing: &'static str,
    option: libc::c_int,
    [a, b, c, d]: [libc::c_ulong; 4],
) -> Result<(), RightsError> {
    // SAFETY: none of the options used here has a pointer.
    let failed = unsafe { libc::prctl(option, a, b, c, d) } != 0;
    if failed {
        Err(RightsError::Kernel { doing, source: io::Error::last_os_error() })
    } else {
        Ok(())
    }
}

fn read() -> Result<[Sets; 2], RightsError> {
    let mut header = Header { version: VERSION, pid: 0 };
    let mut sets = [Sets::default(); 2];
    // SAFETY: a header, and room for version 3's two records.
    let failed =
        unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) } != 0;
    let doing = "asking for the capabilities";
    if failed {
        Err(RightsError::Kernel { doing, source: io::Error::last_os_error() })
    } else {
        Ok(sets)
    }
}

fn write(kept: u64) -> Result<(), RightsError> {
    let mut header = Header { version: VERSION, pid: 0 };
    let half = |bits: u32| Sets { effective: bits, permitted: bits, inheritable: 0 };
    let sets = [half(kept as u32), half((kept >> 32) as u32)];
    // SAFETY: a header, and version 3's two records.
    let failed = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) } != 0;
    let doing = "giving up capabilities";
    if failed {
        Err(RightsError::Kernel { doing, source: io::Error::last_os_error() })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEED: u64 = 1 << 39 | 1 << 12 | 1 << 38;

    #[test]
    fn what_is_missing_is_named() {
        assert!(missing(NEED).is_empty());
        assert!(missing(u64::MAX).is_empty());
        assert_eq!(missing(0), ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]);
        assert_eq!(missing(1 << SYS_ADMIN), ["CAP_NET_ADMIN"]);
        assert_eq!(missing(1 << 12 | 1 << 39), ["CAP_PERFMON"]);
    }

    #[test]
    fn no_more_is_kept_than_needed() {
        assert_eq!(kept(u64::MAX), NEED);
        assert_eq!(kept(NEED), NEED);
        assert_eq!(kept(1 << SYS_ADMIN | 1 << 12), 1 << SYS_ADMIN | 1 << 12);
    }
}
