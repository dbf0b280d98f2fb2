//! Debian's kernels, fetched by apt from the mirrors that this machine has.
//!
//! apt runs with sources, lists and a cache of its own below `target/vm/apt`: the
//! suites are mostly not this machine's, and its own lists stay as they are. It
//! checks the whole chain: the release file's signature against Debian's
//! keyring, the lists' hashes against that, the packages' against those.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    directory,
    kernel::{Archive, Choice, Kernel},
};
use crate::process::{command, output, run};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// So old may lists of packages be.
const FRESH: Duration = Duration::from_secs(24 * 3600);
/// Whole kernels; of `linux-image-6.12-cloud-amd64` and the like only the
/// names end so, they hold nothing.
const NAMES: &str = r"^linux-image-[0-9]+\.[0-9]+\.[0-9][^ ]*-cloud-amd64$";

/// The newest kernel of each choice, unpacked; what is there already is not
/// fetched again.
///
/// # Errors
/// Where a kernel is in none of the suites, or can't be fetched.
pub(super) fn fetch(choices: &[Choice]) -> Result<Vec<Kernel>> {
    let here = std::env::consts::ARCH;
    ensure!(here == "x86_64", "the guests run this machine's programs, and {here} is not x86-64");
    let mirrors = Mirrors::find()?;
    choices.iter().map(|choice| fetch_one(*choice, &mirrors)).collect()
}

fn fetch_one(choice: Choice, mirrors: &Mirrors) -> Result<Kernel> {
    for (archive, suite) in choice.suites() {
        let Some(uri) = mirrors.of(*archive) else { continue };
        let apt = Apt::new(suite, uri)?;
        let Some(package) = apt.newest(choice.series())? else { continue };
        return apt.unpack(choice, &package);
    }
    let suites: Vec<_> = choice.suites().iter().map(|(_, suite)| *suite).collect();
    bail!(
        "no kernel {} is to be had: apt's mirrors carry none in {} (what apt said is above); check \
         the network, and that the mirror has these suites",
        choice.name(),
        suites.join(" or ")
    )
}

/// Where Debian's archives are, by this machine's own configuration.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    main: Option<String>,
    security: Option<String>,
}

impl Mirrors {
    fn find() -> Result<Self> {
        let format = "$(REPO_URI) $(ORIGIN) $(LABEL)";
        let targets = output(command("apt-get").args(["indextargets", "--format", format]))
            .context("asking apt for its mirrors")?;
        let found = Self::parse(&targets);
        ensure!(
            found.main.is_some() || found.security.is_some(),
            "apt has no list of a Debian mirror: put one into /etc/apt/sources.list.d and run \
             `apt-get update`"
        );
        Ok(found)
    }

    fn parse(targets: &str) -> Self {
        let find = |wanted: &str| {
            targets.lines().find_map(|line| {
                let (uri, by) = line.split_once(' ')?;
                (by == wanted).then(|| uri.to_owned())
            })
        };
        Self { main: find("Debian Debian"), security: find("Debian Debian-Security") }
    }

    fn of(&self, archive: Archive) -> Option<&str> {
        match archive {
            Archive::Main => self.main.as_deref(),
            Archive::Security => self.security.as_deref(),
        }
    }
}

/// One of a list of packages.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Package {
    name: String,
    version: String,
}

/// apt, with one suite for its world.
struct Apt {
    directory: PathBuf,
}

impl Apt {
    /// With lists that are fresh, or the last ones where none can be had.
    fn new(suite: &str, uri: &str) -> Result<Self> {
        let apt = Self { directory: directory().join("apt").join(suite) };
        for part in ["lists/partial", "cache/archives/partial", "parts"] {
            fs::create_dir_all(apt.directory.join(part))?;
        }
        let source = format!("deb [arch=amd64 signed-by={KEYRING}] {uri} {suite} main\n");
        let file = apt.directory.join("sources.list");
        let stamp = apt.directory.join("fetched");
        let same = fs::read_to_string(&file).is_ok_and(|earlier| earlier == source);
        let age = fs::metadata(&stamp).and_then(|meta| meta.modified()).ok();
        let fresh = age.and_then(|then| then.elapsed().ok()).is_some_and(|age| age < FRESH);
        if same && fresh {
            return Ok(apt);
        }
        ensure!(
            fs::exists(KEYRING)?,
            "{KEYRING} is missing, and unsigned kernels are not booted: install \
             debian-archive-keyring"
        );
        fs::write(file, source)?;
        fs::write(apt.directory.join("status"), "")?;
        let mut update = apt.command("apt-get");
        // Else a signature that does not hold is but a warning.
        update.args(["-qq", "-o", "APT::Update::Error-Mode=any", "update"]);
        match run(&mut update) {
            Ok(()) => fs::write(stamp, "")?,
            Err(error) => {
                eprintln!("vm: {suite}: {error:#}; going on with the lists that are there");
            }
        }
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut apt = command(program);
        apt.env("LC_ALL", "C");
        let at = |part: &str| self.directory.join(part).display().to_string();
        for (key, value) in [
            ("Dir::Etc::SourceList", at("sources.list")),
            ("Dir::Etc::SourceParts", at("parts")),
            ("Dir::Etc::Preferences", "/dev/null".to_owned()),
            ("Dir::Etc::PreferencesParts", at("parts")),
            ("Dir::State::Lists", at("lists")),
            ("Dir::State::status", at("status")),
            ("Dir::Cache", at("cache")),
            ("APT::Architecture", "amd64".to_owned()),
            ("APT::Architectures", "amd64".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            // The other user that apt fetches as has no business in target/.
            ("APT::Sandbox::User", "root".to_owned()),
        ] {
            apt.arg("-o").arg(format!("{key}={value}"));
        }
        apt
    }

    /// The newest kernel of a series.
    fn newest(&self, series: &str) -> Result<Option<Package>> {
        let mut search = self.command("apt-cache");
        let found = output(search.args(["search", "--names-only", NAMES]))?;
        let names: BTreeSet<_> =
            found.lines().filter_map(|line| line.split_whitespace().next()).collect();
        if names.is_empty() {
            return Ok(None);
        }
        let madison = output(self.command("apt-cache").arg("madison").args(names))?;
        Ok(newest_of(&parse_madison(&madison), series))
    }

    fn unpack(&self, choice: Choice, package: &Package) -> Result<Kernel> {
        let release = package.name.trim_start_matches("linux-image-").to_owned();
        let root = directory().join(format!("{release}_{}", package.version));
        let version = package.version.clone();
        let kernel = Kernel { choice, release, version, root };
        if kernel.root.is_dir() {
            return Ok(kernel);
        }
        let unpacking = kernel.root.with_extension("unpacking");
        let _ = fs::remove_dir_all(&unpacking);
        fs::create_dir_all(&unpacking)?;
        for name in self.parts(package)? {
            eprintln!("vm: fetching {name} {}", package.version);
            let archive = self.download(&name, &package.version)?;
            run(command("dpkg").arg("-x").arg(&archive).arg(&unpacking))?;
            fs::remove_file(archive)?;
        }
        // Whole or not there.
        fs::rename(&unpacking, &kernel.root)?;
        Ok(kernel)
    }

    /// The package, and those it is split into: Debian's image packages of 7.x
    /// hold nothing themselves.
    fn parts(&self, package: &Package) -> Result<Vec<String>> {
        let named = format!("{}={}", package.name, package.version);
        let depends = output(self.command("apt-cache").args(["show", &named]))?;
        let mut parts = parse_parts(&depends);
        parts.insert(0, package.name.clone());
        Ok(parts)
    }

    /// Its file; apt has compared its hash.
    fn download(&self, name: &str, version: &str) -> Result<PathBuf> {
        let into = self.directory.join("cache/archives");
        let mut download = self.command("apt-get");
        download.args(["-qq", "download", &format!("{name}={version}")]).current_dir(&into);
        run(&mut download).with_context(|| format!("fetching {name}"))?;
        let begin = format!("{name}_");
        let mut files = fs::read_dir(&into)?.flatten().map(|entry| entry.path());
        let file = files.find(|path| {
            path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&begin))
        });
        file.with_context(|| format!("apt fetched {name}, but not into {}", into.display()))
    }
}

/// Lines such as `NAME | VERSION | WHERE`.
fn parse_madison(text: &str) -> Vec<Package> {
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.split('|').map(str::trim);
        let (name, version, place) = (fields.next()?, fields.next()?, fields.next()?);
        place.ends_with("Packages").then(|| Package { name: name.into(), version: version.into() })
    });
    lines.collect()
}

fn newest_of(packages: &[Package], series: &str) -> Option<Package> {
    let of_series = packages.iter().filter(|package| package.version.starts_with(series));
    of_series.max_by_key(|package| numbers(&package.version)).cloned()
}

/// The numbers of a version, which is what kernels' versions differ by.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// `linux-binary-…` and `linux-modules-…` of a `Depends:` line.
fn parse_parts(show: &str) -> Vec<String> {
    let depends = show.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
    let names = depends.split(',').filter_map(|one| one.split_whitespace().next());
    let ours =
        |name: &&str| name.starts_with("linux-binary-") || name.starts_with("linux-modules-");
    names.filter(ours).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::{Mirrors, newest_of, parse_madison, parse_parts};

    #[test]
    fn mirrors_are_those_of_debian() {
        let targets = "https://packages.example/apt/ Example Example\n\
                       http://mirror.example/debian/ Debian Debian\n\
                       http://mirror.example/debian/ Debian Debian\n\
                       http://mirror.example/debian-security/ Debian Debian-Security\n";
        let found = Mirrors::parse(targets);
        assert_eq!(found.main.as_deref(), Some("http://mirror.example/debian/"));
        assert_eq!(found.security.as_deref(), Some("http://mirror.example/debian-security/"));
        let none = Mirrors { main: None, security: None };
        assert_eq!(Mirrors::parse("http://a.example/ Ubuntu Ubuntu\n"), none);
    }

    #[test]
    fn the_newest_of_a_series_is_by_number() {
        let madison = "\
linux-image-6.12.99+deb12-cloud-amd64 | 6.12.99-1~deb12u1 | http://m.example x/main amd64 Packages
linux-image-6.12.117+deb12-cloud-amd64 | 6.12.117-1~deb12u1 | http://m.example x/main amd64 Packages
linux-image-6.1.0-9-cloud-amd64 |  6.1.27-1 | http://m.example x/main amd64 Packages
linux-image-6.1.0-56-cloud-amd64 |  6.1.192-2 | http://m.example x/main amd64 Packages
linux-signed-amd64 | 6.1.200+1 | http://m.example x/main Sources
";
        let packages = parse_madison(madison);
        assert_eq!(packages.len(), 4);
        let newest = |series| newest_of(&packages, series).map(|package| package.version);
        assert_eq!(newest("6.1.").as_deref(), Some("6.1.192-2"));
        assert_eq!(newest("6.12.").as_deref(), Some("6.12.117-1~deb12u1"));
        assert_eq!(newest("").as_deref(), Some("6.12.117-1~deb12u1"));
        assert_eq!(newest("5.10."), None);
    }

    #[test]
    fn a_split_package_is_fetched_whole() {
        let show = "Package: linux-image-7.2.13\nDepends: initramfs-tools | dracut, \
                    linux-base-7.2.13 (= 7.2.13-1), linux-binary-7.2.13 (= 7.2.13-1), \
                    linux-modules-7.2.13 (= 7.2.13-1)\n";
        assert_eq!(parse_parts(show), ["linux-binary-7.2.13", "linux-modules-7.2.13"]);
        assert_eq!(parse_parts("Depends: kmod, linux-base (>= 4.3~)\n"), [""; 0]);
    }
}
