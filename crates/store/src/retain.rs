//! Removes whole days that are older than the declared age, and the oldest days of events where sealed files exceed the
//! declared bytes. It never rewrites a file.

use model::{Class, Timestamp};

use crate::config::Retention;
use crate::day::Day;
use crate::manifest::{FileKind, Manifest, SealedFile};

/// What a retention run removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    pub files: u64,
    pub bytes: u64,
    pub events: u64,
}

/// Paths that are to go under a retention at a moment.
pub(crate) fn expired(manifest: &Manifest, retention: &Retention, now: Timestamp) -> Vec<String> {
    let today = Day::of(now);
    let is_old = |file: &SealedFile| today.0 - last_day(file).0 > i64::from(days(retention, file));
    let old = manifest.files.iter().filter(|file| is_old(file)).map(|file| file.path.clone()).collect::<Vec<_>>();
    let kept = manifest.files.iter().filter(|file| !is_old(file)).map(AsRef::as_ref).collect::<Vec<_>>();
    let over = over_bytes(&kept, retention.bytes_max);
    old.into_iter().chain(over).collect()
}

/// The day by which a file is judged. One of a month stays until its last day is old enough.
fn last_day(file: &SealedFile) -> Day {
    match file.kind {
        FileKind::MonthlySightings => Day::of(Timestamp(file.max_time)),
        _ => file.day,
    }
}

fn days(retention: &Retention, file: &SealedFile) -> u32 {
    match (file.kind, Class::from_uid(file.class_uid)) {
        (kind, _) if kind.holds_sightings() => retention.sighting_days,
        (_, Some(Class::DetectionFinding)) => retention.finding_days,
        (_, Some(Class::EmailActivity)) => retention.email_days,
        _ => retention.traffic_days,
    }
}

/// Files of events, oldest day first, until the rest fits.
fn over_bytes(files: &[&SealedFile], bytes_max: u64) -> Vec<String> {
    let mut bytes: u64 = files.iter().map(|file| file.bytes).sum();
    let mut events = files.iter().filter(|file| file.kind == FileKind::Events).collect::<Vec<_>>();
    events.sort_by_key(|file| (file.day, file.first_id));
    let mut over = Vec::new();
    for file in events {
        if bytes_max == 0 || bytes <= bytes_max {
            break;
        }
        bytes -= file.bytes;
        over.push(file.path.clone());
    }
    over
}

/// Whether a disk of so many free bytes in all is fuller than it may be, and the store's own bytes are the larger part of it.
pub(crate) fn is_over_watermark((free, all): (u64, u64), own: u64, percent_max: u8) -> bool {
    let used = all.saturating_sub(free);
    let bound = u128::from(all) * u128::from(percent_max) / 100;
    percent_max > 0 && u128::from(used) > bound && own > used / 2
}

/// The files of the oldest day of events, to make room on a full disk.
pub(crate) fn oldest_day(manifest: &Manifest) -> Vec<String> {
    let events = || manifest.files.iter().filter(|file| file.kind == FileKind::Events);
    let oldest = events().map(|file| file.day).min();
    events().filter(|file| Some(file.day) == oldest).map(|file| file.path.clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn file(kind: FileKind, class: Class, day: i64, bytes: u64) -> Arc<SealedFile> {
        let (class_uid, path) = (class.uid(), format!("{kind:?}-{}-{day}", class.uid()));
        let (day, rows, first_id, last_id, min_time, max_time) = (Day(day), 1, day, day, 0, 0);
        Arc::new(SealedFile { path, kind, class_uid, day, rows, bytes, first_id, last_id, min_time, max_time })
    }

    #[test]
    fn each_class_has_its_own_age() {
        let (traffic, finding) = (Class::DnsActivity, Class::DetectionFinding);
        let files = vec![
            file(FileKind::Events, traffic, 109, 1),
            file(FileKind::Events, traffic, 110, 1),
            file(FileKind::Events, finding, 10, 1),
            file(FileKind::Sightings, traffic, 10, 1),
        ];
        let manifest = Manifest { files, ..Manifest::default() };
        let now = Timestamp::from_seconds(200 * 86_400);
        assert_eq!(expired(&manifest, &Retention::default(), now), ["Events-4003-109"]);
    }

    #[test]
    fn only_a_disk_that_the_store_itself_fills_is_relieved() {
        assert!(is_over_watermark((14, 100), 50, 85));
        assert!(!is_over_watermark((15, 100), 50, 85), "at the bound");
        assert!(!is_over_watermark((5, 100), 40, 85), "others fill it");
        assert!(!is_over_watermark((0, 100), 100, 0), "without a bound");
    }

    #[test]
    fn the_oldest_events_go_first_when_bytes_are_bounded() {
        let files = (1..=4).map(|day| file(FileKind::Events, Class::DnsActivity, day, 10)).collect();
        let manifest = Manifest { files, ..Manifest::default() };
        let retention = Retention { bytes_max: 25, ..Retention::default() };
        assert_eq!(expired(&manifest, &retention, Timestamp(0)), ["Events-4003-1", "Events-4003-2"]);
        assert_eq!(oldest_day(&manifest), ["Events-4003-1"]);
    }
}
