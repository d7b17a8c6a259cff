//! Random numbers from a seed, the same on every machine.
//!
//! Owns: SplitMix64 (Steele, Lea, Flood 2014). Must never do: ask the system.

/// See the module.
#[derive(Debug, Clone)]
pub struct Prng(u64);

impl Prng {
    /// A sequence of its own for each seed and name.
    pub fn new(seed: u64, name: &str) -> Self {
        let mix = |all: u64, byte: u8| (all ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Prng(name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, mix))
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.draw() % n.max(1)
    }

    /// Exponential, in whole milliseconds, at least one and at most ten times the mean.
    pub fn exponential_ms(&mut self, mean_ms: u64) -> u64 {
        // 53 bits make a number above 0 and up to 1.
        #[allow(clippy::cast_precision_loss)]
        let unit = ((self.draw() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        let drawn = (-unit.ln() * mean_ms as f64) as u64;
        drawn.clamp(1, mean_ms * 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_published_one() {
        // The first outputs of SplitMix64 from state 0.
        let mut prng = Prng(0);
        assert_eq!(prng.draw(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(prng.draw(), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn exponential_times_have_their_mean() {
        let mut prng = Prng::new(1, "x");
        let sum: u64 = (0..20_000).map(|_| prng.exponential_ms(1000)).sum();
        assert!((950..1050).contains(&(sum / 20_000)), "{}", sum / 20_000);
    }
}
