//! The archive that Linux unpacks at boot: cpio's "newc"
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::io::{Result, Write};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const DEVICE: u32 = 0o020_600;
/// Major and minor number of /dev/console.
const CONSOLE: [u32; 2] = [5, 1];

/// Written from front to back.
#[derive(Debug)]
pub(super) struct Archive<W> {
    to: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    pub(super) const fn new(to: W) -> Self {
        Self { to, entries: 0 }
    }

    /// # Errors
    /// The writer's, as of all others.
    pub(super) fn directory(&mut self, name: &str) -> Result<()> {
        self.entry(name, DIRECTORY, [0; 2], &[])
    }

    /// A file that everybody may run.
    pub(super) fn file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.entry(name, PROGRAM, [0; 2], bytes)
    }

    /// The first process has it for input and output.
    pub(super) fn console(&mut self, name: &str) -> Result<()> {
        self.entry(name, DEVICE, CONSOLE, &[])
    }

    /// Gives the writer back, with a whole archive in it.
    pub(super) fn finish(mut self) -> Result<W> {
        self.entry("TRAILER!!!", 0, [0; 2], &[])?;
        Ok(self.to)
    }

    fn entry(&mut self, name: &str, mode: u32, device: [u32; 2], bytes: &[u8]) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
        let name_size = name.len() as u32 + 1;
        let [major, minor] = device;
        // Number, mode, owner, group, links, time, size, where it was, which
        // device it is, the name's length, no sum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0];
        write!(self.to, "070701")?;
        for field in fields {
            write!(self.to, "{field:08x}")?;
        }
        self.to.write_all(name.as_bytes())?;
        self.to.write_all(&[0])?;
        self.pad(6 + 13 * 8 + name_size as usize)?;
        self.to.write_all(bytes)?;
        self.pad(bytes.len())
    }

    /// Each part ends at a multiple of four.
    fn pad(&mut self, written: usize) -> Result<()> {
        self.to.write_all(&[0; 3][..written.wrapping_neg() % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn entries_are_padded_and_end_with_the_trailer() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("bin").expect("memory takes it");
        archive.file("bin/a", b"12345").expect("memory takes it");
        archive.console("dev/console").expect("memory takes it");
        let bytes = archive.finish().expect("memory takes it");
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(bytes.len() % 4, 0);
        assert!(text.starts_with("07070100000001000041ed"));
        // Its size, and the console's device numbers.
        assert!(text.contains("0000000500000000"), "{text}");
        assert!(text.contains("0000000500000001"), "{text}");
        let headers = text.match_indices("070701").map(|(at, _)| at % 4);
        assert_eq!(headers.collect::<Vec<_>>(), [0; 4]);
        assert!(text.trim_end_matches('\0').ends_with("TRAILER!!!"));
    }
}
