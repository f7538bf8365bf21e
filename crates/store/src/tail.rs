//! What is durable in the log and not yet sealed, held in memory, and the one view under which a reader sees it together
//! with the sealed files: an event is in exactly one of both.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use arrow::record_batch::RecordBatch;

use crate::batch::Rows;
use crate::manifest::Manifest;
use crate::sighting_table::SightingTable;
use crate::{Result, spool};

/// One segment of the log as readers see it.
pub(crate) struct TailSegment {
    pub path: PathBuf,
    pub first_id: i64,
    pub contents: RwLock<TailContents>,
}

#[derive(Default)]
pub(crate) struct TailContents {
    pub batches: Vec<TailBatch>,
    pub sightings: SightingTable,
    pub events: u64,
    pub last_id: i64,
    pub log_bytes: u64,
    /// The last frame of the spool that is in it, or 0.
    pub spooled_through: u64,
}

/// A batch, the bounds of its times and its last id.
#[derive(Clone)]
pub(crate) struct TailBatch {
    pub batch: Arc<RecordBatch>,
    pub last_id: i64,
    pub min_time: i64,
    pub max_time: i64,
}

/// One consistent state of the store.
#[derive(Clone)]
pub(crate) struct View {
    pub manifest: Arc<Manifest>,
    pub segments: Vec<Arc<TailSegment>>,
}

impl TailSegment {
    pub fn new(path: PathBuf, first_id: i64) -> TailSegment {
        TailSegment { path, first_id, contents: RwLock::default() }
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
        let bounded = TailBatch::new(batch)?;
        let mut contents = self.contents.write().unwrap_or_else(PoisonError::into_inner);
        contents.sightings.add(&bounded.batch)?;
        contents.events += bounded.batch.num_rows() as u64;
        contents.last_id = bounded.last_id;
        contents.spooled_through = contents.spooled_through.max(spool::marked(&bounded.batch));
        contents.log_bytes += log_bytes;
        contents.batches.push(bounded);
        Ok(())
    }
}

impl TailBatch {
    pub fn new(batch: RecordBatch) -> Result<TailBatch> {
        let rows = Rows::new(&batch)?;
        let (times, ids) = (rows.times.values(), rows.ids.values());
        let bounds = |values: &[i64]| (values.iter().min().copied(), values.iter().max().copied());
        let ((min_time, max_time), (_, last_id)) = (bounds(times), bounds(ids));
        Ok(TailBatch {
            last_id: last_id.unwrap_or(i64::MIN),
            min_time: min_time.unwrap_or(i64::MAX),
            max_time: max_time.unwrap_or(i64::MIN),
            batch: Arc::new(batch),
        })
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
