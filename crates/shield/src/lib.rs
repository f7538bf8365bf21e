//! A hand: admission and flood defence. What decides here is mind-like all the same: time comes in as an argument, nothing
//! waits. The kernel is touched in [`xdp::kernel`] alone, and a socket in [`collector`] alone.
//!
//! [`admission`] says whether a connection is taken before a byte of it is read, and which of those taken are too slow to
//! be kept. It knows addresses and counts, and nothing of what is said over the connections. [`detect`] finds attacks in
//! sampled packets and the narrowest rule that drops them; [`xdp`] drops before the kernel makes a socket buffer of a packet,
//! and [`guard`] joins the two.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails should stop"))]

pub mod admission;
pub mod collector;
pub mod detect;
mod error;
#[doc(hidden)]
pub mod fuzz;
pub mod guard;
pub mod notice;
pub mod packets;
mod prefixes;
pub mod sflow;
mod spec;
pub mod xdp;

#[cfg(test)]
mod testing;

pub use error::Error;
pub use prefixes::Prefixes;
pub use spec::{BanSpec, Mode, ShieldConfig, ShieldSpec, SlowSpec, SourceSpec};
