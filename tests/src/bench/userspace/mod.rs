//! What user space costs: changes until they are in force, scans of the flow
//! table, an idle daemon, and its start. The daemon is the real one, in
//! namespaces of its own.

mod bed;
mod change;
mod idle;
mod start;
mod table;

use std::time::Instant;

use anyhow::Result;

use super::report::{Row, Section, Wanted};
use bed::{Bed, Shape};

/// Flows that are scanned, and that an idle daemon is asked about.
const MILLION: u32 = 1 << 20;

/// How thoroughly.
#[derive(Clone, Copy, Debug)]
struct Effort {
    quick: bool,
    /// Of everything that takes milliseconds.
    rounds: usize,
}

/// Everything that is measured here.
///
/// # Errors
/// Without root, without the daemon's binary beside this one, or where the
/// daemon does not do what it is asked for.
pub fn sections(quick: bool) -> Result<Vec<Section>> {
    let effort = Effort { quick, rounds: if quick { 5 } else { 15 } };
    let mut found = Found::default();
    found.table(effort)?;
    for shape in [Shape::ONE, Shape::WIDE, Shape::DEEP] {
        found.daemon(effort, shape)?;
    }
    Ok(found.sections())
}

/// Rows by the section they belong to.
#[derive(Debug, Default)]
struct Found {
    reload: Vec<Row>,
    weight: Vec<Row>,
    tables: Vec<Row>,
    scan: Vec<Row>,
    busy: Vec<Row>,
    memory: Vec<Row>,
    start: Vec<Row>,
}

impl Found {
    fn table(&mut self, effort: Effort) -> Result<()> {
        let sizes: &[u32] = if effort.quick { &[MILLION] } else { &[MILLION, 4 * MILLION] };
        sizes.iter().try_for_each(|flows| {
            self.scan.extend(table::rows(*flows, effort)?);
            Ok(())
        })
    }

    /// All that is measured of one daemon.
    fn daemon(&mut self, effort: Effort, shape: Shape) -> Result<()> {
        let mut bed = Bed::new(shape)?;
        self.start.extend(start::rows(&mut bed, effort)?);
        if shape != Shape::DEEP {
            self.idle(&bed, shape.name, effort)?;
        }
        if shape == Shape::ONE {
            let name = format!("{}, a million flows", shape.name);
            bed.fill(MILLION)?;
            self.idle(&bed, &name, effort)?;
            self.scan.push(table::ask_for_flows(&bed, effort)?);
        }
        self.weight.extend(change::weight(&bed, effort)?);
        if shape == Shape::WIDE {
            self.reload.extend(change::reload(&bed, effort)?);
        }
        if shape == Shape::DEEP {
            self.tables.push(change::tables(&bed, effort)?);
        }
        bed.end()
    }

    fn idle(&mut self, bed: &Bed, name: &str, effort: Effort) -> Result<()> {
        self.busy.push(idle::busy(bed, name, effort)?);
        self.memory.push(idle::memory(bed, name)?);
        Ok(())
    }

    fn sections(self) -> Vec<Section> {
        let section = |name: &str, about: &str, unit: &str, rows| Section {
            name: name.to_owned(),
            about: about.to_owned(),
            unit: unit.to_owned(),
            rows,
        };
        vec![
            section(
                "reload",
                "`POST /v1/reload` with 512 services and 4,096 backends, to its answer",
                "ms",
                self.reload,
            ),
            section(
                "weight",
                "from the API's request, and from the start of `canary weight`, to the weight \
                 word's change in the kernel's map",
                "ms",
                self.weight,
            ),
            section(
                "tables",
                "from the API's request to drain a backend to the new table in force",
                "ms",
                self.tables,
            ),
            section("scan", "the flow table, as full as the room it was made for", "ms", self.scan),
            section(
                "idle",
                "an idle daemon's time on the CPU (/proc/PID/task/*/schedstat)",
                "% of a core",
                self.busy,
            ),
            section(
                "memory",
                "an idle daemon's resident memory beside its maps (Rss in /proc/PID/smaps, \
                 without anon_inode:bpf-map)",
                "MiB",
                self.memory,
            ),
            section(
                "start",
                "from the daemon's start to the first datagram at a server; where it takes over \
                 maps that forward all the time, to its first answer",
                "ms",
                self.start,
            ),
        ]
    }
}

/// Milliseconds since.
fn since(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}

/// A row whose median is to be no more than so much.
fn at_most(name: impl Into<String>, figures: &[f64], most: f64) -> Result<Row> {
    Ok(Row::of(name, figures)?.wanted(Wanted::AtMost(most)))
}
