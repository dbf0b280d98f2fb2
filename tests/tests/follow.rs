//! `canary flows --follow`: real connections, each told of from its beginning
//! to its end.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, fs, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use canary::api::types::FollowedFlow;
use canary_tests::lab::{Daemon, Lab, Load, Nginx, Process, VIP_V4, config, wait_for};

/// A follower and what it printed.
struct Follower {
    _process: Process,
    output: PathBuf,
}

impl Follower {
    fn start(lab: &Lab, daemon: &Daemon, arguments: &[&str]) -> Result<Self> {
        let output = lab.directory.join("followed");
        let mut command = daemon.command(&["flows", "web", "--follow", "--json"]);
        command.args(arguments).stdout(fs::File::create(&output)?);
        let process = Process::start(&mut command)?;
        // Until the program knows: it tells those who listen of what comes.
        wait_for("the follower", Duration::from_secs(5), || {
            fetch(VIP_V4, lab).is_ok() && fs::metadata(&output).is_ok_and(|file| file.len() > 0)
        })?;
        Ok(Self { _process: process, output })
    }

    fn events(&self) -> Result<Vec<FollowedFlow>> {
        let text = fs::read_to_string(&self.output)?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).context(line.to_owned())).collect()
    }

    /// Waits until so many flows have ended.
    fn ends(&self, wanted: usize) -> Result<Vec<FollowedFlow>> {
        let ends = |event: &FollowedFlow| event.lived.is_some();
        wait_for("the flows' ends", Duration::from_secs(10), || {
            self.events().is_ok_and(|e| e.iter().filter(|e| ends(e)).count() >= wanted)
        })
        .with_context(|| fs::read_to_string(&self.output).unwrap_or_default())?;
        self.events()
    }
}

fn fetch(vip: &str, lab: &Lab) -> Result<String> {
    lab.command("client", "curl", &["-s", "-m", "2", &format!("http://{vip}/")])
}

fn by_kind(events: &[FollowedFlow]) -> BTreeMap<&str, usize> {
    let mut kinds = BTreeMap::new();
    for event in events {
        *kinds.entry(event.event.as_str()).or_default() += 1;
    }
    kinds
}

#[test]
fn flows_are_followed_from_birth_to_end() {
    let body = || -> Result<()> {
        let lab = Arc::new(Lab::new("follow")?);
        let servers = ["s1", "s2", "c1"].map(|host| Nginx::start(&lab, host));
        let mut servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
        let daemon = Daemon::start(&lab, &config(&lab, "", "rollback = { enabled = false }"))?;
        daemon.cli(&["weight", "web", "50%"])?;
        let vip: SocketAddr = VIP_V4.parse()?;

        let follower = Follower::start(&lab, &daemon, &[])?;
        let before = follower.ends(1)?.len();
        Load::start(&lab, vip, 2000, 500).finish()?;
        let events = follower.ends(before / 2 + 500)?;
        let kinds = by_kind(&events[before..]);
        ensure!(kinds == BTreeMap::from([("closed", 500), ("new", 500)]), "{kinds:?}");
        for event in events[before..].iter().filter(|event| event.event == "closed") {
            let (handshake, first_byte) = (event.handshake, event.first_byte);
            let (Some(handshake), Some(first_byte), Some(lived)) =
                (handshake, first_byte, event.lived)
            else {
                anyhow::bail!("{event:?} has no times");
            };
            ensure!(handshake > 0.0 && first_byte > 0.0, "{event:?}");
            ensure!(handshake + first_byte <= lived + 1e-6, "{event:?}");
        }
        ensure!(events.iter().all(|event| event.lost == 0));

        // The canary's port is closed, and only its flows are looked at.
        servers.pop();
        drop(follower);
        let follower = Follower::start(&lab, &daemon, &["--track", "canary"])?;
        Load::start(&lab, vip, 2000, 200).finish()?;
        wait_for("the last event", Duration::from_secs(5), || {
            let events = follower.events().unwrap_or_default();
            let kinds = by_kind(&events);
            kinds.get("new") == kinds.get("refused")
        })?;
        let events = follower.events()?;
        ensure!(events.len() > 100 && events.iter().all(|event| event.track == "canary"));
        ensure!(by_kind(&events).keys().eq(&["new", "refused"]), "{:?}", by_kind(&events));

        // One flow in four, and it is whole.
        drop(follower);
        let follower = Follower::start(&lab, &daemon, &["--track", "stable", "--one-in", "4"])?;
        let before = follower.events()?.len();
        Load::start(&lab, vip, 2000, 800).finish()?;
        std::thread::sleep(Duration::from_millis(500));
        let events = follower.events()?.split_off(before);
        let kinds = by_kind(&events);
        let (new, closed) = (kinds["new"], kinds["closed"]);
        // 400 stable flows, one in four: 100, and five standard deviations.
        ensure!(new.abs_diff(100) < 45 && new.abs_diff(closed) <= 1, "{kinds:?}");
        ensure!(daemon.status()?.data_plane.events_dropped == 0);
        drop(follower);
        daemon.cli(&["detach"])?;
        Ok(())
    };
    body().unwrap();
}
