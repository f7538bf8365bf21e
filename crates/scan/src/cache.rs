//! Reports of files that were scanned before. A file's shape (size, name ending, generation of the definitions) is compared
//! first, so that only a file whose shape is known is hashed. Only what follows from the content is kept: a scan that ran out of
//! time, or found no worker, may end better the next time.

use crate::report::{Report, Unscannable, Verdict};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Reports kept. One without findings takes half a KiB, so the whole stays near 4 MiB.
const REPORTS_MAX: usize = 8192;
/// Reports of one shape; more files of exactly one size and ending are rare, the first are kept.
const REPORTS_PER_SHAPE_MAX: usize = 32;
/// Reports with more findings than this are made anew.
const FINDINGS_KEPT_MAX: usize = 16;

/// What is known of a file without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    size: u64,
    /// The name's ending, which is compared with the true type.
    extension: String,
    generation: u64,
}

impl Shape {
    pub(crate) fn new(size: u64, name: &str, generation: u64) -> Self {
        const EXTENSION_BYTES_MAX: usize = 16;
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        let extension = if extension.len() > EXTENSION_BYTES_MAX { "" } else { extension };
        Self { size, extension: extension.to_ascii_lowercase(), generation }
    }
}

#[derive(Default)]
struct Half {
    reports: HashMap<Shape, Vec<Report>>,
    count: usize,
}

impl Half {
    fn get(&self, shape: &Shape, sha256: &str) -> Option<&Report> {
        self.reports.get(shape)?.iter().find(|report| report.sha256 == sha256)
    }
}

/// Two halves: the older one is forgotten whole when the newer is full, so that no clock and no list is needed.
#[derive(Default)]
pub(crate) struct Cache {
    halves: Mutex<[Half; 2]>,
}

impl Cache {
    fn lock(&self) -> std::sync::MutexGuard<'_, [Half; 2]> {
        self.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether hashing a file of this shape can find anything.
    pub(crate) fn knows(&self, shape: &Shape) -> bool {
        self.lock().iter().any(|half| half.reports.contains_key(shape))
    }

    pub(crate) fn get(&self, shape: &Shape, sha256: &str) -> Option<Report> {
        self.lock().iter().find_map(|half| half.get(shape, sha256)).cloned()
    }

    pub(crate) fn put(&self, shape: Shape, report: &Report) {
        if !is_lasting(report.verdict) || report.findings.len() > FINDINGS_KEPT_MAX || report.sha256.is_empty() {
            return;
        }
        let mut halves = self.lock();
        let [new, old] = &mut *halves;
        if new.count >= REPORTS_MAX / 2 {
            *old = std::mem::take(new);
        }
        let reports = new.reports.entry(shape).or_default();
        if reports.len() < REPORTS_PER_SHAPE_MAX && !reports.iter().any(|known| known.sha256 == report.sha256) {
            reports.push(report.clone());
            new.count += 1;
        }
    }
}

/// Whether the same bytes give the same verdict again.
fn is_lasting(verdict: Verdict) -> bool {
    !matches!(verdict, Verdict::Unscannable(Unscannable::TimeLimit | Unscannable::Crashed | Unscannable::Unavailable))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(size: u64) -> Shape {
        Shape::new(size, "a.Zip", 1)
    }

    fn report(verdict: Verdict, sha256: &str) -> Report {
        Report { verdict, sha256: sha256.to_owned(), ..Report::unscannable(Unscannable::Crashed, 1) }
    }

    #[test]
    fn keeps_what_lasts_and_forgets_the_oldest() {
        let cache = Cache::default();
        cache.put(shape(0), &report(Verdict::Clean, "aa"));
        cache.put(shape(1), &report(Verdict::Unscannable(Unscannable::TimeLimit), "bb"));
        assert_eq!(cache.get(&shape(0), "aa").map(|report| report.verdict), Some(Verdict::Clean));
        assert_eq!(cache.get(&shape(0), "ab"), None);
        assert!(cache.knows(&shape(0)) && !cache.knows(&shape(1)));
        for size in 2..2 + REPORTS_MAX as u64 {
            cache.put(shape(size), &report(Verdict::Malicious, "cc"));
        }
        assert!(!cache.knows(&shape(0)), "the oldest is gone");
        assert!(cache.get(&shape(1 + REPORTS_MAX as u64), "cc").is_some());
    }

    #[test]
    fn definitions_and_endings_are_part_of_the_shape() {
        let cache = Cache::default();
        cache.put(Shape::new(5, "a.zip", 1), &report(Verdict::Clean, "aa"));
        assert!(cache.get(&Shape::new(5, "b.ZIP", 1), "aa").is_some());
        for other in [Shape::new(5, "a.pdf", 1), Shape::new(5, "a.zip", 2), Shape::new(6, "a.zip", 1)] {
            assert!(!cache.knows(&other), "{other:?}");
        }
    }
}
