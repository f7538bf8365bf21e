//! Reports of small files that were scanned a short while ago, so that the same script or picture is not opened once for
//! each of its readers. A report is kept by the file's SHA-256 and the extension of its name (the scan compares the two),
//! and is forgotten when reports by other definitions come. Files that could not be read are not kept: the next attempt may
//! go better. Nothing is decided here.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use model::Timestamp;
use scan::{Report, Verdict};

/// Files of each of the two generations; a report without findings is below a kilobyte.
const GENERATION_FILES_MAX: usize = 4096;
/// Longest that a report stands, in microseconds. Signatures of an engine beside the workers change without their knowledge;
/// freshclam asks for new ones every hour at most (clamd(8)).
const REPORT_MICROS_MAX: i64 = 600 * 1_000_000;
/// A report with more than this many findings is rare and large.
const FINDINGS_MAX: usize = 4;

/// SHA-256 of a file.
pub(crate) type Digest = [u8; 32];

#[derive(Default)]
pub(crate) struct Verdicts(Mutex<Kept>);

/// Two generations: when the younger is full, the older is dropped and the younger takes its place.
#[derive(Default)]
struct Kept {
    definitions: String,
    young: HashMap<Digest, Entry>,
    old: HashMap<Digest, Entry>,
}

struct Entry {
    extension: String,
    report: Report,
    until: Timestamp,
}

impl Verdicts {
    pub(crate) fn lookup(&self, digest: &Digest, name: &str, now: Timestamp) -> Option<Report> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = kept.young.get(digest).or_else(|| kept.old.get(digest))?;
        (now < entry.until && extension(name).eq_ignore_ascii_case(&entry.extension)).then(|| entry.report.clone())
    }

    pub(crate) fn keep(&self, digest: Digest, name: &str, report: &Report, now: Timestamp) {
        if matches!(report.verdict, Verdict::Unscannable(_)) || report.findings.len() > FINDINGS_MAX {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.definitions != report.definitions {
            *kept = Kept { definitions: report.definitions.clone(), ..Kept::default() };
        }
        if kept.young.len() >= GENERATION_FILES_MAX {
            kept.old = std::mem::take(&mut kept.young);
        }
        let until = Timestamp(now.0.saturating_add(REPORT_MICROS_MAX));
        kept.young.insert(digest, Entry { extension: extension(name).to_owned(), report: report.clone(), until });
    }
}

fn extension(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdict: Verdict, definitions: &str) -> Report {
        Report { verdict, definitions: definitions.to_owned(), ..Report::unscannable(scan::Unscannable::Crashed, 1) }
    }

    fn is_known(verdicts: &Verdicts, digest: Digest, name: &str, now: i64) -> bool {
        verdicts.lookup(&digest, name, Timestamp(now)).is_some()
    }

    #[test]
    fn a_report_stands_for_its_file_and_extension_and_for_a_while() {
        let verdicts = Verdicts::default();
        verdicts.keep([1; 32], "a.PNG", &report(Verdict::Clean, "1"), Timestamp(0));
        assert!(is_known(&verdicts, [1; 32], "b.png", 1));
        assert!(!is_known(&verdicts, [1; 32], "b.txt", 1), "a program under this name would be a finding");
        assert!(!is_known(&verdicts, [2; 32], "a.png", 1));
        assert!(!is_known(&verdicts, [1; 32], "a.png", REPORT_MICROS_MAX));
    }

    #[test]
    fn other_definitions_end_what_earlier_ones_said() {
        let verdicts = Verdicts::default();
        verdicts.keep([1; 32], "a", &report(Verdict::Clean, "1"), Timestamp(0));
        verdicts.keep([2; 32], "a", &report(Verdict::Malicious, "2"), Timestamp(0));
        assert!(!is_known(&verdicts, [1; 32], "a", 1) && is_known(&verdicts, [2; 32], "a", 1));
    }

    #[test]
    fn a_file_that_could_not_be_read_is_tried_again() {
        let verdicts = Verdicts::default();
        verdicts.keep([1; 32], "a", &report(Verdict::Unscannable(scan::Unscannable::TimeLimit), "1"), Timestamp(0));
        assert!(!is_known(&verdicts, [1; 32], "a", 1));
    }

    #[test]
    fn the_table_is_bounded() {
        let verdicts = Verdicts::default();
        for number in 0..10 * GENERATION_FILES_MAX as u64 {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_le_bytes());
            verdicts.keep(digest, "a", &report(Verdict::Clean, "1"), Timestamp(0));
        }
        let kept = verdicts.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(kept.young.len() + kept.old.len() <= 2 * GENERATION_FILES_MAX);
    }
}
