//! Random numbers from a seed: mulberry32 (Ettinger), the same in every language.

/// The generator.
#[derive(Debug, Clone)]
pub struct Prng(u32);

impl Prng {
    pub fn new(seed: u32) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x6D2B_79F5);
        let mut word = (self.0 ^ self.0 >> 15).wrapping_mul(self.0 | 1);
        word ^= word.wrapping_add((word ^ word >> 7).wrapping_mul(word | 61));
        word ^ word >> 14
    }

    /// A whole number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        (u64::from(self.next()) * bound) >> 32
    }

    /// A whole number from `low` to `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in so many of a thousand draws.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        let count = u64::try_from(choices.len()).expect("few");
        choices[usize::try_from(self.below(count)).expect("an index")]
    }

    /// A number from [0, 1) with three digits, so that vectors are short.
    pub fn unit(&mut self) -> f64 {
        f64::from(u32::try_from(self.below(1000)).expect("small")) / 1000.0
    }
}
