//! Random numbers that follow from a seed.

/// splitmix64: the generator of Steele, Lea and Flood, "Fast splittable
/// pseudorandom number generators" (2014), with the constants of Vigna's
/// `splitmix64.c`. Every seed is a good one, neighbours too.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `end`; 0 where that is 0.
    pub const fn below(&mut self, end: u64) -> u64 {
        // By the upper bits of a product: no division, and the bias is nothing
        // for the sizes here.
        ((self.bits() as u128 * end as u128) >> 64) as u64
    }

    /// From 0 to less than 1.
    pub const fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A place in something of this length; 0 where that is 0.
    pub const fn place(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    pub const fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of these, by weight.
    ///
    /// # Panics
    /// Where all weights are 0.
    pub fn weighted<T: Copy>(&mut self, choices: &[(u64, T)]) -> T {
        let mut at = self.below(choices.iter().map(|(weight, _)| weight).sum());
        for (weight, choice) in choices {
            if at < *weight {
                return *choice;
            }
            at -= weight;
        }
        unreachable!("below the sum of the weights")
    }

    /// One of these.
    ///
    /// # Panics
    /// Where there is none.
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.place(choices.len())]
    }

    /// One of them. `None` of nothing.
    pub fn choose<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.place(of.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `splitmix64.c` gives from this seed.
    #[test]
    fn the_published_sequence() {
        let mut random = Random::new(1_234_567);
        let first = [(); 5].map(|()| random.bits());
        let published = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(first, published);
    }

    #[test]
    fn nothing_is_out_of_bounds_or_out_of_reach() {
        let mut random = Random::new(1);
        let mut met = [0; 7];
        for _ in 0..7000 {
            met[random.place(7)] += 1;
        }
        assert!(met.iter().all(|times| (800..1200).contains(times)), "{met:?}");
        assert_eq!((random.below(0), random.below(1)), (0, 0));
        assert_eq!(random.choose::<u8>(&[]), None);
        assert!((0..100).all(|_| random.weighted(&[(0, 'a'), (1, 'b'), (0, 'c')]) == 'b'));
    }
}
