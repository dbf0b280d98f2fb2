//! A network namespace of one thread's own, without a name: it goes with the
//! thread.

use anyhow::{Context as _, Result, ensure};

/// Runs `body` on a new thread in a new network namespace with loopback up and
/// the named veth pair in it.
///
/// # Errors
/// Without root, or where `ip` is missing.
///
/// # Panics
/// Where `body` does.
pub fn in_new_namespace<T: Send>(
    veth: [&str; 2],
    body: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: changes this thread's namespace only.
            let failed = unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0;
            ensure!(
                !failed,
                "no network namespace ({}): the tests need root, run `sudo cargo xtask test`",
                std::io::Error::last_os_error()
            );
            ip(&["link", "set", "lo", "up"])?;
            ip(&["link", "add", veth[0], "type", "veth", "peer", "name", veth[1]])?;
            ip(&["link", "set", veth[0], "up"])?;
            ip(&["link", "set", veth[1], "up"])?;
            body()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// `ip`, in this thread's namespace.
///
/// # Errors
/// Where it is missing or fails.
pub fn ip(arguments: &[&str]) -> Result<String> {
    let output = std::process::Command::new("ip")
        .args(arguments)
        .output()
        .context("running `ip` (Debian: apt-get install iproute2)")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Number of an interface of this thread's namespace.
///
/// # Errors
/// Where there is none of that name.
pub fn ifindex(name: &str) -> Result<u32> {
    let c_name = std::ffi::CString::new(name)?;
    // SAFETY: a terminated string.
    let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
    ensure!(index != 0, "no interface {name}");
    Ok(index)
}
