//! The committed schema document is the one that the field table gives.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails should stop")]

use std::path::Path;

#[test]
fn the_committed_schema_is_not_stale() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schema/events.v1.json");
    let generated = store::schema_json();
    if std::env::var_os("SEKISHO_WRITE_SCHEMA").is_some() {
        std::fs::write(&path, &generated).expect("the schema directory can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == generated, "schema/events.v1.json is stale: run this test with SEKISHO_WRITE_SCHEMA=1 and commit it");
}
