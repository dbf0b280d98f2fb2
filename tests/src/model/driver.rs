//! Program and model side by side: the same steps, then everything compared.

use anyhow::Result;
use canary_common::{Ctl, Flow as Record, FlowKey};

use super::{
    CELLS, Model, Outcome,
    generate::Generator,
    real::{self, Real},
    shrink::shrink,
    step::Step,
    world::{self, QUANTUM},
};

/// Real time is part of the program's: jiffies that an episode may take.
const SLACK: u32 = QUANTUM / 4;

/// Steps that are made from one fresh start.
pub(super) const EPISODE: usize = 2000;

/// How a step, or a case, ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Agreed,
    /// They differ, in this.
    Differs(String),
    /// A bucket was full, which the model has none of.
    Full,
    /// The machine stood still for so long that flows' times are not what the
    /// model takes them for.
    Late,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub steps: usize,
    pub episodes: usize,
    /// Episodes that a full bucket, or a machine that stood still, cut short.
    pub cut_short: usize,
    /// Packets answered or dropped by order, flows kept from the canary, and
    /// those booked where who is steered is booked.
    pub by_order: u64,
    pub diverted: u64,
    pub steered: u64,
}

/// Runs so many steps from a seed.
///
/// # Errors
/// The kernel's; or where program and model differ, with the shortest case
/// that was found.
pub fn run(real: &mut Real, seed: u64, steps: usize, mutated: bool) -> Result<Tally> {
    let mut generator = Generator::new(seed, mutated);
    let mut tally = Tally::default();
    while tally.steps < steps {
        let mut session = Session::new(real)?;
        let mut made = Vec::new();
        let mut ended = Ended::Agreed;
        while ended == Ended::Agreed && made.len() < EPISODE {
            let step = generator.next(&session.model);
            made.push(step.clone());
            ended = session.apply(&step)?;
        }
        tally.steps += made.len();
        tally.episodes += 1;
        tally.by_order += session.by_order;
        tally.diverted += session.model.orders.iter().map(|o| o.guard.diverted).sum::<u64>();
        let steered = world::numbers().map(|n| usize::from(world::steered_cell(n)));
        tally.steered += steered.map(|n| session.model.booked[n].cell.connections).sum::<u64>();
        match ended {
            Ended::Agreed => {}
            Ended::Full | Ended::Late => tally.cut_short += 1,
            Ended::Differs(what) => {
                let after = tally.steps;
                let (short, last) = shrink(made, |case| replay(real, case))?;
                let rows: String = short.iter().map(|step| format!("    {step},\n")).collect();
                anyhow::bail!(
                    "seed {seed}, step {after}: {what}\nin short: {last}\n&[\n{rows}],\n"
                );
            }
        }
    }
    Ok(tally)
}

/// Plays a case from a fresh start.
///
/// # Errors
/// The kernel's.
pub fn replay(real: &mut Real, steps: &[Step]) -> Result<Ended> {
    let mut session = Session::new(real)?;
    for step in steps {
        let ended = session.apply(step)?;
        if ended != Ended::Agreed {
            return Ok(ended);
        }
    }
    Ok(Ended::Agreed)
}

/// Both, from a fresh start.
#[derive(Debug)]
pub struct Session<'a> {
    pub model: Model,
    pub(super) real: &'a mut Real,
    by_order: u64,
}

impl<'a> Session<'a> {
    /// # Errors
    /// The kernel's.
    pub fn new(real: &'a mut Real) -> Result<Self> {
        real.restart()?;
        let mut model = Model::new(real::tables());
        for service in 0..world::SERVICES.len() as u16 {
            let weights = model.split(service, 300);
            real.weights(service, weights)?;
        }
        Ok(Self { model, real, by_order: 0 })
    }

    /// # Errors
    /// The kernel's.
    pub fn apply(&mut self, step: &Step) -> Result<Ended> {
        let difference = match step {
            Step::Time { quanta, sweep } => {
                self.pass_time(*quanta, *sweep);
                self.live_flows()?
            }
            step => match step.bytes(&self.model) {
                Some(bytes) => self.packet(&bytes)?,
                None => self.configure(step).map(|()| None)?,
            },
        };
        let difference = match difference {
            None => self.counters()?,
            found => found,
        };
        Ok(match difference {
            None => Ended::Agreed,
            Some(_) if self.real.counted()?.evicted > 0 => Ended::Full,
            Some(_) if self.real.elapsed()? > SLACK => Ended::Late,
            Some(difference) => Ended::Differs(difference),
        })
    }

    fn packet(&mut self, bytes: &[u8]) -> Result<Option<String>> {
        let expected = self.model.frame(bytes);
        self.by_order += u64::from(["reset", "fault_dropped"].contains(&expected.reason));
        let met = self.real.packet(bytes)?;
        if (met.action, met.reason) != (expected.action, expected.reason) {
            return Ok(Some(format!(
                "action {}, {} instead of action {}, {} for\n{bytes:02x?}",
                met.action, met.reason, expected.action, expected.reason
            )));
        }
        let right = match &expected.bytes {
            None => met.bytes == bytes,
            Some(becomes) => becomes.matches(met.bytes),
        };
        if !right {
            let wanted = expected.bytes.as_ref().map_or(bytes, |becomes| &becomes.bytes);
            return Ok(Some(format!(
                "bytes\n{:02x?}\ninstead of\n{wanted:02x?}\nfor\n{bytes:02x?}",
                met.bytes
            )));
        }
        Ok(self.pin(&expected))
    }

    /// The flow that a packet spoke of.
    fn pin(&mut self, outcome: &Outcome) -> Option<String> {
        let key = outcome.key.as_ref()?;
        let record = self.real.flow(key);
        let flow = self.model.live(key);
        let (record, flow) = match (record, flow) {
            (None, None) => return None,
            (Some(record), Some(flow)) => (record, flow),
            (record, flow) => {
                return Some(format!("pin {record:?} instead of {flow:?} of {key:?}"));
            }
        };
        let ctl = Ctl(record.ctl);
        let theirs = (
            record.backend,
            record.cell,
            ctl.state(),
            ctl.flags(),
            record.client_seq,
            record.backend_seq,
            record.waiting_since != 0,
            [record.reply_frame.destination(), record.reply_frame.source()],
        );
        let connection = flow.connection;
        let ours = (
            flow.backend,
            flow.cell,
            connection.state,
            connection.flags,
            connection.client_seq,
            connection.backend_seq,
            connection.waits,
            flow.reply_macs,
        );
        if theirs != ours {
            return Some(format!("pin {theirs:?} instead of {ours:?} of {key:?}"));
        }
        self.deadline(key, &record, flow.deadline)
    }

    fn deadline(&self, key: &FlowKey, record: &Record, deadline: i64) -> Option<String> {
        let left = i64::from(record.deadline.wrapping_sub(self.real.began()) as i32);
        let wanted = deadline - self.model.now;
        let off = (left - wanted).abs() > i64::from(SLACK);
        off.then(|| format!("{left} jiffies left instead of {wanted} of {key:?}"))
    }

    fn counters(&mut self) -> Result<Option<String>> {
        let counted = self.real.counted()?;
        for cell in 2..CELLS {
            let (theirs, ours) = (&counted.booked[cell], &self.model.booked[cell]);
            if theirs != ours {
                return Ok(Some(format!("booked in cell {cell}: {theirs:?} instead of {ours:?}")));
            }
            let (least, more) = (self.model.found[cell], self.model.unfound[cell]);
            let found = counted.ends[cell];
            let between = |found, least, more| found >= least && found <= least + more;
            if !between(found.handshake_timeouts, least.handshake_timeouts, more.handshake_timeouts)
                || !between(found.idle_cuts, least.idle_cuts, more.idle_cuts)
            {
                return Ok(Some(format!(
                    "{found:?} in cell {cell} instead of {least:?} and up to {more:?} more"
                )));
            }
        }
        for (service, orders) in (0..).zip(&self.model.orders) {
            let (theirs, ours) = (counted.guards[usize::from(service)], orders.counted());
            if theirs != ours {
                return Ok(Some(format!("guard {service}: {theirs:?} instead of {ours:?}")));
            }
            if let Some(drill) = &orders.drill {
                let (theirs, ours) = (self.real.faulted(service)?, drill.faulted);
                if theirs != ours {
                    return Ok(Some(format!("drill {service}: {theirs} instead of {ours}")));
                }
            }
        }
        Ok((counted.evicted > 0).then(|| "flows were evicted".to_owned()))
    }

    pub(super) fn pass_time(&mut self, quanta: u8, sweep: bool) {
        self.model.pass_time(quanta);
        self.real.pass_time(u32::from(quanta) * QUANTUM);
        if sweep {
            self.sweep();
        }
    }

    /// What of the live flows is not as it should be.
    fn live_flows(&mut self) -> Result<Option<String>> {
        let theirs = self.real.flows();
        let ours = &self.model.flows;
        let same = theirs.len() == ours.len()
            && ours.iter().all(|(key, flow)| theirs.get(key) == Some(&flow.backend));
        if !same {
            return Ok(Some(format!("live flows {theirs:?} instead of {ours:?}")));
        }
        let counted = self.real.counted()?;
        let opened: u64 =
            counted.booked.iter().map(|b| b.cell.connections + b.cell.midstream).sum();
        let (active, ended) = (theirs.len() as u64, self.model.ended);
        Ok((active + ended != opened).then(|| format!("{active} of {opened}, and {ended} ended")))
    }

    fn sweep(&mut self) {
        self.real.sweep();
        self.model.sweep();
    }

    pub(super) fn configure(&mut self, step: &Step) -> Result<()> {
        match *step {
            Step::Split { service, permille } => {
                let weights = self.model.split(service, permille);
                self.real.weights(service, weights)
            }
            Step::Switch { service, masks } => {
                let weights = self.model.switch(service, masks);
                self.real.weights(service, weights)
            }
            Step::Remove { backend, forget } => self.remove(backend, forget),
            Step::Restore { backend } => {
                self.model.configure(backend, true);
                let resolved = self.model.is_resolved(backend);
                self.real.backend(backend, resolved)?;
                self.real.directory(|number| self.model.is_configured(number))
            }
            Step::NextHop { backend, known } => {
                self.model.resolve(backend, known);
                if !self.model.is_configured(backend) {
                    return Ok(());
                }
                self.real.backend(backend, known)
            }
            Step::Guard { service, order } => {
                self.model.orders[usize::from(service)].guard.takes(order);
                self.real.guard(service, order)
            }
            Step::Steer { service, clients, to } => {
                self.model.orders[usize::from(service)].steer(clients, to);
                self.real.steer(service, clients, to)
            }
            Step::Generation { service } => {
                let generation = self.model.orders[usize::from(service)].next_generation();
                self.real.generation(service, generation)
            }
            Step::Fault { service, kind, clients } => {
                self.model.orders[usize::from(service)].drill(kind, clients);
                self.real.fault(service, kind, clients)
            }
            Step::Packet(_) | Step::Mutated(..) | Step::Time { .. } => Ok(()),
        }
    }

    /// In the daemon's order: tables without it, directory, record, pins.
    fn remove(&mut self, backend: u16, forget: bool) -> Result<()> {
        self.model.configure(backend, false);
        let service = world::backend_of(backend).service;
        let weights = self.model.switch(service, self.model.masks(service));
        self.real.weights(service, weights)?;
        self.real.directory(|number| self.model.is_configured(number))?;
        if forget {
            // What is over first: a pin that is given back is not booked.
            self.sweep();
            self.model.forget(backend);
        }
        self.real.remove(backend, forget)
    }
}
