//! Who an address is. See [`canary_common::DirectoryKey`].

use canary_common::{DIRECTORY_GROUPS, DIRECTORY_SLOTS, DirectoryKey};

use crate::{
    atomic,
    maps::{DIRECTORY, DISPLACEMENTS, SETTINGS, hash_keys},
};

/// The number that `key` stands for.
#[inline(always)]
pub fn find(key: &DirectoryKey) -> Option<u32> {
    let settings = SETTINGS.get_ptr(0)?;
    // SAFETY: a live map value.
    let half = unsafe { atomic::load(&raw const (*settings).directory_half) } & 1;
    let probe = key.probe(hash_keys());
    let displacement = *DISPLACEMENTS.get(half * DIRECTORY_GROUPS + probe.group())?;
    let entry = DIRECTORY.get(half * DIRECTORY_SLOTS + probe.slot(displacement))?;
    let same = entry.key.address.same(&key.address)
        && entry.key.port_be == key.port_be
        && entry.key.protocol == key.protocol
        && entry.key.kind == key.kind;
    same.then_some(entry.number)
}
