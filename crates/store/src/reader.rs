//! Reads a store that another process writes: a search from the command line beside a running checkpoint. It takes no
//! lock, changes nothing, and sees everything that was durable when it looked.

use std::path::PathBuf;
use std::sync::Arc;

use model::{Event, EventId};

use crate::indicator::Indicator;
use crate::lake::Lake;
use crate::query::{self, Query};
use crate::sighting::Sighting;
use crate::snapshot::{self, Snapshot};
use crate::tail::{TailSegment, View};
use crate::touched;
use crate::{Result, manifest, wal};

/// How often a reader looks again when a merge or retention removed a file under it.
const READ_ATTEMPTS: usize = 5;

/// A store as another process sees it.
pub struct Reader {
    lake: Lake,
}

impl Reader {
    pub fn open(directory: impl Into<PathBuf>) -> Result<Reader> {
        let reader = Reader { lake: Lake::new(directory.into()) };
        manifest::load(&reader.lake.root)?;
        Ok(reader)
    }

    /// The events that match, best first in the order of the query.
    pub fn search(&self, query: &Query<'_>) -> Result<Vec<Event>> {
        read_retrying(|| query::search(&self.lake, &self.view()?, query))
    }

    /// Who ever met any of these, over all gates, sorted by observable and who.
    pub fn touched(&self, indicators: &[Indicator]) -> Result<Vec<Sighting>> {
        read_retrying(|| touched::touched(&self.lake, &self.view()?, indicators))
    }

    /// The first events after an id, in the order of ids. The id of the last one is where to go on; begin with 0.
    pub fn read_from(&self, after: EventId, limit: usize) -> Result<Vec<Event>> {
        read_retrying(|| query::read_after(&self.lake, &self.view()?, after, limit))
    }

    /// This moment's files and unsealed batches, for an engine that reads them itself.
    pub fn snapshot(&self) -> Result<Snapshot> {
        read_retrying(|| snapshot::snapshot(&self.lake.root, &self.view()?))
    }

    /// The log first and the manifest after it: what is sealed in between is then seen in both, and dropped once.
    fn view(&self) -> Result<View> {
        let mut segments = Vec::new();
        for (first, path) in wal::segments(&self.lake.root.join("wal"))? {
            let segment = TailSegment::new(path, first);
            match wal::read(&segment.path) {
                Ok(recovered) => recovered.batches.into_iter().try_for_each(|batch| segment.push(batch, 0))?,
                // Sealed since it was listed.
                Err(error) if error.is_missing_file() => continue,
                Err(error) => return Err(error),
            }
            segments.push(Arc::new(segment));
        }
        let manifest = Arc::new(manifest::load(&self.lake.root)?);
        segments.retain(|segment| segment.read().last_id > manifest.sealed_through);
        Ok(View { manifest, segments })
    }
}

/// Reads again under a newer view where a file has gone meanwhile.
pub(crate) fn read_retrying<T>(read: impl Fn() -> Result<T>) -> Result<T> {
    for _ in 1..READ_ATTEMPTS {
        match read() {
            Err(error) if error.is_missing_file() => {}
            done => return done,
        }
    }
    read()
}
