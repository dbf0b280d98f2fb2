//! Changes, until they are in force.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use canary::api::{
    client::Client,
    types::{DrainStatus, Reloaded, SetDrain, SetWeight, Weight},
};

use super::{
    Effort, at_most,
    bed::{Bed, Change, FIRST},
    since,
};
use crate::bench::report::Row;

/// Milliseconds from the command to the effect.
const WEIGHT: f64 = 5.0;
const TABLES: f64 = 50.0;
/// Between two looks at the map.
const LOOK: Duration = Duration::from_micros(20);
const PATIENCE: Duration = Duration::from_secs(20);

/// Has `change` made and looks at the first service's weight word meanwhile:
/// milliseconds until it is another.
fn until_in_force(bed: &Bed, change: impl FnOnce() -> Result<()>) -> Result<f64> {
    let service = bed.in_force()?;
    let (before, failed) = (service.word(), AtomicBool::new(false));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            while begun.elapsed() < PATIENCE && !failed.load(Ordering::Relaxed) {
                if service.word() != before {
                    return Ok(since(begun));
                }
                std::thread::sleep(LOOK);
            }
            bail!("the change did not come into force")
        });
        let changed = change();
        failed.store(changed.is_err(), Ordering::Relaxed);
        let seen = watch.join().map_err(|_| anyhow::anyhow!("the watch panicked"))?;
        changed.and(seen)
    })
}

/// By the API, and by the command line.
pub(super) fn weight(bed: &Bed, effort: Effort) -> Result<Vec<Row>> {
    let client = Client::new(&bed.daemon.socket);
    let path = format!("/v1/services/{FIRST}/weight");
    let (mut by_api, mut by_command) = (Vec::new(), Vec::new());
    for round in 0..effort.rounds {
        let split = 0.01 * (round + 1) as f64;
        by_api.push(until_in_force(bed, || {
            let Weight { split: now, .. } = client.put(&path, &SetWeight { split })?;
            ensure!((now - split).abs() < 1e-6, "{now} in place of {split}");
            Ok(())
        })?);
        let percent = format!("{}%", 50 + round);
        by_command
            .push(until_in_force(bed, || bed.daemon.cli(&["weight", FIRST, &percent]).map(drop))?);
    }
    let name = bed.shape.name;
    Ok(vec![
        at_most(format!("{name}: API"), &by_api, WEIGHT)?,
        at_most(format!("{name}: command"), &by_command, WEIGHT)?,
    ])
}

/// Drains one of many backends, and takes it back.
pub(super) fn tables(bed: &Bed, effort: Effort) -> Result<Row> {
    let client = Client::new(&bed.daemon.socket);
    let path = format!("/v1/services/{FIRST}/drain");
    let mut times = Vec::new();
    for round in 0..effort.rounds {
        let target = Bed::far(0, 7 + round / 2).to_string();
        let order = SetDrain { target, drain: round % 2 == 0 };
        times.push(until_in_force(bed, || {
            let DrainStatus { backends, .. } = client.put(&path, &order)?;
            ensure!(backends.len() == 1, "{backends:?} drained");
            Ok(())
        })?);
    }
    at_most(bed.shape.name, &times, TABLES)
}

/// Reloads of small and large changes.
pub(super) fn reload(bed: &Bed, effort: Effort) -> Result<Vec<Row>> {
    let kinds = [
        ("nothing changed", 0),
        ("a backend of 1 service is another", 1),
        ("a backend of each service is another", 512),
    ];
    kinds.iter().map(|(name, services)| Row::of(*name, &reloads(bed, *services, effort)?)).collect()
}

fn reloads(bed: &Bed, services: usize, effort: Effort) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    // There and back: an even number leaves it as it was.
    for round in 0..effort.rounds.next_multiple_of(2) {
        let services = if round % 2 == 0 { services } else { 0 };
        bed.rewrite(Change { services })?;
        let (took, changes) = reload_once(&bed.daemon.socket)?;
        let expected = times.is_empty() || services > 0;
        ensure!(changes >= services || !expected, "{changes} of {services} services changed");
        times.push(took);
    }
    Ok(times)
}

fn reload_once(socket: &Path) -> Result<(f64, usize)> {
    let begun = Instant::now();
    let Reloaded { changes } = Client::new(socket).post("/v1/reload").context("reloading")?;
    Ok((since(begun), changes.len()))
}
