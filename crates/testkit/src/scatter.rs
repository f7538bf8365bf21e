//! Numbers that look random and come again: xorshift (Marsaglia 2003) from a fixed seed, so that what a test found once it
//! finds always. For tests' inputs, never for secrets.

/// A generator. Two with the same seed give the same numbers.
#[derive(Clone, Debug)]
pub struct Scatter(u64);

impl Scatter {
    /// The seed is any number; zero would give zeros for ever and stands for one.
    pub fn new(seed: u64) -> Scatter {
        Scatter(seed.max(1))
    }

    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`, which is at least one.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::Scatter;

    #[test]
    fn a_seed_gives_the_same_numbers_and_stays_within_the_bound() {
        let (mut one, mut other) = (Scatter::new(7), Scatter::new(7));
        let numbers: Vec<usize> = (0..1_000).map(|_| one.below(10)).collect();
        assert!(numbers.iter().all(|number| *number < 10 && *number == other.below(10)));
        assert!((0..10).all(|wanted| numbers.contains(&wanted)));
        assert_ne!(Scatter::new(0).number(), 0);
    }
}
