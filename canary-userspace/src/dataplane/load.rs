//! Loading the object, and adopting the maps of an earlier daemon.

use std::{mem::offset_of, os::fd::BorrowedFd, path::Path, sync::Arc, sync::Mutex};

use aya::{
    Ebpf, EbpfLoader, Pod, include_bytes_aligned,
    maps::{Array, Map, MapData, MapInfo},
    programs::Xdp,
};
use canary_common::{
    ABI, HashKeys, MAX_BACKENDS, MAX_CELLS, MAX_SERVICES, Register, Settings, WAYS,
};

use super::{
    Dataplane, FlowTable, OpenOptions, bpffs,
    directory::DirectoryMap,
    error::{Context as _, DataplaneError},
    mapping::{Mapping, Whole},
};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/canary.bpf.o"));

/// The benchmark's programs; the daemon has no use for them.
pub const BENCH_OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench.bpf.o"));

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

/// Programs that are run by the daemon, never attached.
const TOOLS: [&str; 2] = ["canary_where", "canary_clock"];

/// Ways per flow of the configured room: with half of the ways in use, one
/// flow in thirty finds its bucket full and goes to the overflow map.
const WAYS_PER_FLOW: u32 = 2;
/// The overflow map's share of the configured room.
const OVERFLOW_SHARE: u32 = 8;
/// What of it flows may have that are not established.
const YOUNG_SHARE: u32 = 2;

pub(super) fn open(options: &OpenOptions) -> Result<Dataplane, DataplaneError> {
    bpffs::prepare(&options.bpffs)?;
    let lock = options.sole.then(|| bpffs::PinsLock::take(&options.bpffs)).transpose()?;
    let earlier = earlier_settings(&options.bpffs)?;
    let adopted = earlier.is_some();
    let buckets = match earlier_buckets(&options.bpffs)? {
        Some(buckets) => {
            warn_of_size(buckets, options.flows);
            buckets
        }
        None => buckets_for(options.flows),
    };
    let settings = match earlier {
        Some(settings) => settings,
        None => new_settings()?,
    };
    let hz = jiffies_per_second();
    let mut ebpf = load_object(options, &settings.keys, hz, buckets)?;
    let program = load_programs(&mut ebpf)?;
    let log = if options.log { Some(start_log(&mut ebpf)?) } else { None };
    let mut plane =
        assemble(ebpf, options, Loaded { program, adopted, hz, buckets, log, settings, lock })?;
    if adopted {
        // Earlier daemons' maps may have none.
        plane.overflow_is_unknown();
        plane.renew_overflow_marks();
    } else {
        plane.settings.write(0, &settings);
    }
    // Whoever followed did so through an earlier daemon.
    plane.follow(0);
    Ok(plane)
}

/// What the steps before know.
struct Loaded {
    program: &'static str,
    adopted: bool,
    hz: u32,
    buckets: u32,
    log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
    settings: Settings,
    lock: Option<bpffs::PinsLock>,
}

fn assemble(
    mut ebpf: Ebpf,
    options: &OpenOptions,
    loaded: Loaded,
) -> Result<Dataplane, DataplaneError> {
    let flow_table = FlowTable {
        table: mapping(&mut ebpf, "FLOWS", loaded.buckets)?,
        shared_cells: mapping(&mut ebpf, "SHARED_CELLS", MAX_CELLS)?,
        overflow: Mutex::new(typed(&mut ebpf, "OVERFLOW")?),
    };
    // A second mapping of the same memory, for the daemon's own thread.
    let shared_cells = {
        let path = bpffs::map_path(&options.bpffs, "SHARED_CELLS");
        let doing = || format!("opening {}", path.display());
        let map = MapData::from_pin(&path).context(doing)?;
        Mapping::new(fd(&map), MAX_CELLS).context(doing)?
    };
    let register = {
        let Map::Array(map) = take(&mut ebpf, "REGISTER")? else {
            return Err(DataplaneError::NoMap("REGISTER"));
        };
        Whole::new::<Register>(fd(&map)).context(|| "mapping REGISTER into memory")?
    };
    Ok(Dataplane {
        program: loaded.program,
        bpffs: options.bpffs.clone(),
        adopted: loaded.adopted,
        hz: loaded.hz,
        keys: loaded.settings.keys,
        settings: mapping(&mut ebpf, "SETTINGS", 1)?,
        services: Mapping::part(&register, offset_of!(Register, services), MAX_SERVICES),
        backends: Mapping::part(&register, offset_of!(Register, backends), MAX_BACKENDS),
        directory: DirectoryMap::of(&register),
        tables: array_of_maps(&mut ebpf, "TABLES")?,
        cells: typed(&mut ebpf, "CELLS")?,
        reasons: typed(&mut ebpf, "REASONS")?,
        latencies: mapping(&mut ebpf, "LATENCIES", MAX_CELLS)?,
        interfaces: typed(&mut ebpf, "INTERFACES")?,
        faults: mapping(&mut ebpf, "FAULTS", MAX_SERVICES)?,
        guards: mapping(&mut ebpf, "GUARDS", MAX_SERVICES)?,
        steer_v4: typed(&mut ebpf, "STEER_V4")?,
        steer_v6: typed(&mut ebpf, "STEER_V6")?,
        events: Some(typed(&mut ebpf, "EVENTS")?),
        flow_table: Arc::new(flow_table),
        shared_cells,
        overflow_marks: mapping(&mut ebpf, "OVERFLOWED", 1)?,
        links: Vec::new(),
        log: loaded.log,
        _lock: loaded.lock,
        ebpf,
    })
}

fn load_object(
    options: &OpenOptions,
    keys: &HashKeys,
    hz: u32,
    buckets: u32,
) -> Result<Ebpf, DataplaneError> {
    let mask = buckets - 1;
    let young = overflow_for(buckets) / YOUNG_SHARE;
    let young_mask = young - 1;
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
        .map_max_entries("OVERFLOW", overflow_for(buckets))
        .map_max_entries("YOUNG", young);
    for name in PINNED {
        loader.map_pin_path(name, bpffs::map_path(&options.bpffs, name));
    }
    loader.load(OBJECT).context(|| "loading the eBPF object")
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

fn start_log(
    ebpf: &mut Ebpf,
) -> Result<aya_log::EbpfLogger<&'static dyn log::Log>, DataplaneError> {
    aya_log::EbpfLogger::init(ebpf).context(|| "opening the program's log")
}

/// The settings record of pinned maps; an error where they are of another
/// layout.
fn earlier_settings(bpffs: &Path) -> Result<Option<Settings>, DataplaneError> {
    let path = bpffs::map_path(bpffs, "SETTINGS");
    if !path.exists() {
        return Ok(None);
    }
    let doing = || format!("opening {}", path.display());
    let info = MapInfo::from_pin(&path).context(doing)?;
    let other = |found| DataplaneError::Layout { path: bpffs.to_owned(), found, ours: ABI };
    if info.value_size() as usize != size_of::<Settings>() {
        return Err(other(0));
    }
    let map = MapData::from_pin(&path).context(doing)?;
    let settings = Mapping::<Settings>::new(fd(&map), 1).context(doing)?.read(0);
    // A daemon that was killed while it made the maps left them unused.
    if settings.abi == 0 {
        super::bpffs::unpin(bpffs)?;
        return Ok(None);
    }
    if settings.abi == ABI { Ok(Some(settings)) } else { Err(other(settings.abi)) }
}

/// Size of a pinned flow table: its pins are worth more than a new size.
fn earlier_buckets(bpffs: &Path) -> Result<Option<u32>, DataplaneError> {
    let path = bpffs::map_path(bpffs, "FLOWS");
    if !path.exists() {
        return Ok(None);
    }
    let info = MapInfo::from_pin(&path).context(|| format!("opening {}", path.display()))?;
    Ok(Some(info.max_entries()))
}

fn warn_of_size(buckets: u32, flows: u32) {
    if buckets != buckets_for(flows) {
        tracing::warn!(
            "the flow table that was taken over has room for {} flows and keeps it; another \
             `flows` needs new maps, after `canary detach`",
            flows_of(buckets)
        );
    }
}

/// Buckets for so many flows, a power of two.
fn buckets_for(flows: u32) -> u32 {
    (flows.saturating_mul(WAYS_PER_FLOW) / WAYS as u32).next_power_of_two().max(2)
}

/// The inverse: flows that so many buckets have room for.
pub(super) const fn flows_of(buckets: u32) -> u64 {
    buckets as u64 * WAYS as u64 / WAYS_PER_FLOW as u64
}

fn overflow_for(buckets: u32) -> u32 {
    (buckets * WAYS as u32 / WAYS_PER_FLOW / OVERFLOW_SHARE).max(1024)
}

fn new_settings() -> Result<Settings, DataplaneError> {
    let mut secret = [0; 24];
    getrandom::fill(&mut secret).map_err(|error| DataplaneError::Operation {
        doing: "drawing the flow table's secret".to_owned(),
        reason: error.to_string().into(),
    })?;
    let mut keys = HashKeys::default();
    for (word, bytes) in keys.words.iter_mut().zip(secret.chunks_exact(4)) {
        *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    Ok(Settings { abi: ABI, keys, ..Settings::default() })
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

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, DataplaneError> {
    ebpf.take_map(name).ok_or(DataplaneError::NoMap(name))
}

fn typed<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, DataplaneError>
where
    T: TryFrom<Map>,
{
    T::try_from(take(ebpf, name)?).map_err(|_| DataplaneError::NoMap(name))
}

fn array_of_maps(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, DataplaneError> {
    let Map::ArrayOfMaps(map) = take(ebpf, name)? else { return Err(DataplaneError::NoMap(name)) };
    Ok(map)
}

fn mapping<T: Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
    len: u32,
) -> Result<Mapping<T>, DataplaneError> {
    let Map::Array(map) = take(ebpf, name)? else { return Err(DataplaneError::NoMap(name)) };
    Mapping::new(fd(&map), len).context(|| format!("mapping {name} into memory"))
}

fn fd(map: &MapData) -> BorrowedFd<'_> {
    use std::os::fd::AsFd as _;
    map.fd().as_fd()
}

/// The descriptor of a map made here.
pub(super) fn fd_of_array<V: Pod>(array: &Array<MapData, V>) -> BorrowedFd<'_> {
    use aya::maps::IterableMap as _;
    fd(array.map())
}
