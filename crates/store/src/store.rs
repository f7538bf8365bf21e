//! The handle that the rest of the program holds, and what its threads share. It opens a directory, replays the log,
//! and starts one writer and one sealer; every clone of the handle is the same store.

use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use model::{Event, EventId, Recorder, Repeat, Timestamp};

use crate::compact::Compacted;
use crate::config::StoreConfig;
use crate::erase::Erased;
use crate::indicator::Indicator;
use crate::lake::Lake;
use crate::manifest::{self, FileKind, Manifest};
use crate::query::{self, Query};
use crate::reader;
use crate::repeats::may_fold;
use crate::retain::{self, Retained};
use crate::sighting::Sighting;
use crate::snapshot::{self, Snapshot};
use crate::spool::{self, OVERFLOW_EVENTS_MAX, Spool};
use crate::tail::{TailSegment, View};
use crate::touched;
use crate::wal::{self, OpenSegment};
use crate::writer::{Message, Pending, Writer};
use crate::{Error, Result, disk, seal, upkeep};

/// The pause before a failed seal is tried again.
const SEAL_RETRY_WAIT: Duration = Duration::from_secs(2);

/// The event log of one directory.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    messages: SyncSender<Message>,
    /// Towards the spool; dropped to end its thread.
    overflow: Mutex<Option<SyncSender<Event>>>,
    /// Dropped to end the keeper.
    keeper: Mutex<Option<Sender<()>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Numbers about a store at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Events that can be searched.
    pub events: u64,
    pub unsealed_events: u64,
    /// Events that the queue did not take and that wait in the spool.
    pub spooled_events: u64,
    /// Bytes of sealed files and of the log.
    pub bytes: u64,
    pub files: u64,
    /// Bytes of indexes of sightings in memory.
    pub index_bytes: u64,
    /// Events recorded and made durable since the store was opened.
    pub committed_events: u64,
    /// Events lost since the store was opened.
    pub lost_events: u64,
    pub last_commit: Option<Timestamp>,
    pub last_seal: Option<Timestamp>,
    pub disk_free_bytes: u64,
    pub disk_bytes: u64,
    /// Why events are being lost or held at this moment, if they are.
    pub degraded: Option<String>,
}

/// What the handle and the threads share.
pub(crate) struct Shared {
    pub config: StoreConfig,
    pub lake: Lake,
    pub spool: Spool,
    view: RwLock<View>,
    /// Lost events that no gap event tells of yet.
    pub gap_pending: AtomicU64,
    pub is_stopping: AtomicBool,
    /// Events that follow patterns and are in the queue.
    pub repeats_queued: AtomicUsize,
    lost: AtomicU64,
    committed: AtomicU64,
    last_commit: AtomicI64,
    last_seal: AtomicI64,
    degraded: Mutex<Option<String>>,
    /// One merge at a time, since two would write the same file.
    pub merging: Mutex<()>,
    /// Held as long as the store is open, so that no other process writes the same directory.
    _lock: File,
}

/// Work for the sealer. Without a segment it only answers.
pub(crate) struct Job {
    pub segment: Option<Arc<TailSegment>>,
    pub reply: Option<Sender<Result<()>>>,
}

impl Store {
    /// Opens a directory: finishes or undoes what a crash left half done, and replays the log.
    pub fn open(config: StoreConfig) -> Result<Store> {
        Store::open_with(config, Box::new(wal::open_file))
    }

    pub(crate) fn open_with(config: StoreConfig, open: OpenSegment) -> Result<Store> {
        config.check()?;
        disk::create_directory(&config.directory)?;
        let lock = lock(&config)?;
        let manifest = manifest::recover(&config.directory)?;
        let segments = replay(&config, &manifest)?;
        let next_sequence = next_sequence(&config, &manifest, &segments);
        let taken = segments.iter().map(|segment| segment.read().spooled_through).fold(manifest.spooled_through, u64::max);
        let spool = Spool::open(config.directory.join("spool"), taken)?;
        let shared = Arc::new(Shared::new(config, manifest, segments.clone(), spool, lock));
        let (messages, received) = sync_channel(shared.config.queue_events_max);
        let (jobs, work) = channel();
        for segment in segments {
            // The receiver is in hand, so this cannot fail.
            let _ = jobs.send(Job { segment: Some(segment), reply: None });
        }
        let writer = Writer {
            shared: Arc::clone(&shared),
            jobs,
            open,
            next_sequence,
            current: None,
            pending: Pending::default(),
            absorb_from: Instant::now(),
            has_room: false,
        };
        let (sealer, keeper) = (Arc::clone(&shared), Arc::clone(&shared));
        let spooler = Arc::clone(&shared);
        let (keeping, kept) = channel();
        let (overflow, overflowing) = sync_channel(OVERFLOW_EVENTS_MAX);
        let threads = vec![
            spawn("store-writer", move || writer.run(&received))?,
            spawn("store-sealer", move || run_sealer(&sealer, &work))?,
            spawn("store-spooler", move || spool::run(&spooler, &overflowing))?,
            spawn("store-keeper", move || upkeep::run_keeper(&keeper, &kept))?,
        ];
        let (keeper, threads) = (Mutex::new(Some(keeping)), Mutex::new(threads));
        let overflow = Mutex::new(Some(overflow));
        Ok(Store { inner: Arc::new(Inner { shared, messages, overflow, keeper, threads }) })
    }

    /// Waits until everything recorded so far is durable and visible.
    pub fn flush(&self) -> Result<()> {
        self.ask(Message::Flush)
    }

    /// As a flush, and everything is in sealed files afterwards.
    pub fn seal(&self) -> Result<()> {
        self.ask(Message::Seal)
    }

    fn ask(&self, message: fn(Sender<Result<()>>) -> Message) -> Result<()> {
        let (reply, answer) = channel();
        self.inner.messages.send(message(reply)).map_err(|_| Error::Closed)?;
        answer.recv().map_err(|_| Error::Closed)?
    }

    /// The events that match, best first in the order of the query.
    pub fn search(&self, query: &Query<'_>) -> Result<Vec<Event>> {
        self.read(|lake, view| query::search(lake, view, query))
    }

    /// Who ever met any of these, over all gates, sorted by observable and who.
    pub fn touched(&self, indicators: &[Indicator]) -> Result<Vec<Sighting>> {
        self.read(|lake, view| touched::touched(lake, view, indicators))
    }

    /// The first events after an id, in the order of ids. The id of the last one is where to go on; begin with 0.
    pub fn read_from(&self, after: EventId, limit: usize) -> Result<Vec<Event>> {
        self.read(|lake, view| query::read_after(lake, view, after, limit))
    }

    /// This moment's files and unsealed batches, for an engine that reads them itself.
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.read(|lake, view| snapshot::snapshot(&lake.root, view))
    }

    /// Reads under one view, again under a newer one where a file has gone meanwhile.
    fn read<T>(&self, read: impl Fn(&Lake, &View) -> Result<T>) -> Result<T> {
        let shared = &self.inner.shared;
        reader::read_retrying(|| read(&shared.lake, &shared.view()))
    }

    pub fn stats(&self) -> Stats {
        self.inner.shared.stats()
    }

    /// Removes what is older or more than the retention allows.
    pub fn retain(&self, now: Timestamp) -> Result<Retained> {
        let shared = &self.inner.shared;
        let expired = retain::expired(&shared.view().manifest, &shared.config.retention, now);
        let retained = shared.remove(&expired)?;
        shared.follow_in_delta(now)?;
        Ok(retained)
    }

    /// Merges the small files of past days, and of today where it pays; inputs whose grace is over are deleted.
    pub fn compact(&self, now: Timestamp) -> Result<Compacted> {
        let shared = &self.inner.shared;
        let compacted = shared.compact(now)?;
        shared.remove_doomed(now)?;
        shared.follow_in_delta(now)?;
        Ok(compacted)
    }

    /// Makes the indexes of sightings that are missing or damaged and returns how many it made; look-ups are right without
    /// them, but slower. The store does it by itself each minute.
    pub fn mend_indexes(&self) -> Result<u64> {
        self.inner.shared.mend_indexes()
    }

    /// Removes every event and sighting of a user that was recorded before, from the disk as well. Whoever reads the files
    /// without the store may hold them open a moment longer.
    pub fn erase(&self, user: &str) -> Result<Erased> {
        self.seal()?;
        self.inner.shared.erase(user)
    }

    #[cfg(test)]
    pub(crate) fn relieve_disk(&self, now: Timestamp, space: impl Fn() -> std::io::Result<(u64, u64)>) -> Result<()> {
        self.inner.shared.relieve_disk(now, space)
    }

    /// Makes everything durable and ends the threads. Other clones of the handle record no more.
    pub fn close(self) -> Result<()> {
        let flushed = self.flush();
        self.inner.stop();
        flushed
    }
}

impl Recorder for Store {
    /// Never waits. The id of the event is assigned by the writer, whatever it holds.
    fn record(&self, event: Event) {
        match self.inner.messages.try_send(Message::Event(event)) {
            Err(TrySendError::Full(Message::Event(event))) => self.inner.overflow(event),
            Err(_) => self.inner.shared.count_gap(1),
            Ok(()) => {}
        }
    }

    /// The same. The queue holds them by the message, so they are counted beside it.
    fn record_repeats(&self, repeats: Vec<Repeat>) {
        let shared = &self.inner.shared;
        let (count, most) = (repeats.len(), shared.config.queue_events_max);
        let is_room = shared.repeats_queued.fetch_add(count, Ordering::AcqRel) + count <= most;
        let refused = match is_room && may_fold(&shared.config.redaction) {
            true => match self.inner.messages.try_send(Message::Repeats(repeats)) {
                Ok(()) => return,
                Err(TrySendError::Full(Message::Repeats(repeats))) => repeats,
                Err(_) => {
                    shared.repeats_queued.fetch_sub(count, Ordering::AcqRel);
                    return shared.count_gap(count as u64);
                }
            },
            false => repeats,
        };
        shared.repeats_queued.fetch_sub(count, Ordering::AcqRel);
        // Whole events find the place that is left, or the spool.
        refused.iter().for_each(|repeat| self.record(repeat.event()));
    }
}

impl Inner {
    /// The queue is full: the event goes to the spool, or is counted as lost.
    fn overflow(&self, event: Event) {
        let is_kept = self.shared.config.spool_bytes_max > 0 && {
            // Held for the time of a move, by the few who find the queue full.
            let overflow = self.overflow.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.spool.expect();
            let is_sent = overflow.as_ref().is_some_and(|overflow| overflow.try_send(event).is_ok());
            if !is_sent {
                self.shared.spool.settle(1);
            }
            is_sent
        };
        if !is_kept {
            self.shared.count_gap(1);
        }
    }

    fn stop(&self) {
        self.shared.is_stopping.store(true, Ordering::Release);
        // A writer that has ended already needs no word.
        let _ = self.messages.send(Message::Stop);
        drop(self.overflow.lock().unwrap_or_else(PoisonError::into_inner).take());
        drop(self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take());
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the store ended by a panic");
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let path = PathBuf::from(name);
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(Error::io("start the thread", &path))
}

fn lock(config: &StoreConfig) -> Result<File> {
    let path = config.directory.join("lock");
    let file = disk::create_file(&path).map_err(Error::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked(config.directory.clone())),
        Err(TryLockError::Error(source)) => Err(Error::io("lock", &path)(source)),
    }
}

/// Reads the log into memory, cuts torn tails off, and removes segments that were sealed before the crash.
fn replay(config: &StoreConfig, manifest: &Manifest) -> Result<Vec<Arc<TailSegment>>> {
    let directory = config.directory.join("wal");
    disk::create_directory(&directory)?;
    let mut segments = Vec::new();
    for (first, path) in wal::segments(&directory)? {
        let recovered = wal::read(&path)?;
        if recovered.torn_bytes > 0 {
            tracing::warn!(segment = %path.display(), bytes = recovered.torn_bytes, "cutting off the torn tail of the log");
            wal::cut(&path, recovered.whole_bytes)?;
        }
        let segment = TailSegment::new(path, first);
        for batch in recovered.batches {
            segment.push(batch, 0)?;
        }
        segment.set_log_bytes(recovered.whole_bytes);
        let last_id = segment.read().last_id;
        if segment.read().events == 0 || last_id <= manifest.sealed_through {
            disk::remove_file(&segment.path)?;
        } else {
            segments.push(Arc::new(segment));
        }
    }
    disk::sync_directory(&directory)?;
    Ok(segments)
}

fn next_sequence(config: &StoreConfig, manifest: &Manifest, segments: &[Arc<TailSegment>]) -> i64 {
    let base = i64::from(config.node) << 48;
    let last = segments.iter().map(|segment| segment.read().last_id).fold(manifest.sealed_through, i64::max);
    // A directory that belonged to another node goes on with this node's own numbers.
    (last - base).max(0) + 1
}

impl Shared {
    fn new(config: StoreConfig, manifest: Manifest, segments: Vec<Arc<TailSegment>>, spool: Spool, lock: File) -> Shared {
        Shared {
            spool,
            lake: Lake::new(config.directory.clone()),
            config,
            view: RwLock::new(View { manifest: Arc::new(manifest), segments }),
            gap_pending: AtomicU64::new(0),
            is_stopping: AtomicBool::new(false),
            repeats_queued: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            last_commit: AtomicI64::new(0),
            last_seal: AtomicI64::new(0),
            degraded: Mutex::new(None),
            merging: Mutex::new(()),
            _lock: lock,
        }
    }

    pub fn log_directory(&self) -> PathBuf {
        self.config.directory.join("wal")
    }

    pub fn view(&self) -> View {
        // A view is replaced in single assignments, so it is whole even after a panic.
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change_view(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.view.write().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn add_segment(&self, segment: Arc<TailSegment>) {
        self.change_view(|view| view.segments.push(segment));
    }

    /// Lets go of a segment in which nothing was ever made durable.
    pub fn forget_segment(&self, empty: &Arc<TailSegment>) {
        self.change_view(|view| view.segments.retain(|segment| !Arc::ptr_eq(segment, empty)));
        if let Err(error) = disk::remove_file(&empty.path) {
            tracing::warn!(%error, "an empty segment stays until the next start");
        }
    }

    pub fn count_gap(&self, events: u64) {
        self.gap_pending.fetch_add(events, Ordering::AcqRel);
        self.lost.fetch_add(events, Ordering::Relaxed);
    }

    pub fn note_commit(&self, events: u64) {
        self.committed.fetch_add(events, Ordering::Relaxed);
        self.last_commit.store(Timestamp::from(SystemTime::now()).0, Ordering::Relaxed);
    }

    /// Notes why events are lost or held, and says so once.
    pub fn degrade(&self, reason: String) {
        let mut degraded = self.degraded.lock().unwrap_or_else(PoisonError::into_inner);
        if degraded.is_none() {
            tracing::error!(%reason, "the event store is degraded");
        }
        *degraded = Some(reason);
    }

    pub fn recover_from_degradation(&self) {
        let was = self.degraded.lock().unwrap_or_else(PoisonError::into_inner).take();
        if was.is_some() {
            tracing::info!("the event store is whole again");
        }
    }

    /// Changes which files exist, in the manifest and in the view as one.
    pub fn commit(&self, change: impl Fn(&mut Manifest), sealed: Option<&Arc<TailSegment>>) -> Result<()> {
        let manifest = Arc::new(manifest::commit(&self.config.directory, change)?);
        self.lake.forget_all_but(&manifest);
        self.change_view(|view| {
            if manifest.version > view.manifest.version {
                view.manifest = manifest;
            }
            if let Some(sealed) = sealed {
                view.segments.retain(|segment| !Arc::ptr_eq(segment, sealed));
            }
        });
        Ok(())
    }

    fn stats(&self) -> Stats {
        let view = self.view();
        let files = &view.manifest.files;
        let unsealed_events = view.unsealed_events();
        let log_bytes: u64 = view.segments.iter().map(|segment| segment.read().log_bytes).sum();
        let moment = |micros: &AtomicI64| Some(micros.load(Ordering::Relaxed)).filter(|micros| *micros > 0).map(Timestamp);
        let (disk_free_bytes, disk_bytes) = disk::space(&self.config.directory).unwrap_or_default();
        let sealed_events = files.iter().filter(|file| file.kind == FileKind::Events).map(|file| file.rows).sum::<u64>();
        Stats {
            events: sealed_events + unsealed_events,
            unsealed_events,
            spooled_events: self.spool.waiting(),
            bytes: files.iter().map(|file| file.bytes).sum::<u64>() + log_bytes,
            files: files.len() as u64,
            index_bytes: self.lake.index_bytes() as u64,
            committed_events: self.committed.load(Ordering::Relaxed),
            lost_events: self.lost.load(Ordering::Relaxed),
            last_commit: moment(&self.last_commit),
            last_seal: moment(&self.last_seal),
            disk_free_bytes,
            disk_bytes,
            degraded: self.degraded.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// Seals segments in the order of the log.
fn run_sealer(shared: &Shared, jobs: &Receiver<Job>) {
    for job in jobs {
        // One number says how far sealing got, so nothing may be sealed after a segment that was not.
        if !run_job(shared, &job) {
            return;
        }
    }
}

/// Seals until it succeeds or the store is closed. False where the segment stays in the log for the next start.
fn run_job(shared: &Shared, job: &Job) -> bool {
    let mut done = seal_job(shared, job);
    while done.is_err() && !shared.is_stopping.load(Ordering::Acquire) {
        std::thread::sleep(SEAL_RETRY_WAIT);
        done = seal_job(shared, job);
    }
    let is_sealed = done.is_ok();
    if let Some(reply) = &job.reply {
        // Whoever asked may have gone.
        let _ = reply.send(done);
    }
    is_sealed
}

fn seal_job(shared: &Shared, job: &Job) -> Result<()> {
    let Some(segment) = &job.segment else { return Ok(()) };
    let sealed = seal_segment(shared, segment);
    if let Err(error) = &sealed {
        tracing::warn!(%error, "a segment could not be sealed and stays in the log");
    }
    sealed
}

fn seal_segment(shared: &Shared, segment: &Arc<TailSegment>) -> Result<()> {
    let files = seal::write_files(&shared.lake, segment)?.into_iter().map(Arc::new).collect::<Vec<_>>();
    let (last_id, spooled_through) = (segment.read().last_id, segment.read().spooled_through);
    let change = |manifest: &mut Manifest| {
        manifest.files.extend(files.iter().cloned());
        manifest.sealed_through = manifest.sealed_through.max(last_id);
        manifest.spooled_through = manifest.spooled_through.max(spooled_through);
    };
    shared.commit(change, Some(segment))?;
    shared.last_seal.store(Timestamp::from(SystemTime::now()).0, Ordering::Relaxed);
    disk::remove_file(&segment.path)?;
    disk::sync_directory(&shared.log_directory())
}
