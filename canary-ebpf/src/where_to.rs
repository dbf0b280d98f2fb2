//! The answer to `canary where`, by the functions that decide for packets.

use core::mem::offset_of;

use canary_common::{Reason, WhereAnswer};

use crate::{
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
    let asked = parse(packet).ok().and_then(|parsed| Some((parsed, service_of(&parsed)?)));
    // Everything is read from the packet before it is overwritten.
    let (answer, hop) = match asked {
        None => (WhereAnswer::default(), None),
        Some((parsed, (number, service))) => {
            let mut answer = WhereAnswer {
                found: 1,
                service: u32::from(number),
                split_hash: pick::hash(service, &parsed).for_split(),
                weights: pick::weights(service),
                ..WhereAnswer::default()
            };
            let key = key_of(&parsed, number);
            let now = flows::now();
            let pinned = flows::find(&key, key.hash(&hash_keys()), now)
                .and_then(|pin| Some((pin, pick::backend(pin.backend, number)?)));
            let backend = match pinned {
                Some((pin, backend)) => {
                    answer.pinned = 1;
                    answer.backend = u32::from(pin.backend);
                    answer.state = pin.state() as u32;
                    answer.reason = Reason::Pinned as u32;
                    Some(backend)
                }
                None => match pick(&parsed, &key, service, now) {
                    Ok(picked) => {
                        answer.backend = u32::from(picked.number);
                        answer.slot = picked.slot;
                        answer.reason = Reason::NewFlow as u32;
                        Some(picked.backend)
                    }
                    Err(NoPick::NoBackend) => {
                        answer.reason = Reason::NoBackend as u32;
                        None
                    }
                    Err(NoPick::Collision) => {
                        answer.reason = Reason::Collision as u32;
                        None
                    }
                },
            };
            (answer, backend.map(|backend| backend.next_hop_mac))
        }
    };
    write(out, &answer, hop.unwrap_or_default());
    Some(())
}

#[inline(always)]
fn write(out: Header<LEN>, answer: &WhereAnswer, hop: canary_common::Mac) {
    out.set::<u32, { offset_of!(WhereAnswer, found) }>(answer.found);
    out.set::<u32, { offset_of!(WhereAnswer, service) }>(answer.service);
    out.set::<u32, { offset_of!(WhereAnswer, pinned) }>(answer.pinned);
    out.set::<u32, { offset_of!(WhereAnswer, backend) }>(answer.backend);
    out.set::<u32, { offset_of!(WhereAnswer, split_hash) }>(answer.split_hash);
    out.set::<u32, { offset_of!(WhereAnswer, slot) }>(answer.slot);
    out.set::<u32, { offset_of!(WhereAnswer, state) }>(answer.state);
    out.set::<u32, { offset_of!(WhereAnswer, reason) }>(answer.reason);
    out.set::<u64, { offset_of!(WhereAnswer, weights) }>(answer.weights);
    const HOP: usize = offset_of!(WhereAnswer, next_hop_mac);
    out.set::<u32, HOP>(u32::from_ne_bytes([hop[0], hop[1], hop[2], hop[3]]));
    out.set::<u16, { HOP + 4 }>(u16::from_ne_bytes([hop[4], hop[5]]));
    out.set::<u16, { HOP + 6 }>(0);
}
