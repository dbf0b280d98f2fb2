//! Another size of the flow table while packets go on: the flows are carried
//! over to a table beside the old one, and the program that uses it is put in
//! place of the one that runs.
//!
//! Links are updated one after the other, so for a moment a flow's two
//! directions may be seen by two programs with a table each. So that both know
//! every flow by then, established ones are in both tables, and no way of either
//! may be taken: free ones are held, and closed flows are shown as established,
//! marked by their FINs or RST. So flows born in that moment go to the overflow
//! map, which the two programs share. What each noted in its own table is brought
//! together when the last packet has left the old program.
//!
//! The new table's pin tells the next daemon how far this one came:
//! `FLOWS_next` while no program uses it, `FLOWS_switch` from before the first
//! link is updated until all is carried over, then `FLOWS`, by one rename.

use std::{
    collections::HashSet,
    fs,
    mem::offset_of,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use aya::maps::{HashMap, Map, MapData, MapInfo};
use canary_common::{
    Ctl, Flow, FlowKey, FlowState, HashKeys, MAX_CELLS, MAX_SERVICES, OverflowMarks, Register,
    Service, Settings, deadline_passed,
};

use super::{
    FlowTable, bpffs,
    error::{Context as _, DataplaneError},
    flow_moves::{has_ended, is_held},
    flow_table::is_live,
    load::{buckets_of, fd, flows_of},
    mapping::{Mapping, Whole},
    object::Object,
    overflow,
};

/// The new table while flows are copied.
pub(super) const NEXT: &str = "FLOWS_next";
/// The new table while links are updated.
pub(super) const SWITCH: &str = "FLOWS_switch";
pub(super) const FLOWS: &str = "FLOWS";
pub(super) const OVERFLOW: &str = "OVERFLOW";
/// How long ways stay out of use where nobody gives them back: a daemon that
/// was killed in the middle. Until then new flows go to the overflow map.
pub(super) const HOLD_SECONDS: u32 = 300;
/// From one look at what happened since to the next, while links are updated.
const PAUSE: Duration = Duration::from_micros(100);

/// How far to go: where a test has a daemon killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Flows were copied.
    Copied,
    /// Free ways are held.
    Held,
    /// The new table's pin says that links are being updated.
    Marked,
    /// The first link was updated.
    OneLink,
    /// All links were.
    AllLinks,
    /// What the old program noted last was copied.
    Merged,
    /// Ways are free again.
    Released,
    /// All of it.
    Done,
}

/// What the moving works on. The two tables share all but their ways.
struct Move {
    old: FlowTable,
    new: FlowTable,
    keys: HashKeys,
    settings: Mapping<Settings>,
    marks: Mapping<OverflowMarks>,
    services: Mapping<Service>,
    hz: u32,
    /// Records that the overflow map may take of us.
    room: usize,
}

/// Takes back what a daemon left that ended before any link was updated.
///
/// # Errors
/// Where a pin cannot be opened or removed.
pub(super) fn give_up_unfinished(bpffs: &Path) -> Result<(), DataplaneError> {
    let next = bpffs::map_path(bpffs, NEXT);
    if !next.exists() {
        return Ok(());
    }
    let table = open_table(bpffs, FLOWS, OVERFLOW)?;
    table.release();
    table.let_closed_go();
    // What was copied to the overflow map beside its record in the table.
    let mut stand = HashSet::new();
    table.each_record(0..table.buckets(), |_, _, flow, _| {
        stand.insert(flow.key);
    });
    table.drop_overflow(|flow| stand.contains(&flow.key), |_| ());
    remove(&next)
}

/// Whether links may be on either table.
pub(super) fn is_under_way(bpffs: &Path) -> bool {
    bpffs::map_path(bpffs, SWITCH).exists()
}

/// Refuses a size that has no room for the flows there are, before anything is
/// changed.
///
/// # Errors
/// [`DataplaneError::TooSmall`] with the numbers.
pub(super) fn check_room(bpffs: &Path, buckets: u32, now: u32) -> Result<(), DataplaneError> {
    let table = open_table(bpffs, FLOWS, OVERFLOW)?;
    let mut live = 0;
    let lasting = |flow: &Flow, ctl: Ctl| {
        let state = ctl.state();
        is_lasting(state) && !deadline_passed(flow.deadline, now) && !is_held(flow)
    };
    table.each_record(0..table.buckets(), |_, _, flow, ctl| live += u64::from(lasting(flow, ctl)));
    let overflown = table.read_overflow().unwrap_or_default();
    live += overflown.iter().filter(|flow| lasting(flow, Ctl(flow.ctl))).count() as u64;
    let room = flows_of(buckets);
    if live > room {
        let path = bpffs.to_owned();
        return Err(DataplaneError::TooSmall { path, live, room, now: flows_of(table.buckets()) });
    }
    Ok(())
}

/// Carries the flows over from `FLOWS` to the table pinned under `from`, which
/// `object` was loaded with, and puts its program on all links.
///
/// # Errors
/// Where the kernel refuses. The next start goes on from there.
pub(super) fn carry_over(
    bpffs: &Path,
    object: &mut Object,
    from: &str,
    until: Step,
) -> Result<(), DataplaneError> {
    let begun = Instant::now();
    let now = object.now()?;
    let moving = Move::open(bpffs, from, object.hz)?;
    let reached = |step: Step| step >= until;
    let before = flows_of(moving.old.buckets());
    moving.copy(now);
    if reached(Step::Copied) {
        return Ok(());
    }
    moving.hold(now);
    let held = Instant::now();
    moving.copy(object.now()?);
    moving.keep_closed();
    if reached(Step::Held) {
        return Ok(());
    }
    if from == NEXT {
        rename(bpffs, NEXT, SWITCH)?;
    }
    if reached(Step::Marked) {
        return Ok(());
    }
    update_links(bpffs, object, until, || moving.keep_closed())?;
    if reached(Step::AllLinks) {
        return Ok(());
    }
    wait_for_old_program();
    let carried = moving.copy(object.now()?);
    if reached(Step::Merged) {
        return Ok(());
    }
    moving.new.release();
    moving.new.let_closed_go();
    if reached(Step::Released) {
        return Ok(());
    }
    moving.bring_home(object.now()?);
    rename(bpffs, SWITCH, FLOWS)?;
    tracing::info!(
        "the flow table has room for {} flows now, before it had for {before}; {carried} \
         connections were carried over in {:?}, {:?} of that on two tables",
        flows_of(moving.new.buckets()),
        begun.elapsed(),
        held.elapsed(),
    );
    Ok(())
}

impl Move {
    fn open(bpffs: &Path, new: &str, hz: u32) -> Result<Self, DataplaneError> {
        let settings: Mapping<Settings> = open_mapping(bpffs, "SETTINGS", 1)?;
        let register = open_map(bpffs, "REGISTER")?;
        let register = Whole::new::<Register>(fd(&register)).context(|| "mapping REGISTER")?;
        let overflow = bpffs::map_path(bpffs, OVERFLOW);
        let overflow = MapInfo::from_pin(&overflow).context(|| "opening OVERFLOW")?;
        let open = |name| open_table(bpffs, name, OVERFLOW);
        let (old, new) = (open(FLOWS)?, open(new)?);
        Ok(Self {
            old,
            new,
            keys: settings.read(0).keys,
            settings,
            marks: open_mapping(bpffs, "OVERFLOWED", 1)?,
            services: Mapping::part(&register, offset_of!(Register, services), MAX_SERVICES),
            hz,
            // The rest is for flows born meanwhile.
            room: overflow.max_entries() as usize / 2,
        })
    }

    /// Established flows to the new table, and what is known of those that stand
    /// there already; closed ones that are kept too, where there is room. How many
    /// are established.
    fn copy(&self, now: u32) -> u64 {
        let mut overflown = self.overflown();
        let mut lasting = 0;
        self.old.each_record(0..self.old.buckets(), |_, _, flow, ctl| {
            if is_held(flow) || deadline_passed(flow.deadline, now) {
                return;
            }
            let lasts = is_lasting(ctl.state()) && !has_ended(ctl.flags());
            lasting += u64::from(lasts);
            let mut flow = *flow;
            flow.ctl = ctl.0;
            if let Some(found) = self.new.find(&flow.key, &self.keys, now) {
                self.new.merge(found, &flow, ctl, (now, self.closing(&flow)));
            } else if is_lasting(ctl.state())
                && !overflown.contains(&flow.key)
                && !self.new.place(&flow, &self.keys)
                && lasts
                && overflown.len() < self.room
                && self.overflow(&flow)
            {
                overflown.insert(flow.key);
            }
        });
        lasting + overflown.len() as u64
    }

    /// Has no way taken, see the module. Flows that have not begun would make
    /// room for others: they go to the overflow map themselves, where both
    /// programs find them. Not those that are closed: of them there are many.
    fn hold(&self, now: u32) {
        self.keep_closed();
        let deadline = now.wrapping_add(HOLD_SECONDS * self.hz);
        let mut overflown = self.overflown();
        for table in [&self.new, &self.old] {
            table.hold(now, deadline, &mut |flow, ctl| {
                let mut flow = *flow;
                flow.ctl = ctl.0;
                let is_there = overflown.contains(&flow.key);
                if !is_there && (overflown.len() >= self.room || !self.overflow(&flow)) {
                    return false;
                }
                overflown.insert(flow.key);
                if std::ptr::eq(table, &self.old)
                    && let Some(copy) = self.new.find(&flow.key, &self.keys, now)
                {
                    self.new.leave(&copy);
                }
                true
            });
        }
    }

    fn keep_closed(&self) {
        self.old.keep_closed();
        self.new.keep_closed();
    }

    /// From the overflow map back into the table, where there is room.
    fn bring_home(&self, now: u32) {
        for flow in self.new.read_overflow().unwrap_or_default() {
            let ctl = Ctl(flow.ctl);
            if !is_lasting(ctl.state()) || deadline_passed(flow.deadline, now) {
                continue;
            }
            self.new.bring_home(&flow, &self.keys, (now, self.closing(&flow)));
        }
    }

    /// Puts a record into the overflow map as the program does: first the
    /// record, then the marks by which it is looked for.
    fn overflow(&self, flow: &Flow) -> bool {
        if self.old.lock().insert(flow.key, flow, 0).is_err() {
            return false;
        }
        overflow::mark(&self.settings, &self.marks, flow.key.hash(&self.keys));
        true
    }

    /// Keys in the overflow map.
    fn overflown(&self) -> HashSet<FlowKey> {
        let flows = self.old.read_overflow().unwrap_or_default();
        flows.iter().filter(|flow| is_live(Ctl(flow.ctl))).map(|flow| flow.key).collect()
    }

    /// How long a closed flow lingers, in jiffies.
    fn closing(&self, flow: &Flow) -> u32 {
        let number = u32::from(flow.key.service);
        if number < self.services.len() { self.services.read(number).timeouts.closing } else { 0 }
    }
}

/// Whether a flow lasts: those that begin or end make room for others.
pub(super) const fn is_lasting(state: FlowState) -> bool {
    matches!(state, FlowState::Established | FlowState::Answered)
}

/// Puts the program on all links, or on the first where `until` says so. The
/// kernel takes milliseconds for each, in which flows begin and end: `meanwhile`
/// is done before, and over and over until the last link.
///
/// # Errors
/// Where the kernel refuses.
pub(super) fn update_links(
    bpffs: &Path,
    object: &mut Object,
    until: Step,
    meanwhile: impl Fn() + Sync,
) -> Result<(), DataplaneError> {
    let links = bpffs::links(bpffs)?;
    let count = if until <= Step::OneLink { 1 } else { links.len() };
    meanwhile();
    let updating = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while updating.load(Relaxed) {
                meanwhile();
                std::thread::sleep(PAUSE);
            }
        });
        let done = links.iter().take(count).try_for_each(|path| object.put_on(path));
        updating.store(false, Relaxed);
        done
    })
}

/// Until no packet is in a program that was replaced: an RCU grace period, which
/// is what `MEMBARRIER_CMD_GLOBAL` waits for (kernel/sched/membarrier.c).
pub(super) fn wait_for_old_program() {
    const GLOBAL: libc::c_int = 1;
    // SAFETY: no pointers.
    let failed = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) } != 0;
    if failed {
        // Kernels with `nohz_full` refuse; there it has been long enough by then.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

pub(super) fn open_map(bpffs: &Path, name: &str) -> Result<MapData, DataplaneError> {
    let path = bpffs::map_path(bpffs, name);
    MapData::from_pin(&path).context(|| format!("opening {}", path.display()))
}

pub(super) fn open_mapping<T: aya::Pod>(
    bpffs: &Path,
    name: &str,
    len: u32,
) -> Result<Mapping<T>, DataplaneError> {
    let map = open_map(bpffs, name)?;
    Mapping::new(fd(&map), len).context(|| format!("mapping {name} into memory"))
}

/// A flow table that is pinned as `name`, with an overflow map that is pinned as
/// `overflow`.
///
/// # Errors
/// Where one of them is missing, or the kernel refuses.
pub(super) fn open_table(
    bpffs: &Path,
    name: &str,
    overflow: &str,
) -> Result<FlowTable, DataplaneError> {
    let map = Map::LruHashMap(open_map(bpffs, overflow)?);
    let overflow = HashMap::try_from(map).context(|| format!("opening {overflow}"))?;
    Ok(FlowTable {
        table: open_mapping(bpffs, name, buckets_of(bpffs, name)?)?,
        shared_cells: open_mapping(bpffs, "SHARED_CELLS", MAX_CELLS)?,
        overflow: Mutex::new(overflow),
    })
}

fn rename(bpffs: &Path, from: &str, to: &str) -> Result<(), DataplaneError> {
    let (from, to) = (bpffs::map_path(bpffs, from), bpffs::map_path(bpffs, to));
    fs::rename(&from, &to).context(|| format!("renaming {} {}", from.display(), to.display()))
}

pub(super) fn remove(path: &Path) -> Result<(), DataplaneError> {
    fs::remove_file(path).context(|| format!("removing {}", path.display()))
}
