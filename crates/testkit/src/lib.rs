//! For tests only, neither mind nor hand: a clock that is driven by hand, peers that misbehave on purpose, a small web
//! origin, inert samples, and the inputs that fuzzing has kept.
//!
//! Everything listens on loopback, on a port that the system chooses, serves a bounded number of connections and ends when
//! it is dropped. It uses plain threads, so that tests of any runtime can use it.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::expect_used, reason = "a test that cannot begin has failed"))]

pub mod clock;
pub mod corpus;
pub mod origin;
pub mod samples;
pub mod scatter;
pub mod tcp;
pub mod udp;

pub use clock::FakeClock;
pub use corpus::replay;
pub use origin::{Origin, Request, Response};
pub use scatter::Scatter;
pub use tcp::{TcpBehaviour, TcpPeer};
pub use udp::{UdpBehaviour, UdpPeer};
