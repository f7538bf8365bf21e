//! Reports of files that were scanned before, by content, name ending and generation of the definitions. Only what follows
//! from the content is kept: a scan that ran out of time, or found no worker, may end better the next time.

use crate::report::{Report, Unscannable, Verdict};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Reports kept. One without findings takes half a KiB, so the whole stays near 4 MiB.
const REPORTS_MAX: usize = 8192;
/// Reports with more findings than this are made anew.
const FINDINGS_KEPT_MAX: usize = 16;

/// What a verdict depends on beside the limits, which do not change while a pool lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) sha256: [u8; 32],
    /// The name's ending, which is compared with the true type.
    pub(crate) extension: String,
    pub(crate) generation: u64,
}

impl Key {
    pub(crate) fn new(sha256: [u8; 32], name: &str, generation: u64) -> Self {
        const EXTENSION_BYTES_MAX: usize = 16;
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        let extension = if extension.len() > EXTENSION_BYTES_MAX { "" } else { extension };
        Self { sha256, extension: extension.to_ascii_lowercase(), generation }
    }
}

/// Two halves: the older one is forgotten whole when the newer is full, so that no clock and no list is needed.
#[derive(Default)]
pub(crate) struct Cache {
    halves: Mutex<[HashMap<Key, Report>; 2]>,
}

impl Cache {
    pub(crate) fn get(&self, key: &Key) -> Option<Report> {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        let [new, old] = &mut *halves;
        if let Some(report) = new.get(key) {
            return Some(report.clone());
        }
        let report = old.remove(key)?;
        new.insert(key.clone(), report.clone());
        Some(report)
    }

    pub(crate) fn put(&self, key: Key, report: &Report) {
        if !is_lasting(report.verdict) || report.findings.len() > FINDINGS_KEPT_MAX {
            return;
        }
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        let [new, old] = &mut *halves;
        if new.len() >= REPORTS_MAX / 2 {
            *old = std::mem::take(new);
        }
        new.insert(key, report.clone());
    }
}

/// Whether the same bytes give the same verdict again.
fn is_lasting(verdict: Verdict) -> bool {
    !matches!(verdict, Verdict::Unscannable(Unscannable::TimeLimit | Unscannable::Crashed | Unscannable::Unavailable))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        let mut sha256 = [0; 32];
        sha256[..8].copy_from_slice(&number.to_le_bytes());
        Key::new(sha256, "a.Zip", 1)
    }

    fn report(verdict: Verdict) -> Report {
        Report { verdict, ..Report::unscannable(Unscannable::Crashed, 1) }
    }

    #[test]
    fn keeps_what_lasts_and_forgets_the_oldest() {
        let cache = Cache::default();
        cache.put(key(0), &report(Verdict::Clean));
        cache.put(key(1), &report(Verdict::Unscannable(Unscannable::TimeLimit)));
        assert_eq!(cache.get(&key(0)).map(|report| report.verdict), Some(Verdict::Clean));
        assert_eq!(cache.get(&key(1)), None);
        for number in 2..2 + REPORTS_MAX {
            cache.put(key(number), &report(Verdict::Malicious));
        }
        assert_eq!(cache.get(&key(0)), None, "the oldest is gone");
        assert!(cache.get(&key(1 + REPORTS_MAX)).is_some());
    }

    #[test]
    fn definitions_and_endings_are_part_of_the_key() {
        let cache = Cache::default();
        cache.put(Key::new([1; 32], "a.zip", 1), &report(Verdict::Clean));
        assert_eq!(cache.get(&Key::new([1; 32], "b.ZIP", 1)).map(|report| report.verdict), Some(Verdict::Clean));
        assert_eq!(cache.get(&Key::new([1; 32], "a.pdf", 1)), None);
        assert_eq!(cache.get(&Key::new([1; 32], "a.zip", 2)), None);
    }
}
