//! A small directory of each format version is kept as it was written, and this version must read it: the same events, the
//! same answers. It holds files of events of three classes, merged and not, sightings of a month and of a day with their
//! indexes, a log that is not sealed, and a Delta log. `SEKISHO_WRITE_SAMPLE=1` writes the one of a new version; those of
//! older versions are never written again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails should stop")]

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use common::{config, event};
use model::{EventId, FIELDS, FieldId, Gate, Recorder, Timestamp, Type, Value};
use store::{Indicator, Query, Reader, Store, StoreConfig};

/// 2026-01-05, 2026-02-03 and 2026-02-10.
const DAYS: [i64; 3] = [1_767_571_200, 1_770_076_800, 1_770_681_600];

const SAMPLE_BYTES_MAX: u64 = 300 * 1024;

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sample")
}

/// A value of each type that says which field it is of.
fn value(field: FieldId, number: i64) -> Option<Value> {
    let (place, name) = (field.index() as i64, field.row().name);
    let ip = IpAddr::V4(Ipv4Addr::from(0xC000_0200 + (place + number) as u32 % 256));
    Some(match field.row().ty {
        Type::Bool => Value::Bool(place % 2 == 0),
        Type::Int => Value::Int(place * 1_000 + number),
        Type::Ip => Value::Ip(ip),
        Type::Text => Value::text(format!("{name} {number}")),
        Type::Ints => Value::ints([place, number]),
        Type::Ips => Value::ips([ip]),
        Type::Texts => Value::texts([name, "\u{fc}"]),
        Type::Time | Type::TextMap => return None,
    })
}

/// An event with a value in every column that its gate can fill.
fn full(gate: Gate, seconds: i64, number: i64) -> model::Event {
    let fields = FieldId::all().filter(|field| field.row().station(gate).is_some() && !field.row().column.is_empty());
    let mut values = fields.filter_map(|field| Some((field, value(field, number)?))).collect::<Vec<_>>();
    values.retain(|(field, _)| *field != FieldId::GateName);
    event(gate, seconds, values)
}

fn plain(seconds: i64, user: &str, host: &str, blocked: bool) -> model::Event {
    let action = Value::Int(if blocked { 2 } else { 1 });
    let values = vec![
        (FieldId::UserEmail, Value::text(user)),
        (FieldId::DnsFqdn, Value::text(host)),
        (FieldId::SourceIp, Value::Ip(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)))),
        (FieldId::ActionId, action),
    ];
    event(Gate::Dns, seconds, values)
}

/// What the sample records: full events of three gates, then plain ones.
fn record(store: &Store, day: i64) {
    for (number, gate) in [Gate::Dns, Gate::Web, Gate::L4].into_iter().enumerate() {
        store.record(full(gate, day + number as i64, number as i64));
    }
    for number in 0..20 {
        let user = ["mia@example.com", "noah@example.com"][number as usize % 2];
        store.record(plain(day + 60 + number, user, &format!("host{}.example", number % 5), number % 4 == 0));
    }
    store.record(plain(day + 100, "mia@example.com", "xn--bcher-kva.example", false));
}

fn write(directory: &Path) {
    let made = tempfile::tempdir().unwrap();
    let store = Store::open(StoreConfig { delta_log: true, ..config(made.path()) }).unwrap();
    for half in [0, 3_600] {
        record(&store, DAYS[0] + half);
        store.seal().unwrap();
    }
    record(&store, DAYS[1]);
    store.seal().unwrap();
    let now = Timestamp::from_seconds(DAYS[2]);
    store.compact(now).unwrap();
    store.compact(now.plus_micros(3_600_000_000)).unwrap();
    record(&store, DAYS[2]);
    store.flush().unwrap();
    copy(made.path(), directory);
    // A directory that is closed has the same log; only the lock goes, and all manifests but the newest.
    std::fs::remove_file(directory.join("lock")).unwrap();
    let mut manifests =
        std::fs::read_dir(directory.join("_manifest")).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    manifests.sort();
    manifests.pop();
    manifests.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    std::fs::write(directory.with_extension("events"), listed(directory)).unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.as_ref().unwrap().file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

fn bytes(directory: &Path) -> u64 {
    let bytes_of = |path: PathBuf| if path.is_dir() { bytes(&path) } else { std::fs::metadata(&path).unwrap().len() };
    std::fs::read_dir(directory).unwrap().map(|entry| bytes_of(entry.unwrap().path())).sum()
}

/// Every event, one line each, with all its facts.
fn listed(directory: &Path) -> String {
    let events = Reader::open(directory).unwrap().read_from(EventId(0), 1_000).unwrap();
    let line = |event: &model::Event| {
        let mut facts = event.facts.iter().map(|(field, value)| format!("{}={value:?}", field.row().name)).collect::<Vec<_>>();
        facts.sort();
        format!("{} {} {} {}\n", event.id.0, event.time.0, event.class.uid(), facts.join("; "))
    };
    events.iter().map(line).collect()
}

/// What is known of every sample, whatever its version.
fn check(store: &Store) {
    let count = |query: Query<'_>| store.search(&Query { limit: 1_000, ..query }).unwrap().len();
    let is = |field, text: &str| Query { equalities: vec![(field, Value::text(text))], ..Query::default() };
    assert_eq!(count(Query::default()), 4 * 24);
    assert_eq!(count(is(FieldId::DnsFqdn, "host2.example")), 4 * 4);
    assert_eq!(count(is(FieldId::UserEmail, "noah@example.com")), 4 * 10);
    assert_eq!(count(is(FieldId::DnsFqdn, "absent.example")), 0);
    let met = |value: &str| {
        let found = store.touched(&[Indicator::guess(value)]).unwrap();
        found.into_iter().map(|sighting| (sighting.user, sighting.count, sighting.blocked)).collect::<Vec<_>>()
    };
    let who = |user: &str, count, blocked| (user.to_owned(), count, blocked);
    assert_eq!(met("host2.example"), [who("mia@example.com", 8, 4), who("noah@example.com", 8, 0)]);
    assert_eq!(met("b\u{fc}cher.example"), [who("mia@example.com", 4, 0)]);
    assert_eq!(met("192.0.2.7").iter().map(|(_, count, _)| count).sum::<u64>(), 4 * 21);
    assert_eq!(met("absent.example"), []);
}

#[test]
fn every_sample_is_read_as_it_was_written() {
    let newest = samples().join("v1");
    if std::env::var_os("SEKISHO_WRITE_SAMPLE").is_some() && !newest.exists() {
        write(&newest);
    }
    assert!(store::schema_json().contains("\"events.v1\""), "a new version of the schema needs a sample of its own");
    let mut seen = 0;
    for entry in std::fs::read_dir(samples()).unwrap() {
        let sample = entry.unwrap().path();
        if !sample.is_dir() {
            continue;
        }
        seen += 1;
        assert!(bytes(&sample) < SAMPLE_BYTES_MAX, "{} bytes", bytes(&sample));
        // A reader changes nothing; the store may, so that it gets a copy.
        let expected = std::fs::read_to_string(sample.with_extension("events")).unwrap();
        assert!(listed(&sample) == expected, "the events of {} are read otherwise", sample.display());
        let directory = tempfile::tempdir().unwrap();
        copy(&sample, directory.path());
        let store = common::open(directory.path());
        check(&store);
        assert_eq!(store.mend_indexes().unwrap(), 0, "its indexes are read");
        store.seal().unwrap();
        store.compact(Timestamp::from_seconds(DAYS[2] + 400 * 86_400)).unwrap();
        check(&store);
        store.close().unwrap();
        assert!(listed(directory.path()) == expected, "merged with what this version writes, they are the same");
    }
    assert!(seen > 0);
}

#[test]
fn the_sample_fills_nearly_every_column() {
    let text = std::fs::read_to_string(samples().join("v1.events")).unwrap();
    let stored = FIELDS.iter().filter(|field| !field.column.is_empty());
    let missing = stored.filter(|field| !text.contains(&format!("{}=", field.name))).map(|field| field.name).collect::<Vec<_>>();
    // Fields of gates that the sample has no events of, and those that are added later.
    assert!(missing.len() * 4 < FIELDS.len(), "{missing:?}");
}
