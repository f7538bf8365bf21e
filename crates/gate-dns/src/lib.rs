//! A hand: the gate that every DNS question passes.
//!
//! It takes questions over UDP, TCP, TLS (RFC 7858) and HTTPS (RFC 8484), shows each one to the checkpoint, asks an
//! upstream resolver or its cache when the checkpoint permits it, and writes down how a verdict looks on this wire. It
//! decides nothing by itself and is authoritative for nothing: it forwards.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that panics has failed"))]

mod datagrams;
mod decode;
mod doh;
mod encode;
mod enforce;
mod events;
mod facts;
#[doc(hidden)]
pub mod fuzz;
mod json;
mod limit;
mod recent;
mod reply;
mod resolver;
mod serve;
mod session;
mod spec;
mod spelling;
mod stream;

pub use events::{Counter, counters};
pub use resolver::{DnsResolver, Failure};
pub use serve::{DnsGate, bind, bind_over};
pub use spec::{BlockError, BlockMode, DnsGateConfig, DnsGateSpec, DnssecMode, YoutubeRestriction};

use std::net::SocketAddr;
use std::path::PathBuf;

/// What can go wrong at this gate outside a transaction, and what a resolver's user may be told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("upstream `{upstream}` is not an address, `udp://`, `tcp://` or `tls://address#name`")]
    UpstreamSyntax { upstream: String },
    #[error("setting `{setting}` must lie between {least} and {most}")]
    OutOfBounds { setting: &'static str, least: u64, most: u64 },
    #[error("block mode `page` needs an address for the page")]
    NoBlockPage,
    #[error("cannot read the certificates of `{path}`")]
    Certificates { path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("a certificate of `{path}` cannot be a root")]
    Root { path: PathBuf, source: rustls::Error },
    #[error("the trust anchors of `{path}` cannot be read: {problem}")]
    TrustAnchors { path: PathBuf, problem: String },
    #[error("cannot listen for {protocol} on {address}")]
    Listen { protocol: &'static str, address: SocketAddr, source: std::io::Error },
    #[error("{protocol} needs a certificate and none was given")]
    NoCertificate { protocol: &'static str },
    #[error("cannot set up tls towards upstream resolvers")]
    Tls(#[source] rustls::Error),
    #[error("`{host}` is not a host name")]
    NotAHost { host: String },
    #[error("`{host}` could not be resolved")]
    Unresolved {
        host: String,
        #[source]
        failure: resolver::Failure,
    },
}
