//! Atomic words in map values. `core::sync::atomic` has neither
//! compare-and-swap nor loads for the BPF target, so these are instructions
//! of our own there (Linux 5.12: BPF_CMPXCHG and fetch-add, both fully ordered).

/// One aligned read that the compiler neither splits nor repeats.
///
/// # Safety
/// `word` points to a live, aligned map value.
#[inline(always)]
pub unsafe fn load<T: Copy>(word: *const T) -> T {
    // SAFETY: the caller's.
    unsafe { core::ptr::read_volatile(word) }
}

/// One aligned write that the compiler neither splits nor repeats.
///
/// # Safety
/// `word` points to a live, aligned map value.
#[inline(always)]
pub unsafe fn store<T: Copy>(word: *mut T, value: T) {
    // SAFETY: the caller's.
    unsafe { core::ptr::write_volatile(word, value) }
}

/// Puts `new` where `old` stands; gives what stood there.
///
/// # Safety
/// `word` points to a live map value, 8-byte aligned.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub unsafe fn compare_exchange(word: *mut u64, old: u64, new: u64) -> u64 {
    let found;
    // SAFETY: the caller's; the instruction's operands are fixed by the ISA
    // (comparison and result in r0).
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {new})",
            word = in(reg) word,
            new = in(reg) new,
            inlateout("r0") old => found,
        );
    }
    found
}

/// Adds to a word that other CPUs and user space add to.
///
/// # Safety
/// `word` points to a live map value, 8-byte aligned.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub unsafe fn add(word: *mut u64, value: u64) {
    // SAFETY: the caller's.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({word} + 0) += {value}",
            word = in(reg) word,
            value = in(reg) value,
        );
    }
}

/// Sets bits of a word in which other CPUs and user space set some.
///
/// # Safety
/// `word` points to a live map value, 8-byte aligned.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub unsafe fn or(word: *mut u64, bits: u64) {
    // SAFETY: the caller's.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({word} + 0) |= {bits}",
            word = in(reg) word,
            bits = in(reg) bits,
        );
    }
}

/// As [`add`]; gives what stood there.
///
/// # Safety
/// `word` points to a live map value, 8-byte aligned.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub unsafe fn fetch_add(word: *mut u64, value: u64) -> u64 {
    let mut found = value;
    // SAFETY: the caller's.
    unsafe {
        core::arch::asm!(
            "{found} = atomic_fetch_add((u64 *)({word} + 0), {found})",
            word = in(reg) word,
            found = inout(reg) found,
        );
    }
    found
}

/// The same number, of which the compiler knows nothing any more: a check of
/// its bounds stays where the verifier, which knows less, needs it.
#[inline(always)]
pub fn unknown(number: usize) -> usize {
    #[allow(unused_mut, reason = "only the BPF target changes it")]
    let mut number = number;
    #[cfg(target_arch = "bpf")]
    // SAFETY: the number stays what it was. An instruction, and not a comment,
    // for one of no length has no place in the line information.
    unsafe {
        core::arch::asm!(
            "{number} = {number}",
            number = inout(reg) number,
            options(pure, nomem, nostack),
        );
    }
    number
}

/// See above.
///
/// # Safety
/// `word` points to a live value, 8-byte aligned.
#[cfg(not(target_arch = "bpf"))]
pub unsafe fn compare_exchange(word: *mut u64, old: u64, new: u64) -> u64 {
    use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
    // SAFETY: the caller's.
    let word = unsafe { AtomicU64::from_ptr(word) };
    word.compare_exchange(old, new, SeqCst, SeqCst).unwrap_or_else(|found| found)
}

/// See above.
///
/// # Safety
/// `word` points to a live value, 8-byte aligned.
#[cfg(not(target_arch = "bpf"))]
pub unsafe fn add(word: *mut u64, value: u64) {
    use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
    // SAFETY: the caller's.
    unsafe { AtomicU64::from_ptr(word) }.fetch_add(value, SeqCst);
}

/// See above.
///
/// # Safety
/// `word` points to a live value, 8-byte aligned.
#[cfg(not(target_arch = "bpf"))]
pub unsafe fn fetch_add(word: *mut u64, value: u64) -> u64 {
    use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
    // SAFETY: the caller's.
    unsafe { AtomicU64::from_ptr(word) }.fetch_add(value, SeqCst)
}

/// See above.
///
/// # Safety
/// `word` points to a live value, 8-byte aligned.
#[cfg(not(target_arch = "bpf"))]
pub unsafe fn or(word: *mut u64, bits: u64) {
    use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
    // SAFETY: the caller's.
    unsafe { AtomicU64::from_ptr(word) }.fetch_or(bits, SeqCst);
}
