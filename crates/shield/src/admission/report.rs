//! What is recorded of refusals: one line for each source, listener and reason in a span of time, with how many there were.
//! A flood is a few lines and a number, never an event a connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Listener, Moment, Reason, Source};

/// Lines that one shard keeps between two reports; what comes beyond is counted together without its source.
const LINES_MAX: usize = 128;

/// Refusals of one kind since the last report.
#[derive(Clone, Debug)]
pub struct Report {
    /// None where there were too many sources to tell them apart.
    pub source: Option<Source>,
    pub listener: Arc<Listener>,
    pub reason: Reason,
    pub count: u64,
    pub first: Moment,
    pub last: Moment,
    /// Whether the connections were let in all the same (mode `monitor`).
    pub is_monitored: bool,
    /// The ban that this led to.
    pub ban: Option<Duration>,
}

/// Lines of one shard.
#[derive(Debug, Default)]
pub(super) struct Lines(HashMap<Key, Report>);

/// Listeners are told apart by their place in memory, which they keep while the line holds them.
type Key = (Option<Source>, usize, Reason);

impl Lines {
    pub(super) fn add(&mut self, source: Source, listener: &Arc<Listener>, reason: Reason, is_monitored: bool, now: Moment) {
        let place = Arc::as_ptr(listener) as usize;
        let is_known = self.0.contains_key(&(Some(source), place, reason));
        let source = (is_known || self.0.len() < LINES_MAX).then_some(source);
        let line = self.0.entry((source, place, reason)).or_insert_with(|| Report {
            source,
            listener: Arc::clone(listener),
            reason,
            count: 0,
            first: now,
            last: now,
            is_monitored,
            ban: None,
        });
        line.count += 1;
        line.last = now;
    }

    /// Notes on the line of this refusal that it led to a ban.
    pub(super) fn banned(&mut self, source: Source, listener: &Arc<Listener>, reason: Reason, ban: Duration) {
        if let Some(line) = self.0.get_mut(&(Some(source), Arc::as_ptr(listener) as usize, reason)) {
            line.ban = Some(ban);
        }
    }

    pub(super) fn take(&mut self) -> impl Iterator<Item = Report> {
        std::mem::take(&mut self.0).into_values()
    }
}
