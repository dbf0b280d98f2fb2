//! Another `flows` at a restart: the flow table is carried over under traffic.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::{collections::HashMap, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use canary::dataplane::{Dataplane, OpenOptions, Step, carry_until};
use canary_common::{FlowKey, FlowState};
use canary_tests::lab::{
    Load, Stage, Traffic, VIP_V4, address, all_answered, at, config, wait_for,
};

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

fn options(bed: &Stage, flows: u32, sole: bool) -> OpenOptions {
    OpenOptions { bpffs: bed.lab.bpffs(), flows, log: false, signals: 0, sole }
}

/// Flows in the table alone, whatever only holds a way aside.
fn in_table(bed: &Stage) -> Result<HashMap<FlowKey, FlowState>> {
    let look = || -> Result<_> {
        let (plane, _) = Dataplane::open(&options(bed, 0, false))?;
        let (table, mut flows) = (plane.flow_table(), HashMap::new());
        // The overflow map comes with bucket 0.
        table.scan(plane.now()?, 1..table.buckets(), &mut |flow| {
            if flow.key.service != u16::MAX {
                flows.insert(flow.key, flow.ctl.state());
            }
        });
        Ok(flows)
    };
    at(&bed.lab, "lb", look)?
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
        let report = traffic.end(&bed)?;
        let said = bed.daemon.said();
        let carried: Vec<_> = said.lines().filter(|l| l.contains("carried over")).collect();
        ensure!(carried.len() == 4, "{said}");
        println!("{report:?}\n{}", carried.join("\n"));
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
            let options = options(&bed, next, true);
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

/// More closed flows than the overflow map has places for linger in their ways,
/// and none of these is taken while two tables are in use: one program's new
/// flows would be unknown to the other. Afterwards they are closed flows again.
#[test]
fn closed_flows_make_no_room_meanwhile() {
    const CLOSED: u64 = 3000;
    let body = || {
        let mut bed = Stage::new("closed", &top(4096), "")?;
        let connect = |bed: &Stage, total| {
            let load = Load::start(&bed.lab, address(VIP_V4), 1500, total);
            all_answered(&load.finish()?, total)
        };
        let closed = |flows: &HashMap<_, _>| {
            flows.values().filter(|state| **state == FlowState::Closing).count() as u64
        };
        connect(&bed, CLOSED)?;
        let before = in_table(&bed)?;
        ensure!(closed(&before) > CLOSED * 9 / 10, "{} are closed", closed(&before));

        bed.daemon.kill();
        at(&bed.lab, "lb", || carry_until(&options(&bed, 16_384, true), Step::Held))??;
        connect(&bed, 500)?;
        let meanwhile = in_table(&bed)?;
        let born = meanwhile.keys().filter(|key| !before.contains_key(key)).count();
        ensure!(born == 0, "{born} of 500 were born in the table");
        ensure!(meanwhile.len() == before.len(), "{} of {}", meanwhile.len(), before.len());

        // Taken back, and done after all.
        for flows in [4096, 16_384] {
            restart(&mut bed, flows)?;
            let after = in_table(&bed)?;
            let left = before.keys().filter(|key| after.contains_key(key)).count();
            ensure!(left == before.len(), "{flows}: {left} of {} are left", before.len());
            ensure!(closed(&after) >= closed(&before), "{flows}: {} are closed", closed(&after));
        }
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
        let options = options(&bed, 64, true);
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
