//! Turns one segment of the log into sorted Parquet files, one a class and day, with sightings and indexes of them. The manifest
//! commit makes them exist and the segment not; only then is the log file unlinked, so a crash at any point leaves each
//! event in exactly one place.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::compute::concat;
use arrow::record_batch::RecordBatch;

use crate::day::Day;
use crate::lake::{FileWriter, Lake};
use crate::manifest::SealedFile;
use crate::sealing::{Events, Nulls};
use crate::sighting_columns::SightingBuilder;
use crate::sighting_table::SightingTable;
use crate::tail::TailSegment;
use crate::{Error, Result, schema, sighting_index_build};

/// Rows of one batch of sightings on its way to the file.
pub(crate) const SIGHTING_BATCH_ROWS: usize = 16_384;

/// Rows of one batch of events on its way to the file: their columns stay in the processor's cache, and those that are empty
/// cost no memory to speak of.
const SLICE_ROWS: usize = 8_192;

/// Writes the files of a segment. They do not exist before the manifest says so.
pub(crate) fn write_files(lake: &Lake, segment: &TailSegment) -> Result<Vec<SealedFile>> {
    let contents = segment.read_sightings()?;
    if contents.batches.is_empty() {
        return Ok(Vec::new());
    }
    let events = Events::of(segment, &contents)?;
    let mut files = Vec::new();
    for ((class_uid, day), places) in events.groups()? {
        files.push(write_group(lake, &events, class_uid, day, places)?);
    }
    let ids = (segment.first_id, contents.last_id);
    for day in contents.sightings().days() {
        files.push(write_sightings(lake, contents.sightings(), day, ids)?);
    }
    Ok(files)
}

/// All batches as one with every column of the schema.
pub(crate) fn combine(batches: &[&RecordBatch]) -> Result<RecordBatch> {
    let rows = batches.iter().map(|batch| batch.num_rows()).sum();
    let schema = schema::arrow_schema();
    let column = |field: &Arc<arrow::datatypes::Field>| -> Result<ArrayRef> {
        let parts = batches.iter().map(|batch| batch.column_by_name(field.name()).cloned()).collect::<Vec<_>>();
        if parts.iter().all(Option::is_none) {
            return Ok(new_null_array(field.data_type(), rows));
        }
        let null = |batch: &RecordBatch| new_null_array(field.data_type(), batch.num_rows());
        let parts = parts.into_iter().zip(batches).map(|(part, batch)| part.unwrap_or_else(|| null(batch)));
        let parts = parts.collect::<Vec<_>>();
        let parts = parts.iter().map(|part| part.as_ref() as &dyn Array).collect::<Vec<_>>();
        concat(&parts).map_err(Error::arrow("join the columns of a segment"))
    };
    let columns = schema.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
    RecordBatch::try_new(schema, columns).map_err(Error::arrow("join the batches of a segment"))
}

fn write_group(lake: &Lake, events: &Events, class_uid: i64, day: Day, mut places: Vec<u32>) -> Result<SealedFile> {
    events.sort_by_host_and_time(&mut places);
    let (first_id, last_id) = bounds(places.iter().map(|place| events.id(*place)));
    let (min_time, max_time) = bounds(places.iter().map(|place| events.time(*place)));
    let mut writer = FileWriter::events(&lake.root, class_uid, day, (first_id, last_id), &format!("{first_id}-{last_id}"))?;
    writer.span(min_time, max_time);
    let mut nulls = Nulls::default();
    for slice in places.chunks(SLICE_ROWS) {
        writer.write(&events.columns(slice, &mut nulls)?)?;
    }
    writer.finish()
}

fn bounds(values: impl Iterator<Item = i64>) -> (i64, i64) {
    values.fold((i64::MAX, i64::MIN), |(min, max), value| (min.min(value), max.max(value)))
}

fn write_sightings(lake: &Lake, table: &SightingTable, day: Day, ids: (i64, i64)) -> Result<SealedFile> {
    let mut writer = FileWriter::sightings(&lake.root, day, ids, &format!("{}-{}", ids.0, ids.1))?;
    let mut builder = SightingBuilder::default();
    for row in table.sorted(day) {
        builder.push(&row);
        writer.span(row.first, row.last);
        if builder.rows() == SIGHTING_BATCH_ROWS {
            writer.write(&builder.finish()?)?;
        }
    }
    writer.write(&builder.finish()?)?;
    let sealed = writer.finish()?;
    sighting_index_build::build(&lake.root, &sealed)?;
    Ok(sealed)
}
