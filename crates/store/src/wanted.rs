//! Keys that are looked for among those of a table in memory: a small bit set passes over most of the table.

use std::collections::HashSet;

/// Keys that are looked for.
pub(crate) struct Wanted {
    keys: HashSet<u128>,
    /// One bit for each value of the upper bits of the lower half; most keys of a table are told apart by it.
    bits: Vec<u64>,
}

/// Bits of a wanted set: 32 KiB, which stays in the processor's cache, and one in 26 is set for 10,000 indicators.
const WANTED_BITS_LOG2: u32 = 18;

impl Wanted {
    pub fn new(keys: impl IntoIterator<Item = u128>) -> Wanted {
        let keys = keys.into_iter().collect::<HashSet<_>>();
        let mut bits = vec![0_u64; 1 << (WANTED_BITS_LOG2 - 6)];
        for key in &keys {
            let (word, bit) = Wanted::bit(*key as u64);
            if let Some(word) = bits.get_mut(word) {
                *word |= bit;
            }
        }
        Wanted { keys, bits }
    }

    fn bit(low: u64) -> (usize, u64) {
        let place = low >> (64 - WANTED_BITS_LOG2);
        ((place >> 6) as usize, 1 << (place & 63))
    }

    pub fn holds(&self, key: u128) -> bool {
        self.keys.contains(&key)
    }

    /// Places in a list of lower halves at which a wanted key may stand.
    pub fn places_in<'k>(&'k self, lows: &'k [u64]) -> impl Iterator<Item = usize> + 'k {
        let may_be = |low: u64| {
            let (word, bit) = Wanted::bit(low);
            self.bits.get(word).is_some_and(|bits| bits & bit != 0)
        };
        lows.iter().enumerate().filter(move |(_, low)| may_be(**low)).map(|(place, _)| place)
    }
}
