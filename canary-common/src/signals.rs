//! What is read from replies: which signals there are, and the histograms that
//! times go to.

/// Kinds of signals, as bits: of the program's load-time constant, and of
/// `Service::signals`. A signal is read where both have its bit.
#[derive(Clone, Copy, Debug)]
pub struct Signals;

impl Signals {
    /// Handshake and first-byte times, and flows cut while a client waited.
    pub const LATENCY: u16 = 1;
    pub const RETRANSMITS: u16 = 2;
    pub const ZERO_WINDOWS: u16 = 4;
    pub const HTTP: u16 = 8;
    pub const TLS: u16 = 16;
    pub const ALL: u16 = 31;

    /// The configuration's name of each.
    pub const NAMES: [(&'static str, u16); 5] = [
        ("latency", Self::LATENCY),
        ("retransmits", Self::RETRANSMITS),
        ("zero-windows", Self::ZERO_WINDOWS),
        ("http", Self::HTTP),
        ("tls", Self::TLS),
    ];
}

/// Of a connection's questions to its backend, which are timed: the first, and
/// of the later ones one in [`Timed::ONE_IN`], drawn by the sequence number's
/// hash (Knuth's, TAOCP 6.4). A time costs two readings of the clock, which is
/// more than all other signals together; and for what is judged a connection is
/// one witness, however often it asks.
#[derive(Clone, Copy, Debug)]
pub struct Timed;

impl Timed {
    pub const ONE_IN: u32 = 1 << Self::BITS;
    const BITS: u32 = 3;

    /// Whether a later question that begins with this sequence number (host
    /// byte order) is timed.
    #[inline(always)]
    #[must_use]
    pub const fn is_drawn(seq: u32) -> bool {
        seq.wrapping_mul(0x9e37_79b1) >> (32 - Self::BITS) == 0
    }
}

/// Time as flows keep it: units of 256 ns of `CLOCK_MONOTONIC`, low 32 bits.
/// They wrap after 18 minutes; 0 stands for "no time".
#[derive(Clone, Copy, Debug)]
pub struct Ticks;

impl Ticks {
    pub const NANOSECONDS: u64 = 256;
    /// In place of a time: something goes on that is not timed.
    pub const UNTIMED: u32 = 1;

    /// Neither 0 nor [`Self::UNTIMED`].
    #[inline(always)]
    #[must_use]
    pub const fn from_nanoseconds(nanoseconds: u64) -> u32 {
        let ticks = (nanoseconds / Self::NANOSECONDS) as u32;
        if ticks <= Self::UNTIMED { Self::UNTIMED + 1 } else { ticks }
    }

    #[must_use]
    pub const fn seconds(ticks: u64) -> f64 {
        ticks as f64 * Self::NANOSECONDS as f64 / 1e9
    }
}

/// Times in [`Ticks`], four buckets an octave. All but `sum` are counts.
/// Added to atomically by the program, read by the daemon.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// Of all times, in [`Ticks`].
    pub sum: u64,
    pub counts: [u64; Self::BUCKETS],
}

impl Histogram {
    /// Buckets an octave, as a power of two.
    const SUB_BITS: u32 = 2;
    /// The last one takes 2^28 ticks (69 s) and more.
    pub const BUCKETS: usize = 109;

    /// The bucket of a time.
    #[inline(always)]
    #[must_use]
    pub const fn bucket(ticks: u32) -> usize {
        if ticks < 1 << Self::SUB_BITS {
            return ticks as usize;
        }
        let octave = log2(ticks);
        let sub = (ticks >> (octave - Self::SUB_BITS)) & 3;
        let bucket = ((octave - 1) << Self::SUB_BITS | sub) as usize;
        if bucket < Self::BUCKETS { bucket } else { Self::BUCKETS - 1 }
    }

    /// The smallest time above a bucket; `None` for the last.
    #[must_use]
    pub const fn upper_bound(bucket: usize) -> Option<u64> {
        if bucket + 1 >= Self::BUCKETS {
            return None;
        }
        let next = bucket as u64 + 1;
        if next < 4 {
            return Some(next);
        }
        let (octave, sub) = (next / 4 + 1, next % 4);
        Some((4 | sub) << (octave - 2))
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn add(&mut self, other: &Self) {
        self.sum += other.sum;
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    /// Takes a part away; nothing goes below 0.
    pub fn saturating_take(&mut self, part: &Self) {
        self.sum = self.sum.saturating_sub(part.sum);
        for (count, part) in self.counts.iter_mut().zip(&part.counts) {
            *count = count.saturating_sub(*part);
        }
    }

    /// Seconds below which a fraction `q` of the times lie: the upper bound of
    /// the bucket where it falls. `None` without a time.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let mut left = (q * count as f64) as u64;
        for (bucket, here) in self.counts.iter().enumerate() {
            if left < *here {
                let last = Self::upper_bound(Self::BUCKETS - 2);
                return Self::upper_bound(bucket).or(last).map(Ticks::seconds);
            }
            left -= here;
        }
        None
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self { sum: 0, counts: [0; Self::BUCKETS] }
    }
}

/// Position of the highest bit; the kernel's instruction set has none for it.
#[inline(always)]
const fn log2(value: u32) -> u32 {
    let mut rest = value;
    let mut log = 0;
    if rest >= 1 << 16 {
        rest >>= 16;
        log += 16;
    }
    if rest >= 1 << 8 {
        rest >>= 8;
        log += 8;
    }
    if rest >= 1 << 4 {
        rest >>= 4;
        log += 4;
    }
    if rest >= 1 << 2 {
        rest >>= 2;
        log += 2;
    }
    log + (rest >> 1)
}

/// A cell's times.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// First SYN to SYN-ACK.
    pub handshake: Histogram,
    /// First byte of what the client sent to the first byte of the answer, of
    /// the questions that are [`Timed`].
    pub first_byte: Histogram,
}

impl Latencies {
    pub fn add(&mut self, other: &Self) {
        self.handshake.add(&other.handshake);
        self.first_byte.add(&other.first_byte);
    }

    /// Takes a part away; nothing goes below 0.
    pub fn saturating_take(&mut self, part: &Self) {
        self.handshake.saturating_take(&part.handshake);
        self.first_byte.saturating_take(&part.first_byte);
    }
}

const _: () = assert!(size_of::<Latencies>() == 2 * 8 * (Histogram::BUCKETS + 1));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_lie_between_their_bounds() {
        let mut lower = 0;
        for bucket in 0..Histogram::BUCKETS - 1 {
            let upper = Histogram::upper_bound(bucket).unwrap_or(0);
            assert!(upper > lower, "bucket {bucket}: {lower}..{upper}");
            for ticks in [lower, upper - 1] {
                assert_eq!(Histogram::bucket(ticks as u32), bucket, "{ticks}");
            }
            lower = upper;
        }
        assert_eq!(lower, 1 << 28);
        for ticks in [1 << 28, u32::MAX] {
            assert_eq!(Histogram::bucket(ticks), Histogram::BUCKETS - 1);
        }
    }

    #[test]
    fn one_question_in_eight_is_timed_whatever_their_length() {
        for length in [1, 40, 128, 4096, 65_536] {
            let drawn = (0..80_000_u32).filter(|i| Timed::is_drawn(i.wrapping_mul(length)));
            let drawn = drawn.count();
            assert!((9_800..10_200).contains(&drawn), "{drawn} of 80,000 of {length} bytes");
        }
    }

    #[test]
    fn four_buckets_an_octave_from_a_microsecond_to_a_minute() {
        let of = |microseconds: u32| Histogram::bucket(microseconds * 1000 / 256);
        // From 1.024 µs on.
        let mut ticks = 4;
        while ticks < 1 << 27 {
            assert_eq!(Histogram::bucket(2 * ticks), Histogram::bucket(ticks) + 4, "{ticks}");
            ticks += 1 + ticks / 10;
        }
        assert_eq!(of(1), 3);
        assert!(Histogram::bucket(60 * 3_906_250) < Histogram::BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_upper_bounds() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        // 90 of a millisecond, 10 of a second.
        for (count, seconds) in [(90, 1e-3), (10, 1.0)] {
            histogram.counts[Histogram::bucket((seconds * 1e9 / 256.0) as u32)] += count;
        }
        for (q, seconds) in [(0.0, 1e-3), (0.5, 1e-3), (0.899, 1e-3), (0.9, 1.0), (0.999, 1.0)] {
            let found = histogram.quantile(q).unwrap_or(0.0);
            assert!(found >= seconds && found < 1.26 * seconds, "{q}: {found}");
        }
    }
}
