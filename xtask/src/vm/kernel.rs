//! The kernels there are to choose from.

use std::path::PathBuf;

use clap::ValueEnum;

/// Kernels by what they stand for; which version that is, Debian says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Choice {
    /// The oldest of Debian's suites, which does not load the program
    #[value(name = "oldest")]
    Oldest,
    /// Debian 12's, the oldest that does
    #[value(name = "6.1")]
    Old,
    /// Debian 13's
    #[value(name = "6.12")]
    Middle,
    /// Of Debian's unstable
    #[value(name = "newest")]
    Newest,
    /// Each of them
    #[value(name = "all")]
    All,
}

/// Which of Debian's archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Archive {
    Main,
    Security,
}

impl Choice {
    const ONES: [Self; 4] = [Self::Oldest, Self::Old, Self::Middle, Self::Newest];

    /// As on the command line, and in the files of figures.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Oldest => "oldest",
            Self::Old => "6.1",
            Self::Middle => "6.12",
            Self::Newest => "newest",
            Self::All => "all",
        }
    }

    /// Each kernel once, oldest first, with `all` in its parts.
    pub(super) fn each(asked: &[Self]) -> Vec<Self> {
        let all = asked.contains(&Self::All);
        Self::ONES.into_iter().filter(|one| all || asked.contains(one)).collect()
    }

    /// How the versions of its packages begin.
    pub(super) const fn series(self) -> &'static str {
        match self {
            Self::Oldest => "5.10.",
            Self::Old => "6.1.",
            Self::Middle => "6.12.",
            Self::Newest | Self::All => "",
        }
    }

    /// Suites that carry it, the smallest list of packages first.
    pub(super) const fn suites(self) -> &'static [(Archive, &'static str)] {
        use Archive::{Main, Security};
        match self {
            Self::Oldest => &[(Security, "bullseye-security"), (Main, "bullseye")],
            Self::Old => &[(Security, "bookworm-security"), (Main, "bookworm")],
            Self::Middle => &[(Security, "bookworm-security"), (Main, "trixie")],
            Self::Newest | Self::All => &[(Main, "sid")],
        }
    }

    /// Whether its verifier is known to refuse the program: docs/kernels.md
    /// says for what.
    pub(super) const fn is_refused(self) -> bool {
        matches!(self, Self::Oldest)
    }
}

/// A kernel that is unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    pub(super) choice: Choice,
    /// As `uname -r` says it.
    pub(super) release: String,
    /// Debian's version of the package.
    pub(super) version: String,
    /// Holds what the packages hold.
    pub(super) root: PathBuf,
}

impl Kernel {
    /// What its guest said last.
    pub(super) fn log(&self) -> PathBuf {
        super::directory().join(format!("{}.log", self.choice.name()))
    }

    /// The initramfs it is booted with.
    pub(super) fn initramfs(&self) -> PathBuf {
        super::directory().join(format!("{}.cpio", self.choice.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::Choice;

    #[test]
    fn each_is_booted_once() {
        assert_eq!(Choice::each(&[Choice::Middle, Choice::Old, Choice::Old]).len(), 2);
        assert_eq!(Choice::each(&[Choice::All]), Choice::ONES);
        assert_eq!(Choice::each(&[Choice::Old, Choice::All]), Choice::ONES);
    }
}
