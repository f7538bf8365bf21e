//! Replays the corpora of this crate's fuzz targets and what once went wrong in them.

use testkit::replay;

#[test]
fn first_bytes() {
    replay("first_bytes", gate_l4::fuzz::first_bytes);
}

#[test]
fn starttls() {
    replay("starttls", gate_l4::fuzz::starttls);
}
