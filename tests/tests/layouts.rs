//! An upgrade from a canary whose maps have another layout, under traffic.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use canary::dataplane::{OpenOptions, Step, carry_until};
use canary_tests::{
    lab::{Lab, Stage, Traffic, at, built},
    layout3,
};

const STEPS: [Step; 7] = [
    Step::Copied,
    Step::Held,
    Step::Marked,
    Step::OneLink,
    Step::AllLinks,
    Step::Merged,
    Step::Released,
];

fn options(bed: &Stage, flows: u32) -> OpenOptions {
    OpenOptions { bpffs: bed.lab.bpffs(), flows, log: false, signals: 0, sole: true }
}

/// Carries over in the balancer's namespace, and stops there.
fn begin(bed: &Stage, flows: u32, until: Step) -> Result<()> {
    let options = options(bed, flows);
    at(&bed.lab, "lb", || carry_until(&options, until))?.with_context(|| format!("{until:?}"))
}

/// Only maps of today's layout are left, under their names.
fn is_done(bed: &Stage) -> Result<()> {
    let names: Vec<_> = fs::read_dir(bed.lab.bpffs())?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with("_new") || ["SERVICES", "DIRECTORY"].contains(&&**name))
        .collect();
    ensure!(names.is_empty(), "{names:?}\n{}", bed.daemon.said());
    Ok(())
}

/// Pins of layout 3 are carried over, also where a daemon is killed at any step of
/// it. The program that they are carried from is this one's, with maps of its own:
/// what it notes meanwhile is not carried over, as a real one's is (below). So no new
/// connection is under way then: with its pin gone, its server's answer would reach
/// the client as it is, whose kernel resets it at the server.
#[test]
fn connections_of_layout_3_are_carried_over() {
    let body = || {
        let mut bed = Stage::new("layouts", "flows = 4096", "")?;
        let traffic = Traffic::start(&bed, 60, 100)?;
        for step in [None].into_iter().chain(STEPS.map(Some)) {
            bed.daemon.kill();
            let held_back = traffic.hold_back();
            let flows = layout3::make(&bed.lab.bpffs())?;
            ensure!(flows >= 120, "{flows} flows");
            if let Some(step) = step {
                begin(&bed, 4096, step)?;
            }
            bed.daemon.restart(&bed.lab).with_context(|| format!("{step:?}"))?;
            drop(held_back);
            is_done(&bed).with_context(|| format!("{step:?}"))?;
        }
        let said = bed.daemon.said();
        let carried = said.lines().filter(|line| line.contains("from maps of layout 3")).count();
        ensure!(carried == 1 + STEPS.len(), "{carried} times: {said}");
        traffic.end(&bed)?;
        bed.end()
    };
    body().unwrap();
}

/// Too few flows are refused, and so is a layout that nobody knows; nothing is
/// changed by it.
#[test]
fn what_cannot_be_carried_over_is_refused() {
    let body = || {
        let mut bed = Stage::new("refused", "flows = 4096", "")?;
        let traffic = Traffic::start(&bed, 70, 50)?;
        bed.daemon.kill();
        let held_back = traffic.hold_back();
        layout3::make(&bed.lab.bpffs())?;
        let before = bed.lab.pins()?;
        let refused = |flows| begin(&bed, flows, Step::Done).err().map(|e| format!("{e:#}"));
        let said = refused(64).context("64 flows are not refused")?;
        ensure!(said.contains("asks room for (64)"), "{said}");
        for layout in [2, 5, 9 << 16 | 4] {
            layout3::relabel(&bed.lab.bpffs(), layout)?;
            let said = refused(4096).with_context(|| format!("{layout} is not refused"))?;
            ensure!(said.contains(&format!("maps of layout {layout}, this canary")), "{said}");
            ensure!(said.contains("canary detach --drain"), "{said}");
        }
        ensure!(bed.lab.pins()? == before, "pins: {:?}, before {before:?}", bed.lab.pins()?);
        layout3::relabel(&bed.lab.bpffs(), 3)?;
        bed.daemon.restart(&bed.lab)?;
        drop(held_back);
        is_done(&bed)?;
        traffic.end(&bed)?;
        bed.end()
    };
    body().unwrap();
}

/// The last canary of layout 3, built from commit 42960ff, at
/// work; then this one, also killed at each step and started again.
#[test]
#[ignore = "needs CANARY_OLDER, the path of a canary binary of layout 3"]
fn a_real_one_of_layout_3() {
    let body = || {
        let older: PathBuf =
            std::env::var_os("CANARY_OLDER").context("CANARY_OLDER is not set")?.into();
        for step in STEPS.map(Some).into_iter().chain([None, None, None]) {
            let lab = Lab::new("layout3")?;
            let mut bed = Stage::of_older(lab, &older, "flows = 4096")?;
            let traffic = Traffic::start(&bed, 100, 300)?;
            std::thread::sleep(Duration::from_secs(1));
            bed.daemon.kill();
            if let Some(step) = step {
                begin(&bed, 4096, step)?;
                std::thread::sleep(Duration::from_millis(50));
            }
            bed.daemon.binary = built("canary")?;
            bed.daemon.restart(&bed.lab)?;
            std::thread::sleep(Duration::from_secs(1));
            is_done(&bed)?;
            let said = bed.daemon.said();
            let line = said.lines().find(|line| line.contains("from maps of layout"));
            let report = traffic.end(&bed)?;
            println!("{step:?}: {report:?}\n  {}", line.unwrap_or("nothing was said of it"));
            bed.end()?;
        }
        Ok::<(), anyhow::Error>(())
    };
    body().unwrap();
}
