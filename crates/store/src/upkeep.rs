//! What keeps the files of a store few, small and within their bounds: merging, retention, room on a full disk, and the erasing
//! of a user. One thread does it at intervals; the handle asks for it by name.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use model::Timestamp;

use crate::compact::{self, Compacted};
use crate::day::Day;
use crate::erase::{self, Erased};
use crate::manifest::{FileKind, Manifest, SealedFile};
use crate::retain::{self, Retained};
use crate::store::Shared;
use crate::{Error, Result, delta, disk};

/// A restart comes with many clients; tidying can wait until they are served, and hourly tidying loses nothing by it.
const FIRST_MAINTENANCE_WAIT: Duration = Duration::from_secs(300);

/// How often the disk is looked at: a disk fills in minutes, not seconds, at the rates of a gate.
const WATERMARK_WAIT: Duration = Duration::from_secs(60);

impl Shared {
    /// Removes files from the manifest, then from the disk.
    pub fn remove(&self, paths: &[String]) -> Result<Retained> {
        if paths.is_empty() {
            return Ok(Retained::default());
        }
        let gone: HashSet<&String> = paths.iter().collect();
        let mut retained = Retained::default();
        for file in self.view().manifest.files.iter().filter(|file| gone.contains(&file.path)) {
            retained.files += 1;
            retained.bytes += file.bytes;
            retained.events += if file.kind == FileKind::Events { file.rows } else { 0 };
        }
        self.commit(|manifest| manifest.files.retain(|file| !gone.contains(&file.path)), None)?;
        paths.iter().try_for_each(|path| self.lake.remove(path))?;
        Ok(retained)
    }

    /// Makes room on a full disk. False where no sealed event is left to remove.
    pub fn evict_oldest_day(&self) -> Result<bool> {
        let oldest = retain::oldest_day(&self.view().manifest);
        tracing::warn!(files = oldest.len(), "the disk is full: removing the oldest day of events");
        self.remove(&oldest).map(|retained| retained.files > 0)
    }

    /// Removes the oldest days of events while the disk is over its watermark. Today's events stay.
    pub fn relieve_disk(&self, now: Timestamp, space: impl Fn() -> std::io::Result<(u64, u64)>) -> Result<()> {
        loop {
            let manifest = self.view().manifest;
            let own = manifest.files.iter().map(|file| file.bytes).sum();
            let space = space().map_err(Error::io("measure the disk of", &self.config.directory))?;
            let oldest = retain::oldest_day(&manifest);
            let is_today = manifest.files.iter().any(|file| file.day == Day::of(now) && oldest.contains(&file.path));
            if !retain::is_over_watermark(space, own, self.config.retention.disk_percent_max) || oldest.is_empty() || is_today {
                return Ok(());
            }
            tracing::warn!(files = oldest.len(), "the disk is over its watermark: removing the oldest day of events");
            self.remove(&oldest)?;
        }
    }

    /// Writes what the manifest says into the log for Delta readers, where one is kept.
    pub fn follow_in_delta(&self, now: Timestamp) -> Result<()> {
        if self.config.delta_log { delta::follow(&self.config.directory, &self.view().manifest, now) } else { Ok(()) }
    }

    /// Writes every file that holds a user again, and removes the old ones at once: they are what must go.
    pub fn erase(&self, user: &str) -> Result<Erased> {
        let _merging = self.merging.lock().unwrap_or_else(PoisonError::into_inner);
        let manifest = self.view().manifest;
        let mut rewrites = Vec::new();
        for (number, file) in manifest.files.iter().enumerate() {
            let name = format!("{}-{}-{}-{number}", file.first_id, file.last_id, manifest.version);
            rewrites.extend(erase::rewrite(&self.lake, file, user, &name)?);
        }
        let gone = rewrites.iter().map(|rewrite| &rewrite.input.path).collect::<HashSet<_>>();
        let outputs = rewrites.iter().filter_map(|rewrite| rewrite.output.clone()).collect::<Vec<_>>();
        let doomed = manifest.doomed.iter().map(|(path, _)| path).collect::<HashSet<_>>();
        // Retention may have removed an input meanwhile; then its rewritten file must not come into being.
        let lost = std::sync::Mutex::new(Vec::new());
        let change = |next: &mut Manifest| {
            let present = next.files.iter().map(|file| file.path.clone()).collect::<HashSet<_>>();
            next.files.retain(|file| !gone.contains(&file.path));
            next.doomed.retain(|(path, _)| !doomed.contains(path));
            let mut lost = lost.lock().unwrap_or_else(PoisonError::into_inner);
            lost.clear();
            for rewrite in &rewrites {
                match &rewrite.output {
                    Some(output) if present.contains(&rewrite.input.path) => next.files.push(Arc::clone(output)),
                    Some(output) => lost.push(output.path.clone()),
                    None => {}
                }
            }
        };
        self.commit(change, None)?;
        let lost = lost.into_inner().unwrap_or_else(PoisonError::into_inner);
        gone.into_iter().chain(doomed).chain(&lost).try_for_each(|path| self.lake.remove(path))?;
        self.follow_in_delta(Timestamp::from(SystemTime::now()))?;
        tracing::info!(files = rewrites.len(), written = outputs.len(), "a user was erased from the record");
        let rows = |is_events: bool| {
            let of_kind = rewrites.iter().filter(|rewrite| (rewrite.input.kind == FileKind::Events) == is_events);
            of_kind.map(|rewrite| rewrite.rows).sum()
        };
        Ok(Erased { events: rows(true), sightings: rows(false), files: rewrites.len() as u64 })
    }

    /// Merges what is worth merging at a moment.
    pub fn compact(&self, now: Timestamp) -> Result<Compacted> {
        let _merging = self.merging.lock().unwrap_or_else(PoisonError::into_inner);
        let mut compacted = Compacted::default();
        loop {
            let before = compacted.outputs;
            for merge in compact::plan(&self.view().manifest, now) {
                let is_stopping = || self.is_stopping.load(Ordering::Acquire);
                let Some(output) = compact::merge(&self.lake, &merge, &is_stopping)? else { return Ok(compacted) };
                if self.replace(&merge.inputs, output, now)? {
                    compacted.inputs += merge.inputs.len() as u64;
                    compacted.outputs += 1;
                }
            }
            // Each merge leaves fewer files, so this ends.
            if compacted.outputs == before {
                return Ok(compacted);
            }
        }
    }

    /// Puts a merged file in the place of its inputs. False where retention removed one of them meanwhile.
    fn replace(&self, inputs: &[Arc<SealedFile>], output: SealedFile, now: Timestamp) -> Result<bool> {
        let merged: HashSet<&String> = inputs.iter().map(|file| &file.path).collect();
        let (output, replaced) = (Arc::new(output), AtomicBool::new(false));
        let change = |manifest: &mut Manifest| {
            let present = manifest.files.iter().filter(|file| merged.contains(&file.path)).count();
            replaced.store(present == merged.len(), Ordering::Relaxed);
            if present == merged.len() {
                manifest.files.retain(|file| !merged.contains(&file.path));
                manifest.files.push(Arc::clone(&output));
                manifest.doomed.extend(inputs.iter().map(|file| (file.path.clone(), now)));
            }
        };
        self.commit(change, None)?;
        let is_replaced = replaced.load(Ordering::Relaxed);
        if !is_replaced {
            self.lake.remove(&output.path)?;
        }
        Ok(is_replaced)
    }

    /// Makes indexes that are missing or damaged, such as those of a directory of an earlier version.
    pub fn mend_indexes(&self) -> Result<u64> {
        let _merging = self.merging.lock().unwrap_or_else(PoisonError::into_inner);
        let made = self.lake.mend_indexes(&self.view().manifest, &|| self.is_stopping.load(Ordering::Acquire))?;
        if made > 0 {
            tracing::info!(files = made, "indexes of sightings were made again");
        }
        Ok(made)
    }

    fn tidy(&self, now: Timestamp) -> Result<()> {
        let expired = retain::expired(&self.view().manifest, &self.config.retention, now);
        self.remove(&expired)?;
        self.compact(now)?;
        self.remove_doomed(now)?;
        self.follow_in_delta(now)
    }

    /// Deletes the inputs of merges whose grace is over.
    pub fn remove_doomed(&self, now: Timestamp) -> Result<()> {
        let grace = i64::try_from(self.config.grace_seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        let is_over = |since: &Timestamp| now.0.saturating_sub(since.0) >= grace;
        let doomed = self.view().manifest.doomed.iter().filter(|(_, since)| is_over(since)).cloned().collect::<Vec<_>>();
        if doomed.is_empty() {
            return Ok(());
        }
        self.commit(|manifest| manifest.doomed.retain(|(_, since)| !is_over(since)), None)?;
        doomed.iter().try_for_each(|(path, _)| self.lake.remove(path))
    }
}

/// Merges small files and removes old ones, first soon after the start and then at intervals.
pub(crate) fn run_keeper(shared: &Shared, kept: &Receiver<()>) {
    let every = Duration::from_secs(shared.config.maintain_every_seconds.max(1));
    let mut due = Instant::now() + FIRST_MAINTENANCE_WAIT.min(every);
    while let Err(RecvTimeoutError::Timeout) =
        kept.recv_timeout(due.saturating_duration_since(Instant::now()).min(WATERMARK_WAIT))
    {
        let now = Timestamp::from(SystemTime::now());
        let mut kept = shared.relieve_disk(now, || disk::space(&shared.config.directory));
        kept = kept.and_then(|()| shared.mend_indexes().map(drop));
        if Instant::now() >= due {
            kept = kept.and_then(|()| shared.tidy(now));
            due = Instant::now() + every;
        }
        if let Err(error) = kept {
            tracing::warn!(%error, "old or small files could not be tidied");
        }
    }
}
