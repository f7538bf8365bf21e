//! Split-block Bloom filters laid out in pages that are checked one by one, so that asking for one key reads one page of a
//! file. Blocks and salts are those of the Parquet format (Parquet "Bloom Filter", split block); the pages are our own: a
//! checksum of the rest, then as many blocks as fit. A page that does not match its checksum answers nothing.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// One page of the file system's cache.
pub(crate) const PAGE_BYTES: usize = 4_096;

const CHECKSUM_BYTES: usize = 8;
const BLOCK_BYTES: usize = 32;
const BLOCKS_PER_PAGE: usize = (PAGE_BYTES - CHECKSUM_BYTES) / BLOCK_BYTES;

/// At sixteen bits a key about one in a thousand strangers is answered with yes, which costs reading one page of a table.
const BITS_PER_KEY: usize = 16;

/// The salts of the eight words of a block, from the Parquet format.
const SALTS: [u32; 8] = [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];

/// The pages of a filter over keys that are already hashes. There is at least one. `at` is where the first stands in its file.
pub(crate) fn pages_of(keys: &[u64], at: u64) -> Vec<u8> {
    let pages = (keys.len() * BITS_PER_KEY).div_ceil(BLOCKS_PER_PAGE * BLOCK_BYTES * 8).max(1);
    let mut bytes = vec![0_u8; pages * PAGE_BYTES];
    for key in keys {
        let (page, place) = place_of(*key, pages);
        let at = page * PAGE_BYTES + place;
        for (word, mask) in bytes.get_mut(at..at + BLOCK_BYTES).into_iter().flat_map(words_mut).zip(masks(*key)) {
            *word = (u32::from_le_bytes(*word) | mask).to_le_bytes();
        }
    }
    for (number, page) in bytes.chunks_exact_mut(PAGE_BYTES).enumerate() {
        if let Some((sum, rest)) = page.split_first_chunk_mut::<CHECKSUM_BYTES>() {
            *sum = checksum(rest, at + (number * PAGE_BYTES) as u64).to_le_bytes();
        }
    }
    bytes
}

/// The page of a filter of so many pages in which a key would be.
pub(crate) fn page_of(key: u64, pages: usize) -> usize {
    place_of(key, pages).0
}

/// Whether the page that stands at a place of its file is whole.
pub(crate) fn is_whole(page: &[u8], at: u64) -> bool {
    let Some((sum, rest)) = page.split_first_chunk::<CHECKSUM_BYTES>() else { return false };
    page.len() == PAGE_BYTES && u64::from_le_bytes(*sum) == checksum(rest, at)
}

/// Whether a key may be in a filter of so many pages, by its own page of it.
pub(crate) fn may_hold(page: &[u8], key: u64, pages: usize) -> bool {
    let (_, place) = place_of(key, pages);
    let block = page.get(place..place + BLOCK_BYTES).unwrap_or_default();
    let (words, _) = block.as_chunks::<4>();
    words.iter().zip(masks(key)).all(|(word, mask)| u32::from_le_bytes(*word) & mask != 0)
}

/// The place seeds the checksum, so that a page in another's place is none.
fn checksum(rest: &[u8], at: u64) -> u64 {
    xxh3_64_with_seed(rest, at)
}

/// The page of a key and the place of its block within the page, by the upper half of the key.
fn place_of(key: u64, pages: usize) -> (usize, usize) {
    let blocks = (pages * BLOCKS_PER_PAGE) as u64;
    let block = (((key >> 32) * blocks) >> 32) as usize;
    (block / BLOCKS_PER_PAGE, CHECKSUM_BYTES + block % BLOCKS_PER_PAGE * BLOCK_BYTES)
}

/// One bit in each word of a block, by the lower half of the key.
fn masks(key: u64) -> [u32; 8] {
    SALTS.map(|salt| 1 << ((key as u32).wrapping_mul(salt) >> 27))
}

fn words_mut(block: &mut [u8]) -> &mut [[u8; 4]] {
    block.as_chunks_mut::<4>().0
}

#[cfg(test)]
mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_64;

    fn hashed(numbers: std::ops::Range<u64>) -> Vec<u64> {
        numbers.map(|number| xxh3_64(&number.to_le_bytes())).collect()
    }

    fn holds(filter: &[u8], key: u64) -> bool {
        let pages = filter.len() / PAGE_BYTES;
        let at = page_of(key, pages) * PAGE_BYTES;
        may_hold(&filter[at..at + PAGE_BYTES], key, pages)
    }

    #[test]
    fn every_key_is_found_and_few_strangers_are() {
        for count in [0_u64, 1, 100, 2_032, 2_033, 60_000] {
            let filter = pages_of(&hashed(0..count), 0);
            assert!(hashed(0..count).into_iter().all(|key| holds(&filter, key)), "{count}");
            let strangers = hashed(count..count + 100_000).into_iter().filter(|key| holds(&filter, *key)).count();
            assert!(strangers < 250, "{strangers} of 100,000 with {count} keys");
        }
        assert_eq!(pages_of(&[], 0).len(), PAGE_BYTES);
        assert_eq!(pages_of(&hashed(0..2_033), 0).len(), 2 * PAGE_BYTES, "a full page holds 2,032 keys");
    }

    #[test]
    fn a_page_that_was_changed_or_moved_is_not_whole() {
        let filter = pages_of(&hashed(0..5_000), 8_192);
        let second = &filter[PAGE_BYTES..2 * PAGE_BYTES];
        assert!(is_whole(second, 8_192 + 4_096));
        assert!(!is_whole(second, 8_192), "in another's place");
        for place in 0..PAGE_BYTES {
            let mut page = second.to_vec();
            page[place] ^= 1 << (place % 8);
            assert!(!is_whole(&page, 8_192 + 4_096), "at {place}");
        }
        assert!(!is_whole(&second[..PAGE_BYTES - 1], 8_192 + 4_096));
    }
}
