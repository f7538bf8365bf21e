//! Settings of the store as written. Defaults are the measured ones of the evaluation (sections 1 and 2).

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, schema};

/// With texts of 64 KiB each, a column of one commit stays at half of what a column's 31-bit offsets reach.
const COMMIT_EVENTS_MAX: usize = 16_384;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    pub directory: PathBuf,
    /// Number of this node, the upper 16 bits of every event id.
    pub node: u16,
    /// Events in one group commit. Single-event commits cost 400 times the CPU.
    pub commit_events: usize,
    /// The longest that a lone event waits for company before it is made durable.
    pub commit_wait_ms: u64,
    /// Events in one log segment before it is sealed to Parquet.
    pub seal_events: usize,
    pub seal_after_seconds: u64,
    /// Events held in memory by the queue towards the writer; what comes beyond goes to the spool.
    pub queue_events_max: usize,
    /// Bytes of the spool on disk, where events wait that the queue did not take; what comes beyond is counted as a gap. 0
    /// keeps no spool.
    pub spool_bytes_max: u64,
    /// Events that are durable in the log but not yet sealed; beyond it the disk is treated as full.
    pub unsealed_events_max: usize,
    /// How often small files are merged and old ones removed.
    pub maintain_every_seconds: u64,
    /// How long the inputs of a merge stay on disk for readers in other processes.
    pub grace_seconds: u64,
    pub retention: Retention,
    pub disk_full: DiskFull,
    pub redaction: Redaction,
    /// Keep a Delta log beside the files of events, for engines that read Delta tables.
    pub delta_log: bool,
}

/// How long what is kept. Whole days are removed, never single events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Network, web, name and API events.
    pub traffic_days: u32,
    pub email_days: u32,
    /// Alerts.
    pub finding_days: u32,
    pub sighting_days: u32,
    /// Bytes of sealed files; the oldest day of events goes first. 0 is no bound.
    pub bytes_max: u64,
    /// Per cent of the disk in use beyond which the oldest day of events goes, where the store has the larger part of what is
    /// used: on a disk that others fill it would only lose the record. 0 is no bound.
    pub disk_percent_max: u8,
}

/// What happens to events that the disk does not take. Each mode counts what is lost in a gap event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskFull {
    /// Lose the new events.
    #[default]
    Drop,
    /// Remove the oldest day of sealed events and try again; lose the new events where there is none to remove.
    Evict,
    /// Keep trying with the same events while the queue fills; lose what does not fit in the queue.
    Hold,
}

/// What is never written to disk, whatever the event holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redaction {
    /// Cut the query string and fragment from URLs and referrers: they carry tokens.
    pub url_query: bool,
    /// Columns that are left empty.
    pub columns: Vec<String>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig {
            directory: PathBuf::from("data"),
            node: 0,
            commit_events: 1_000,
            // Nobody waits for it but a search, and a quarter of the syncs of a busy gate are saved against five.
            commit_wait_ms: 20,
            seal_events: 500_000,
            seal_after_seconds: 60,
            queue_events_max: 65_536,
            // Some ten million events: minutes of a gate at full speed.
            spool_bytes_max: 1 << 30,
            unsealed_events_max: 2_000_000,
            maintain_every_seconds: 3_600,
            // The evaluation's "10 min, longer than any query".
            grace_seconds: 600,
            retention: Retention::default(),
            disk_full: DiskFull::default(),
            redaction: Redaction::default(),
            delta_log: false,
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Retention { traffic_days: 90, email_days: 400, finding_days: 400, sighting_days: 730, bytes_max: 0, disk_percent_max: 85 }
    }
}

impl StoreConfig {
    /// The defaults in a directory.
    pub fn in_directory(directory: impl Into<PathBuf>) -> StoreConfig {
        StoreConfig { directory: directory.into(), ..StoreConfig::default() }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let bounded = |holds: bool, setting, bound| if holds { Ok(()) } else { Err(Error::Setting { setting, bound }) };
        bounded((1..=COMMIT_EVENTS_MAX).contains(&self.commit_events), "commit_events", "from 1 to 16384")?;
        bounded(self.seal_events >= self.commit_events, "seal_events", "at least commit_events")?;
        bounded(self.queue_events_max >= 1, "queue_events_max", "at least 1")?;
        bounded(self.unsealed_events_max >= self.seal_events, "unsealed_events_max", "at least seal_events")?;
        bounded(self.retention.disk_percent_max <= 100, "retention.disk_percent_max", "at most 100")?;
        // The upper bit is the sign of the stored integer.
        bounded(self.node < 1 << 15, "node", "below 32768")?;
        match self.redaction.columns.iter().find(|name| schema::column(name).is_none()) {
            Some(name) => Err(Error::UnknownColumn(name.clone())),
            None => Ok(()),
        }
    }

    pub(crate) fn commit_wait(&self) -> Duration {
        Duration::from_millis(self.commit_wait_ms)
    }
}
