//! What the configuration keeps off the disk is in none of its bytes: not in the log, the spool's frames, the tables, the
//! indexes, nor in what any of them reads back as.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails should stop")]

mod common;

use std::path::Path;

use common::{config, event};
use model::{EventId, FieldId, Gate, Recorder, Timestamp, Value};
use store::{Indicator, Reader, Redaction, Snapshot, Store, StoreConfig};

/// What must not be kept, each word in one place of the event.
const HIDDEN: [&str; 6] =
    ["hidden.person@corp.example", "192.0.2.77", "HiddenAgent", "hiddentoken", "hiddenreferrer", "hiddenfragment"];
/// What must be kept.
const KEPT: [&str; 3] = ["kept.example", "/kept-path", "kept-device"];

fn record(store: &Store, seconds: i64) {
    let values = vec![
        (FieldId::UserEmail, Value::text(HIDDEN[0])),
        (FieldId::SourceIp, Value::Ip(HIDDEN[1].parse().unwrap())),
        (FieldId::HttpUserAgent, Value::text(format!("Mozilla/5.0 {}", HIDDEN[2]))),
        (FieldId::HttpHost, Value::text(KEPT[0])),
        (FieldId::HttpUrl, Value::text(format!("https://{}{}?session={}", KEPT[0], KEPT[1], HIDDEN[3]))),
        (FieldId::HttpReferrer, Value::text(format!("https://before.example/?q={}#{}", HIDDEN[4], HIDDEN[5]))),
        (FieldId::DeviceName, Value::text(KEPT[2])),
    ];
    store.record(event(Gate::Web, seconds, values));
}

fn redacting(directory: &Path) -> StoreConfig {
    let columns = ["user_name", "src_ip", "user_agent"].map(str::to_owned).to_vec();
    StoreConfig { redaction: Redaction { url_query: true, columns }, ..config(directory) }
}

fn bytes_below(directory: &Path) -> Vec<u8> {
    let read = |path: std::path::PathBuf| if path.is_dir() { bytes_below(&path) } else { std::fs::read(path).unwrap() };
    std::fs::read_dir(directory).unwrap().flat_map(|entry| read(entry.unwrap().path())).collect()
}

fn is_in(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word.as_bytes()))
}

/// Every cell of every page of the sealed tables, and of what is not sealed, as text.
fn cells(snapshot: Snapshot) -> String {
    use arrow::util::display::array_value_to_string;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    let sealed = snapshot.files.iter().flat_map(|file| {
        let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&file.path).unwrap()).unwrap();
        reader.build().unwrap().map(Result::unwrap)
    });
    let batches = sealed.collect::<Vec<_>>();
    let all = batches.iter().chain(&snapshot.unsealed_events).chain(&snapshot.unsealed_sightings);
    let columns = all.flat_map(|batch| batch.columns());
    columns.flat_map(|column| (0..column.len()).map(|row| array_value_to_string(column, row).unwrap() + "\n")).collect()
}

fn check(directory: &Path, when: &str) {
    let raw = bytes_below(directory);
    let reader = Reader::open(directory).unwrap();
    let read = cells(reader.snapshot().unwrap());
    let events = reader.read_from(EventId(0), 100).unwrap();
    let facts = events.iter().map(|event| format!("{:?}", event.facts)).collect::<String>();
    for word in HIDDEN {
        for (what, bytes) in [("bytes", raw.as_slice()), ("cells", read.as_bytes()), ("facts", facts.as_bytes())] {
            assert!(!is_in(bytes, word), "{word} is in the {what} {when}");
        }
        assert!(reader.touched(&[Indicator::guess(word)]).unwrap().is_empty(), "{word} {when}");
    }
    for word in KEPT {
        assert!(is_in(read.as_bytes(), word) && is_in(facts.as_bytes(), word), "{word} is gone {when}");
    }
}

#[test]
fn what_is_redacted_is_in_no_byte_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(redacting(directory.path())).unwrap();
    record(&store, 1);
    store.flush().unwrap();
    check(directory.path(), "in the log");
    store.seal().unwrap();
    check(directory.path(), "sealed");
    record(&store, 86_400);
    store.seal().unwrap();
    store.compact(Timestamp::from_seconds(70 * 86_400)).unwrap();
    check(directory.path(), "merged");
    store.close().unwrap();
    drop(Store::open(redacting(directory.path())).unwrap());
    check(directory.path(), "opened again");
}

#[test]
fn without_redaction_the_same_words_are_found_so_the_search_for_them_is_true() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(config(directory.path())).unwrap();
    record(&store, 1);
    store.flush().unwrap();
    let log = bytes_below(&directory.path().join("wal"));
    assert!(HIDDEN.iter().all(|word| is_in(&log, word)), "the log is not compressed");
    store.seal().unwrap();
    let read = cells(Reader::open(directory.path()).unwrap().snapshot().unwrap());
    assert!(HIDDEN.iter().all(|word| is_in(read.as_bytes(), word)));
}
