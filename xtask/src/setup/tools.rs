//! Programs that the tests and the demo use.

use crate::process::find_program;

/// A program somebody needs.
#[derive(Debug)]
pub(crate) struct Tool {
    /// The names it goes by; one of them is enough.
    pub(crate) programs: &'static [&'static str],
    /// Debian's package.
    pub(crate) package: &'static str,
    /// How to get it where Debian's packages are not to be had.
    elsewhere: &'static str,
    /// What for.
    purpose: &'static str,
}

impl Tool {
    pub(crate) const fn new(
        programs: &'static [&'static str],
        package: &'static str,
        elsewhere: &'static str,
        purpose: &'static str,
    ) -> Self {
        Self { programs, package, elsewhere, purpose }
    }

    fn is_there(&self) -> bool {
        self.programs.iter().any(|program| find_program(program).is_some())
    }

    /// For somebody who has to install it by hand.
    pub(crate) fn advice(&self) -> String {
        let name = self.programs.first().copied().unwrap_or(self.package);
        format!("{name} ({}): {}", self.purpose, self.elsewhere)
    }
}

const TOOLS: [Tool; 18] = [
    Tool::new(&["cc"], "gcc", "your system's C compiler, package gcc", "linking"),
    Tool::new(&["ip"], "iproute2", "package iproute2, or iproute", "network namespaces"),
    Tool::new(&["ethtool"], "ethtool", "package ethtool", "checksum offload of veths"),
    Tool::new(&["tcpdump"], "tcpdump", "package tcpdump", "looking at packets"),
    Tool::new(&["ping"], "iputils-ping", "package iputils, or iputils-ping", "pings in the lab"),
    Tool::new(&["nft"], "nftables", "package nftables", "resets and drops in the lab"),
    Tool::new(&["bpftool"], "bpftool", "package bpftool", "looking at programs and maps"),
    Tool::new(&["nginx"], "nginx-light", "package nginx", "backends of the lab"),
    Tool::new(&["curl"], "curl", "package curl", "clients of the lab"),
    Tool::new(&["wrk"], "wrk", "package wrk, or https://github.com/wg/wrk", "load"),
    Tool::new(&["hey"], "hey", "`go install github.com/rakyll/hey@latest`", "load"),
    Tool::new(&["promtool"], "prometheus", "https://prometheus.io/download/", "checking metrics"),
    Tool::new(&["prometheus"], "prometheus", "https://prometheus.io/download/", "gates ask it"),
    Tool::new(&["dpkg-shlibdeps"], "dpkg-dev", "Debian alone has it", "the Debian package"),
    Tool::new(&["systemd-analyze"], "systemd", "package systemd", "a machine of the lab"),
    Tool::new(&["man"], "man-db", "package man-db", "checking the manual pages"),
    Tool::new(
        &["scapy3", "scapy"],
        "python3-scapy",
        "package python3-scapy, or `pip install scapy`",
        "an independent witness of packets",
    ),
    Tool::new(
        &["prometheus-node-exporter", "node_exporter"],
        "prometheus-node-exporter",
        "https://prometheus.io/download/#node_exporter",
        "serving the textfile",
    ),
];

/// What the benchmark takes besides.
pub(crate) const BENCH: [Tool; 1] =
    [Tool::new(&["haproxy"], "haproxy", "package haproxy", "a rival of the benchmark")];

/// What the virtual machines take besides.
pub(crate) const VM: [Tool; 3] = [
    Tool::new(&["dpkg"], "dpkg", "package dpkg", "unpacking Debian's kernels"),
    Tool::new(&["xz"], "xz-utils", "package xz-utils, or xz", "unpacking kernels' modules"),
    Tool::new(&["strip"], "binutils", "package binutils", "small guests"),
];

/// What they run on.
pub(crate) const QEMU: Tool = Tool::new(
    &["qemu-system-x86_64"],
    "qemu-system-x86",
    "package qemu-system-x86, or qemu",
    "virtual machines",
);

/// The tools that are not on this machine.
pub(crate) fn missing() -> Vec<&'static Tool> {
    missing_of(&TOOLS)
}

/// Those of a list that are not.
pub(crate) fn missing_of(tools: &[Tool]) -> Vec<&Tool> {
    tools.iter().filter(|tool| !tool.is_there()).collect()
}

#[cfg(test)]
mod tests {
    use super::Tool;

    #[test]
    fn one_of_the_names_is_enough() {
        let tool = |programs| Tool::new(programs, "p", "by hand", "tests");
        assert!(tool(&["no-such-program", "sh"]).is_there());
        assert!(!tool(&["no-such-program"]).is_there());
        assert_eq!(tool(&["no-such-program"]).advice(), "no-such-program (tests): by hand");
    }
}
