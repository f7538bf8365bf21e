//! Turns one segment of the log into sorted Parquet files, one a class and day, with sightings and indexes of them. The manifest
//! commit makes them exist and the segment not; only then is the log file unlinked, so a crash at any point leaves each
//! event in exactly one place.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray, UInt32Array, new_null_array,
};
use arrow::compute::{concat, take};
use arrow::record_batch::RecordBatch;
use model::Timestamp;

use crate::batch::typed;
use crate::day::Day;
use crate::lake::{FileWriter, Lake};
use crate::manifest::SealedFile;
use crate::sighting_columns::SightingBuilder;
use crate::sighting_table::SightingTable;
use crate::tail::TailSegment;
use crate::{Error, Result, order, schema, sighting_index_build};

/// Rows of one batch of sightings on its way to the file.
pub(crate) const SIGHTING_BATCH_ROWS: usize = 16_384;

/// Writes the files of a segment. They do not exist before the manifest says so.
pub(crate) fn write_files(lake: &Lake, segment: &TailSegment) -> Result<Vec<SealedFile>> {
    let contents = segment.read();
    let batches = contents.batches.iter().map(|tail| tail.batch.as_ref()).collect::<Vec<_>>();
    if batches.is_empty() {
        return Ok(Vec::new());
    }
    let whole = combine(&batches)?;
    let mut files = Vec::new();
    for ((class_uid, day), rows) in groups(&whole)? {
        files.push(write_group(lake, &whole, class_uid, day, rows)?);
    }
    let ids = (segment.first_id, contents.last_id);
    for day in contents.sightings.days() {
        files.push(write_sightings(lake, &contents.sightings, day, ids)?);
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

fn groups(whole: &RecordBatch) -> Result<BTreeMap<(i64, Day), Vec<u32>>> {
    let classes: &Int32Array = typed(whole, schema::CLASS_UID)?;
    let times: &TimestampMicrosecondArray = typed(whole, schema::TIME)?;
    let mut groups: BTreeMap<(i64, Day), Vec<u32>> = BTreeMap::new();
    for (row, (class, time)) in classes.values().iter().zip(times.values()).enumerate() {
        groups.entry((i64::from(*class), Day::of(Timestamp(*time)))).or_default().push(row as u32);
    }
    Ok(groups)
}

fn write_group(lake: &Lake, whole: &RecordBatch, class_uid: i64, day: Day, mut rows: Vec<u32>) -> Result<SealedFile> {
    sort_by_host_and_time(whole, &mut rows)?;
    let indices = UInt32Array::from(rows);
    let pick = |column: &ArrayRef| match column.null_count() == column.len() {
        true => Ok(new_null_array(column.data_type(), indices.len())),
        false => take(column, &indices, None).map_err(Error::arrow("sort the rows of a segment")),
    };
    let columns = whole.columns().iter().map(pick).collect::<Result<Vec<_>>>()?;
    let sorted = RecordBatch::try_new(whole.schema(), columns).map_err(Error::arrow("sort the rows of a segment"))?;
    let ids: &Int64Array = typed(&sorted, schema::EVENT_ID)?;
    let times: &TimestampMicrosecondArray = typed(&sorted, schema::TIME)?;
    let (first_id, last_id) = bounds(ids.values());
    let (min_time, max_time) = bounds(times.values());
    let mut writer = FileWriter::events(&lake.root, class_uid, day, (first_id, last_id), &format!("{first_id}-{last_id}"))?;
    writer.span(min_time, max_time);
    writer.write(&sorted)?;
    writer.finish()
}

fn bounds(values: &[i64]) -> (i64, i64) {
    (values.iter().min().copied().unwrap_or_default(), values.iter().max().copied().unwrap_or_default())
}

/// The order within a file: 14 % smaller and up to six times faster to look up than the order of time alone.
fn sort_by_host_and_time(whole: &RecordBatch, rows: &mut [u32]) -> Result<()> {
    let hosts: &StringArray = typed(whole, "host")?;
    let times: &TimestampMicrosecondArray = typed(whole, schema::TIME)?;
    let host = |row: u32| if hosts.is_valid(row as usize) { hosts.value(row as usize) } else { "" };
    let time = |row: u32| times.value(row as usize);
    let mut keyed = rows.iter().map(|row| (order::head(host(*row)), *row)).collect::<Vec<_>>();
    keyed.sort_unstable_by(|(a_head, a), (b_head, b)| {
        a_head.cmp(b_head).then_with(|| host(*a).cmp(host(*b))).then_with(|| time(*a).cmp(&time(*b))).then(a.cmp(b))
    });
    rows.iter_mut().zip(keyed).for_each(|(row, (_, sorted))| *row = sorted);
    Ok(())
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
