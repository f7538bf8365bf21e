//! How many transactions ended how, by gate, for the metrics page. Numbers only: what they were is in the final events.

use std::sync::atomic::{AtomicU64, Ordering};

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

static COUNTS: [[AtomicU64; OUTCOMES.len()]; GATES.len()] =
    [const { [const { AtomicU64::new(0) }; OUTCOMES.len()] }; GATES.len()];

pub(crate) fn count(gate: Gate, outcome: Disposition) {
    // Both enums are declared in the order of the tables above, which a test holds.
    if let Some(count) = COUNTS.get(gate as usize).and_then(|row| row.get(outcome as usize)) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Transactions of this process since its start, by gate and outcome.
pub fn counts() -> impl Iterator<Item = (Gate, Disposition, u64)> {
    GATES
        .iter()
        .zip(&COUNTS)
        .flat_map(|(gate, row)| OUTCOMES.iter().zip(row).map(|(outcome, count)| (*gate, *outcome, count.load(Ordering::Relaxed))))
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
