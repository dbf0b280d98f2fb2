//! The packet path, packet by packet: verdict, reason, every output byte, and
//! what was counted. The program runs in the kernel, under test runs.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use canary::config::XdpMode;
use canary_common::{Ctl, Flow, Reason, ServiceFlags, Track};
use canary_tests::{
    bed::{BACKEND_ISN, Bed, CANARY, ISN, STABLE, address, both, isolated, wait_jiffies},
    frame::{ACK, FIN, Frame, RST, SYN, Transport},
    netns::ifindex,
    plane::{INGRESS, NewBackend, PASS, Plane, REDIRECT, TX},
};

#[test]
fn tcp_both_ways_and_its_end() {
    both(false, |bed| {
        bed.handshake()?;
        let mut sent = 0;
        for len in [0, 1, 2, 3, 255, 1400] {
            let payload = vec![0xa5; len];
            let question = bed.client_says(ACK).later(sent).payload(&payload);
            bed.forwarded(&question, Reason::Pinned, |_| ())?;
            let answer = bed.backend_says(ACK).later(sent).payload(&payload);
            bed.replied(&answer, |_| ())?;
            sent += len as u32;
        }
        let (asked, answered) = (bed.client_says(FIN | ACK), bed.backend_says(FIN | ACK));
        bed.forwarded(&asked.clone().later(sent), Reason::Pinned, |_| ())?;
        bed.forwarded(&asked.later(sent), Reason::Pinned, |_| ())?;
        bed.replied(&answered.later(sent), |c| c.closed += 1)?;
        // A RST after a FIN each way is no failure.
        bed.replied(&bed.backend_says(RST), |c| c.resets_backend_after_fin += 1)?;
        bed.forwarded(&bed.client_says(RST), Reason::Pinned, |_| ())
    });
}

#[test]
fn udp_both_ways() {
    both(true, |bed| {
        for len in [0, 1, 7, 512] {
            let question = Frame::udp(bed.client, bed.vip).payload(&vec![7; len]);
            let new = len == 0;
            let reason = if new { Reason::NewFlow } else { Reason::Pinned };
            bed.forwarded(&question, reason, |c| c.connections += u64::from(new))?;
            let answer = Frame::udp(bed.stable, bed.client).payload(&vec![9; len]);
            bed.replied(&answer, |c| c.established += u64::from(new))?;
        }
        Ok(())
    });
}

#[test]
fn udp_checksum_zero_stays_and_computed_zero_becomes_ffff() {
    isolated(|| {
        let mut bed = Bed::new(false, true)?;
        let mut frame = Frame::udp(bed.client, bed.vip).payload(b"none");
        frame.transport = Transport::UdpUnchecked;
        bed.forwarded(&frame, Reason::NewFlow, |c| c.connections += 1)?;
        // Some payload makes the translated checksum come out as zero: the
        // frame made from scratch has 0xffff there, and so must ours.
        let mut met = 0;
        for word in 0..=u16::MAX {
            let frame = Frame::udp(bed.client, bed.vip).payload(&word.to_be_bytes());
            let becomes = bed.towards(&frame, bed.stable).bytes();
            if becomes[40..42] == [0xff, 0xff] {
                met += 1;
                bed.forwarded(&frame, Reason::Pinned, |_| ())?;
            }
        }
        ensure!(met > 0, "no payload gave a checksum of zero");
        Ok(())
    });
}

#[test]
fn bad_checksum_in_bad_checksum_out() {
    both(false, |bed| {
        let mut frame = bed.syn();
        frame.checksum_error = 0x0101;
        // The error goes through the sum: the difference to right stays.
        let ran = bed.plane.run(&frame.bytes())?;
        ensure!(ran.action == TX);
        let right = bed.towards(&bed.syn(), bed.stable).bytes();
        ensure!(ran.bytes != right, "a wrong checksum was mended");
        ensure!(ran.bytes.len() == right.len());
        let differing = ran.bytes.iter().zip(&right).filter(|(a, b)| a != b).count();
        ensure!((1..=2).contains(&differing), "{differing} bytes differ");
        Ok(())
    });
}

#[test]
fn ip_options_are_kept() {
    isolated(|| {
        let mut bed = Bed::new(false, false)?;
        for len in [4, 8, 40] {
            let port = 50_000 + len as u16;
            bed.client.set_port(port);
            let frame = bed.syn().options(&vec![1; len]);
            bed.forwarded(&frame, Reason::NewFlow, |c| c.connections += 1)?;
        }
        Ok(())
    });
}

/// The frame behind these tags, of VLAN 0x123 each.
fn tagged(frame: &[u8], tags: &[u16]) -> Vec<u8> {
    let tags = tags.iter().flat_map(|tag| [tag.to_be_bytes(), [1, 0x23]]).flatten();
    [&frame[..12], &tags.collect::<Vec<_>>(), &frame[12..]].concat()
}

#[test]
fn tags_are_kept() {
    both(false, |bed| {
        for tags in [&[0x8100][..], &[0x88a8], &[0x88a8, 0x8100], &[0x8100, 0x8100]] {
            let port = bed.client.port();
            bed.client.set_port(port + 1);
            let steps = [
                (bed.syn(), bed.towards(&bed.syn(), bed.stable), Reason::NewFlow),
                (bed.syn_ack(), bed.back(&bed.syn_ack()), Reason::Reply),
                (
                    bed.client_says(ACK),
                    bed.towards(&bed.client_says(ACK), bed.stable),
                    Reason::Pinned,
                ),
            ];
            for (frame, becomes, reason) in steps {
                let ran = bed.plane.run(&tagged(&frame.bytes(), tags))?;
                ensure!((ran.action, ran.reason) == (TX, reason), "{tags:x?}: {ran:?}");
                ensure!(ran.bytes == tagged(&becomes.bytes(), tags), "{tags:x?}: {ran:02x?}");
            }
        }
        Ok(())
    });
}

#[test]
fn not_ours_is_untouched() {
    both(false, |bed| {
        let mut other_port = bed.syn();
        other_port.to.set_port(81);
        bed.passed(&other_port.bytes(), Reason::NotOurs)?;
        let other_protocol = Frame::udp(bed.client, bed.vip);
        bed.passed(&other_protocol.bytes(), Reason::NotOurs)?;
        // From a backend, but of no flow of ours.
        bed.passed(&bed.backend_says(ACK).bytes(), Reason::NoPin)?;
        let mut arp = bed.syn().bytes();
        arp[12..14].copy_from_slice(&0x0806_u16.to_be_bytes());
        bed.passed(&arp, Reason::NotIp)?;
        bed.passed(&tagged(&arp, &[0x8100]), Reason::NotIp)?;
        bed.passed(&tagged(&bed.syn().bytes(), &[0x9100]), Reason::NotIp)?;
        bed.passed(&tagged(&bed.syn().bytes(), &[0x88a8, 0x8100, 0x8100]), Reason::NotIp)?;
        let mut icmp = bed.syn().bytes();
        icmp[if bed.vip.is_ipv4() { 23 } else { 20 }] = 1;
        bed.passed(&icmp, Reason::NotTcpUdp)
    });
}

#[test]
fn malformed_and_unknown_fragments_go_to_the_host() {
    isolated(|| {
        let mut bed = Bed::new(false, false)?;
        let mut version = bed.syn().bytes();
        version[14] = 0x55;
        bed.passed(&version, Reason::Malformed)?;
        let mut header_len = bed.syn().bytes();
        header_len[14] = 0x44;
        bed.passed(&header_len, Reason::Malformed)?;
        // Later fragments of packets whose first was never seen.
        for word in [0x0001_u16, 0x1fff, 0x2001, 0x3fff] {
            let mut fragment = bed.syn().bytes();
            fragment[20..22].copy_from_slice(&word.to_be_bytes());
            bed.passed(&fragment, Reason::FragmentUnknown)?;
        }
        let mut bed = Bed::new(true, false)?;
        let mut version = bed.syn().bytes();
        version[14] = 0x40;
        bed.passed(&version, Reason::Malformed)
    });
}

#[test]
fn truncated_at_every_byte() {
    isolated(|| {
        for (v6, udp) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut bed = Bed::new(v6, udp)?;
            let whole = bed.opening().bytes();
            let headers = 14 + if v6 { 40 } else { 20 } + if udp { 8 } else { 20 };
            // The kernel refuses test runs of less than an Ethernet header.
            for len in 14..headers {
                bed.passed(&whole[..len], Reason::Truncated)
                    .with_context(|| format!("{len} bytes, v6 {v6}, udp {udp}"))?;
            }
            let ran = bed.plane.run(&whole[..headers])?;
            ensure!(ran.action == TX, "{headers} bytes are enough");
        }
        Ok(())
    });
}

#[test]
fn ttl_is_kept_honest() {
    both(false, |bed| {
        for ttl in [0, 1] {
            bed.passed(&bed.syn().ttl(ttl).bytes(), Reason::TtlExpired)?;
        }
        bed.forwarded(&bed.syn().ttl(2), Reason::NewFlow, |c| c.connections += 1)?;
        bed.passed(&bed.syn_ack().ttl(1).bytes(), Reason::TtlExpired)?;
        bed.replied(&bed.syn_ack().ttl(255), |_| ())
    });
}

#[test]
fn syn_retransmitted_is_counted_and_stays() {
    both(false, |bed| {
        bed.forwarded(&bed.syn(), Reason::NewFlow, |c| c.connections += 1)?;
        bed.plane.weights(1, 1.0, &[STABLE], &[CANARY])?;
        bed.forwarded(&bed.syn(), Reason::Pinned, |c| c.syn_retransmits += 1)?;
        bed.replied(&bed.syn_ack(), |_| ())
    });
}

#[test]
fn port_reused() {
    both(false, |bed| {
        let again = Frame::tcp(bed.client, bed.vip, SYN, ISN + 77_777, 0);
        // Half-open: it stays where it was, though the split has moved.
        bed.forwarded(&bed.syn(), Reason::NewFlow, |c| c.connections += 1)?;
        bed.plane.weights(1, 1.0, &[STABLE], &[CANARY])?;
        bed.forwarded(&again, Reason::NewFlow, |c| c.connections += 1)?;
        let mut syn_ack = bed.syn_ack();
        syn_ack.transport =
            Transport::Tcp { flags: SYN | ACK, seq: BACKEND_ISN, ack: ISN + 77_778 };
        bed.replied(&syn_ack, |_| ())?;
        bed.forwarded(&bed.client_says(ACK), Reason::Pinned, |c| c.established += 1)?;
        // Established: a new SYN goes to the same backend, which settles it.
        bed.forwarded(&again, Reason::Pinned, |_| ())?;
        bed.forwarded(&bed.client_says(FIN | ACK), Reason::Pinned, |_| ())?;
        bed.replied(&bed.backend_says(FIN | ACK), |c| c.closed += 1)?;
        // Closed: picked again, by the split of now.
        let third = Frame::tcp(bed.client, bed.vip, SYN, ISN + 200_000, 0);
        let canary = if bed.vip.is_ipv4() { "10.0.0.21:8081" } else { "[fd00:0:0:1::21]:8081" };
        let becomes = bed.towards(&third, address(canary));
        bed.expect(&third, Reason::NewFlow, &becomes, CANARY, |c| c.connections += 1)
    });
}

#[test]
fn refused_and_reset_are_told_apart() {
    both(false, |bed| {
        bed.forwarded(&bed.syn(), Reason::NewFlow, |c| c.connections += 1)?;
        // One that does not acknowledge the SYN is forwarded and not believed.
        let forged = Frame::tcp(bed.stable, bed.client, RST, 0, 0);
        bed.replied(&forged, |c| c.resets_backend_implausible += 1)?;
        let refusal = Frame::tcp(bed.stable, bed.client, RST | ACK, 0, ISN + 1);
        bed.replied(&refusal, |c| c.refused += 1)?;
        bed.replied(&refusal, |_| ())?;

        bed.client.set_port(40_001);
        bed.handshake()?;
        let far = Frame::tcp(bed.stable, bed.client, RST, BACKEND_ISN + (64 << 20), 0);
        bed.replied(&far, |c| c.resets_backend_implausible += 1)?;
        bed.replied(&bed.backend_says(RST), |c| c.resets_backend += 1)?;
        bed.replied(&bed.backend_says(RST), |_| ())?;

        bed.client.set_port(40_002);
        bed.handshake()?;
        bed.forwarded(&bed.client_says(RST), Reason::Pinned, |c| c.resets_client += 1)?;
        bed.forwarded(&bed.client_says(RST), Reason::Pinned, |_| ())
    });
}

#[test]
fn pins_outlive_weights_and_tables() {
    both(false, |bed| {
        bed.handshake()?;
        for (split, stable) in [(1.0, &[STABLE][..]), (0.5, &[STABLE]), (1.0, &[])] {
            bed.plane.weights(1, split, stable, &[CANARY])?;
            bed.forwarded(&bed.client_says(ACK).payload(b"x"), Reason::Pinned, |_| ())?;
            bed.replied(&bed.backend_says(ACK).payload(b"y"), |_| ())?;
        }
        Ok(())
    });
}

#[test]
fn taken_over_in_the_middle() {
    both(false, |bed| {
        bed.forwarded(&bed.client_says(ACK), Reason::Midstream, |c| c.midstream += 1)?;
        bed.forwarded(&bed.client_says(ACK), Reason::Pinned, |_| ())?;
        bed.replied(&bed.backend_says(ACK), |c| c.established += 1)?;
        // A backend that knows nothing of it is not a failure of the version.
        bed.client.set_port(41_000);
        bed.forwarded(&bed.client_says(ACK), Reason::Midstream, |c| c.midstream += 1)?;
        bed.replied(&bed.backend_says(RST), |_| ())?;
        // A RST of nobody's flow is forwarded and leaves no pin.
        bed.client.set_port(41_001);
        bed.forwarded(&bed.client_says(RST), Reason::Unpinned, |_| ())?;
        bed.passed(&bed.backend_says(ACK).bytes(), Reason::NoPin)
    });
}

#[test]
fn tracks_without_backends_get_nothing() {
    isolated(|| {
        let mut bed = Bed::new(false, false)?;
        bed.plane.weights(1, 1.0, &[STABLE], &[])?;
        for port in 42_000..42_200 {
            bed.client.set_port(port);
            bed.forwarded(&bed.syn(), Reason::NewFlow, |c| c.connections += 1)?;
        }
        bed.plane.weights(1, 0.0, &[], &[CANARY])?;
        bed.client.set_port(43_000);
        bed.passed(&bed.syn().bytes(), Reason::NoBackend)?;
        bed.plane.weights(1, 0.0, &[], &[])?;
        bed.passed(&bed.syn().bytes(), Reason::NoBackend)
    });
}

#[test]
fn unresolved_next_hop_goes_to_the_host() {
    isolated(|| {
        let mut bed = Bed::with(false, false, 4096, INGRESS, false)?;
        bed.passed(&bed.syn().bytes(), Reason::Unresolved)?;
        // Nothing was pinned: a retransmission is a first packet again.
        bed.passed(&bed.syn().bytes(), Reason::Unresolved)
    });
}

#[test]
fn another_way_out_is_redirected() {
    isolated(|| {
        let out = ifindex("cny-a")?;
        let mut bed = Bed::with(false, false, 4096, out, true)?;
        let frame = bed.syn().bytes();
        let ran = bed.plane.run(&frame)?;
        ensure!(ran.action == PASS && ran.reason == Reason::NoInterface && ran.bytes == frame);
        let allow = canary::plan::Write::AllowInterface { ifindex: out };
        bed.plane.get().apply(&[allow])?;
        bed.client.set_port(40_100);
        let frame = bed.syn();
        let ran = bed.plane.run(&frame.bytes())?;
        ensure!(ran.action == REDIRECT && ran.reason == Reason::NewFlow, "{ran:?}");
        ensure!(ran.bytes == bed.towards(&frame, bed.stable).bytes());
        // Back it goes the way it came, by loopback.
        let ran = bed.plane.run(&bed.syn_ack().bytes())?;
        ensure!(ran.action == TX && ran.reason == Reason::Reply, "{ran:?}");
        Ok(())
    });
}

/// Of a backend that is gone: its flows are booked as if their time were over,
/// and the client's next packet is picked again.
#[test]
fn flows_are_given_back_before_their_time() {
    isolated(|| {
        let mut bed = Bed::new(false, false)?;
        let answered = |ctl: Ctl| !Flow::was_unanswered(ctl);
        bed.forwarded(&bed.syn(), Reason::NewFlow, |c| c.connections += 1)?;
        let mut ended = 0;
        let mut give_back = |bed: &mut Bed, backend, which| {
            let backend = [backend].into();
            bed.plane.get().flow_table().give_back(&backend, which, &mut |_| ended += 1)
        };
        // Somebody else's stay, and those that are not meant.
        ensure!(give_back(&mut bed, STABLE + 1, |_| true).freed == 0);
        ensure!(give_back(&mut bed, STABLE, answered).freed == 0);
        let swept = give_back(&mut bed, STABLE, Flow::was_unanswered);
        ensure!((swept.freed, swept.handshake_timeouts) == (1, 1), "{swept:?}");
        ensure!(bed.shared()?.handshake_timeouts == 1);
        // The SYN that is sent again opens a flow.
        bed.forwarded(&bed.syn(), Reason::NewFlow, |c| c.connections += 1)?;
        bed.replied(&bed.syn_ack(), |_| ())?;
        ensure!(give_back(&mut bed, STABLE, Flow::was_unanswered).freed == 0, "answered");
        let swept = give_back(&mut bed, STABLE, |_| true);
        ensure!((swept.freed, swept.handshake_timeouts) == (1, 0), "{swept:?}");
        // In the middle, as if it had never been seen.
        bed.forwarded(&bed.client_says(ACK), Reason::Midstream, |c| c.midstream += 1)?;
        ensure!(ended == 2, "{ended} were told of");
        Ok(())
    });
}

#[test]
fn expiry_by_state() {
    isolated(|| {
        let mut bed = Bed::new(false, false)?;
        // Half-open, nobody answered: counted when its way is used again.
        bed.forwarded(&bed.syn(), Reason::NewFlow, |c| c.connections += 1)?;
        wait_jiffies(&mut bed, 100);
        bed.passed(&bed.syn_ack().bytes(), Reason::NoPin)?;
        let now = bed.plane.get().now()?;
        let table = bed.plane.get().flow_table();
        let swept = table.sweep(now, 0..table.buckets(), &mut |_| ());
        ensure!(swept.handshake_timeouts == 1 && swept.freed == 1, "{swept:?}");
        ensure!(bed.shared()?.handshake_timeouts == 1);
        // Answered, but the client went away: not the backend's failure.
        bed.forwarded(&bed.syn(), Reason::NewFlow, |c| c.connections += 1)?;
        bed.replied(&bed.syn_ack(), |_| ())?;
        wait_jiffies(&mut bed, 100);
        let now = bed.plane.get().now()?;
        ensure!(table.sweep(now, 0..table.buckets(), &mut |_| ()).handshake_timeouts == 0);
        // Established lives longer than half-open, and each packet extends it.
        bed.handshake()?;
        for _ in 0..3 {
            wait_jiffies(&mut bed, 260);
            bed.forwarded(&bed.client_says(ACK), Reason::Pinned, |_| ())?;
        }
        wait_jiffies(&mut bed, 400);
        bed.passed(&bed.backend_says(ACK).bytes(), Reason::NoPin)
    });
}

/// A handshake's time, 200 jiffies here, begins anew with each answer, and with
/// no SYN that is sent again.
#[test]
fn a_late_answer_leaves_time_for_the_ack() {
    isolated(|| {
        let mut bed = Bed::new(false, false)?;
        bed.plane.timeouts(1, 200)?;
        for answered in [false, true] {
            bed.forwarded(&bed.syn(), Reason::NewFlow, |c| c.connections += 1)?;
            wait_jiffies(&mut bed, 120);
            bed.forwarded(&bed.syn(), Reason::Pinned, |c| c.syn_retransmits += 1)?;
            if !answered {
                wait_jiffies(&mut bed, 120);
                bed.passed(&bed.syn_ack().bytes(), Reason::NoPin)?;
                continue;
            }
            for _ in 0..2 {
                bed.replied(&bed.syn_ack(), |_| ())?;
                wait_jiffies(&mut bed, 120);
            }
            bed.forwarded(&bed.client_says(ACK), Reason::Pinned, |c| c.established += 1)?;
        }
        Ok(())
    });
}

#[test]
fn a_full_bucket() {
    isolated(|| {
        // The smallest table: two buckets of four ways.
        let mut bed = Bed::with(false, false, 1, INGRESS, true)?;
        // Nothing is over by its time, however slow the machine is.
        bed.plane.timeouts(1, 60_000)?;
        let established = 40_000..40_064;
        for port in established.clone() {
            bed.client.set_port(port);
            bed.handshake()?;
        }
        // Eight in the table, the others in the overflow map; all are found.
        ensure!(bed.plane.get().overflow_len() == 56, "{}", bed.plane.get().overflow_len());
        // A flood of half-open flows evicts none of them.
        for port in 50_000..50_400 {
            bed.client.set_port(port);
            bed.forwarded(&bed.syn(), Reason::NewFlow, |c| c.connections += 1)?;
        }
        // Nor do far more flows than the overflow map has room for, whose
        // packets are answered.
        for port in 51_000..56_000 {
            bed.client.set_port(port);
            bed.plane.run(&bed.client_says(ACK).bytes())?;
            bed.plane.run(&bed.backend_says(RST).bytes())?;
        }
        ensure!(bed.plane.get().overflow_len() <= 56 + 512, "{}", bed.plane.get().overflow_len());
        for port in established {
            bed.client.set_port(port);
            bed.forwarded(&bed.client_says(ACK), Reason::Pinned, |_| ())?;
            bed.replied(&bed.backend_says(ACK), |_| ())?;
        }
        Ok(())
    });
}

/// A router fails over: the client's packets come from another neighbour.
#[test]
fn replies_follow_the_client() {
    isolated(|| {
        for (v6, udp) in [(false, false), (true, false), (false, true)] {
            let mut bed = Bed::new(v6, udp)?;
            let (question, answer) = match udp {
                false => (bed.client_says(ACK), bed.backend_says(ACK)),
                true => (bed.opening(), Frame::udp(bed.stable, bed.client)),
            };
            if udp {
                bed.forwarded(&question, Reason::NewFlow, |c| c.connections += 1)?;
                bed.replied(&answer, |c| c.established += 1)?;
            } else {
                bed.handshake()?;
            }
            let (own, first) = (question.to_mac, question.from_mac);
            // Only its first byte is another, only its last one, as with VRRP.
            for change in [[4, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 9], [0; 6]] {
                let router = std::array::from_fn(|i| first[i] ^ change[i]);
                let question = question.clone().macs(own, router);
                bed.forwarded(&question, Reason::Pinned, |_| ())?;
                let back = bed.back(&answer).macs(router, own);
                bed.expect(&answer, Reason::Reply, &back, STABLE, |_| ())?;
            }
        }
        Ok(())
    });
}

#[test]
fn half_open_makes_room_and_closed_before_it() {
    isolated(|| {
        let mut bed = Bed::with(false, false, 1, INGRESS, true)?;
        for port in 40_000..40_064 {
            bed.client.set_port(port);
            bed.forwarded(&bed.syn(), Reason::NewFlow, |c| c.connections += 1)?;
        }
        ensure!(bed.plane.get().overflow_len() == 0);
        ensure!(bed.shared()?.evicted == 56, "{:?}", bed.shared()?);
        // The eight that are left become established, then closed ones.
        let mut left = Vec::new();
        for port in 40_000..40_064 {
            bed.client.set_port(port);
            if bed.plane.run(&bed.syn_ack().bytes())?.reason == Reason::Reply {
                left.push(port);
                bed.forwarded(&bed.client_says(ACK), Reason::Pinned, |c| c.established += 1)?;
                bed.forwarded(&bed.client_says(RST), Reason::Pinned, |c| c.resets_client += 1)?;
            }
        }
        ensure!(left.len() == 8, "{left:?}");
        for port in 45_000..45_008 {
            bed.client.set_port(port);
            bed.forwarded(&bed.syn(), Reason::NewFlow, |c| c.connections += 1)?;
        }
        ensure!(bed.plane.get().overflow_len() == 0, "closed flows made room");
        Ok(())
    });
}

#[test]
fn splits_are_exact() {
    isolated(|| {
        let mut bed = Bed::with(false, false, 262_144, INGRESS, true)?;
        for split in [0.0, 0.01, 0.1, 0.5, 1.0] {
            bed.plane.weights(1, split, &[STABLE], &[CANARY])?;
            let canary_before = bed.plane.counters(CANARY)?.0.connections;
            let total = 20_000_u32;
            for i in 0..total {
                let host = 1 + (i / 5000) + (split * 1000.0) as u32 * 16;
                let port = 20_000 + (i % 5000) as u16;
                let client = SocketAddr::from((std::net::Ipv4Addr::from(0xc633_0000 + host), port));
                let frame = Frame::tcp(client, bed.vip, SYN, ISN, 0).bytes();
                let mut out = vec![0; 128];
                let program = bed.plane.get().program();
                bed.plane.get().test_run(program, &frame, &mut out)?;
            }
            let canary = bed.plane.counters(CANARY)?.0.connections - canary_before;
            let share = canary as f64 / f64::from(total);
            // Five standard deviations: false once in two million runs.
            let allowed = 5.0 * (split * (1.0 - split) / f64::from(total)).sqrt();
            ensure!((share - split).abs() <= allowed, "{share} instead of {split}");
        }
        Ok(())
    });
}

#[test]
fn client_affinity_ignores_the_port() {
    isolated(|| {
        let mut bed = Bed::new(false, false)?;
        bed.plane.service(1, bed.vip, false, ServiceFlags::CLIENT_AFFINITY)?;
        bed.plane.weights(1, 0.5, &[STABLE], &[CANARY])?;
        let mut tracks = [0; 2];
        for host in 1..=100_u8 {
            let mut seen = std::collections::BTreeSet::new();
            for port in 30_000..30_020 {
                let client = SocketAddr::from(([192, 0, 2, host], port));
                let ran = bed.plane.run(&Frame::tcp(client, bed.vip, SYN, ISN, 0).bytes())?;
                seen.insert(ran.bytes[30..34].to_vec());
            }
            ensure!(seen.len() == 1, "client {host} met {seen:?}");
            tracks[usize::from(seen.first().unwrap()[3] == 21)] += 1;
        }
        ensure!(tracks[0] > 20 && tracks[1] > 20, "{tracks:?}");
        Ok(())
    });
}

#[test]
fn one_backend_behind_two_services() {
    isolated(|| {
        let mut bed = Bed::new(false, false)?;
        let other_vip = address("203.0.113.20:80");
        bed.plane.service(2, other_vip, false, 0)?;
        // The first record of the shared address names the second.
        let shared = |number, service, vip, next| NewBackend {
            number,
            service,
            track: Track::Stable,
            vip,
            address: address("10.0.0.11:8080"),
            udp: false,
            ifindex: INGRESS,
            resolved: true,
            shares_with: next,
        };
        let alone =
            NewBackend { address: address("10.0.0.99:8080"), ..shared(4, 2, other_vip, None) };
        bed.plane.backend(&alone)?;
        bed.plane.backend(&shared(3, 2, other_vip, None))?;
        bed.plane.backend(&shared(STABLE, 1, bed.vip, Some(3)))?;
        bed.plane.weights(2, 0.0, &[3], &[])?;
        // Another client reaches the same backend by the other service, and
        // the replies go back as the service they came for.
        let client = address("198.51.100.8:40000");
        let ran = bed.plane.run(&Frame::tcp(client, other_vip, SYN, ISN, 0).bytes())?;
        ensure!(ran.reason == Reason::NewFlow && ran.action == TX);
        let syn_ack = Frame::tcp(bed.stable, client, SYN | ACK, BACKEND_ISN, ISN + 1);
        let ran = bed.plane.run(&syn_ack.bytes())?;
        ensure!(ran.reason == Reason::Reply && ran.bytes[26..30] == [203, 0, 113, 20]);
        // The same client address and port by both: the second one cannot go
        // to the shared backend, and takes the other of its table.
        bed.handshake()?;
        bed.plane.weights(2, 0.0, &[3, 4], &[])?;
        for port in 0..40 {
            bed.client.set_port(44_000 + port);
            bed.handshake()?;
            let frame = Frame::tcp(bed.client, other_vip, SYN, ISN, 0);
            let ran = bed.plane.run(&frame.bytes())?;
            ensure!(ran.reason == Reason::NewFlow || ran.reason == Reason::Collision);
            if ran.action == TX {
                ensure!(ran.bytes[30..34] == [10, 0, 0, 99], "collides at {port}");
            }
        }
        Ok(())
    });
}

#[test]
fn where_agrees_and_changes_nothing() {
    isolated(|| {
        for (v6, udp) in [(false, false), (true, true)] {
            let mut bed = Bed::new(v6, udp)?;
            bed.plane.weights(1, 0.3, &[STABLE], &[CANARY])?;
            for port in 30_000..30_200 {
                bed.client.set_port(port);
                let (vip, client) = (bed.vip, bed.client);
                let before = bed.plane.get().verdicts()?;
                let asked = bed.plane.get().ask_where(vip, udp, client)?;
                ensure!(bed.plane.get().verdicts()? == before);
                ensure!(asked.found == 1 && asked.pinned == 0, "{asked:?}");
                bed.plane.run(&bed.opening().bytes())?;
                let pinned = bed.plane.get().ask_where(vip, udp, client)?;
                ensure!(pinned.pinned == 1 && pinned.backend == asked.backend, "{pinned:?}");
            }
            let nobody =
                bed.plane.get().ask_where(SocketAddr::new(bed.vip.ip(), 9), udp, bed.client)?;
            ensure!(nobody.found == 0);
        }
        Ok(())
    });
}

#[test]
fn the_largest_sizes_load_and_work() {
    isolated(|| {
        let mut bed = Bed::with(false, false, 8_388_608, INGRESS, true)?;
        ensure!(bed.plane.get().capacity() == 8_388_608, "{}", bed.plane.get().capacity());
        bed.handshake()?;
        let table = bed.plane.get().flow_table();
        let now = bed.plane.get().now()?;
        let mut live = 0;
        table.scan(now, 0..table.buckets(), &mut |_| live += 1);
        ensure!(live == 1, "{live} live flows");
        // The largest Maglev table, to its last slot.
        let size = canary_common::MAX_TABLE_SIZE;
        let slots = vec![STABLE; size as usize];
        bed.plane.get().apply(&[canary::plan::Write::Table { number: 4000, slots }])?;
        bed.plane.table_size(1, size)?;
        bed.plane.point_at(1, [4000, 0])?;
        for port in 50_000..50_200 {
            bed.client.set_port(port);
            bed.forwarded(&bed.syn(), Reason::NewFlow, |c| c.connections += 1)?;
        }
        Ok(())
    });
}

#[test]
fn the_programs_log_can_be_switched_on() {
    isolated(|| {
        let vip = address("203.0.113.10:80");
        let mut plane = Plane::logging(4096)?;
        plane.service(1, vip, false, 0)?;
        // Without a backend: one of the rare reasons, of which some are logged.
        for port in 30_000..30_200 {
            let client = SocketAddr::from(([198, 51, 100, 7], port));
            let ran = plane.run(&Frame::tcp(client, vip, SYN, ISN, 0).bytes())?;
            ensure!(ran.reason == Reason::NoBackend && ran.action == PASS);
        }
        plane.get().flush_log();
        Ok(())
    });
}

/// Loopback has no native XDP.
#[test]
fn what_native_mode_is_refused_for_is_told() {
    isolated(|| {
        let mut plane = Plane::new(4096)?;
        let refused = plane.get().attach("lo", XdpMode::Native);
        let text = refused.err().context("attached to lo in native mode")?.to_string();
        ensure!(text.starts_with("canary cannot attach to lo in native mode ("), "{text}");
        ensure!(text.contains("not supported") && text.contains("`xdp_mode = \"auto\"`"), "{text}");
        // Which is good advice.
        let attached = plane.get().attach("lo", XdpMode::Auto)?;
        ensure!(!attached.native, "{attached:?}");
        Ok(())
    });
}
