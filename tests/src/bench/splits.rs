//! How exact a split is.

use anyhow::{Result, ensure};

use super::{
    beds::{Bed, HOLDS, OPENS},
    report::{Row, Section, Wanted},
    wrapper::Wrapper,
};
use crate::{netns::in_new_namespace, plane::TX};

/// First packets for each split, as a power of two.
const BITS: u32 = 20;
const SPLITS: [f64; 4] = [0.001, 0.01, 0.05, 0.5];
/// An exact one is further off once in sixteen thousand times.
const DEVIATIONS: f64 = 4.0;

/// The canary's share of a million flows, at each split.
///
/// # Errors
/// Without root, or where flows were not counted.
pub fn sections(_quick: bool) -> Result<Vec<Section>> {
    in_new_namespace(["cny-a", "cny-b"], || {
        let mut bed = Bed::of_two_tracks(1 << (BITS + 1))?;
        let mut wrapper = Wrapper::load()?;
        let mut shot = bed.opening(OPENS, BITS)?;
        let mut rows = Vec::new();
        for split in SPLITS {
            bed.split(split)?;
            let before = [bed.counters(HOLDS)?, bed.counters(OPENS)?];
            let flows = shot.flows();
            let ran = wrapper.run(bed.plane.path()?, &mut shot, flows)?;
            ran.answered(TX)?;
            let after = [bed.counters(HOLDS)?, bed.counters(OPENS)?];
            let [stable, canary] =
                [0, 1].map(|track| after[track].cell.connections - before[track].cell.connections);
            bed.forget(&[HOLDS, OPENS]);
            ensure!(stable + canary == u64::from(flows), "{stable} and {canary} of {flows}");
            rows.push(row(split, canary as f64, f64::from(flows))?);
        }
        let about = format!("the canary's share of {} new flows", 1 << BITS);
        let unit = "standard deviations".to_owned();
        Ok(vec![Section { name: "split".to_owned(), about, unit, rows }])
    })
}

fn row(split: f64, canary: f64, flows: f64) -> Result<Row> {
    let share = canary / flows;
    let deviation = (split * (1.0 - split) / flows).sqrt();
    let name = format!(
        "configured {:>5.1} %, {:>8.4} % of flows ({:+.3} % of it)",
        split * 100.0,
        share * 100.0,
        (share / split - 1.0) * 100.0
    );
    let deviations = ((share - split) / deviation).abs();
    Ok(Row::of(name, &[deviations])?.wanted(Wanted::AtMost(DEVIATIONS)))
}
