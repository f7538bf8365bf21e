//! A user who is erased is in no file, no filter and no answer afterwards, and nobody else is missing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails should stop")]

mod common;

use std::path::Path;

use common::{config, dns, event, open, web};
use model::{FieldId, Gate, Recorder, Timestamp, Value};
use store::{Erased, Indicator, Query, Store, StoreConfig};

const MIA: &str = "mia@example.com";
const NOAH: &str = "noah@example.com";

fn users(store: &Store) -> Vec<String> {
    let events = store.search(&Query { limit: 1_000, newest_first: false, ..Query::default() }).unwrap();
    let user = |facts: &model::Facts| facts.get(FieldId::UserEmail).map(ToString::to_string).unwrap_or_default();
    events.iter().map(|event| user(&event.facts)).collect()
}

/// Whether any file below holds these bytes. Parquet's statistics hold a text as it is, and so do small dictionaries.
fn is_anywhere(directory: &Path, text: &str) -> bool {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).any(|path| match path.is_dir() {
        true => is_anywhere(&path, text),
        false => std::fs::read(path).unwrap().windows(text.len()).any(|window| window == text.as_bytes()),
    })
}

fn fill(store: &Store) {
    for day in 0..3 {
        store.record(dns(day * 86_400 + 1, "Mia@Example.com", "a.example"));
        store.record(dns(day * 86_400 + 2, NOAH, "a.example"));
        store.record(web(day * 86_400 + 3, MIA, "only-mia.example", "https://only-mia.example/x"));
        store.record(event(Gate::Dns, day * 86_400 + 4, vec![(FieldId::DnsFqdn, Value::text("nobody.example"))]));
        store.seal().unwrap();
    }
}

fn check_gone(store: &Store, directory: &Path) {
    assert_eq!(users(store), [NOAH, "", NOAH, "", NOAH, ""]);
    let met = store.touched(&[Indicator::guess("a.example"), Indicator::guess("nobody.example")]).unwrap();
    assert_eq!(met.iter().map(|sighting| (sighting.user.as_str(), sighting.count)).collect::<Vec<_>>(), [(NOAH, 3), ("", 3)]);
    for gone in [MIA, "only-mia.example", "https://only-mia.example/x"] {
        assert!(store.touched(&[Indicator::guess(gone)]).unwrap().is_empty(), "{gone}");
    }
    for (text, is_there) in [("ia@example.com", false), ("ia@Example.com", false), ("only-mia", false), (NOAH, true)] {
        assert_eq!(is_anywhere(directory, text), is_there, "{text}");
    }
}

#[test]
fn an_erased_user_is_in_no_file_and_no_answer() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    fill(&store);
    store.record(dns(100, MIA, "a.example"));
    // Each day the user, two hosts and a URL; then the user and a host. Three files a day and two of what was not sealed.
    assert_eq!(store.erase("MIA@example.com").unwrap(), Erased { events: 7, sightings: 14, files: 11 });
    check_gone(&store, directory.path());
    assert_eq!(store.erase(MIA).unwrap(), Erased::default());
    store.close().unwrap();
    check_gone(&open(directory.path()), directory.path());
}

#[test]
fn inputs_of_merges_and_monthly_sightings_go_too() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    fill(&store);
    store.compact(Timestamp::from_seconds(40 * 86_400)).unwrap();
    let erased = store.erase(MIA).unwrap();
    assert_eq!((erased.events, erased.files > 3), (6, true));
    check_gone(&store, directory.path());
    store.compact(Timestamp::from_seconds(41 * 86_400)).unwrap();
    check_gone(&store, directory.path());
}

#[test]
fn the_delta_log_lets_go_of_what_was_erased_and_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let with_log = || Store::open(StoreConfig { delta_log: true, ..config(directory.path()) }).unwrap();
    let store = with_log();
    fill(&store);
    store.compact(Timestamp::from_seconds(86_400)).unwrap();
    store.erase(MIA).unwrap();
    store.close().unwrap();
    let log = |version: u64| directory.path().join(format!("events/_delta_log/{version:020}.json"));
    let second = std::fs::read_to_string(log(1)).unwrap();
    let count = |action: &str| second.lines().filter(|line| line.starts_with(&format!("{{\"{action}\""))).count();
    assert_eq!((count("remove"), count("add")), (6, 3), "web files held nobody else");
    drop(with_log());
    assert!(log(0).exists() && log(1).exists() && !log(2).exists());
}
