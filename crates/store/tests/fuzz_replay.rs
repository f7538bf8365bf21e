//! Replays the corpora of this crate's fuzz targets and what once went wrong in them.

use testkit::replay;

#[test]
fn store_wal() {
    replay("store_wal", store::fuzz::store_wal);
}

#[test]
fn store_manifest() {
    replay("store_manifest", store::fuzz::store_manifest);
}
