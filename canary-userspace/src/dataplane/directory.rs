//! The directory as the program reads it, and how it is changed: whole, and at
//! once.

use std::{mem::offset_of, sync::atomic::Ordering};

use canary_common::{DIRECTORY_GROUPS, DIRECTORY_SLOTS, DirectoryEntry, PORTS, Register};

use super::mapping::{Mapping, Whole};
use crate::plan::directory::Built;

/// The directory's parts of the register.
#[derive(Debug)]
pub(super) struct DirectoryMap {
    half: Mapping<u32>,
    /// Eight in each.
    ports: Mapping<[u8; 8]>,
    displacements: Mapping<u32>,
    entries: Mapping<DirectoryEntry>,
}

impl DirectoryMap {
    pub(super) fn of(register: &Whole) -> Self {
        Self {
            half: Mapping::part(register, offset_of!(Register, directory_half), 1),
            ports: Mapping::part(register, offset_of!(Register, ports), PORTS as u32 / 8),
            displacements: Mapping::part(
                register,
                offset_of!(Register, displacements),
                2 * DIRECTORY_GROUPS,
            ),
            entries: Mapping::part(register, offset_of!(Register, directory), 2 * DIRECTORY_SLOTS),
        }
    }

    /// Writes the half that is not in force, then switches.
    pub(super) fn switch_to(&self, built: &Built, ports: &[u8]) {
        let in_force = self.half.half_word(0, 0);
        let other = (in_force.load(Ordering::Acquire) & 1) ^ 1;
        for (i, displacement) in (0..).zip(&built.displacements) {
            self.displacements.write(other * DIRECTORY_GROUPS + i, displacement);
        }
        for (i, entry) in (0..).zip(&built.entries) {
            self.entries.write(other * DIRECTORY_SLOTS + i, entry);
        }
        // A port too many costs a look-up that finds nothing, one too few would
        // hide a service.
        self.write_ports(ports, |now, new| now | new);
        in_force.store(other, Ordering::Release);
        self.write_ports(ports, |_, new| new);
    }

    fn write_ports(&self, ports: &[u8], merged: impl Fn(u8, u8) -> u8) {
        for (i, new) in (0..).zip(ports.as_chunks::<8>().0) {
            let now = self.ports.read(i);
            let next = std::array::from_fn(|port| merged(now[port], new[port]));
            if next != now {
                self.ports.write(i, &next);
            }
        }
    }
}
