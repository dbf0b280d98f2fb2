//! The hashes. Two users with different needs:
//!
//! * where a record stands (flow table, directory): secret random keys, so
//!   that nobody outside can aim at a bucket;
//! * which backend a flow gets (the pick): a seed from the configuration, so
//!   that every host picks alike.
//!
//! The function is NH of UMAC (RFC 4418, 5.2.2; Black et al., CRYPTO '99):
//! three 32×32→64-bit multiplications over six 32-bit words with secret
//! addends. For keys drawn at random two different inputs of equal length
//! collide with probability 2^-32, whatever the inputs; a plain multiply–xor
//! hash has differences that collide under every key. Its sum is then spread
//! over all bits by the finaliser of `MurmurHash3` (public domain, Appleby).

/// Six secret addends. `repr(C)`, 24 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashKeys {
    pub words: [u32; 6],
    pub reserved: [u32; 2],
}

/// 64 well-spread bits; the accessors name which part is used for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashed(pub u64);

/// 2^64 over the golden ratio, the next odd number.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

#[inline(always)]
const fn product(a: u32, ka: u32, b: u32, kb: u32) -> u64 {
    (a.wrapping_add(ka) as u64).wrapping_mul(b.wrapping_add(kb) as u64)
}

/// `fmix64` of `MurmurHash3`.
#[inline(always)]
const fn spread(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

/// `fmix32` of `MurmurHash3`.
#[inline(always)]
const fn permute(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

impl HashKeys {
    /// Keys that follow from one 64-bit seed (splitmix64, Steele et al. 2014).
    #[must_use]
    pub const fn from_seed(seed: u64) -> Self {
        let mut keys = Self { words: [0; 6], reserved: [0; 2] };
        let mut state = seed;
        let mut i = 0;
        while i < 3 {
            state = state.wrapping_add(GOLDEN);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            keys.words[2 * i] = z as u32;
            keys.words[2 * i + 1] = (z >> 32) as u32;
            i += 1;
        }
        keys
    }

    /// Hash of an address and 32 more bits (ports, numbers).
    #[inline(always)]
    #[must_use]
    pub const fn hash(&self, address: &crate::Address, extra: u32) -> Hashed {
        Hashed(spread(self.sum(address, extra)))
    }

    /// The same for those who see to it themselves that nothing collides: half
    /// as far from input to output. The upper bits are the better ones.
    #[inline(always)]
    #[must_use]
    pub const fn quick_hash(&self, address: &crate::Address, extra: u32) -> u64 {
        let sum = self.sum(address, extra);
        (sum ^ sum >> 32).wrapping_mul(GOLDEN)
    }

    #[inline(always)]
    const fn sum(&self, address: &crate::Address, extra: u32) -> u64 {
        let k = &self.words;
        let a = &address.words_be;
        product(a[0], k[0], a[1], k[1])
            .wrapping_add(product(a[2], k[2], a[3], k[3]))
            .wrapping_add(product(extra, k[4], extra.rotate_left(16), k[5]))
    }
}

/// The hash behind split and pick: 32 bits for each, independent of each
/// other. `port_be` is 0 where the client alone decides.
#[inline(always)]
#[must_use]
pub const fn pick_hash(keys: &HashKeys, client: &crate::Address, port_be: u16) -> Hashed {
    keys.hash(client, port_be as u32)
}

impl Hashed {
    /// With a number that is known later than the rest: it need not wait for
    /// the spreading. Different numbers never meet in the lowest 16 bits.
    #[inline(always)]
    #[must_use]
    pub const fn beside(self, number: u16) -> Self {
        Self(self.0.wrapping_add((number as u64).wrapping_mul(GOLDEN)))
    }

    /// Compared with the split: below it is canary. Another salt draws anew
    /// who that is, with the same shares: for each salt this is a permutation.
    /// Salt 0 leaves the hash as it is. The slot is not salted, so a client
    /// keeps its backend inside a track.
    #[inline(always)]
    #[must_use]
    pub const fn for_split(self, salt: u32) -> u32 {
        let hash = (self.0 >> 32) as u32;
        if salt == 0 { hash } else { permute(hash ^ salt) }
    }

    /// Position in a Maglev table of `size` slots, by multiplication instead
    /// of a division (Lemire 2016, "a fast alternative to the modulo reduction").
    #[inline(always)]
    #[must_use]
    pub const fn slot(self, size: u32) -> u32 {
        (((self.0 & 0xffff_ffff) * size as u64) >> 32) as u32
    }
}
