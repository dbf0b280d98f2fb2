//! From a long case that fails to a short one: steps are left out, then fields
//! are made plain, as long as it still fails.

use anyhow::Result;

use super::{
    driver::Ended,
    step::{By, PKT, Pkt, Step},
};
use crate::shrink::leave_out;

/// The short case, and how it fails.
///
/// # Errors
/// Those of `replay`.
pub fn shrink(
    mut case: Vec<Step>,
    mut replay: impl FnMut(&[Step]) -> Result<Ended>,
) -> Result<(Vec<Step>, String)> {
    let Ended::Differs(mut last) = replay(&case)? else {
        return Ok((case, "and did not when it was played again".to_owned()));
    };
    let mut fails = |case: &[Step], last: &mut String| -> Result<bool> {
        let ended = replay(case)?;
        if let Ended::Differs(what) = ended {
            *last = what;
            return Ok(true);
        }
        Ok(false)
    };
    loop {
        let len = case.len();
        case = leave_out(case, |case| fails(case, &mut last))?;
        for plainer in plainer_together(&case) {
            if fails(&plainer, &mut last)? {
                case = plainer;
            }
        }
        for at in 0..case.len() {
            while let Some(plain) = plainer(&case[at]).into_iter().find_map(|step| {
                let mut with = case.clone();
                with[at] = step;
                match fails(&with, &mut last) {
                    Ok(true) => Some(Ok(with)),
                    Ok(false) => None,
                    Err(error) => Some(Err(error)),
                }
            }) {
                case = plain?;
            }
        }
        if case.len() == len {
            return Ok((case, last));
        }
    }
}

/// One client fewer: those of one address and port become the first one.
fn plainer_together(case: &[Step]) -> Vec<Vec<Step>> {
    let who = |step: &Step| packet_of(step).map(|pkt| (pkt.client, pkt.port));
    let mut clients: Vec<_> = case.iter().filter_map(who).collect();
    clients.sort_unstable();
    clients.dedup();
    clients
        .into_iter()
        .filter(|&client| client != (PKT.client, PKT.port))
        .map(|client| {
            let mut case = case.to_vec();
            for step in case.iter_mut().filter(|step| who(step) == Some(client)) {
                if let Step::Packet(pkt) | Step::Mutated(pkt, _) = step {
                    (pkt.client, pkt.port) = (PKT.client, PKT.port);
                }
            }
            case
        })
        .collect()
}

const fn packet_of(step: &Step) -> Option<&Pkt> {
    match step {
        Step::Packet(pkt) | Step::Mutated(pkt, _) => Some(pkt),
        _ => None,
    }
}

/// The step with one thing less, each strictly plainer than it was.
fn plainer(step: &Step) -> Vec<Step> {
    match step {
        Step::Packet(pkt) => plainer_packets(pkt).into_iter().map(Step::Packet).collect(),
        Step::Mutated(pkt, edits) => {
            let mut steps: Vec<_> = (0..edits.len())
                .map(|i| {
                    let mut fewer = edits.to_vec();
                    fewer.remove(i);
                    Step::Mutated(*pkt, fewer.into())
                })
                .collect();
            if edits.is_empty() {
                steps.push(Step::Packet(*pkt));
            }
            let packets = plainer_packets(pkt).into_iter();
            steps.extend(packets.map(|pkt| Step::Mutated(pkt, edits.clone())));
            steps
        }
        Step::Split { service, permille } if ![0, 1000].contains(permille) => {
            [0, 1000].map(|permille| Step::Split { service: *service, permille }).to_vec()
        }
        Step::Time { quanta, sweep } if *quanta > 1 => {
            vec![Step::Time { quanta: quanta - 1, sweep: *sweep }]
        }
        _ => Vec::new(),
    }
}

fn plainer_packets(pkt: &Pkt) -> Vec<Pkt> {
    let mut all = vec![
        Pkt { len: PKT.len, ..*pkt },
        Pkt { ttl: PKT.ttl, ..*pkt },
        Pkt { options: PKT.options, ..*pkt },
        Pkt { router: PKT.router, ..*pkt },
        Pkt { checksum_error: PKT.checksum_error, ..*pkt },
        Pkt { unchecked: PKT.unchecked, ..*pkt },
        Pkt { seq: PKT.seq, ..*pkt },
        Pkt { ack: PKT.ack, ..*pkt },
    ];
    if matches!(pkt.by, By::Backend(_)) {
        all.push(Pkt { by: By::Pinned, ..*pkt });
    }
    for bit in 0..8 {
        if pkt.flags >> bit & 1 == 1 && pkt.flags != PKT.flags {
            all.push(Pkt { flags: pkt.flags & !(1 << bit), ..*pkt });
        }
    }
    all.retain(|plainer| plainer != pkt);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As if the program and the model did not agree on a long packet after a
    /// split: nothing else is needed.
    #[test]
    fn two_plain_steps_are_left() -> Result<()> {
        let noise = |port| Step::Packet(Pkt { port, flags: 16, ..PKT });
        let mut case: Vec<_> = (0..40).map(noise).collect();
        case.insert(7, Step::Split { service: 1, permille: 250 });
        case.insert(
            30,
            Step::Mutated(Pkt { client: 9, len: 511, ttl: 3, ..PKT }, Vec::new().into()),
        );
        let (short, why) = shrink(case, |case| {
            let split = case.iter().position(|step| matches!(step, Step::Split { .. }));
            let long = |step| packet_of(step).is_some_and(|pkt| pkt.len == 511);
            let differs = split.is_some_and(|at| case[at..].iter().any(long));
            Ok(if differs {
                Ended::Differs(format!("{} steps", case.len()))
            } else {
                Ended::Agreed
            })
        })?;
        let split = Step::Split { service: 1, permille: 0 };
        assert_eq!(short, [split, Step::Packet(Pkt { len: 511, ..PKT })]);
        assert_eq!(why, "2 steps");
        Ok(())
    }
}
