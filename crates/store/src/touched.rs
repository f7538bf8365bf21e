//! Who ever met an indicator? The table of unsealed sightings is asked directly, and each row group of the sealed files
//! that can hold one is looked up ([`crate::lookup`]). A list of thousands goes through the groups once, in order, on
//! several cores, and costs little more than the few of it that were ever met.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use model::Timestamp;

use crate::Result;
use crate::indicator::{self, Candidate, Indicator};
use crate::lake::Lake;
use crate::lookup::FileLookup;
use crate::sighting::{self, Sighting, SightingRow, kind_of};
use crate::tail::View;
use crate::wanted::Wanted;

/// Look-ups of one candidate in one row group that are worth a thread of their own: a millisecond of work.
const THREAD_LOOKUPS_MIN: usize = 256;

/// More would wait for the same disk.
const THREADS_MAX: usize = 16;

type Order = (i32, String, String, String, String);

/// Rows of the same observable and who, from wherever they come, as one.
#[derive(Default)]
struct Merged(BTreeMap<Order, SightingRow<'static>>);

impl Merged {
    fn add(&mut self, row: &SightingRow<'_>) {
        let (type_id, value, user, device, src_ip) = row.order();
        let order = (type_id, value.to_owned(), user.to_owned(), device.to_owned(), src_ip.to_owned());
        match self.0.get_mut(&order) {
            Some(known) => known.absorb(row),
            None => drop(self.0.insert(order, owned(row))),
        }
    }

    fn sightings(self) -> Vec<Sighting> {
        let sighting = |row: SightingRow<'_>| {
            Some(Sighting {
                kind: kind_of(row.type_id)?,
                value: row.value.into_owned(),
                user: row.user.into_owned(),
                device: row.device.into_owned(),
                src_ip: row.src_ip.into_owned(),
                first: Timestamp(row.first),
                last: Timestamp(row.last),
                count: u64::try_from(row.count).unwrap_or_default(),
                blocked: u64::try_from(row.blocked).unwrap_or_default(),
                gates: sighting::gates_of(row.gates),
            })
        };
        self.0.into_values().filter_map(sighting).collect()
    }
}

pub(crate) fn owned(row: &SightingRow<'_>) -> SightingRow<'static> {
    let text = |text: &str| std::borrow::Cow::Owned(text.to_owned());
    let (value, user, device, src_ip) = (text(&row.value), text(&row.user), text(&row.device), text(&row.src_ip));
    SightingRow { value, user, device, src_ip, ..*row }
}

pub(crate) fn touched(lake: &Lake, view: &View, indicators: &[Indicator]) -> Result<Vec<Sighting>> {
    let candidates = indicator::candidates(indicators);
    let mut merged = Merged::default();
    if !view.segments.is_empty() {
        let wanted = Wanted::new(candidates.iter().map(|candidate| candidate.key));
        for segment in &view.segments {
            segment.read_sightings()?.sightings().find(&wanted).for_each(|row| merged.add(&row));
        }
    }
    sealed(lake, view, &candidates)?.iter().for_each(|row| merged.add(row));
    Ok(merged.sightings())
}

/// Candidates to look up in one row group of one file.
struct Task {
    file: usize,
    group: usize,
    candidates: Range<usize>,
}

/// The rows of sealed files.
fn sealed(lake: &Lake, view: &View, candidates: &[Candidate]) -> Result<Vec<SightingRow<'static>>> {
    let (mut files, mut tasks) = (Vec::new(), Vec::new());
    for file in view.manifest.files.iter().filter(|file| file.kind.holds_sightings()) {
        let lookup = FileLookup::open(lake, file)?;
        let groups = (0..lookup.groups()).map(|group| (group, lookup.candidates_in(group, candidates)));
        let groups = groups.filter(|(_, candidates)| !candidates.is_empty());
        tasks.extend(groups.map(|(group, candidates)| Task { file: files.len(), group, candidates }));
        files.push(lookup);
    }
    let next = AtomicUsize::new(0);
    let run = || -> Result<Vec<SightingRow<'static>>> {
        let mut found = Vec::new();
        while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let (Some(file), Some(candidates)) = (files.get(task.file), candidates.get(task.candidates.clone())) {
                file.find(task.group, candidates, &mut found)?;
            }
        }
        Ok(found)
    };
    let threads = threads_for(&tasks);
    std::thread::scope(|scope| {
        let others = (1..threads).map(|_| std::thread::Builder::new().spawn_scoped(scope, run));
        // A thread that cannot be had leaves its share to the others.
        let others = others.filter_map(std::result::Result::ok).collect::<Vec<_>>();
        let mut found = run()?;
        for other in others {
            found.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(found)
    })
}

fn threads_for(tasks: &[Task]) -> usize {
    let lookups = tasks.iter().map(|task| task.candidates.len()).sum::<usize>();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.min(THREADS_MAX).min(lookups / THREAD_LOOKUPS_MIN).max(1)
}
