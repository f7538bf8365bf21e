//! Sightings as columns: the schema of their files, and rows on their way in and out of batches.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Int32Array, Int32Builder, Int64Array, Int64Builder, StringArray, StringBuilder};
use arrow::array::{TimestampMicrosecondArray, TimestampMicrosecondBuilder};
use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use crate::batch::typed;
use crate::sighting::SightingRow;
use crate::{Error, Result, schema};

static ARROW: LazyLock<SchemaRef> = LazyLock::new(|| {
    let field = |name, ty| ArrowField::new(name, ty, false);
    Arc::new(Schema::new(vec![
        field("type_id", DataType::Int32),
        field("value", DataType::Utf8),
        field("user_name", DataType::Utf8),
        field("device_name", DataType::Utf8),
        field("src_ip", DataType::Utf8),
        field("gates", DataType::Int32),
        field("count", DataType::Int64),
        field("blocked", DataType::Int64),
        field("first_seen", schema::time_type()),
        field("last_seen", schema::time_type()),
    ]))
});

pub(crate) fn arrow_schema() -> SchemaRef {
    Arc::clone(&ARROW)
}

/// Rows on their way into a batch.
#[derive(Default)]
pub(crate) struct SightingBuilder {
    type_ids: Int32Builder,
    texts: [StringBuilder; 4],
    gates: Int32Builder,
    counts: [Int64Builder; 2],
    times: [TimestampMicrosecondBuilder; 2],
}

impl SightingBuilder {
    pub fn push(&mut self, row: &SightingRow<'_>) {
        self.type_ids.append_value(row.type_id);
        let texts = [&row.value, &row.user, &row.device, &row.src_ip];
        self.texts.iter_mut().zip(texts).for_each(|(builder, text)| builder.append_value(text));
        self.gates.append_value(row.gates);
        self.counts.iter_mut().zip([row.count, row.blocked]).for_each(|(builder, count)| builder.append_value(count));
        self.times.iter_mut().zip([row.first, row.last]).for_each(|(builder, time)| builder.append_value(time));
    }

    pub fn rows(&self) -> usize {
        use arrow::array::ArrayBuilder;
        self.type_ids.len()
    }

    pub fn finish(&mut self) -> Result<RecordBatch> {
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(self.type_ids.finish())];
        arrays.extend(self.texts.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef));
        arrays.push(Arc::new(self.gates.finish()));
        arrays.extend(self.counts.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef));
        arrays.extend(self.times.iter_mut().map(|builder| Arc::new(builder.finish().with_timezone("UTC")) as ArrayRef));
        RecordBatch::try_new(arrow_schema(), arrays).map_err(Error::arrow("form a batch of sightings"))
    }
}

/// A batch of stored sightings.
pub(crate) struct SightingRows<'a> {
    pub type_ids: &'a Int32Array,
    pub texts: [&'a StringArray; 4],
    gates: &'a Int32Array,
    counts: [&'a Int64Array; 2],
    times: [&'a TimestampMicrosecondArray; 2],
}

impl<'a> SightingRows<'a> {
    pub fn new(batch: &'a RecordBatch) -> Result<SightingRows<'a>> {
        Ok(SightingRows {
            type_ids: typed(batch, "type_id")?,
            texts: [typed(batch, "value")?, typed(batch, "user_name")?, typed(batch, "device_name")?, typed(batch, "src_ip")?],
            gates: typed(batch, "gates")?,
            counts: [typed(batch, "count")?, typed(batch, "blocked")?],
            times: [typed(batch, "first_seen")?, typed(batch, "last_seen")?],
        })
    }

    pub fn row(&self, row: usize) -> SightingRow<'a> {
        let [value, user, device, src_ip] = self.texts.map(|texts| Cow::Borrowed(texts.value(row)));
        let [count, blocked] = self.counts.map(|counts| counts.value(row));
        let [first, last] = self.times.map(|times| times.value(row));
        let (type_id, gates) = (self.type_ids.value(row), self.gates.value(row));
        SightingRow { type_id, value, user, device, src_ip, gates, count, blocked, first, last }
    }
}
