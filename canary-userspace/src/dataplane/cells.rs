//! Counters, by cell.

use std::{collections::BTreeMap, os::fd::AsFd as _};

use aya::maps::IterableMap as _;
use canary_common::{Cell, Latencies, SharedCell};

use super::{
    Dataplane, batch,
    error::{Context as _, DataplaneError},
};

/// Cells that are read or cleared with one call take so much room.
const AT_ONCE: usize = 1 << 20;
/// Cells that nobody asked for are read too where they lie between others.
const GAP: u32 = 8;

impl Dataplane {
    /// A cell's counters, summed over CPUs.
    ///
    /// # Errors
    /// Where the kernel refuses the look-up.
    pub fn cell(&self, cell: u16) -> Result<(Cell, SharedCell), DataplaneError> {
        let per_cpu =
            self.cells.get(&u32::from(cell), 0).context(|| format!("reading cell {cell}"))?;
        Ok((sum(&per_cpu), self.shared_cells.read(u32::from(cell))))
    }

    /// The same of many, in ascending order, with few calls; of those that
    /// counted anything.
    ///
    /// # Errors
    /// Where the kernel refuses the look-up.
    pub fn cells(
        &self,
        cells: impl IntoIterator<Item = u16>,
    ) -> Result<BTreeMap<u16, (Cell, SharedCell)>, DataplaneError> {
        let cpus = cpus()?;
        let most = at_once(cpus) as u32;
        let mut found = BTreeMap::new();
        let mut left = cells.into_iter().map(u32::from).peekable();
        let mut asked = Vec::new();
        while let Some(first) = left.next() {
            let mut last = first;
            asked.clear();
            asked.push(first);
            while let Some(next) = left.next_if(|next| *next - last <= GAP && *next - first < most)
            {
                last = next;
                asked.push(next);
            }
            let count = last - first + 1;
            let values: Vec<Cell> = batch::range(self.cells.map().fd().as_fd(), first, count, cpus)
                .context(|| format!("reading cells {first} to {last}"))?;
            for &cell in &asked {
                let from = (cell - first) as usize * cpus;
                let counts = (sum(&values[from..from + cpus]), self.shared_cells.read(cell));
                if counts != Default::default() {
                    found.insert(cell as u16, counts);
                }
            }
        }
        Ok(found)
    }

    /// A cell's times.
    pub fn latencies(&self, cell: u16) -> Latencies {
        self.latencies.read(u32::from(cell))
    }

    /// Zeroes cells on all CPUs.
    pub(super) fn clear_cells(&mut self, cells: &[u32]) -> Result<(), DataplaneError> {
        let cpus = cpus()?;
        for some in cells.chunks(at_once(cpus)) {
            let zeroes = vec![Cell::default(); cpus * some.len()];
            batch::update(self.cells.map().fd().as_fd(), some, &zeroes)
                .context(|| format!("clearing {} cells", some.len()))?;
        }
        for &cell in cells {
            self.shared_cells.write(cell, &SharedCell::default());
            self.latencies.write(cell, &Latencies::default());
        }
        Ok(())
    }
}

fn cpus() -> Result<usize, DataplaneError> {
    aya::util::nr_cpus().map_err(|(_, error)| error).context(|| "counting CPUs")
}

fn at_once(cpus: usize) -> usize {
    (AT_ONCE / (cpus * size_of::<Cell>())).max(1)
}

fn sum(per_cpu: &[Cell]) -> Cell {
    let mut sum = Cell::default();
    per_cpu.iter().for_each(|one| sum.add(one));
    sum
}
