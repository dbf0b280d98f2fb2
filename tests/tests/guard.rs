//! What keeps new flows from the canary, or takes them there: guard, salt,
//! steering. Packet by packet, as in `conformance.rs`.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use canary::{
    dataplane::{GuardOrder, Steering},
    plan::Write,
};
use canary_common::{Backend, Cell, Cidr, GuardStatus, Reason, ServiceFlags, Told, Track, told};
use canary_tests::{
    bed::{Bed, CANARY, ISN, STABLE, both},
    frame::{ACK, Frame, RST, SYN},
    plane::{INGRESS, NewBackend, TX},
};

const SERVICE: u16 = 1;
const FAILURES: Told = told!(refused).and(told!(resets_backend)).and(told!(connections_5xx));

fn order(budget: Option<u64>) -> GuardOrder {
    GuardOrder { budget, dead_man: None, counts: FAILURES }
}

/// A new connection from this port goes to one of the two, and is counted.
fn opens(bed: &mut Bed, port: u16, backend: u16) -> Result<()> {
    bed.client.set_port(port);
    let frame = bed.syn();
    let to = if backend == CANARY { bed.canary } else { bed.stable };
    let becomes = bed.towards(&frame, to);
    bed.expect(&frame, Reason::NewFlow, &becomes, backend, |c| c.connections += 1)
        .with_context(|| format!("port {port}"))
}

/// The canary's answer to the flow that speaks just now.
fn canary_says(bed: &mut Bed, frame: Frame, counts: impl FnOnce(&mut Cell)) -> Result<()> {
    let frame = Frame { from: bed.canary, ..frame };
    let becomes = bed.back(&frame);
    bed.expect(&frame, Reason::Reply, &becomes, CANARY, counts)
}

/// A new connection to the canary that is refused.
fn refused(bed: &mut Bed, port: u16) -> Result<()> {
    opens(bed, port, CANARY)?;
    let refusal = Frame::tcp(bed.canary, bed.client, RST | ACK, 0, ISN + 1);
    canary_says(bed, refusal, |c| c.refused += 1)
}

fn established(bed: &mut Bed, port: u16) -> Result<()> {
    opens(bed, port, CANARY)?;
    canary_says(bed, bed.syn_ack(), |_| ())?;
    asks(bed, |c| c.established += 1)
}

/// A packet of the flow that speaks just now, which is pinned to the canary.
fn asks(bed: &mut Bed, counts: impl FnOnce(&mut Cell)) -> Result<()> {
    let frame = bed.client_says(ACK);
    let becomes = bed.towards(&frame, bed.canary);
    bed.expect(&frame, Reason::Pinned, &becomes, CANARY, counts)
}

fn status(bed: &mut Bed) -> Result<(GuardStatus, u64, u64)> {
    let state = bed.plane.get().guard(SERVICE)?;
    Ok((state.status, state.bad, state.diverted))
}

/// What `canary where` says of a first packet: the backend, whether the guard
/// took it from the canary, and whether it is steered.
fn asked(bed: &mut Bed, port: u16) -> Result<(u32, u32, u32)> {
    bed.client.set_port(port);
    let (vip, client) = (bed.vip, bed.client);
    let answer = bed.plane.get().ask_where(vip, false, client)?;
    Ok((answer.backend, answer.guarded, answer.steered))
}

fn all_to_the_canary(bed: &mut Bed) -> Result<()> {
    bed.plane.weights(SERVICE, 1.0, &[STABLE], &[CANARY])
}

#[test]
fn a_spent_budget_takes_the_canary_out() {
    both(false, |bed| {
        all_to_the_canary(bed)?;
        bed.plane.get().arm_guard(SERVICE, &order(Some(2)))?;
        established(bed, 40_000)?;
        refused(bed, 40_001)?;
        ensure!(status(bed)? == (GuardStatus::Armed, 1, 0), "{:?}", status(bed)?);
        ensure!(asked(bed, 50_000)? == (u32::from(CANARY), 0, 0));
        refused(bed, 40_002)?;
        let state = bed.plane.get().guard(SERVICE)?;
        ensure!(state.status == GuardStatus::BudgetSpent && state.bad == 2, "{state:?}");
        ensure!(state.limit == Some(2) && state.spent_at.is_some(), "{state:?}");
        // New flows go to stable, and asking counts nothing.
        ensure!(asked(bed, 50_000)? == (u32::from(STABLE), 1, 0));
        opens(bed, 40_003, STABLE)?;
        opens(bed, 40_004, STABLE)?;
        ensure!(status(bed)? == (GuardStatus::BudgetSpent, 2, 2), "{:?}", status(bed)?);
        // Pins are left alone, and what fails is counted on.
        bed.client.set_port(40_000);
        asks(bed, |_| ())?;
        canary_says(bed, bed.backend_says(RST), |c| c.resets_backend += 1)?;
        let after = bed.plane.get().guard(SERVICE)?;
        ensure!(after.bad == 3 && after.spent_at == state.spent_at, "{after:?}");
        // Another budget: what was not known of when it was decided is spent.
        bed.plane.get().set_budget(SERVICE, 2, 1);
        opens(bed, 40_005, STABLE)?;
        bed.plane.get().set_budget(SERVICE, 2, 2);
        ensure!(status(bed)?.0 == GuardStatus::Armed);
        refused(bed, 40_006)?;
        ensure!(bed.plane.get().guard(SERVICE)?.spent_at > state.spent_at);
        opens(bed, 40_007, STABLE)
    });
}

#[test]
fn only_what_the_guard_is_to_count_is_counted() {
    both(false, |bed| {
        // The stable backend's failures are not.
        bed.plane.get().arm_guard(SERVICE, &order(Some(1)))?;
        bed.handshake()?;
        bed.replied(&bed.backend_says(RST), |c| c.resets_backend += 1)?;
        ensure!(status(bed)? == (GuardStatus::Armed, 0, 0));
        // Nor are the canary's others.
        all_to_the_canary(bed)?;
        let counts = told!(resets_backend);
        bed.plane.get().arm_guard(SERVICE, &GuardOrder { counts, ..order(Some(1)) })?;
        refused(bed, 41_000)?;
        established(bed, 41_001)?;
        let frame = bed.client_says(RST);
        let becomes = bed.towards(&frame, bed.canary);
        bed.expect(&frame, Reason::Pinned, &becomes, CANARY, |c| c.resets_client += 1)?;
        ensure!(status(bed)? == (GuardStatus::Armed, 0, 0));
        // A response 5xx is, once a flow; a packet that tells more is one event.
        bed.plane.get().arm_guard(SERVICE, &order(None))?;
        established(bed, 41_002)?;
        let line = b"HTTP/1.1 503 Service Unavailable\r\n\r\n";
        let answer = bed.backend_says(ACK).payload(line);
        canary_says(bed, answer.clone(), |c| {
            c.http_5xx += 1;
            c.connections_5xx += 1;
        })?;
        canary_says(bed, answer.later(line.len() as u32), |c| c.http_5xx += 1)?;
        ensure!(status(bed)? == (GuardStatus::Armed, 1, 0), "{:?}", status(bed)?);
        let counts = FAILURES.and(told!(http_5xx)).and(told!(resets_backend_after_data));
        bed.plane.get().arm_guard(SERVICE, &GuardOrder { counts, ..order(None) })?;
        canary_says(bed, bed.backend_says(RST), |c| {
            c.resets_backend += 1;
            c.resets_backend_after_data += 1;
        })?;
        ensure!(status(bed)? == (GuardStatus::Armed, 2, 0), "{:?}", status(bed)?);
        // Of a guard that is off nothing is.
        bed.plane.get().disarm_guard(SERVICE);
        refused(bed, 41_003)?;
        ensure!(status(bed)? == (GuardStatus::Off, 2, 0), "{:?}", status(bed)?);
        // And a budget counts from where it is given.
        bed.plane.get().arm_guard(SERVICE, &order(Some(1)))?;
        refused(bed, 41_004)?;
        opens(bed, 41_005, STABLE)
    });
}

#[test]
fn a_silent_daemon_takes_the_canary_out() {
    both(false, |bed| {
        let (short, long) = (Duration::from_millis(200), Duration::from_secs(3600));
        all_to_the_canary(bed)?;
        let armed = GuardOrder { dead_man: Some(short), ..order(None) };
        bed.plane.get().arm_guard(SERVICE, &armed)?;
        opens(bed, 42_000, CANARY)?;
        std::thread::sleep(2 * short);
        ensure!(status(bed)? == (GuardStatus::DeadMan, 0, 0), "{:?}", status(bed)?);
        opens(bed, 42_001, STABLE)?;
        // A daemon that comes back finds it so, and undoes it only by order.
        let (mut again, _) = canary::dataplane::Dataplane::open(&bed.plane.options())?;
        ensure!(again.guard(SERVICE)?.status == GuardStatus::DeadMan);
        ensure!(again.heartbeat(SERVICE, long)? == GuardStatus::DeadMan);
        opens(bed, 42_002, STABLE)?;
        again.arm_guard(SERVICE, &armed)?;
        ensure!(again.heartbeat(SERVICE, long)? == GuardStatus::Armed);
        std::thread::sleep(2 * short);
        opens(bed, 42_003, CANARY)?;
        ensure!(status(bed)? == (GuardStatus::Armed, 0, 2), "{:?}", status(bed)?);
        Ok(())
    });
}

#[test]
fn a_held_guard_stops_and_one_that_is_off_does_not() {
    both(false, |bed| {
        all_to_the_canary(bed)?;
        bed.plane.get().hold_guard(SERVICE);
        opens(bed, 43_000, STABLE)?;
        ensure!(status(bed)? == (GuardStatus::Held, 0, 1), "{:?}", status(bed)?);
        // Nobody is heard through a hold.
        let held = bed.plane.get().heartbeat(SERVICE, Duration::from_secs(9))?;
        ensure!(held == GuardStatus::Held);
        opens(bed, 43_001, STABLE)?;
        bed.plane.get().disarm_guard(SERVICE);
        opens(bed, 43_002, CANARY)?;
        ensure!(status(bed)? == (GuardStatus::Off, 0, 2), "{:?}", status(bed)?);
        // Without a stable backend there is nowhere else to go.
        bed.plane.get().hold_guard(SERVICE);
        bed.plane.weights(SERVICE, 1.0, &[], &[CANARY])?;
        opens(bed, 43_003, CANARY)?;
        ensure!(asked(bed, 43_004)? == (u32::from(CANARY), 0, 0));
        ensure!(status(bed)? == (GuardStatus::Held, 0, 2), "{:?}", status(bed)?);
        // What the split gives to stable is no business of the guard's.
        bed.plane.weights(SERVICE, 0.0, &[STABLE], &[CANARY])?;
        opens(bed, 43_005, STABLE)?;
        ensure!(status(bed)?.2 == 2);
        Ok(())
    });
}

/// Nothing closed a half-open flow, so its port used again stays where it is;
/// but not before a guard.
#[test]
fn a_port_used_again_does_not_pass_a_guard() {
    both(false, |bed| {
        all_to_the_canary(bed)?;
        opens(bed, 44_000, CANARY)?;
        let again = Frame::tcp(bed.client, bed.vip, SYN, ISN + 99, 0);
        let becomes = bed.towards(&again, bed.canary);
        bed.expect(&again, Reason::NewFlow, &becomes, CANARY, |c| c.connections += 1)?;
        bed.plane.get().hold_guard(SERVICE);
        // The same connection, on its pin.
        bed.expect(&again, Reason::Pinned, &becomes, CANARY, |c| c.syn_retransmits += 1)?;
        bed.forwarded(&bed.syn(), Reason::NewFlow, |c| c.connections += 1)?;
        ensure!(status(bed)?.2 == 1);
        Ok(())
    });
}

#[test]
fn another_salt_draws_anew_and_keeps_the_slots() {
    both(false, |bed| {
        bed.plane.weights(SERVICE, 0.5, &[STABLE], &[CANARY])?;
        let ports = 30_000..30_200_u16;
        let mut draws = Vec::new();
        for salt in [0, 0, 1, 2] {
            bed.plane.change(SERVICE, |service| service.salt = salt)?;
            let draw: Vec<_> = ports
                .clone()
                .map(|port| {
                    let (vip, client) = (bed.vip, SocketAddr::new(bed.client.ip(), port));
                    let answer = bed.plane.get().ask_where(vip, false, client)?;
                    let expected = if answer.split_hash >> 31 == 0 { CANARY } else { STABLE };
                    ensure!(answer.backend == u32::from(expected), "{answer:?}");
                    Ok((answer.backend == u32::from(CANARY), answer.slot))
                })
                .collect::<Result<_>>()?;
            draws.push(draw);
        }
        let apart = |a: &[(bool, u32)], b: &[(bool, u32)]| {
            a.iter().zip(b).filter(|(a, b)| a.0 != b.0).count()
        };
        ensure!(draws[0] == draws[1], "the same salt is the same draw");
        for (a, b) in [(0, 2), (2, 3), (0, 3)] {
            let moved = apart(&draws[a], &draws[b]);
            ensure!((60..140).contains(&moved), "{moved} of 200 moved");
        }
        let slots = |draw: &[(bool, u32)]| draw.iter().map(|d| d.1).collect::<Vec<_>>();
        ensure!(draws.iter().all(|draw| slots(draw) == slots(&draws[0])), "slots moved");
        // As it was asked, so it goes.
        for (port, (canary, _)) in ports.zip(&draws[3]) {
            opens(bed, port, if *canary { CANARY } else { STABLE })?;
        }
        Ok(())
    });
}

const FOR_EVER: Steering = Steering { track: Track::Canary, always: false, expires_in: None };
const TO_STABLE: Steering = Steering { track: Track::Stable, ..FOR_EVER };

/// Cells of steered flows, by backend.
const STEERED_CELLS: [u16; 2] = [100, 101];

fn can_steer(bed: &mut Bed) -> Result<()> {
    bed.plane.change(SERVICE, |service| service.flags |= ServiceFlags::STEERED)?;
    for (number, cell) in [STABLE, CANARY].into_iter().zip(STEERED_CELLS) {
        bed.plane.get().apply(&[Write::ClearCell { cell }])?;
        give_cell(bed, number, cell)?;
    }
    Ok(())
}

fn give_cell(bed: &mut Bed, number: u16, steered_cell: u16) -> Result<()> {
    let (track, address) = match number {
        CANARY => (Track::Canary, bed.canary),
        _ => (Track::Stable, bed.stable),
    };
    let (service, vip) = (SERVICE, bed.vip);
    let (udp, ifindex, resolved, shares_with) = (false, INGRESS, true, None);
    let backend =
        NewBackend { number, service, track, vip, address, udp, ifindex, resolved, shares_with };
    let record = Backend { steered_cell, ..backend.record() };
    Ok(bed.plane.get().apply(&[Write::Backend { number, record }])?)
}

/// A new connection from this port goes to one of the two, and is counted in the
/// cell of those who are steered.
fn is_steered(bed: &mut Bed, port: u16, backend: u16) -> Result<()> {
    let ordinary = bed.plane.counters(backend)?;
    let cell = STEERED_CELLS[usize::from(backend == CANARY)];
    let (mut expected, _) = bed.plane.get().cell(cell)?;
    bed.client.set_port(port);
    let frame = bed.syn();
    let to = if backend == CANARY { bed.canary } else { bed.stable };
    let ran = bed.plane.run(&frame.bytes())?;
    ensure!((ran.action, ran.reason) == (TX, Reason::NewFlow), "{ran:?}");
    ensure!(ran.bytes == bed.towards(&frame, to).bytes(), "port {port}: {:02x?}", ran.bytes);
    expected.connections += 1;
    expected.packets_in += 1;
    expected.bytes_in += frame.ip_bytes();
    let (counted, _) = bed.plane.get().cell(cell)?;
    ensure!(counted == expected, "counted {counted:?}\ninstead of {expected:?}");
    ensure!(bed.plane.counters(backend)? == ordinary, "counted in the epoch's cell");
    Ok(())
}

/// The client's own address, and a network around it.
fn networks(bed: &Bed) -> [Cidr; 2] {
    let wide = if bed.vip.is_ipv4() { "198.51.100.0/24" } else { "2001:db8:1::/48" };
    [bed.client.ip().into(), wide.parse().unwrap()]
}

#[test]
fn who_is_steered_goes_there_whatever_the_split() {
    both(false, |bed| {
        can_steer(bed)?;
        let [alone, around] = networks(bed);
        // At a split of nothing, and one of all.
        bed.plane.get().steer(SERVICE, alone, &FOR_EVER)?;
        is_steered(bed, 45_000, CANARY)?;
        ensure!(asked(bed, 45_001)? == (u32::from(CANARY), 0, 2));
        all_to_the_canary(bed)?;
        bed.plane.get().steer(SERVICE, alone, &TO_STABLE)?;
        is_steered(bed, 45_002, STABLE)?;
        ensure!(asked(bed, 45_003)? == (u32::from(STABLE), 0, 1));
        // The pin goes first.
        bed.client.set_port(45_000);
        let again = bed.syn();
        let ran = bed.plane.run(&again.bytes())?;
        ensure!(ran.reason == Reason::Pinned, "{ran:?}");
        ensure!(ran.bytes == bed.towards(&again, bed.canary).bytes());
        // The longest network counts, and without it the one around.
        bed.plane.get().steer(SERVICE, around, &TO_STABLE)?;
        bed.plane.get().steer(SERVICE, alone, &FOR_EVER)?;
        bed.plane.weights(SERVICE, 0.0, &[STABLE], &[CANARY])?;
        is_steered(bed, 45_004, CANARY)?;
        ensure!(bed.plane.get().unsteer(SERVICE, alone)?);
        ensure!(!bed.plane.get().unsteer(SERVICE, alone)?);
        is_steered(bed, 45_005, STABLE)?;
        // Another service's, other clients', or none: by the split.
        bed.plane.get().forget_steering(SERVICE)?;
        bed.plane.get().steer(SERVICE + 1, alone, &FOR_EVER)?;
        opens(bed, 45_006, STABLE)?;
        ensure!(asked(bed, 45_007)? == (u32::from(STABLE), 0, 0));
        // Nobody is looked up for a service that has nobody.
        bed.plane.get().steer(SERVICE, alone, &FOR_EVER)?;
        bed.plane.change(SERVICE, |service| service.flags &= !ServiceFlags::STEERED)?;
        opens(bed, 45_008, STABLE)
    });
}

#[test]
fn steering_gives_way_to_what_cannot_be_had() {
    both(false, |bed| {
        can_steer(bed)?;
        let [alone, _] = networks(bed);
        // A track without a table: the other one.
        bed.plane.get().steer(SERVICE, alone, &FOR_EVER)?;
        bed.plane.weights(SERVICE, 1.0, &[STABLE], &[])?;
        is_steered(bed, 46_000, STABLE)?;
        bed.plane.get().steer(SERVICE, alone, &TO_STABLE)?;
        bed.plane.weights(SERVICE, 0.0, &[], &[CANARY])?;
        is_steered(bed, 46_001, CANARY)?;
        bed.plane.weights(SERVICE, 0.0, &[], &[])?;
        bed.client.set_port(46_002);
        bed.passed(&bed.syn().bytes(), Reason::NoBackend)?;
        // The guard, unless it is to be passed.
        bed.plane.weights(SERVICE, 0.0, &[STABLE], &[CANARY])?;
        bed.plane.get().steer(SERVICE, alone, &FOR_EVER)?;
        bed.plane.get().hold_guard(SERVICE);
        is_steered(bed, 46_003, STABLE)?;
        ensure!(asked(bed, 46_004)? == (u32::from(STABLE), 1, 2));
        ensure!(status(bed)? == (GuardStatus::Held, 0, 1), "{:?}", status(bed)?);
        bed.plane.get().steer(SERVICE, alone, &Steering { always: true, ..FOR_EVER })?;
        is_steered(bed, 46_005, CANARY)?;
        // Whose failures the guard does not count: nobody drew them.
        bed.plane.get().arm_guard(SERVICE, &order(Some(1)))?;
        let refusal = Frame::tcp(bed.canary, bed.client, RST | ACK, 0, ISN + 1);
        bed.plane.run(&refusal.bytes())?;
        let (counted, _) = bed.plane.get().cell(STEERED_CELLS[1])?;
        ensure!(counted.refused == 1, "{counted:?}");
        ensure!(status(bed)? == (GuardStatus::Armed, 0, 1), "{:?}", status(bed)?);
        // Without a cell of their own they are booked with the others.
        bed.plane.get().steer(SERVICE, alone, &TO_STABLE)?;
        give_cell(bed, STABLE, 0)?;
        opens(bed, 46_006, STABLE)
    });
}

#[test]
fn steering_ends_by_itself() {
    both(false, |bed| {
        can_steer(bed)?;
        let [alone, around] = networks(bed);
        let short = Duration::from_millis(300);
        let expires_in = Some(short);
        bed.plane.get().steer(SERVICE, alone, &Steering { expires_in, ..FOR_EVER })?;
        is_steered(bed, 47_000, CANARY)?;
        let (listed, total) = bed.plane.get().steered(SERVICE, 10)?;
        let [(network, steering)] = listed[..] else { anyhow::bail!("{listed:?}") };
        ensure!((network, steering.track, total) == (alone, Track::Canary, 1));
        ensure!(steering.expires_in.is_some_and(|left| left <= short), "{steering:?}");
        std::thread::sleep(short + short / 2);
        opens(bed, 47_001, STABLE)?;
        // What stands around it counts again.
        bed.plane.get().steer(SERVICE, around, &FOR_EVER)?;
        is_steered(bed, 47_002, CANARY)?;
        let (listed, total) = bed.plane.get().steered(SERVICE, 10)?;
        ensure!(listed == [(around, FOR_EVER)] && total == 1, "{listed:?}, {total}");
        ensure!(!bed.plane.get().unsteer(SERVICE, alone)?, "it is gone");
        Ok(())
    });
}

#[test]
fn many_are_listed_in_part_and_forgotten_whole() {
    both(false, |bed| {
        let v4 = bed.vip.is_ipv4();
        let network = |i: u32| -> Cidr {
            match v4 {
                true => IpAddr::from((0x0a00_0000 + i).to_be_bytes()).into(),
                false => {
                    IpAddr::from((0x2001_0db8_u128 << 96 | u128::from(i)).to_be_bytes()).into()
                }
            }
        };
        bed.plane.get().steer_all(SERVICE, (0..5000).map(|i| (network(i), FOR_EVER)))?;
        bed.plane.get().steer_all(2, (0..10).map(|i| (network(i), TO_STABLE)))?;
        let (listed, total) = bed.plane.get().steered(SERVICE, 7)?;
        ensure!((listed.len(), total) == (7, 5000), "{} of {total}", listed.len());
        ensure!(listed.iter().all(|(_, steering)| *steering == FOR_EVER), "{listed:?}");
        bed.plane.get().forget_steering(SERVICE)?;
        ensure!(bed.plane.get().steered(SERVICE, 7)? == (vec![], 0));
        ensure!(bed.plane.get().steered(2, 100)?.1 == 10);
        // A service that goes leaves nobody to the next one of its number.
        bed.plane.get().apply(&[Write::DropService { number: 2 }])?;
        ensure!(bed.plane.get().steered(2, 100)?.1 == 0);
        Ok(())
    });
}
