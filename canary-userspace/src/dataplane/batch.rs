//! Many elements of a map with one call: `bpf(2)` with `BPF_MAP_…_BATCH` (Linux
//! 5.6, of per-CPU arrays and arrays of maps 5.14), which aya has no words for.
//!
//! Each update of an array of maps by itself waits for an RCU grace period,
//! 10 to 100 ms; a batch waits once.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use aya::Pod;

/// Of `enum bpf_cmd` in linux/bpf.h.
const LOOKUP_BATCH: libc::c_long = 24;
const UPDATE_BATCH: libc::c_long = 26;
/// Elements that a look-up asks for at once.
const AT_ONCE: usize = 4096;

/// The part of `union bpf_attr` for batches.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    /// Elements there are, or there is room for; after the call, those done.
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

const _: () = assert!(size_of::<Attributes>() == 56);

/// # Safety
/// The attributes' pointers lead to as much memory as the map's element sizes
/// and `count` say, writable where the command writes.
unsafe fn call(command: libc::c_long, attributes: &mut Attributes) -> io::Result<()> {
    let size = size_of::<Attributes>();
    // SAFETY: the attributes live, and the caller vouches for what they name.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn address<T>(slice: &[T]) -> u64 {
    slice.as_ptr() as u64
}

/// Sets elements of an array. `values` has an element's value for each key
/// behind the other, each as long as the kernel has it.
pub(super) fn update<V: Pod>(map: BorrowedFd<'_>, keys: &[u32], values: &[V]) -> io::Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    assert!(values.len().is_multiple_of(keys.len()), "values do not go with keys");
    let mut attributes = Attributes {
        keys: address(keys),
        values: address(values),
        count: keys.len() as u32,
        map_fd: map.as_raw_fd() as u32,
        ..Attributes::default()
    };
    // SAFETY: as many keys as the count says, and each one's value.
    unsafe { call(UPDATE_BATCH, &mut attributes) }
}

/// `count` elements of an array from `first` on, as `values_each` values each: of
/// a per-CPU array, one for every CPU there may be.
pub(super) fn range<V: Pod>(
    map: BorrowedFd<'_>,
    first: u32,
    count: u32,
    values_each: usize,
) -> io::Result<Vec<V>> {
    // SAFETY: V is Pod: zeroes are a value of it.
    let no_value: V = unsafe { std::mem::zeroed() };
    let mut values = vec![no_value; count as usize * values_each];
    let mut keys = vec![0_u32; count as usize];
    // The kernel goes on behind the place it is given.
    let (before, mut next) = (first.wrapping_sub(1), 0_u32);
    let mut attributes = Attributes {
        in_batch: if first == 0 { 0 } else { &raw const before as u64 },
        out_batch: &raw mut next as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count,
        map_fd: map.as_raw_fd() as u32,
        ..Attributes::default()
    };
    // SAFETY: room for as many keys and values as the count says.
    match unsafe { call(LOOKUP_BATCH, &mut attributes) } {
        // The array's end.
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ if attributes.count < count => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(values),
    }
}

/// All values of a hash map, as they stand while this reads: what comes or goes
/// meanwhile may be among them or not. `K` is the map's key.
pub(super) fn values<K: Pod, V: Pod>(map: BorrowedFd<'_>) -> io::Result<Vec<V>> {
    let mut found = Vec::new();
    // SAFETY: V is Pod: zeroes are a value of it.
    let no_value: V = unsafe { std::mem::zeroed() };
    let mut room = AT_ONCE;
    // Where the kernel goes on; it needs no more than a key's size, at least 4.
    let (mut from, mut next) = ([0_u64; 16], [0_u64; 16]);
    let mut is_first = true;
    loop {
        let (mut keys, mut values) = (vec![0_u8; size_of::<K>() * room], vec![no_value; room]);
        let mut attributes = Attributes {
            in_batch: if is_first { 0 } else { address(&from) },
            out_batch: next.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: room as u32,
            map_fd: map.as_raw_fd() as u32,
            ..Attributes::default()
        };
        // SAFETY: room for as many keys and values as the count says, and for
        // the place in the map.
        let done = unsafe { call(LOOKUP_BATCH, &mut attributes) };
        match done {
            // A bucket of the map has more elements than there was room for.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                room *= 2;
                continue;
            }
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            _ => found.extend_from_slice(&values[..attributes.count as usize]),
        }
        if done.is_err() {
            // `ENOENT`: that was the end.
            return Ok(found);
        }
        (from, is_first) = (next, false);
    }
}
