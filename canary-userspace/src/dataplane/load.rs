//! Loading the object, and adopting the maps of an earlier daemon.

use std::{mem::offset_of, os::fd::BorrowedFd, path::Path, sync::Arc, sync::Mutex};

use aya::{
    Ebpf, Pod, include_bytes_aligned,
    maps::{Array, Map, MapData, MapInfo},
};
use canary_common::{
    ABI, HashKeys, MAX_BACKENDS, MAX_CELLS, MAX_SERVICES, Register, Settings, WAYS,
};

use super::{
    Dataplane, FlowTable, OpenOptions, bpffs,
    directory::DirectoryMap,
    error::{Context as _, DataplaneError},
    mapping::{Mapping, Whole},
    object::Object,
    older,
    resize::{self, FLOWS, NEXT, SWITCH, Step},
};

/// The benchmark's programs; the daemon has no use for them.
pub const BENCH_OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench.bpf.o"));

/// Ways per flow of the configured room: with half of the ways in use, one
/// flow in thirty finds its bucket full and goes to the overflow map.
const WAYS_PER_FLOW: u32 = 2;
/// The overflow map's share of the configured room.
const OVERFLOW_SHARE: u32 = 8;

pub(super) fn open(options: &OpenOptions) -> Result<Dataplane, DataplaneError> {
    bpffs::prepare(&options.bpffs)?;
    let lock = options.sole.then(|| bpffs::PinsLock::take(&options.bpffs)).transpose()?;
    let earlier = earlier_settings(options)?;
    let adopted = earlier.is_some();
    let settings = match earlier {
        Some(settings) => settings,
        None => new_settings()?,
    };
    let wanted = buckets_for(options.flows);
    let mut object = match adopted {
        true => adopt_any(options, &settings)?,
        false => Object::load(options, &settings.keys, FLOWS, wanted)?,
    };
    let log = if options.log { Some(start_log(&mut object.ebpf)?) } else { None };
    let mut plane = assemble(object, options, Loaded { adopted, log, settings, lock })?;
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

/// The object on maps of an earlier daemon, whichever layout they were made
/// with.
fn adopt_any(options: &OpenOptions, settings: &Settings) -> Result<Object, DataplaneError> {
    if settings.abi != ABI
        && let Some(object) = older::adopt(options, &settings.keys, Step::Done)?
        && object.buckets == buckets_for(options.flows)
    {
        return Ok(object);
    }
    adopt(options, &settings.keys, Step::Done)
}

/// The object on maps of an earlier daemon, whose flow table it brings to the
/// size that is asked for, or until then.
fn adopt(options: &OpenOptions, keys: &HashKeys, until: Step) -> Result<Object, DataplaneError> {
    let bpffs = &options.bpffs;
    if !options.sole {
        // Somebody else's, who may be at work on it: its size is his.
        return Object::load(options, keys, FLOWS, buckets_of(bpffs, FLOWS)?);
    }
    resize::give_up_unfinished(bpffs)?;
    let mut loaded = None;
    if resize::is_under_way(bpffs) {
        tracing::warn!("an earlier start ended while it changed the flow table's size; going on");
        let mut object = Object::load(options, keys, SWITCH, buckets_of(bpffs, SWITCH)?)?;
        resize::carry_over(bpffs, &mut object, SWITCH, Step::Done)?;
        loaded = Some(object);
    }
    let (current, wanted) = (buckets_of(bpffs, FLOWS)?, buckets_for(options.flows));
    if current == wanted {
        return loaded.map_or_else(|| Object::load(options, keys, FLOWS, current), Ok);
    }
    let carried = Object::load(options, keys, NEXT, wanted).and_then(|mut object| {
        resize::check_room(bpffs, wanted, object.now()?)?;
        resize::carry_over(bpffs, &mut object, NEXT, until)?;
        Ok(object)
    });
    if carried.is_err() {
        // What came before the links is taken back; what came after is gone on
        // from at the next start.
        resize::give_up_unfinished(bpffs)?;
    }
    carried
}

/// Begins to change the size of a flow table, or to carry connections over from
/// an older layout, and stops at a step, as a daemon that is killed there: for
/// tests.
///
/// # Errors
/// As [`Dataplane::open`].
pub fn carry_until(options: &OpenOptions, until: Step) -> Result<(), DataplaneError> {
    let _lock = options.sole.then(|| bpffs::PinsLock::take(&options.bpffs)).transpose()?;
    match earlier_settings(options)? {
        Some(earlier) if earlier.abi != ABI => {
            older::adopt(options, &earlier.keys, until).map(drop)
        }
        earlier => {
            let keys = earlier.map(|settings| settings.keys).unwrap_or_default();
            adopt(options, &keys, until).map(drop)
        }
    }
}

/// What the steps before know.
struct Loaded {
    adopted: bool,
    log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
    settings: Settings,
    lock: Option<bpffs::PinsLock>,
}

fn assemble(
    object: Object,
    options: &OpenOptions,
    loaded: Loaded,
) -> Result<Dataplane, DataplaneError> {
    let Object { mut ebpf, program, hz, buckets } = object;
    let flow_table = FlowTable {
        table: mapping(&mut ebpf, "FLOWS", buckets)?,
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
        program,
        bpffs: options.bpffs.clone(),
        adopted: loaded.adopted,
        hz,
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

fn start_log(
    ebpf: &mut Ebpf,
) -> Result<aya_log::EbpfLogger<&'static dyn log::Log>, DataplaneError> {
    aya_log::EbpfLogger::init(ebpf).context(|| "opening the program's log")
}

/// The settings record of pinned maps; an error where they are of another
/// layout, and not of one that is carried over.
fn earlier_settings(options: &OpenOptions) -> Result<Option<Settings>, DataplaneError> {
    let bpffs = &options.bpffs;
    let path = bpffs::map_path(bpffs, "SETTINGS");
    if !path.exists() {
        return Ok(None);
    }
    let doing = || format!("opening {}", path.display());
    let info = MapInfo::from_pin(&path).context(doing)?;
    let other = |found| DataplaneError::Layout { path: bpffs.clone(), found, ours: ABI };
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
    // Whoever may not change anything carries nothing over.
    let is_ours = settings.abi == ABI || options.sole && older::is_known(settings.abi);
    if is_ours { Ok(Some(settings)) } else { Err(other(settings.abi)) }
}

/// Buckets of a pinned flow table.
///
/// # Errors
/// Where there is none.
pub(super) fn buckets_of(bpffs: &Path, name: &str) -> Result<u32, DataplaneError> {
    let path = bpffs::map_path(bpffs, name);
    let info = MapInfo::from_pin(&path).context(|| format!("opening {}", path.display()))?;
    Ok(info.max_entries())
}

/// Buckets for so many flows, a power of two.
pub(super) fn buckets_for(flows: u32) -> u32 {
    (flows.saturating_mul(WAYS_PER_FLOW) / WAYS as u32).next_power_of_two().max(2)
}

/// The inverse: flows that so many buckets have room for.
pub(super) const fn flows_of(buckets: u32) -> u64 {
    buckets as u64 * WAYS as u64 / WAYS_PER_FLOW as u64
}

pub(super) fn overflow_for(buckets: u32) -> u32 {
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

pub(super) fn fd(map: &MapData) -> BorrowedFd<'_> {
    use std::os::fd::AsFd as _;
    map.fd().as_fd()
}

/// The descriptor of a map made here.
pub(super) fn fd_of_array<V: Pod>(array: &Array<MapData, V>) -> BorrowedFd<'_> {
    use aya::maps::IterableMap as _;
    fd(array.map())
}
