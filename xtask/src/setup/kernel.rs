//! What the running kernel must have.

use std::{fs, path::Path};

/// The oldest that is known to take the program: docs/kernels.md.
const OLDEST: (u32, u32) = (6, 1);

/// What this kernel lacks, each with what to do; empty where all is well.
pub(crate) fn problems() -> Vec<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // Only root may read it; it says 1 on every kernel of a distribution.
    let jit = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").ok();
    judge(release.trim(), Path::new("/sys/kernel/btf/vmlinux").exists(), jit.as_deref())
}

fn judge(release: &str, btf: bool, jit: Option<&str>) -> Vec<String> {
    let mut problems = Vec::new();
    if version(release).is_none_or(|version| version < OLDEST) {
        let (major, minor) = OLDEST;
        problems.push(format!("Linux {major}.{minor} or later is needed, this is {release:?}"));
    }
    if !btf {
        problems.push(
            "the kernel has no BTF (/sys/kernel/btf/vmlinux): boot one built with \
             CONFIG_DEBUG_INFO_BTF, as distributions' kernels are"
                .to_owned(),
        );
    }
    if jit.is_some_and(|value| value.trim() == "0") {
        problems
            .push("the kernel's BPF JIT is off: run `sysctl net.core.bpf_jit_enable=1`".to_owned());
    }
    problems
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::judge;

    #[test]
    fn recent_kernels_with_all_of_it_are_fine() {
        for release in ["6.1.0-1-amd64", "6.12.0", "6.18.3+deb14-cloud-amd64", "7.0"] {
            assert_eq!(judge(release, true, Some("1\n")), [""; 0], "{release}");
        }
        // Not root: nobody knows of the JIT.
        assert!(judge("6.1.0", true, None).is_empty());
    }

    #[test]
    fn each_lack_is_named() {
        for (release, btf, jit, word) in [
            ("5.15.0-20-amd64", true, Some("1"), "6.1"),
            ("4.19", true, Some("1"), "6.1"),
            ("", true, Some("1"), "6.1"),
            ("6.1.0", false, Some("1"), "BTF"),
            ("6.1.0", true, Some("0\n"), "bpf_jit_enable=1"),
        ] {
            let problems = judge(release, btf, jit);
            assert_eq!(problems.len(), 1, "{release} {btf} {jit:?}: {problems:?}");
            assert!(problems.iter().all(|problem| problem.contains(word)), "{problems:?}");
        }
        assert_eq!(judge("4.19.0", false, Some("0")).len(), 3);
    }
}
