//! Maps of an older layout, whose connections are carried over to this one's
//! while packets go on.
//!
//! Maps that are the same in both layouts stay, and both programs use them:
//! counters, times, Maglev tables, guards, drills, steering, interfaces, and the
//! settings, whose word `abi` tells how far it came: the older layout's number
//! while no program uses the new maps, [`CARRYING`] from before the first link
//! is updated, [`canary_common::ABI`] when all is done. The new maps are pinned
//! beside the older ones until then, under names that end in [`BESIDE`]. An
//! older daemon refuses [`CARRYING`] as it refuses any layout that it does not
//! know.
//!
//! A layout has a place here as long as somebody may come from it.

mod carry;
mod layout3;

use std::{
    borrow::Cow, fs, mem::offset_of, path::Path, sync::atomic::Ordering::SeqCst, time::Instant,
};

use canary_common::{ABI, HashKeys, Settings};

use super::{
    OpenOptions, bpffs,
    error::{Context as _, DataplaneError},
    load::{buckets_for, buckets_of},
    mapping::Mapping,
    object::Object,
    resize::{self, FLOWS, OVERFLOW, Step, open_mapping, open_table, remove},
};
use carry::Carry;

/// Maps that this layout has anew, or has otherwise. The flow table first: once
/// it has its name everything is carried over.
const ANEW: [&str; 5] = [FLOWS, OVERFLOW, "OVERFLOWED", "YOUNG", "REGISTER"];
/// What their pins' names end in until then.
const BESIDE: &str = "_new";
/// In place of a layout's number while links are updated: from which to which.
const CARRYING: u32 = layout3::ABI << 16 | ABI;

/// The name that a map of this layout is pinned under meanwhile.
pub(super) fn beside(name: &str) -> Cow<'_, str> {
    if ANEW.contains(&name) { format!("{name}{BESIDE}").into() } else { name.into() }
}

/// Whether maps that say this of themselves can be carried over.
pub(super) const fn is_known(abi: u32) -> bool {
    matches!(abi, layout3::ABI | CARRYING)
}

/// Carries over what is pinned, with the flow table of the size that is asked
/// for; as far as `until`. The object that its links are on then; `None` where
/// all but the names was done by an earlier start.
///
/// # Errors
/// Where the kernel refuses, or the flow table would be too small. Then nothing
/// was changed, or the next start goes on from there.
pub(super) fn adopt(
    options: &OpenOptions,
    keys: &HashKeys,
    until: Step,
) -> Result<Option<Object>, DataplaneError> {
    let bpffs = &options.bpffs;
    let settings = settings(bpffs)?;
    if abi(&settings) == CARRYING {
        tracing::warn!("an earlier start ended while it carried connections over; going on");
        if !bpffs::map_path(bpffs, &beside(FLOWS)).exists() {
            return finish(bpffs, &settings).map(|()| None);
        }
        let buckets = buckets_of(bpffs, &beside(FLOWS))?;
        let mut object = Object::load_as(options, keys, &beside, buckets)?;
        carry_over(bpffs, &mut object, until)?;
        return Ok(Some(object));
    }
    give_up(bpffs)?;
    let buckets = buckets_for(options.flows);
    let carried = Object::load_as(options, keys, &beside, buckets).and_then(|mut object| {
        resize::check_room(bpffs, buckets, object.now()?)?;
        carry_over(bpffs, &mut object, until)?;
        Ok(Some(object))
    });
    if carried.is_err() && abi(&settings) != CARRYING {
        give_up(bpffs)?;
    }
    carried
}

/// Takes back what was begun before any link was updated: the older maps are as
/// they were but for flows that begin or end, which stand in the overflow map.
fn give_up(bpffs: &Path) -> Result<(), DataplaneError> {
    let pins = ANEW.map(|name| bpffs::map_path(bpffs, &beside(name)));
    if !pins.iter().any(|pin| pin.exists()) {
        return Ok(());
    }
    let table = open_table(bpffs, FLOWS, OVERFLOW)?;
    table.release();
    table.let_closed_go();
    pins.iter().filter(|pin| pin.exists()).try_for_each(|pin| remove(pin))
}

/// See [`adopt`].
fn carry_over(bpffs: &Path, object: &mut Object, until: Step) -> Result<(), DataplaneError> {
    let reached = |step: Step| step >= until;
    let carry = Carry::open(bpffs, object.hz)?;
    // Once: nothing is to pass between one link and the next.
    let now = object.now()?;
    if !carry.is_begun() {
        carry.register(bpffs)?;
        carry.mirror(now, false);
        if reached(Step::Copied) {
            return Ok(());
        }
    }
    carry.hold(now);
    if carry.is_begun() {
        carry.join(now);
    } else {
        carry.mirror(now, true);
    }
    if reached(Step::Held) {
        return Ok(());
    }
    carry.settings.half_word(0, offset_of!(Settings, abi)).store(CARRYING, SeqCst);
    if reached(Step::Marked) {
        return Ok(());
    }
    let updating = Instant::now();
    resize::update_links(bpffs, object, until, || carry.bridge(now))?;
    if reached(Step::AllLinks) {
        return Ok(());
    }
    let updated = updating.elapsed();
    resize::wait_for_old_program();
    let carried = carry.join(now);
    if reached(Step::Merged) {
        return Ok(());
    }
    carry.release();
    if reached(Step::Released) {
        return Ok(());
    }
    carry.bring_home(now);
    finish(bpffs, &carry.settings)?;
    tracing::info!(
        "carried {carried} connections over from maps of layout {} to layout {ABI} in {:?}; links \
         were updated within {updated:?}",
        layout3::ABI,
        carry.begun.elapsed(),
    );
    Ok(())
}

/// Gives the new maps their names, removes what is left of the older ones, and
/// says so. Can be begun again anywhere.
fn finish(bpffs: &Path, settings: &Mapping<Settings>) -> Result<(), DataplaneError> {
    for name in ANEW {
        let (from, to) = (bpffs::map_path(bpffs, &beside(name)), bpffs::map_path(bpffs, name));
        if from.exists() {
            let doing = || format!("renaming {} {}", from.display(), to.display());
            fs::rename(&from, &to).context(doing)?;
        }
    }
    let gone = layout3::GONE.map(|name| bpffs::map_path(bpffs, name));
    gone.iter().filter(|pin| pin.exists()).try_for_each(|pin| remove(pin))?;
    // The directory's half stood there.
    settings.half_word(0, offset_of!(Settings, reserved)).store(0, SeqCst);
    settings.half_word(0, offset_of!(Settings, abi)).store(ABI, SeqCst);
    Ok(())
}

fn settings(bpffs: &Path) -> Result<Mapping<Settings>, DataplaneError> {
    open_mapping(bpffs, "SETTINGS", 1)
}

fn abi(settings: &Mapping<Settings>) -> u32 {
    settings.read(0).abi
}
