//! A hand: the event log. It appends, seals, queries and retains events in one directory that one process writes.
//!
//! Events become durable in a framed, checksummed log, then sorted Parquet files by class and day; a table of sightings
//! with one index a file answers who ever met an indicator. It decides nothing and changes no event beyond the declared
//! redaction. Layout and numbers follow the measured evaluation of event stores (sections 1, 2 and 5).
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails should stop"))]

mod batch;
mod bloom;
mod compact;
mod config;
mod day;
mod delta;
mod disk;
mod erase;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod indicator;
mod lake;
mod lookup;
mod manifest;
mod order;
mod places;
mod positioned;
mod query;
mod reader;
mod repeats;
mod retain;
mod schema;
mod seal;
mod sealing;
mod sighting;
mod sighting_columns;
mod sighting_index;
mod sighting_index_build;
mod sighting_table;
mod snapshot;
mod spool;
mod store;
mod tail;
mod touched;
mod upkeep;
mod wal;
mod wanted;
mod writer;

#[cfg(test)]
mod disk_full_tests;

pub use compact::Compacted;
pub use config::{DiskFull, Redaction, Retention, StoreConfig};
pub use erase::Erased;
pub use error::{Error, Result};
pub use indicator::Indicator;
pub use query::Query;
pub use reader::Reader;
pub use retain::Retained;
pub use schema::schema_json;
pub use sighting::Sighting;
pub use snapshot::{Snapshot, SnapshotFile, Table, project, table_schema};
pub use store::{Stats, Store};
