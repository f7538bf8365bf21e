//! A gate, so a hand: it guards what people fetch and send over HTTP, as an explicit proxy, over SOCKS5, or transparently.
//!
//! It moves the bytes of HTTP/1.1, HTTP/2 and WebSocket, opens TLS between the two sides, holds bodies while they are
//! scanned, and shows what the policy decided. It decides nothing: every upstream connection and every response uses up a
//! permit of the checkpoint. HTTP is RFC 9110, RFC 9112 and RFC 9113 as hyper reads them; the checks beyond it are in
//! `forward`, `headers` and `inspect_tls`.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that cannot begin has failed"))]

mod body;
mod connect;
mod context;
mod download;
mod enforce;
mod events;
mod facts;
mod forward;
#[doc(hidden)]
pub mod fuzz;
mod headers;
mod inspect_tls;
mod links;
mod pac;
mod page;
mod serve;
mod session;
mod sniff;
mod socks;
mod spec;
mod spool;
mod stream;
mod upload;
mod websocket;

pub use context::{CONTEXT_KEY_BYTES, ContextKey, EventContext, is_context_token};
pub use serve::{Addresses, Means, WebGate, bind, bind_over};
pub use spec::{BrandSpec, LimitsSpec, OnFronting, OnHit, ScanSpec, WebGateConfig, WebGateSpec};

/// What can go wrong before the gate serves.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the setting {name} of the web gate cannot be used: {reason}")]
    Setting { name: &'static str, reason: &'static str },
    #[error("cannot listen on {address}")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
}
