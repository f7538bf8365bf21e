//! The bounds of one scan (AV-03, AV-10). Reaching any of them ends in `Unscannable`, never in `Clean`.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Nesting in legitimate traffic stays below 6; ten leaves room for mail in archive in mail.
pub const DEPTH_MAX: u32 = 10;
/// Members of one scanned file, all levels together; the evaluation of unpackers used the same bound.
pub const ENTRIES_MAX: u32 = 10_000;
/// One unpacked member.
pub const ENTRY_BYTES_MAX: u64 = 256 << 20;
/// Everything unpacked from one file, so a worker stays far below its address-space limit.
pub const TOTAL_BYTES_MAX: u64 = 512 << 20;
/// Unpacked bytes per input byte. Deflate reaches 1032 at most; benign corpora stayed below 200.
pub const RATIO_MAX: u64 = 500;
/// Small inputs may expand as if they had this size, to 32 MiB by the ratio above: a page of zeros is no bomb. Of 5,400
/// archives, packages, fonts and compressed pages of ordinary systems none reached a ratio of 120 counted from here.
pub const RATIO_INPUT_BYTES_MIN: u64 = 64 << 10;
/// The file itself.
pub const INPUT_BYTES_MAX: u64 = 256 << 20;
/// Wall time for one file.
pub const TIME_MILLIS_MAX: u64 = 10_000;

/// The bounds of one scan, each replaceable by the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub depth: u32,
    pub entries: u32,
    pub entry_bytes: u64,
    pub total_bytes: u64,
    pub ratio: u64,
    pub input_bytes: u64,
    pub time_millis: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            depth: DEPTH_MAX,
            entries: ENTRIES_MAX,
            entry_bytes: ENTRY_BYTES_MAX,
            total_bytes: TOTAL_BYTES_MAX,
            ratio: RATIO_MAX,
            input_bytes: INPUT_BYTES_MAX,
            time_millis: TIME_MILLIS_MAX,
        }
    }
}

impl Limits {
    pub fn time(&self) -> Duration {
        Duration::from_millis(self.time_millis)
    }
}
