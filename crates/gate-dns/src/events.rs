//! The gate's own log lines and counters. What happened to people's questions is in the final events; here is what an
//! operator needs to know about the gate. Names and addresses of traffic stay below INFO.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

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

static COUNTS: [AtomicU64; COUNTERS.len()] = [const { AtomicU64::new(0) }; COUNTERS.len()];

pub(crate) fn count(counter: Counter) {
    if let Some(count) = COUNTS.get(counter as usize) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Every counter of this process by its metric's name.
pub fn counters() -> impl Iterator<Item = (&'static str, u64)> {
    COUNTERS.iter().zip(&COUNTS).map(|((_, name), count)| (*name, count.load(Ordering::Relaxed)))
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
