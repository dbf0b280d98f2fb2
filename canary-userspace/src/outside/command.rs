//! Commands, of gates and of hooks.

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd},
    process::{ExitStatus, Stdio},
    ptr,
    time::Duration,
};

use futures_util::future::join3;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, Interest, unix::AsyncFd},
    process::{Child, ChildStdin, Command},
    time::timeout,
};

use super::{Answer, Tried, words};

/// The end of an output is kept, in bytes; the rest is read and forgotten.
const TAIL: usize = 4 << 10;
/// For outputs that somebody still holds open after the command's end.
const GRACE: Duration = Duration::from_millis(200);
/// 126 and 127 are a shell's "cannot be run" and "not found", those above its
/// "ended by a signal".
const LAST_NO: i32 = 125;
/// What systemd tells the daemon is not for its children: one that used it
/// would speak in the daemon's name.
const DAEMONS_OWN: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];

#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error("its command is empty")]
    Empty,
    #[error("running {program}")]
    Spawn { program: String, source: io::Error },
    #[error("waiting for {program}")]
    Wait { program: String, source: io::Error },
}

/// How a command ended, and its last words.
#[derive(Debug)]
struct Ran {
    status: ExitStatus,
    said: String,
}

/// Exit code 0 is a yes, 1 to 125 a no, all else no answer.
pub(super) async fn ask(
    argv: &[String],
    environment: &[(&str, String)],
    json: &str,
) -> Tried<Answer> {
    match run(argv, environment, json).await {
        Ok(ran) => judge(&ran),
        Err(error) => Tried::NoAnswer(words::chain(&error)),
    }
}

fn judge(ran: &Ran) -> Tried<Answer> {
    // Its text is "exit status: 1" or "signal: 9 (SIGKILL)".
    let detail = words::with(ran.status, &ran.said);
    match ran.status.code() {
        Some(0) => Tried::Settled(Answer::Pass { detail }),
        Some(1..=LAST_NO) => Tried::Settled(Answer::Fail { detail }),
        _ => Tried::NoAnswer(detail),
    }
}

/// A command and whatever is in its process group. Dropped, all of it is killed.
struct Running {
    child: Child,
    /// The leader's, and so the group's; none once it may be somebody else's.
    pid: Option<libc::pid_t>,
}

impl Running {
    /// Kills the whole group. The leader has not been waited for yet, if only
    /// as a zombie, so that nobody else can have its number.
    fn kill(&self) {
        if let Some(pid) = self.pid {
            // SAFETY: kill(2) takes no pointers.
            unsafe { libc::kill(-pid, libc::SIGKILL) };
        }
    }

    /// Returns when the leader has ended; does not wait(2) for it.
    async fn ended(&self) -> io::Result<()> {
        let pid = self.pid.unwrap_or_default();
        // SAFETY: pidfd_open(2) takes no pointers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd =
            i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: it is open, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: an OwnedFd stays what it is for as long as it lives.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        fd.readable().await.map(|mut ready| ready.retain_ready())
    }

    /// Kills what is left and waits for the leader.
    async fn end(&mut self) -> io::Result<ExitStatus> {
        self.kill();
        self.pid = None;
        self.child.wait().await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The child itself is waited for by tokio.
        self.kill();
    }
}

async fn run(
    argv: &[String],
    environment: &[(&str, String)],
    json: &str,
) -> Result<Ran, CommandError> {
    let (program, arguments) = argv.split_first().ok_or(CommandError::Empty)?;
    let waiting = |source| CommandError::Wait { program: program.clone(), source };
    let mut child = command(program, arguments, environment)
        .spawn()
        .map_err(|source| CommandError::Spawn { program: program.clone(), source })?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let pid = child.id().and_then(|pid| libc::pid_t::try_from(pid).ok());
    let mut running = Running { child, pid };

    let (mut output, mut errors) = (Vec::new(), Vec::new());
    {
        let mut talk = std::pin::pin!(join3(
            feed(stdin, json),
            keep_tail(stdout, &mut output),
            keep_tail(stderr, &mut errors),
        ));
        let mut ended = std::pin::pin!(running.ended());
        let talked = tokio::select! {
            ended = &mut ended => { ended.map_err(waiting)?; false }
            _ = &mut talk => { ended.await.map_err(waiting)?; true }
        };
        // What it left in its group holds its outputs open.
        running.kill();
        if !talked {
            timeout(GRACE, talk).await.ok();
        }
    }
    let status = running.end().await.map_err(waiting)?;
    let said = words::last_line(&output);
    Ok(Ran { status, said: if said.is_empty() { words::last_line(&errors) } else { said } })
}

fn command(program: &str, arguments: &[String], environment: &[(&str, String)]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    for name in DAEMONS_OWN {
        command.env_remove(name);
    }
    // SAFETY: between fork and exec they only make async-signal-safe calls, and
    // allocate nothing.
    unsafe { command.pre_exec(close_on_exec) };
    // SAFETY: as above.
    unsafe { command.pre_exec(default_signals) };
    command
}

/// All we open is closed on exec(2), but what we inherited may not be, and the
/// maps are in nobody's hands but ours.
fn close_on_exec() -> io::Result<()> {
    let [first, last, flags] = [3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC];
    // SAFETY: close_range(2) takes no pointers. With this flag nothing is closed
    // before exec(2), so the standard library's own pipe goes on to work. Not by
    // the C library's function, which older ones do not have.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A script that cannot be interrupted, or gets no SIGCHLD, surprises its
/// author: nothing is blocked or ignored because the daemon does so. The
/// standard library resets SIGPIPE only.
fn default_signals() -> io::Result<()> {
    for signal in 1..=libc::SIGSYS {
        // SAFETY: the default disposition runs none of our code. It fails for
        // SIGKILL and SIGSTOP, which are never ignored.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: all zeroes is a set, if not the portable way to make an empty one.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours.
    unsafe { libc::sigemptyset(&raw mut none) };
    // SAFETY: the set is only read; a null pointer asks for no old one.
    if unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A command need not read what it is told.
async fn feed(stdin: Option<ChildStdin>, json: &str) {
    if let Some(mut stdin) = stdin {
        stdin.write_all(json.as_bytes()).await.ok();
    }
}

/// Reads to the end and keeps the last of it. An output that breaks has ended.
async fn keep_tail(output: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut output) = output else { return };
    let mut buffer = [0; TAIL];
    while let Ok(read @ 1..) = output.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read]);
        let surplus = kept.len().saturating_sub(TAIL);
        kept.drain(..surplus);
    }
}
