//! What is durable in the log and not yet sealed, held in memory, and the one view under which a reader sees it together
//! with the sealed files: an event is in exactly one of both.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use arrow::record_batch::RecordBatch;

use crate::batch::Rows;
use crate::day::Day;
use crate::manifest::Manifest;
use crate::repeats::{Book, Repeats, Row};
use crate::sighting_table::{SightingTable, Tally};
use crate::{Error, Result, spool};
use model::Timestamp;

/// One segment of the log as readers see it.
pub(crate) struct TailSegment {
    pub path: PathBuf,
    pub first_id: i64,
    pub contents: RwLock<TailContents>,
    /// What its rows name.
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
pub(crate) struct TailContents {
    pub batches: Vec<TailBatch>,
    /// Without those of [`TailContents::met`]: [`TailSegment::read_sightings`] has them all.
    sightings: SightingTable,
    /// What rows have met since the sightings were last asked for: by pattern, client and day.
    met: HashMap<(u32, u32, i64), Met>,
    pub events: u64,
    pub last_id: i64,
    pub log_bytes: u64,
    /// The last frame of the spool that is in it, or 0.
    pub spooled_through: u64,
}

/// How often one client met what one pattern tells of.
struct Met {
    /// The first of the events.
    row: Row,
    tally: Tally,
}

/// A batch, the bounds of its times and its last id.
#[derive(Clone)]
pub(crate) struct TailBatch {
    held: Held,
    pub last_id: i64,
    pub min_time: i64,
    pub max_time: i64,
}

#[derive(Clone)]
enum Held {
    Whole(Arc<RecordBatch>),
    Folded(Arc<Folded>),
}

/// Rows, and their batch once somebody has asked for it.
pub(crate) struct Folded {
    pub first_id: i64,
    pub rows: Vec<Row>,
    book: Arc<Mutex<Book>>,
    whole: OnceLock<Arc<RecordBatch>>,
}

/// One consistent state of the store.
#[derive(Clone)]
pub(crate) struct View {
    pub manifest: Arc<Manifest>,
    pub segments: Vec<Arc<TailSegment>>,
}

impl TailSegment {
    pub fn new(path: PathBuf, first_id: i64) -> TailSegment {
        TailSegment { path, first_id, contents: RwLock::default(), book: Arc::default() }
    }

    pub fn read(&self) -> RwLockReadGuard<'_, TailContents> {
        // A writer that panicked between two pushes leaves a shorter list, which is still true.
        self.contents.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_log_bytes(&self, bytes: u64) {
        self.contents.write().unwrap_or_else(PoisonError::into_inner).log_bytes = bytes;
    }

    /// Makes a durable batch visible.
    pub fn push(&self, batch: RecordBatch, log_bytes: u64) -> Result<()> {
        let bounded = TailBatch::new(&batch)?;
        let mut contents = self.contents.write().unwrap_or_else(PoisonError::into_inner);
        contents.sightings.add(&batch)?;
        contents.spooled_through = contents.spooled_through.max(spool::marked(&batch));
        contents.push(bounded, batch.num_rows(), log_bytes);
        Ok(())
    }

    /// The same for events that follow patterns.
    pub fn push_repeats(&self, repeats: Repeats, log_bytes: u64) -> Result<()> {
        if !locked(&self.book).enter(&repeats) {
            return Err(Error::NotDurable("a commit does not go on from the one before it".to_owned()));
        }
        let mut contents = self.contents.write().unwrap_or_else(PoisonError::into_inner);
        for row in &repeats.rows {
            let (pattern, client) = row.kind();
            let met = contents.met.entry((pattern, client, Day::of(Timestamp(row.time)).0));
            met.or_insert_with(|| Met { row: *row, tally: Tally::default() }).tally.add(row.time);
        }
        let events = repeats.rows.len();
        contents.push(TailBatch::folded(repeats, Arc::clone(&self.book)), events, log_bytes);
        Ok(())
    }

    pub fn book(&self) -> MutexGuard<'_, Book> {
        locked(&self.book)
    }

    /// The contents with every sighting that has been made.
    pub fn read_sightings(&self) -> Result<RwLockReadGuard<'_, TailContents>> {
        if !self.read().met.is_empty() {
            let mut contents = self.contents.write().unwrap_or_else(PoisonError::into_inner);
            let met = std::mem::take(&mut contents.met).into_values().collect::<Vec<_>>();
            let rows = met.iter().map(|met| met.row).collect::<Vec<_>>();
            let tallies = met.iter().map(|met| met.tally).collect::<Vec<_>>();
            let batch = locked(&self.book).unfold(&rows, 0)?;
            contents.sightings.add_many(&batch, &tallies)?;
        }
        Ok(self.read())
    }
}

impl TailContents {
    fn push(&mut self, batch: TailBatch, events: usize, log_bytes: u64) {
        self.events += events as u64;
        self.last_id = batch.last_id;
        self.log_bytes += log_bytes;
        self.batches.push(batch);
    }

    pub fn sightings(&self) -> &SightingTable {
        &self.sightings
    }
}

fn locked(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    // A book that a panic left is checked as it is read: a row names what is there or nothing.
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TailBatch {
    pub fn new(batch: &RecordBatch) -> Result<TailBatch> {
        let rows = Rows::new(batch)?;
        let (times, ids) = (rows.times.values(), rows.ids.values());
        let bounds = |values: &[i64]| (values.iter().min().copied(), values.iter().max().copied());
        let ((min_time, max_time), (_, last_id)) = (bounds(times), bounds(ids));
        Ok(TailBatch {
            last_id: last_id.unwrap_or(i64::MIN),
            min_time: min_time.unwrap_or(i64::MAX),
            max_time: max_time.unwrap_or(i64::MIN),
            held: Held::Whole(Arc::new(batch.clone())),
        })
    }

    fn folded(repeats: Repeats, book: Arc<Mutex<Book>>) -> TailBatch {
        let bounds = repeats.rows.iter().fold((i64::MAX, i64::MIN), |(min, max), row| (min.min(row.time), max.max(row.time)));
        let (last_id, Repeats { first_id, rows, .. }) = (repeats.last_id(), repeats);
        let folded = Folded { first_id, rows, book, whole: OnceLock::new() };
        TailBatch { held: Held::Folded(Arc::new(folded)), last_id, min_time: bounds.0, max_time: bounds.1 }
    }

    /// The events as columns. Rows are unfolded when somebody first asks.
    pub fn batch(&self) -> Result<Arc<RecordBatch>> {
        match &self.held {
            Held::Whole(batch) => Ok(Arc::clone(batch)),
            Held::Folded(folded) => match folded.whole.get() {
                Some(whole) => Ok(Arc::clone(whole)),
                None => {
                    let whole = Arc::new(locked(&folded.book).unfold(&folded.rows, folded.first_id)?);
                    Ok(Arc::clone(folded.whole.get_or_init(|| whole)))
                }
            },
        }
    }

    /// The rows that it is made of, where it is not held as columns alone.
    pub fn rows(&self) -> Option<&Folded> {
        match &self.held {
            Held::Whole(_) => None,
            Held::Folded(folded) => Some(folded),
        }
    }
}

impl View {
    /// Every unsealed batch, oldest first.
    pub fn batches(&self) -> Vec<TailBatch> {
        self.segments.iter().flat_map(|segment| segment.read().batches.clone()).collect()
    }

    pub fn unsealed_events(&self) -> u64 {
        self.segments.iter().map(|segment| segment.read().events).sum()
    }
}
