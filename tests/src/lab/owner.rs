//! Whose a lab is, and what becomes of it when its owner is interrupted.

use std::{
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    sync::{
        Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::Site;

/// How long to wait for the owner of a lab of the same name: longer than the
/// longest test.
const PATIENCE: Duration = Duration::from_secs(300);

/// The right to a lab's names. It is an abstract socket, so it leaves no file
/// and goes with the process, however that ends.
#[derive(Debug)]
pub(super) struct Claim(#[expect(dead_code, reason = "held, not used")] UnixListener);

impl Claim {
    /// At once, or not at all.
    fn try_take(prefix: &str) -> Option<Self> {
        let name = SocketAddr::from_abstract_name(format!("{prefix}-lab")).ok()?;
        UnixListener::bind_addr(&name).ok().map(Self)
    }

    /// Waits while another process has it: two of them would take each other's
    /// namespaces away.
    ///
    /// # Errors
    /// Where it is never given up.
    pub(super) fn take(prefix: &str) -> Result<Self> {
        let begun = Instant::now();
        loop {
            if let Some(claim) = Self::try_take(prefix) {
                return Ok(claim);
            }
            if begun.elapsed() > PATIENCE {
                bail!("another process has the lab {prefix}; end it first");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Whether a process has it.
    pub(super) fn is_taken(prefix: &str) -> bool {
        Self::try_take(prefix).is_none()
    }
}

/// Labs of this process that go with it.
static SITES: Mutex<Vec<Site>> = Mutex::new(Vec::new());
/// The signal that came.
static RAISED: AtomicI32 = AtomicI32::new(0);

fn sites() -> MutexGuard<'static, Vec<Site>> {
    SITES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on Ctrl-C, `kill` and a closed terminal clear this lab away before
/// they end the process.
pub(super) fn register(site: &Site) {
    static WATCHING: Once = Once::new();
    sites().push(site.clone());
    WATCHING.call_once(watch);
}

/// The opposite of [`register`].
pub(super) fn forget(site: &Site) {
    sites().retain(|registered| registered != site);
}

fn watch() {
    extern "C" fn raise(signal: libc::c_int) {
        RAISED.store(signal, Ordering::SeqCst);
    }
    let handler = raise as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { libc::signal(signal, handler) };
    }
    std::thread::spawn(|| {
        while RAISED.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
        let signal = RAISED.load(Ordering::SeqCst);
        eprintln!("\ninterrupted: clearing the lab away");
        // Other threads may be in the middle of building it.
        for _ in 0..20 {
            let sites = sites().clone();
            sites.iter().for_each(Site::clear);
            std::thread::sleep(Duration::from_millis(50));
            if sites.iter().all(|site| site.residue().is_empty()) {
                break;
            }
        }
        // As the shell shows a process ended by a signal.
        std::process::exit(128 + signal);
    });
}
