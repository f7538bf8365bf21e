//! Makes the index of a file of sightings from the file itself, row group by row group, so that one that was just written,
//! one of an earlier version and one whose index was damaged are all indexed the same way. A file that is not in order has none.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use arrow::array::{Int32Array, StringArray};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::{FileMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataBuilder, ParquetMetaDataWriter};
use xxhash_rust::xxh3::xxh3_64;

use crate::batch::typed;
use crate::bloom::{self, PAGE_BYTES};
use crate::manifest::SealedFile;
use crate::positioned::PositionedFile;
use crate::sighting::{self, kind_of};
use crate::sighting_index::{self, Group, GroupPart, KeyHead, MAGIC, Page, SightingIndex};
use crate::{Error, Result, disk};

/// Rows read at a time.
const BATCH_ROWS: usize = 8_192;

/// Writes the index of a sealed file of sightings. False where the file cannot have one: it is not sorted, or another
/// program wrote it without offsets of its pages. Nothing is synced: what a crash leaves half written is found to be damaged.
pub(crate) fn build(root: &Path, sealed: &SealedFile) -> Result<bool> {
    let table = root.join(&sealed.path);
    let Some(path) = sighting_index::path_beside(&table) else { return Ok(false) };
    let file = PositionedFile::open(&table).map_err(Error::io("open", &table))?;
    let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
    let footer = ArrowReaderMetadata::load(&file, options).map_err(Error::parquet("read the footer of", &table))?;
    if let Some(directory) = path.parent() {
        disk::create_directory(directory)?;
    }
    let draft = path.with_extension("tmp");
    let out = disk::create_file(&draft).map_err(Error::io("create", &draft))?;
    let mut index = Draft { out: BufWriter::new(out), at: 0, groups: Vec::new() };
    let mut last = None;
    for number in 0..footer.metadata().num_row_groups() {
        let Some(group) = read_group(&file, &footer, number, &mut last).map_err(|error| error.of(&table))? else {
            disk::remove_file(&draft)?;
            return Ok(false);
        };
        let blob = footer_of(footer.metadata(), number).map_err(Error::parquet("describe a row group of", &table))?;
        index.add(&group, &blob).map_err(Error::io("write", &draft))?;
    }
    index.finish(file.bytes()).map_err(Error::io("write", &draft))?;
    std::fs::rename(&draft, &path).map_err(Error::io("name", &path))?;
    Ok(true)
}

/// Either of the two errors that reading a row group has, without the name of the file.
enum ReadError {
    Parquet(parquet::errors::ParquetError),
    Store(Error),
}

impl ReadError {
    fn of(self, path: &Path) -> Error {
        match self {
            ReadError::Parquet(error) => Error::parquet("read", path)(error),
            ReadError::Store(error) => error,
        }
    }
}

/// First keys of pages and hashes of distinct keys of one row group.
struct GroupKeys {
    pages: Vec<Page>,
    hashes: Vec<u64>,
}

/// Reads the keys of a row group; none where they are not in order after the last one or where its pages are not known.
fn read_group(
    file: &PositionedFile,
    footer: &ArrowReaderMetadata,
    number: usize,
    last: &mut Option<(i32, String)>,
) -> std::result::Result<Option<GroupKeys>, ReadError> {
    let Some(starts) = page_starts(footer, number) else { return Ok(None) };
    let mut starts = starts.into_iter().peekable();
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file.clone(), footer.clone())
        .with_row_groups(vec![number])
        .with_projection(ProjectionMask::columns(footer.parquet_schema(), ["type_id", "value"]))
        .with_batch_size(BATCH_ROWS)
        .build()
        .map_err(ReadError::Parquet)?;
    let (mut keys, mut row) = (GroupKeys { pages: Vec::new(), hashes: Vec::new() }, 0_u32);
    for batch in reader {
        let batch = batch.map_err(Error::arrow("read sightings")).map_err(ReadError::Store)?;
        let columns = typed(&batch, "type_id").and_then(|types| Ok((types, typed(&batch, "value")?)));
        let (types, values): (&Int32Array, &StringArray) = columns.map_err(ReadError::Store)?;
        for (type_id, value) in types.values().iter().zip(values.iter().map(Option::unwrap_or_default)) {
            if starts.next_if_eq(&row).is_some() {
                keys.pages.push(Page { row, first: KeyHead::of(*type_id, value) });
            }
            row += 1;
            let order = last.as_ref().map(|(last_type, last)| (*last_type, last.as_str()).cmp(&(*type_id, value)));
            match order {
                Some(std::cmp::Ordering::Greater) => return Ok(None),
                // A key that goes on from the group before is in the filters of both.
                Some(std::cmp::Ordering::Equal) if !keys.hashes.is_empty() => continue,
                _ => keys.hashes.push(hash(*type_id, value)),
            }
            match last {
                Some((last_type, last)) => {
                    *last_type = *type_id;
                    last.clear();
                    last.push_str(value);
                }
                None => *last = Some((*type_id, value.to_owned())),
            }
        }
    }
    Ok((starts.peek().is_none() && !keys.pages.is_empty()).then_some(keys))
}

/// The first row of each page of the column of values.
fn page_starts(footer: &ArrowReaderMetadata, number: usize) -> Option<Vec<u32>> {
    let column = footer.parquet_schema().columns().iter().position(|column| column.name() == "value")?;
    let pages = footer.metadata().offset_index()?.get(number)?.get(column)?.page_locations();
    pages.iter().map(|page| u32::try_from(page.first_row_index).ok()).collect()
}

/// A kind of a later version has no look-ups here.
fn hash(type_id: i32, value: &str) -> u64 {
    kind_of(type_id).map_or(0, |kind| sighting::key(kind, value) as u64)
}

/// A Parquet footer that describes one row group of a file, with the offsets of its pages.
fn footer_of(whole: &ParquetMetaData, number: usize) -> parquet::errors::Result<Vec<u8>> {
    let group = whole.row_group(number);
    let (version, schema) = (whole.file_metadata().version(), whole.file_metadata().schema_descr_ptr());
    let file = FileMetaData::new(version, group.num_rows(), None, None, schema, None);
    let offsets = whole.offset_index().and_then(|index| index.get(number)).cloned();
    let mut builder = ParquetMetaDataBuilder::new(file).set_offset_index(offsets.map(|offsets| vec![offsets]));
    builder = builder.add_row_group(group.clone());
    let mut bytes = Vec::new();
    ParquetMetaDataWriter::new(&mut bytes, &builder.build()).finish()?;
    Ok(bytes)
}

/// An index while it is written.
struct Draft {
    out: BufWriter<File>,
    at: u64,
    groups: Vec<Group>,
}

impl Draft {
    fn add(&mut self, keys: &GroupKeys, footer: &[u8]) -> std::io::Result<()> {
        let Some(first) = keys.pages.first().map(|page| page.first.clone()) else { return Ok(()) };
        let filter_at = self.at;
        let filter = bloom::pages_of(&keys.hashes, filter_at);
        let filter_pages = (filter.len() / PAGE_BYTES) as u32;
        self.write(&filter)?;
        let part = GroupPart::encode(&keys.pages, footer);
        let (part_at, part_bytes, part_hash) = (self.at, part.len() as u32, xxh3_64(&part));
        self.write(&part)?;
        // Filters begin at whole pages, so that one page of a filter is one page of the file system's cache.
        let padding = self.at.next_multiple_of(PAGE_BYTES as u64) - self.at;
        self.write(&vec![0; padding as usize])?;
        self.groups.push(Group { first, filter_at, filter_pages, part_at, part_bytes, part_hash });
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn finish(mut self, sealed_bytes: u64) -> std::io::Result<()> {
        let top = SightingIndex { groups: std::mem::take(&mut self.groups) }.encode(sealed_bytes);
        let hash = xxh3_64(&top);
        self.write(&top)?;
        self.write(&(top.len() as u64).to_le_bytes())?;
        self.write(&hash.to_le_bytes())?;
        self.write(&MAGIC)?;
        self.out.flush()
    }
}
