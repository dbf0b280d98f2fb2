//! Far more flows than the table has room for. Which of them have to make
//! room the model does not say, so only what must hold whatever happens is
//! looked at.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use canary_common::FlowKey;

use super::{
    driver::{EPISODE, Session},
    generate::Generator,
    real::Real,
    step::Step,
};
use crate::plane::{PASS, REDIRECT, TX};

/// What a run came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub steps: usize,
    /// Half-open flows that had to make room.
    pub evicted: u64,
    /// Established flows that were looked for after a step, and were there.
    pub kept: usize,
}

/// Runs so many steps from a seed.
///
/// # Errors
/// The kernel's; or where an established flow is gone or has moved, a packet
/// is dropped, or not exactly one reason is counted for it.
pub fn run(real: &mut Real, seed: u64, steps: usize) -> Result<Tally> {
    let mut generator = Generator::new(seed, false).without_orders();
    let mut tally = Tally::default();
    while tally.steps < steps {
        let mut session = Session::new(real)?;
        for _ in 0..EPISODE {
            let step = generator.next(&session.model);
            let before = session.real.established();
            apply(&mut session, &step)?;
            if !matches!(step, Step::Time { .. }) {
                tally.kept += all_there(&session, &before, &step)?;
            }
            tally.steps += 1;
        }
        tally.evicted += session.real.counted()?.evicted;
    }
    Ok(tally)
}

/// Both take the step; they are not compared.
fn apply(session: &mut Session<'_>, step: &Step) -> Result<()> {
    let Some(bytes) = step.bytes(&session.model) else {
        return match step {
            Step::Time { quanta, sweep } => {
                session.pass_time(*quanta, *sweep);
                Ok(())
            }
            other => session.configure(other),
        };
    };
    session.model.frame(&bytes);
    let action = session.real.packet(&bytes)?.action;
    ensure!([PASS, TX, REDIRECT].contains(&action), "{step}: action {action}");
    Ok(())
}

fn all_there(session: &Session<'_>, before: &HashMap<FlowKey, u16>, step: &Step) -> Result<usize> {
    let after = session.real.flows();
    let mut kept = 0;
    for (key, backend) in before {
        if session.model.is_configured(*backend) {
            let found = after.get(key);
            ensure!(found == Some(backend), "{step}: {key:?} was at {backend}, now {found:?}");
            kept += 1;
        }
    }
    Ok(kept)
}
