//! A gate, so a hand: it stands before any service that speaks TCP, hides where the service is, and lets in whom the policy
//! allows (features.md section 2).
//!
//! A service is a document (`spec`). Each connection to it is one transaction: the policy is asked at `connect`, again when
//! the client's first bytes tell what it speaks, and again while bytes flow where a rule reads them. Not one byte of a
//! client's reaches an origin before the first bytes were judged. The gate does not look into the protocols that it relays:
//! what passes is recorded as not inspected.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that panics has failed"))]

mod board;
mod detect;
mod enforce;
mod events;
mod facts;
#[doc(hidden)]
pub mod fuzz;
mod origins;
mod ports;
mod relay;
mod serve;
mod session;
mod spec;
mod splice;
mod starttls;
mod tls;

pub use board::{AppView, Board, FlowView, OriginView};
pub use events::{Counter, counters};
pub use serve::{L4Gate, Means, bind_over};
pub use spec::{
    AppSpec, Balance, HealthSpec, L4GateConfig, L4GateSpec, OriginDnsSpec, OriginSpec, ProxyProtocol, TlsMode, TlsSpec,
};

/// What can go wrong before the gate serves.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("app `{app}`: {field}: {reason}")]
    App { app: String, field: &'static str, reason: String },
    #[error("{field}: {reason}")]
    Setting { field: &'static str, reason: String },
    #[error("app `{app}`: cannot listen on {address}")]
    Listen { app: String, address: std::net::SocketAddr, source: std::io::Error },
    #[error("app `{app}`: tls: {path} cannot be used")]
    Certificate { app: String, path: std::path::PathBuf, source: rustls::pki_types::pem::Error },
    #[error("app `{app}`: tls cannot be set up")]
    Tls { app: String, source: rustls::Error },
    #[error("app `{app}`: tls: no certificate can be minted")]
    Mint { app: String, source: net::Error },
}
