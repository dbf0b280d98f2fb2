//! Timing programs by the kernel's own measure of test runs, in alternating
//! rounds, so that what disturbs the machine disturbs all of them.

pub mod report;
pub mod userspace;

use std::{fmt::Write as _, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf,
    maps::{Array, MapData, ProgramArray},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use canary::dataplane::BENCH_OBJECT;
use canary_common::{EXCHANGE_FRAME, Exchange};

use crate::{
    frame::{ACK, Frame},
    plane::{BACKEND_MAC, OWN_MAC},
};

/// Whose first bytes say what they are.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// Numbers of the first bytes that each side of the benchmark's connections
/// sends, and so acknowledges.
pub const CLIENT_SEQ: u32 = 1001;
pub const SERVER_SEQ: u32 = 9001;

/// A program that is timed on a frame, and the times.
#[derive(Debug)]
pub struct Row<'a> {
    name: &'a str,
    program: &'a Xdp,
    frame: &'a [u8],
    /// What it must answer.
    action: u32,
    /// Nanoseconds a packet, a round each.
    times: Vec<f64>,
}

impl<'a> Row<'a> {
    #[must_use]
    pub const fn new(name: &'a str, program: &'a Xdp, frame: &'a [u8], action: u32) -> Self {
        Self { name, program, frame, action, times: Vec::new() }
    }

    fn time(&mut self, repeat: u32) -> Result<()> {
        let options =
            TestRunOptions { data_in: Some(self.frame), repeat, ..TestRunOptions::default() };
        let ran = self.program.test_run(options).with_context(|| self.name.to_owned())?;
        ensure!(ran.return_value == self.action, "{}: action {}", self.name, ran.return_value);
        self.times.push(ran.duration.as_nanos() as f64);
        Ok(())
    }
}

/// Times every row once a round; each of `repeat` runs meets what the one
/// before left of the frame.
///
/// # Errors
/// Where the kernel refuses, or a program answers otherwise than it should.
pub fn alternate(rows: &mut [Row<'_>], rounds: usize, repeat: u32) -> Result<()> {
    for _ in 0..rounds {
        for row in &mut *rows {
            row.time(repeat)?;
        }
    }
    Ok(())
}

/// A table of times, and of their medians' ratios to the first row's.
///
/// # Errors
/// Where nothing was measured.
#[expect(clippy::print_stdout, reason = "its output is for people")]
pub fn print_ratios(rows: &[Row<'_>]) -> Result<()> {
    let reference = spread(&rows[0].times)?[1];
    let last = rows.iter().map(|row| Ok(format!("{:.2}", spread(&row.times)?[1] / reference)));
    print!("{}", table(rows, "ratio", last.collect::<Result<Vec<_>>>()?)?);
    Ok(())
}

/// A table of times, and of the median difference to row `base` in the same
/// round.
///
/// # Errors
/// Where nothing was measured.
#[expect(clippy::print_stdout, reason = "its output is for people")]
pub fn print_differences(rows: &[Row<'_>], base: usize) -> Result<()> {
    let base = &rows[base].times;
    let over = |row: &Row<'_>| -> Vec<f64> {
        row.times.iter().zip(base).map(|(time, base)| time - base).collect()
    };
    let last = rows.iter().map(|row| Ok(format!("{:+.0}", spread(&over(row))?[1])));
    print!("{}", table(rows, "over", last.collect::<Result<Vec<_>>>()?)?);
    Ok(())
}

fn table(rows: &[Row<'_>], title: &str, last: Vec<String>) -> Result<String> {
    let mut text = format!("  {:<30} {:>6} {:>6} {:>6} {title:>6}\n", "", "min", "median", "max");
    for (row, last) in rows.iter().zip(last) {
        let [min, median, max] = spread(&row.times)?;
        writeln!(text, "  {:<30} {min:>6} {median:>6} {max:>6} {last:>6}", row.name)?;
    }
    Ok(text)
}

/// Least, median, most.
fn spread(times: &[f64]) -> Result<[f64; 3]> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().context("nothing was measured");
    Ok([at(0)?, at(sorted.len() / 2)?, at(sorted.len().saturating_sub(1))?])
}

/// The benchmark's own programs.
#[derive(Debug)]
pub struct Extra(Ebpf);

impl Extra {
    /// # Errors
    /// Without root, or before Linux 5.18, which knows no multi-buffer frames.
    pub fn load() -> Result<Self> {
        let mut ebpf = Ebpf::load(BENCH_OBJECT)?;
        for (name, program) in ebpf.programs_mut() {
            let program: &mut Xdp = program.try_into()?;
            program.load().with_context(|| format!("loading {name}"))?;
        }
        Ok(Self(ebpf))
    }

    /// What others are measured against: swaps the MACs and sends back.
    ///
    /// # Errors
    /// Where the object has no such program.
    pub fn reference(&self) -> Result<&Xdp> {
        self.program("canary_reference")
    }

    fn program(&self, name: &str) -> Result<&Xdp> {
        let program = self.0.program(name).with_context(|| format!("no program {name}"))?;
        Ok(program.try_into()?)
    }
}

/// A program that gets a connection's requests and responses in turns, whatever
/// frame it is run on.
#[allow(missing_debug_implementations, reason = "aya's array of programs has none")]
pub struct Exchanging {
    extra: Extra,
    /// Ends with its last descriptor, and the wrapper's way to the program too.
    _measured: ProgramArray<MapData>,
}

impl Exchanging {
    /// The connection is established, and nothing has been sent yet.
    ///
    /// # Errors
    /// The kernel's.
    pub fn around(program: &Xdp, client: SocketAddr, server: SocketAddr) -> Result<Self> {
        let mut extra = Extra::load()?;
        let map =
            |ebpf: &mut Ebpf, name| ebpf.take_map(name).with_context(|| format!("no map {name}"));
        let v6 = client.is_ipv6();
        let frame = |from, to, numbers: (u32, u32), words: &[u8]| {
            let mut data = words.to_vec();
            data.resize(Exchange::data_len(v6), b' ');
            let frame = Frame::tcp(from, to, ACK, numbers.0, numbers.1).payload(&data);
            words_of(&frame.macs(BACKEND_MAC, OWN_MAC).bytes())
        };
        let answered = CLIENT_SEQ + Exchange::data_len(v6) as u32;
        let frames = [
            frame(client, server, (CLIENT_SEQ, SERVER_SEQ), REQUEST)?,
            frame(server, client, (SERVER_SEQ, answered), RESPONSE)?,
        ];
        let mut exchange = Array::try_from(map(&mut extra.0, "EXCHANGE")?)?;
        exchange.set(0, Exchange { runs: 0, v6: u64::from(v6), frames }, 0)?;
        let mut measured = ProgramArray::try_from(map(&mut extra.0, "MEASURED")?)?;
        measured.set(0, program.fd()?, 0)?;
        Ok(Self { extra, _measured: measured })
    }

    /// # Errors
    /// Where the object has no such program.
    pub fn program(&self) -> Result<&Xdp> {
        self.extra.program("canary_exchange")
    }
}

fn words_of(frame: &[u8]) -> Result<[u64; EXCHANGE_FRAME / 8]> {
    ensure!(frame.len() == EXCHANGE_FRAME, "a frame of {} bytes", frame.len());
    let mut words = [0; EXCHANGE_FRAME / 8];
    for (word, bytes) in words.iter_mut().zip(frame.chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into()?);
    }
    Ok(words)
}
