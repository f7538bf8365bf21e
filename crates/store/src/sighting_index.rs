//! The index beside a file of sightings: with it a look-up reads a page of a filter and, where that says yes, the pages of
//! the table that can hold the value, and never the table's own footer. Sightings are sorted by kind and value, so the
//! first key of each page is enough to find any. The table is whole without its index; one that is missing, damaged or of
//! another table only costs time, and is made again ([`crate::sighting_index_build`]).
//!
//! The file, little-endian: for each row group its filter ([`crate::bloom`]) and its part; then the top, which has the
//! first key and the places of each group; then 24 bytes: length of the top, its checksum, `SKSIDX`, 0, version. A part is
//! the count of pages, the first row and first key of each, and a Parquet footer of this row group alone.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
use xxhash_rust::xxh3::xxh3_64;

use crate::bloom::{self, PAGE_BYTES};
use crate::positioned::PositionedFile;

pub(crate) const MAGIC: [u8; 8] = *b"SKSIDX\x00\x01";
pub(crate) const TRAILER_BYTES: usize = 24;

/// Read at once from the end of a file: the whole top of a table of some hundred row groups.
const TAIL_BYTES: u64 = 65_536;

/// Bytes of a value that a first key keeps. Longer values that agree in all of them cost reading a few pages more.
const PREFIX_BYTES_MAX: usize = 128;

/// The place of an index. It stands in a directory of its own, since engines read every file beside a table.
pub(crate) fn path_beside(sightings: &Path) -> Option<PathBuf> {
    let (name, day) = (sightings.file_stem()?, sightings.parent()?);
    let table = day.parent()?;
    (table.file_name()? == "sightings" || table.file_name()? == "sightings_m")
        .then(|| table.with_file_name("idx").join(day.file_name().unwrap_or_default()).join(name).with_extension("sidx"))
}

/// The head of a key: kind and the first bytes of a value. Of two keys the lesser never has the greater head.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyHead {
    type_id: i32,
    value: Box<[u8]>,
}

impl KeyHead {
    pub fn of(type_id: i32, value: &str) -> KeyHead {
        let bytes = value.as_bytes();
        KeyHead { type_id, value: bytes.get(..PREFIX_BYTES_MAX).unwrap_or(bytes).into() }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.type_id.to_le_bytes());
        // At most 128.
        out.push(self.value.len() as u8);
        out.extend_from_slice(&self.value);
    }
}

/// Within a list of first keys, the elements that can hold a key.
fn span<T>(list: &[T], first: impl Fn(&T) -> &KeyHead, key: &KeyHead) -> Range<usize> {
    let from = list.partition_point(|element| first(element) < key).saturating_sub(1);
    from..list.partition_point(|element| first(element) <= key)
}

/// The top of an index.
pub(crate) struct SightingIndex {
    pub groups: Vec<Group>,
}

/// One row group and where its filter and its part are.
pub(crate) struct Group {
    pub first: KeyHead,
    pub filter_at: u64,
    pub filter_pages: u32,
    pub part_at: u64,
    pub part_bytes: u32,
    pub part_hash: u64,
}

/// The first row and first key of one page.
pub(crate) struct Page {
    pub row: u32,
    pub first: KeyHead,
}

/// What is known of one row group: its pages, and a footer that describes it alone.
pub(crate) struct GroupPart {
    pub rows: usize,
    pages: Vec<Page>,
    pub footer: ArrowReaderMetadata,
}

impl SightingIndex {
    /// The top of the index of a table of so many bytes; none where the file holds no such index.
    pub fn read(file: &PositionedFile, sealed_bytes: u64) -> Option<SightingIndex> {
        let tail_bytes = file.bytes().min(TAIL_BYTES);
        let tail = file.read(file.bytes() - tail_bytes, tail_bytes as usize).ok()?;
        let (rest, trailer) = tail.split_last_chunk::<TRAILER_BYTES>()?;
        let mut trailer = Reader(trailer);
        let (top_bytes, hash) = (trailer.u64()?, trailer.u64()?);
        if trailer.0 != MAGIC.as_slice() {
            return None;
        }
        let at = file.bytes().checked_sub(TRAILER_BYTES as u64)?.checked_sub(top_bytes)?;
        let top_bytes = usize::try_from(top_bytes).ok()?;
        let top = match rest.len().checked_sub(top_bytes) {
            Some(from) => rest.get(from..)?.to_vec(),
            None => file.read(at, top_bytes).ok()?,
        };
        if xxh3_64(&top) != hash { None } else { SightingIndex::decode(&top, sealed_bytes) }
    }

    pub fn encode(&self, sealed_bytes: u64) -> Vec<u8> {
        let mut out = sealed_bytes.to_le_bytes().to_vec();
        for group in &self.groups {
            group.first.encode(&mut out);
            out.extend_from_slice(&group.filter_at.to_le_bytes());
            out.extend_from_slice(&group.filter_pages.to_le_bytes());
            out.extend_from_slice(&group.part_at.to_le_bytes());
            out.extend_from_slice(&group.part_bytes.to_le_bytes());
            out.extend_from_slice(&group.part_hash.to_le_bytes());
        }
        out
    }

    fn decode(top: &[u8], sealed_bytes: u64) -> Option<SightingIndex> {
        let mut top = Reader(top);
        if top.u64()? != sealed_bytes {
            return None;
        }
        let mut groups = Vec::new();
        while !top.0.is_empty() {
            groups.push(Group {
                first: top.key_head()?,
                filter_at: top.u64()?,
                filter_pages: top.u32()?,
                part_at: top.u64()?,
                part_bytes: top.u32()?,
                part_hash: top.u64()?,
            });
        }
        Some(SightingIndex { groups })
    }

    /// Of keys in their order, those that can be in a group by its first key and that of the next.
    pub fn keys_in<T>(&self, group: usize, keys: &[T], head: impl Fn(&T) -> &KeyHead) -> Range<usize> {
        let from = self.groups.get(group).map_or(0, |group| keys.partition_point(|key| head(key) < &group.first));
        let to = self.groups.get(group + 1).map_or(keys.len(), |next| keys.partition_point(|key| head(key) <= &next.first));
        from..to.max(from)
    }

    /// Bytes in memory, for the numbers of the store.
    pub fn memory_bytes(&self) -> usize {
        self.groups.iter().map(|group| size_of::<Group>() + group.first.value.len()).sum()
    }
}

impl Group {
    /// For each of these keys whether the group may hold it; none where a page of the filter is damaged.
    pub fn may_hold(&self, file: &PositionedFile, keys: &[u64]) -> Option<Vec<bool>> {
        let pages = self.filter_pages as usize;
        let mut order = keys.iter().enumerate().map(|(place, key)| (bloom::page_of(*key, pages), place)).collect::<Vec<_>>();
        order.sort_unstable();
        // One read of all pages costs less than many reads of some.
        let whole = (keys.len() * 2 >= pages).then(|| file.read(self.filter_at, pages * PAGE_BYTES)).transpose().ok()?;
        let (mut answers, mut current) = (vec![false; keys.len()], None);
        for (number, place) in order {
            let at = self.filter_at + (number * PAGE_BYTES) as u64;
            if current.as_ref().is_none_or(|(known, _)| *known != number) {
                let page = match &whole {
                    Some(whole) => whole.get(number * PAGE_BYTES..(number + 1) * PAGE_BYTES)?.to_vec(),
                    None => file.read(at, PAGE_BYTES).ok()?,
                };
                if !bloom::is_whole(&page, at) {
                    return None;
                }
                current = Some((number, page));
            }
            if let (Some((_, page)), Some(key), Some(answer)) = (&current, keys.get(place), answers.get_mut(place)) {
                *answer = bloom::may_hold(page, *key, pages);
            }
        }
        Some(answers)
    }

    /// The part of this group; none where it is damaged.
    pub fn part(&self, file: &PositionedFile) -> Option<GroupPart> {
        let bytes = file.read(self.part_at, self.part_bytes as usize).ok()?;
        if xxh3_64(&bytes) != self.part_hash {
            return None;
        }
        let mut reader = Reader(&bytes);
        let pages = (0..reader.u32()?).map(|_| Some(Page { row: reader.u32()?, first: reader.key_head()? }));
        let pages = pages.collect::<Option<Vec<_>>>()?;
        // Only the offsets of pages are in it, and no statistics are needed.
        let metadata = ParquetMetaDataReader::new()
            .with_offset_index_policy(PageIndexPolicy::Required)
            .with_column_index_policy(PageIndexPolicy::Skip)
            .parse_and_finish(&bytes::Bytes::copy_from_slice(reader.0))
            .ok()?;
        let rows = usize::try_from(metadata.file_metadata().num_rows()).ok()?;
        let footer = ArrowReaderMetadata::try_new(Arc::new(metadata), ArrowReaderOptions::new()).ok()?;
        Some(GroupPart { rows, pages, footer })
    }
}

impl GroupPart {
    pub fn encode(pages: &[Page], footer: &[u8]) -> Vec<u8> {
        let mut out = (pages.len() as u32).to_le_bytes().to_vec();
        for page in pages {
            out.extend_from_slice(&page.row.to_le_bytes());
            page.first.encode(&mut out);
        }
        out.extend_from_slice(footer);
        out
    }

    /// The rows of the pages that can hold a key.
    pub fn rows_of(&self, key: &KeyHead) -> Range<usize> {
        let pages = span(&self.pages, |page| &page.first, key);
        let row = |page: usize| self.pages.get(page).map_or(self.rows, |page| page.row as usize);
        if pages.is_empty() { 0..0 } else { row(pages.start)..row(pages.end) }
    }
}

/// Reads numbers off the front of bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn key_head(&mut self) -> Option<KeyHead> {
        let type_id = self.u32()?.cast_signed();
        let length = *self.take(1)?.first()?;
        Some(KeyHead { type_id, value: self.take(length.into())?.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sorted keys with repetitions and with values that agree in more bytes than a head keeps.
    fn keys() -> Vec<(i32, String)> {
        let long = "l".repeat(PREFIX_BYTES_MAX);
        let values = ["a", "b", "b", "b", "b", "b", "b", "c", "caa", &long].map(str::to_owned);
        let tails = (0..7).map(|number| format!("{long}{number}"));
        let values = values.into_iter().chain(tails).chain(["z".to_owned()]).collect::<Vec<_>>();
        (1..4).flat_map(|kind| values.iter().map(move |value| (kind, value.clone()))).collect()
    }

    #[test]
    fn the_pages_of_a_key_are_among_those_that_are_named_whatever_the_length_of_a_page() {
        let keys = keys();
        let strangers = [(0, "x".to_owned()), (2, "bb".to_owned()), (9, String::new())];
        for length in 1..keys.len() {
            let pages = keys.chunks(length).map(|page| KeyHead::of(page[0].0, &page[0].1)).collect::<Vec<_>>();
            for key in keys.iter().chain(&strangers) {
                let named = span(&pages, |first| first, &KeyHead::of(key.0, &key.1));
                let held = keys.chunks(length).enumerate().filter(|(_, page)| page.contains(key)).map(|(number, _)| number);
                assert!(held.into_iter().all(|number| named.contains(&number)), "{key:?} in pages of {length}");
            }
        }
        let pages = keys.iter().map(|key| KeyHead::of(key.0, &key.1)).collect::<Vec<_>>();
        assert!(span(&pages, |first| first, &KeyHead::of(0, "x")).is_empty(), "before all");
        assert_eq!(span(&pages, |first| first, &KeyHead::of(1, "c")).len(), 2, "the page of the key and the one before");
    }

    #[test]
    fn each_group_is_asked_for_every_key_that_it_holds() {
        let keys = keys();
        let mut wanted = keys.iter().map(|key| KeyHead::of(key.0, &key.1)).collect::<Vec<_>>();
        wanted.dedup();
        for length in 1..keys.len() {
            let group = |rows: &[(i32, String)]| Group {
                first: KeyHead::of(rows[0].0, &rows[0].1),
                filter_at: 0,
                filter_pages: 1,
                part_at: 0,
                part_bytes: 0,
                part_hash: 0,
            };
            let index = SightingIndex { groups: keys.chunks(length).map(group).collect() };
            for (number, rows) in keys.chunks(length).enumerate() {
                let asked = index.keys_in(number, &wanted, |head| head);
                let held = rows.iter().map(|key| wanted.binary_search(&KeyHead::of(key.0, &key.1)).unwrap());
                assert!(held.into_iter().all(|place| asked.contains(&place)), "group {number} of {length} rows");
            }
        }
    }

    #[test]
    fn a_top_reads_as_it_was_written_and_for_its_own_table_alone() {
        let group = Group {
            first: KeyHead::of(6, "https://a.example/"),
            filter_at: 1,
            filter_pages: 2,
            part_at: 3,
            part_bytes: 4,
            part_hash: 5,
        };
        let top = SightingIndex { groups: vec![group] }.encode(77);
        assert_eq!(SightingIndex::decode(&top, 77).unwrap().encode(77), top);
        assert!(SightingIndex::decode(&top, 78).is_none());
        assert!((0..top.len()).filter(|length| *length != 8).all(|length| SightingIndex::decode(&top[..length], 77).is_none()));
    }
}
