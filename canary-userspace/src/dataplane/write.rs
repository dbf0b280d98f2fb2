//! Carrying writes out. Those of one kind that follow each other go with one
//! call where the kernel has one.

use std::{
    mem::offset_of,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::atomic::Ordering,
};

use aya::maps::{Array, MapData};
use canary_common::{Backend, Fault, Guard, Service, TABLE_WORD};

use super::{
    Dataplane, batch,
    error::{Context as _, DataplaneError},
    load,
    mapping::Mapping,
};
use crate::plan::{Write, directory};

/// A Maglev table's element; see [`TABLE_WORD`].
type TableWord = [u16; TABLE_WORD];
/// `BPF_F_INNER_MAP | BPF_F_MMAPABLE`, as the program declares its inner maps.
const TABLE_FLAGS: u32 = 0x1000 | 0x400;
/// Tables that are put in place at once: each has a descriptor meanwhile, and
/// a process has 1,024 by default.
const TABLES_AT_ONCE: usize = 256;

impl Dataplane {
    /// Carries writes out, front to back; stops at the first that fails.
    ///
    /// # Errors
    /// Names the write that failed; those before it are done.
    pub fn apply(&mut self, writes: &[Write]) -> Result<(), DataplaneError> {
        for run in writes.chunk_by(goes_with) {
            match run {
                [Write::ClearCell { .. }, ..] => {
                    self.clear_cells(&run.iter().filter_map(cell_number).collect::<Vec<_>>())?;
                }
                [Write::Table { .. } | Write::DropTable { .. }, ..] => self.put_tables(run)?,
                others => others.iter().try_for_each(|write| self.write(write))?,
            }
        }
        Ok(())
    }

    fn write(&mut self, write: &Write) -> Result<(), DataplaneError> {
        match write {
            Write::ClearCell { .. } | Write::Table { .. } | Write::DropTable { .. } => {
                return self.apply(std::slice::from_ref(write));
            }
            Write::Backend { number, record } => self.backends.write(u32::from(*number), record),
            Write::Service { number, record } => {
                let after_weights = size_of_val(&record.weights);
                self.services.write_from(u32::from(*number), after_weights, record);
            }
            Write::Directory { entries } => {
                let built = directory::build(entries, &self.keys);
                let built = built.context(|| "building the directory")?;
                self.directory.switch_to(&built, &directory::ports(entries));
            }
            Write::Weights { service, weights } => {
                let word = self.services.word(u32::from(*service), offset_of!(Service, weights));
                word.store(weights.pack(), Ordering::Release);
            }
            Write::AllowInterface { ifindex } => self
                .interfaces
                .insert(*ifindex, *ifindex, None, 0)
                .context(|| format!("allowing redirects to interface number {ifindex}"))?,
            Write::ForgetPins { backends } => {
                self.flow_table.forget(backends);
            }
            Write::DropService { number } => {
                self.services.write(u32::from(*number), &Service::default());
                self.guards.write(u32::from(*number), &Guard::default());
                self.faults.write(u32::from(*number), &Fault::default());
                self.forget_steering(*number)?;
            }
            Write::DropBackend { number } => {
                self.backends.write(u32::from(*number), &Backend::default());
            }
        }
        Ok(())
    }

    fn put_tables(&mut self, run: &[Write]) -> Result<(), DataplaneError> {
        for some in run.chunks(TABLES_AT_ONCE) {
            let numbers: Vec<u32> = some.iter().filter_map(table_number).collect();
            // Arrays of maps have no delete here: an empty table is as good, and
            // one is enough.
            let empty = table(0, &[])?;
            let mut tables = Vec::new();
            for write in some {
                if let Write::Table { number, slots } = write {
                    tables.push(table(*number, slots)?);
                }
            }
            let mut filled = tables.iter();
            let fds: Vec<u32> = some
                .iter()
                .map(|write| match write {
                    Write::Table { .. } => filled.next().unwrap_or(&empty),
                    _ => &empty,
                })
                .map(|table| load::fd_of_array(table).as_raw_fd() as u32)
                .collect();
            batch::update(self.tables.fd().as_fd(), &numbers, &fds)
                .context(|| format!("putting {} Maglev tables in place", fds.len()))?;
        }
        Ok(())
    }
}

/// Whether two writes may be of one call.
const fn goes_with(a: &Write, b: &Write) -> bool {
    use Write::{ClearCell, DropTable, Table};
    matches!(
        (a, b),
        (ClearCell { .. }, ClearCell { .. })
            | (Table { .. } | DropTable { .. }, Table { .. } | DropTable { .. })
    )
}

/// Of a write that clears it.
const fn cell_number(write: &Write) -> Option<u32> {
    match write {
        Write::ClearCell { cell } => Some(*cell as u32),
        _ => None,
    }
}

/// Of a write that puts a table in place.
const fn table_number(write: &Write) -> Option<u32> {
    match write {
        Write::Table { number, .. } | Write::DropTable { number } => Some(*number as u32),
        _ => None,
    }
}

/// A table's map, filled.
fn table(number: u16, slots: &[u16]) -> Result<Array<MapData, TableWord>, DataplaneError> {
    let doing = || format!("making Maglev table {number}");
    let words = slots.len().div_ceil(TABLE_WORD).max(1) as u32;
    let table = Array::<MapData, TableWord>::create(words, TABLE_FLAGS).context(doing)?;
    let memory: Mapping<TableWord> =
        Mapping::new(load::fd_of_array(&table), words).context(doing)?;
    for (index, chunk) in slots.chunks(TABLE_WORD).enumerate() {
        // The last word is filled up with slots that are never drawn.
        let mut word = [chunk[0]; TABLE_WORD];
        word[..chunk.len()].copy_from_slice(chunk);
        memory.write(index as u32, &word);
    }
    Ok(table)
}
