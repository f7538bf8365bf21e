//! Search over unsealed batches and sealed files under one view. Row groups are skipped by time, by minima and maxima
//! and by bloom filters; the filter of the caller, which may be any expression, sees only what is left.

use std::collections::BTreeMap;

use arrow::array::{Array, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::error::ArrowError;
use model::{Class, Event, EventId, Facts, FieldId, Timestamp, Value};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowPredicate, ArrowPredicateFn, ArrowReaderMetadata, ParquetRecordBatchReaderBuilder, RowFilter, RowSelection,
};
use parquet::file::statistics::Statistics;

use crate::batch::Rows;
use crate::lake::{self, Lake};
use crate::manifest::{FileKind, SealedFile};
use crate::tail::{TailBatch, View};
use crate::{Error, Result, schema};

/// Rows decoded at a time from a sealed file.
const BATCH_ROWS: usize = 8_192;

/// What to search for. Everything in it must hold at once.
pub struct Query<'q> {
    /// The first moment that counts.
    pub since: Option<Timestamp>,
    /// The first moment that does not count any more.
    pub until: Option<Timestamp>,
    /// Empty for every class.
    pub classes: Vec<Class>,
    /// Fields that must have exactly this value. They are what makes a search fast.
    pub equalities: Vec<(FieldId, Value)>,
    pub filter: &'q dyn Fn(&Facts) -> bool,
    pub limit: usize,
    pub newest_first: bool,
}

impl Default for Query<'_> {
    fn default() -> Self {
        Query {
            since: None,
            until: None,
            classes: Vec::new(),
            equalities: Vec::new(),
            filter: &|_| true,
            limit: 1_000,
            newest_first: true,
        }
    }
}

/// The best events so far, by time and id in the order of the query.
struct Best<'q> {
    query: &'q Query<'q>,
    events: BTreeMap<(i64, i64), Event>,
}

impl Best<'_> {
    fn offer(&mut self, event: Event) {
        self.events.insert(self.key(&event), event);
        if self.events.len() > self.query.limit {
            self.events.pop_last();
        }
    }

    /// Earlier keys are better.
    fn key(&self, event: &Event) -> (i64, i64) {
        let sign = if self.query.newest_first { -1 } else { 1 };
        (event.time.0.saturating_mul(sign), event.id.0.saturating_mul(sign))
    }

    /// The times that can still be among the best, both ends included.
    fn window(&self) -> (i64, i64) {
        let since = self.query.since.map_or(i64::MIN, |since| since.0);
        let until = self.query.until.map_or(i64::MAX, |until| until.0.saturating_sub(1));
        match self.events.last_key_value().filter(|_| self.events.len() >= self.query.limit) {
            Some(((worst, _), _)) if self.query.newest_first => (since.max(worst.saturating_neg()), until),
            Some(((worst, _), _)) => (since, until.min(*worst)),
            None => (since, until),
        }
    }

    fn consider(&mut self, rows: &mut Rows<'_>, row: usize) {
        let event = rows.event(row);
        let equal = |(field, value): &(FieldId, Value)| event.facts.get(*field) == Some(value);
        if self.query.equalities.iter().all(equal) && (self.query.filter)(&event.facts) {
            self.offer(event);
        }
    }
}

/// A place where events are, for reading in the order that lets the search stop early.
enum Source<'v> {
    Tail(&'v TailBatch),
    File(&'v SealedFile),
}

impl Source<'_> {
    fn span(&self) -> (i64, i64) {
        match self {
            Source::Tail(tail) => (tail.min_time, tail.max_time),
            Source::File(file) => (file.min_time, file.max_time),
        }
    }
}

pub(crate) fn search(lake: &Lake, view: &View, query: &Query<'_>) -> Result<Vec<Event>> {
    let mut best = Best { query, events: BTreeMap::new() };
    if query.limit == 0 {
        return Ok(Vec::new());
    }
    let batches = view.batches();
    let wanted = |file: &&SealedFile| {
        file.kind == FileKind::Events
            && (query.classes.is_empty() || query.classes.iter().any(|class| class.uid() == file.class_uid))
    };
    let files = view.manifest.files.iter().map(AsRef::as_ref).filter(wanted);
    let mut sources = batches.iter().map(Source::Tail).chain(files.map(Source::File)).collect::<Vec<_>>();
    let newest_first = query.newest_first;
    sources.sort_by_key(|source| if newest_first { source.span().1.saturating_neg() } else { source.span().0 });
    for source in sources {
        let ((min, max), (since, until)) = (source.span(), best.window());
        if max < since || min > until {
            continue;
        }
        match source {
            Source::Tail(tail) => search_tail(&mut best, tail)?,
            Source::File(file) => search_file(&mut best, lake, file)?,
        }
    }
    Ok(best.events.into_values().collect())
}

fn search_tail(best: &mut Best<'_>, tail: &TailBatch) -> Result<()> {
    let batch = tail.batch()?;
    let mut rows = Rows::new(&batch)?;
    let equalities = column_equalities(best.query);
    for row in 0..batch.num_rows() {
        let (since, until) = best.window();
        let is_wanted_class = best.query.classes.is_empty() || best.query.classes.contains(&rows.class(row));
        let time = rows.times.value(row);
        let cells_match = |equality: &ColumnEquality| match (&equality.wanted, rows.cells(equality.column)) {
            (_, None) => false,
            (Wanted::Text(text), Some(cells)) => cells.text(row) == Some(text),
            _ => true,
        };
        if is_wanted_class && time >= since && time <= until && equalities.iter().all(cells_match) {
            best.consider(&mut rows, row);
        }
    }
    Ok(())
}

/// An equality that columns can check before an event is formed.
struct ColumnEquality {
    column: &'static str,
    wanted: Wanted,
}

#[derive(Clone)]
enum Wanted {
    Text(String),
    Int(i64),
    Bool(bool),
}

/// Equalities on stored columns of single values. Others are checked on the facts alone.
fn column_equalities(query: &Query<'_>) -> Vec<ColumnEquality> {
    let stored = query.equalities.iter().filter_map(|(field, value)| {
        let (_, column) = schema::column(field.row().column)?;
        let wanted = match value {
            Value::Text(text) => Wanted::Text(text.to_string()),
            Value::Ip(ip) => Wanted::Text(ip.to_string()),
            Value::Int(int) => Wanted::Int(*int),
            Value::Bool(flag) => Wanted::Bool(*flag),
            _ => return None,
        };
        Some(ColumnEquality { column: column.name, wanted })
    });
    stored.collect()
}

fn search_file(best: &mut Best<'_>, lake: &Lake, file: &SealedFile) -> Result<()> {
    let (_, footer) = lake.open(file)?;
    let equalities = column_equalities(best.query);
    for group in 0..footer.metadata().num_row_groups() {
        let (since, until) = best.window();
        if !may_match(lake, file, &footer, group, &equalities, (since, until))? {
            continue;
        }
        let mut predicates = equalities.iter().map(|equality| equality_predicate(&footer, equality)).collect::<Vec<_>>();
        if file.min_time < since || file.max_time > until {
            predicates.push(time_predicate(&footer, since, until));
        }
        let pages = page_selection(&footer, group, &equalities);
        read_group(lake, file, &footer, group, (pages, predicates), &mut |rows, row| best.consider(rows, row))?;
    }
    Ok(())
}

/// The pages of a row group that can hold every text looked for; none where all of them can. Files are sorted by host,
/// so a look-up of a host reads one or two.
fn page_selection(footer: &ArrowReaderMetadata, group: usize, equalities: &[ColumnEquality]) -> Option<RowSelection> {
    let rows = usize::try_from(footer.metadata().row_group(group).num_rows()).ok()?;
    let columns = footer.metadata().row_group(group).columns();
    let selections = equalities.iter().filter_map(|equality| {
        let Wanted::Text(text) = &equality.wanted else { return None };
        let column = columns.iter().position(|column| column.column_path().string() == equality.column)?;
        let text = text.as_bytes();
        let pages = lake::page_rows(footer, group, column, |min, max| min <= text && text <= max)?;
        Some(RowSelection::from_consecutive_ranges(pages.into_iter(), rows))
    });
    selections.reduce(|one, other| one.intersection(&other))
}

/// Reads the rows of a row group that pass the predicates.
fn read_group(
    lake: &Lake,
    file: &SealedFile,
    footer: &ArrowReaderMetadata,
    group: usize,
    (pages, predicates): (Option<RowSelection>, Vec<Box<dyn ArrowPredicate>>),
    found: &mut dyn FnMut(&mut Rows<'_>, usize),
) -> Result<()> {
    let path = lake.root.join(&file.path);
    let (opened, _) = lake.open(file)?;
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(opened, footer.clone())
        .with_row_groups(vec![group])
        .with_batch_size(BATCH_ROWS)
        .with_row_filter(RowFilter::new(predicates));
    let builder = pages.into_iter().fold(builder, |builder, pages| builder.with_row_selection(pages));
    let reader = builder.build().map_err(Error::parquet("read", &path))?;
    for batch in reader {
        let batch = batch.map_err(Error::arrow("read rows of a sealed file"))?;
        let mut rows = Rows::new(&batch)?;
        for row in 0..batch.num_rows() {
            found(&mut rows, row);
        }
    }
    Ok(())
}

type Predicate = std::result::Result<BooleanArray, ArrowError>;

fn equality_predicate(footer: &ArrowReaderMetadata, equality: &ColumnEquality) -> Box<dyn ArrowPredicate> {
    let mask = ProjectionMask::columns(footer.parquet_schema(), [equality.column]);
    let wanted = equality.wanted.clone();
    Box::new(ArrowPredicateFn::new(mask, move |batch: RecordBatch| -> Predicate {
        let array = batch.column(0).as_any();
        let is = |equal: Option<bool>| Some(equal.unwrap_or(false));
        if let (Wanted::Text(text), Some(array)) = (&wanted, array.downcast_ref::<StringArray>()) {
            return Ok(array.iter().map(|cell| is(cell.map(|cell| cell == text))).collect());
        }
        if let (Wanted::Int(int), Some(array)) = (&wanted, array.downcast_ref::<Int64Array>()) {
            return Ok(array.iter().map(|cell| is(cell.map(|cell| cell == *int))).collect());
        }
        if let (Wanted::Bool(flag), Some(array)) = (&wanted, array.downcast_ref::<BooleanArray>()) {
            return Ok(array.iter().map(|cell| is(cell.map(|cell| cell == *flag))).collect());
        }
        // A column of another type than this version's: left to the check on the facts.
        Ok(BooleanArray::from(vec![true; batch.num_rows()]))
    }))
}

fn time_predicate(footer: &ArrowReaderMetadata, since: i64, until: i64) -> Box<dyn ArrowPredicate> {
    let mask = ProjectionMask::columns(footer.parquet_schema(), [schema::TIME]);
    Box::new(ArrowPredicateFn::new(mask, move |batch: RecordBatch| -> Predicate {
        match batch.column(0).as_any().downcast_ref::<TimestampMicrosecondArray>() {
            Some(times) => Ok(times.values().iter().map(|time| Some(*time >= since && *time <= until)).collect()),
            None => Err(ArrowError::SchemaError("the time column has another type".to_owned())),
        }
    }))
}

/// Whether a row group can hold a match, by statistics and bloom filters.
fn may_match(
    lake: &Lake,
    file: &SealedFile,
    footer: &ArrowReaderMetadata,
    group: usize,
    equalities: &[ColumnEquality],
    (since, until): (i64, i64),
) -> Result<bool> {
    let metadata = footer.metadata().row_group(group);
    let column = |name: &str| metadata.columns().iter().position(|column| column.column_path().string() == name);
    let times = column(schema::TIME).and_then(|place| metadata.column(place).statistics());
    if let Some(Statistics::Int64(times)) = times
        && (times.max_opt().is_some_and(|max| *max < since) || times.min_opt().is_some_and(|min| *min > until))
    {
        return Ok(false);
    }
    for equality in equalities {
        let Some(place) = column(equality.column) else { return Ok(false) };
        if let Some(statistics) = metadata.column(place).statistics()
            && !statistics_may_hold(statistics, &equality.wanted)
        {
            return Ok(false);
        }
        if let Wanted::Text(text) = &equality.wanted
            && schema::BLOOM_COLUMNS.contains(&equality.column)
            && !bloom_may_hold(lake, file, footer, group, place, text)?
        {
            return Ok(false);
        }
    }
    Ok(true)
}

fn statistics_may_hold(statistics: &Statistics, wanted: &Wanted) -> bool {
    match (statistics, wanted) {
        (Statistics::ByteArray(values), Wanted::Text(text)) => {
            let text = text.as_bytes();
            values.min_opt().is_none_or(|min| min.data() <= text) && values.max_opt().is_none_or(|max| max.data() >= text)
        }
        (Statistics::Int64(values), Wanted::Int(int)) => {
            values.min_opt().is_none_or(|min| min <= int) && values.max_opt().is_none_or(|max| max >= int)
        }
        _ => true,
    }
}

fn bloom_may_hold(
    lake: &Lake,
    file: &SealedFile,
    footer: &ArrowReaderMetadata,
    group: usize,
    column: usize,
    text: &str,
) -> Result<bool> {
    let path = lake.root.join(&file.path);
    let (opened, _) = lake.open(file)?;
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(opened, footer.clone());
    let bloom =
        builder.get_row_group_column_bloom_filter(group, column).map_err(Error::parquet("read a bloom filter of", &path))?;
    Ok(bloom.is_none_or(|bloom| bloom.check(text)))
}

/// The first events after an id, in the order of ids.
pub(crate) fn read_after(lake: &Lake, view: &View, after: EventId, limit: usize) -> Result<Vec<Event>> {
    let mut found: BTreeMap<i64, Event> = BTreeMap::new();
    let mut keep = |event: Event| {
        found.insert(event.id.0, event);
        if found.len() > limit {
            found.pop_last();
        }
        found.last_key_value().filter(|_| found.len() >= limit).map_or(i64::MAX, |(last, _)| *last)
    };
    let mut bound = if limit == 0 { i64::MIN } else { i64::MAX };
    let mut files = view.manifest.files.iter().filter(|file| file.kind == FileKind::Events).collect::<Vec<_>>();
    files.sort_by_key(|file| file.first_id);
    for file in files.into_iter().filter(|file| file.last_id > after.0) {
        if file.first_id > bound {
            break;
        }
        let (_, footer) = lake.open(file)?;
        for group in 0..footer.metadata().num_row_groups() {
            let predicate = id_predicate(&footer, after.0, bound);
            read_group(lake, file, &footer, group, (None, vec![predicate]), &mut |rows, row| {
                if rows.ids.value(row) < bound {
                    bound = keep(rows.event(row));
                }
            })?;
        }
    }
    for tail in view.batches().iter().filter(|tail| tail.last_id > after.0) {
        let batch = tail.batch()?;
        let mut rows = Rows::new(&batch)?;
        for row in 0..batch.num_rows() {
            if rows.ids.value(row) > after.0 && rows.ids.value(row) < bound {
                bound = keep(rows.event(row));
            }
        }
    }
    Ok(found.into_values().collect())
}

fn id_predicate(footer: &ArrowReaderMetadata, after: i64, until: i64) -> Box<dyn ArrowPredicate> {
    let mask = ProjectionMask::columns(footer.parquet_schema(), [schema::EVENT_ID]);
    Box::new(ArrowPredicateFn::new(mask, move |batch: RecordBatch| -> Predicate {
        match batch.column(0).as_any().downcast_ref::<Int64Array>() {
            Some(ids) => Ok(ids.values().iter().map(|id| Some(*id > after && *id < until)).collect()),
            None => Err(ArrowError::SchemaError("the id column has another type".to_owned())),
        }
    }))
}
