//! The demo: a canary release walked by hand and a broken canary taken out by
//! the daemon, under real load; then two rollouts that go by themselves.
#![allow(clippy::print_stdout, reason = "it is a show")]

mod screen;
mod second;
mod verdict;

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use canary::api::{client::Client, types::Weight};

use crate::lab::{Behaviour, Daemon, Holders, Lab, Load, Nginx, VIP_V4, VIP_V6, config};
use screen::Screen;
use verdict::{Achieved, Evidence, Family, connections, failures};

/// Its namespaces are cny-client, cny-lb, …
const NAME: &str = "";
/// New connections a second, per family.
const RATE: u32 = 350;
/// Keep-alive connections that never reconnect, per family.
const HELD: usize = 40;
const STEPS: [&str; 4] = ["0%", "1%", "10%", "50%"];
const STEP: Duration = Duration::from_secs(6);
const SERVICES: [&str; 2] = ["web", "web6"];
/// How long to wait for the daemon to roll back.
const PATIENCE: Duration = Duration::from_secs(15);

/// Everything that runs during the show. Dropped front to back.
struct Show {
    daemon: Daemon,
    servers: Vec<Nginx>,
    lab: Arc<Lab>,
    screen: Screen,
}

/// The clients of one family.
struct Clients {
    v6: bool,
    holders: Holders,
    load: Load,
}

/// Runs the demo; whether everything was as it should be. Ctrl-C clears its
/// lab away, as the lab sees to itself.
///
/// # Errors
/// Where it could not be run.
pub fn main(arguments: impl Iterator<Item = String>) -> Result<bool> {
    let mut keep = false;
    let in_use = "another demo is running on this machine: wait for it, or end it with Ctrl-C";
    for argument in arguments {
        match argument.as_str() {
            "--keep" => keep = true,
            "--clean" => {
                ensure!(!Lab::is_in_use(NAME), in_use);
                Lab::remove_leftovers(NAME)?;
                println!("the demo's lab is removed");
                return Ok(true);
            }
            other => bail!("{other:?}? There are --keep and --clean"),
        }
    }
    ensure!(!Lab::is_in_use(NAME), in_use);
    let lab = Lab::new(NAME)?;
    let servers = ["s1", "s2", "c1"].map(|host| Nginx::start(&lab, host));
    let servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
    let text = config(&lab, "xdp_mode = \"native\"", "") + second::ROLLOUT;
    let daemon = Daemon::start(&lab, &text)?;
    let mut show = Show { daemon, servers, lab: Arc::new(lab), screen: Screen::new() };
    let sound = show.run()?;
    if keep {
        show.stay();
    }
    Ok(sound)
}

impl Show {
    fn run(&mut self) -> Result<bool> {
        let attached = self.daemon.status()?.data_plane.attached;
        let native = !attached.is_empty() && attached.iter().all(|a| a.mode == "native");
        ensure!(native, "not native on every interface: {attached:?}");
        // Some of the connections that are held begin on the canary.
        self.weight("30%")?;
        let clients = vec![self.clients(false)?, self.clients(true)?];
        let mut steps = Vec::new();
        for percent in STEPS {
            steps.extend(self.step(percent)?);
        }
        let s1 = Lab::backend("s1", false);
        self.daemon.cli(&["drain", "web", &s1])?;
        self.watch(&format!("drain web {s1}"), Duration::from_secs(3))?;
        self.daemon.cli(&["drain", "web", &s1, "--undo"])?;
        self.watch(&format!("drain web {s1} --undo"), Duration::from_secs(3))?;

        let failed = || clients.iter().map(|c| failures(&c.load.so_far())).sum::<u64>();
        let failed_before = failed();
        let fault = Instant::now();
        let out = self.break_canary()?;
        let first = clients.iter().filter_map(|c| c.load.first_failure()).min();
        let rollback = out.zip(first).map(|(out, first)| out.saturating_duration_since(first));
        // Those that were on their way to the canary just then.
        self.watch("the canary is out; stable carries all", Duration::from_millis(500))?;
        let failed_until = failed();
        self.watch("", Duration::from_secs(2))?;
        let failed_after = failed() - failed_until;
        let families = clients.into_iter().map(Clients::stop).collect::<Result<_>>()?;
        let status = self.daemon.status()?;
        let evidence =
            Evidence { steps, families, failed_before, failed_after, fault, rollback, status };
        let second = self.second_act()?;
        println!("\nSummary");
        let mut lines = evidence.judge();
        lines.extend(second.judge());
        for line in &lines {
            println!("  {} {}", if line.fine { "ok " } else { "BAD" }, line.text);
        }
        Ok(lines.iter().all(|line| line.fine))
    }

    fn weight(&self, percent: &str) -> Result<()> {
        for service in SERVICES {
            self.daemon.cli(&["weight", service, percent])?;
        }
        Ok(())
    }

    fn clients(&self, v6: bool) -> Result<Clients> {
        let to: SocketAddr = if v6 { VIP_V6 } else { VIP_V4 }.parse().context("an address")?;
        let holders = Holders::start(&self.lab, to, HELD, Duration::from_millis(500))?;
        let load = Load::start(&self.lab, to, RATE, u64::MAX);
        Ok(Clients { v6, holders, load })
    }

    /// One split for both families; what was achieved.
    fn step(&mut self, percent: &str) -> Result<Vec<Achieved>> {
        self.weight(percent)?;
        let before = self.daemon.status()?;
        self.watch(&format!("weight web {percent}; weight web6 {percent}"), STEP)?;
        let after = self.daemon.status()?;
        let mut achieved = Vec::new();
        for (before, after) in before.services.iter().zip(&after.services) {
            let canary = connections(after, "canary") - connections(before, "canary");
            let stable = connections(after, "stable") - connections(before, "stable");
            achieved.push(Achieved {
                service: after.name.clone(),
                configured: after.split.configured,
                canary,
                total: canary + stable,
            });
        }
        Ok(achieved)
    }

    /// Shows the status for a while, after what was done.
    fn watch(&mut self, command: &str, time: Duration) -> Result<()> {
        let begun = Instant::now();
        if !command.is_empty() {
            self.screen.command(command);
        }
        while begun.elapsed() < time {
            self.screen.show(&self.daemon.status()?);
            std::thread::sleep(Duration::from_millis(500).min(time));
        }
        Ok(())
    }

    /// The canary's server begins to reset; when both services' splits were 0,
    /// if ever.
    fn break_canary(&mut self) -> Result<Option<Instant>> {
        self.screen.command("the canary's server begins to reset every connection");
        self.servers.last().context("no canary")?.behave(Behaviour::Resetting)?;
        let begun = Instant::now();
        let mut out = None;
        while out.is_none() && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
            if all_out(&self.daemon.socket) {
                out = Some(Instant::now());
            }
        }
        self.screen.show(&self.daemon.status()?);
        Ok(out)
    }

    /// Leaves the lab to the user.
    fn stay(self) {
        let (client, socket) = (self.lab.namespace("client"), self.daemon.socket.display());
        println!("\nThe lab stays. Try");
        println!("  ip netns exec {client} curl http://{VIP_V4}/");
        println!("  ip netns exec {client} curl 'http://{VIP_V6}/'");
        println!("  target/release/canary --socket {socket} status --watch");
        println!("  target/release/canary --socket {socket} weight web 5%");
        println!("and remove it with `cargo xtask demo -- --clean`.");
        if let Some(canary) = self.servers.last() {
            canary.behave(Behaviour::Good).ok();
        }
        self.lab.keep();
        // Servers and daemon would end with their owners.
        std::mem::forget(self);
    }
}

/// Whether no service sends anything to its canary.
fn all_out(socket: &Path) -> bool {
    let client = Client::new(socket);
    let split = |name| client.get::<Weight>(&format!("/v1/services/{name}/weight"));
    SERVICES.iter().all(|name| split(name).is_ok_and(|weight| weight.split == 0.0))
}

impl Clients {
    fn stop(self) -> Result<Family> {
        Ok(Family { v6: self.v6, load: self.load.stop()?, held: self.holders.stop()? })
    }
}
