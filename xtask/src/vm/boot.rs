//! Booting a kernel in QEMU, and listening to its serial line.

use std::{
    fs,
    io::Read as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{initramfs::Files, judge::End, kernel::Kernel};
use crate::setup::qemu;

/// Mebibytes: the flow table of the packet table's largest case is one of them.
const MEMORY: &str = "2048";

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    Kvm,
    /// QEMU itself (TCG), some ten times slower.
    Emulated,
}

impl Accelerator {
    const fn argument(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Emulated => "tcg",
        }
    }
}

/// How to boot.
pub(super) struct Machine<'a> {
    pub(super) accelerator: Accelerator,
    pub(super) files: &'a Files,
    pub(super) patience: Duration,
}

impl Machine<'_> {
    /// KVM where a guest really comes up with it. A /dev/kvm says little: in
    /// some clouds it is there, and the guest stands still.
    pub(super) fn accelerator(&self, kernel: &Kernel) -> Result<Accelerator> {
        /// What it takes with KVM is a second.
        const ENOUGH: Duration = Duration::from_secs(10);
        if fs::File::options().read(true).write(true).open("/dev/kvm").is_ok() {
            let machine = Machine { accelerator: Accelerator::Kvm, ..*self };
            let (text, _) = machine.boot(kernel, "hello", ENOUGH, &|_| ())?;
            if text.contains("VM hello") {
                return Ok(Accelerator::Kvm);
            }
            eprintln!("vm: /dev/kvm is there, but no guest comes up with it");
        }
        eprintln!("vm: without KVM: guests are emulated, which takes minutes");
        Ok(Accelerator::Emulated)
    }

    /// Boots a kernel, has its guest do `what`, and gives what it said. Each
    /// line is given to `show` as it comes.
    ///
    /// # Errors
    /// Where QEMU can't be started. How the guest fared is for the judge.
    pub(super) fn boot(
        &self,
        kernel: &Kernel,
        what: &str,
        patience: Duration,
        show: &dyn Fn(&str),
    ) -> Result<(String, End)> {
        let initramfs = self.files.initramfs(kernel)?;
        let mut qemu = qemu::find().context("QEMU is gone since set-up")?.command();
        qemu.args(["-machine", &format!("accel={}", self.accelerator.argument())])
            .args(["-cpu", "max", "-m", MEMORY, "-smp", "1"])
            .args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"])
            .arg("-kernel")
            .arg(image(kernel)?)
            .arg("-initrd")
            .arg(initramfs)
            // A panic ends it at once.
            .args(["-append", &format!("console=ttyS0 quiet panic=-1 canary.guest={what}")]);
        let heard = listen(&mut qemu, patience, show)?;
        if what == "run" {
            fs::write(kernel.log(), &heard.0).context("writing down what the guest said")?;
        }
        Ok(heard)
    }
}

/// The kernel of unpacked packages: until 7.x in /boot, since then beside its
/// modules.
fn image(kernel: &Kernel) -> Result<PathBuf> {
    let Kernel { root, release, .. } = kernel;
    let places = [
        root.join(format!("boot/vmlinuz-{release}")),
        root.join(format!("usr/lib/modules/{release}/vmlinuz")),
        root.join(format!("lib/modules/{release}/vmlinuz")),
    ];
    let found = places.into_iter().find(|place| place.is_file());
    found.with_context(|| format!("no kernel in {}", root.display()))
}

/// Runs a machine to its end, or ends it when its time is over.
fn listen(machine: &mut Command, patience: Duration, show: &dyn Fn(&str)) -> Result<(String, End)> {
    let begun = Instant::now();
    let mut child =
        machine.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("starting QEMU")?;
    let pieces = read_on(&mut child)?;
    let (mut text, mut shown) = (String::new(), 0);
    let end = loop {
        match pieces.recv_timeout(patience.saturating_sub(begun.elapsed())) {
            Ok(piece) => text.push_str(&String::from_utf8_lossy(&piece)),
            Err(RecvTimeoutError::Disconnected) => break End::Exited(child.wait()?),
            Err(RecvTimeoutError::Timeout) => {
                child.kill()?;
                child.wait()?;
                break End::Hung;
            }
        }
        while let Some(len) = text[shown..].find('\n') {
            show(text[shown..shown + len].trim_end());
            shown += len + 1;
        }
    };
    Ok((text, end))
}

/// A thread of its own, so that a machine that says nothing can be waited for.
fn read_on(child: &mut Child) -> Result<Receiver<Vec<u8>>> {
    let mut line = child.stdout.take().context("QEMU has no output")?;
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            match line.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(read) if sender.send(buffer[..read].to_vec()).is_err() => return,
                Ok(_) => {}
            }
        }
    });
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        process::Command,
        time::{Duration, Instant},
    };

    use super::{End, listen};

    fn sh(script: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        shell
    }

    #[test]
    fn lines_are_shown_as_they_come_and_kept() {
        let lines = RefCell::new(Vec::new());
        let mut machine = sh("printf 'VM a\\r\\nVM '; sleep 0.1; printf 'b\\nrest'; exit 3");
        let show = |line: &str| lines.borrow_mut().push(line.to_owned());
        let heard = listen(&mut machine, Duration::from_secs(20), &show);
        let (text, end) = heard.expect("a shell starts");
        assert_eq!(*lines.borrow(), ["VM a", "VM b"]);
        assert_eq!(text, "VM a\r\nVM b\nrest");
        assert!(matches!(end, End::Exited(status) if status.code() == Some(3)), "{end}");
    }

    #[test]
    fn one_that_says_nothing_more_is_ended() {
        let begun = Instant::now();
        let mut machine = sh("echo VM kernel; exec sleep 60");
        let heard = listen(&mut machine, Duration::from_millis(300), &|_| ());
        let (text, end) = heard.expect("a shell starts");
        assert!(matches!(end, End::Hung), "{end}");
        assert_eq!(text, "VM kernel\n");
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
