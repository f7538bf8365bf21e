//! How many transactions ended how, by gate, for the metrics page. Numbers only: what they were is in the final events.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use model::{Disposition, Gate};

const GATES: [Gate; 5] = [Gate::Dns, Gate::Web, Gate::L4, Gate::Mail, Gate::Api];
const OUTCOMES: [Disposition; 7] = [
    Disposition::Allowed,
    Disposition::Blocked,
    Disposition::Quarantined,
    Disposition::Dropped,
    Disposition::Corrected,
    Disposition::Error,
    Disposition::NoAction,
];

/// Sets of counts. Threads take turns in choosing one, so that two that end transactions at once rarely write to one line of
/// the cache.
const SETS: usize = 8;

/// Two lines of the cache apart, since processors fetch lines in pairs.
#[repr(align(128))]
struct Set([[AtomicU64; OUTCOMES.len()]; GATES.len()]);

static COUNTS: [Set; SETS] = [const { Set([const { [const { AtomicU64::new(0) }; OUTCOMES.len()] }; GATES.len()]) }; SETS];

static NEXT_SET: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SET: usize = NEXT_SET.fetch_add(1, Ordering::Relaxed) % SETS;
}

pub(crate) fn count(gate: Gate, outcome: Disposition) {
    let set = SET.with(|set| COUNTS.get(*set));
    // Both enums are declared in the order of the tables above, which a test holds.
    if let Some(count) = set.and_then(|set| set.0.get(gate as usize)?.get(outcome as usize)) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Transactions of this process since its start, by gate and outcome.
pub fn counts() -> impl Iterator<Item = (Gate, Disposition, u64)> {
    let total = |gate: usize, outcome: usize| {
        let counts = COUNTS.iter().filter_map(|set| set.0.get(gate)?.get(outcome));
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    };
    let outcomes = || OUTCOMES.iter().enumerate();
    GATES
        .iter()
        .enumerate()
        .flat_map(move |(row, gate)| outcomes().map(move |(place, outcome)| (*gate, *outcome, total(row, place))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_in_the_order_of_the_enums() {
        assert!(GATES.iter().enumerate().all(|(place, gate)| *gate as usize == place));
        assert!(OUTCOMES.iter().enumerate().all(|(place, outcome)| *outcome as usize == place));
    }
}
