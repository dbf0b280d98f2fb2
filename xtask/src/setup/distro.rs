//! Which system this is, by os-release(5).

use std::fs;

/// What /etc/os-release says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Distro {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) like: Vec<String>,
}

impl Distro {
    /// Of this machine; of no name where the file is missing.
    pub(crate) fn read() -> Self {
        let text = fs::read_to_string("/etc/os-release")
            .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
            .unwrap_or_default();
        Self::parse(&text)
    }

    fn parse(text: &str) -> Self {
        let mut distro = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.trim().split_once('=') else { continue };
            let value = value.trim_matches(['"', '\'']);
            match key {
                "PRETTY_NAME" => value.clone_into(&mut distro.name),
                "ID" => value.clone_into(&mut distro.id),
                "ID_LIKE" => {
                    distro.like = value.split_whitespace().map(ToOwned::to_owned).collect();
                }
                _ => {}
            }
        }
        if distro.name.is_empty() {
            distro.name =
                if distro.id.is_empty() { "an unknown system" } else { &distro.id }.into();
        }
        distro
    }

    /// Whether it has Debian's packages and names.
    pub(crate) fn is_debian(&self) -> bool {
        self.id == "debian" || self.like.iter().any(|like| like == "debian")
    }
}

#[cfg(test)]
mod tests {
    use super::Distro;

    #[test]
    fn debian_by_its_own_name() {
        let distro = Distro::parse(
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\n\
             VERSION_ID=\"12\"\nID=debian\nHOME_URL=\"https://www.debian.org/\"\n",
        );
        assert!(distro.is_debian());
        assert_eq!(distro.name, "Debian GNU/Linux 12 (bookworm)");
    }

    #[test]
    fn debian_by_descent() {
        assert!(Distro::parse("ID=ubuntu\nID_LIKE=debian\n").is_debian());
        assert!(Distro::parse("ID='linuxmint'\nID_LIKE=\"ubuntu debian\"\n").is_debian());
    }

    #[test]
    fn others_are_not_debian() {
        for text in [
            "",
            "# ID=debian\n",
            "ID=fedora\nID_LIKE=\"rhel\"\n",
            "VARIANT_ID=debian\nID=arch\n",
            "ID=other\nID_LIKE=debianish\n",
        ] {
            assert!(!Distro::parse(text).is_debian(), "{text}");
        }
    }

    #[test]
    fn a_system_without_a_name_is_called_by_its_id() {
        assert_eq!(Distro::parse("ID=arch\n").name, "arch");
        assert_eq!(Distro::parse("").name, "an unknown system");
    }
}
