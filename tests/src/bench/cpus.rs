//! Two CPUs at once: what one of them spends on a packet while the other is at
//! work on the same flow, or on another.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::Xdp;

use super::{
    beds::{Bed, HOLDS, ROOM},
    counted::{Counters, Kind, counts_of, reasons_are},
    machine,
    packets::SWAP,
    report::{By, Row, Section},
    rivals::{Rival, Rivals},
    shots::FIRST_PORT,
    wrapper::{Clients, Shot, Timed, Wrapper},
};
use crate::{netns::in_new_namespace, plane::TX};

/// Flows that the table holds, as a power of two.
const BITS: u32 = 20;
/// Packets of the other CPU for each of the measured one's, to begin with: it
/// must be at work all the while.
const LONGER: u32 = 8;
/// How often it may have been too short, each time twice as long.
const TRIES: u32 = 5;
/// Until a run that was begun is at its packets.
const WARM_UP: Duration = Duration::from_millis(50);

/// What a CPU is at work on.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// The reference, which has no state.
    Swap,
    /// Packets of this kind, of `1 << bits` flows from this one on.
    Flows(Kind, u32, SocketAddr),
    /// Segments with data of one flow: every packet writes its state.
    Talk(Talk),
}

/// Whose segments.
#[derive(Clone, Copy, Debug)]
enum Talk {
    /// Both sides', in turns; of a flow of its own.
    Both,
    Client,
    Backend,
}

/// A row: the work of the measured CPU and of the other, and the row that it
/// is compared with.
struct Pair {
    name: &'static str,
    own: Work,
    other: Option<Work>,
    against: Option<&'static str>,
}

/// Both CPUs' tools.
struct Lab {
    bed: Bed,
    rivals: Rivals,
    wrappers: [Wrapper; 2],
    /// By [`Talk`]. Each goes on from run to run, as its flow does.
    talks: [Shot; 3],
    cpus: [usize; 2],
}

/// # Errors
/// Without root, where a packet was not what it should be, or with one CPU.
pub fn sections(quick: bool) -> Result<Vec<Section>> {
    let (rounds, runs) = if quick { (3, 1 << 18) } else { (9, 1 << 20) };
    in_new_namespace(["cny-a", "cny-b"], || {
        let [.., other, own] = machine::allowed_cpus()?[..] else {
            bail!("this takes two CPUs, and there is one");
        };
        machine::pin_to(own)?;
        let mut lab = lab([own, other])?;
        let pairs = pairs(&lab.bed);
        let mut figures = vec![Vec::new(); pairs.len()];
        for _ in 0..rounds {
            for (pair, figures) in pairs.iter().zip(&mut figures) {
                let time = lab.time(pair, runs).with_context(|| pair.name.to_owned())?;
                figures.push(time);
            }
        }
        let about = format!(
            "what a packet costs one CPU while another is at work too ({rounds} rounds of {runs})"
        );
        let unit = "ns".to_owned();
        let rows = rows(&pairs, &figures)?;
        Ok(vec![Section { name: "cpus".to_owned(), about, unit, rows }])
    })
}

fn lab(cpus: [usize; 2]) -> Result<Lab> {
    let mut wrappers = [Wrapper::load()?, Wrapper::load()?];
    let mut bed = Bed::new(ROOM, false, false)?;
    bed.fill(&mut wrappers[0], BITS)?;
    let rivals = Rivals::load(1, bed.vip(1))?;
    let talks = talks(&bed)?;
    Ok(Lab { bed, rivals, wrappers, talks, cpus })
}

fn talks(bed: &Bed) -> Result<[Shot; 3]> {
    let clients = |third| Clients { first: client(third), ..bed.clients(0) };
    let (both, apart) = (clients(4), clients(12));
    let frames = bed.talk(&both, [b"a question", b"an answer"]);
    let [question, answer] = bed.talk(&apart, [b"a question", b"an answer"]);
    Ok([
        Shot::in_turns(&frames, &both)?.advancing(),
        Shot::in_turns(&[question], &apart)?.advancing(),
        Shot::in_turns(&[answer], &apart)?.advancing(),
    ])
}

/// A client that the table holds: 2^20 flows are of the addresses below 10.0.16.0.
fn client(third: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, third, 0], FIRST_PORT))
}

fn pairs(bed: &Bed) -> Vec<Pair> {
    let first = bed.clients(BITS).first;
    let second = client(8);
    let one = |kind, client| Work::Flows(kind, 0, client);
    let many = Work::Flows(Kind::ToBackend, BITS, first);
    let (alone, hot, all) = (SWAP, "1 flow, alone", "1M flows, alone");
    let talk = "1 flow's questions and answers, alone";
    let own = one(Kind::ToBackend, first);
    let pair = |name, own, other, against| Pair { name, own, other, against };
    vec![
        pair(alone, Work::Swap, None, None),
        pair("the same on another CPU", Work::Swap, Some(Work::Swap), Some(alone)),
        pair(hot, own, None, None),
        pair(
            "1 flow, another on the other CPU",
            own,
            Some(one(Kind::ToBackend, second)),
            Some(hot),
        ),
        pair("1 flow, the same on the other CPU", own, Some(own), Some(hot)),
        pair(
            "1 flow, its replies on the other CPU",
            own,
            Some(one(Kind::ToClient, first)),
            Some(hot),
        ),
        pair(talk, Work::Talk(Talk::Both), None, None),
        pair(
            "1 flow's questions, its answers on the other CPU",
            Work::Talk(Talk::Client),
            Some(Work::Talk(Talk::Backend)),
            Some(talk),
        ),
        pair(all, many, None, None),
        pair("1M flows, the same on the other CPU", many, Some(many), Some(all)),
    ]
}

fn rows(pairs: &[Pair], figures: &[Vec<f64>]) -> Result<Vec<Row>> {
    let row = |pair: &Pair, own: &Vec<f64>| {
        let row = Row::of(pair.name, own)?;
        let Some(against) = pair.against else { return Ok(row) };
        let other = pairs.iter().position(|other| other.name == against);
        let other = &figures[other.with_context(|| format!("no row {against}"))?];
        row.beside((against, other), By::Ratio, own, None)
    };
    pairs.iter().zip(figures).map(|(pair, own)| row(pair, own)).collect()
}

impl Lab {
    /// Nanoseconds a packet of the measured CPU.
    fn time(&mut self, pair: &Pair, runs: u32) -> Result<f64> {
        let Some(other) = pair.other else { return self.alone(pair.own, runs) };
        for doubled in 0..TRIES {
            let longer = runs * (LONGER << doubled);
            if let Some(time) = self.together(pair.own, other, (runs, longer))? {
                return Ok(time);
            }
        }
        bail!("the other CPU was never at work all the while")
    }

    fn alone(&mut self, work: Work, runs: u32) -> Result<f64> {
        let before = self.bed.counters(HOLDS)?;
        let mut shot = self.shot(work)?;
        let program = work.program(&self.bed, &self.rivals)?;
        let ran = self.wrappers[0].run(program, &mut shot, runs)?;
        self.keep(work, shot);
        self.counted(&before, &[(work, runs)])?;
        ran.answered(TX)?;
        Ok(ran.nanoseconds)
    }

    /// `None` where the other CPU was done before the measured one.
    fn together(
        &mut self,
        own: Work,
        other: Work,
        (runs, longer): (u32, u32),
    ) -> Result<Option<f64>> {
        let before = self.bed.counters(HOLDS)?;
        let mut shots = [self.shot(own)?, self.shot(other)?];
        let programs =
            [own.program(&self.bed, &self.rivals)?, other.program(&self.bed, &self.rivals)?];
        let (ran, all_the_while) =
            beside(&mut self.wrappers, programs, &mut shots, (runs, longer), self.cpus[1])?;
        ran.answered(TX)?;
        for (work, shot) in [own, other].into_iter().zip(shots) {
            self.keep(work, shot);
        }
        self.counted(&before, &[(own, runs), (other, longer)])?;
        Ok(all_the_while.then_some(ran.nanoseconds))
    }

    fn shot(&self, work: Work) -> Result<Shot> {
        match work {
            Work::Swap => self.bed.pinned(Kind::ToBackend, 0),
            Work::Flows(kind, bits, first) => {
                self.bed.pinned_of(kind, &Clients { first, ..self.bed.clients(bits) })
            }
            Work::Talk(talk) => Ok(self.talks[talk as usize].clone()),
        }
    }

    fn keep(&mut self, work: Work, shot: Shot) {
        if let Work::Talk(talk) = work {
            self.talks[talk as usize] = shot;
        }
    }

    /// That all packets of both were what they should be.
    fn counted(&mut self, before: &Counters, works: &[(Work, u32)]) -> Result<()> {
        self.rivals.no_misses()?;
        let after = self.bed.counters(HOLDS)?;
        let (mut reasons, mut cell) = (Vec::new(), canary_common::Cell::default());
        for (work, runs) in works {
            let kind = match *work {
                Work::Swap => continue,
                Work::Flows(kind, ..) => kind,
                Work::Talk(Talk::Both) => Kind::Exchange(0),
                Work::Talk(Talk::Client) => Kind::ToBackend,
                Work::Talk(Talk::Backend) => Kind::ToClient,
            };
            let ip_bytes = self.shot(*work)?.ip_bytes(0);
            let (more, counts) = counts_of(kind, u64::from(*runs), ip_bytes);
            reasons.extend(more);
            cell.add(&counts);
        }
        reasons_are(before, &after, &reasons)?;
        let counted = after.cell.since(&before.cell);
        ensure!(counted == cell, "counted {counted:?}\ninstead of {cell:?}");
        Ok(())
    }
}

impl Work {
    fn program<'a>(self, bed: &'a Bed, rivals: &'a Rivals) -> Result<&'a Xdp> {
        match self {
            Self::Swap => rivals.program(Rival::Swap),
            Self::Flows(..) | Self::Talk(_) => bed.plane.path(),
        }
    }
}

/// Runs the first program here while the second runs on another CPU; and
/// whether that one was at work from before to after.
fn beside(
    wrappers: &mut [Wrapper; 2],
    programs: [&Xdp; 2],
    shots: &mut [Shot; 2],
    (runs, longer): (u32, u32),
    cpu: usize,
) -> Result<(Timed, bool)> {
    let [own, other] = wrappers;
    let [own_shot, other_shot] = shots;
    let (begun, done) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let second = scope.spawn(|| -> Result<Timed> {
            let pinned = machine::pin_to(cpu);
            begun.store(true, Ordering::Release);
            pinned?;
            let ran = other.run(programs[1], other_shot, longer);
            done.store(true, Ordering::Release);
            ran
        });
        while !begun.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        std::thread::sleep(WARM_UP);
        let ran = own.run(programs[0], own_shot, runs);
        let all_the_while = !done.load(Ordering::Acquire);
        let second = second.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        second.context("on the other CPU")?.answered(TX)?;
        Ok((ran?, all_the_while))
    })
}
