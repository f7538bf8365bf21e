//! Replays the corpora of this crate's fuzz targets and what once went wrong in them.

use testkit::replay;

#[test]
fn block_list() {
    replay("block_list", intel::fuzz::block_list);
}

#[test]
fn name_and_url() {
    replay("name_and_url", intel::fuzz::name_and_url);
}

#[test]
fn catalogue() {
    replay("catalogue", intel::fuzz::catalogue);
}
