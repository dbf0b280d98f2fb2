//! The daemon and real TCP over native XDP, with nothing that is not of this
//! project but iproute2 and its like: it runs in the guests of `cargo xtask vm`
//! too.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use canary_tests::lab::{
    Daemon, Holders, HoldersReport, Lab, Outcome, Server, VIP_V4, VIP_V6, address, at, config,
    fetch, find,
};

/// Keep-alive connections, of each family.
const HELD: usize = 48;
/// Short ones, each time.
const SHORT: usize = 40;

/// Answers by server; anything else than an answer is an error.
fn answers(lab: &Lab, to: SocketAddr) -> Result<BTreeMap<String, usize>> {
    let outcomes = at(lab, "client", || (0..SHORT).map(|_| fetch(to)).collect::<Vec<_>>())?;
    let mut by = BTreeMap::new();
    for outcome in outcomes {
        let Outcome::Answered(name) = outcome else { anyhow::bail!("{to}: {outcome:?}") };
        *by.entry(name).or_default() += 1;
    }
    Ok(by)
}

/// Connections that the daemon counts for a service.
fn counted(daemon: &Daemon, service: &str) -> Result<usize> {
    let status = daemon.status()?;
    let service = status.services.iter().find(|one| one.name == service).context("no service")?;
    let backends = service.tracks.iter().flat_map(|track| &track.backends);
    Ok(backends.map(|backend| backend.counters.connections).sum::<u64>() as usize)
}

fn stayed(report: &HoldersReport) -> Result<()> {
    ensure!(report.cut.is_empty() && report.moved == 0, "{report:?}");
    ensure!(report.requests >= 2 * HELD as u64, "hardly asked: {report:?}");
    for server in ["s1", "s2", "c1"] {
        ensure!(report.on.contains_key(server), "none of the connections on {server}: {report:?}");
    }
    Ok(())
}

fn play() -> Result<()> {
    let lab = Arc::new(Lab::plain("smoke")?);
    let servers = ["s1", "s2", "c1"].map(|host| Server::start(&lab, host));
    let servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
    let mut daemon = Daemon::start(&lab, &config(&lab, "", ""))?;
    let attached = daemon.status()?.data_plane.attached;
    ensure!(
        attached.len() == lab.interfaces.len() && attached.iter().all(|a| a.mode == "native"),
        "not native: {attached:?}"
    );
    let families = [("web", address(VIP_V4)), ("web6", address(VIP_V6))];
    let mut held = Vec::new();
    for (service, vip) in families {
        daemon.cli(&["weight", service, "50%"])?;
        let by = answers(&lab, vip)?;
        ensure!(by.len() == 3, "{service}: not all of s1, s2 and c1 answered: {by:?}");
        let every = Duration::from_millis(500);
        held.push(Holders::start(&lab, vip, HELD, every)?);
    }
    // New connections go to stable only, old ones stay; without a daemon too.
    for (service, vip) in families {
        daemon.cli(&["weight", service, "0%"])?;
        let by = answers(&lab, vip)?;
        ensure!(by.len() == 2 && !by.contains_key("c1"), "{service} at 0 %: {by:?}");
    }
    daemon.kill();
    for (service, vip) in families {
        let by = answers(&lab, vip)?;
        ensure!(by.len() == 2 && !by.contains_key("c1"), "{service} without a daemon: {by:?}");
    }
    daemon.restart(&lab)?;
    for holders in held {
        stayed(&holders.stop()?)?;
    }
    for (service, _) in families {
        let connections = counted(&daemon, service)?;
        ensure!(connections == 3 * SHORT + HELD, "{service}: {connections} counted");
        ensure!(find(&daemon.status()?, service, "canary")?.counters.connections > 0);
    }
    daemon.cli(&["detach"])?;
    drop((daemon, servers));
    lab.remove();
    let left = lab.residue();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

#[test]
fn tcp_through_the_daemon_over_native_xdp() {
    let played = play();
    assert!(played.is_ok(), "{:?}", played.err());
}
