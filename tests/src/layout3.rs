//! Pins as a canary of layout 3 left them, made of this one's: its program is
//! not here, so the one that is attached goes on by itself, on maps that have no
//! pins any more.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapInfo},
};
use canary_common::{
    Backend, Bucket, Ctl, DIRECTORY_GROUPS, DIRECTORY_SLOTS, DirectoryEntry, Flow, FlowKey,
    FlowState, HashKeys, MAX_BACKENDS, MAX_SERVICES, Register, Service, Settings, WAYS,
};

use crate::register::mapped;

const LAYOUT: u32 = 3;
/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 0x400;
/// Of today's maps those that it did not have, or had otherwise.
const NEWER: [&str; 5] = ["REGISTER", "FLOWS", "OVERFLOW", "OVERFLOWED", "YOUNG"];
/// One flow in so many stands in the overflow map, as if its bucket were full.
const OVERFLOWS: usize = 10;

/// Makes the pins in this directory, which no daemon uses, those of layout 3.
/// How many flows there are.
///
/// # Errors
/// Where a map cannot be opened, made or pinned.
pub fn make(bpffs: &Path) -> Result<usize> {
    let mut settings: Array<_, Settings> = Array::try_from(open(bpffs, "SETTINGS")?)?;
    let now = settings.get(&0, 0)?;
    let flows = flows(bpffs)?;
    let room = MapInfo::from_pin(bpffs.join("OVERFLOW"))?.max_entries();
    let buckets = buckets(bpffs)?;
    let register = mapped(&bpffs.join("REGISTER"))?;
    for name in NEWER {
        fs::remove_file(bpffs.join(name)).with_context(|| format!("removing {name}"))?;
    }
    put_register(bpffs, register)?;
    put_flows(bpffs, &flows, (buckets, room), &now.keys)?;
    let half = register.directory_half;
    settings.set(0, Settings { abi: LAYOUT, reserved: half, overflowed: 1, ..now }, 0)?;
    Ok(flows.len())
}

/// Has the pins say that they are of this layout.
///
/// # Errors
/// Where the map cannot be opened or written.
pub fn relabel(bpffs: &Path, layout: u32) -> Result<()> {
    let mut settings: Array<_, Settings> = Array::try_from(open(bpffs, "SETTINGS")?)?;
    let now = settings.get(&0, 0)?;
    Ok(settings.set(0, Settings { abi: layout, ..now }, 0)?)
}

fn open(bpffs: &Path, name: &str) -> Result<Map> {
    let map = MapData::from_pin(bpffs.join(name)).with_context(|| format!("opening {name}"))?;
    Ok(Map::Array(map))
}

fn buckets(bpffs: &Path) -> Result<u32> {
    let table: Array<_, Bucket> = Array::try_from(open(bpffs, "FLOWS")?)?;
    Ok(table.len())
}

/// What lives, in the table and beside it.
fn flows(bpffs: &Path) -> Result<Vec<Flow>> {
    let table: Array<_, Bucket> = Array::try_from(open(bpffs, "FLOWS")?)?;
    let mut flows = Vec::new();
    for number in 0..table.len() {
        flows.extend(table.get(&number, 0)?.ways);
    }
    let beside = MapData::from_pin(bpffs.join("OVERFLOW"))?;
    let beside: HashMap<_, FlowKey, Flow> = HashMap::try_from(Map::LruHashMap(beside))?;
    flows.extend(beside.iter().filter_map(|entry| entry.ok().map(|(_, flow)| flow)));
    flows.retain(|flow| !matches!(Ctl(flow.ctl).state(), FlowState::Free | FlowState::Claimed));
    Ok(flows)
}

/// Services, backends and directory in maps of their own. Where entries stand in
/// a half goes by the hash, which nobody asks for who builds it anew.
fn put_register(bpffs: &Path, register: &Register) -> Result<()> {
    let services = array::<Service>(bpffs, "SERVICES", MAX_SERVICES)?;
    fill(services, register.services.iter(), |service| service.flags != 0)?;
    let backends = array::<Backend>(bpffs, "BACKENDS", MAX_BACKENDS)?;
    fill(backends, register.backends.iter(), |backend| backend.flags != 0)?;
    array::<u32>(bpffs, "DISPLACEMENTS", 2 * DIRECTORY_GROUPS)?;
    let directory = array::<DirectoryEntry>(bpffs, "DIRECTORY", 2 * DIRECTORY_SLOTS)?;
    fill(directory, register.directory.as_flattened().iter(), |entry| entry.key.kind != 0)
}

fn fill<'a, T: Pod>(
    mut array: Array<MapData, T>,
    values: impl Iterator<Item = &'a T>,
    is_there: impl Fn(&T) -> bool,
) -> Result<()> {
    for (number, value) in (0..).zip(values).filter(|(_, value)| is_there(value)) {
        array.set(number, *value, 0)?;
    }
    Ok(())
}

fn put_flows(
    bpffs: &Path,
    flows: &[Flow],
    (buckets, room): (u32, u32),
    keys: &HashKeys,
) -> Result<()> {
    let mut table = vec![Bucket::default(); buckets as usize];
    // It was one that evicts, which is for a program alone to notice.
    let mut beside = HashMap::<MapData, FlowKey, Flow>::create(room, 0)?;
    for (number, flow) in flows.iter().enumerate() {
        let key = &flow.key;
        let extra = u32::from(key.client_port_be) << 16 | u32::from(key.service);
        let hash = keys.hash(&key.client, extra);
        let before = Ctl(flow.ctl);
        let ctl = Ctl(0).claimed(Ctl::tag_of(hash)).with(before.state(), before.flags());
        let flow = Flow { ctl: ctl.0, ..*flow };
        let bucket = &mut table[Bucket::index(hash, buckets - 1) as usize];
        let mut ways = (0..WAYS).map(|i| (Bucket::first_way(hash) + i) % WAYS);
        let free = ways.find(|way| bucket.ways[*way].ctl == 0);
        match free.filter(|_| number % OVERFLOWS != 0) {
            Some(way) => bucket.ways[way] = flow,
            None => beside.insert(key, flow, 0)?,
        }
    }
    beside.pin(bpffs.join("OVERFLOW"))?;
    let pinned = array::<Bucket>(bpffs, "FLOWS", buckets)?;
    fill(pinned, table.iter(), |bucket| bucket.ways.iter().any(|flow| flow.ctl != 0))
}

fn array<T: Pod>(bpffs: &Path, name: &str, len: u32) -> Result<Array<MapData, T>> {
    let (path, doing) = (bpffs.join(name), || format!("making {name}"));
    let array: Array<MapData, T> = Array::create(len, MMAPABLE).with_context(doing)?;
    array.pin(&path).with_context(doing)?;
    Array::try_from(open(bpffs, name)?).with_context(doing)
}
