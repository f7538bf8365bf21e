//! Replays the corpora of this crate's fuzz targets and what once went wrong in them.

use testkit::replay;

#[test]
fn header_fields() {
    replay("header_fields", gate_web::fuzz::header_fields);
}

#[test]
fn request_target() {
    replay("request_target", gate_web::fuzz::request_target);
}
