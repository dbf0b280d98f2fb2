//! Array maps mapped into memory: reads at memory speed, writes that are one
//! atomic store a word.
#![allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "a pointer into a record, and the access to it, are one thing"
)]

use std::{
    marker::PhantomData,
    os::fd::{AsRawFd as _, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use aya::Pod;
use memmap2::{MmapOptions, MmapRaw};

/// A `BPF_F_MMAPABLE` array of `T`. `T` is a record of canary-common: its size
/// is a multiple of four.
#[derive(Debug)]
pub(super) struct Mapping<T> {
    memory: Arc<MmapRaw>,
    /// Bytes before the first element, and from one to the next.
    offset: usize,
    stride: usize,
    len: u32,
    record: PhantomData<T>,
}

/// A map of one value that is mapped into memory, to be taken apart by
/// [`Mapping::part`].
#[derive(Debug)]
pub(super) struct Whole(Arc<MmapRaw>);

impl Whole {
    pub(super) fn new<T: Pod>(fd: BorrowedFd<'_>) -> std::io::Result<Self> {
        let memory = MmapOptions::new().len(size_of::<T>()).map_raw(fd.as_raw_fd())?;
        Ok(Self(Arc::new(memory)))
    }
}

impl<T: Pod> Mapping<T> {
    /// `len` elements in a row in a value, `offset` bytes in.
    ///
    /// # Panics
    /// Where the value is shorter.
    pub(super) fn part(whole: &Whole, offset: usize, len: u32) -> Self {
        const { assert!(size_of::<T>().is_multiple_of(4) && align_of::<T>() <= 4096) };
        let stride = size_of::<T>();
        assert!(offset + stride * len as usize <= whole.0.len(), "a part past the end");
        Self { memory: Arc::clone(&whole.0), offset, stride, len, record: PhantomData }
    }

    /// Maps all `len` elements of the map behind `fd`.
    pub(super) fn new(fd: BorrowedFd<'_>, len: u32) -> std::io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(4) && align_of::<T>() <= 4096) };
        // The kernel pads array elements to eight bytes.
        let stride = size_of::<T>().next_multiple_of(8);
        let memory = MmapOptions::new().len(stride * len as usize).map_raw(fd.as_raw_fd())?;
        Ok(Self { memory: Arc::new(memory), offset: 0, stride, len, record: PhantomData })
    }

    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    /// Start of an element.
    ///
    /// # Panics
    /// When `index` is not in the map.
    fn element(&self, index: u32) -> *mut u8 {
        assert!(index < self.len, "element {index} of a map of {}", self.len);
        // SAFETY: inside the mapping, by the line above.
        unsafe { self.memory.as_mut_ptr().add(self.offset + self.stride * index as usize) }
    }

    /// All 64-bit words of an element, for whoever reads most of them: one check
    /// for all.
    pub(super) fn words(&self, index: u32) -> &[AtomicU64] {
        const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() >= 8) };
        let first = self.element(index).cast::<AtomicU64>();
        // SAFETY: inside the mapping and aligned, as `T` is; all access to it is
        // atomic.
        unsafe { std::slice::from_raw_parts(first, size_of::<T>() / 8) }
    }

    /// A 64-bit word of an element, `offset` bytes in.
    pub(super) fn word(&self, index: u32, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.stride);
        // SAFETY: inside the element and aligned, by the line above and the
        // mapping's and the stride's alignment.
        let word = unsafe { self.element(index).add(offset) }.cast::<u64>();
        // SAFETY: as above; all access to the mapping is atomic.
        unsafe { AtomicU64::from_ptr(word) }
    }

    /// A 32-bit word of an element, `offset` bytes in.
    pub(super) fn half_word(&self, index: u32, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.stride);
        // SAFETY: as in `word`.
        let word = unsafe { self.element(index).add(offset) }.cast::<u32>();
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(word) }
    }

    /// A copy, word by word: each word is whole, the record may be torn.
    pub(super) fn read(&self, index: u32) -> T {
        // SAFETY: T is Pod: zeroes are a value of it.
        let mut record: T = unsafe { std::mem::zeroed() };
        let words = (&raw mut record).cast::<u32>();
        let from = self.element(index).cast::<u32>();
        for i in 0..size_of::<T>() / 4 {
            // SAFETY: inside the element and aligned, as `T` is to four bytes; all
            // access to the mapping is atomic.
            let word = unsafe { AtomicU32::from_ptr(from.add(i)) }.load(Ordering::Relaxed);
            // SAFETY: inside the record; unaligned is fine.
            unsafe { words.add(i).write_unaligned(word) };
        }
        record
    }

    /// Writes a record from byte `from` on, in 64-bit words where it has them.
    pub(super) fn write_from(&self, index: u32, from: usize, record: &T) {
        let bytes = std::ptr::from_ref(record).cast::<u8>();
        let mut at = from;
        while at + 8 <= size_of::<T>() {
            // SAFETY: inside the record; unaligned is fine.
            let word = unsafe { bytes.add(at).cast::<u64>().read_unaligned() };
            self.word(index, at).store(word, Ordering::Release);
            at += 8;
        }
        if at < size_of::<T>() {
            // SAFETY: inside the record; unaligned is fine.
            let word = unsafe { bytes.add(at).cast::<u32>().read_unaligned() };
            self.half_word(index, at).store(word, Ordering::Release);
        }
    }

    pub(super) fn write(&self, index: u32, record: &T) {
        self.write_from(index, 0, record);
    }
}
