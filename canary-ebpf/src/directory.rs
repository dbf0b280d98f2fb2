//! Who an address is, and what is known of a service or a backend: see
//! [`canary_common::Register`].

use canary_common::{
    Backend, DIRECTORY_GROUPS, DIRECTORY_SLOTS, DirectoryEntry, DirectoryKey, Register, Service,
};

use crate::{
    atomic,
    maps::{REGISTER, hash_keys},
};

/// The register, looked up once in a function.
#[derive(Clone, Copy, Debug)]
pub struct Host(*mut Register);

/// `N` things in a row in the register: the one with this number. By addition:
/// an array map puts the number on the stack and takes it from there, which the
/// next address waits for.
#[inline(always)]
fn element<T, const N: usize>(row: *mut [T; N], number: usize) -> Option<*mut T> {
    // The compiler may know better than the verifier how large it can be.
    let number = atomic::unknown(number);
    if number >= N {
        return None;
    }
    // SAFETY: inside the row, by the line above.
    Some(unsafe { row.cast::<T>().add(number) })
}

impl Host {
    /// `None` only in the eyes of the verifier.
    #[inline(always)]
    #[must_use]
    pub fn get() -> Option<Self> {
        REGISTER.get_ptr_mut(0).map(Self)
    }

    /// A service's record. The daemon changes it under our eyes, word by word.
    #[inline(always)]
    #[must_use]
    pub fn service(self, number: u16) -> Option<&'static Service> {
        // SAFETY: a part of a live map value.
        let services = unsafe { &raw mut (*self.0).services };
        // SAFETY: in a live map value, and any bytes are one of the record.
        element(services, usize::from(number)).map(|service| unsafe { &*service })
    }

    /// A backend's record. See [`Self::service`].
    #[inline(always)]
    #[must_use]
    pub fn backend(self, number: u16) -> Option<&'static Backend> {
        // SAFETY: a part of a live map value.
        let backends = unsafe { &raw mut (*self.0).backends };
        // SAFETY: in a live map value, and any bytes are one of the record.
        element(backends, usize::from(number)).map(|backend| unsafe { &*backend })
    }

    /// The number that `key` stands for.
    #[inline(always)]
    #[must_use]
    pub fn find(self, key: &DirectoryKey) -> Option<u16> {
        // SAFETY: a part of a live map value.
        let port = element(unsafe { &raw mut (*self.0).ports }, usize::from(key.port_be))?;
        // SAFETY: in a live map value.
        if unsafe { atomic::load(port) } & key.port_bit() == 0 {
            return None;
        }
        let probe = key.probe(hash_keys());
        // SAFETY: a part of a live map value.
        let half = unsafe { atomic::load(&raw const (*self.0).directory_half) } & 1;
        let displacement = self.displacement(half * DIRECTORY_GROUPS + probe.group())?;
        let entry = self.entry(half * DIRECTORY_SLOTS + probe.slot(displacement))?;
        entry.is_of(key).then_some(entry.number as u16)
    }

    #[inline(always)]
    fn displacement(self, number: u32) -> Option<u32> {
        const BOTH: usize = 2 * DIRECTORY_GROUPS as usize;
        // SAFETY: a part of a live map value.
        let all = unsafe { &raw mut (*self.0).displacements }.cast::<[u32; BOTH]>();
        // SAFETY: in a live map value.
        element(all, number as usize).map(|displacement| unsafe { atomic::load(displacement) })
    }

    /// Of the half in force nothing is changed.
    #[inline(always)]
    fn entry(self, number: u32) -> Option<&'static DirectoryEntry> {
        const BOTH: usize = 2 * DIRECTORY_SLOTS as usize;
        // SAFETY: a part of a live map value.
        let all = unsafe { &raw mut (*self.0).directory }.cast::<[DirectoryEntry; BOTH]>();
        // SAFETY: in a live map value, and any bytes are one of the record.
        element(all, number as usize).map(|entry| unsafe { &*entry })
    }
}
