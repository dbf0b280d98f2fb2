//! Answers in one word, of functions that can refuse: from bit 56 on such a
//! word holds a [`Reason`] plus one, or 0 where there is an answer.

use canary_common::Reason;

const SHIFT: u32 = 56;

#[inline(always)]
pub const fn word(reason: Reason) -> u64 {
    (reason as u64 + 1) << SHIFT
}

#[inline(always)]
pub const fn reason(word: u64) -> Option<Reason> {
    match word >> SHIFT {
        0 => None,
        number => Some(Reason::from_number(number as u32 - 1)),
    }
}
