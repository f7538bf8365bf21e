//! Finds candidates in one row group of a sealed file of sightings: by the file's index, or, where that is missing or
//! damaged, by the table's own footer and bounds of pages. Both give the same rows; the second reads more.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, BooleanArray, BooleanBufferBuilder, Int32Array, RecordBatch, StringArray};
use arrow::error::ArrowError;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowPredicateFn, ArrowReaderMetadata, ParquetRecordBatchReaderBuilder, RowFilter, RowSelection,
};

use crate::indicator::Candidate;
use crate::lake::{self, Lake};
use crate::manifest::SealedFile;
use crate::positioned::PositionedFile;
use crate::sighting::SightingRow;
use crate::sighting_columns::SightingRows;
use crate::sighting_index::SightingIndex;
use crate::touched::owned;
use crate::{Error, Result};

/// One file while it is looked up in.
pub(crate) struct FileLookup<'a> {
    lake: &'a Lake,
    file: &'a SealedFile,
    /// The open index and its top, where there is one.
    index: Option<(PositionedFile, Arc<SightingIndex>)>,
    groups: usize,
}

impl<'a> FileLookup<'a> {
    pub fn open(lake: &'a Lake, file: &'a SealedFile) -> Result<FileLookup<'a>> {
        let index = lake.index(file);
        let groups = match &index {
            Some((_, index)) => index.groups.len(),
            None => lake.open(file)?.1.metadata().num_row_groups(),
        };
        Ok(FileLookup { lake, file, index, groups })
    }

    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Of candidates in their order, those that the row group can hold.
    pub fn candidates_in(&self, group: usize, candidates: &[Candidate]) -> Range<usize> {
        match &self.index {
            Some((_, index)) => index.keys_in(group, candidates, |candidate| &candidate.head),
            None => 0..candidates.len(),
        }
    }

    /// Adds the rows of these candidates in a row group.
    pub fn find(&self, group: usize, candidates: &[Candidate], found: &mut Vec<SightingRow<'static>>) -> Result<()> {
        if let Some((opened, index)) = &self.index {
            match places(opened, index, group, candidates) {
                Some(None) => return Ok(()),
                Some(Some((footer, rows, possible))) => return self.read(&footer, 0, rows, &possible, found),
                None => self.lake.condemn_index(self.file),
            }
        }
        let (_, footer) = self.lake.open(self.file)?;
        let rows = places_by_bounds(&footer, group, candidates);
        self.read(&footer, group, rows, &candidates.iter().collect::<Vec<_>>(), found)
    }

    fn read(
        &self,
        footer: &ArrowReaderMetadata,
        group: usize,
        rows: RowSelection,
        candidates: &[&Candidate],
        found: &mut Vec<SightingRow<'static>>,
    ) -> Result<()> {
        if !rows.selects_any() {
            return Ok(());
        }
        let path = self.lake.root.join(&self.file.path);
        let opened = PositionedFile::open(&path).map_err(Error::io("open", &path))?;
        let mask = ProjectionMask::columns(footer.parquet_schema(), ["type_id", "value"]);
        // The predicate outlives this borrow by its type alone.
        let wanted = candidates.iter().map(|candidate| (candidate.type_id, candidate.value.clone())).collect::<Vec<_>>();
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(opened, footer.clone())
            .with_row_groups(vec![group])
            .with_row_selection(rows)
            .with_row_filter(RowFilter::new(vec![Box::new(ArrowPredicateFn::new(mask, move |batch| is_wanted(&batch, &wanted)))]))
            .build()
            .map_err(Error::parquet("read", &path))?;
        for batch in reader {
            let batch = batch.map_err(Error::arrow("read sightings"))?;
            let rows = SightingRows::new(&batch)?;
            found.extend((0..batch.num_rows()).map(|row| owned(&rows.row(row))));
        }
        Ok(())
    }
}

/// A footer of one row group, rows of it, and the candidates that can be in them.
type Places<'c> = (ArrowReaderMetadata, RowSelection, Vec<&'c Candidate>);

/// The rows of the pages that can hold a candidate by the index, `Some(None)` where no page can; none where it is damaged.
fn places<'c>(
    opened: &PositionedFile,
    index: &SightingIndex,
    group: usize,
    candidates: &'c [Candidate],
) -> Option<Option<Places<'c>>> {
    let group = index.groups.get(group)?;
    let keys = candidates.iter().map(|candidate| candidate.key as u64).collect::<Vec<_>>();
    let answers = group.may_hold(opened, &keys)?;
    let possible = candidates.iter().zip(answers).filter(|(_, may_hold)| *may_hold).map(|(candidate, _)| candidate);
    let possible = possible.collect::<Vec<_>>();
    if possible.is_empty() {
        return Some(None);
    }
    let part = group.part(opened)?;
    let ranges = joined(possible.iter().map(|candidate| part.rows_of(&candidate.head)));
    Some(Some((part.footer, RowSelection::from_consecutive_ranges(ranges.into_iter(), part.rows), possible)))
}

/// Ranges in ascending order of their beginnings as ones that do not overlap.
fn joined(ranges: impl Iterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let mut joined: Vec<Range<usize>> = Vec::new();
    for range in ranges.filter(|range| !range.is_empty()) {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// The rows of the pages that can hold a candidate by the smallest and largest value of each.
fn places_by_bounds(footer: &ArrowReaderMetadata, group: usize, candidates: &[Candidate]) -> RowSelection {
    let rows = usize::try_from(footer.metadata().row_group(group).num_rows()).unwrap_or_default();
    let column = footer.parquet_schema().columns().iter().position(|column| column.name() == "value");
    let mut values = candidates.iter().map(|candidate| candidate.value.as_bytes()).collect::<Vec<_>>();
    values.sort_unstable();
    let may_hold = |min: &[u8], max: &[u8]| {
        let at = values.partition_point(|value| *value < min);
        values.get(at).is_some_and(|value| *value <= max)
    };
    let pages = column.and_then(|column| lake::page_rows(footer, group, column, may_hold));
    let pages = pages.unwrap_or_else(|| std::iter::once(0..rows).collect());
    RowSelection::from_consecutive_ranges(pages.into_iter(), rows)
}

/// For each row whether it is one of these keys, which stand in order. In a batch that is sorted each key is searched for
/// by halving; a file that is not is gone through.
fn is_wanted(batch: &RecordBatch, wanted: &[(i32, String)]) -> std::result::Result<BooleanArray, ArrowError> {
    let types = batch.column(0).as_any().downcast_ref::<Int32Array>();
    let values = batch.column(1).as_any().downcast_ref::<StringArray>();
    let (Some(types), Some(values)) = (types, values) else {
        return Err(ArrowError::SchemaError("sightings have other columns".to_owned()));
    };
    let rows = batch.num_rows();
    let row = |row: usize| (types.value(row), values.value(row));
    let mut is_wanted = BooleanBufferBuilder::new(rows);
    is_wanted.append_n(rows, false);
    let mut from = 0;
    let is_sorted = (1..rows).all(|place| row(place - 1) <= row(place));
    if !is_sorted {
        let holds = |key: (i32, &str)| wanted.binary_search_by(|(kind, value)| (*kind, value.as_str()).cmp(&key)).is_ok();
        return Ok((0..rows).map(|place| Some(holds(row(place)))).collect());
    }
    // Keys before the first row and after the last are passed over at once.
    let first = if rows == 0 { wanted.len() } else { wanted.partition_point(|(kind, value)| (*kind, value.as_str()) < row(0)) };
    for key in wanted.iter().skip(first).map(|(kind, value)| (*kind, value.as_str())) {
        from = partition_point(from..rows, |place| row(place) < key);
        if from == rows {
            break;
        }
        let to = partition_point(from..rows, |place| row(place) <= key);
        (from..to).for_each(|place| is_wanted.set_bit(place, true));
        from = to;
    }
    Ok(BooleanArray::new(is_wanted.finish(), None))
}

/// The first place of a range for which a predicate that holds up to some place does not hold.
fn partition_point(range: Range<usize>, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low.midpoint(high);
        if holds(middle) { low = middle + 1 } else { high = middle }
    }
    low
}
