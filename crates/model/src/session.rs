//! One peer at one gate, and the numbers by which sessions and transactions are known.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Gate, Identity, Text, Timestamp};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TransactionId(pub u64);

impl TransactionId {
    /// Sixteen hexadecimal digits, as block pages and the record show the number.
    pub fn text(self) -> Text {
        let digit = |place: u32| char::from_digit((self.0 >> (60 - 4 * place)) as u32 & 0xf, 16);
        (0..16).filter_map(digit).collect()
    }
}

/// How the client reached the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    Udp,
    Tcp,
    /// DNS over TLS, RFC 7858.
    Dot,
    /// DNS over HTTPS, RFC 8484.
    Doh,
    /// A forward proxy that the client was told about.
    Proxy,
    Socks,
    /// A connection redirected on its way (TPROXY or REDIRECT).
    Transparent,
}

impl Transport {
    pub const fn as_str(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Dot => "dot",
            Transport::Doh => "doh",
            Transport::Proxy => "proxy",
            Transport::Socks => "socks",
            Transport::Transparent => "transparent",
        }
    }
}

/// What is known of a peer before its first transaction.
#[derive(Clone, Debug)]
pub struct Session {
    pub id: SessionId,
    pub gate: Gate,
    pub transport: Transport,
    pub began: Timestamp,
    pub client: SocketAddr,
    /// The address of ours that the client reached.
    pub local: SocketAddr,
    /// The location document that the client belongs to (ON-01); empty where none matches.
    pub location: Text,
    pub identity: Option<Arc<Identity>>,
}
