//! Connections from the older tables to today's, while the two programs take
//! turns: links are updated one after the other.
//!
//! Both tables' free ways are held for that long, as where a table's size
//! changes (see `resize`), so that flows born meanwhile go to the overflow maps.
//! There are two of these: a record says by its tag whose hash found it, so one
//! program does not take the other's. What appears in one is brought to the
//! other at once, over and over, which takes little, for little stands there.

use std::{
    collections::{HashMap, HashSet},
    mem::offset_of,
    path::Path,
    sync::atomic::Ordering::SeqCst,
    time::Instant,
};

use aya::maps::MapInfo;
use canary_common::{
    Backend, Ctl, DIRECTORY_SLOTS, DirectoryEntry, Flow, FlowFlags, HashKeys, MAX_BACKENDS,
    MAX_SERVICES, OverflowMarks, Register, Service, Settings, deadline_passed,
};

use super::{CARRYING, beside, layout3};
use crate::{
    dataplane::{
        FlowTable, bpffs,
        directory::DirectoryMap,
        error::{Context as _, DataplaneError},
        flow_moves::{has_ended, is_held},
        flow_table::is_live,
        load::fd,
        mapping::{Mapping, Whole},
        overflow,
        resize::{FLOWS, HOLD_SECONDS, OVERFLOW, is_lasting, open_map, open_mapping, open_table},
    },
    plan::directory,
};

/// `BPF_NOEXIST` of linux/bpf.h: what a program has written stays.
const IF_NONE: u64 = 1;

/// What the carrying works on.
pub(super) struct Carry {
    old: FlowTable,
    new: FlowTable,
    keys: HashKeys,
    /// Both programs'.
    pub(super) settings: Mapping<Settings>,
    /// Of the new overflow map.
    marks: Mapping<OverflowMarks>,
    services: Mapping<Service>,
    hz: u32,
    /// Records that the overflow maps may take of us; the rest is for flows born
    /// meanwhile.
    old_room: usize,
    new_room: usize,
    pub(super) begun: Instant,
}

impl Carry {
    pub(super) fn open(bpffs: &Path, hz: u32) -> Result<Self, DataplaneError> {
        let room = |name: &str| {
            let path = bpffs::map_path(bpffs, name);
            let info = MapInfo::from_pin(&path).context(|| format!("opening {}", path.display()));
            info.map(|info| info.max_entries() as usize / 2)
        };
        let settings: Mapping<Settings> = open_mapping(bpffs, "SETTINGS", 1)?;
        Ok(Self {
            old: open_table(bpffs, FLOWS, OVERFLOW)?,
            new: open_table(bpffs, &beside(FLOWS), &beside(OVERFLOW))?,
            keys: settings.read(0).keys,
            settings,
            marks: open_mapping(bpffs, &beside("OVERFLOWED"), 1)?,
            services: open_mapping(bpffs, layout3::SERVICES, MAX_SERVICES)?,
            hz,
            old_room: room(OVERFLOW)?,
            new_room: room(&beside(OVERFLOW))?,
            begun: Instant::now(),
        })
    }

    /// Whether links may be on either program.
    pub(super) fn is_begun(&self) -> bool {
        self.settings.read(0).abi == CARRYING
    }

    /// Services, backends and directory to the register. All numbers stay.
    ///
    /// # Errors
    /// Where a map cannot be opened, or the directory has no place for a key.
    pub(super) fn register(&self, bpffs: &Path) -> Result<(), DataplaneError> {
        let map = open_map(bpffs, &beside("REGISTER"))?;
        let register = Whole::new::<Register>(fd(&map)).context(|| "mapping REGISTER")?;
        let services: Mapping<Service> =
            Mapping::part(&register, offset_of!(Register, services), MAX_SERVICES);
        for number in 0..MAX_SERVICES {
            services.write(number, &self.services.read(number));
        }
        let before: Mapping<Backend> = open_mapping(bpffs, layout3::BACKENDS, MAX_BACKENDS)?;
        let backends: Mapping<Backend> =
            Mapping::part(&register, offset_of!(Register, backends), MAX_BACKENDS);
        for number in 0..MAX_BACKENDS {
            backends.write(number, &before.read(number));
        }
        let before: Mapping<DirectoryEntry> =
            open_mapping(bpffs, layout3::DIRECTORY, 2 * DIRECTORY_SLOTS)?;
        let half = layout3::slots_of_half(self.settings.read(0).reserved);
        let named = layout3::named(half.map(|slot| before.read(slot)));
        let built = directory::build(&named, &self.keys).context(|| "building the directory")?;
        DirectoryMap::of(&register).switch_to(&built, &directory::ports(&named));
        Ok(())
    }

    /// Makes the new tables what the old ones are, while no program uses them:
    /// of flows that last, or `whole`.
    pub(super) fn mirror(&self, now: u32, whole: bool) {
        let (mut others, mut overflown) = (0, HashSet::new());
        let mut each = |flow: &Flow, ctl: Ctl| {
            if deadline_passed(flow.deadline, now) {
                return;
            }
            // What was copied before may have changed since.
            if let Some(found) = self.new.find(&flow.key, &self.keys, now) {
                self.new.leave(&found);
            }
            let flow = layout3::to_current(flow, ctl, &self.keys);
            let lasts = is_lasting(ctl.state());
            if lasts && self.new.place(&flow, &self.keys) {
                return;
            }
            others += usize::from(!lasts);
            if (lasts || others <= self.new_room) && self.overflow(&flow, 0) {
                overflown.insert(flow.key);
            }
        };
        self.old.each_record(0..self.old.buckets(), |_, _, flow, ctl| {
            if !is_held(flow) && (whole || is_lasting(ctl.state())) {
                each(flow, ctl);
            }
        });
        if !whole {
            return;
        }
        for flow in live(&self.old) {
            each(&flow, Ctl(flow.ctl));
        }
        // Of flows that were there at the first copy and are elsewhere now.
        self.new.drop_overflow(|flow| !overflown.contains(&flow.key), |_| ());
    }

    /// See the module. Flows that would make room for others do not: closed ones,
    /// of which there are many, are shown as established, and what has not begun
    /// goes to the overflow map itself.
    pub(super) fn hold(&self, now: u32) {
        self.old.keep_closed();
        let deadline = now.wrapping_add(HOLD_SECONDS * self.hz);
        let mut spilled = live(&self.old).len();
        self.old.hold(now, deadline, &mut |flow, ctl| {
            let flow = Flow { ctl: ctl.0, ..*flow };
            spilled += 1;
            spilled <= self.old_room && self.overflow_old(&flow, 0)
        });
        self.new.keep_closed();
        let mut spilled = live(&self.new).len();
        self.new.hold(now, deadline, &mut |flow, ctl| {
            let flow = Flow { ctl: ctl.0, ..*flow };
            spilled += 1;
            spilled <= self.new_room && self.overflow(&flow, 0)
        });
    }

    /// Brings what is in one program's overflow map alone to the other's: flows
    /// that began since the last time.
    pub(super) fn bridge(&self, now: u32) {
        let (theirs, ours) = (live(&self.old), live(&self.new));
        let keys = |flows: &[Flow]| flows.iter().map(|flow| flow.key).collect::<HashSet<_>>();
        let (known_there, known_here) = (keys(&theirs), keys(&ours));
        for flow in theirs.iter().filter(|flow| !known_here.contains(&flow.key)) {
            if self.new.find(&flow.key, &self.keys, now).is_none() {
                self.overflow(&layout3::to_current(flow, Ctl(flow.ctl), &self.keys), IF_NONE);
            }
        }
        for flow in ours.iter().filter(|flow| !known_there.contains(&flow.key)) {
            let hash = layout3::hash(&flow.key, &self.keys);
            if self.old.find_at(hash, &flow.key, now).is_none() {
                self.overflow_old(&layout3::from_current(flow, &self.keys), IF_NONE);
            }
        }
    }

    /// Brings the new tables to where the old ones are, while programs may use
    /// them: whichever saw a flow's later moves. How many flows last.
    pub(super) fn join(&self, now: u32) -> u64 {
        let there: HashMap<_, _> = live(&self.new).iter().map(|flow| (flow.key, *flow)).collect();
        let mut lasting = 0;
        let mut each = |flow: &Flow, ctl: Ctl| {
            if !is_held(flow) && !deadline_passed(flow.deadline, now) {
                lasting += u64::from(is_lasting(ctl.state()) && !has_ended(ctl.flags()));
                let flow = layout3::to_current(flow, ctl, &self.keys);
                self.join_one(&flow, there.get(&flow.key), now);
            }
        };
        self.old.each_record(0..self.old.buckets(), |_, _, flow, ctl| each(flow, ctl));
        for flow in live(&self.old) {
            each(&flow, Ctl(flow.ctl));
        }
        lasting
    }

    /// `overflown` is its record in the new overflow map.
    fn join_one(&self, flow: &Flow, overflown: Option<&Flow>, now: u32) {
        let (ctl, times) = (Ctl(flow.ctl), (now, self.closing(flow)));
        if let Some(overflown) = overflown {
            // To a record there the program writes under our eyes; in the table
            // that is made out by compare-and-swap.
            self.new.bring_home(overflown, &self.keys, times);
        }
        if let Some(found) = self.new.find(&flow.key, &self.keys, now) {
            let guessed = found.ctl.has(FlowFlags::MIDSTREAM) && !ctl.has(FlowFlags::MIDSTREAM);
            if guessed && found.flow.backend != flow.backend {
                // Picked before its record was brought over, and wrongly.
                self.new.leave(&found);
                self.new.place(flow, &self.keys);
            } else {
                self.new.merge(found, flow, ctl, times);
            }
        } else if overflown.is_none() && !self.new.place(flow, &self.keys) {
            self.overflow(flow, IF_NONE);
        }
    }

    /// Gives back what was held in the new table; the old one goes.
    pub(super) fn release(&self) {
        self.new.release();
        self.new.let_closed_go();
    }

    /// From the overflow map into the table what lasts, where there is room.
    pub(super) fn bring_home(&self, now: u32) {
        for flow in live(&self.new) {
            if is_lasting(Ctl(flow.ctl).state()) && !deadline_passed(flow.deadline, now) {
                self.new.bring_home(&flow, &self.keys, (now, self.closing(&flow)));
            }
        }
    }

    /// A record into the new overflow map. `false` where the kernel refuses.
    fn overflow(&self, flow: &Flow, how: u64) -> bool {
        let done = self.new.lock().insert(flow.key, flow, how).is_ok();
        if done {
            overflow::mark(&self.settings, &self.marks, flow.key.hash(&self.keys));
        }
        done
    }

    /// The same into the old one, in which its program looks for all flows once
    /// one is there.
    fn overflow_old(&self, flow: &Flow, how: u64) -> bool {
        let done = self.old.lock().insert(flow.key, flow, how).is_ok();
        if done {
            self.settings.half_word(0, offset_of!(Settings, overflowed)).store(1, SeqCst);
        }
        done
    }

    /// How long a closed flow lingers, in jiffies.
    fn closing(&self, flow: &Flow) -> u32 {
        let number = u32::from(flow.key.service);
        if number < self.services.len() { self.services.read(number).timeouts.closing } else { 0 }
    }
}

/// What is in use of a table's overflow map.
fn live(table: &FlowTable) -> Vec<Flow> {
    let mut flows = table.read_overflow().unwrap_or_default();
    flows.retain(|flow| is_live(Ctl(flow.ctl)));
    flows
}
