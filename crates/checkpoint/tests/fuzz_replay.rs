//! Replays the corpora of this crate's fuzz targets and what once went wrong in them.

#[test]
fn token() {
    testkit::replay("token", checkpoint::fuzz::token);
}
