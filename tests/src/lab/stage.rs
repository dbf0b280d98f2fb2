//! A lab with servers, a daemon and a canary: where end-to-end tests play.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use canary::api::types::{BackendStatus, Status};

use super::{Daemon, Lab, LoadReport, Nginx, Outcome, VIP_V4, at, config, fetch, wait_for};

/// A lab with servers and a daemon. Dropped front to back.
#[derive(Debug)]
pub struct Stage {
    pub daemon: Daemon,
    pub servers: Vec<Nginx>,
    pub lab: Arc<Lab>,
}

impl Stage {
    /// `top` and `extra` go into the configuration, see [`config`].
    ///
    /// # Errors
    /// Where something of it does not come up.
    pub fn new(name: &str, top: &str, extra: &str) -> Result<Self> {
        Self::in_lab(Lab::new(name)?, top, extra)
    }

    /// The same in a lab that is there.
    ///
    /// # Errors
    /// As [`Stage::new`].
    pub fn in_lab(lab: Lab, top: &str, extra: &str) -> Result<Self> {
        let servers = Self::servers(&lab)?;
        let daemon = Daemon::start(&lab, &config(&lab, top, extra))?;
        let mode = if top.contains("generic") { "generic" } else { "native" };
        let attached = daemon.status()?.data_plane.attached;
        ensure!(
            attached.len() == lab.interfaces.len() && attached.iter().all(|a| a.mode == mode),
            "not {mode}: {attached:?}"
        );
        Ok(Self { daemon, servers, lab: Arc::new(lab) })
    }

    /// The same with another canary's binary than the one that was built here:
    /// its command line is all that is used of it.
    ///
    /// # Errors
    /// Where something of it does not come up.
    pub fn of_older(lab: Lab, binary: &Path, top: &str) -> Result<Self> {
        const PATIENCE: Duration = Duration::from_secs(120);
        let servers = Self::servers(&lab)?;
        let mut daemon = Daemon::prepare(&lab, &config(&lab, top, ""))?;
        binary.clone_into(&mut daemon.binary);
        daemon.launch(&lab)?;
        let answers = || {
            daemon.cli(&["status"]).is_ok_and(|status| !status.contains("warning"))
                && matches!(at(&lab, "client", || fetch(address(VIP_V4))), Ok(Outcome::Answered(_)))
        };
        wait_for("the older daemon", PATIENCE, answers).with_context(|| daemon.said())?;
        Ok(Self { daemon, servers, lab: Arc::new(lab) })
    }

    fn servers(lab: &Lab) -> Result<Vec<Nginx>> {
        ["s1", "s2", "c1"].into_iter().map(|host| Nginx::start(lab, host)).collect()
    }

    /// Takes everything down; nothing may be left.
    ///
    /// # Errors
    /// Where something is.
    pub fn end(self) -> Result<()> {
        self.daemon.cli(&["detach"])?;
        let links = self.lab.command("lb", "ip", &["link"])?;
        ensure!(!links.contains("xdp"), "programs are left after detach: {links}");
        let Self { daemon, servers, lab } = self;
        drop(daemon);
        drop(servers);
        let bpffs = lab.bpffs();
        ensure!(!bpffs.exists(), "{} is left after detach", bpffs.display());
        lab.remove();
        let left = lab.residue();
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }

    /// The canary's server.
    ///
    /// # Panics
    /// Where a test has taken it away.
    pub fn canary_server(&mut self) -> &mut Nginx {
        self.servers.last_mut().expect("the canary's server")
    }

    /// The first backend of a track.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn backend(&self, service: &str, track: &str) -> Result<BackendStatus> {
        find(&self.daemon.status()?, service, track)
    }

    /// The split in force, a fraction of 1.
    ///
    /// # Errors
    /// Where the service is not there.
    pub fn configured(&self, service: &str) -> Result<f64> {
        let status = self.daemon.status()?;
        let service = status.services.iter().find(|s| s.name == service);
        Ok(service.context("the service is gone")?.split.configured)
    }
}

/// The first backend of a track.
///
/// # Errors
/// Where it is not there.
pub fn find(status: &Status, service: &str, track: &str) -> Result<BackendStatus> {
    let service = status.services.iter().find(|s| s.name == service);
    let tracks = &service.context("the service is gone")?.tracks;
    let track = tracks.iter().find(|t| t.name == track).context("the track is gone")?;
    Ok(track.backends[0].clone())
}

/// # Panics
/// Where it is none.
#[must_use]
pub fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address and port")
}

/// Connections that this server answered.
#[must_use]
pub fn answered(report: &LoadReport, server: &str) -> u64 {
    report.get(&Outcome::Answered(server.to_owned())).copied().unwrap_or(0)
}

/// All connections were answered; how many by the canary.
///
/// # Errors
/// Where some were not.
pub fn all_answered(report: &LoadReport, total: u64) -> Result<u64> {
    let good: u64 = ["s1", "s2", "c1"].iter().map(|server| answered(report, server)).sum();
    ensure!(good == total, "{good} of {total} were answered: {report:?}");
    Ok(answered(report, "c1"))
}
