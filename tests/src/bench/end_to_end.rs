//! Whole connections of real clients and servers through the balancer, beside
//! what else could carry them: the ways take turns in one lab.
//!
//! ```text
//! client (wrk) ── lb (the way) ──┬── s1 (nginx)
//!                                └── s2 (nginx)
//! ```

mod counts;
mod figures;
mod load;
mod paced;
mod polling;
mod stream;
mod way;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::report::Section;
use crate::lab::{Lab, Nginx};
use counts::Idle;
use figures::{Figures, Turn};
use polling::Polling;
use way::{WAYS, Way};

/// A part of the lab's names: `cny-bench-lb`.
const NAME: &str = "bench";
/// The servers, by host.
const SERVERS: [&str; 2] = ["s1", "s2"];
/// What only this needs, beside the lab's tools.
const TOOLS: [&str; 2] = ["wrk", "haproxy"];
/// Keep-alive connections, and clients that open new ones, at a time.
const CLIENTS: usize = 64;
/// Requests a second where latency is measured, of all connections together.
const RATE: u32 = 10_000;

/// How long it looks what others do, before each turn.
const LOOK: Duration = Duration::from_millis(200);

/// How long each part of a turn takes.
#[derive(Clone, Copy, Debug)]
struct Plan {
    pollings: &'static [Polling],
    rounds: usize,
    /// Whole seconds, as wrk counts.
    load: u64,
    stream: Duration,
    paced: Duration,
}

const FULL: Plan = Plan {
    pollings: &[Polling::Direct, Polling::Threads],
    rounds: 5,
    load: 2,
    stream: Duration::from_secs(1),
    paced: Duration::from_millis(1500),
};
const QUICK: Plan = Plan {
    pollings: &[Polling::Direct],
    rounds: 2,
    load: 1,
    stream: Duration::from_millis(500),
    paced: Duration::from_millis(500),
};

/// Measures; under six minutes, or half of one where it is to be `quick`.
///
/// # Errors
/// Without root or a tool, where one connection or request fails, or where
/// what was measured did not go the way it should have.
pub fn sections(quick: bool) -> Result<Vec<Section>> {
    let plan = if quick { QUICK } else { FULL };
    let missing: Vec<_> =
        TOOLS.into_iter().filter(|tool| !crate::lab::is_installed(tool)).collect();
    ensure!(
        missing.is_empty(),
        "the benchmark needs {}: install with `cargo xtask bench`",
        missing.join(", ")
    );
    let lab = Lab::new(NAME)?;
    let servers = SERVERS.map(|host| Nginx::start(&lab, host));
    let servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
    for host in ["client", "lb"] {
        // As many connections as there are ports, with none to wait for.
        lab.sysctl(host, "net.ipv4.ip_local_port_range", "1024 65535")?;
    }
    Way::prepare(&lab)?;
    let mut all: Vec<_> = plan.pollings.iter().map(|polling| Figures::new(*polling)).collect();
    for _ in 0..plan.rounds {
        all.iter_mut().try_for_each(|figures| round(&lab, figures, plan))?;
    }
    drop(servers);
    lab.remove();
    let left = lab.residue();
    ensure!(left.is_empty(), "left behind: {left:?}");
    let sections = all.iter().map(|figures| figures.sections(plan.rounds));
    Ok(sections.collect::<Result<Vec<_>>>()?.concat())
}

/// All ways once, with one polling.
fn round(lab: &Lab, figures: &mut Figures, plan: Plan) -> Result<()> {
    figures.polling().apply(lab)?;
    for way in WAYS {
        let idle = Idle::now()?;
        std::thread::sleep(LOOK);
        figures.others(idle.share_since()?);
        figures.add(way, &turn(lab, way, plan).with_context(|| way.name().to_owned())?);
    }
    Ok(())
}

/// Everything of one way, once.
fn turn(lab: &Lab, way: Way, plan: Plan) -> Result<Turn> {
    let open = way.open(lab)?;
    let to = way.targets();
    let witness = open.witness(lab)?;
    // First, so that it is also the warming up.
    let idle = Idle::now()?;
    let paced = paced::run(lab, &to, CLIENTS, RATE, plan.paced)?;
    let cpu = idle.busy_since()?.as_secs_f64() / paced.requests() as f64;
    let kept = load::run(lab, &to, load::Kind::KeepAlive, CLIENTS, plan.load)?;
    let fresh = load::run(lab, &to, load::Kind::NewConnections, CLIENTS, plan.load)?;
    let stream = stream::run(lab, to[0], plan.stream)?;
    let requests = paced.requests() + kept.requests + fresh.requests;
    open.ended(lab, &witness, requests)?;
    open.close(lab)?;
    Ok(Turn {
        kept: kept.per_second(),
        fresh: fresh.per_second(),
        stream,
        p50: paced.quantile(0.50),
        p99: paced.quantile(0.99),
        cpu: cpu * 1e6,
    })
}
