//! The program around the one that is measured, from user space: it restores
//! the frame and draws the flow, in the references' runs as well.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _, RawFd},
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, ProgramArray},
    programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp},
};
use canary::dataplane::BENCH_OBJECT;
use canary_common::{EXCHANGE_FRAME, EXCHANGE_TURNS, Exchange};

use crate::{frame::Frame, random::Random};

const WRAPPERS: [&str; 4] =
    ["canary_draw_v4", "canary_draw_v6", "canary_turns_v4", "canary_turns_v6"];

/// Wrappers so far.
static SERIAL: AtomicU64 = AtomicU64::new(1);

/// Backends in a word of the list.
const LISTED: u32 = 4;

/// Live frames of a batch: as many as a driver's poll takes.
const LIVE_BATCH: u32 = 64;

/// Whose packets they are: `1 << bits` flows, `1 << shift` of each address.
#[derive(Clone, Copy, Debug)]
pub struct Clients {
    /// The first one's address and port.
    pub first: SocketAddr,
    pub bits: u32,
    pub shift: u32,
}

/// The other ends, where they are drawn too. A flow's service is that of its
/// last bits, its backend the wrapper's list's.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The first service's address, and their number, a power of two.
    pub vip: IpAddr,
    pub services: u32,
    /// The address that a backend's number is added to.
    pub backend: IpAddr,
    /// Where in the list the flows' backends begin.
    pub list: u32,
}

/// What a run is of.
#[derive(Clone, Debug)]
pub struct Shot {
    exchange: Exchange,
    v6: bool,
    /// Frames in turns, or headers only.
    turns: bool,
    bytes: Vec<u8>,
    /// Of the IP packets.
    ip_bytes: Vec<u64>,
    /// Another lot of clients each run.
    afresh: bool,
}

/// How a run was.
#[derive(Clone, Copy, Debug)]
pub struct Timed {
    /// Of the last packet; of frames that really leave it is not told.
    pub action: Option<u32>,
    /// A packet, by the kernel's own measure.
    pub nanoseconds: f64,
}

impl Shot {
    /// One frame for all flows. Nothing behind its headers is put back.
    ///
    /// # Errors
    /// Where it is too long.
    pub fn of(frame: &Frame, clients: &Clients) -> Result<Self> {
        let mut shot = Self::in_turns(std::slice::from_ref(frame), clients)?;
        shot.turns = false;
        shot.bytes.truncate(if shot.v6 { 80 } else { 64 });
        Ok(shot)
    }

    /// Each flow gets these, in turns.
    ///
    /// # Errors
    /// Where one is too long, or there are too many.
    pub fn in_turns(frames: &[Frame], clients: &Clients) -> Result<Self> {
        let Clients { first, bits, shift } = *clients;
        ensure!((1..=EXCHANGE_TURNS).contains(&frames.len()), "{} frames", frames.len());
        ensure!(bits <= 24 && shift <= 14, "2^{bits} flows, 2^{shift} an address");
        let mut exchange = Exchange {
            mask: (1 << bits) - 1,
            address: last_word(first.ip()),
            port: u32::from(first.port()),
            port_mask: (1 << shift) - 1,
            address_shift: shift,
            turns: frames.len() as u32,
            ..Exchange::default()
        };
        for (i, frame) in frames.iter().enumerate() {
            exchange.frames[i] = words_of(frame)?;
            exchange.to_client |= u32::from(frame.to.ip() == first.ip()) << i;
        }
        Ok(Self {
            exchange,
            v6: first.is_ipv6(),
            turns: true,
            bytes: vec![0; EXCHANGE_FRAME],
            ip_bytes: frames.iter().map(Frame::ip_bytes).collect(),
            afresh: false,
        })
    }

    /// With data in every frame: each one's sequence and acknowledgement
    /// numbers follow from those of the one before.
    #[must_use]
    pub const fn advancing(mut self) -> Self {
        self.exchange.data = Exchange::data_len(self.v6) as u32;
        self
    }

    /// Clients that no run had before.
    #[must_use]
    pub const fn afresh(mut self) -> Self {
        self.afresh = true;
        self
    }

    /// With ends of its own for each flow.
    ///
    /// # Errors
    /// Where the services' number is no power of two.
    pub fn between(mut self, ends: &Ends) -> Result<Self> {
        ensure!(ends.services.is_power_of_two(), "{} services", ends.services);
        ensure!(self.turns, "this wrapper draws clients only");
        self.exchange.vip = last_word(ends.vip);
        self.exchange.vip_mask = ends.services - 1;
        self.exchange.backend = last_word(ends.backend);
        self.exchange.list = ends.list / LISTED;
        Ok(self)
    }

    #[must_use]
    pub const fn flows(&self) -> u32 {
        self.exchange.mask + 1
    }

    /// The client of a flow, as [`Exchange::client`].
    #[must_use]
    pub const fn client(&self, flow: u32) -> (u32, u16) {
        self.exchange.client(flow)
    }

    /// IP bytes of frame `turn`.
    #[must_use]
    pub fn ip_bytes(&self, turn: usize) -> u64 {
        self.ip_bytes.get(turn).copied().unwrap_or(0)
    }

    fn wrapper(&self) -> &'static str {
        WRAPPERS[usize::from(self.v6) + 2 * usize::from(self.turns)]
    }

    /// A new order of the flows.
    const fn shuffle(&mut self, random: &mut Random) {
        let bits = random.bits();
        let exchange = &mut self.exchange;
        exchange.multiplier = (bits as u32) & !7 | 5;
        exchange.increment = (bits >> 32) as u32 | 1;
        exchange.flow = random.bits() as u32 & exchange.mask;
        exchange.turn = 0;
        if self.afresh {
            let addresses = (exchange.mask >> exchange.address_shift) + 1;
            exchange.address = exchange.address.wrapping_add(addresses);
        }
    }
}

/// The wrappers' object, for one thread.
#[allow(missing_debug_implementations, reason = "aya's array of programs has none")]
pub struct Wrapper {
    ebpf: Ebpf,
    exchange: Array<MapData, Exchange>,
    measured: ProgramArray<MapData>,
    inside: Option<RawFd>,
    random: Random,
    /// Where packets come in, by number; `None`: loopback.
    ingress: Option<u32>,
    /// Frames really leave.
    live: bool,
}

impl Wrapper {
    /// # Errors
    /// Without root, or before Linux 5.18, which knows no multi-buffer frames.
    pub fn load() -> Result<Self> {
        Self::with_backends(&[0])
    }

    /// With a list of flows' backends, for [`Ends`].
    ///
    /// # Errors
    /// As [`Wrapper::load`].
    pub fn with_backends(backends: &[u16]) -> Result<Self> {
        let words = backends.len().div_ceil(LISTED as usize);
        let mut loader = EbpfLoader::new();
        let mut ebpf = loader
            .map_max_entries("BACKEND_OF", words as u32)
            .load(BENCH_OBJECT)
            .context("the benchmark's object")?;
        for name in WRAPPERS {
            load(&mut ebpf, name)?;
        }
        let mut map = |name: &str| ebpf.take_map(name).with_context(|| format!("no map {name}"));
        let mut list: Array<_, u64> = Array::try_from(map("BACKEND_OF")?)?;
        for (at, numbers) in (0..).zip(backends.chunks(LISTED as usize)) {
            let word = numbers.iter().rev().fold(0, |word, &number| word << 16 | u64::from(number));
            list.set(at, word, 0)?;
        }
        let exchange = Array::try_from(map("EXCHANGE")?)?;
        let measured = ProgramArray::try_from(map("MEASURED")?)?;
        // Another order on each CPU.
        let random = Random::new(SERIAL.fetch_add(1, Ordering::Relaxed));
        Ok(Self { ebpf, exchange, measured, inside: None, random, ingress: None, live: false })
    }

    /// Has packets come in by this interface.
    pub const fn ingress(&mut self, ifindex: u32) {
        self.ingress = Some(ifindex);
    }

    /// Has frames really leave, from now on, or not.
    pub const fn live(&mut self, live: bool) {
        self.live = live;
    }

    /// Runs `program` on so many packets.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn run(&mut self, program: &Xdp, shot: &mut Shot, runs: u32) -> Result<Timed> {
        let fd = program.fd()?;
        let number = fd.as_fd().as_raw_fd();
        if self.inside != Some(number) {
            self.measured.set(0, fd, 0)?;
            self.inside = Some(number);
        }
        shot.shuffle(&mut self.random);
        self.exchange.set(0, shot.exchange, 0)?;
        let wrapper: &Xdp = program_of(&self.ebpf, shot.wrapper())?;
        let context = self.ingress.map(|ifindex| md(shot.bytes.len() as u32, ifindex));
        let timed = time(wrapper, &shot.bytes, context.as_deref(), runs, self.live)?;
        if shot.exchange.data != 0 {
            shot.exchange = self.exchange.get(&0, 0)?;
        }
        Ok(timed)
    }
}

impl Timed {
    /// That the last packet was answered by this.
    ///
    /// # Errors
    /// Where it was not.
    pub fn answered(&self, action: u32) -> Result<()> {
        let other = self.action.filter(|&own| own != action);
        ensure!(other.is_none(), "action {other:?} instead of {action}");
        Ok(())
    }
}

/// Runs a program on one frame, which nobody restores.
///
/// # Errors
/// Where the kernel refuses.
pub fn time_alone(program: &Xdp, shot: &Shot, runs: u32) -> Result<Timed> {
    time(program, &shot.bytes, None, runs, false)
}

fn time(
    program: &Xdp,
    bytes: &[u8],
    context: Option<&[u8]>,
    repeat: u32,
    live: bool,
) -> Result<Timed> {
    let attrs = TestRunAttrs::new();
    let attrs = if live { attrs.xdp_live_frames(LIVE_BATCH) } else { attrs };
    let ran = program.test_run(TestRunOptions {
        data_in: Some(bytes),
        ctx_in: context,
        repeat,
        attrs,
        ..TestRunOptions::default()
    })?;
    let action = (!live).then_some(ran.return_value);
    Ok(Timed { action, nanoseconds: ran.duration.as_nanos() as f64 })
}

/// A `struct xdp_md` of a frame that came in by an interface.
fn md(bytes: u32, ingress: u32) -> Vec<u8> {
    [0, bytes, 0, ingress, 0, 0].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect()
}

pub(super) fn load(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    let program: &mut Xdp = program.try_into()?;
    program.load().with_context(|| format!("loading {name}"))
}

pub(super) fn program_of<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a Xdp> {
    let program = ebpf.program(name).with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}

/// The last 32 bits, in host byte order.
fn last_word(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => v6.to_bits() as u32,
    }
}

fn words_of(frame: &Frame) -> Result<[u64; EXCHANGE_FRAME / 8]> {
    let mut bytes = frame.bytes();
    ensure!(bytes.len() <= EXCHANGE_FRAME, "a frame of {} bytes", bytes.len());
    bytes.resize(EXCHANGE_FRAME, 0);
    let mut words = [0; EXCHANGE_FRAME / 8];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    Ok(words)
}
