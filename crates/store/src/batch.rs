//! Events as columns and back. A batch in the log or in memory holds only the columns that some event fills; a sealed
//! file holds them all. Which field a shared column stands for follows from the gate of each event.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Int32Array, Int64Array, Int64Builder, ListArray, ListBuilder, StringArray, StringBuilder,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{Field as ArrowField, Schema};
use arrow::record_batch::RecordBatch;
use model::{Class, Event, EventId, Facts, FieldId, Gate, Station, Timestamp, Type, Value};

use crate::config::Redaction;
use crate::schema::{self, Column};
use crate::{Error, Result};

/// Events as a batch of the columns that they fill, with consecutive ids from `first`.
pub(crate) fn encode(events: &[Event], first: i64, redaction: &Redaction) -> Result<RecordBatch> {
    let rows = events.len();
    let times = TimestampMicrosecondArray::from_iter_values(events.iter().map(|event| event.time.0)).with_timezone("UTC");
    let ids = Int64Array::from_iter_values((first..).take(rows));
    let classes = Int32Array::from_iter_values(events.iter().map(|event| class_uid(event.class)));
    let mut fields = schema::arrow_schema().fields().iter().take(3).cloned().collect::<Vec<_>>();
    let mut arrays: Vec<ArrayRef> = vec![Arc::new(times), Arc::new(ids), Arc::new(classes)];
    for (column, cells) in schema::columns().iter().zip(cells(events)) {
        if redaction.columns.iter().any(|name| name == column.name) {
            continue;
        }
        let array = if !cells.is_empty() {
            build(column.ty, &cells, rows, cuts_query(column, redaction))
        } else if column.fields.contains(&FieldId::GateName) {
            Arc::new(StringArray::from_iter_values(events.iter().map(|event| event.facts.gate().as_str())))
        } else {
            continue;
        };
        fields.push(Arc::new(ArrowField::new(column.name, schema::data_type(column.ty), true)));
        arrays.push(array);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(Error::arrow("form a batch of events"))
}

/// A batch with consecutive ids from `first` in the place of its own.
pub(crate) fn with_ids(batch: &RecordBatch, first: i64) -> Result<RecordBatch> {
    let mut columns = batch.columns().to_vec();
    let place = batch.schema_ref().index_of(schema::EVENT_ID).map_err(Error::arrow("number the events of the spool"))?;
    if let Some(ids) = columns.get_mut(place) {
        *ids = Arc::new(Int64Array::from_iter_values((first..).take(batch.num_rows())));
    }
    RecordBatch::try_new(batch.schema(), columns).map_err(Error::arrow("number the events of the spool"))
}

fn class_uid(class: Class) -> i32 {
    i32::try_from(class.uid()).unwrap_or_default()
}

/// A cell that is filled: its row and value.
type Cell<'e> = (usize, &'e Value);

/// The filled cells of each column. Events are gone through once, each while it is in the processor's cache.
fn cells(events: &[Event]) -> Vec<Vec<Cell<'_>>> {
    let mut cells: Vec<Vec<Cell<'_>>> = vec![Vec::new(); schema::columns().len()];
    for (row, event) in events.iter().enumerate() {
        for (field, value) in event.facts.iter() {
            let Some((place, column)) = schema::column_of(field) else { continue };
            let Some(filled) = cells.get_mut(place) else { continue };
            match filled.last_mut() {
                // Two fields of the event share the column: the one that its gate knows is kept.
                Some(last) if last.0 == row => {
                    if column.field(event.facts.gate()) == Some(field) {
                        last.1 = value;
                    }
                }
                _ => filled.push((row, value)),
            }
        }
    }
    cells
}

fn cuts_query(column: &Column, redaction: &Redaction) -> bool {
    redaction.url_query && matches!(column.name, "url" | "referrer" | "redirect_target")
}

/// The longest text of one cell. Gates bound what they read to less; this bound keeps columns within their offsets even so.
const TEXT_BYTES_MAX: usize = 64 << 10;

fn bounded(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or(text)
}

/// A URL without its query and fragment.
pub(crate) fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

fn build(ty: Type, cells: &[Cell<'_>], rows: usize, cut_query: bool) -> ArrayRef {
    match ty {
        Type::Bool => {
            let flags = spread(cells, rows, |value| if let Value::Bool(flag) = value { Some(*flag) } else { None });
            Arc::new(BooleanArray::from(flags))
        }
        Type::Int => Arc::new(Int64Array::from(spread(cells, rows, Value::as_int))),
        Type::Time => Arc::new(TimestampMicrosecondArray::from(spread(cells, rows, Value::as_int)).with_timezone("UTC")),
        Type::Ip | Type::Text | Type::TextMap => Arc::new(texts(cells, rows, cut_query)),
        Type::Ints => Arc::new(int_lists(cells, rows)),
        Type::Ips | Type::Texts => Arc::new(text_lists(cells, rows)),
    }
}

/// One value a row, none where no cell is filled.
fn spread<T: Copy>(cells: &[Cell<'_>], rows: usize, value_of: impl Fn(&Value) -> Option<T>) -> Vec<Option<T>> {
    let mut values = vec![None; rows];
    for (row, value) in cells {
        if let Some(slot) = values.get_mut(*row) {
            *slot = value_of(value);
        }
    }
    values
}

fn texts(cells: &[Cell<'_>], rows: usize, cut_query: bool) -> StringArray {
    let mut builder = StringBuilder::with_capacity(rows, cells.len() * 16);
    let (mut next, mut written) = (0, String::new());
    for (row, value) in cells {
        builder.append_nulls(row - next);
        next = row + 1;
        match value {
            Value::Text(text) if cut_query => builder.append_value(bounded(without_query(text))),
            Value::Text(text) => builder.append_value(bounded(text)),
            other => {
                written.clear();
                write_value(&mut written, other);
                builder.append_value(&written);
            }
        }
    }
    builder.append_nulls(rows - next);
    builder.finish()
}

/// A value in writing. IPv4 addresses are in every event, so they do not go through the formatter.
fn write_value(out: &mut String, value: &Value) {
    use std::fmt::Write;
    if let Value::Ip(IpAddr::V4(address)) = value {
        for (place, octet) in address.octets().into_iter().enumerate() {
            if place > 0 {
                out.push('.');
            }
            let digits = [octet / 100, octet / 10 % 10, octet % 10];
            let first = digits.iter().position(|digit| *digit > 0).unwrap_or(2);
            out.extend(digits.iter().skip(first).map(|digit| char::from(b'0' + digit)));
        }
    } else {
        // A string takes any text, so this write cannot fail.
        let _ = write!(out, "{value}");
    }
}

fn int_lists(cells: &[Cell<'_>], rows: usize) -> ListArray {
    let mut builder = ListBuilder::new(Int64Builder::new()).with_field(schema::list_of(arrow::datatypes::DataType::Int64));
    let mut next = 0;
    for (row, value) in cells {
        (next..*row).for_each(|_| builder.append(false));
        next = row + 1;
        if let Value::Ints(ints) = value {
            builder.values().append_slice(ints);
        }
        builder.append(matches!(value, Value::Ints(_)));
    }
    (next..rows).for_each(|_| builder.append(false));
    builder.finish()
}

fn text_lists(cells: &[Cell<'_>], rows: usize) -> ListArray {
    let mut builder = ListBuilder::new(StringBuilder::new()).with_field(schema::list_of(arrow::datatypes::DataType::Utf8));
    let (mut next, mut written) = (0, String::new());
    for (row, value) in cells {
        (next..*row).for_each(|_| builder.append(false));
        next = row + 1;
        match value {
            Value::Texts(texts) => texts.iter().for_each(|text| builder.values().append_value(bounded(text))),
            Value::Ips(ips) => ips.iter().for_each(|ip| {
                written.clear();
                write_value(&mut written, &Value::Ip(*ip));
                builder.values().append_value(&written);
            }),
            Value::Parents(name) => model::name::parents(name).for_each(|name| builder.values().append_value(name)),
            _ => {}
        }
        builder.append(matches!(value, Value::Texts(_) | Value::Ips(_) | Value::Parents(_)));
    }
    (next..rows).for_each(|_| builder.append(false));
    builder.finish()
}

/// The cells of one column, in the type that the schema gives it.
pub(crate) enum Cells<'a> {
    Bool(&'a BooleanArray),
    Int(&'a Int64Array),
    Time(&'a TimestampMicrosecondArray),
    Ip(&'a StringArray),
    Text(&'a StringArray),
    Ints(&'a ListArray),
    Ips(&'a ListArray),
    Texts(&'a ListArray),
}

impl<'a> Cells<'a> {
    fn of(ty: Type, array: &'a ArrayRef) -> Option<Cells<'a>> {
        let any = array.as_any();
        Some(match ty {
            Type::Bool => Cells::Bool(any.downcast_ref()?),
            Type::Int => Cells::Int(any.downcast_ref()?),
            Type::Time => Cells::Time(any.downcast_ref()?),
            Type::Ip => Cells::Ip(any.downcast_ref()?),
            Type::Text | Type::TextMap => Cells::Text(any.downcast_ref()?),
            Type::Ints => Cells::Ints(any.downcast_ref()?),
            Type::Ips => Cells::Ips(any.downcast_ref()?),
            Type::Texts => Cells::Texts(any.downcast_ref()?),
        })
    }

    fn value(&self, row: usize, texts: &mut Texts) -> Option<Value> {
        match self {
            Cells::Bool(array) => array.is_valid(row).then(|| Value::Bool(array.value(row))),
            Cells::Int(array) => array.is_valid(row).then(|| Value::Int(array.value(row))),
            Cells::Time(array) => array.is_valid(row).then(|| Value::Int(array.value(row))),
            Cells::Ip(array) => array.is_valid(row).then(|| array.value(row).parse().ok().map(Value::Ip)).flatten(),
            Cells::Text(array) => array.is_valid(row).then(|| Value::Text(texts.shared(array.value(row)).into())),
            Cells::Ints(array) => {
                let inner = array.is_valid(row).then(|| array.value(row))?;
                let ints = inner.as_any().downcast_ref::<Int64Array>()?;
                Some(Value::ints(ints.iter().flatten()))
            }
            Cells::Ips(array) => {
                let inner = array.is_valid(row).then(|| array.value(row))?;
                let ips = inner.as_any().downcast_ref::<StringArray>()?;
                Some(Value::ips(ips.iter().flatten().filter_map(|ip| ip.parse().ok())))
            }
            Cells::Texts(array) => {
                let inner = array.is_valid(row).then(|| array.value(row))?;
                let list = inner.as_any().downcast_ref::<StringArray>()?;
                Some(Value::texts(list.iter().flatten()))
            }
        }
    }

    pub(crate) fn text(&self, row: usize) -> Option<&'a str> {
        match self {
            Cells::Text(array) | Cells::Ip(array) => array.is_valid(row).then(|| array.value(row)),
            _ => None,
        }
    }
}

/// Short texts that repeat from row to row, allocated once.
#[derive(Default)]
struct Texts(HashMap<Box<str>, Arc<str>>);

/// Texts remembered for sharing; names of rules, users and words such as `allowed` are far fewer.
const SHARED_TEXTS_MAX: usize = 4_096;

impl Texts {
    fn shared(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let text: Arc<str> = Arc::from(text);
        if self.0.len() < SHARED_TEXTS_MAX {
            self.0.insert(Box::from(&*text), Arc::clone(&text));
        }
        text
    }
}

/// A batch read row by row. Columns that this version does not know are passed over.
pub(crate) struct Rows<'a> {
    pub times: &'a TimestampMicrosecondArray,
    pub ids: &'a Int64Array,
    pub classes: &'a Int32Array,
    columns: Vec<(&'static Column, Cells<'a>)>,
    gate: Option<usize>,
    texts: Texts,
}

impl<'a> Rows<'a> {
    pub fn new(batch: &'a RecordBatch) -> Result<Rows<'a>> {
        let mut columns = Vec::new();
        for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            if let Some((_, column)) = schema::column(field.name()) {
                columns.push((column, Cells::of(column.ty, array).ok_or(Error::Column(column.name))?));
            }
        }
        let gate = columns.iter().position(|(column, _)| column.fields.contains(&FieldId::GateName));
        Ok(Rows {
            times: typed(batch, schema::TIME)?,
            ids: typed(batch, schema::EVENT_ID)?,
            classes: typed(batch, schema::CLASS_UID)?,
            columns,
            gate,
            texts: Texts::default(),
        })
    }

    pub fn cells(&self, name: &str) -> Option<&Cells<'a>> {
        self.columns.iter().find(|(column, _)| column.name == name).map(|(_, cells)| cells)
    }

    pub fn class(&self, row: usize) -> Class {
        // Only classes of the model are written; another number comes from a later version.
        Class::from_uid(i64::from(self.classes.value(row))).unwrap_or(Class::ApiActivity)
    }

    pub fn gate(&self, row: usize) -> Gate {
        let written = self.gate.and_then(|place| self.columns.get(place)).and_then(|(_, cells)| cells.text(row));
        let named = written.and_then(|name| Gate::ALL.iter().copied().find(|gate| gate.as_str() == name));
        named.unwrap_or_else(|| gate_of(self.class(row)))
    }

    pub fn event(&mut self, row: usize) -> Event {
        let (gate, time) = (self.gate(row), self.times.value(row));
        let mut facts = Facts::new(gate);
        for (column, cells) in &self.columns {
            if let (Some(value), Some(field)) = (cells.value(row, &mut self.texts), column.field(gate)) {
                facts.set(field, value);
            }
        }
        facts.set(FieldId::Time, Value::Int(time));
        derive(&mut facts);
        facts.reach(Station::Record);
        Event { id: EventId(self.ids.value(row)), time: Timestamp(time), class: self.class(row), facts }
    }
}

fn gate_of(class: Class) -> Gate {
    match class {
        Class::DnsActivity => Gate::Dns,
        Class::HttpActivity => Gate::Web,
        Class::NetworkActivity => Gate::L4,
        Class::EmailActivity => Gate::Mail,
        Class::DetectionFinding | Class::ApiActivity => Gate::Api,
    }
}

/// Facts that have no column because another fact holds them.
fn derive(facts: &mut Facts) {
    let parents = [
        (FieldId::DnsFqdn, FieldId::DnsDomains),
        (FieldId::HttpHost, FieldId::HttpDomains),
        (FieldId::SniHost, FieldId::SniDomains),
    ];
    for (host, domains) in parents {
        if let Some(Value::Text(name)) = facts.get(host) {
            let name = name.clone();
            facts.set(domains, Value::Parents(name));
        }
    }
    if let Some(Value::Text(verdict)) = facts.get(FieldId::ScanVerdict) {
        let malicious = &**verdict == "malicious";
        facts.set(FieldId::IsMalicious, Value::Bool(malicious));
    }
    if let Some(Value::Text(url)) = facts.get(FieldId::HttpUrl) {
        let url = url.clone();
        derive_from_url(facts, &url);
    }
}

fn derive_from_url(facts: &mut Facts, url: &str) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path_and_query = rest.find('/').and_then(|slash| rest.get(slash..)).unwrap_or("/");
    let path_and_query = path_and_query.split('#').next().unwrap_or_default();
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    facts.set(FieldId::HttpPath, Value::text(path));
    facts.set(FieldId::HttpPathAndQuery, Value::text(path_and_query));
    facts.set(FieldId::HttpQuery, Value::text(query));
}

/// A fixed column in its type.
pub(crate) fn typed<'a, A: 'static>(batch: &'a RecordBatch, name: &'static str) -> Result<&'a A> {
    batch.column_by_name(name).and_then(|array| array.as_any().downcast_ref()).ok_or(Error::Column(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(gate: Gate, facts: &[(FieldId, Value)]) -> Event {
        let mut all = Facts::new(gate);
        for (field, value) in facts {
            assert!(all.set(*field, value.clone()));
        }
        Event { id: EventId(0), time: Timestamp(1_700_000_000_000_000), class: Class::of(gate), facts: all }
    }

    #[test]
    fn a_shared_column_comes_back_as_the_field_of_its_gate() {
        let host = |name: &str| Value::text(name);
        let events = [
            event(Gate::Dns, &[(FieldId::DnsFqdn, host("a.example"))]),
            event(Gate::Web, &[(FieldId::HttpHost, host("b.example")), (FieldId::HttpUrl, host("https://b.example/x?y=1#z"))]),
        ];
        let batch = encode(&events, 7, &Redaction::default()).unwrap();
        let mut rows = Rows::new(&batch).unwrap();
        let (dns, web) = (rows.event(0), rows.event(1));
        assert_eq!(dns.facts.get(FieldId::DnsFqdn), Some(&host("a.example")));
        assert_eq!(dns.facts.get(FieldId::HttpHost), None);
        assert_eq!(dns.facts.get(FieldId::DnsDomains), Some(&Value::Parents("a.example".into())));
        assert_eq!(web.facts.get(FieldId::HttpHost), Some(&host("b.example")));
        assert_eq!(web.facts.get(FieldId::HttpPath), Some(&host("/x")));
        assert_eq!(web.facts.get(FieldId::HttpQuery), Some(&host("y=1")));
        assert_eq!((dns.id, web.id), (EventId(7), EventId(8)));
    }

    #[test]
    fn a_value_of_every_type_comes_back_as_it_was() {
        let mut facts = Vec::new();
        for column in schema::columns() {
            let Some(field) = column.fields.iter().copied().find(|field| field.row().station(Gate::Web).is_some()) else {
                continue;
            };
            let value = match column.ty {
                Type::Bool => Value::Bool(true),
                Type::Int | Type::Time => Value::Int(-5),
                Type::Ip => Value::Ip("2001:db8::1".parse().unwrap()),
                Type::Text if field == FieldId::GateName => Value::text("web"),
                Type::Text => Value::text("ein Wort"),
                Type::Ints => Value::ints([1, -2]),
                Type::Ips => Value::ips(["192.0.2.1".parse().unwrap()]),
                Type::Texts => Value::texts(["a", "", "c"]),
                Type::TextMap => continue,
            };
            facts.push((field, value));
        }
        let batch = encode(&[event(Gate::Web, &facts)], 1, &Redaction::default()).unwrap();
        let back = Rows::new(&batch).unwrap().event(0);
        for (field, value) in facts {
            assert_eq!(back.facts.get(field), Some(&value), "{}", field.row().name);
        }
    }

    #[test]
    fn addresses_are_written_as_everywhere_else() {
        for text in ["0.0.0.0", "10.0.200.7", "192.168.100.255", "1.20.99.100", "2001:db8::1", "::ffff:192.0.2.1"] {
            let mut written = String::new();
            write_value(&mut written, &Value::Ip(text.parse().unwrap()));
            assert_eq!(written, text);
        }
    }

    #[test]
    fn of_two_fields_in_one_column_the_one_of_the_gate_is_kept() {
        let (dns, web) = (Value::text("dns.example"), Value::text("web.example"));
        let both = [(FieldId::DnsFqdn, dns.clone()), (FieldId::HttpHost, web.clone())];
        for (gate, field, kept) in [(Gate::Dns, FieldId::DnsFqdn, dns), (Gate::Web, FieldId::HttpHost, web)] {
            let batch = encode(&[event(gate, &both)], 1, &Redaction::default()).unwrap();
            assert_eq!(Rows::new(&batch).unwrap().event(0).facts.get(field), Some(&kept));
        }
    }

    #[test]
    fn a_text_beyond_the_bound_is_cut_between_characters() {
        let long = "ä".repeat(TEXT_BYTES_MAX);
        let batch = encode(&[event(Gate::Web, &[(FieldId::Extra, Value::text(long))])], 1, &Redaction::default()).unwrap();
        let back = Rows::new(&batch).unwrap().event(0);
        assert_eq!(back.facts.get(FieldId::Extra), Some(&Value::text("ä".repeat(TEXT_BYTES_MAX / 2))));
    }

    #[test]
    fn redaction_cuts_queries_and_drops_columns() {
        let facts = [(FieldId::HttpUrl, Value::text("https://a/b?token=1")), (FieldId::HttpUserAgent, Value::text("curl"))];
        let redaction = Redaction { url_query: true, columns: vec!["user_agent".into()] };
        let batch = encode(&[event(Gate::Web, &facts)], 1, &redaction).unwrap();
        let back = Rows::new(&batch).unwrap().event(0);
        assert_eq!(back.facts.get(FieldId::HttpUrl), Some(&Value::text("https://a/b")));
        assert_eq!(back.facts.get(FieldId::HttpUserAgent), None);
    }
}
