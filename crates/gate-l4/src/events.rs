//! The gate's own log lines and counters. What became of people's flows is in the final events; here is what an operator
//! needs to know about the gate. Addresses of traffic stay below INFO; those of origins are the operator's own.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted. The list is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    Flows,
    Refusals,
    FlowsRefusedFull,
    OriginFailures,
    HandshakeFailures,
    IdleEnds,
    Cuts,
    BytesOut,
    BytesIn,
}

const COUNTERS: [(Counter, &str); 9] = [
    (Counter::Flows, "sekisho_gate_l4_flows_total"),
    (Counter::Refusals, "sekisho_gate_l4_refusals_total"),
    (Counter::FlowsRefusedFull, "sekisho_gate_l4_flows_refused_full_total"),
    (Counter::OriginFailures, "sekisho_gate_l4_origin_failures_total"),
    (Counter::HandshakeFailures, "sekisho_gate_l4_handshake_failures_total"),
    (Counter::IdleEnds, "sekisho_gate_l4_idle_ends_total"),
    (Counter::Cuts, "sekisho_gate_l4_cuts_total"),
    (Counter::BytesOut, "sekisho_gate_l4_bytes_out_total"),
    (Counter::BytesIn, "sekisho_gate_l4_bytes_in_total"),
];

static COUNTS: [AtomicU64; COUNTERS.len()] = [const { AtomicU64::new(0) }; COUNTERS.len()];

pub(crate) fn count(counter: Counter) {
    add(counter, 1);
}

pub(crate) fn add(counter: Counter, number: u64) {
    if let Some(count) = COUNTS.get(counter as usize) {
        count.fetch_add(number, Ordering::Relaxed);
    }
}

/// Every counter of this process by its metric's name.
pub fn counters() -> impl Iterator<Item = (&'static str, u64)> {
    COUNTERS.iter().zip(&COUNTS).map(|((_, name), count)| (*name, count.load(Ordering::Relaxed)))
}

pub(crate) fn listening(app: &str, address: SocketAddr) {
    tracing::info!(gate = "l4", app, %address, "listening");
}

/// Accepting failed; where it is for want of descriptors the flow is refused and not left waiting.
pub(crate) fn accept_failed(app: &str, error: &std::io::Error) {
    tracing::warn!(gate = "l4", app, %error, "cannot accept a connection");
}

/// An origin changed its state.
pub(crate) fn origin_health(app: &str, origin: SocketAddr, is_healthy: bool) {
    match is_healthy {
        true => tracing::info!(gate = "l4", app, %origin, "origin is healthy again"),
        false => tracing::warn!(gate = "l4", app, %origin, "origin is passed over"),
    }
}

/// The name of an origin could not be resolved anew.
pub(crate) fn resolution_kept(name: &str) {
    tracing::warn!(gate = "l4", name, "origin's name cannot be resolved; its last addresses stay in use");
}

/// A certificate was taken in anew, or could not be.
pub(crate) fn certificates_reloaded(app: &str) {
    tracing::info!(gate = "l4", app, "certificates taken in anew");
}

pub(crate) fn certificates_kept(app: &str, error: &crate::Error) {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::error!(gate = "l4", app, %error, cause, "changed certificates cannot be used; the earlier ones stay");
}

pub(crate) fn drained(left: usize) {
    tracing::info!(gate = "l4", left, "drained");
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
