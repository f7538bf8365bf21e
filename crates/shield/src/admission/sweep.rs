//! The sweep, once a second: ends connections that are too slow, and hands over what was refused. What it costs is one look
//! at each open connection; the connections themselves carry no timers for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::progress::Direction;
use super::{Admission, Listener, Moment, Progress, Reason, Report, Source};
use crate::{Mode, ShieldConfig};

/// How often refusals are reported.
const REPORT_SECONDS: u64 = 10;
/// Deadlines of a listener that is nearly full are shorter by this.
const PRESSED: u32 = 4;
/// Of a listener that is nearly full, no source keeps more silent connections than this part.
const SHARE: u64 = 8;
/// A connection that moved a byte in this time is not silent.
const SILENT: Duration = Duration::from_secs(2);
/// Connections that one sweep ends for want of places.
const PRESSED_EVICTIONS_MAX: usize = 1_024;
/// The part of a window, in percent, for which the peer must have been waited for, so that its rate says anything.
const WAITED_PERCENT: u64 = 80;

/// What a sweep did.
#[derive(Debug, Default)]
pub struct Swept {
    /// Refusals and evictions since the last report; empty while none is due.
    pub reports: Vec<Report>,
    pub evicted: usize,
}

/// Silent connections of listeners that are nearly full, by listener (its place in memory) and source, with the time of their
/// last byte.
type Silent = HashMap<(usize, Source), Vec<(Moment, Arc<Progress>)>>;

/// An open connection, and how it stood when its window began.
#[derive(Debug)]
pub(super) struct Watched {
    source: Source,
    listener: Arc<Listener>,
    progress: Arc<Progress>,
    window_began: Moment,
    at_beginning: [Mark; 2],
    /// The last sweep that found more bytes than the one before.
    active: Moment,
    moved: u64,
    /// What was wrong with it in the last window.
    slow: Option<Reason>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    bytes: u64,
    waited: u64,
}

impl Admission {
    /// Ends what is too slow, and reports what is due.
    pub fn sweep(&self, now: Moment) -> Swept {
        let config = self.config.load();
        let mut swept = Swept::default();
        if config.mode != Mode::Off {
            let mut silent = Silent::new();
            for shard in 0..self.shards.len() {
                swept.evicted += self.sweep_shard(shard, &config, now, &mut silent);
            }
            swept.evicted += self.relieve(silent, &config, now);
        }
        let last = self.last_report.load(Ordering::Relaxed);
        if now.since(Moment(last)) >= Duration::from_secs(REPORT_SECONDS) {
            self.last_report.store(now.0, Ordering::Relaxed);
            swept.reports = self.take_reports();
        }
        swept
    }

    /// What was refused since the last report, at once; for the end of the program.
    pub fn take_reports(&self) -> Vec<Report> {
        let mut reports = Vec::new();
        for mut table in self.tables() {
            reports.extend(table.lines.take());
        }
        reports.sort_unstable_by_key(|report| (report.first, report.source));
        reports
    }

    fn sweep_shard(&self, shard: usize, config: &ShieldConfig, now: Moment, silent: &mut Silent) -> usize {
        let mut table = self.table(shard);
        let (mut slow, mut slow_of) = (Vec::new(), HashMap::<Source, u32>::new());
        for watched in table.watched.values_mut().filter(|watched| watched.progress.is_judged()) {
            watched.judge(config, now);
            let is_pressed = watched.listener.is_pressed();
            match watched.slow {
                Some(reason) => {
                    *slow_of.entry(watched.source).or_default() += u32::from(reason != Reason::FirstByte);
                    slow.push((watched.source, Arc::clone(&watched.listener), Arc::clone(&watched.progress), reason));
                }
                None if is_pressed && now.since(watched.active) >= SILENT => {
                    let of_source = silent.entry((Arc::as_ptr(&watched.listener) as usize, watched.source)).or_default();
                    of_source.push((watched.active, Arc::clone(&watched.progress)));
                }
                None => {}
            }
        }
        // A few that take their time are people; many are an attack, and all of them end.
        slow.retain(|(source, listener, _, reason)| {
            let is_many = slow_of.get(source).is_some_and(|count| *count > config.slow_spared);
            *reason == Reason::FirstByte || is_many || listener.is_pressed()
        });
        let count = slow.len();
        for (source, listener, progress, reason) in slow {
            listener.note(reason);
            table.refused(source, &listener, reason, config, now);
            match config.mode {
                Mode::Enforce => progress.evict(reason),
                // Monitored, it is told once.
                Mode::Monitor | Mode::Off => progress.note_told(),
            }
        }
        count
    }

    /// Ends silent connections of sources that hold more than their share of a listener that is nearly full, those of the
    /// largest first and of each the longest silent first.
    fn relieve(&self, silent: Silent, config: &ShieldConfig, now: Moment) -> usize {
        let listeners = self.listeners();
        let mut largest: Vec<_> = silent.into_iter().collect();
        largest.sort_unstable_by_key(|((_, source), connections)| (std::cmp::Reverse(connections.len()), *source));
        let mut left = PRESSED_EVICTIONS_MAX;
        for ((place, source), mut connections) in largest {
            let Some(listener) = listeners.iter().find(|listener| Arc::as_ptr(listener) as usize == place) else { continue };
            let share = usize::try_from(listener.places.load(Ordering::Relaxed) / SHARE).unwrap_or(usize::MAX);
            let excess = connections.len().saturating_sub(share).min(left);
            connections.sort_unstable_by_key(|(active, _)| *active);
            let mut table = self.table(self.shard_of(source));
            for (_, progress) in connections.into_iter().take(excess) {
                listener.note(Reason::Pressure);
                table.refused(source, listener, Reason::Pressure, config, now);
                if config.mode == Mode::Enforce {
                    progress.evict(Reason::Pressure);
                }
            }
            left -= excess;
        }
        PRESSED_EVICTIONS_MAX - left
    }
}

impl Watched {
    pub(super) fn new(source: Source, listener: Arc<Listener>, progress: Arc<Progress>, now: Moment) -> Watched {
        Watched {
            source,
            listener,
            progress,
            window_began: now,
            at_beginning: Default::default(),
            active: now,
            moved: 0,
            slow: None,
        }
    }

    /// Notes whether the connection is too slow, as of the last window that has ended.
    fn judge(&mut self, config: &ShieldConfig, now: Moment) {
        let [received, sent] = [Direction::Receive, Direction::Send].map(|direction| self.progress.bytes(direction));
        if received + sent != self.moved {
            (self.moved, self.active) = (received + sent, now);
        }
        let deadline = if self.listener.is_pressed() { config.first_byte / PRESSED } else { config.first_byte };
        // Where Sekisho speaks first, its peer may wait for that.
        if self.moved == 0 && !deadline.is_zero() && now.since(self.progress.opened) >= deadline {
            self.slow = Some(Reason::FirstByte);
            return;
        }
        let length = now.since(self.window_began);
        if length < config.slow_window || config.bytes_per_second == 0 {
            return;
        }
        let receive = self.is_slow(Direction::Receive, config, length, now);
        let send = self.is_slow(Direction::Send, config, length, now);
        self.window_began = now;
        self.slow = match (receive, send) {
            (true, _) => Some(Reason::SlowBody),
            (_, true) => Some(Reason::SlowRead),
            _ => None,
        };
    }

    /// Whether the peer was waited for nearly all the time and moved too little; begins the next window.
    fn is_slow(&mut self, direction: Direction, config: &ShieldConfig, length: Duration, now: Moment) -> bool {
        let mark = Mark { bytes: self.progress.bytes(direction), waited: self.progress.waited(direction, now) };
        let before = std::mem::replace(&mut self.at_beginning[direction as usize], mark);
        let length = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        let is_waited_for =
            (mark.waited - before.waited.min(mark.waited)).saturating_mul(100) >= length.saturating_mul(WAITED_PERCENT);
        let least = u128::from(config.bytes_per_second) * u128::from(length) / 1_000_000_000;
        is_waited_for && u128::from(mark.bytes - before.bytes.min(mark.bytes)) < least
    }
}
