//! What the store does when the disk takes no more, and when events come faster than it can write.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use model::{Class, Event, EventId, Facts, FieldId, Gate, Recorder, Timestamp, Value};

use crate::wal::{OpenSegment, SegmentFile, open_file};
use crate::{DiskFull, Query, Store, StoreConfig};

/// A disk that refuses as many appends as it is told to, and waits before each sync while its gate is held.
#[derive(Default)]
struct Disk {
    refusals: AtomicI64,
    gate: Mutex<()>,
}

struct File {
    disk: Arc<Disk>,
    file: Box<dyn SegmentFile>,
}

impl SegmentFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.disk.refusals.fetch_sub(1, Ordering::SeqCst) > 0 {
            // A full disk takes a part of what it is given.
            self.file.append(&bytes[..bytes.len() / 2])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        drop(self.disk.gate.lock());
        self.file.sync()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file.truncate(length)
    }
}

fn open(directory: &Path, disk: &Arc<Disk>, config: StoreConfig) -> Store {
    let disk = Arc::clone(disk);
    let open: OpenSegment = Box::new(move |path| Ok(Box::new(File { disk: Arc::clone(&disk), file: open_file(path)? })));
    let config = StoreConfig { directory: directory.to_path_buf(), seal_after_seconds: 3_600, ..config };
    Store::open_with(config, open).unwrap()
}

fn event(number: i64) -> Event {
    let mut facts = Facts::new(Gate::Dns);
    facts.set(FieldId::Reference, Value::text(number.to_string()));
    Event { id: EventId(0), time: Timestamp::from_seconds(number * 86_400), class: Class::DnsActivity, facts }
}

fn all(store: &Store) -> Vec<Event> {
    store.search(&Query { limit: 100_000, newest_first: false, ..Query::default() }).unwrap()
}

/// Lost events by the gap events of the record.
fn told(events: &[Event]) -> i64 {
    let lost = |event: &Event| {
        let extra = event.facts.get(FieldId::Extra)?.as_text()?.to_owned();
        assert_eq!(event.facts.get(FieldId::Failure), Some(&Value::text("gap")));
        serde_json::from_str::<serde_json::Value>(&extra).ok()?.get("lost_events")?.as_i64()
    };
    events.iter().filter_map(lost).sum()
}

#[test]
fn dropping_loses_what_does_not_fit_and_says_how_many() {
    let (directory, disk) = (tempfile::tempdir().unwrap(), Arc::new(Disk::default()));
    let store = open(directory.path(), &disk, StoreConfig::default());
    store.record(event(1));
    store.flush().unwrap();
    disk.refusals.store(1_000, Ordering::SeqCst);
    store.record(event(2));
    store.record(event(3));
    // The events may be lost by the commit that the flush asks for or by the one before it.
    let _ = store.flush();
    assert!(store.flush().is_err(), "the gap event cannot be written either");
    assert_eq!((store.stats().lost_events, store.stats().degraded.is_some()), (2, true));
    disk.refusals.store(0, Ordering::SeqCst);
    store.record(event(4));
    store.flush().unwrap();
    assert_eq!(store.stats().degraded, None);
    let check = |store: &Store| {
        let events = all(store);
        let kept = events.iter().filter(|event| event.class == Class::DnsActivity).count();
        assert_eq!((kept, told(&events)), (2, 2));
    };
    check(&store);
    store.seal().unwrap();
    check(&store);
    drop(store);
    check(&open(directory.path(), &disk, StoreConfig::default()));
}

#[test]
fn holding_loses_nothing_when_the_disk_comes_back() {
    let (directory, disk) = (tempfile::tempdir().unwrap(), Arc::new(Disk::default()));
    let store = open(directory.path(), &disk, StoreConfig { disk_full: DiskFull::Hold, ..StoreConfig::default() });
    disk.refusals.store(2, Ordering::SeqCst);
    (1..=10).for_each(|number| store.record(event(number)));
    store.flush().unwrap();
    assert_eq!((all(&store).len(), store.stats().lost_events), (10, 0));
}

#[test]
fn evicting_makes_room_by_the_oldest_day() {
    let (directory, disk) = (tempfile::tempdir().unwrap(), Arc::new(Disk::default()));
    let store = open(directory.path(), &disk, StoreConfig { disk_full: DiskFull::Evict, ..StoreConfig::default() });
    (1..=3).for_each(|number| store.record(event(number)));
    store.seal().unwrap();
    disk.refusals.store(1, Ordering::SeqCst);
    store.record(event(4));
    store.flush().unwrap();
    let days = all(&store).iter().map(|event| event.time.seconds() / 86_400).collect::<Vec<_>>();
    assert_eq!((days, store.stats().lost_events), (vec![2, 3, 4], 0));
}

#[test]
fn a_disk_over_its_watermark_loses_its_oldest_days_but_never_today() {
    let (directory, disk) = (tempfile::tempdir().unwrap(), Arc::new(Disk::default()));
    let store = open(directory.path(), &disk, StoreConfig::default());
    (1..=4).for_each(|number| store.record(event(number)));
    store.seal().unwrap();
    let now = Timestamp::from_seconds(4 * 86_400 + 60);
    let sealed = || store.stats().bytes;
    // The store alone fills nine tenths of this disk; without one day it is below the watermark.
    let disk_bytes = sealed() * 10 / 9;
    store.relieve_disk(now, || Ok((disk_bytes - sealed(), disk_bytes))).unwrap();
    assert_eq!(all(&store).len(), 3);
    store.relieve_disk(now, || Ok((0, sealed()))).unwrap();
    let days = all(&store).iter().map(|event| event.time.seconds() / 86_400).collect::<Vec<_>>();
    assert_eq!(days, [4], "today's events stay however full the disk is");
}

#[test]
fn an_overflowing_queue_goes_to_the_spool_and_loses_nothing() {
    let (directory, disk) = (tempfile::tempdir().unwrap(), Arc::new(Disk::default()));
    let small = StoreConfig { queue_events_max: 8, commit_events: 4, ..StoreConfig::default() };
    let store = open(directory.path(), &disk, small.clone());
    let held = disk.gate.lock().unwrap();
    (1..=100).for_each(|number| store.record(event(number)));
    assert!(store.stats().spooled_events > 0);
    drop(held);
    store.flush().unwrap();
    let numbers = |events: &[Event]| {
        let number = |event: &Event| event.facts.get(FieldId::Reference)?.as_text()?.parse::<i64>().ok();
        let mut numbers = events.iter().filter_map(number).collect::<Vec<_>>();
        numbers.sort_unstable();
        numbers
    };
    let check = |store: &Store| {
        assert_eq!(numbers(&all(store)), (1..=100).collect::<Vec<_>>());
        assert_eq!((store.stats().lost_events, store.stats().spooled_events), (0, 0));
    };
    check(&store);
    store.seal().unwrap();
    check(&store);
    drop(store);
    check(&open(directory.path(), &disk, small));
    assert_eq!(std::fs::read_dir(directory.path().join("spool")).unwrap().count(), 0);
}

#[test]
fn what_a_crash_left_in_the_spool_is_taken_up_once() {
    let (directory, disk) = (tempfile::tempdir().unwrap(), Arc::new(Disk::default()));
    let small = StoreConfig { queue_events_max: 8, commit_events: 4, ..StoreConfig::default() };
    let store = open(directory.path(), &disk, small.clone());
    let held = disk.gate.lock().unwrap();
    (1..=60).for_each(|number| store.record(event(number)));
    // The spool's thread needs no gate; once its files hold all that the queue did not take, they are what a crash leaves.
    let spool = directory.path().join("spool");
    let copy = tempfile::tempdir().unwrap();
    let waiting = store.stats().spooled_events;
    let frames = || std::fs::read_dir(&spool).unwrap().flat_map(|entry| crate::wal::frames(&entry.unwrap().path()).unwrap());
    let spooled = || frames().flat_map(|(batches, _)| batches).map(|batch| batch.num_rows() as u64).sum::<u64>();
    while spooled() < waiting {
        std::thread::yield_now();
    }
    for entry in std::fs::read_dir(&spool).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    drop(held);
    store.flush().unwrap();
    store.seal().unwrap();
    drop(store);
    // As if the unlinking had not reached the disk: the log has taken these frames up already.
    for entry in std::fs::read_dir(copy.path()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, spool.join(path.file_name().unwrap())).unwrap();
    }
    let store = open(directory.path(), &disk, small.clone());
    store.flush().unwrap();
    assert_eq!(all(&store).len(), 60);
    drop(store);
    // As if the crash had come before anything was taken up: a new directory with the spool alone.
    let fresh = tempfile::tempdir().unwrap();
    std::fs::create_dir(fresh.path().join("spool")).unwrap();
    for entry in std::fs::read_dir(copy.path()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, fresh.path().join("spool").join(path.file_name().unwrap())).unwrap();
    }
    let store = open(fresh.path(), &disk, small);
    store.flush().unwrap();
    assert_eq!(all(&store).len() as u64, waiting);
}

#[test]
fn without_a_spool_an_overflowing_queue_is_counted_and_recording_never_waits() {
    let (directory, disk) = (tempfile::tempdir().unwrap(), Arc::new(Disk::default()));
    let small = StoreConfig { queue_events_max: 8, commit_events: 4, spool_bytes_max: 0, ..StoreConfig::default() };
    let store = open(directory.path(), &disk, small);
    let held = disk.gate.lock().unwrap();
    (1..=100).for_each(|number| store.record(event(number)));
    drop(held);
    store.flush().unwrap();
    store.flush().unwrap();
    let events = all(&store);
    let kept = events.iter().filter(|event| event.class == Class::DnsActivity).count() as i64;
    assert!(kept < 100);
    assert_eq!(kept + told(&events), 100);
    assert_eq!(told(&events), store.stats().lost_events as i64);
}
