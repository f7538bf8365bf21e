//! Replays the corpora of this crate's fuzz targets and what once went wrong in them.

use testkit::replay;

#[test]
fn dns_question() {
    replay("dns_question", gate_dns::fuzz::dns_question);
}

#[test]
fn dns_answer() {
    replay("dns_answer", gate_dns::fuzz::dns_answer);
}

#[test]
fn doh_query() {
    replay("doh_query", gate_dns::fuzz::doh_query);
}
