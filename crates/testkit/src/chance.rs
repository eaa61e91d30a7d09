//! Chance that can be repeated: the seed is printed, and taken from the environment where it is set.

use std::time::Duration;

/// Numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Chance(u64);

/// The variable with the seed of a run that is to be repeated.
pub const SEED: &str = "CHANCE_SEED";

impl Chance {
    /// The numbers of this seed.
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// A new seed, or that of `CHANCE_SEED`; it is printed, so that a run that failed can be repeated.
    pub fn new(what: &str) -> Self {
        let given = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| u64::from_le_bytes(sensormesh_types::random::bytes()));
        eprintln!("{what}: {SEED}={seed}");
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 where that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { usize::try_from(self.draw() % end as u64).unwrap_or(0) }
    }

    /// A time between two, milliseconds.
    pub fn millis(&mut self, from: usize, to: usize) -> Duration {
        Duration::from_millis((from + self.below(to.saturating_sub(from))) as u64)
    }

    /// A number from 0 to 1.
    #[allow(clippy::cast_precision_loss)] // 53 bits fit
    pub fn fraction(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Another sequence, of its own.
    #[must_use]
    pub fn fork(&self, number: u64) -> Self {
        let mut fork = Self(self.0 ^ number.wrapping_mul(0xd134_2543_de82_ef95));
        fork.draw();
        fork
    }

    /// Puts items in a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last + 1);
            items.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_everything_that_follows() {
        let draw = |seed| {
            let mut chance = Chance::of(seed);
            let mut order = [1, 2, 3, 4, 5, 6, 7, 8];
            chance.shuffle(&mut order);
            (chance.draw(), order, chance.fork(3).draw())
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert_ne!(Chance::of(1).fork(1).draw(), Chance::of(1).fork(2).draw());
        assert!((0..100).all(|seed| (0.0..1.0).contains(&Chance::of(seed).fraction())));
    }
}
