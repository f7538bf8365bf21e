//! The gate's own log lines and counters. What happened to people's questions is in the final events; here is what an
//! operator needs to know about the gate. Names and addresses of traffic stay below INFO.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What is counted. The list is closed, so that a counter's name cannot be made up by a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    QueriesUdp,
    QueriesTcp,
    QueriesDot,
    QueriesDoh,
    Malformed,
    RateLimited,
    Overloaded,
    CacheHits,
    StaleAnswers,
    UpstreamAnswers,
    UpstreamFailures,
    Refusals,
    ConnectionsRefused,
}

const COUNTERS: [(Counter, &str); 13] = [
    (Counter::QueriesUdp, "sekisho_gate_dns_queries_udp_total"),
    (Counter::QueriesTcp, "sekisho_gate_dns_queries_tcp_total"),
    (Counter::QueriesDot, "sekisho_gate_dns_queries_dot_total"),
    (Counter::QueriesDoh, "sekisho_gate_dns_queries_doh_total"),
    (Counter::Malformed, "sekisho_gate_dns_malformed_queries_total"),
    (Counter::RateLimited, "sekisho_gate_dns_rate_limited_queries_total"),
    (Counter::Overloaded, "sekisho_gate_dns_overload_dropped_queries_total"),
    (Counter::CacheHits, "sekisho_gate_dns_cache_hits_total"),
    (Counter::StaleAnswers, "sekisho_gate_dns_stale_answers_total"),
    (Counter::UpstreamAnswers, "sekisho_gate_dns_upstream_answers_total"),
    (Counter::UpstreamFailures, "sekisho_gate_dns_upstream_failures_total"),
    (Counter::Refusals, "sekisho_gate_dns_refusals_total"),
    (Counter::ConnectionsRefused, "sekisho_gate_dns_connections_refused_total"),
];

/// Sets of counts. Threads take turns in choosing one, so that two that answer at once rarely write to one cache line.
const SETS: usize = 8;

/// Two lines of the cache apart, since processors fetch lines in pairs.
#[repr(align(128))]
struct Set([AtomicU64; COUNTERS.len()]);

static COUNTS: [Set; SETS] = [const { Set([const { AtomicU64::new(0) }; COUNTERS.len()]) }; SETS];

static NEXT_SET: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SET: usize = NEXT_SET.fetch_add(1, Ordering::Relaxed) % SETS;
}

pub(crate) fn count(counter: Counter) {
    count_many(counter, 1);
}

pub(crate) fn count_many(counter: Counter, number: u64) {
    let set = SET.with(|set| *set);
    if let Some(count) = COUNTS.get(set).and_then(|set| set.0.get(counter as usize)) {
        count.fetch_add(number, Ordering::Relaxed);
    }
}

/// Every counter of this process by its metric's name.
pub fn counters() -> impl Iterator<Item = (&'static str, u64)> {
    let total =
        |place: usize| COUNTS.iter().filter_map(|set| set.0.get(place)).map(|count| count.load(Ordering::Relaxed)).sum::<u64>();
    COUNTERS.iter().enumerate().map(move |(place, (_, name))| (*name, total(place)))
}

/// A listener is open.
pub(crate) struct Listening {
    pub(crate) protocol: &'static str,
    pub(crate) address: SocketAddr,
}

impl Listening {
    pub(crate) fn emit(self) {
        tracing::info!(protocol = self.protocol, address = %self.address, "listening");
    }
}

/// A socket failed in a way that is not a client's doing. The loop goes on.
pub(crate) struct SocketFailed<'a> {
    pub(crate) protocol: &'static str,
    pub(crate) error: &'a std::io::Error,
}

impl SocketFailed<'_> {
    pub(crate) fn emit(self) {
        tracing::warn!(protocol = self.protocol, error = %self.error, "socket failed");
    }
}

/// A question made a worker panic. Its event has been recorded, and the worker goes on.
pub(crate) struct WorkerPanicked;

impl WorkerPanicked {
    pub(crate) fn emit(self) {
        tracing::error!("a question made a worker panic");
    }
}

/// No upstream gave an answer.
pub(crate) struct UpstreamFailed {
    pub(crate) failure: crate::resolver::Failure,
}

impl UpstreamFailed {
    pub(crate) fn emit(self) {
        count(Counter::UpstreamFailures);
        tracing::debug!(failure = self.failure.word(), "no upstream answered");
    }
}

/// The gate stopped with transactions still under way.
pub(crate) struct DrainCut {
    pub(crate) seconds: u64,
}

impl DrainCut {
    pub(crate) fn emit(self) {
        tracing::warn!(seconds = self.seconds, "transactions were still under way when the gate stopped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_stands_at_its_own_place() {
        for (place, (counter, _)) in COUNTERS.iter().enumerate() {
            assert_eq!(*counter as usize, place);
        }
    }
}
