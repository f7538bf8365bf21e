//! Merges the small files of a day into one a class, and sightings by day, then by month once the month is over. Inputs are
//! sorted, so merging streams: memory is bounded by one batch of each input. The inputs stay on disk for a while, for readers elsewhere.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use arrow::array::{Array, StringArray, TimestampMicrosecondArray};
use arrow::compute::interleave_record_batch;
use arrow::record_batch::RecordBatch;
use model::Timestamp;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use crate::batch::typed;
use crate::day::Day;
use crate::lake::{FileWriter, Lake};
use crate::manifest::{FileKind, Manifest, SealedFile};
use crate::seal::{self, SIGHTING_BATCH_ROWS};
use crate::sighting::SightingRow;
use crate::sighting_columns::{SightingBuilder, SightingRows};
use crate::touched::owned;
use crate::{Error, Result, schema, sighting_index_build};

/// Files of the current day that are merged only together with others as small: merging a large one hourly would write
/// it a dozen times.
const SMALL_ROWS_MAX: u64 = 262_144;

/// Small files of the current day before they are merged.
const SMALL_FILES_MIN: usize = 8;

/// Rows of one merged batch on its way to the file.
const MERGED_ROWS: usize = 16_384;

/// Rows read at a time from each input; a day of files that were sealed each minute has 1,440.
const INPUT_ROWS: usize = 1_024;

/// Files opened at once, well below the usual bound of 1,024 a process; what is left is merged in the next pass.
const INPUTS_MAX: usize = 256;

/// What a compaction merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    pub inputs: u64,
    pub outputs: u64,
}

/// Files that become one.
pub(crate) struct Merge {
    pub kind: FileKind,
    pub class_uid: i64,
    /// The day, or the first day of the month.
    pub day: Day,
    /// Version of the manifest that it was planned under. It is in the name of the output: sightings of several days share
    /// their ids, so those alone could name an input.
    pub version: u64,
    pub inputs: Vec<Arc<SealedFile>>,
}

/// The merges that are worth making.
pub(crate) fn plan(manifest: &Manifest, now: Timestamp) -> Vec<Merge> {
    let today = Day::of(now);
    let mut groups: BTreeMap<_, Vec<Arc<SealedFile>>> = BTreeMap::new();
    for file in &manifest.files {
        groups.entry(target(file, today)).or_default().push(Arc::clone(file));
    }
    let worth = groups.into_iter().filter_map(|((kind, class_uid, day), mut inputs)| {
        if day == today && kind != FileKind::MonthlySightings {
            inputs.retain(|file| file.rows < SMALL_ROWS_MAX);
            if inputs.len() < SMALL_FILES_MIN {
                return None;
            }
        }
        inputs.sort_by_key(|file| file.first_id);
        inputs.truncate(INPUTS_MAX);
        (inputs.len() > 1).then_some(Merge { kind, class_uid, day, version: manifest.version, inputs })
    });
    worth.collect()
}

/// What a file is merged with: its class and day, or for sightings of a month that is over, the month.
fn target(file: &SealedFile, today: Day) -> (FileKind, i64, Day) {
    match file.kind.holds_sightings() && file.day.month() < today.month() {
        true => (FileKind::MonthlySightings, 0, file.day.month()),
        false => (file.kind, file.class_uid, file.day),
    }
}

/// Writes the merged file. Nothing exists of it before the manifest says so.
pub(crate) fn merge(lake: &Lake, merge: &Merge, is_stopping: &dyn Fn() -> bool) -> Result<Option<SealedFile>> {
    let inputs = &merge.inputs;
    let first_id = inputs.iter().map(|file| file.first_id).min().unwrap_or_default();
    let last_id = inputs.iter().map(|file| file.last_id).max().unwrap_or_default();
    let ids = (first_id, last_id);
    let name = format!("{first_id}-{last_id}-{}", merge.version);
    let mut writer = match merge.kind {
        FileKind::Events => FileWriter::events(&lake.root, merge.class_uid, merge.day, ids, &name)?,
        FileKind::Sightings => FileWriter::sightings(&lake.root, merge.day, ids, &name)?,
        FileKind::MonthlySightings => FileWriter::monthly_sightings(&lake.root, merge.day, ids, &name)?,
    };
    inputs.iter().for_each(|file| writer.span(file.min_time, file.max_time));
    match merge.kind {
        FileKind::Events => merge_events(lake, inputs, writer, is_stopping),
        FileKind::Sightings | FileKind::MonthlySightings => merge_sightings(lake, inputs, writer, is_stopping),
    }
}

/// One input: its reader and the place within its current batch.
struct Input {
    reader: ParquetRecordBatchReader,
    batch: RecordBatch,
    row: usize,
}

impl Input {
    fn open(lake: &Lake, file: &SealedFile) -> Result<Input> {
        let path = lake.root.join(&file.path);
        let (opened, footer) = lake.open(file)?;
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(opened, footer)
            .with_batch_size(INPUT_ROWS)
            .build()
            .map_err(Error::parquet("read", &path))?;
        Ok(Input { reader, batch: RecordBatch::new_empty(schema::arrow_schema()), row: 0 })
    }

    /// Loads the next batch. False at the end of the file.
    fn load(&mut self) -> Result<bool> {
        match self.reader.next() {
            None => Ok(false),
            Some(batch) => {
                (self.batch, self.row) = (batch.map_err(Error::arrow("read the input of a merge"))?, 0);
                Ok(self.batch.num_rows() > 0)
            }
        }
    }
}

/// The order of events within a file: host, time, id, and which input.
type EventOrder = Reverse<(Vec<u8>, i64, i64, usize)>;

fn merge_events(
    lake: &Lake,
    files: &[Arc<SealedFile>],
    mut writer: FileWriter,
    is_stopping: &dyn Fn() -> bool,
) -> Result<Option<SealedFile>> {
    let mut inputs = files.iter().map(|file| Input::open(lake, file)).collect::<Result<Vec<_>>>()?;
    let mut merged = Interleaved { batches: Vec::new(), current: vec![0; inputs.len()], rows: Vec::new() };
    let mut heap: BinaryHeap<EventOrder> = BinaryHeap::new();
    for (place, input) in inputs.iter_mut().enumerate() {
        if merged.load(place, input)? {
            heap.push(Reverse(event_order(input, place, Vec::new())?));
        }
    }
    while let Some(Reverse((spare, _, _, place))) = heap.pop() {
        let Some(input) = inputs.get_mut(place) else { continue };
        merged.rows.push((merged.current.get(place).copied().unwrap_or_default(), input.row));
        input.row += 1;
        if input.row < input.batch.num_rows() || merged.load(place, input)? {
            heap.push(Reverse(event_order(input, place, spare)?));
        }
        if merged.rows.len() >= MERGED_ROWS {
            if is_stopping() {
                return Ok(None);
            }
            merged.write(&mut writer)?;
        }
    }
    merged.write(&mut writer)?;
    writer.finish().map(Some)
}

/// The place in the order of the input's current row, in a buffer that is used again and again.
fn event_order(input: &Input, place: usize, mut host: Vec<u8>) -> Result<(Vec<u8>, i64, i64, usize)> {
    let hosts: &StringArray = typed(&input.batch, "host")?;
    let times: &TimestampMicrosecondArray = typed(&input.batch, schema::TIME)?;
    let ids: &arrow::array::Int64Array = typed(&input.batch, schema::EVENT_ID)?;
    host.clear();
    if hosts.is_valid(input.row) {
        host.extend_from_slice(hosts.value(input.row).as_bytes());
    }
    Ok((host, times.value(input.row), ids.value(input.row), place))
}

/// Rows picked from several batches in a new order.
struct Interleaved {
    batches: Vec<RecordBatch>,
    /// For each input, its current batch among `batches`.
    current: Vec<usize>,
    rows: Vec<(usize, usize)>,
}

impl Interleaved {
    fn load(&mut self, place: usize, input: &mut Input) -> Result<bool> {
        if !input.load()? {
            return Ok(false);
        }
        // A file of an earlier schema lacks columns; they come as empty ones.
        if input.batch.schema_ref() != &schema::arrow_schema() {
            input.batch = seal::combine(&[&input.batch])?;
        }
        if let Some(current) = self.current.get_mut(place) {
            *current = self.batches.len();
        }
        self.batches.push(input.batch.clone());
        Ok(true)
    }

    /// Writes the picked rows and lets go of batches that no input reads any more.
    fn write(&mut self, writer: &mut FileWriter) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let batches = self.batches.iter().collect::<Vec<_>>();
        let merged = interleave_record_batch(&batches, &self.rows).map_err(Error::arrow("merge rows"))?;
        writer.write(&merged)?;
        self.rows.clear();
        let kept = self.current.iter().filter_map(|place| self.batches.get(*place).cloned()).collect::<Vec<_>>();
        self.batches = kept;
        self.current.iter_mut().enumerate().for_each(|(place, current)| *current = place);
        Ok(())
    }
}

type SightingOrder = Reverse<(i32, String, String, String, String, usize)>;

fn merge_sightings(
    lake: &Lake,
    files: &[Arc<SealedFile>],
    mut writer: FileWriter,
    is_stopping: &dyn Fn() -> bool,
) -> Result<Option<SealedFile>> {
    let mut inputs = files.iter().map(|file| Input::open(lake, file)).collect::<Result<Vec<_>>>()?;
    let mut heap: BinaryHeap<SightingOrder> = BinaryHeap::new();
    for (place, input) in inputs.iter_mut().enumerate() {
        if input.load()? {
            heap.push(sighting_order(input, place)?);
        }
    }
    let mut builder = SightingBuilder::default();
    let mut open: Option<SightingRow<'static>> = None;
    while let Some(Reverse((.., place))) = heap.pop() {
        let Some(input) = inputs.get_mut(place) else { continue };
        let row = owned(&SightingRows::new(&input.batch)?.row(input.row));
        match &mut open {
            Some(same) if same.order() == row.order() => same.absorb(&row),
            _ => {
                if let Some(whole) = open.replace(row) {
                    builder.push(&whole);
                }
            }
        }
        input.row += 1;
        if input.row < input.batch.num_rows() || input.load()? {
            heap.push(sighting_order(input, place)?);
        }
        if builder.rows() >= SIGHTING_BATCH_ROWS {
            if is_stopping() {
                return Ok(None);
            }
            writer.write(&builder.finish()?)?;
        }
    }
    open.iter().for_each(|whole| builder.push(whole));
    writer.write(&builder.finish()?)?;
    let sealed = writer.finish()?;
    sighting_index_build::build(&lake.root, &sealed)?;
    Ok(Some(sealed))
}

fn sighting_order(input: &Input, place: usize) -> Result<SightingOrder> {
    let rows = SightingRows::new(&input.batch)?;
    let row = rows.row(input.row);
    let (type_id, value, user, device, src_ip) = row.order();
    Ok(Reverse((type_id, value.to_owned(), user.to_owned(), device.to_owned(), src_ip.to_owned(), place)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(day: i64, first_id: i64, rows: u64) -> Arc<SealedFile> {
        let (path, kind, class_uid) = (format!("{day}-{first_id}"), FileKind::Events, 4003);
        let (day, bytes, last_id, min_time, max_time) = (Day(day), 1, first_id, 0, 0);
        Arc::new(SealedFile { path, kind, class_uid, day, rows, bytes, first_id, last_id, min_time, max_time })
    }

    #[test]
    fn past_days_become_one_file_and_today_only_when_it_pays() {
        let past = [file(1, 1, SMALL_ROWS_MAX), file(1, 2, 1)];
        let lone = [file(2, 3, 1)];
        let today = (0..SMALL_FILES_MIN as i64).map(|n| file(3, 10 + n, 1)).chain([file(3, 30, SMALL_ROWS_MAX)]);
        let files = past.into_iter().chain(lone).chain(today).collect::<Vec<_>>();
        let manifest = Manifest { files, ..Manifest::default() };
        let planned = plan(&manifest, Timestamp::from_seconds(3 * 86_400));
        assert_eq!(planned.iter().map(|merge| merge.inputs.len()).collect::<Vec<_>>(), [2, SMALL_FILES_MIN]);
    }
}
