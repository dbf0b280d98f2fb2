//! Another `flows` at a restart: the flow table is carried over under traffic.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use canary::dataplane::{OpenOptions, Step, carry_until};
use canary_tests::lab::{Stage, Traffic, at, config, wait_for};

const SOON: Duration = Duration::from_secs(20);

fn top(flows: u32) -> String {
    format!("flows = {flows}")
}

/// Starts the daemon with room for so many flows.
fn restart(bed: &mut Stage, flows: u32) -> Result<()> {
    bed.daemon.kill();
    fs::write(&bed.daemon.config, config(&bed.lab, &top(flows), ""))?;
    bed.daemon.restart(&bed.lab)?;
    let capacity = bed.daemon.status()?.data_plane.flows.capacity;
    ensure!(capacity == u64::from(flows), "room for {capacity}: {}", bed.daemon.said());
    Ok(())
}

#[test]
fn a_restart_changes_the_room_for_flows() {
    let body = || {
        let mut bed = Stage::new("resize", &top(4096), "")?;
        let traffic = Traffic::start(&bed, 100, 300)?;
        for flows in [65_536, 1024, 524_288, 4096] {
            restart(&mut bed, flows)?;
            std::thread::sleep(Duration::from_millis(300));
        }
        traffic.end(&bed)?;
        let said = bed.daemon.said();
        let carried: Vec<_> = said.lines().filter(|l| l.contains("carried over")).collect();
        ensure!(carried.len() == 4, "{said}");
        bed.end()
    };
    body().unwrap();
}

/// Wherever a daemon is killed on the way, the next one goes on from there.
#[test]
fn a_start_goes_on_from_where_one_was_killed() {
    let body = || {
        // Between a daemon's death and the next one's work all that is new stands
        // in the overflow map, beside the closed: with fewer flows it has 1,024
        // places, of which each CPU keeps 128 to itself, and is pushed out of them.
        let mut bed = Stage::new("resume", &top(32_768), "")?;
        let traffic = Traffic::start(&bed, 60, 200)?;
        let steps = [
            Step::Copied,
            Step::Held,
            Step::Marked,
            Step::OneLink,
            Step::AllLinks,
            Step::Merged,
            Step::Released,
        ];
        let mut room = 32_768;
        for (number, step) in steps.into_iter().enumerate() {
            bed.daemon.kill();
            let next = if room == 32_768 { 16_384 } else { 32_768 };
            let options = OpenOptions {
                bpffs: bed.lab.bpffs(),
                flows: next,
                log: false,
                signals: 0,
                sole: true,
            };
            at(&bed.lab, "lb", || carry_until(&options, step))?
                .with_context(|| format!("{step:?}"))?;
            // The one that is killed has no say in what the next one wants.
            room = if number % 3 == 0 { 8192 } else { next };
            restart(&mut bed, room).with_context(|| format!("after {step:?}"))?;
            let mut left = bed.lab.pins()?;
            left.retain(|name| name.starts_with("FLOWS_"));
            ensure!(left.is_empty(), "{step:?}: {left:?}");
        }
        traffic.end(&bed)?;
        bed.end()
    };
    body().unwrap();
}

/// Fewer than there are connections is refused before anything is changed.
#[test]
fn too_small_a_table_is_refused() {
    let body = || {
        let mut bed = Stage::new("toosmall", &top(4096), "")?;
        let traffic = Traffic::start(&bed, 70, 100)?;
        bed.daemon.kill();
        let before = bed.lab.pins()?;
        let options =
            OpenOptions { bpffs: bed.lab.bpffs(), flows: 64, log: false, signals: 0, sole: true };
        let refused = at(&bed.lab, "lb", || carry_until(&options, Step::Done))?;
        let refused = refused.err().context("it was not refused")?.to_string();
        for part in ["live connections (and room for 4096)", "asks room for (64)"] {
            ensure!(refused.contains(part), "{refused}");
        }
        ensure!(bed.lab.pins()? == before, "pins: {:?}, before {before:?}", bed.lab.pins()?);
        restart(&mut bed, 4096)?;
        traffic.end(&bed)?;
        wait_for("the daemon", SOON, || bed.daemon.status().is_ok())?;
        bed.end()
    };
    body().unwrap();
}
