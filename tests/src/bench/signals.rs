//! What a signal costs: requests and responses of one keep-alive connection,
//! in turns, with none, each, and all of the signals in the program.

use anyhow::Result;
use canary_common::Signals;

use super::{
    beds::{Bed, HOLDS},
    counted::{Expected, Kind},
    machine,
    packets::SWAP,
    report::{By, Section, Wanted},
    rivals::{Rival, Rivals},
    rounds::{Case, Field, alternate, section},
    wrapper::Wrapper,
};
use crate::netns::in_new_namespace;

const NONE: &str = "no signals";
const FLOWS: u32 = 4096;

/// A section a family.
///
/// # Errors
/// Without root, or where a signal was not read that should be.
pub fn sections(quick: bool) -> Result<Vec<Section>> {
    in_new_namespace(["cny-a", "cny-b"], || {
        machine::pin()?;
        [false, true].into_iter().map(|v6| measure(v6, quick)).collect()
    })
}

fn measure(v6: bool, quick: bool) -> Result<Section> {
    let (rounds, runs) = if quick { (21, 50_000) } else { (101, 100_000) };
    let mut sets = vec![(NONE, 0)];
    sets.extend(Signals::NAMES);
    sets.push(("all", Signals::ALL));
    let mut wrapper = Wrapper::load()?;
    let mut beds = Vec::new();
    let mut cases = Vec::new();
    for (number, (name, signals)) in sets.into_iter().enumerate() {
        let mut bed = Bed::with_signals(FLOWS, (v6, false), signals)?;
        bed.fill(&mut wrapper, 0)?;
        let expected = Expected::new(Kind::Exchange(signals), HOLDS);
        let case = Case::on(name, number, expected, bed.exchange()?);
        cases.push(match name {
            NONE => case,
            "all" => case.against(NONE, By::Difference, Some(Wanted::AtMost(12.0))),
            _ => case.against(NONE, By::Difference, None),
        });
        beds.push(bed);
    }
    if !v6 {
        cases.insert(0, Case::rival(SWAP, Rival::Swap, beds[0].exchange()?));
    }
    let rivals = Rivals::load(1, beds[0].vip(1))?;
    let mut field = Field { wrapper, rivals, beds };
    alternate(&mut field, &mut cases, rounds, runs)?;
    let family = if v6 { 6 } else { 4 };
    let about = format!(
        "requests and responses with data, in turns, over IPv{family}, with these signals at load \
         ({rounds} rounds of {runs}; compared: the median difference in the same round)"
    );
    section(&format!("signals-v{family}"), about, "ns", &cases)
}
