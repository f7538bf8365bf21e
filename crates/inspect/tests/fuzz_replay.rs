//! Replays the corpora of this crate's fuzz targets and what once went wrong in them.

#[test]
fn inspectors() {
    testkit::replay("inspectors", inspect::fuzz::inspectors);
}
