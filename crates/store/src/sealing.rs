//! The events of a segment as they are sealed: whole ones and those that follow patterns in one order, by columns, a slice at
//! a time. What many events share is held once, and a column that no event fills is never built whole.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Int32Array, Int64Array, StringArray, StringBuilder, TimestampMicrosecondArray, UInt32Array, new_null_array,
};
use arrow::compute::{concat, take};
use arrow::record_batch::RecordBatch;
use model::{Timestamp, TransactionId};

use crate::day::Day;
use crate::repeats::{self, Clients, REFERENCE, Row, SRC_IP, SRC_PORT};
use crate::tail::{TailContents, TailSegment};
use crate::{Error, Result, order, schema};

/// Every event has a place: first those that are held whole, then the rows of those that follow patterns.
pub(crate) struct Events {
    /// Whole events and after them the patterns, in the columns of the schema; none where nothing fills it.
    sources: Vec<Option<ArrayRef>>,
    source_rows: usize,
    whole: u32,
    times: TimestampMicrosecondArray,
    ids: Int64Array,
    classes: Int32Array,
    hosts: Option<StringArray>,
    /// Rows with the ids of their events, in their order.
    rows: Vec<(Row, i64)>,
    clients: Clients,
}

/// Columns of nulls, each made once for slices of one length.
#[derive(Default)]
pub(crate) struct Nulls(HashMap<(usize, usize), ArrayRef>);

impl Events {
    pub fn of(segment: &TailSegment, contents: &TailContents) -> Result<Events> {
        let folded = contents.batches.iter().filter_map(|tail| tail.rows()).collect::<Vec<_>>();
        let held = contents.batches.iter().filter(|tail| tail.rows().is_none()).map(|tail| tail.batch());
        let mut batches = held.collect::<Result<Vec<_>>>()?;
        let whole = batches.iter().map(|batch| batch.num_rows()).sum::<usize>() as u32;
        let mut book = segment.book();
        if !folded.is_empty() {
            batches.push(Arc::new(book.patterns()?));
        }
        let batches = batches.iter().map(AsRef::as_ref).collect::<Vec<&RecordBatch>>();
        let sources =
            schema::arrow_schema().fields().iter().map(|field| join(&batches, field.name())).collect::<Result<Vec<_>>>()?;
        let rows = folded.iter().flat_map(|folded| folded.rows.iter().copied().zip(folded.first_id..)).collect();
        Ok(Events {
            source_rows: batches.iter().map(|batch| batch.num_rows()).sum(),
            times: fixed(&sources, schema::TIME)?,
            ids: fixed(&sources, schema::EVENT_ID)?,
            classes: fixed(&sources, schema::CLASS_UID)?,
            hosts: fixed(&sources, "host").ok(),
            sources,
            whole,
            rows,
            clients: book.clients(),
        })
    }

    /// A row and the id of its event; none where the event is held whole.
    fn row(&self, place: u32) -> Option<&(Row, i64)> {
        self.rows.get(place.checked_sub(self.whole)? as usize)
    }

    /// Where what an event shares with others stands among the sources.
    fn source(&self, place: u32) -> u32 {
        self.row(place).map_or(place, |(row, _)| self.whole + row.pattern)
    }

    pub fn time(&self, place: u32) -> i64 {
        self.row(place).map_or_else(|| self.times.value(place as usize), |(row, _)| row.time)
    }

    pub fn id(&self, place: u32) -> i64 {
        self.row(place).map_or_else(|| self.ids.value(place as usize), |(_, id)| *id)
    }

    /// The places of the events of each class and day.
    pub fn groups(&self) -> Result<BTreeMap<(i64, Day), Vec<u32>>> {
        let end = self.whole + self.rows.len() as u32;
        let mut groups: BTreeMap<(i64, Day), Vec<u32>> = BTreeMap::new();
        for place in 0..end {
            let class = self.classes.value(self.source(place) as usize);
            groups.entry((i64::from(class), Day::of(Timestamp(self.time(place))))).or_default().push(place);
        }
        Ok(groups)
    }

    /// The order within a file: 14 % smaller and up to six times faster to look up than the order of time alone. Hosts are
    /// few against events, so they are put in order by themselves and events then counted into their places.
    pub fn sort_by_host_and_time(&self, places: &mut [u32]) {
        let (ranks, distinct) = self.host_ranks();
        let rank = |place: u32| ranks.get(self.source(place) as usize).copied().unwrap_or_default() as usize;
        let mut ends = vec![0_usize; distinct + 1];
        let ranked = places.iter().map(|place| rank(*place)).collect::<Vec<_>>();
        ranked.iter().for_each(|rank| ends[rank + 1] += 1);
        for rank in 1..ends.len() {
            ends[rank] += ends[rank - 1];
        }
        let starts = ends.clone();
        let mut sorted = vec![(0_i64, 0_u32); places.len()];
        for (place, rank) in places.iter().zip(ranked) {
            sorted[ends[rank]] = (self.time(*place), *place);
            ends[rank] += 1;
        }
        for border in starts.windows(2) {
            // Events come nearly in the order of time, which this sort makes use of.
            sorted[border[0]..border[1]].sort();
        }
        places.iter_mut().zip(sorted).for_each(|(place, (_, sorted))| *place = sorted);
    }

    /// By source, the rank of its host among all distinct ones, and how many there are. No host comes first.
    fn host_ranks(&self) -> (Vec<u32>, usize) {
        let Some(hosts) = &self.hosts else { return (Vec::new(), 1) };
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        let mut distinct = Vec::new();
        let mut of_source = Vec::with_capacity(self.source_rows);
        for source in 0..self.source_rows {
            let host = if hosts.is_valid(source) { hosts.value(source) } else { "" };
            of_source.push(*numbers.entry(host).or_insert_with(|| {
                distinct.push((order::head(host), host));
                distinct.len() as u32 - 1
            }));
        }
        let mut sorted = (0..distinct.len() as u32).collect::<Vec<_>>();
        sorted.sort_unstable_by_key(|number| distinct.get(*number as usize));
        let mut ranks = vec![0; distinct.len()];
        for (rank, number) in sorted.into_iter().enumerate() {
            ranks[number as usize] = rank as u32;
        }
        of_source.iter_mut().for_each(|number| *number = ranks[*number as usize]);
        (of_source, distinct.len().max(1))
    }

    /// The events at some places, with every column of the schema.
    pub fn columns(&self, places: &[u32], nulls: &mut Nulls) -> Result<RecordBatch> {
        let schema = schema::arrow_schema();
        let rows = places.iter().map(|place| self.row(*place)).collect::<Vec<_>>();
        let sources = UInt32Array::from_iter_values(
            places.iter().zip(&rows).map(|(place, row)| row.map_or(*place, |(row, _)| self.whole + row.pattern)),
        );
        let has_rows = rows.iter().any(Option::is_some);
        let mut columns = Vec::with_capacity(schema.fields().len());
        for (at, (field, source)) in schema.fields().iter().zip(&self.sources).enumerate() {
            let column: ArrayRef = match (field.name().as_str(), source) {
                (schema::TIME, _) => Arc::new(repeats::times(places.iter().zip(&rows).map(|(place, row)| match row {
                    Some((row, _)) => row.time,
                    None => self.times.value(*place as usize),
                }))),
                (schema::EVENT_ID, _) => Arc::new(Int64Array::from_iter_values(
                    places
                        .iter()
                        .zip(&rows)
                        .map(|(place, row)| row.map_or_else(|| self.ids.value(*place as usize), |(_, id)| *id)),
                )),
                (SRC_IP | REFERENCE, source) if has_rows => {
                    let whole = source.as_ref().and_then(|source| source.as_any().downcast_ref::<StringArray>());
                    Arc::new(self.texts(places, &rows, whole, field.name() == REFERENCE))
                }
                (SRC_PORT, source) if has_rows => {
                    let whole = source.as_ref().and_then(|source| source.as_any().downcast_ref::<Int64Array>());
                    let port = |(place, row): (&u32, &Option<&(Row, i64)>)| match row {
                        Some((row, _)) => row.port(),
                        None => whole.filter(|ports| ports.is_valid(*place as usize)).map(|ports| ports.value(*place as usize)),
                    };
                    Arc::new(places.iter().zip(&rows).map(port).collect::<Int64Array>())
                }
                (_, Some(source)) => take(source, &sources, None).map_err(Error::arrow("sort the rows of a segment"))?,
                (_, None) => nulls.get(at, field.data_type(), places.len()),
            };
            columns.push(column);
        }
        RecordBatch::try_new(schema, columns).map_err(Error::arrow("sort the rows of a segment"))
    }

    /// References or addresses of clients.
    fn texts(
        &self,
        places: &[u32],
        rows: &[Option<&(Row, i64)>],
        whole: Option<&StringArray>,
        are_references: bool,
    ) -> StringArray {
        let mut builder = StringBuilder::with_capacity(places.len(), places.len() * 16);
        for (place, row) in places.iter().zip(rows) {
            match row {
                Some((row, _)) if are_references => builder.append_value(TransactionId(row.reference).text()),
                Some((row, _)) => builder.append_option(self.clients.text(row)),
                None => {
                    let place = *place as usize;
                    builder.append_option(whole.filter(|texts| texts.is_valid(place)).map(|texts| texts.value(place)));
                }
            }
        }
        builder.finish()
    }
}

impl Nulls {
    fn get(&mut self, column: usize, ty: &arrow::datatypes::DataType, rows: usize) -> ArrayRef {
        Arc::clone(self.0.entry((column, rows)).or_insert_with(|| new_null_array(ty, rows)))
    }
}

/// One column of all batches; none where none of them fills it.
fn join(batches: &[&RecordBatch], name: &str) -> Result<Option<ArrayRef>> {
    let parts = batches.iter().map(|batch| batch.column_by_name(name).cloned()).collect::<Vec<_>>();
    let Some(ty) = parts.iter().flatten().find(|part| part.null_count() < part.len()).map(|part| part.data_type().clone()) else {
        return Ok(None);
    };
    let parts = parts.into_iter().zip(batches);
    let parts = parts.map(|(part, batch)| part.unwrap_or_else(|| new_null_array(&ty, batch.num_rows()))).collect::<Vec<_>>();
    let parts = parts.iter().map(|part| part.as_ref() as &dyn Array).collect::<Vec<_>>();
    concat(&parts).map(Some).map_err(Error::arrow("join the columns of a segment"))
}

/// A column in its type.
fn fixed<A: Clone + 'static>(sources: &[Option<ArrayRef>], name: &'static str) -> Result<A> {
    let place = schema::arrow_schema().index_of(name).ok();
    let column = place.and_then(|place| sources.get(place)?.as_ref()?.as_any().downcast_ref::<A>().cloned());
    column.ok_or(Error::Column(name))
}
