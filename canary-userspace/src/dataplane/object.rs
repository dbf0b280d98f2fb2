//! The object: loaded with its maps, not yet attached by anybody.

use std::{borrow::Cow, path::Path};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::MapInfo,
    programs::{
        ProgramError, TestRun as _, TestRunOptions, Xdp,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
};
use canary_common::HashKeys;

use super::{
    OpenOptions, bpffs,
    error::{Context as _, DataplaneError},
    load::overflow_for,
    resize::FLOWS,
};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/canary.bpf.o"));

/// Maps that outlive the daemon.
const PINNED: [&str; 16] = [
    "SETTINGS",
    "REGISTER",
    "TABLES",
    "GUARDS",
    "FAULTS",
    "STEER_V4",
    "STEER_V6",
    "FLOWS",
    "OVERFLOW",
    "OVERFLOWED",
    "YOUNG",
    "CELLS",
    "SHARED_CELLS",
    "LATENCIES",
    "REASONS",
    "INTERFACES",
];

/// What of the overflow map flows may have that are not established.
const YOUNG_SHARE: u32 = 2;

/// Programs that are run by the daemon, never attached.
const TOOLS: [&str; 2] = ["canary_where", "canary_clock"];

/// See the module.
pub(super) struct Object {
    pub(super) ebpf: Ebpf,
    /// The packet path's program that this kernel took.
    pub(super) program: &'static str,
    /// Jiffies per second.
    pub(super) hz: u32,
    /// Of the flow table.
    pub(super) buckets: u32,
}

impl Object {
    /// With the flow table that is pinned as `flows`, or is made there, and the
    /// other maps under their names.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(super) fn load(
        options: &OpenOptions,
        keys: &HashKeys,
        flows: &str,
        buckets: u32,
    ) -> Result<Self, DataplaneError> {
        let pin_of = |name| if name == FLOWS { flows.into() } else { Cow::Borrowed(name) };
        Self::load_as(options, keys, &pin_of, buckets)
    }

    /// With maps that are pinned, or are made, under the names that `pin_of`
    /// gives them.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(super) fn load_as<'a>(
        options: &OpenOptions,
        keys: &HashKeys,
        pin_of: &dyn Fn(&'static str) -> Cow<'a, str>,
        buckets: u32,
    ) -> Result<Self, DataplaneError> {
        let mask = buckets - 1;
        // Those two stay as large as they were made.
        let pinned = |name| size_of_pinned(&options.bpffs, &pin_of(name));
        let overflow = pinned("OVERFLOW").unwrap_or_else(|| overflow_for(buckets));
        let young = pinned("YOUNG").unwrap_or(overflow / YOUNG_SHARE);
        let young_mask = young - 1;
        let hz = jiffies_per_second();
        let log = u32::from(options.log);
        let signals = u32::from(options.signals);
        let mut loader = EbpfLoader::new();
        loader
            .override_global("FLOW_BUCKET_MASK", &mask, true)
            .override_global("YOUNG_MASK", &young_mask, true)
            .override_global("JIFFIES_PER_SECOND", &hz, true)
            .override_global("HASH_KEYS", keys, true)
            .override_global("LOG", &log, true)
            .override_global("SIGNALS", &signals, true)
            .map_max_entries("FLOWS", buckets)
            .map_max_entries("OVERFLOW", overflow)
            .map_max_entries("YOUNG", young);
        for name in PINNED {
            loader.map_pin_path(name, bpffs::map_path(&options.bpffs, &pin_of(name)));
        }
        let mut ebpf = loader.load(OBJECT).context(|| "loading the eBPF object")?;
        let program = load_programs(&mut ebpf)?;
        Ok(Self { ebpf, program, hz, buckets })
    }

    /// The program's clock: jiffies, low 32 bits.
    ///
    /// # Errors
    /// Where the kernel refuses the test run.
    pub(super) fn now(&self) -> Result<u32, DataplaneError> {
        let doing = || "running program canary_clock";
        let program = self.ebpf.program("canary_clock");
        let program = program.ok_or_else(|| DataplaneError::NoProgram("canary_clock".into()))?;
        let program: &Xdp = program.try_into().context(doing)?;
        let mut out = [0_u8; 64];
        let options = TestRunOptions {
            data_in: Some(&[0; 64]),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        program.test_run(options).context(doing)?;
        let [jiffies, ..] = *out.as_chunks::<8>().0 else { return Ok(0) };
        Ok(u64::from_ne_bytes(jiffies) as u32)
    }

    /// Puts the program in place of the one behind a pinned link. Not where the
    /// link's interface is gone: that link leads nowhere any more.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(super) fn put_on(&mut self, path: &Path) -> Result<(), DataplaneError> {
        let doing = || format!("updating {}", path.display());
        let link = FdLink::from(PinnedLink::from_pin(path).context(doing)?);
        let link = XdpLink::try_from(link).context(doing)?;
        let program = self.ebpf.program_mut(self.program);
        let program = program.ok_or_else(|| DataplaneError::NoProgram(self.program.to_owned()))?;
        let program: &mut Xdp = program.try_into().context(doing)?;
        match program.attach_to_link(link) {
            // Only this descriptor goes: the pin keeps the link.
            Ok(id) => program.take_link(id).context(doing).map(drop),
            Err(ProgramError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::ENOLINK) =>
            {
                Ok(())
            }
            Err(error) => Err(error).context(doing),
        }
    }
}

/// Entries of a map that is pinned already.
fn size_of_pinned(bpffs: &Path, name: &str) -> Option<u32> {
    MapInfo::from_pin(bpffs::map_path(bpffs, name)).ok().map(|info| info.max_entries())
}

/// Loads the packet path, as a multi-buffer program where the kernel knows
/// these (5.18), and the tools.
fn load_programs(ebpf: &mut Ebpf) -> Result<&'static str, DataplaneError> {
    for tool in TOOLS {
        load_program(ebpf, tool)?;
    }
    match load_program(ebpf, "canary") {
        Ok(()) => Ok("canary"),
        Err(error) => load_program(ebpf, "canary_linear").map(|()| "canary_linear").map_err(
            // The first refusal tells more: the second may be the same.
            |_| error,
        ),
    }
}

fn load_program(ebpf: &mut Ebpf, name: &str) -> Result<(), DataplaneError> {
    let program = ebpf.program_mut(name);
    let program = program.ok_or_else(|| DataplaneError::NoProgram(name.to_owned()))?;
    let program: &mut Xdp = program.try_into().context(|| format!("program {name}"))?;
    program.load().context(|| format!("loading program {name}"))
}

/// The kernel's HZ: the coarse clock's resolution is one tick.
fn jiffies_per_second() -> u32 {
    const NANOS_PER_SECOND: i64 = 1_000_000_000;
    let mut tick = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: room for the answer.
    unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut tick) };
    let nanos = tick.tv_nsec.max(1);
    ((NANOS_PER_SECOND + nanos / 2) / nanos) as u32
}
