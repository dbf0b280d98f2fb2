//! An upgrade from a canary whose maps have another layout, under traffic.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use canary::dataplane::{OpenOptions, Step, carry_until};
use canary_tests::lab::{Lab, Stage, Traffic, at, built};

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

/// The last canary of layout 3, built from commit 42960ff or 7126fb8's parent,
/// at work; then this one, also killed at each step and started again.
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
