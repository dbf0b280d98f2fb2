//! What is done by order: flows of a generation that was ended are cut, and in
//! a drill the canary's are made to fail. Packet by packet, as in
//! `conformance.rs`; every byte of what the program answers is made anew here.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use canary::dataplane::{FaultOrder, GuardOrder};
use canary_common::{Cell, FaultKind, GuardStatus, Reason, SharedCell, told};
use canary_tests::{
    bed::{BACKEND_ISN, Bed, CANARY, ISN, STABLE, both, isolated, wait_jiffies},
    frame::{ACK, FIN, Frame, RST, SYN, Transport, checksum},
    plane::{DROP, TX},
};

const SERVICE: u16 = 1;
const HOUR: Duration = Duration::from_secs(3600);

/// One that goes to the canary, all of them.
fn bed_of_canary(bed: &mut Bed) -> Result<()> {
    bed.plane.change(SERVICE, |service| service.generation = 1)?;
    bed.plane.weights(SERVICE, 1.0, &[STABLE], &[CANARY])
}

fn next_generation(bed: &mut Bed, generation: u8) -> Result<()> {
    bed.plane.change(SERVICE, |service| service.generation = generation)
}

/// To the canary, by `reason`.
fn forwarded(
    bed: &mut Bed,
    frame: &Frame,
    reason: Reason,
    counts: impl FnOnce(&mut Cell),
) -> Result<()> {
    let becomes = bed.towards(frame, bed.canary);
    bed.expect(frame, reason, &becomes, CANARY, counts)
}

fn replied(bed: &mut Bed, frame: Frame, counts: impl FnOnce(&mut Cell)) -> Result<()> {
    let frame = Frame { from: bed.canary, ..frame };
    let becomes = bed.back(&frame);
    bed.expect(&frame, Reason::Reply, &becomes, CANARY, counts)
}

fn handshake(bed: &mut Bed, port: u16) -> Result<()> {
    bed.client.set_port(port);
    forwarded(bed, &bed.syn(), Reason::NewFlow, |c| c.connections += 1)?;
    replied(bed, bed.syn_ack(), |_| ())?;
    forwarded(bed, &bed.client_says(ACK), Reason::Pinned, |c| c.established += 1)
}

/// The answer to a client's frame, from nothing: a RST from the VIP, and the
/// zeroes that an Ethernet frame is filled up with.
fn rst_to(frame: &Frame) -> Vec<u8> {
    let Transport::Tcp { flags, seq, ack } = frame.transport else { panic!("{frame:?}") };
    let begins_and_ends = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let acknowledges = seq.wrapping_add(frame.payload.len() as u32 + begins_and_ends);
    let expected = if flags & ACK != 0 { ack } else { 0 };
    let mut rst = Frame::tcp(frame.to, frame.from, RST | ACK, expected, acknowledges);
    (rst.to_mac, rst.from_mac) = (frame.from_mac, frame.to_mac);
    rst.window = 0;
    let mut bytes = rst.bytes();
    if frame.from.is_ipv4() {
        // Of its own, not the client's: no identification.
        bytes[18..20].fill(0);
        bytes[24..26].fill(0);
        let sum = checksum(&bytes[14..34]);
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        // Nor a flow label or a class.
        bytes[14..18].copy_from_slice(&[0x60, 0, 0, 0]);
    }
    let came = frame.bytes().len();
    bytes.resize(came.min(60).max(bytes.len()), 0);
    bytes
}

/// The packet is answered with a RST; the cell counts no packet, and as said.
fn answered(bed: &mut Bed, frame: &Frame, counts: impl FnOnce(&mut Cell)) -> Result<()> {
    let (mut expected, shared) = bed.plane.counters(CANARY)?;
    let stable = bed.plane.counters(STABLE)?;
    let ran = bed.plane.run(&frame.bytes())?;
    ensure!((ran.action, ran.reason) == (TX, Reason::Reset), "{ran:?}");
    let rst = rst_to(frame);
    ensure!(ran.bytes == rst, "bytes\n{:02x?}\ninstead of\n{rst:02x?}", ran.bytes);
    counts(&mut expected);
    ensure!(bed.plane.counters(CANARY)? == (expected, shared), "{:?}", bed.plane.counters(CANARY)?);
    ensure!(bed.plane.counters(STABLE)? == stable);
    Ok(())
}

fn nothing(_: &mut Cell) {}

#[test]
fn flows_of_an_ended_generation_are_cut() {
    both(false, |bed| {
        bed_of_canary(bed)?;
        handshake(bed, 40_000)?;
        forwarded(bed, &bed.client_says(ACK).payload(b"in time"), Reason::Pinned, |_| ())?;
        next_generation(bed, 2)?;
        // A RST of the client's own is nobody's to answer.
        bed.client.set_port(40_001);
        next_generation(bed, 1)?;
        handshake(bed, 40_001)?;
        next_generation(bed, 2)?;
        forwarded(bed, &bed.client_says(RST), Reason::Pinned, |c| c.resets_client += 1)?;
        // Data, however long, and what has none; again and again.
        bed.client.set_port(40_000);
        for len in [7, 0, 1, 1400] {
            let frame = bed.client_says(ACK).later(7).payload(&vec![0xa5; len]);
            answered(bed, &frame, nothing)?;
        }
        answered(bed, &bed.client_says(FIN | ACK).later(14), nothing)?;
        answered(bed, &bed.client_says(FIN).later(14), nothing)?;
        answered(bed, &bed.client_says(0).payload(b"without ACK"), nothing)?;
        // The backend has not heard of it; what it says meets the client's RST.
        replied(bed, bed.backend_says(ACK).payload(b"late"), |_| ())?;
        forwarded(bed, &bed.client_says(RST), Reason::Pinned, |_| ())?;
        replied(bed, bed.backend_says(RST), |_| ())?;
        // A new connection is one, under the generation of now.
        bed.plane.weights(SERVICE, 0.0, &[STABLE], &[CANARY])?;
        let again = Frame::tcp(bed.client, bed.vip, SYN, ISN + 500, 0);
        bed.forwarded(&again, Reason::NewFlow, |c| c.connections += 1)
    });
}

#[test]
fn only_what_was_born_to_the_canary_is_cut() {
    both(false, |bed| {
        bed_of_canary(bed)?;
        bed.plane.weights(SERVICE, 0.0, &[STABLE], &[CANARY])?;
        bed.handshake()?;
        bed.plane.weights(SERVICE, 1.0, &[STABLE], &[CANARY])?;
        // Taken over in the middle, at the canary: as any.
        bed.client.set_port(41_000);
        let frame = bed.client_says(ACK);
        forwarded(bed, &frame, Reason::Midstream, |c| c.midstream += 1)?;
        for generation in [2, 15, 1, 3] {
            next_generation(bed, generation)?;
            bed.client.set_port(40_000);
            bed.forwarded(&bed.client_says(ACK).payload(b"x"), Reason::Pinned, |_| ())?;
            bed.replied(&bed.backend_says(ACK).payload(b"y"), |_| ())?;
        }
        bed.client.set_port(41_000);
        answered(bed, &frame, nothing)?;
        // Of the generation of now, and where there is none.
        handshake(bed, 41_001)?;
        for generation in [3, 0] {
            next_generation(bed, generation)?;
            forwarded(bed, &bed.client_says(ACK).payload(b"x"), Reason::Pinned, |_| ())?;
        }
        handshake(bed, 41_002)?;
        next_generation(bed, 4)?;
        forwarded(bed, &bed.client_says(ACK).payload(b"x"), Reason::Pinned, |_| ())?;
        // What has ended is left to end.
        next_generation(bed, 3)?;
        bed.client.set_port(41_001);
        forwarded(bed, &bed.client_says(FIN | ACK).later(1), Reason::Pinned, |_| ())?;
        replied(bed, bed.backend_says(FIN | ACK), |c| c.closed += 1)?;
        next_generation(bed, 4)?;
        forwarded(bed, &bed.client_says(ACK).later(2), Reason::Pinned, |_| ())
    });
}

/// Not established yet: it begins anew where the split has it now.
#[test]
fn a_handshake_of_an_ended_generation_begins_anew() {
    both(false, |bed| {
        bed_of_canary(bed)?;
        forwarded(bed, &bed.syn(), Reason::NewFlow, |c| c.connections += 1)?;
        bed.plane.weights(SERVICE, 0.0, &[STABLE], &[CANARY])?;
        next_generation(bed, 2)?;
        bed.forwarded(&bed.syn(), Reason::NewFlow, |c| c.connections += 1)?;
        bed.replied(&bed.syn_ack(), |_| ())
    });
}

#[test]
fn datagrams_of_an_ended_generation_are_picked_again() {
    both(true, |bed| {
        bed_of_canary(bed)?;
        let frame = bed.opening();
        forwarded(bed, &frame, Reason::NewFlow, |c| c.connections += 1)?;
        bed.plane.weights(SERVICE, 0.0, &[STABLE], &[CANARY])?;
        forwarded(bed, &frame, Reason::Pinned, |_| ())?;
        next_generation(bed, 2)?;
        bed.forwarded(&frame, Reason::NewFlow, |c| c.connections += 1)?;
        bed.forwarded(&frame, Reason::Pinned, |_| ())
    });
}

/// Between the headers there may be what cannot be cut out: such a packet is
/// forwarded as before, and the next plain one is answered.
#[test]
fn what_is_not_plain_is_not_answered() {
    isolated(|| {
        let mut bed = Bed::new(false, false)?;
        bed_of_canary(&mut bed)?;
        handshake(&mut bed, 40_000)?;
        next_generation(&mut bed, 2)?;
        let frame = bed.client_says(ACK).options(&[1; 8]).payload(b"x");
        forwarded(&mut bed, &frame, Reason::Pinned, |_| ())?;
        let mut first = bed.client_says(ACK).payload(&[7; 64]).bytes();
        first[20..22].copy_from_slice(&0x2000_u16.to_be_bytes());
        ensure!(bed.plane.run(&first)?.reason == Reason::Pinned);
        let plain = bed.client_says(ACK).payload(b"xy");
        answered(&mut bed, &plain, nothing)
    });
}

#[test]
fn tags_stay_on_an_answer() {
    both(false, |bed| {
        bed_of_canary(bed)?;
        handshake(bed, 40_000)?;
        next_generation(bed, 2)?;
        for tags in [&[0x8100_u16][..], &[0x88a8, 0x8100]] {
            for len in [0, 1, 3, 4, 300] {
                let frame = bed.client_says(ACK).payload(&vec![0x5a; len]);
                let tag = |bytes: &[u8]| {
                    let tags = tags.iter().flat_map(|tag| [tag.to_be_bytes(), [1, 0x23]]).flatten();
                    [&bytes[..12], &tags.collect::<Vec<_>>(), &bytes[12..]].concat()
                };
                let came = tag(&frame.bytes());
                let headers = if bed.vip.is_ipv4() { 54 } else { 74 };
                let mut becomes = tag(&rst_to(&frame)[..headers]);
                becomes.resize(came.len().min(60).max(becomes.len()), 0);
                let ran = bed.plane.run(&came)?;
                ensure!((ran.action, ran.reason) == (TX, Reason::Reset), "{tags:x?}: {ran:?}");
                ensure!(ran.bytes == becomes, "{tags:x?}, {len}: {:02x?}", ran.bytes);
            }
        }
        Ok(())
    });
}

fn drill(bed: &mut Bed, kind: FaultKind) -> Result<()> {
    let order = FaultOrder { kind, share: 1.0, clients: None, lasts: HOUR };
    Ok(bed.plane.get().set_fault(SERVICE, Some(&order))?)
}

fn how_many(bed: &mut Bed) -> Result<u64> {
    Ok(bed.plane.get().fault(SERVICE)?.context("there is a drill")?.faulted)
}

#[test]
fn a_drill_refuses() {
    both(false, |bed| {
        bed_of_canary(bed)?;
        let counts = told!(refused);
        let order = GuardOrder { budget: None, dead_man: None, counts };
        bed.plane.get().arm_guard(SERVICE, &order)?;
        drill(bed, FaultKind::Refuse)?;
        answered(bed, &bed.syn(), |c| {
            c.connections += 1;
            c.refused += 1;
        })?;
        let guard = bed.plane.get().guard(SERVICE)?;
        ensure!((guard.status, guard.bad) == (GuardStatus::Armed, 1), "{guard:?}");
        answered(bed, &bed.syn(), |c| c.syn_retransmits += 1)?;
        // Another connection from the same port is another one to fail.
        let again = Frame::tcp(bed.client, bed.vip, SYN, ISN + 77, 0);
        answered(bed, &again, |c| {
            c.connections += 1;
            c.refused += 1;
        })?;
        // With data already, as TCP Fast Open has it.
        bed.client.set_port(42_001);
        answered(bed, &bed.syn().payload(b"early"), |c| {
            c.connections += 1;
            c.refused += 1;
        })?;
        ensure!(how_many(bed)? == 3, "{}", how_many(bed)?);
        // What is over, or not the canary's, is not to fail.
        bed.plane.weights(SERVICE, 0.0, &[STABLE], &[CANARY])?;
        bed.client.set_port(42_002);
        bed.handshake()?;
        bed.plane.weights(SERVICE, 1.0, &[STABLE], &[CANARY])?;
        bed.plane.get().set_fault(SERVICE, None)?;
        handshake(bed, 42_003)?;
        ensure!(how_many(bed)? == 3);
        Ok(())
    });
}

#[test]
fn a_drill_drops_until_it_is_over() {
    both(false, |bed| {
        bed_of_canary(bed)?;
        drill(bed, FaultKind::Drop)?;
        let dropped = |bed: &mut Bed, counts: fn(&mut Cell)| -> Result<()> {
            let (mut expected, _) = bed.plane.counters(CANARY)?;
            let ran = bed.plane.run(&bed.syn().bytes())?;
            ensure!((ran.action, ran.reason) == (DROP, Reason::FaultDropped), "{ran:?}");
            counts(&mut expected);
            ensure!(bed.plane.counters(CANARY)?.0 == expected, "{:?}", bed.plane.counters(CANARY));
            Ok(())
        };
        dropped(bed, |c| c.connections += 1)?;
        dropped(bed, |c| c.syn_retransmits += 1)?;
        ensure!(how_many(bed)? == 1);
        // Nobody answered: that is what it comes to.
        wait_jiffies(bed, 100);
        let now = bed.plane.get().now()?;
        let table = bed.plane.get().flow_table();
        let swept = table.sweep(now, 0..table.buckets(), &mut |_| ());
        ensure!((swept.handshake_timeouts, swept.freed) == (1, 1), "{swept:?}");
        let (_, SharedCell { handshake_timeouts, .. }) = bed.plane.counters(CANARY)?;
        ensure!(handshake_timeouts == 1);
        // By itself, and what it has not killed lives on.
        let lasts = Duration::from_millis(150);
        let order = FaultOrder { kind: FaultKind::Drop, share: 1.0, clients: None, lasts };
        bed.plane.get().set_fault(SERVICE, Some(&order))?;
        dropped(bed, |c| c.connections += 1)?;
        std::thread::sleep(2 * lasts);
        ensure!(bed.plane.get().fault(SERVICE)?.context("one")?.left == Duration::ZERO);
        forwarded(bed, &bed.syn(), Reason::Pinned, |c| c.syn_retransmits += 1)?;
        replied(bed, bed.syn_ack(), |_| ())?;
        forwarded(bed, &bed.client_says(ACK), Reason::Pinned, |c| c.established += 1)?;
        handshake(bed, 43_000)
    });
}

#[test]
fn a_drill_resets_at_the_first_data() {
    both(false, |bed| {
        bed_of_canary(bed)?;
        drill(bed, FaultKind::Reset)?;
        handshake(bed, 44_000)?;
        forwarded(bed, &bed.client_says(ACK), Reason::Pinned, |_| ())?;
        ensure!(how_many(bed)? == 0);
        let question = bed.client_says(ACK).payload(b"GET / HTTP/1.1\r\n\r\n");
        answered(bed, &question, |c| {
            c.resets_backend += 1;
            c.resets_backend_after_data += 1;
        })?;
        // What was on its way is answered too, and counted no more.
        answered(bed, &question.clone().later(18), nothing)?;
        answered(bed, &bed.client_says(ACK).later(18), nothing)?;
        forwarded(bed, &bed.client_says(RST), Reason::Pinned, |_| ())?;
        ensure!(how_many(bed)? == 1);
        // Data with the handshake's last segment is the first as well.
        bed.client.set_port(44_001);
        forwarded(bed, &bed.syn(), Reason::NewFlow, |c| c.connections += 1)?;
        replied(bed, bed.syn_ack(), |_| ())?;
        answered(bed, &bed.client_says(ACK).payload(b"now"), |c| {
            c.established += 1;
            c.resets_backend += 1;
            c.resets_backend_after_data += 1;
        })?;
        // First seen in the middle: not a new connection.
        bed.client.set_port(44_002);
        let frame = bed.client_says(ACK).payload(b"x");
        forwarded(bed, &frame, Reason::Midstream, |c| c.midstream += 1)?;
        replied(bed, bed.backend_says(ACK), |c| c.established += 1)?;
        forwarded(bed, &frame.later(1), Reason::Pinned, |_| ())
    });
}

#[test]
fn a_drill_turns_responses_into_5xx() {
    both(false, |bed| {
        bed_of_canary(bed)?;
        drill(bed, FaultKind::Http5xx)?;
        handshake(bed, 45_000)?;
        let mut sent = 0;
        let mut says = |bed: &mut Bed, was: &str, becomes: &str, counts: fn(&mut Cell)| {
            let frame = bed.backend_says(ACK).later(sent).payload(was.as_bytes());
            sent += was.len() as u32;
            let frame = Frame { from: bed.canary, ..frame };
            let becomes = bed.back(&frame).payload(becomes.as_bytes());
            bed.expect(&frame, Reason::Reply, &becomes, CANARY, counts)
                .with_context(|| was.to_owned())
        };
        let first = |c: &mut Cell| {
            c.http_5xx += 1;
            c.connections_5xx += 1;
        };
        says(bed, "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n", |c| {
            c.http_1xx += 1;
        })?;
        says(bed, "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 500 OK\r\n\r\n", first)?;
        says(bed, "the rest of it", "the rest of it", |_| ())?;
        says(bed, "HTTP/1.0 404 So\r\nodd", "HTTP/1.0 504 So\r\nodd", |c| c.http_5xx += 1)?;
        says(bed, "HTTP/1.1 302", "HTTP/1.1 502", |c| c.http_5xx += 1)?;
        says(bed, "HTTP/1.1 503 No\r\n", "HTTP/1.1 503 No\r\n", |c| c.http_5xx += 1)?;
        says(bed, "HTTP/1.1 20", "HTTP/1.1 20", |_| ())?;
        says(bed, "HTTP/2.0 200 So\r\n", "HTTP/2.0 200 So\r\n", |_| ())?;
        ensure!(how_many(bed)? == 1, "{}", how_many(bed)?);
        // A retransmission says the same again.
        let frame = bed.backend_says(ACK).later(25).payload(b"HTTP/1.1 200 OK\r\n\r\n");
        let frame = Frame { from: bed.canary, ..frame };
        let becomes = bed.back(&frame).payload(b"HTTP/1.1 500 OK\r\n\r\n");
        bed.expect(&frame, Reason::Reply, &becomes, CANARY, |c| c.retransmits_backend += 1)?;
        ensure!(BACKEND_ISN > ISN, "numbers apart");
        Ok(())
    });
}

/// Who was not drawn is not made to fail, though its packets are looked at
/// twice: its generation is not the service's, and is not to be cut either.
#[test]
fn a_drill_leaves_alone_who_was_not_drawn() {
    both(false, |bed| {
        bed_of_canary(bed)?;
        handshake(bed, 47_000)?;
        drill(bed, FaultKind::Reset)?;
        next_generation(bed, 0)?;
        forwarded(bed, &bed.client_says(ACK).payload(b"x"), Reason::Pinned, |_| ())?;
        replied(bed, bed.backend_says(ACK).payload(b"HTTP/1.1 200 OK\r\n"), |c| c.http_2xx += 1)?;
        // A response that goes to the host goes there as it came.
        drill(bed, FaultKind::Http5xx)?;
        handshake(bed, 47_001)?;
        let frame = bed.backend_says(ACK).payload(b"HTTP/1.1 200 OK\r\n").ttl(1);
        let frame = Frame { from: bed.canary, ..frame };
        bed.passed(&frame.bytes(), Reason::TtlExpired)?;
        ensure!(how_many(bed)? == 0);
        Ok(())
    });
}

#[test]
fn a_drill_hits_whom_it_is_to_hit() {
    both(false, |bed| {
        bed_of_canary(bed)?;
        let (theirs, others) = match bed.vip.is_ipv4() {
            true => ("198.51.100.0/29", "198.51.100.8/29"),
            false => ("2001:db8:1::/125", "2001:db8:1::8/125"),
        };
        let order = FaultOrder {
            kind: FaultKind::Refuse,
            share: 1.0,
            clients: Some(others.parse()?),
            lasts: HOUR,
        };
        bed.plane.get().set_fault(SERVICE, Some(&order))?;
        handshake(bed, 46_000)?;
        let order = FaultOrder { clients: Some(theirs.parse()?), ..order };
        bed.plane.get().set_fault(SERVICE, Some(&order))?;
        bed.client.set_port(46_001);
        answered(bed, &bed.syn(), |c| {
            c.connections += 1;
            c.refused += 1;
        })?;
        // None, and some.
        bed.plane.get().set_fault(SERVICE, Some(&FaultOrder { share: 0.0, ..order }))?;
        handshake(bed, 46_002)?;
        bed.plane.get().set_fault(SERVICE, Some(&FaultOrder { share: 0.25, ..order }))?;
        for port in 10_000..11_000 {
            bed.client.set_port(port);
            bed.plane.run(&bed.syn().bytes())?;
        }
        // Six standard deviations.
        let faulted = how_many(bed)?;
        ensure!((168..=332).contains(&faulted), "{faulted} of 1000 at a quarter");
        ensure!(
            bed.plane.get().set_fault(SERVICE, Some(&FaultOrder { share: 1.5, ..order })).is_err()
        );
        Ok(())
    });
}
