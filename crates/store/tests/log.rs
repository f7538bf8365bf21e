//! The log from the outside: what is recorded is found, by search, by cursor and by indicator, before and after sealing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails should stop")]

mod common;

use common::{dns, open, web};
use model::{EventId, FieldId, Observable, Recorder, Timestamp, Value};
use store::{Indicator, Query};

#[test]
fn an_event_is_found_before_and_after_sealing_and_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.record(dns(1, "mia@example.com", "evil.example"));
    store.record(web(2, "noah@example.com", "evil.example", "https://evil.example/a?token=1"));
    store.flush().unwrap();
    let check = |store: &store::Store| {
        let query = Query { equalities: vec![(FieldId::HttpHost, Value::text("evil.example"))], ..Query::default() };
        let found = store.search(&query).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].id, found[0].time), (EventId(2), Timestamp::from_seconds(2)));
        let sightings = store.touched(&[Indicator::guess("Evil.example.")]).unwrap();
        let who = sightings.iter().map(|sighting| (sighting.who(), sighting.count)).collect::<Vec<_>>();
        assert_eq!(who, [("mia@example.com", 1), ("noah@example.com", 1)]);
        let urls = store.touched(&[Indicator::of(Observable::Url, "https://evil.example/a?token=2")]).unwrap();
        assert_eq!((urls.len(), urls[0].value.as_str()), (1, "https://evil.example/a"));
        let ids = store.read_from(EventId(0), 10).unwrap().iter().map(|event| event.id.0).collect::<Vec<_>>();
        assert_eq!(ids, [1, 2]);
    };
    check(&store);
    store.close().unwrap();
    let store = open(directory.path());
    check(&store);
    store.seal().unwrap();
    check(&store);
    assert_eq!((store.stats().unsealed_events, store.stats().events), (0, 2));
    store.close().unwrap();
    check(&open(directory.path()));
}

fn files(directory: &std::path::Path, below: &str) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory.join(below)) else { return Vec::new() };
    let inside = |path: std::path::PathBuf| match path.is_dir() {
        true => files(&path, ""),
        false => vec![path],
    };
    entries.flat_map(|entry| inside(entry.unwrap().path())).collect()
}

fn count(store: &store::Store) -> usize {
    store.search(&Query { limit: 1_000, ..Query::default() }).unwrap().len()
}

#[test]
fn a_seal_that_was_cut_before_the_manifest_is_done_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    (1..=5).for_each(|number| store.record(dns(number, "mia@example.com", "a.example")));
    store.close().unwrap();
    let half = directory.path().join("events/class=4003/dt=1970-01-01");
    std::fs::create_dir_all(&half).unwrap();
    for name in ["1-5.parquet", "1-5.parquet.tmp"] {
        std::fs::write(half.join(name), b"PAR1 and then the power went").unwrap();
    }
    let store = open(directory.path());
    assert_eq!(count(&store), 5);
    store.seal().unwrap();
    assert_eq!((count(&store), files(directory.path(), "wal").len()), (5, 0));
}

#[test]
fn a_seal_that_was_cut_before_the_unlink_is_not_done_twice() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    (1..=5).for_each(|number| store.record(dns(number, "mia@example.com", "a.example")));
    store.flush().unwrap();
    let segment = files(directory.path(), "wal").remove(0);
    let bytes = std::fs::read(&segment).unwrap();
    store.seal().unwrap();
    store.close().unwrap();
    std::fs::write(&segment, bytes).unwrap();
    let store = open(directory.path());
    assert_eq!((count(&store), segment.exists()), (5, false));
    store.record(dns(6, "mia@example.com", "a.example"));
    store.flush().unwrap();
    assert_eq!(store.read_from(EventId(5), 10).unwrap()[0].id, EventId(6));
}

#[test]
fn another_process_reads_beside_the_writer_and_may_not_write() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let reader = store::Reader::open(directory.path()).unwrap();
    for number in 1..=3 {
        store.record(dns(number, "mia@example.com", "a.example"));
        store.flush().unwrap();
        assert_eq!(reader.search(&Query::default()).unwrap().len() as i64, number);
        assert_eq!(reader.touched(&[Indicator::guess("a.example")]).unwrap()[0].count as i64, number);
        if number == 2 {
            store.seal().unwrap();
        }
    }
    assert_eq!(reader.read_from(EventId(1), 10).unwrap().len(), 2);
    assert!(matches!(store::Store::open(common::config(directory.path())), Err(store::Error::Locked(_))));
}

#[test]
fn merging_leaves_one_file_a_class_and_day_and_deletes_its_inputs_after_the_grace() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for round in 0..4 {
        (1..=5).for_each(|number| store.record(dns(round * 5 + number, "mia@example.com", "a.example")));
        store.record(web(1, "noah@example.com", "b.example", "https://b.example/"));
        store.seal().unwrap();
    }
    let soon = Timestamp::from_seconds(3 * 86_400);
    let compacted = store.compact(soon).unwrap();
    assert_eq!((compacted.inputs, compacted.outputs, store.stats().files), (12, 3, 3));
    assert_eq!((count(&store), files(directory.path(), "events").len()), (24, 10));
    store.compact(soon.plus_micros(600_000_000)).unwrap();
    assert_eq!((count(&store), files(directory.path(), "events").len(), files(directory.path(), "idx").len()), (24, 2, 1));
    let sightings = store.touched(&[Indicator::guess("a.example"), Indicator::guess("b.example")]).unwrap();
    assert_eq!(sightings.iter().map(|sighting| sighting.count).collect::<Vec<_>>(), [20, 4]);
}

#[test]
fn sightings_of_a_month_that_is_over_become_one_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for day in 0..20 {
        store.record(dns(day * 86_400, "mia@example.com", "a.example"));
        store.record(dns(day * 86_400 + 1, "noah@example.com", "b.example"));
        if day % 4 == 3 {
            store.seal().unwrap();
        }
    }
    store.compact(Timestamp::from_seconds(40 * 86_400)).unwrap();
    assert_eq!(files(directory.path(), "sightings_m").len(), 1);
    let check = |store: &store::Store| {
        let sightings = store.touched(&[Indicator::guess("a.example"), Indicator::guess("mia@example.com")]).unwrap();
        assert_eq!(sightings.iter().map(|sighting| sighting.count).collect::<Vec<_>>(), [20, 20]);
        assert_eq!((sightings[0].first, sightings[0].last), (Timestamp(0), Timestamp::from_seconds(19 * 86_400)));
    };
    check(&store);
    store.compact(Timestamp::from_seconds(41 * 86_400)).unwrap();
    assert!(files(directory.path(), "sightings").is_empty());
    check(&store);
    store.retain(Timestamp::from_seconds(86_400 * (19 + 730))).unwrap();
    check(&store);
    store.close().unwrap();
    let store = open(directory.path());
    check(&store);
    store.retain(Timestamp::from_seconds(86_400 * (20 + 730))).unwrap();
    assert!(store.touched(&[Indicator::guess("a.example")]).unwrap().is_empty());
}

#[test]
fn more_files_than_are_opened_at_once_are_merged_in_passes_that_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    // Ten segments, each with events of the same 30 days: 300 files of sightings whose ids overlap between days.
    for round in 0..10 {
        (0..30).for_each(|day| store.record(dns(day * 86_400 + round, "mia@example.com", "a.example")));
        store.seal().unwrap();
    }
    let count = || store.touched(&[Indicator::guess("a.example")]).unwrap().iter().map(|sighting| sighting.count).sum::<u64>();
    store.compact(Timestamp::from_seconds(40 * 86_400)).unwrap();
    assert_eq!((count(), store.stats().files), (300, 31));
    store.compact(Timestamp::from_seconds(41 * 86_400)).unwrap();
    assert_eq!((count(), files(directory.path(), "sightings_m").len(), files(directory.path(), "sightings").len()), (300, 1, 0));
}

#[test]
fn retention_removes_whole_days_and_keeps_sightings_longer() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.record(dns(0, "mia@example.com", "old.example"));
    store.record(dns(86_400 * 50, "mia@example.com", "new.example"));
    store.seal().unwrap();
    let retained = store.retain(Timestamp::from_seconds(86_400 * 100)).unwrap();
    assert_eq!((retained.files, retained.events, count(&store)), (1, 1, 1));
    assert_eq!(store.touched(&[Indicator::guess("old.example")]).unwrap().len(), 1);
    store.retain(Timestamp::from_seconds(86_400 * 1_000)).unwrap();
    assert_eq!((count(&store), store.touched(&[Indicator::guess("old.example")]).unwrap().len()), (0, 0));
    assert!(files(directory.path(), "events").is_empty() && files(directory.path(), "idx").is_empty());
}

#[test]
fn only_the_owner_can_read_what_is_stored() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store"));
    store.record(dns(1, "mia@example.com", "a.example"));
    store.seal().unwrap();
    store.record(dns(2, "mia@example.com", "a.example"));
    store.flush().unwrap();
    for path in files(&directory.path().join("store"), "") {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
        assert_eq!(path.parent().unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o700, "{}", path.display());
    }
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |config: store::StoreConfig| store::Store::open(config).err().map(|error| error.to_string());
    let good = common::config(directory.path());
    let redaction = store::Redaction { columns: vec!["user_nam".into()], ..store::Redaction::default() };
    assert!(refused(store::StoreConfig { redaction, ..good.clone() }).unwrap().contains("user_nam"));
    assert!(refused(store::StoreConfig { commit_events: 0, ..good.clone() }).unwrap().contains("commit_events"));
    assert!(refused(store::StoreConfig { node: 40_000, ..good }).unwrap().contains("node"));
}
