//! The answer to `canary where`, by the functions that decide for packets.

use core::mem::offset_of;

use canary_common::{Reason, WhereAnswer};

use crate::{
    directory::Host,
    flows,
    maps::hash_keys,
    packet::{Header, Packet},
    parse::parse,
    path::{key_of, service_of},
    pick::{self, NoPick, pick},
};

const LEN: usize = size_of::<WhereAnswer>();

/// Writes a [`WhereAnswer`] over the packet's first bytes. Books nothing and
/// pins nothing. `None` where the packet is too short to carry the answer.
#[inline(always)]
pub fn answer(packet: &Packet) -> Option<()> {
    let out = packet.header::<LEN>(0)?;
    let host = Host::get()?;
    let asked = parse(packet).ok().and_then(|parsed| Some((parsed, service_of(host, &parsed)?)));
    // Everything is read from the packet before it is overwritten.
    let answer = match asked {
        None => WhereAnswer::default(),
        Some((parsed, (number, service))) => {
            let key = key_of(&parsed, number);
            let hash = pick::hash(service, &key);
            let mut answer = WhereAnswer {
                found: 1,
                split_hash: hash.for_split(service.salt),
                service: u32::from(number),
                weights: pick::weights(service),
                ..WhereAnswer::default()
            };
            let now = flows::now();
            let pinned = flows::find(&key, key.hash(hash_keys()), now)
                .and_then(|pin| Some((pin, pick::backend(host, pin.backend, number)?)));
            match pinned {
                Some((pin, _)) => {
                    answer.pinned = 1;
                    answer.backend = u32::from(pin.backend);
                    answer.state = pin.state() as u32;
                    answer.reason = Reason::Pinned as u32;
                }
                None => match pick(host, &key, hash, service, now) {
                    Ok(picked) => {
                        answer.backend = u32::from(picked.number);
                        answer.slot = picked.slot;
                        answer.steered = picked.steered.number();
                        answer.guarded = u32::from(picked.guarded);
                        answer.reason = Reason::NewFlow as u32;
                    }
                    Err(NoPick::NoBackend) => {
                        answer.reason = Reason::NoBackend as u32;
                    }
                    Err(NoPick::Collision) => {
                        answer.reason = Reason::Collision as u32;
                    }
                },
            }
            answer
        }
    };
    write(out, &answer);
    Some(())
}

#[inline(always)]
fn write(out: Header<LEN>, answer: &WhereAnswer) {
    out.set::<u32, { offset_of!(WhereAnswer, found) }>(answer.found);
    out.set::<u32, { offset_of!(WhereAnswer, service) }>(answer.service);
    out.set::<u32, { offset_of!(WhereAnswer, pinned) }>(answer.pinned);
    out.set::<u32, { offset_of!(WhereAnswer, backend) }>(answer.backend);
    out.set::<u32, { offset_of!(WhereAnswer, split_hash) }>(answer.split_hash);
    out.set::<u32, { offset_of!(WhereAnswer, slot) }>(answer.slot);
    out.set::<u32, { offset_of!(WhereAnswer, state) }>(answer.state);
    out.set::<u32, { offset_of!(WhereAnswer, reason) }>(answer.reason);
    out.set::<u64, { offset_of!(WhereAnswer, weights) }>(answer.weights);
    out.set::<u32, { offset_of!(WhereAnswer, guarded) }>(answer.guarded);
    out.set::<u32, { offset_of!(WhereAnswer, steered) }>(answer.steered);
}
