//! Open addressing from hashes to places in a list that the caller keeps: a table of numbers alone, which grows by doubling
//! and forgets nothing.

/// Open addressing from a 32-bit hash to places in some list. A slot is `hash << 32 | place + 1`, 0 where it is free; what
/// stands at a place is compared by the caller, so that two with the same hash are told apart.
#[derive(Default)]
pub(crate) struct Places {
    slots: Vec<u64>,
    held: usize,
}

/// Slots of the smallest table.
const SLOTS_MIN: usize = 1_024;

impl Places {
    /// The place with this hash for which the test holds.
    pub fn find(&self, hash: u32, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = self.first_slot(hash);
        while let Some(slot) = self.slots.get(at).copied().filter(|slot| *slot != 0) {
            let place = slot as u32 - 1;
            if (slot >> 32) as u32 == hash && is_it(place) {
                return Some(place);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
        None
    }

    pub fn insert(&mut self, hash: u32, place: u32) {
        // At most half full, so that a search ends soon.
        if self.held * 2 >= self.slots.len() {
            let grown = vec![0; (self.slots.len() * 2).max(SLOTS_MIN)];
            let old = std::mem::replace(&mut self.slots, grown);
            old.into_iter().filter(|slot| *slot != 0).for_each(|slot| self.put(slot));
        }
        self.put(u64::from(hash) << 32 | u64::from(place + 1));
        self.held += 1;
    }

    fn put(&mut self, slot: u64) {
        let mut at = self.first_slot((slot >> 32) as u32);
        while let Some(taken) = self.slots.get(at).filter(|taken| **taken != 0) {
            debug_assert_ne!(*taken, slot, "a place stands in the table once");
            at = (at + 1) & (self.slots.len() - 1);
        }
        if let Some(free) = self.slots.get_mut(at) {
            *free = slot;
        }
    }

    /// The upper bits of the hash, as many as the table has.
    fn first_slot(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.slots.len() as u64) >> 32) as usize
    }
}
