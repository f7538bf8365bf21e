//! The columns of an event, taken from the field table, in their Arrow and Parquet types. Types are those on which
//! Spark, Trino, ClickHouse and DuckDB agree: no unsigned integers, no nanoseconds, no nesting beyond lists.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef, TimeUnit};
use model::{FieldId, Gate, Type};
use serde_json::json;

/// Version of the stored schema: raised when a column changes or goes, not when one is added.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// Version of OCSF whose class numbers and attribute names the columns flatten.
pub(crate) const OCSF_VERSION: &str = "1.3.0";

pub(crate) const TIME: &str = "time";
pub(crate) const EVENT_ID: &str = "event_id";
pub(crate) const CLASS_UID: &str = "class_uid";

/// Columns with a bloom filter in each row group: what indicators are compared with.
pub(crate) const BLOOM_COLUMNS: &[&str] = &["host", "dst_ip", "src_ip", "url", "file_sha256"];

/// One stored column and the fields that share it.
pub(crate) struct Column {
    pub name: &'static str,
    pub ty: Type,
    pub fields: Vec<FieldId>,
}

static COLUMNS: LazyLock<Vec<Column>> = LazyLock::new(|| {
    let mut columns: Vec<Column> = Vec::new();
    // A map has no flat column type; such a fact is stored only inside the extra JSON.
    for field in FieldId::all().filter(|field| !field.row().column.is_empty() && field.row().ty != Type::TextMap) {
        match columns.iter_mut().find(|column| column.name == field.row().column) {
            Some(column) => column.fields.push(field),
            None => columns.push(Column { name: field.row().column, ty: field.row().ty, fields: vec![field] }),
        }
    }
    columns
});

static PLACES: LazyLock<HashMap<&'static str, usize>> =
    LazyLock::new(|| COLUMNS.iter().enumerate().map(|(place, column)| (column.name, place)).collect());

/// By field, the place of its column.
static FIELD_PLACES: LazyLock<Vec<Option<usize>>> = LazyLock::new(|| {
    let place = |field: FieldId| COLUMNS.iter().position(|column| column.fields.contains(&field));
    FieldId::all().map(place).collect()
});

static ARROW: LazyLock<SchemaRef> = LazyLock::new(|| {
    let fixed = [
        ArrowField::new(TIME, time_type(), false),
        ArrowField::new(EVENT_ID, DataType::Int64, false),
        ArrowField::new(CLASS_UID, DataType::Int32, false),
    ];
    let flexible = COLUMNS.iter().map(|column| ArrowField::new(column.name, data_type(column.ty), true));
    Arc::new(Schema::new(fixed.into_iter().chain(flexible).collect::<Vec<_>>()))
});

pub(crate) fn columns() -> &'static [Column] {
    &COLUMNS
}

/// The column of a name and its place among [`columns`].
pub(crate) fn column(name: &str) -> Option<(usize, &'static Column)> {
    let place = *PLACES.get(name)?;
    COLUMNS.get(place).map(|column| (place, column))
}

/// The column that a field is stored in, and its place among [`columns`].
pub(crate) fn column_of(field: FieldId) -> Option<(usize, &'static Column)> {
    let place = FIELD_PLACES.get(field.index()).copied().flatten()?;
    COLUMNS.get(place).map(|column| (place, column))
}

/// The schema of every file of events.
pub(crate) fn arrow_schema() -> SchemaRef {
    Arc::clone(&ARROW)
}

impl Column {
    /// The field that this column holds at a gate.
    pub fn field(&self, gate: Gate) -> Option<FieldId> {
        let here = self.fields.iter().find(|field| field.row().station(gate).is_some());
        here.or(self.fields.first()).copied()
    }
}

pub(crate) fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The name that Parquet gives to the inside of a list.
pub(crate) fn list_of(inner: DataType) -> Arc<ArrowField> {
    Arc::new(ArrowField::new("element", inner, true))
}

pub(crate) fn data_type(ty: Type) -> DataType {
    match ty {
        Type::Bool => DataType::Boolean,
        Type::Int => DataType::Int64,
        Type::Ip | Type::Text | Type::TextMap => DataType::Utf8,
        Type::Time => time_type(),
        Type::Ints => DataType::List(list_of(DataType::Int64)),
        Type::Ips | Type::Texts => DataType::List(list_of(DataType::Utf8)),
    }
}

/// The names of types in the schema file, which are Spark's.
fn type_name(ty: Type) -> &'static str {
    match ty {
        Type::Bool => "boolean",
        Type::Int => "bigint",
        Type::Ip | Type::Text | Type::TextMap => "string",
        Type::Time => "timestamp(us, UTC)",
        Type::Ints => "array<bigint>",
        Type::Ips | Type::Texts => "array<string>",
    }
}

/// The schema of events as a document for people and other engines, generated from the field table.
pub fn schema_json() -> String {
    let fixed = [
        json!({"column": TIME, "type": type_name(Type::Time), "ocsf": "time", "fields": ["event.time"]}),
        json!({"column": EVENT_ID, "type": type_name(Type::Int), "ocsf": "metadata.uid", "fields": []}),
        json!({"column": CLASS_UID, "type": "int", "ocsf": "class_uid", "fields": []}),
    ];
    let columns = fixed.into_iter().chain(COLUMNS.iter().map(describe)).collect::<Vec<_>>();
    let document = json!({
        "schema": format!("events.v{SCHEMA_VERSION}"),
        "ocsf_version": OCSF_VERSION,
        "path": "events/class=<class_uid>/dt=<day>/*.parquet",
        "columns": columns,
    });
    // A document of strings and arrays always has a text form.
    serde_json::to_string_pretty(&document).map(|text| text + "\n").unwrap_or_default()
}

fn describe(column: &Column) -> serde_json::Value {
    let mut ocsf = column.fields.iter().map(|field| field.row().ocsf).collect::<Vec<_>>();
    ocsf.dedup();
    let observable = column.fields.iter().find_map(|field| field.row().observable).map(|kind| kind.type_id());
    let mut described = json!({
        "column": column.name,
        "type": type_name(column.ty),
        "ocsf": ocsf.join(", "),
        "fields": column.fields.iter().map(|field| field.row().name).collect::<Vec<_>>(),
        "bloom": BLOOM_COLUMNS.contains(&column.name),
        "doc": column.fields.first().map(|field| field.row().doc).unwrap_or_default(),
    });
    if let (Some(map), Some(type_id)) = (described.as_object_mut(), observable) {
        map.insert("observable_type_id".into(), json!(type_id));
    }
    described
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_gate_never_has_two_fields_in_one_column() {
        for column in columns() {
            for gate in Gate::ALL {
                let here = column.fields.iter().filter(|field| field.row().station(*gate).is_some());
                assert!(here.count() <= 1, "{} at {gate:?}", column.name);
            }
        }
    }

    #[test]
    fn no_column_is_named_like_a_fixed_one_or_a_partition() {
        for name in [TIME, EVENT_ID, CLASS_UID, "dt", "class"] {
            assert!(column(name).is_none(), "{name}");
        }
    }

    #[test]
    fn bloom_columns_exist() {
        assert!(BLOOM_COLUMNS.iter().all(|name| column(name).is_some()));
    }
}
