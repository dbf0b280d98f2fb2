//! Which flows may stand in the overflow map: the program looks there for no
//! others. See [`OverflowMarks`].

use std::{
    mem::{offset_of, size_of},
    sync::atomic::Ordering::SeqCst,
};

use canary_common::{HashKeys, Hashed, OverflowMarks, Settings};

use super::{FlowTable, mapping::Mapping};

/// Has the program look there for a flow, after its record was put there.
pub(super) fn mark(settings: &Mapping<Settings>, marks: &Mapping<OverflowMarks>, hash: Hashed) {
    for half in 0..2 {
        let first = offset_of!(OverflowMarks, words) + half * 8 * OverflowMarks::WORDS;
        let word = marks.word(0, first + 8 * OverflowMarks::word(hash));
        word.fetch_or(OverflowMarks::bit(hash), SeqCst);
    }
    settings.half_word(0, offset_of!(Settings, overflowed)).store(1, SeqCst);
}

/// Makes the marks anew from what is in the map, if anything has gone there
/// since the map was last found empty. Whatever overflows meanwhile is marked
/// in both halves: after the insertion, so that it is either marked here or
/// stands in the half that comes into force.
pub(super) fn renew(
    settings: &Mapping<Settings>,
    marks: &Mapping<OverflowMarks>,
    table: &FlowTable,
    keys: &HashKeys,
) {
    let used = settings.half_word(0, offset_of!(Settings, overflowed));
    if used.load(SeqCst) == 0 {
        return;
    }
    used.store(0, SeqCst);
    let half = marks.half_word(0, offset_of!(OverflowMarks, half));
    let idle = half.load(SeqCst) & 1 ^ 1;
    let word = |number: usize| {
        let first = offset_of!(OverflowMarks, words) + idle as usize * 8 * OverflowMarks::WORDS;
        marks.word(0, first + number * size_of::<u64>())
    };
    for number in 0..OverflowMarks::WORDS {
        word(number).store(0, SeqCst);
    }
    let Some(flows) = table.read_overflow() else {
        // The marks in force stay in force.
        used.store(1, SeqCst);
        return;
    };
    for flow in &flows {
        let hash = flow.key.hash(keys);
        word(OverflowMarks::word(hash)).fetch_or(OverflowMarks::bit(hash), SeqCst);
    }
    half.store(idle, SeqCst);
    if !flows.is_empty() {
        used.store(1, SeqCst);
    }
}
