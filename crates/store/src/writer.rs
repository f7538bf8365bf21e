//! The one thread that writes the log: it gathers events into group commits, makes each durable before anyone sees it,
//! and hands full segments to the sealer. What it cannot keep it counts and says so with a gap event.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime};

use arrow::record_batch::RecordBatch;
use model::{Class, Disposition, Event, EventId, Facts, FieldId, Gate, Repeat, Severity, Timestamp, Value};

use crate::config::{DiskFull, Redaction};
use crate::repeats::{Numbers, Repeats};
use crate::store::{Job, Shared};
use crate::tail::TailSegment;
use crate::wal::{self, OpenSegment, Segment};
use crate::{Error, Result, batch, spool};

/// How long a writer that holds events waits before it tries a full disk again.
const HOLD_WAIT: Duration = Duration::from_millis(500);

/// How long the writer looks away while it gathers. In this time a tenth of the queue comes at the highest rate that all gates
/// reach together, and a flush waits for it at most.
const GATHER_SLICE: Duration = Duration::from_millis(10);

/// How long the writer waits for events before it takes a frame of the spool up.
const SPOOL_WAIT: Duration = Duration::from_millis(1);

/// Log bytes of one segment before it is sealed, however few its events: a quarter of what the offsets of a column reach.
const SEGMENT_BYTES_MAX: u64 = 512 << 20;

/// Value of `event.failure` in a gap event.
const GAP: &str = "gap";

/// What reaches the writer through the queue.
pub(crate) enum Message {
    Event(Event),
    /// Events that follow patterns, which came together.
    Repeats(Vec<Repeat>),
    /// Everything before this must be durable and visible; the answer says whether it is.
    Flush(Sender<Result<()>>),
    /// As a flush, then the segment goes to the sealer and the answer comes from there.
    Seal(Sender<Result<()>>),
    Stop,
}

pub(crate) struct Writer {
    pub shared: Arc<Shared>,
    pub jobs: Sender<Job>,
    pub open: OpenSegment,
    pub next_sequence: i64,
    pub current: Option<Current>,
    pub pending: Pending,
    /// When the spool is next looked at; later where the disk refused it.
    pub absorb_from: Instant,
    /// The last commit was not full, so the queue was empty when it was made.
    pub has_room: bool,
}

/// Events that are not yet written.
#[derive(Default)]
pub(crate) struct Pending {
    events: Vec<Event>,
    repeats: Vec<Repeat>,
}

impl Pending {
    fn len(&self) -> usize {
        self.events.len() + self.repeats.len()
    }
}

/// The segment being written, on disk and in memory.
pub(crate) struct Current {
    log: Segment,
    tail: Arc<TailSegment>,
    numbers: Numbers,
    events: usize,
    since: Instant,
}

/// Frames that are written together, and what each holds with its length.
#[derive(Default)]
struct Appended {
    /// The first id of their events.
    first: i64,
    frames: Vec<u8>,
    whole: Option<(RecordBatch, u64)>,
    folded: Option<(Repeats, u64)>,
}

enum Next {
    Go,
    Stop,
}

impl Writer {
    pub fn run(mut self, messages: &Receiver<Message>) {
        loop {
            self.has_room = false;
            let next = match messages.recv_timeout(self.patience()) {
                Ok(message) => self.receive(message, messages),
                Err(RecvTimeoutError::Timeout) => {
                    self.has_room = true;
                    Next::Go
                }
                Err(RecvTimeoutError::Disconnected) => Next::Stop,
            };
            // A failure has been counted where it happened; a flush asks for it by name. What is spooled stays spooled.
            let _ = self.record_gap();
            self.absorb_at_leisure();
            if self.is_due() {
                self.hand_over(None);
            }
            if matches!(next, Next::Stop) {
                let _ = self.commit();
                return;
            }
        }
    }

    /// Takes a frame of the spool up where the queue leaves time for it.
    fn absorb_at_leisure(&mut self) {
        if !self.has_room || self.shared.spool.waiting() == 0 || Instant::now() < self.absorb_from {
            return;
        }
        if let Err(error) = self.absorb() {
            self.shared.degrade(format!("spooled events cannot be written: {error}"));
            self.absorb_from = Instant::now() + HOLD_WAIT;
        }
    }

    fn patience(&self) -> Duration {
        let seal_after = Duration::from_secs(self.shared.config.seal_after_seconds);
        let left = self.current.as_ref().map_or(seal_after, |current| seal_after.saturating_sub(current.since.elapsed()));
        // A gap is told within a second even when no event follows it; the spool is taken up as soon as the queue is empty.
        let until_absorbed = self.absorb_from.saturating_duration_since(Instant::now()).max(SPOOL_WAIT);
        let longest = if self.shared.spool.waiting() > 0 { until_absorbed } else { Duration::from_secs(1) };
        left.min(longest)
    }

    fn receive(&mut self, message: Message, messages: &Receiver<Message>) -> Next {
        match message {
            Message::Event(_) | Message::Repeats(_) => {
                self.take(message);
                self.gather(messages)
            }
            other => self.control(other),
        }
    }

    /// Waits for company until the commit is full or its first event has waited long enough. It sleeps instead of waiting for
    /// each event: being woken for every one costs both sides more than writing it does.
    fn gather(&mut self, messages: &Receiver<Message>) -> Next {
        let deadline = Instant::now() + self.shared.config.commit_wait();
        loop {
            while self.pending.len() < self.shared.config.commit_events {
                match messages.try_recv() {
                    Ok(message @ (Message::Event(_) | Message::Repeats(_))) => self.take(message),
                    Ok(other) => return self.control(other),
                    Err(_) => break,
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.pending.len() >= self.shared.config.commit_events {
                self.has_room = self.pending.len() < self.shared.config.commit_events;
                let _ = self.commit();
                return Next::Go;
            }
            std::thread::sleep(left.min(GATHER_SLICE));
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Event(event) => self.pending.events.push(event),
            Message::Repeats(mut repeats) => {
                self.shared.repeats_queued.fetch_sub(repeats.len(), Ordering::AcqRel);
                self.pending.repeats.append(&mut repeats);
            }
            Message::Flush(_) | Message::Seal(_) | Message::Stop => {}
        }
    }

    fn control(&mut self, message: Message) -> Next {
        match message {
            Message::Event(_) | Message::Repeats(_) => self.take(message),
            Message::Flush(reply) => {
                let done = self.commit().and_then(|()| self.absorb_all()).and_then(|()| self.record_gap());
                // Whoever asked may have gone.
                let _ = reply.send(done);
            }
            Message::Seal(reply) => {
                let done = self.commit().and_then(|()| self.absorb_all()).and_then(|()| self.record_gap());
                match done {
                    Ok(()) => self.hand_over(Some(reply)),
                    failed => drop(reply.send(failed)),
                }
            }
            Message::Stop => return Next::Stop,
        }
        Next::Go
    }

    /// Makes the pending events durable and visible, or treats them as the declared mode says.
    fn commit(&mut self) -> Result<()> {
        if self.pending.len() == 0 {
            return Ok(());
        }
        let events = std::mem::take(&mut self.pending);
        let mut attempt = self.append(&events);
        let mut has_evicted = false;
        while let Err(error) = &attempt {
            self.shared.degrade(format!("events cannot be written: {error}"));
            match self.shared.config.disk_full {
                DiskFull::Hold if !self.shared.is_stopping.load(Ordering::Acquire) => std::thread::sleep(HOLD_WAIT),
                DiskFull::Evict if !has_evicted && self.shared.evict_oldest_day().is_ok_and(|evicted| evicted) => {
                    has_evicted = true
                }
                _ => break,
            }
            attempt = self.append(&events);
        }
        match attempt {
            Ok(()) => {
                self.shared.recover_from_degradation();
                Ok(())
            }
            Err(error) => {
                self.shared.count_gap(events.len() as u64);
                Err(Error::NotDurable(error.to_string()))
            }
        }
    }

    fn append(&mut self, pending: &Pending) -> Result<()> {
        let mut first = self.first_id(pending.len())?;
        let redaction = self.shared.config.redaction.clone();
        let mut appended = Appended { first, ..Appended::default() };
        if !pending.events.is_empty() {
            let batch = batch::encode(&pending.events, first, &redaction)?;
            appended.frames = wal::frame(&batch)?;
            appended.whole = Some((batch, appended.frames.len() as u64));
            first += pending.events.len() as i64;
        }
        if !pending.repeats.is_empty() {
            self.fold(&pending.repeats, first, &redaction, &mut appended)?;
        }
        self.append_frames(appended)
    }

    /// Adds the frame of events that follow patterns. Where that fails the segment ends, for its numbers have gone on.
    fn fold(&mut self, repeats: &[Repeat], first: i64, redaction: &Redaction, appended: &mut Appended) -> Result<()> {
        let folded = self.current(appended.first)?.numbers.fold(repeats, first, redaction);
        let framed = folded.and_then(|folded| Ok((wal::frame_repeats(&folded)?, folded)));
        let (frame, folded) = framed.inspect_err(|_| self.hand_over(None))?;
        appended.folded = Some((folded, frame.len() as u64));
        match appended.frames.is_empty() {
            true => appended.frames = frame,
            false => appended.frames.extend_from_slice(&frame),
        }
        Ok(())
    }

    /// The first of as many ids, where there is room for as many events.
    fn first_id(&mut self, events: usize) -> Result<i64> {
        if self.shared.view().unsealed_events() + events as u64 > self.shared.config.unsealed_events_max as u64 {
            return Err(Error::NotDurable("too many events wait to be sealed".to_owned()));
        }
        let first = i64::from(self.shared.config.node) << 48 | self.next_sequence;
        // Ids of a failed commit are not used again: its bytes may have reached the disk after all.
        self.next_sequence += events as i64;
        Ok(first)
    }

    /// Takes one frame of the spool up. False where there is none.
    fn absorb(&mut self) -> Result<bool> {
        let mut lost = 0;
        let peeked = self.shared.spool.peek(&mut lost);
        if lost > 0 {
            self.shared.count_gap(lost);
        }
        let Some(spooled) = peeked? else { return Ok(false) };
        let first = self.first_id(spooled.batch.num_rows())?;
        let batch = spool::mark(batch::with_ids(&spooled.batch, first)?, spooled.position)?;
        self.append_batch(batch, first)?;
        self.shared.spool.take(&spooled)?;
        Ok(true)
    }

    /// Takes up everything that was spooled before this was called.
    fn absorb_all(&mut self) -> Result<()> {
        let mut left = self.shared.spool.waiting();
        while left > 0 && self.shared.spool.waiting() > 0 {
            let before = self.shared.spool.waiting();
            if !self.absorb()? {
                // Still in the memory of the spool's thread.
                std::thread::sleep(SPOOL_WAIT);
            }
            left = left.saturating_sub(before.saturating_sub(self.shared.spool.waiting()));
            if self.is_due() {
                self.hand_over(None);
            }
        }
        Ok(())
    }

    fn append_batch(&mut self, batch: RecordBatch, first: i64) -> Result<()> {
        let frames = wal::frame(&batch)?;
        let length = frames.len() as u64;
        self.append_frames(Appended { first, frames, whole: Some((batch, length)), folded: None })
    }

    /// Makes frames durable, all or none, and their events visible.
    fn append_frames(&mut self, appended: Appended) -> Result<()> {
        let Appended { first, frames, whole, folded } = appended;
        let current = self.current(first)?;
        if let Err(source) = current.log.commit(&frames) {
            let path = current.tail.path.clone();
            // After a failed sync nothing is known about this file's pages; the next commit begins a new one.
            self.hand_over(None);
            return Err(Error::Io { doing: "append to", path, source });
        }
        let mut events = 0;
        if let Some((batch, length)) = whole {
            events += batch.num_rows();
            current.tail.push(batch, length)?;
        }
        if let Some((folded, length)) = folded {
            events += folded.rows.len();
            current.tail.push_repeats(folded, length)?;
        }
        current.events += events;
        self.shared.note_commit(events as u64);
        Ok(())
    }

    /// The segment that is being written; a new one is named after the first id in it.
    fn current(&mut self, first: i64) -> Result<&mut Current> {
        let current = match self.current.take() {
            Some(current) => current,
            None => self.begin(first)?,
        };
        Ok(self.current.insert(current))
    }

    fn begin(&mut self, first: i64) -> Result<Current> {
        let (log, path) = Segment::create(&self.shared.log_directory(), first, &mut self.open)?;
        let tail = Arc::new(TailSegment::new(path, first));
        self.shared.add_segment(Arc::clone(&tail));
        Ok(Current { log, tail, numbers: Numbers::default(), events: 0, since: Instant::now() })
    }

    fn is_due(&self) -> bool {
        self.current.as_ref().is_some_and(|current| {
            current.events >= self.shared.config.seal_events
                || current.numbers.are_many()
                || current.tail.read().log_bytes >= SEGMENT_BYTES_MAX
                || current.since.elapsed().as_secs() >= self.shared.config.seal_after_seconds
        })
    }

    fn hand_over(&mut self, reply: Option<Sender<Result<()>>>) {
        let segment = self.current.take().map(|current| current.tail).filter(|segment| {
            let is_empty = segment.read().events == 0;
            if is_empty {
                self.shared.forget_segment(segment);
            }
            !is_empty
        });
        if segment.is_none() && reply.is_none() {
            return;
        }
        // The sealer ends after the writer; were it gone, the segment would be sealed by the next start.
        let _ = self.jobs.send(Job { segment, reply });
    }

    /// Writes an event about what was lost, so that the record says where it has a hole.
    fn record_gap(&mut self) -> Result<()> {
        let lost = self.shared.gap_pending.swap(0, Ordering::AcqRel);
        if lost == 0 {
            return Ok(());
        }
        tracing::warn!(events = lost, "events were lost");
        let appended = self.append(&Pending { events: vec![gap_event(lost)], repeats: Vec::new() });
        if appended.is_err() {
            self.shared.gap_pending.fetch_add(lost, Ordering::AcqRel);
        }
        appended
    }
}

fn gap_event(lost: u64) -> Event {
    let mut facts = Facts::new(Gate::Api);
    let values = [
        (FieldId::Failure, Value::text(GAP)),
        (FieldId::SeverityId, Value::Int(Severity::High.id())),
        (FieldId::DispositionId, Value::Int(Disposition::Error.id())),
        (FieldId::ActionId, Value::Int(Disposition::Error.action_id())),
        (FieldId::VerdictOutcome, Value::text(Disposition::Error.as_str())),
        (FieldId::Findings, Value::texts([format!("store: {lost} events were lost")])),
        (FieldId::Extra, Value::text(serde_json::json!({ "lost_events": lost }).to_string())),
    ];
    for (field, value) in values {
        facts.set(field, value);
    }
    Event { id: EventId(0), time: Timestamp::from(SystemTime::now()), class: Class::DetectionFinding, facts }
}
