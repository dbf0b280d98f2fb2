//! The kernel side, from user space: the only module that knows aya.

mod attach;
mod batch;
mod bpffs;
mod cells;
mod directory;
mod error;
mod fault;
mod flow_moves;
mod flow_table;
mod guard;
mod load;
mod mapping;
mod object;
mod occupied;
mod older;
mod overflow;
mod probe;
mod resize;
mod steer;
mod where_to;
mod write;

use std::{path::PathBuf, sync::Arc, time::Duration};

use aya::{
    Ebpf,
    maps::{LpmTrie, MapData, PerCpuArray, RingBuf, xdp::DevMapHash},
    programs::{TestRun as _, TestRunOptions, Xdp, links::PinnedLink},
};
use canary_common::{
    Backend, Cell, Fault, Guard, HashKeys, Latencies, OverflowMarks, Reason, Service, Settings,
    SharedCell, Steer,
};

pub use attach::Attachment;
pub use bpffs::{give, remove_pins, remove_unused_pins};
pub use error::DataplaneError;
pub use fault::{FaultOrder, FaultState};
pub use flow_table::{FlowSnapshot, FlowTable, Swept};
pub use guard::{GuardOrder, GuardState};
pub use load::{BENCH_OBJECT, carry_until};
pub use resize::Step;
pub use steer::Steering;

use crate::plan::Observed;
use directory::DirectoryMap;
use error::Context as _;
use mapping::Mapping;

/// How to open the data plane.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Directory on a bpffs where maps and links are pinned.
    pub bpffs: PathBuf,
    /// Flows to make room for. Those of a table of another size that is adopted
    /// are carried over.
    pub flows: u32,
    /// Log sampled messages of the program.
    pub log: bool,
    /// [`canary_common::Signals`] that the program reads at all.
    pub signals: u16,
    /// Nobody else may have these maps open this way.
    pub sole: bool,
}

/// Program, maps and links.
pub struct Dataplane {
    ebpf: Ebpf,
    /// Name of the packet path's program that this kernel took.
    program: &'static str,
    bpffs: PathBuf,
    adopted: bool,
    hz: u32,
    keys: HashKeys,
    settings: Mapping<Settings>,
    services: Mapping<Service>,
    backends: Mapping<Backend>,
    directory: DirectoryMap,
    /// An array of maps.
    tables: MapData,
    cells: PerCpuArray<MapData, Cell>,
    reasons: PerCpuArray<MapData, u64>,
    latencies: Mapping<Latencies>,
    interfaces: DevMapHash<MapData>,
    guards: Mapping<Guard>,
    faults: Mapping<Fault>,
    steer_v4: LpmTrie<MapData, [u16; 3], Steer>,
    steer_v6: LpmTrie<MapData, [u16; 9], Steer>,
    /// Until somebody takes it.
    events: Option<RingBuf<MapData>>,
    flow_table: Arc<FlowTable>,
    shared_cells: Mapping<SharedCell>,
    overflow_marks: Mapping<OverflowMarks>,
    links: Vec<(Attachment, PinnedLink)>,
    log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
    _lock: Option<bpffs::PinsLock>,
}

impl std::fmt::Debug for Dataplane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dataplane")
            .field("program", &self.program)
            .field("bpffs", &self.bpffs)
            .field("links", &self.links)
            .finish_non_exhaustive()
    }
}

impl Dataplane {
    /// Loads the program; adopts the maps and links that an earlier daemon left
    /// pinned, or makes them.
    ///
    /// # Errors
    /// Where the kernel refuses, or what is pinned is of another layout.
    pub fn open(options: &OpenOptions) -> Result<(Self, Observed), DataplaneError> {
        let plane = load::open(options)?;
        let observed = plane.observe();
        Ok((plane, observed))
    }

    /// Whether the maps are an earlier daemon's.
    pub const fn adopted(&self) -> bool {
        self.adopted
    }

    /// The records in use.
    fn observe(&self) -> Observed {
        let mut observed = Observed::default();
        for number in 0..self.services.len() {
            let record = self.services.read(number);
            if record.flags & canary_common::ServiceFlags::PRESENT != 0 {
                observed.services.insert(number as u16, record);
            }
        }
        for number in 1..self.backends.len() {
            let record = self.backends.read(number);
            if record.flags & canary_common::BackendFlags::PRESENT != 0 {
                observed.backends.insert(number as u16, record);
            }
        }
        observed
    }

    /// Packets by [`Reason`], whose value is the index.
    ///
    /// # Errors
    /// Where the kernel refuses the look-up.
    pub fn verdicts(&self) -> Result<Vec<u64>, DataplaneError> {
        (0..Reason::COUNT)
            .map(|reason| {
                let per_cpu =
                    self.reasons.get(&reason, 0).context(|| "reading the verdicts' counters")?;
                Ok(per_cpu.iter().sum())
            })
            .collect()
    }

    pub fn flow_table(&self) -> Arc<FlowTable> {
        Arc::clone(&self.flow_table)
    }

    /// The program's clock: jiffies, all 64 bits. It is asked for, not
    /// computed: jiffies and `CLOCK_MONOTONIC` drift apart.
    ///
    /// # Errors
    /// Where the kernel refuses the test run.
    pub fn clock(&self) -> Result<u64, DataplaneError> {
        let mut out = [0; 64];
        self.test_run("canary_clock", &[0; 64], &mut out)?;
        let [jiffies, ..] = *out.as_chunks::<8>().0 else { return Ok(0) };
        Ok(u64::from_ne_bytes(jiffies))
    }

    /// The same, low 32 bits, as flows have their deadlines.
    ///
    /// # Errors
    /// Where the kernel refuses the test run.
    pub fn now(&self) -> Result<u32, DataplaneError> {
        self.clock().map(|jiffies| jiffies as u32)
    }

    /// Jiffies per second.
    pub const fn hz(&self) -> u32 {
        self.hz
    }

    /// A duration in jiffies, at least one.
    pub fn jiffies(&self, duration: Duration) -> u32 {
        let jiffies = duration.as_millis() * u128::from(self.hz) / 1000;
        u32::try_from(jiffies).unwrap_or(u32::MAX / 2).clamp(1, u32::MAX / 2)
    }

    /// So long after `now`, which is in jiffies of 64 bits; so is the answer.
    fn deadline(&self, now: u64, after: Duration) -> u64 {
        let jiffies = after.as_millis().saturating_mul(u128::from(self.hz)) / 1000;
        // Never what stands for "no end".
        now.saturating_add(u64::try_from(jiffies).unwrap_or(u64::MAX)).min(u64::MAX - 1)
    }

    /// Flows that the table was made for.
    pub fn capacity(&self) -> u64 {
        load::flows_of(self.flow_table.buckets())
    }

    /// Records in the overflow map.
    pub fn overflow_len(&self) -> u64 {
        self.flow_table.overflow_len()
    }

    /// Has the program look into the overflow map for what may be there, and
    /// for nothing else. To be called now and then.
    pub fn renew_overflow_marks(&self) {
        overflow::renew(&self.settings, &self.overflow_marks, &self.flow_table, &self.keys);
    }

    /// Has the next [`Self::renew_overflow_marks`] look whether the map is
    /// empty.
    fn overflow_is_unknown(&self) {
        let used = self.settings.half_word(0, std::mem::offset_of!(Settings, overflowed));
        used.store(1, std::sync::atomic::Ordering::SeqCst);
    }

    /// The ring of [`canary_common::FlowEvent`]s; once.
    pub const fn take_events(&mut self) -> Option<RingBuf<MapData>> {
        self.events.take()
    }

    /// Has the program tell of one flow in so many; 0: of none.
    pub fn follow(&mut self, one_in: u32) {
        let follow = self.settings.half_word(0, std::mem::offset_of!(Settings, follow));
        follow.store(one_in, std::sync::atomic::Ordering::Relaxed);
    }

    /// Events that the ring had no room for.
    pub fn events_dropped(&self) -> u64 {
        let dropped = self.settings.word(0, std::mem::offset_of!(Settings, events_dropped));
        dropped.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Secret keys of the flow table's hash.
    pub const fn keys(&self) -> HashKeys {
        self.keys
    }

    /// Passes the program's messages on to the log.
    pub fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    /// Runs a program on a frame: its return value, and how many bytes it left
    /// in `out`.
    ///
    /// # Errors
    /// Where the kernel refuses the test run.
    pub fn test_run(
        &self,
        program: &str,
        frame: &[u8],
        out: &mut [u8],
    ) -> Result<(u32, usize), DataplaneError> {
        let doing = || format!("running program {program}");
        let result = self
            .xdp(program)?
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: (!out.is_empty()).then_some(out),
                ..TestRunOptions::default()
            })
            .context(doing)?;
        Ok((result.return_value, result.data_size_out as usize))
    }

    /// One of the object's programs.
    ///
    /// # Errors
    /// [`DataplaneError::NoProgram`] where there is none of that name.
    pub fn xdp(&self, name: &str) -> Result<&Xdp, DataplaneError> {
        let program = self.ebpf.program(name);
        let program = program.ok_or_else(|| DataplaneError::NoProgram(name.to_owned()))?;
        program.try_into().context(|| format!("program {name}"))
    }

    /// Name of the attached program, for [`Dataplane::xdp`].
    pub const fn program(&self) -> &'static str {
        self.program
    }
}
