//! The heaviest keys of a stream in bounded memory: Space-Saving (Metwally, Agrawal, El Abbadi, "Efficient computation of
//! frequent and top-k elements in data streams", ICDT 2005). With k places, every key that is more than one k-th of the
//! stream is among them, and no count is too large by more than that.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// Counts of at most so many keys.
#[derive(Clone, Debug)]
pub struct Heaviest<K> {
    most: usize,
    counts: HashMap<K, Count>,
    /// Lightest first.
    order: BTreeSet<(u64, K)>,
    total: u64,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    weight: u64,
    /// What was counted before the key took the place.
    error: u64,
}

/// One key with what is known of its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heavy<K> {
    pub key: K,
    /// At least the true weight.
    pub weight: u64,
    /// The true weight is at most this much smaller.
    pub error: u64,
}

impl<K: Copy + Eq + Hash + Ord> Heaviest<K> {
    pub fn new(most: usize) -> Heaviest<K> {
        Heaviest { most: most.max(1), counts: HashMap::new(), order: BTreeSet::new(), total: 0 }
    }

    pub fn add(&mut self, key: K, weight: u64) {
        self.total += weight;
        let mut count = match self.counts.get(&key) {
            Some(count) => {
                self.order.remove(&(count.weight, key));
                *count
            }
            None if self.counts.len() < self.most => Count { weight: 0, error: 0 },
            None => match self.order.pop_first() {
                Some((lightest, earlier)) => {
                    self.counts.remove(&earlier);
                    Count { weight: lightest, error: lightest }
                }
                None => Count { weight: 0, error: 0 },
            },
        };
        count.weight += weight;
        self.counts.insert(key, count);
        self.order.insert((count.weight, key));
    }

    /// The weight of the whole stream.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The heaviest, heaviest first.
    pub fn top(&self, most: usize) -> Vec<Heavy<K>> {
        let heaviest = self.order.iter().rev().take(most);
        let heaviest = heaviest.filter_map(|(weight, key)| {
            let error = self.counts.get(key)?.error;
            Some(Heavy { key: *key, weight: *weight, error })
        });
        heaviest.collect()
    }

    pub fn clear(&mut self) {
        self.counts.clear();
        self.order.clear();
        self.total = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Numbers;

    #[test]
    fn no_heavy_key_is_missed_and_no_weight_is_wrong_by_more_than_its_error() {
        for seed in 0..60 {
            let mut numbers = Numbers::new(seed);
            let places = 4 + numbers.below(60) as usize;
            let (mut heaviest, mut exact) = (Heaviest::new(places), HashMap::<u64, u64>::new());
            for _ in 0..5_000 {
                // A few keys come often, many seldom.
                let spread = 1 << numbers.below(12);
                let (key, weight) = (numbers.below(spread), 1 + numbers.below(9));
                heaviest.add(key, weight);
                *exact.entry(key).or_default() += weight;
            }
            let top = heaviest.top(places);
            assert!(top.len() <= places);
            for heavy in &top {
                let truth = exact[&heavy.key];
                assert!(truth <= heavy.weight && heavy.weight - heavy.error <= truth, "seed {seed}: {heavy:?} is {truth}");
                assert!(heavy.error <= heaviest.total() / places as u64);
            }
            for (key, weight) in exact.iter().filter(|(_, weight)| **weight > heaviest.total() / places as u64) {
                assert!(top.iter().any(|heavy| heavy.key == *key), "seed {seed}: {key} with {weight} is missing");
            }
        }
    }
}
