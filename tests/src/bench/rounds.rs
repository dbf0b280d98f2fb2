//! Alternating rounds: each case once a round, so that what disturbs the
//! machine disturbs all of them.

use anyhow::{Context as _, Result};

use super::{
    beds::Bed,
    counted::{Expected, Kind},
    report::{By, Row, Section, Wanted},
    rivals::{Rival, Rivals},
    wrapper::{Shot, Wrapper, time_alone},
};

/// All that cases run on.
#[allow(missing_debug_implementations, reason = "aya's programs have none")]
pub struct Field {
    pub wrapper: Wrapper,
    pub rivals: Rivals,
    pub beds: Vec<Bed>,
}

/// One thing that is measured.
#[derive(Debug)]
pub struct Case {
    pub name: String,
    on: On,
    shot: Shot,
    wanted: Option<Wanted>,
    against: Option<(String, By, Option<Wanted>)>,
    /// One a round.
    figures: Vec<f64>,
}

#[derive(Debug)]
enum On {
    /// Without the wrapper.
    Alone(Rival),
    Rival(Rival),
    Bed(usize, Expected),
}

impl Case {
    fn new(name: &str, on: On, shot: Shot) -> Self {
        Self { name: name.to_owned(), on, shot, wanted: None, against: None, figures: Vec::new() }
    }

    #[must_use]
    pub fn alone(name: &str, rival: Rival, shot: Shot) -> Self {
        Self::new(name, On::Alone(rival), shot)
    }

    #[must_use]
    pub fn rival(name: &str, rival: Rival, shot: Shot) -> Self {
        Self::new(name, On::Rival(rival), shot)
    }

    /// On a bed, by its number.
    #[must_use]
    pub fn on(name: &str, bed: usize, expected: Expected, shot: Shot) -> Self {
        Self::new(name, On::Bed(bed, expected), shot)
    }

    /// Compared with another case.
    #[must_use]
    pub fn against(mut self, other: &str, by: By, wanted: Option<Wanted>) -> Self {
        self.against = Some((other.to_owned(), by, wanted));
        self
    }

    /// With what its own figure is to come to.
    #[must_use]
    pub const fn wanted(mut self, wanted: Wanted) -> Self {
        self.wanted = Some(wanted);
        self
    }

    /// Rates in place of times: nanoseconds become millions a second.
    pub fn rates(&mut self) {
        for figure in &mut self.figures {
            *figure = 1000.0 / *figure;
        }
    }

    /// Measured once, on so many packets.
    ///
    /// # Errors
    /// Where the kernel refuses, or a packet was not what it should be.
    pub fn time(&mut self, field: &mut Field, runs: u32) -> Result<()> {
        let Field { wrapper, rivals, beds } = field;
        let figure = match &self.on {
            On::Alone(rival) => {
                let ran = time_alone(rivals.program(*rival)?, &self.shot, runs)?;
                ran.answered(rival.action())?;
                ran.nanoseconds
            }
            On::Rival(rival) => {
                let ran = wrapper.run(rivals.program(*rival)?, &mut self.shot, runs)?;
                ran.answered(rival.action())?;
                rivals.no_misses()?;
                ran.nanoseconds
            }
            On::Bed(bed, expected) => {
                let bed = beds.get_mut(*bed).context("no such bed")?;
                let opens = expected.kind == Kind::Opens;
                // Of new flows each only once.
                let runs = if opens { runs.min(self.shot.flows()) } else { runs };
                let figure = bed.run(wrapper, &mut self.shot, runs, expected)?;
                if opens {
                    bed.forget(&bed.counted_at(expected.backend));
                }
                figure
            }
        };
        self.figures.push(figure);
        Ok(())
    }
}

/// Times every case once a round, each on so many packets.
///
/// # Errors
/// Where the kernel refuses, or a packet was not what it should be.
pub fn alternate(field: &mut Field, cases: &mut [Case], rounds: usize, runs: u32) -> Result<()> {
    for _ in 0..rounds {
        for case in &mut *cases {
            case.time(field, runs).with_context(|| case.name.clone())?;
        }
    }
    Ok(())
}

/// What came of it.
///
/// # Errors
/// Where nothing was measured, or a case is compared with one that is not.
pub fn section(name: &str, about: String, unit: &str, cases: &[Case]) -> Result<Section> {
    let rows = cases.iter().map(|case| {
        let row = Row { wanted: case.wanted, ..Row::of(&case.name, &case.figures)? };
        let Some((other, by, wanted)) = &case.against else { return Ok(row) };
        let figures = cases.iter().find(|case| case.name == *other);
        let figures = figures.with_context(|| format!("no row {other}"))?;
        row.beside((other, &figures.figures), *by, &case.figures, *wanted)
    });
    Ok(Section {
        name: name.to_owned(),
        about,
        unit: unit.to_owned(),
        rows: rows.collect::<Result<_>>()?,
    })
}
