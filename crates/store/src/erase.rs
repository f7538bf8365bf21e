//! Takes one user out of the record: files that hold the user's events or sightings are written again without them. It
//! removes what names the user in `user_name` or as an observable; an event that only has an address stays.

use std::sync::Arc;

use arrow::array::{Array, BooleanArray, Int32Array, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use model::Observable;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use crate::lake::{FileWriter, Lake};
use crate::manifest::{FileKind, SealedFile};
use crate::sighting::kind_of;
use crate::snapshot::{Table, project, table_schema};
use crate::{Error, Result, sighting_index_build};

/// Rows read at a time.
const BATCH_ROWS: usize = 8_192;

/// What an erasure removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Erased {
    pub events: u64,
    pub sightings: u64,
    /// Files that were written again or went.
    pub files: u64,
}

/// A file without the user's rows; `output` is none where nothing else was in it.
pub(crate) struct Rewrite {
    pub input: Arc<SealedFile>,
    pub output: Option<Arc<SealedFile>>,
    pub rows: u64,
}

/// Writes a file again without a user's rows; none where it has no such row. `name` is new in the file's directory.
pub(crate) fn rewrite(lake: &Lake, file: &Arc<SealedFile>, user: &str, name: &str) -> Result<Option<Rewrite>> {
    let rows = count(lake, file, user)?;
    if rows == 0 {
        return Ok(None);
    }
    let output = match rows < file.rows {
        true => Some(Arc::new(copy_without(lake, file, user, name)?)),
        false => None,
    };
    Ok(Some(Rewrite { input: Arc::clone(file), output, rows }))
}

fn table(file: &SealedFile) -> Table {
    if file.kind == FileKind::Events { Table::Events } else { Table::Sightings }
}

/// Rows of the user, by the columns that name one alone.
fn count(lake: &Lake, file: &SealedFile, user: &str) -> Result<u64> {
    let mut rows = 0;
    for batch in read(lake, file, Some(&["type_id", "value", "user_name"]))? {
        let batch = batch.map_err(Error::arrow("look for a user"))?;
        rows += is_of(&batch, user).true_count() as u64;
    }
    Ok(rows)
}

fn read(lake: &Lake, file: &SealedFile, columns: Option<&[&str]>) -> Result<ParquetRecordBatchReader> {
    let path = lake.root.join(&file.path);
    let (opened, footer) = lake.open(file)?;
    let mask = columns.map(|columns| ProjectionMask::columns(footer.parquet_schema(), columns.iter().copied()));
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(opened, footer).with_batch_size(BATCH_ROWS);
    let builder = match mask {
        Some(mask) => builder.with_projection(mask),
        None => builder,
    };
    builder.build().map_err(Error::parquet("read", &path))
}

/// For each row whether it is the user's. Names are compared without case, as look-ups do.
fn is_of(batch: &RecordBatch, user: &str) -> BooleanArray {
    let texts = |name: &str| batch.column_by_name(name).and_then(|array| array.as_any().downcast_ref::<StringArray>());
    let types = batch.column_by_name("type_id").and_then(|array| array.as_any().downcast_ref::<Int32Array>());
    let (users, values) = (texts("user_name"), texts("value"));
    let is = |cells: Option<&StringArray>, row: usize| {
        cells.is_some_and(|cells| cells.is_valid(row) && cells.value(row).eq_ignore_ascii_case(user))
    };
    let is_person = |row: usize| {
        let kind = types.and_then(|types| kind_of(types.value(row)));
        matches!(kind, Some(Observable::UserName | Observable::Email))
    };
    (0..batch.num_rows()).map(|row| Some(is(users, row) || (is_person(row) && is(values, row)))).collect()
}

fn copy_without(lake: &Lake, file: &SealedFile, user: &str, name: &str) -> Result<SealedFile> {
    let ids = (file.first_id, file.last_id);
    let mut writer = match file.kind {
        FileKind::Events => FileWriter::events(&lake.root, file.class_uid, file.day, ids, name)?,
        FileKind::Sightings => FileWriter::sightings(&lake.root, file.day, ids, name)?,
        FileKind::MonthlySightings => FileWriter::monthly_sightings(&lake.root, file.day, ids, name)?,
    };
    writer.span(file.min_time, file.max_time);
    for batch in read(lake, file, None)? {
        let batch = project(&batch.map_err(Error::arrow("read a file without a user"))?, &table_schema(table(file)))?;
        let is_kept = arrow::compute::not(&is_of(&batch, user)).map_err(Error::arrow("leave a user out"))?;
        let kept = filter_record_batch(&batch, &is_kept).map_err(Error::arrow("leave a user out"))?;
        writer.write(&kept)?;
    }
    let sealed = writer.finish()?;
    if file.kind.holds_sightings() {
        // A new index: the old one must not answer yes for what was erased.
        sighting_index_build::build(&lake.root, &sealed)?;
    }
    Ok(sealed)
}
