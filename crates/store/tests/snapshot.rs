//! A snapshot names every file of one moment and carries what is not sealed; both parts together are each event once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails should stop")]

mod common;

use std::collections::BTreeSet;
use std::fs::File;

use arrow::array::{Array, Int64Array, StringArray};
use arrow::record_batch::RecordBatch;
use common::{dns, open, web};
use model::Recorder;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use store::{Reader, Snapshot, Table};

/// Every batch of a table, with every column of its schema.
fn batches(snapshot: &Snapshot, table: Table) -> Vec<RecordBatch> {
    let sealed = snapshot.files.iter().filter(|file| file.table == table).flat_map(|file| {
        let opened = File::open(&file.path).unwrap();
        ParquetRecordBatchReaderBuilder::try_new(opened).unwrap().build().unwrap().map(Result::unwrap)
    });
    let unsealed = if table == Table::Events { &snapshot.unsealed_events } else { &snapshot.unsealed_sightings };
    let all = sealed.chain(unsealed.iter().cloned()).collect::<Vec<_>>();
    all.iter().map(|batch| store::project(batch, &store::table_schema(table)).unwrap()).collect()
}

fn column<'b, A: Array + 'static>(batch: &'b RecordBatch, name: &str) -> &'b A {
    batch.column_by_name(name).unwrap().as_any().downcast_ref().unwrap()
}

#[test]
fn sealed_and_unsealed_together_are_each_event_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.record(dns(1, "mia@example.com", "a.example"));
    store.record(web(2, "mia@example.com", "b.example", "https://b.example/x?token=1"));
    store.seal().unwrap();
    store.record(dns(3, "noah@example.com", "a.example"));
    store.flush().unwrap();
    let beside = Reader::open(directory.path()).unwrap();
    for snapshot in [store.snapshot().unwrap(), beside.snapshot().unwrap()] {
        let events = batches(&snapshot, Table::Events);
        let ids = events.iter().flat_map(|batch| column::<Int64Array>(batch, "event_id").values().to_vec());
        assert_eq!(ids.collect::<Vec<_>>().len(), 3);
        let sightings = batches(&snapshot, Table::Sightings);
        let met = sightings.iter().flat_map(|batch| {
            let (values, users) = (column::<StringArray>(batch, "value"), column::<StringArray>(batch, "user_name"));
            values.iter().zip(users).map(|(value, user)| format!("{} {}", value.unwrap(), user.unwrap())).collect::<Vec<_>>()
        });
        let met = met.collect::<BTreeSet<_>>();
        for expected in ["a.example mia@example.com", "a.example noah@example.com", "https://b.example/x mia@example.com"] {
            assert!(met.contains(expected), "{expected} in {met:?}");
        }
    }
}

#[test]
fn a_projection_to_no_column_keeps_the_number_of_rows() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    (1..=3).for_each(|number| store.record(dns(number, "mia@example.com", "a.example")));
    store.flush().unwrap();
    let snapshot = store.snapshot().unwrap();
    let nothing = std::sync::Arc::new(arrow::datatypes::Schema::empty());
    let rows = snapshot.unsealed_events.iter().map(|batch| store::project(batch, &nothing).unwrap().num_rows());
    assert_eq!(rows.sum::<usize>(), 3);
}

#[test]
fn files_of_a_snapshot_stay_readable_while_a_merge_replaces_them() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for number in 1..=4 {
        store.record(dns(number, "mia@example.com", "a.example"));
        store.seal().unwrap();
    }
    let before = store.snapshot().unwrap();
    store.compact(model::Timestamp::from_seconds(3 * 86_400)).unwrap();
    let after = store.snapshot().unwrap();
    let rows = |snapshot: &Snapshot| batches(snapshot, Table::Events).iter().map(RecordBatch::num_rows).sum::<usize>();
    assert!(after.version > before.version && after.files.len() < before.files.len());
    assert_eq!((rows(&before), rows(&after)), (4, 4));
}
