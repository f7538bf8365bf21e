//! Cells of the engine as JSON: numbers, booleans and null as themselves, times in RFC 3339 and UTC, lists as arrays, and
//! everything else as the engine writes it.

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::Value as Json;

/// A column of a batch on its way out.
pub(crate) struct Cells<'a> {
    array: &'a dyn Array,
    text: ArrayFormatter<'a>,
}

/// Microseconds, as they are stored.
const TIME_FORMAT: &str = "%Y-%m-%dT%H:%M:%S%.6fZ";

const OPTIONS: FormatOptions<'static> =
    FormatOptions::new().with_timestamp_format(Some(TIME_FORMAT)).with_timestamp_tz_format(Some(TIME_FORMAT));

impl<'a> Cells<'a> {
    pub(crate) fn new(array: &'a dyn Array) -> Result<Cells<'a>, ArrowError> {
        Ok(Cells { array, text: ArrayFormatter::try_new(array, &OPTIONS)? })
    }

    pub(crate) fn cell(&self, row: usize) -> Result<Json, ArrowError> {
        let array = self.array;
        if array.is_null(row) || *array.data_type() == DataType::Null {
            return Ok(Json::Null);
        }
        Ok(match array.data_type() {
            DataType::Boolean => array.as_boolean().value(row).into(),
            DataType::Int8 => array.as_primitive::<Int8Type>().value(row).into(),
            DataType::Int16 => array.as_primitive::<Int16Type>().value(row).into(),
            DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
            DataType::Int64 => array.as_primitive::<Int64Type>().value(row).into(),
            DataType::UInt8 => array.as_primitive::<UInt8Type>().value(row).into(),
            DataType::UInt16 => array.as_primitive::<UInt16Type>().value(row).into(),
            DataType::UInt32 => array.as_primitive::<UInt32Type>().value(row).into(),
            DataType::UInt64 => array.as_primitive::<UInt64Type>().value(row).into(),
            DataType::Float32 => float(f64::from(array.as_primitive::<Float32Type>().value(row))),
            DataType::Float64 => float(array.as_primitive::<Float64Type>().value(row)),
            DataType::List(_) => list(array.as_list::<i32>().value(row).as_ref())?,
            DataType::LargeList(_) => list(array.as_list::<i64>().value(row).as_ref())?,
            _ => Json::String(self.text.value(row).try_to_string()?),
        })
    }
}

/// JSON has no word for what is no number.
fn float(value: f64) -> Json {
    serde_json::Number::from_f64(value).map_or_else(|| Json::String(value.to_string()), Json::Number)
}

fn list(elements: &dyn Array) -> Result<Json, ArrowError> {
    let cells = Cells::new(elements)?;
    (0..elements.len()).map(|row| cells.cell(row)).collect::<Result<Vec<_>, _>>().map(Json::Array)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, Float64Array, Int64Array, ListArray, StringArray, TimestampMicrosecondArray};
    use serde_json::json;

    use super::*;

    #[test]
    fn cells_keep_their_kind() {
        let time = TimestampMicrosecondArray::from(vec![1_795_478_400_123_456]).with_timezone("UTC");
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some([Some(1), None])]);
        for (array, expected) in [
            (Arc::new(Int64Array::from(vec![i64::MAX])) as ArrayRef, json!(i64::MAX)),
            (Arc::new(Int64Array::from(vec![None])), json!(null)),
            (Arc::new(Float64Array::from(vec![0.5])), json!(0.5)),
            (Arc::new(Float64Array::from(vec![f64::NAN])), json!("NaN")),
            (Arc::new(StringArray::from(vec!["a\"b"])), json!("a\"b")),
            (Arc::new(time), json!("2026-11-24T00:00:00.123456Z")),
            (Arc::new(list), json!([1, null])),
        ] {
            assert_eq!(Cells::new(&array).unwrap().cell(0).unwrap(), expected);
        }
    }
}
