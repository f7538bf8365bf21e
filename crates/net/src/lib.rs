//! A hand: listeners, TLS both ways, minted certificates, upstream connectors, PROXY protocol, SOCKS5 and draining.
//!
//! This crate moves bytes and waits; it decides nothing. The only way to open a connection to an upstream is
//! [`upstream::connect`], which uses up a `policy::Permit`; the raw dial is private to that module. Keys of the
//! installation's certificate authority live in [`authority`] and never leave it.
//!
//! ```compile_fail,E0603
//! // Dialling without a permit: the function is private.
//! use net::upstream::dial;
//! ```
#![forbid(unsafe_code)]

pub mod admission;
pub mod authority;
pub mod downstream;
mod error;
pub mod framing;
#[doc(hidden)]
pub mod fuzz;
pub mod hello;
pub mod mint;
pub mod proxyprotocol;
pub mod server;
pub mod sockets;
pub mod socks5;
pub mod transparent;
pub mod trust;
pub mod upstream;

pub use error::{Error, Fault};

#[cfg(test)]
mod testing;
