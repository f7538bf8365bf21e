//! One moment of the store for engines that read its files themselves: which sealed files make it up, and the batches
//! that are durable and not sealed yet. It runs no query. An event is in exactly one of both parts; what the two hold
//! never changes, and a file stays on disk for the grace period after a merge replaced it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, new_null_array};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use model::Timestamp;

use crate::day::Day;
use crate::manifest::{FileKind, SealedFile};
use crate::seal::SIGHTING_BATCH_ROWS;
use crate::sighting_columns::SightingBuilder;
use crate::sighting_table::SightingTable;
use crate::tail::View;
use crate::{Error, Result, schema, sighting_columns};

/// What a file holds a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    Events,
    /// Who met what, in files of a day or of a month; both kinds together are the table.
    Sightings,
}

/// One sealed Parquet file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    pub path: PathBuf,
    pub table: Table,
    /// OCSF class of the events; 0 for sightings.
    pub class_uid: i64,
    pub rows: u64,
    pub bytes: u64,
    /// The earliest and the latest time in it.
    pub times: (Timestamp, Timestamp),
}

/// One moment of the store.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Version of the manifest.
    pub version: u64,
    pub files: Vec<SnapshotFile>,
    /// Events that are not sealed yet. A batch has only the columns that some event of it fills: see [`project`].
    pub unsealed_events: Vec<RecordBatch>,
    pub unsealed_sightings: Vec<RecordBatch>,
}

/// The columns of every file of events, and those of sightings. A file of an earlier version may lack some.
pub fn table_schema(table: Table) -> SchemaRef {
    match table {
        Table::Events => schema::arrow_schema(),
        Table::Sightings => sighting_columns::arrow_schema(),
    }
}

/// A batch with exactly the columns of a schema; those that it lacks are null.
pub fn project(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let column = |field: &Arc<arrow::datatypes::Field>| -> ArrayRef {
        let known = batch.column_by_name(field.name()).cloned();
        known.unwrap_or_else(|| new_null_array(field.data_type(), batch.num_rows()))
    };
    let columns = schema.fields().iter().map(column).collect();
    // A count needs no column, and then only this says how many rows there are.
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &rows).map_err(Error::arrow("project an unsealed batch"))
}

pub(crate) fn snapshot(root: &Path, view: &View) -> Result<Snapshot> {
    let mut unsealed_sightings = Vec::new();
    for segment in &view.segments {
        let contents = segment.read_sightings()?;
        for day in contents.sightings().days() {
            unsealed_sightings.extend(sighting_batches(contents.sightings(), day)?);
        }
    }
    Ok(Snapshot {
        version: view.manifest.version,
        files: view.manifest.files.iter().map(|file| describe(root, file)).collect(),
        unsealed_events: view.batches().iter().map(|tail| Ok(tail.batch()?.as_ref().clone())).collect::<Result<_>>()?,
        unsealed_sightings,
    })
}

fn describe(root: &Path, file: &SealedFile) -> SnapshotFile {
    SnapshotFile {
        path: root.join(&file.path),
        table: if file.kind == FileKind::Events { Table::Events } else { Table::Sightings },
        class_uid: file.class_uid,
        rows: file.rows,
        bytes: file.bytes,
        times: (Timestamp(file.min_time), Timestamp(file.max_time)),
    }
}

/// The sightings of a day in the order of files.
fn sighting_batches(table: &SightingTable, day: Day) -> Result<Vec<RecordBatch>> {
    let mut builder = SightingBuilder::default();
    let mut batches = Vec::new();
    for row in table.sorted(day) {
        builder.push(&row);
        if builder.rows() == SIGHTING_BATCH_ROWS {
            batches.push(builder.finish()?);
        }
    }
    batches.push(builder.finish()?);
    Ok(batches)
}
