//! The only place where packet pointers are made. A [`Header`] is a pointer
//! with so many bytes behind it, checked once against the packet's end; its
//! accessors are checked against that size at compile time.

use core::mem::size_of;

use aya_ebpf::programs::XdpContext;

/// Start and end of the frame's linear part.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    start: usize,
    end: usize,
}

/// `N` bytes of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Header<const N: usize>(*mut u8);

/// What may be read from a packet: any bytes are a value of it.
pub trait Word: Copy {}
impl Word for u8 {}
impl Word for u16 {}
impl Word for u32 {}
impl Word for u64 {}
impl Word for [u16; 3] {}

impl Packet {
    /// # Safety
    /// `start..end` must be the packet's bytes, readable and writable for as
    /// long as anything made of this is used.
    #[inline(always)]
    pub const unsafe fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// The packet of a run.
    #[inline(always)]
    #[must_use]
    pub fn of(ctx: &XdpContext) -> Self {
        // SAFETY: the kernel's own bounds of the frame, valid for this run.
        unsafe { Self::new(ctx.data(), ctx.data_end()) }
    }

    /// Bytes of the linear part.
    #[inline(always)]
    pub const fn bytes(&self) -> usize {
        self.end - self.start
    }

    /// `N` bytes from `offset` on, or `None` where the packet ends before.
    #[inline(always)]
    pub fn header<const N: usize>(&self, offset: usize) -> Option<Header<N>> {
        let start = self.start + offset;
        if start + N > self.end {
            return None;
        }
        Some(Header(start as *mut u8))
    }
}

impl<const N: usize> Header<N> {
    /// # Safety
    /// `start` must be that of a header of `N` bytes or more.
    #[inline(always)]
    pub const unsafe fn at(start: *mut u8) -> Self {
        Self(start)
    }

    #[inline(always)]
    pub const fn start(self) -> *mut u8 {
        self.0
    }

    /// The word at byte `AT`, as it stands in memory.
    #[inline(always)]
    pub fn get<T: Word, const AT: usize>(self) -> T {
        const { assert!(AT + size_of::<T>() <= N) };
        // SAFETY: inside the header, by the line above.
        let at = unsafe { self.0.add(AT) }.cast::<T>();
        // The BPF target's loads may be unaligned in packets, which the
        // verifier knows; an unaligned read would be taken apart into bytes.
        // Volatile: reading again is cheaper than the stack to remember.
        #[cfg(target_arch = "bpf")]
        // SAFETY: as above.
        return unsafe { at.read_volatile() };
        #[cfg(not(target_arch = "bpf"))]
        // SAFETY: as above.
        return unsafe { at.read_unaligned() };
    }

    /// `M` bytes that begin so far behind this header's start; `distance` is
    /// at most 60, a TCP header's length.
    #[inline(always)]
    pub fn after<const M: usize>(self, packet: &Packet, distance: u32) -> Option<Header<M>> {
        let start = self.0 as usize + (distance & 0x3c) as usize;
        (start + M <= packet.end).then_some(Header(start as *mut u8))
    }

    /// Bytes between the start of this header and an earlier one's.
    #[inline(always)]
    pub fn behind<const M: usize>(self, earlier: Header<M>) -> usize {
        (self.0 as usize).wrapping_sub(earlier.0 as usize)
    }

    /// Writes the word at byte `AT`, as it will stand in memory.
    #[inline(always)]
    pub fn set<T: Word, const AT: usize>(self, value: T) {
        const { assert!(AT + size_of::<T>() <= N) };
        // SAFETY: inside the header, by the line above.
        let at = unsafe { self.0.add(AT) }.cast::<T>();
        #[cfg(target_arch = "bpf")]
        // SAFETY: as above.
        unsafe {
            *at = value;
        }
        #[cfg(not(target_arch = "bpf"))]
        // SAFETY: as above.
        unsafe {
            at.write_unaligned(value);
        }
    }
}
