//! Connections that live through everything that is done to the daemon.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use canary::api::{
    client::Client,
    types::{Reloaded, SetWeight, Weight},
};

use super::{Crowd, Row, programs, uplink};
use crate::{
    lab::{Lab, Stage, VIP_V4, address},
    netns::ip,
};

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub connections: usize,
    /// Between two requests of a connection.
    pub every: Duration,
    pub kills: u32,
    pub weights: u32,
}

impl Plan {
    pub const LONG: Self =
        Self { connections: 2000, every: Duration::from_secs(1), kills: 20, weights: 10_000 };
    pub const SHORT: Self = Self { kills: 3, weights: 1000, ..Self::LONG };
}

const FIRST_UPLINK: &str = "cnyclient";
/// Services beside the two of the lab: what a reload has to change.
const SERVICES: u16 = 60;

/// All of it in one lab, the connections the same through all of it.
///
/// # Errors
/// Where something does not come up, or is not as it should be afterwards;
/// connections that were cut or moved are in the rows.
pub fn restarts(plan: &Plan) -> Result<Vec<Row>> {
    let mut fire = Fire::new(plan)?;
    let rows = [
        fire.kill(plan.kills)?,
        fire.restart()?,
        fire.upgrade()?,
        fire.reload()?,
        fire.weights(plan.weights)?,
        fire.detach_one()?,
    ];
    fire.end()?;
    Ok(rows.into())
}

struct Fire {
    crowd: Crowd,
    stage: Stage,
}

impl Fire {
    fn new(plan: &Plan) -> Result<Self> {
        let mut lab = Lab::new("fire")?;
        uplink::add(&mut lab)?;
        let stage = Stage::in_lab(lab, "", "")?;
        let mut fire = {
            stage.daemon.cli(&["weight", "web", "30%"])?;
            let to = address(VIP_V4);
            let crowd = Crowd::start(&stage.lab, to, plan.connections, plan.every)?;
            Self { crowd, stage }
        };
        let on = fire.crowd.lap()?.on;
        ensure!(on.len() == 3, "all three servers hold some: {on:?}");
        Ok(fire)
    }

    /// What happened to the connections since the last row.
    fn row(&mut self, fault: &str) -> Result<Row> {
        Ok(Row::of(fault, &self.crowd.lap()?))
    }

    fn kill(&mut self, times: u32) -> Result<Row> {
        let mut longest = Duration::ZERO;
        for _ in 0..times {
            let killed = Instant::now();
            self.stage.daemon.kill();
            self.stage.daemon.restart(&self.stage.lab)?;
            longest = longest.max(killed.elapsed());
            ensure!((self.stage.configured("web")? - 0.3).abs() < 1e-9, "the split was lost");
            // Some requests with it, some without.
            std::thread::sleep(Duration::from_millis(150));
        }
        let row = self.row(&format!("daemon: `kill -9`, {times} times"))?;
        Ok(row.recovered(longest).notes("the longest until the daemon answers again"))
    }

    fn restart(&mut self) -> Result<Row> {
        let stopped = Instant::now();
        self.stage.daemon.stop()?;
        self.stage.daemon.restart(&self.stage.lab)?;
        let away = stopped.elapsed();
        Ok(self.row("daemon: stopped and started")?.recovered(away))
    }

    /// To a program with other load-time constants: the verifier drops what
    /// they leave out, so that it is another program.
    fn upgrade(&mut self) -> Result<Row> {
        let before = programs::attached(&self.stage.lab, FIRST_UPLINK)?;
        let text = std::fs::read_to_string(&self.stage.daemon.config)?;
        let stopped = Instant::now();
        self.stage.daemon.stop()?;
        std::fs::write(&self.stage.daemon.config, format!("signals = []\n{text}"))?;
        self.stage.daemon.restart(&self.stage.lab)?;
        let away = stopped.elapsed();
        for interface in self.stage.lab.interfaces.clone() {
            let after = programs::attached(&self.stage.lab, &interface)?;
            let other = after.id != before.id && after.translated < before.translated;
            ensure!(other, "{interface} has {after:?}, before {before:?}");
        }
        Ok(self.row("upgrade to another program")?.recovered(away))
    }

    /// A hundred services that are new, other or gone at once.
    fn reload(&mut self) -> Result<Row> {
        let plain = std::fs::read_to_string(&self.stage.daemon.config)?;
        let more = (0..SERVICES).map(|number| service(number, 1)).collect::<String>();
        std::fs::write(&self.stage.daemon.config, plain.clone() + &more)?;
        self.stage.daemon.cli(&["reload"])?;
        // Of sixty 20 go and 40 change; 39 come, and `web` changes too.
        let changed = (20..SERVICES).map(|number| service(number, 7)).collect::<String>();
        let new = (0..39).map(|number| service(SERVICES + number, 1)).collect::<String>();
        let s1 = Lab::backend("s1", false);
        let weighed = format!("stable = [{{ address = {s1:?}, weight = 3 }},");
        let other = plain.replacen(&format!("stable = [{s1:?},"), &weighed, 1);
        std::fs::write(&self.stage.daemon.config, other + &changed + &new)?;
        let asked = Instant::now();
        let reloaded: Reloaded = self.client().post("/v1/reload")?;
        let took = asked.elapsed();
        ensure!(reloaded.changes.len() == 100, "{} changes", reloaded.changes.len());
        std::fs::write(&self.stage.daemon.config, plain)?;
        self.stage.daemon.cli(&["reload"])?;
        Ok(self.row("reload with 100 changes")?.recovered(took))
    }

    fn weights(&mut self, times: u32) -> Result<Row> {
        let client = self.client();
        let begun = Instant::now();
        for number in 0..times {
            let split = f64::from(number * 7 % 101) / 100.0;
            let set: Weight = client.put("/v1/services/web/weight", &SetWeight { split })?;
            ensure!((set.split - split).abs() < 1e-6, "{set:?} for {split}");
        }
        let rate = f64::from(times) / begun.elapsed().as_secs_f64();
        let row = self.row(&format!("{times} weight changes"))?;
        Ok(row.notes(format!("{rate:.0} a second, all of them through the API")))
    }

    /// The traffic goes to the other uplink, and the first is given up.
    fn detach_one(&mut self) -> Result<Row> {
        let client = self.stage.lab.namespace("client");
        ip(&["-n", &client, "route", "replace", "default", "via", "10.77.20.1"])?;
        let text = std::fs::read_to_string(&self.stage.daemon.config)?;
        let without = text.replacen(&format!("{FIRST_UPLINK:?}, "), "", 1);
        ensure!(without != text, "no such interface in the configuration");
        std::fs::write(&self.stage.daemon.config, without)?;
        self.stage.daemon.cli(&["reload"])?;
        let left = programs::attached(&self.stage.lab, FIRST_UPLINK);
        ensure!(left.is_err(), "the program is still on {FIRST_UPLINK}: {left:?}");
        let row = self.row("one of two interfaces detached")?;
        Ok(row.notes("its traffic had gone to the other before"))
    }

    fn client(&self) -> Client {
        Client::new(&self.stage.daemon.socket)
    }

    fn end(self) -> Result<()> {
        let Self { crowd, stage } = self;
        drop(crowd);
        stage.end()
    }
}

/// One that nobody uses; its backend is its own.
fn service(number: u16, weight: u32) -> String {
    let port = 1000 + number;
    let backend = format!("{}:{port}", Lab::address("s2", false));
    format!(
        "[service.more{number}]\nlisten = \"203.0.113.11:{port}\"\n\
         stable = [{{ address = {backend:?}, weight = {weight} }}]\n"
    )
}
