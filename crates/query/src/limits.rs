//! The bounds of a query. Those that an operator may want to move are a setting; those that keep the engine from breaking
//! are not.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest text. A planner's time and stack grow with it; indicators by the thousand belong into `sekisho touched`.
pub(crate) const TEXT_BYTES_MAX: usize = 64 << 10;

/// Expressions in one statement, elements of an `IN (...)` list aside. The planner's time grows faster than their number:
/// the evaluation of event stores saw 200 terms of an OR take seconds and 20,000 abort the process (section 7, pitfall 0).
pub(crate) const EXPRESSIONS_MAX: usize = 500;

/// Tables and subqueries that one statement names. Each doubles what a planner may consider.
pub(crate) const RELATIONS_MAX: usize = 32;

/// How deep parentheses, subqueries and operators may nest in the parser.
pub(crate) const DEPTH_MAX: usize = 64;

/// An answer as it travels. It stands in the memory of the program that asked, beside its gates.
pub(crate) const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Rows of one answer; more are an export, for which the files are there.
pub(crate) const ROWS_MAX: usize = 100_000;

/// Stack of the thread that plans: the parser, the planner and the destructors of both recurse.
pub(crate) const PLANNER_STACK_BYTES: usize = 256 << 20;

/// Stack of the threads that work.
pub(crate) const WORKER_STACK_BYTES: usize = 32 << 20;

/// Threads that read files.
pub(crate) const READER_THREADS_MAX: usize = 4;

/// How long a query waits for another to end.
pub(crate) const QUEUE_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long a worker may take to plan what to read, start and answer beyond the time of its query.
pub(crate) const START_WAIT_MAX: Duration = Duration::from_secs(10);

/// Address space beyond the engine's own memory: program, stacks, file buffers, unsealed events.
pub(crate) const OVERHEAD_BYTES: u64 = 2 << 30;

/// What an operator may set, as `[query]` in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Queries at once, over all who ask.
    pub queries_max: usize,
    /// How long one may run.
    pub seconds_max: u64,
    /// Memory of one for sorting, grouping and joining. It does not spill to disk: what needs more is refused.
    pub memory_bytes_max: u64,
    /// Cores that one may use; 0 is all.
    pub cores_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // The evaluation's longest query took 2.5 s over 50 million events, and 1.7 GB with all caches.
        Limits { queries_max: 2, seconds_max: 30, memory_bytes_max: 1 << 30, cores_max: 0 }
    }
}

impl Limits {
    pub(crate) fn cores(&self) -> usize {
        let present = std::thread::available_parallelism().map_or(1, usize::from);
        if self.cores_max == 0 { present } else { self.cores_max.min(present) }
    }

    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs(self.seconds_max)
    }
}
