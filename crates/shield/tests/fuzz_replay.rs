//! Replays the corpora of this crate's fuzz targets and what once went wrong in them.

use testkit::replay;

#[test]
fn sflow_datagram() {
    replay("sflow_datagram", shield::fuzz::sflow_datagram);
}

#[test]
fn frame() {
    replay("frame", shield::fuzz::frame);
}
