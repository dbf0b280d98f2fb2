//! Every signal, packet by packet: what is counted, and that it is counted only
//! where the signal is read.
#![allow(clippy::unwrap_used, reason = "tests")]

use anyhow::{Context as _, Result, ensure};
use canary_common::{Cell, Reason, Signals, Timed};
use canary_tests::{
    bed::{Bed, ISN, STABLE, both},
    frame::{ACK, FIN, Frame, RST},
};

/// Who sends a segment: `len` bytes into its own stream, with this data.
#[derive(Clone, Copy)]
enum Says {
    Client(u32, &'static [u8]),
    Backend(u32, &'static [u8]),
    /// With a window of 0.
    ClientFull,
    BackendFull,
    ClientEnds(u32),
    BackendEnds(u32),
    ClientResets(u32),
    BackendResets(u32),
}

use Says::*;

/// What an established connection says next, and what is counted for it.
type Step = (Says, fn(&mut Cell));

/// The signal of a row, what it is, and the steps.
type Row = (u16, &'static str, &'static [Step]);

const NOTHING: fn(&mut Cell) = |_| ();
const GET: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
const BROKEN: &[u8] = b"HTTP/1.1 503 no\r\n\r\n";
const FATAL: &[u8] = &[21, 3, 3, 0, 2, 2, 40];
const WARNING: &[u8] = &[21, 3, 3, 0, 2, 1, 0];

const ROWS: &[Row] = &[
    (
        Signals::HTTP,
        "a response of each class",
        &[
            (Backend(0, b"HTTP/1.1 100 Continue\r\n\r\n"), |c| c.http_1xx += 1),
            (Backend(25, OK), |c| c.http_2xx += 1),
            (Backend(44, b"HTTP/1.0 302 over there\r\n"), |c| c.http_3xx += 1),
            (Backend(69, b"HTTP/1.1 404 not here\r\n\r\n"), |c| c.http_4xx += 1),
        ],
    ),
    (
        Signals::HTTP,
        "each 5xx, and its connection once",
        &[
            (Backend(0, BROKEN), |c| {
                c.http_5xx += 1;
                c.connections_5xx += 1;
            }),
            (Backend(19, BROKEN), |c| c.http_5xx += 1),
        ],
    ),
    (
        Signals::HTTP,
        "no response: in the middle, by the client, HTTP/2, cut short",
        &[
            (Backend(0, b"<p>HTTP/1.1 200 OK"), NOTHING),
            (Client(0, OK), NOTHING),
            (Backend(18, b"HTTP/2.0 200 OK\r\n"), NOTHING),
            (Backend(35, b"HTTP/1.1 20"), NOTHING),
        ],
    ),
    (
        Signals::HTTP,
        "a response that is sent again",
        &[
            (Backend(0, OK), |c| c.http_2xx += 1),
            (Backend(19, b"!"), NOTHING),
            (Backend(0, OK), |c| c.retransmits_backend += 1),
        ],
    ),
    (
        Signals::TLS,
        "a fatal alert by each side, once",
        &[
            (Client(0, FATAL), |c| c.tls_alerts_client += 1),
            (Client(7, FATAL), NOTHING),
            (Backend(0, FATAL), |c| c.tls_alerts_backend += 1),
            (Backend(7, FATAL), NOTHING),
        ],
    ),
    (
        Signals::TLS,
        "no alert: a warning, and a record of another kind",
        &[(Backend(0, WARNING), NOTHING), (Backend(7, &[22, 3, 3, 0, 2, 2, 40]), NOTHING)],
    ),
    (
        Signals::RETRANSMITS,
        "data again, by each side",
        &[
            (Client(0, GET), NOTHING),
            (Client(0, GET), |c| c.retransmits_client += 1),
            (Backend(0, OK), |c| c.http_2xx += 1),
            (Backend(0, OK), |c| c.retransmits_backend += 1),
        ],
    ),
    (
        Signals::RETRANSMITS,
        "none: a keep-alive probe, and an acknowledgement",
        &[
            (Client(0, GET), NOTHING),
            (Client(17, b"\n"), NOTHING),
            (Client(18, b""), NOTHING),
            (Client(0, b""), NOTHING),
        ],
    ),
    (
        Signals::ZERO_WINDOWS,
        "no room, on each side",
        &[
            (ClientFull, |c| c.zero_windows_client += 1),
            (BackendFull, |c| c.zero_windows_backend += 1),
            (BackendFull, |c| c.zero_windows_backend += 1),
        ],
    ),
    (
        0,
        "resets after data",
        &[
            (Client(0, GET), NOTHING),
            (BackendResets(0), |c| {
                c.resets_backend += 1;
                c.resets_backend_after_data += 1;
            }),
            (BackendResets(0), NOTHING),
        ],
    ),
    (
        0,
        "a client's reset after data",
        &[
            (Backend(0, b"data"), NOTHING),
            (ClientResets(0), |c| {
                c.resets_client += 1;
                c.resets_client_after_data += 1;
            }),
        ],
    ),
    (
        0,
        "resets after a FIN each way",
        &[
            (ClientEnds(0), NOTHING),
            (BackendEnds(0), |c| c.closed += 1),
            (BackendResets(1), |c| c.resets_backend_after_fin += 1),
            (ClientResets(1), NOTHING),
        ],
    ),
    (
        0,
        "resets that nobody has to believe",
        &[
            (BackendResets(64 << 20), |c| c.resets_backend_implausible += 1),
            (ClientResets(64 << 20), |c| c.resets_client_implausible += 1),
            (BackendResets(0), |c| c.resets_backend += 1),
        ],
    ),
];

fn frame(bed: &Bed, says: Says) -> Frame {
    let full = |frame: Frame| Frame { window: 0, ..frame };
    match says {
        Client(at, data) => bed.client_says(ACK).later(at).payload(data),
        Backend(at, data) => bed.backend_says(ACK).later(at).payload(data),
        ClientFull => full(bed.client_says(ACK)),
        BackendFull => full(bed.backend_says(ACK)),
        ClientEnds(at) => bed.client_says(FIN | ACK).later(at),
        BackendEnds(at) => bed.backend_says(FIN | ACK).later(at),
        ClientResets(at) => bed.client_says(RST).later(at),
        BackendResets(at) => bed.backend_says(RST).later(at),
    }
}

const fn by_backend(says: Says) -> bool {
    matches!(says, Backend(..) | BackendFull | BackendEnds(_) | BackendResets(_))
}

fn say(bed: &mut Bed, says: Says, counts: fn(&mut Cell)) -> Result<()> {
    let frame = frame(bed, says);
    if by_backend(says) {
        bed.replied(&frame, counts)
    } else {
        bed.forwarded(&frame, Reason::Pinned, counts)
    }
}

#[test]
fn each_is_counted() {
    both(false, |bed| {
        for (_, what, steps) in ROWS {
            let port = bed.client.port();
            bed.client.set_port(port + 1);
            bed.handshake()?;
            for (number, (says, counts)) in steps.iter().enumerate() {
                say(bed, *says, *counts).with_context(|| format!("{what}, step {number}"))?;
            }
        }
        Ok(())
    });
}

/// Without its signal a row counts nothing of its own, whether the service
/// leaves it out or the program was loaded without it.
#[test]
fn what_is_switched_off_is_not_counted() {
    both(false, |bed| {
        let by_program = Bed::with_signals(bed.vip.is_ipv6(), 0)?;
        bed.plane.signals(1, 0)?;
        for bed in [bed, &mut { by_program }] {
            for (signal, what, steps) in ROWS.iter().filter(|row| row.0 != 0) {
                let port = bed.client.port();
                bed.client.set_port(port + 1);
                bed.handshake()?;
                for (says, _) in *steps {
                    say(bed, *says, NOTHING).with_context(|| format!("{signal}: {what}"))?;
                }
            }
            let times = bed.plane.get().latencies(2 * STABLE);
            ensure!(times.handshake.count() + times.first_byte.count() == 0, "times were taken");
        }
        Ok(())
    });
}

/// A handshake, the wait for a connection's first answer, and of the later ones
/// those that are drawn.
#[test]
fn times_are_taken() {
    both(false, |bed| {
        let counts = |bed: &mut Bed| {
            let times = bed.plane.get().latencies(2 * STABLE);
            (times.handshake.count(), times.first_byte.count())
        };
        bed.handshake()?;
        ensure!(counts(bed) == (1, 0), "{:?} after the handshake", counts(bed));
        let responses: fn(&mut Cell) = |c| c.http_2xx += 1;
        for (steps, after) in [
            // A request in two segments, and a response in two, are one wait.
            (&[Client(0, GET), Client(18, GET)][..], (1, 0)),
            (&[Backend(0, OK)][..], (1, 1)),
            (&[Backend(19, OK)][..], (1, 1)),
        ] {
            for says in steps {
                say(bed, *says, if by_backend(*says) { responses } else { NOTHING })?;
            }
            ensure!(counts(bed) == after, "{:?} instead of {after:?}", counts(bed));
        }
        let mut timed = 1;
        for request in 0..64_u32 {
            let (asked, answered) = (36 + 18 * request, 38 + 19 * request);
            say(bed, Client(asked, GET), NOTHING)?;
            say(bed, Backend(answered, OK), responses)?;
            timed += u64::from(Timed::is_drawn(ISN + 1 + asked));
            ensure!(counts(bed) == (1, timed), "{:?}, request {request}", counts(bed));
        }
        ensure!((2..32).contains(&timed), "{timed} of 65 were timed");
        Ok(())
    });
}
