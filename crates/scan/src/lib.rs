//! `scan` is a mind in a box: `scan_bytes` decides about bytes without touching a socket or a file, and `host` and
//! `worker` are the box, a sandboxed process around it.
//!
//! It opens files: true type by signature, unpacking through one capped reader, then engines (the EICAR test file, hash
//! lists, ClamAV `.ndb` patterns, YARA rules) and active-content findings over every member. It does not decide what
//! happens to a file; a verdict is a fact for the policy. A file that was not read to its end is never called clean.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod active;
mod cache;
mod capped;
pub mod clamd;
mod clock;
mod engines;
mod format;
mod formats;
#[doc(hidden)]
pub mod fuzz;
pub mod host;
mod limits;
mod report;
mod sandbox;
mod walk;
mod wire;
pub mod worker;

pub use clock::{Clock, SystemClock};
pub use engines::{Definitions, Engines};
pub use format::{Format, true_type};
pub use limits::Limits;
pub use report::{Finding, FindingKind, Report, Unscannable, Verdict};

/// What can go wrong around a scan. A scan itself has no error: it ends in a `Report`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read definitions {path}")]
    Definitions {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("parse definitions {path} line {line}: {detail}")]
    Signature { path: String, line: usize, detail: String },
    #[error("start scan worker {program}")]
    Start {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("exchange a frame with the scan worker")]
    Frame(#[source] std::io::Error),
    #[error("decode a frame of the scan worker")]
    Decode(#[source] serde_json::Error),
    #[error("the scan worker refused to start: {0}")]
    Refused(String),
    #[error("lock down the scan worker: {0}")]
    Sandbox(String),
}

/// Scans bytes in this process. The time limit is measured by the system's monotonic clock.
pub fn scan_bytes(engines: &Engines, limits: &Limits, name: &str, bytes: &[u8]) -> Report {
    scan_with_clock(engines, limits, &SystemClock::start(), name, bytes)
}

/// Scans bytes by a clock that the caller drives, so that time limits can be tested and replayed.
pub fn scan_with_clock(engines: &Engines, limits: &Limits, clock: &dyn Clock, name: &str, bytes: &[u8]) -> Report {
    walk::scan(engines, limits, clock, name, bytes)
}
