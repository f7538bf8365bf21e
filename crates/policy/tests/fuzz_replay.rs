//! Replays the corpora of this crate's fuzz targets and what once went wrong in them.

use testkit::replay;

#[test]
fn policy_expression() {
    replay("policy_expression", policy::fuzz::policy_expression);
}

#[test]
fn policy_document() {
    replay("policy_document", policy::fuzz::policy_document);
}

#[test]
fn cloudflare_import() {
    replay("cloudflare_import", policy::fuzz::cloudflare_import);
}
