//! A map from a short key to a number, built once and then only read: an open-addressed table of offsets into one text.
//! Keys are stored and compared whole, so a look-up is never wrong; one byte of hash beside each slot keeps most misses
//! away from the text. Look-ups allocate nothing.

use xxhash_rust::xxh3::xxh3_64;

/// Bytes of keys that one table holds: offsets are `u32`. Twenty million names of an average public list.
const TEXT_BYTES_MAX: usize = 512 << 20;
/// Longest key. A host name has 253 bytes; URLs are cut off by the list parser below this.
pub const KEY_BYTES_MAX: usize = 4096;
/// Slots per hundred keys: at 70 % full, linear probing reads six neighbouring tags for a miss and two for a hit (Knuth,
/// The Art of Computer Programming, section 6.4), which is one line of the cache.
const SLOTS_PER_HUNDRED: usize = 143;
/// Marks an empty slot. No hash tag has this value.
const EMPTY: u8 = 0;
/// Number and length before each key.
const HEAD_BYTES: usize = 6;

#[derive(Clone, Debug, Default)]
pub struct Table {
    /// For each key: its number (4 bytes), its length (2 bytes), the key.
    text: Vec<u8>,
    tags: Box<[u8]>,
    offsets: Box<[u32]>,
    keys: usize,
}

impl Table {
    pub fn heap_bytes(&self) -> usize {
        self.text.capacity() + self.tags.len() + self.offsets.len() * size_of::<u32>()
    }

    /// The bytes that make up its content, for fingerprints.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    pub fn get(&self, key: &[u8]) -> Option<u32> {
        let offset = self.find(key, xxh3_64(key)).ok()?;
        self.number(offset)
    }

    /// Sets the number of a key to what `change` makes of the present one. False where the table or the key is too large.
    pub fn upsert(&mut self, key: &[u8], change: impl FnOnce(Option<u32>) -> u32) -> bool {
        if key.len() > KEY_BYTES_MAX || self.text.len() + HEAD_BYTES + key.len() > TEXT_BYTES_MAX {
            return false;
        }
        if (self.keys + 1) * SLOTS_PER_HUNDRED / 100 >= self.tags.len() {
            self.resize((self.keys + 1) * 2);
        }
        let hash = xxh3_64(key);
        match self.find(key, hash) {
            Ok(offset) => {
                let number = change(self.number(offset));
                if let Some(place) = self.text.get_mut(offset..offset + 4) {
                    place.copy_from_slice(&number.to_le_bytes());
                }
            }
            Err(slot) => self.insert(slot, tag(hash), key, change(None)),
        }
        true
    }

    /// Gives back what growing took too much.
    pub fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.resize(self.keys);
    }

    fn insert(&mut self, slot: usize, tag: u8, key: &[u8], number: u32) {
        let (Some(place), Some(mark)) = (self.offsets.get_mut(slot), self.tags.get_mut(slot)) else {
            return;
        };
        *place = self.text.len() as u32;
        *mark = tag;
        self.text.extend_from_slice(&number.to_le_bytes());
        self.text.extend_from_slice(&(key.len() as u16).to_le_bytes());
        self.text.extend_from_slice(key);
        self.keys += 1;
    }

    /// The offset of the key in the text, or the empty slot where it belongs.
    fn find(&self, key: &[u8], hash: u64) -> Result<usize, usize> {
        let slots = self.tags.len();
        let mut slot = reduce(hash, slots);
        for _ in 0..slots {
            match self.tags[slot] {
                EMPTY => return Err(slot),
                found if found == tag(hash) => {
                    let offset = self.offsets[slot] as usize;
                    if self.key(offset) == Some(key) {
                        return Ok(offset);
                    }
                }
                _ => {}
            }
            slot = if slot + 1 == slots { 0 } else { slot + 1 };
        }
        Err(slots)
    }

    fn number(&self, offset: usize) -> Option<u32> {
        let bytes = self.text.get(offset..offset + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    fn key(&self, offset: usize) -> Option<&[u8]> {
        let length = self.text.get(offset + 4..offset + HEAD_BYTES)?;
        let length = usize::from(u16::from_le_bytes(length.try_into().ok()?));
        self.text.get(offset + HEAD_BYTES..offset + HEAD_BYTES + length)
    }

    fn resize(&mut self, keys: usize) {
        let slots = if keys == 0 { 0 } else { keys * SLOTS_PER_HUNDRED / 100 + 8 };
        let mut tags = vec![EMPTY; slots].into_boxed_slice();
        let mut offsets = vec![0_u32; slots].into_boxed_slice();
        let mut offset = 0;
        while let Some(key) = self.key(offset) {
            let hash = xxh3_64(key);
            let mut slot = reduce(hash, slots);
            while tags[slot] != EMPTY {
                slot = if slot + 1 == slots { 0 } else { slot + 1 };
            }
            tags[slot] = tag(hash);
            offsets[slot] = offset as u32;
            offset += HEAD_BYTES + key.len();
        }
        self.tags = tags;
        self.offsets = offsets;
    }
}

/// Maps a hash evenly to `0..slots` by its high bits (Lemire's multiply and shift), so that sizes need not be powers of two.
fn reduce(hash: u64, slots: usize) -> usize {
    ((u128::from(hash) * slots as u128) >> 64) as usize
}

/// One byte of the hash that `reduce` does not use first; never [`EMPTY`].
fn tag(hash: u64) -> u8 {
    (hash as u8) | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_table_knows_nothing() {
        assert_eq!(Table::default().get(b"example.com"), None);
        assert_eq!(Table::default().keys, 0);
    }

    #[test]
    fn a_key_that_is_too_long_is_refused() {
        let mut table = Table::default();
        assert!(!table.upsert(&[b'a'; KEY_BYTES_MAX + 1], |_| 1));
        assert_eq!(table.keys, 0);
    }

    #[test]
    fn every_key_is_found_and_no_other() {
        let mut table = Table::default();
        for n in 0_u32..50_000 {
            assert!(table.upsert(format!("name-{n}.example").as_bytes(), |_| n));
        }
        for n in 0_u32..50_000 {
            assert!(table.upsert(format!("name-{n}.example").as_bytes(), |old| old.unwrap_or(0) + 1));
        }
        table.shrink();
        assert_eq!(table.keys, 50_000);
        for n in 0_u32..50_000 {
            assert_eq!(table.get(format!("name-{n}.example").as_bytes()), Some(n + 1));
            assert_eq!(table.get(format!("other-{n}.example").as_bytes()), None);
        }
    }
}
