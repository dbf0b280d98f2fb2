//! What the service manager is told, as sd_notify(3) has it: lines in a
//! datagram to `NOTIFY_SOCKET`. Nothing where nobody listens.

use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::state::Daemon;

/// The line to the service manager.
#[derive(Debug)]
pub(super) struct Notifier {
    manager: Option<(UnixDatagram, SocketAddr)>,
    /// Between two signs of life; `None` where none are waited for.
    interval: Option<Duration>,
    last_sign: Option<Instant>,
    /// As last told.
    status: String,
}

impl Notifier {
    /// As the environment says.
    ///
    /// # Errors
    /// Where it names a socket that cannot be one.
    pub(super) fn from_environment() -> Result<Self> {
        let manager = match std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) {
            Some(path) => {
                let context = || format!("NOTIFY_SOCKET={}", path.display());
                Some(reach(&path).with_context(context)?)
            }
            None => None,
        };
        let variable = |name| std::env::var(name).ok();
        let interval = sign_every(
            variable("WATCHDOG_USEC").as_deref(),
            variable("WATCHDOG_PID").as_deref(),
            std::process::id(),
        );
        Ok(Self { manager, interval, last_sign: None, status: String::new() })
    }

    pub(super) fn ready(&self) {
        self.tell("READY=1");
    }

    pub(super) fn reloading(&self) {
        match monotonic_us() {
            // Type=notify-reload tells by it which reload this is of.
            Ok(now) => self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={now}")),
            Err(error) => tracing::warn!("reading the clock: {error}"),
        }
    }

    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Called as the event loop goes round, after it has done some work: a loop
    /// that hangs gives no sign.
    pub(super) fn goes_round(&mut self, now: Instant, status: impl FnOnce() -> String) {
        if self.manager.is_none() {
            return;
        }
        let status = status();
        if status != self.status {
            self.tell(&format!("STATUS={status}"));
            self.status = status;
        }
        let Some(interval) = self.interval else { return };
        if self.last_sign.is_none_or(|last| now.duration_since(last) >= interval) {
            self.tell("WATCHDOG=1");
            self.last_sign = Some(now);
        }
    }

    fn tell(&self, lines: &str) {
        let Some((socket, manager)) = &self.manager else { return };
        if let Err(error) = socket.send_to_addr(lines.as_bytes(), manager) {
            tracing::warn!("telling the service manager {lines:?}: {error}");
        }
    }
}

fn reach(path: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let manager = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(path)?,
        _ => return Err(io::Error::other("it is neither an absolute path nor @NAME")),
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not stop the loop.
    socket.set_nonblocking(true)?;
    Ok((socket, manager))
}

/// A third of what the watchdog waits, so that one sign may be late;
/// sd_watchdog_enabled(3) says which process is meant.
fn sign_every(usec: Option<&str>, pid: Option<&str>, me: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(me)) {
        return None;
    }
    let usec = usec?.parse().ok().filter(|usec| *usec > 0)?;
    Some(Duration::from_micros(usec) / 3)
}

/// CLOCK_MONOTONIC, microseconds.
fn monotonic_us() -> io::Result<u64> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes the structure it is given, and nothing else.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1000)
}

impl Daemon {
    /// The line under `systemctl status`.
    pub(super) fn status_line(&self) -> String {
        let shares: Vec<_> = self
            .config
            .services
            .iter()
            .map(|service| {
                let split = self.split(&service.name).fraction();
                // A split is a fraction of 2^32: four digits of a percent tell it.
                format!("{} canary {} %", service.name, (split * 1e6).round() / 1e4)
            })
            .collect();
        format!("on {}: {}", self.config.interfaces.join(", "), shares.join(", "))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn received(socket: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 512];
        let length = socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..length].to_vec()).unwrap())
    }

    #[test]
    fn the_watchdog_is_for_the_process_it_names() {
        let third = Some(Duration::from_secs(10));
        assert_eq!(sign_every(Some("30000000"), None, 7), third);
        assert_eq!(sign_every(Some("30000000"), Some("7"), 7), third);
        assert_eq!(sign_every(Some("30000000"), Some("8"), 7), None);
        for useless in [None, Some("0"), Some(""), Some("soon")] {
            assert_eq!(sign_every(useless, None, 7), None);
        }
    }

    #[test]
    fn the_manager_hears_news_once_and_signs_in_time() {
        let name = format!("canary-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        manager.set_nonblocking(true).unwrap();
        let mut notifier = Notifier {
            manager: Some(reach(OsStr::new(&format!("@{name}"))).unwrap()),
            interval: Some(Duration::from_secs(3)),
            last_sign: None,
            status: String::new(),
        };
        notifier.ready();
        assert_eq!(received(&manager).unwrap(), "READY=1");
        notifier.reloading();
        let reloading = received(&manager).unwrap();
        let usec = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(usec.parse::<u64>().unwrap() > 0);

        let start = Instant::now();
        let expected: [&[&str]; 5] =
            [&["STATUS=a", "WATCHDOG=1"], &[], &["STATUS=b"], &["WATCHDOG=1"], &[]];
        for ((second, status), expected) in
            [(0, "a"), (1, "a"), (2, "b"), (3, "b"), (5, "b")].into_iter().zip(expected)
        {
            notifier.goes_round(start + Duration::from_secs(second), || status.to_owned());
            let heard: Vec<_> = std::iter::from_fn(|| received(&manager)).collect();
            assert_eq!(heard, expected, "second {second}");
        }
        notifier.stopping();
        assert_eq!(received(&manager).unwrap(), "STOPPING=1");
    }

    #[test]
    fn a_socket_that_cannot_be_is_refused() {
        assert!(reach(OsStr::new("relative/path")).is_err());
        assert!(reach(OsStr::new(&format!("/{}", "x".repeat(200)))).is_err());
    }
}
