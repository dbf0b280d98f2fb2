//! Frames that really leave, through a veth pair: packets a second of one
//! core, with what the driver and the receiver's drop take.

use anyhow::{Context as _, Result, ensure};
use canary_common::Signals;

use super::{
    beds::{Bed, HOLDS, ROOM},
    counted::{Expected, Kind},
    machine,
    packets::{LRU, SWAP},
    report::{By, Section, Wanted},
    rivals::{Rival, Rivals},
    rounds::{Case, Field, section},
    wrapper::Wrapper,
};
use crate::netns::{ifindex, in_new_namespace, ip};

/// Packets come in, and go back, by the first of these pairs; the second is
/// where they are redirected to.
const PAIRS: [[&str; 2]; 2] = [["cny-a", "cny-b"], ["cny-c", "cny-d"]];

const DROP: &str = "XDP_DROP";
const TO_BACKEND: &str = "established, to the backend (XDP_TX)";
const TO_CLIENT: &str = "established, to the client (XDP_TX)";
const REDIRECTED: &str = "established, to the backend (redirect)";

/// Of the frames sent, so many may be lost on the way: the receiver's ring is
/// full where the kernel puts its work off.
const LOST: f64 = 0.01;

/// A section for one flow, and one for a million.
///
/// # Errors
/// Without root, or where a packet was not what it should be.
pub fn sections(quick: bool) -> Result<Vec<Section>> {
    in_new_namespace(PAIRS[0], || {
        machine::pin()?;
        let [near, far] = PAIRS[1];
        ip(&["link", "add", near, "type", "veth", "peer", "name", far])?;
        for end in [near, far] {
            ip(&["link", "set", end, "up"])?;
        }
        let mut field = field()?;
        [("1", 0), ("1M", 20)]
            .into_iter()
            .map(|(name, bits)| measure(&mut field, (name, bits), quick))
            .collect()
    })
}

fn field() -> Result<Field> {
    let ingress = ifindex(PAIRS[0][0])?;
    let mut bed = Bed::bare(ROOM, (false, false), Signals::ALL, ingress)?;
    bed.one_service()?;
    let mut rivals = Rivals::load(ROOM, bed.vip(1))?;
    // Both ends: a test run's frames come in by an interface that has its
    // queues ready, and are taken at the other.
    rivals.drop_on(PAIRS.as_flattened())?;
    let mut wrapper = Wrapper::load()?;
    wrapper.ingress(ingress);
    Ok(Field { wrapper, rivals, beds: vec![bed] })
}

fn measure(field: &mut Field, (name, bits): (&str, u32), quick: bool) -> Result<Section> {
    let (rounds, runs) = if quick { (5, 1 << 19) } else { (15, 1 << 21) };
    field.beds[0].leave_by(ifindex(PAIRS[0][0])?)?;
    field.beds[0].fill(&mut field.wrapper, bits)?;
    let mut flows = field.beds[0].pinned(Kind::ToBackend, bits)?;
    field.rivals.fill(&mut field.wrapper, &mut flows)?;
    field.wrapper.live(true);
    let mut cases = cases(&field.beds[0], bits)?;
    for _ in 0..rounds {
        for case in &mut cases {
            time(field, case, runs).with_context(|| case.name.clone())?;
        }
    }
    field.wrapper.live(false);
    cases.iter_mut().for_each(Case::rates);
    let about = format!(
        "live frames over {name} flows, one core ({rounds} rounds of {runs}; in a table for 4 M)"
    );
    section(&format!("live-{name}"), about, "Mpps", &cases)
}

/// Once, with a look at what came in on the other side.
fn time(field: &mut Field, case: &mut Case, runs: u32) -> Result<()> {
    let pair = PAIRS[usize::from(case.name == REDIRECTED)];
    field.beds[0].leave_by(ifindex(pair[0])?)?;
    let before = received(pair[1])?;
    case.time(field, runs)?;
    let arrived = received(pair[1])? - before;
    let sent = if case.name == DROP { 0.0 } else { f64::from(runs) };
    ensure!(arrived as f64 >= sent * (1.0 - LOST), "{arrived} of {sent} frames arrived");
    Ok(())
}

fn cases(bed: &Bed, bits: u32) -> Result<Vec<Case>> {
    let shot = bed.pinned(Kind::ToBackend, bits)?;
    let rival = |name, rival| Case::rival(name, rival, shot.clone());
    let ours = |name, kind| {
        let case = Case::on(name, 0, Expected::new(kind, HOLDS), bed.pinned(kind, bits)?);
        let case = case.against(LRU, By::Ratio, None);
        let many = bits > 0;
        Ok::<_, anyhow::Error>(if many { case.wanted(Wanted::AtLeast(4.0)) } else { case })
    };
    Ok(vec![
        rival(DROP, Rival::Drop),
        rival(SWAP, Rival::Swap),
        rival(LRU, Rival::Lru),
        ours(TO_BACKEND, Kind::ToBackend)?,
        ours(TO_CLIENT, Kind::ToClient)?,
        ours(REDIRECTED, Kind::ToBackend)?,
    ])
}

/// Packets that an interface of this thread's namespace has taken.
fn received(interface: &str) -> Result<u64> {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev")
        .context("reading /proc/thread-self/net/dev")?;
    // "name: bytes packets …"
    let line = table.lines().find_map(|line| line.trim().strip_prefix(interface));
    let line = line.and_then(|line| line.strip_prefix(':')).context("no such interface")?;
    line.split_whitespace().nth(1).context("no such column")?.parse().context("not a number")
}
