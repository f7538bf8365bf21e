//! Where events wait when the writer cannot keep up: frames like the log's in files of their own, written by one thread and
//! taken up by the writer once its queue is empty. Nothing is acknowledged by being spooled, so nothing here is synced. Each
//! frame has a position that never comes again; the log says which it has taken up, so a crash neither doubles nor loses one.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::record_batch::RecordBatch;
use model::Event;

use crate::store::Shared;
use crate::{Error, Result, batch, disk, wal};

/// Events in memory on their way to the spool. Beyond it the spool's disk is as slow as the log's, and events are lost.
pub(crate) const OVERFLOW_EVENTS_MAX: usize = 16_384;

/// Bytes of one file, so that disk space comes back while the spool is still being taken up.
const FILE_BYTES_MAX: u64 = 32 << 20;

/// Name of the position in the metadata of a batch in the log.
const POSITION: &str = "sekisho.spool";

/// What is in the spool. The thread that writes it and the writer of the log share it.
#[derive(Default)]
pub(crate) struct Spool {
    directory: PathBuf,
    state: Mutex<State>,
    /// Events that the queue did not take, in the spool's memory or files, and not yet taken up or lost.
    waiting: AtomicU64,
}

#[derive(Default)]
struct State {
    files: VecDeque<SpoolFile>,
    /// Number of the next file.
    next: u32,
    bytes: u64,
}

struct SpoolFile {
    number: u32,
    path: PathBuf,
    /// Bytes of whole frames, written and taken up.
    written: u64,
    taken: u64,
    frames_taken: u32,
    /// Events that are not taken up.
    events: u64,
}

/// A frame that the writer takes up.
pub(crate) struct Spooled {
    pub batch: RecordBatch,
    pub position: u64,
    bytes: u64,
}

impl SpoolFile {
    fn position(&self) -> u64 {
        u64::from(self.number) << 32 | u64::from(self.frames_taken)
    }
}

impl Spool {
    /// What a run before left, after the position that the log has taken up.
    pub fn open(directory: PathBuf, taken_through: u64) -> Result<Spool> {
        disk::create_directory(&directory)?;
        let mut state = State { next: (taken_through >> 32) as u32 + 1, ..State::default() };
        let mut waiting = 0;
        for (number, path) in files(&directory)? {
            state.next = state.next.max(number + 1);
            let mut file = SpoolFile { number, path, written: 0, taken: 0, frames_taken: 0, events: 0 };
            let frames = wal::frames(&file.path)?;
            for (batches, bytes) in frames {
                file.written += bytes;
                if file.position() <= taken_through {
                    file.taken += bytes;
                    file.frames_taken += 1;
                } else {
                    file.events += batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
                }
            }
            if file.taken == file.written {
                disk::remove_file(&file.path)?;
                continue;
            }
            waiting += file.events;
            state.bytes += file.written;
            state.files.push_back(file);
        }
        Ok(Spool { directory, state: Mutex::new(state), waiting: AtomicU64::new(waiting) })
    }

    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Acquire)
    }

    /// Counts an event before it is handed to the thread, so that a flush knows of it.
    pub fn expect(&self) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes an expected event back: it was taken up, or lost.
    pub fn settle(&self, events: u64) {
        self.waiting.fetch_sub(events, Ordering::AcqRel);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers are changed after the file was; a panic leaves at most a frame that is not counted.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a frame. An error leaves the spool as it was.
    fn append(&self, frame: &[u8], events: u64, bytes_max: u64) -> Result<()> {
        let mut state = self.state();
        if state.bytes + frame.len() as u64 > bytes_max {
            return Err(Error::NotDurable("the spool is full".to_owned()));
        }
        let is_fresh = state.files.back().is_none_or(|file| file.written >= FILE_BYTES_MAX);
        if is_fresh {
            let number = state.next;
            let path = self.directory.join(format!("spool-{number:08x}.wal"));
            disk::create_file(&path).map_err(Error::io("create", &path))?;
            state.next += 1;
            state.files.push_back(SpoolFile { number, path, written: 0, taken: 0, frames_taken: 0, events: 0 });
        }
        let Some(file) = state.files.back_mut() else { return Ok(()) };
        let write = || {
            let mut open = File::options().write(true).open(&file.path)?;
            open.seek(SeekFrom::Start(file.written))?;
            open.write_all(frame)
        };
        write().map_err(Error::io("append to", &file.path))?;
        file.written += frame.len() as u64;
        file.events += events;
        state.bytes += frame.len() as u64;
        Ok(())
    }

    /// The oldest frame that is not taken up. Where a file cannot be read any more, its events are added to `lost`.
    pub fn peek(&self, lost: &mut u64) -> Result<Option<Spooled>> {
        loop {
            let (path, taken, length, position) = match self.state().files.front() {
                None => return Ok(None),
                Some(file) => (file.path.clone(), file.taken, file.written - file.taken, file.position()),
            };
            let mut bytes = Vec::new();
            let mut read = || {
                let mut file = File::open(&path)?;
                file.seek(SeekFrom::Start(taken))?;
                file.take(length).read_to_end(&mut bytes)
            };
            read().map_err(Error::io("read", &path))?;
            if let Some((batches, bytes)) = wal::first_frame(&bytes)
                && let Some(batch) = batches.into_iter().next()
            {
                return Ok(Some(Spooled { batch, position, bytes }));
            }
            tracing::error!(file = %path.display(), bytes = length, "a file of the spool is damaged and is given up");
            let events = self.state().drop_first()?;
            self.settle(events);
            *lost += events;
        }
    }

    /// The frame is in the log.
    pub fn take(&self, spooled: &Spooled) -> Result<()> {
        let events = spooled.batch.num_rows() as u64;
        self.settle(events);
        let mut state = self.state();
        let Some(file) = state.files.front_mut() else { return Ok(()) };
        file.taken += spooled.bytes;
        file.frames_taken += 1;
        file.events -= events.min(file.events);
        // A frame that is appended meanwhile waits for the lock and goes to a new file.
        if file.taken >= file.written { state.drop_first().map(drop) } else { Ok(()) }
    }
}

impl State {
    /// Lets go of the oldest file, and says how many events were not taken up.
    fn drop_first(&mut self) -> Result<u64> {
        let Some(file) = self.files.pop_front() else { return Ok(0) };
        self.bytes -= file.written;
        disk::remove_file(&file.path)?;
        Ok(file.events)
    }
}

fn files(directory: &Path) -> Result<Vec<(u32, PathBuf)>> {
    let entries = std::fs::read_dir(directory).map_err(Error::io("list", directory))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("list", directory))?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.strip_prefix("spool-"));
        found.extend(stem.and_then(|hex| u32::from_str_radix(hex, 16).ok()).map(|number| (number, path)));
    }
    found.sort();
    Ok(found)
}

/// A batch of the log that says which frame of the spool it is.
pub(crate) fn mark(batch: RecordBatch, position: u64) -> Result<RecordBatch> {
    let schema = batch.schema_ref().as_ref().clone().with_metadata([(POSITION.to_owned(), position.to_string())].into());
    batch.with_schema(Arc::new(schema)).map_err(Error::arrow("mark a batch of the spool"))
}

/// The position that a batch of the log is marked with; 0 where it did not come from the spool.
pub(crate) fn marked(batch: &RecordBatch) -> u64 {
    batch.schema_ref().metadata().get(POSITION).and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Writes what the queue did not take, until every handle is gone.
pub(crate) fn run(shared: &Shared, overflow: &Receiver<Event>) {
    let mut events = Vec::new();
    loop {
        match overflow.recv() {
            Ok(event) => events.push(event),
            Err(_) => return,
        }
        while events.len() < shared.config.commit_events {
            match overflow.recv_timeout(shared.config.commit_wait()) {
                Ok(event) => events.push(event),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        if let Err(error) = write(shared, &events) {
            shared.degrade(format!("events cannot be spooled: {error}"));
            shared.count_gap(events.len() as u64);
            shared.spool.settle(events.len() as u64);
        }
        events.clear();
    }
}

fn write(shared: &Shared, events: &[Event]) -> Result<()> {
    // Ids are given when the log takes the events up.
    let frame = wal::frame(&batch::encode(events, 0, &shared.config.redaction)?)?;
    shared.spool.append(&frame, events.len() as u64, shared.config.spool_bytes_max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Class, EventId, Facts, Gate, Timestamp};

    fn frame(events: usize) -> Vec<u8> {
        let event = || Event { id: EventId(0), time: Timestamp(1), class: Class::DnsActivity, facts: Facts::new(Gate::Dns) };
        let events = (0..events).map(|_| event()).collect::<Vec<_>>();
        wal::frame(&batch::encode(&events, 0, &Default::default()).unwrap()).unwrap()
    }

    fn spool(directory: &Path) -> Spool {
        let spool = Spool::open(directory.to_path_buf(), 0).unwrap();
        for events in [2, 3] {
            (0..events).for_each(|_| spool.expect());
            spool.append(&frame(events), events as u64, 1 << 20).unwrap();
        }
        spool
    }

    #[test]
    fn frames_come_back_in_order_and_their_files_go() {
        let directory = tempfile::tempdir().unwrap();
        let (spool, mut lost) = (spool(directory.path()), 0);
        for events in [2, 3] {
            let spooled = spool.peek(&mut lost).unwrap().unwrap();
            assert_eq!(spooled.batch.num_rows(), events);
            spool.take(&spooled).unwrap();
        }
        assert!(spool.peek(&mut lost).unwrap().is_none());
        assert_eq!((spool.waiting(), lost, files(directory.path()).unwrap().len()), (0, 0, 0));
    }

    #[test]
    fn a_full_spool_takes_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let spool = spool(directory.path());
        let bytes = spool.state().bytes;
        assert!(spool.append(&frame(1), 1, bytes).is_err());
        assert_eq!(spool.state().bytes, bytes);
    }

    #[test]
    fn what_is_damaged_is_counted_as_lost_and_does_not_hold_a_flush_up() {
        let directory = tempfile::tempdir().unwrap();
        let (spool, mut lost) = (spool(directory.path()), 0);
        let (_, path) = files(directory.path()).unwrap().remove(0);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = frame(2).len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(spool.peek(&mut lost).unwrap().is_none());
        assert_eq!((lost, spool.waiting()), (5, 0));
    }
}
