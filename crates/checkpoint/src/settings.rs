//! The settings of the checkpoint: bounds on waiting and the declared failure modes. No failure mode is implied.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::privacy::PrivacyRule;

/// What happens to a transaction that could not be examined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureMode {
    /// Let it pass unexamined, and say so in its event.
    Open,
    /// Refuse it.
    #[default]
    Closed,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Longest wait for one scan, milliseconds. AV engines need seconds only for archives near the limits (AV-10).
    pub scan_deadline_ms: u64,
    /// When the scanner is down, late, or could not read a file (AV-04).
    pub unscannable: FailureMode,
    /// When an inspector panics.
    pub inspector_failure: FailureMode,
    /// How much of a person's traffic is written down, per group; the first rule that names a group of the user counts.
    pub privacy: Vec<PrivacyRule>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            scan_deadline_ms: 15_000,
            unscannable: FailureMode::Open,
            inspector_failure: FailureMode::Open,
            privacy: Vec::new(),
        }
    }
}

impl Settings {
    pub fn scan_deadline(&self) -> Duration {
        Duration::from_millis(self.scan_deadline_ms)
    }
}
