//! What can go wrong in this crate. Each variant says what was being done and carries its cause; nothing here names a
//! key or the content of anyone's traffic.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::trust::CertificateProblem;
use crate::upstream::DialRefusal;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use the certificate authority file {path}")]
    AuthorityFile { path: PathBuf, source: io::Error },
    #[error("the certificate authority file {path} is open to others than its owner (mode {mode:o})")]
    AuthorityExposed { path: PathBuf, mode: u32 },
    #[error("the certificate authority file {path} does not hold one certificate and its key")]
    AuthorityMalformed { path: PathBuf },
    #[error("the key in {path} does not belong to its certificate")]
    AuthorityKeyMismatch { path: PathBuf },
    #[error("there is no next certificate authority to activate")]
    NoNextAuthority,
    #[error("the certificate authority ends in {days} days, too soon to be activated")]
    AuthorityEndsSoon { days: i64 },
    #[error("a certificate authority is valid for 1 to 10950 days, not {days}")]
    AuthorityValidity { days: u32 },
    #[error("cannot make a certificate")]
    Mint(#[from] rcgen::Error),
    /// Shared by all callers that waited for the same leaf.
    #[error("cannot mint a leaf")]
    Leaf(#[source] std::sync::Arc<Error>),
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    #[error("cannot use the configured roots or revocation lists")]
    TrustSettings { reason: String },
    #[error("this host is neither a DNS name nor an address")]
    HostName,
    #[error("the permit is not for an upstream connection")]
    PermitPurpose,
    #[error("cannot resolve the upstream's name")]
    Resolve { source: io::Error },
    #[error("the upstream's name has no address")]
    NoAddress,
    #[error("dialling {address} is refused: {refusal}")]
    Dial { address: SocketAddr, refusal: DialRefusal },
    #[error("cannot connect to the upstream")]
    Connect { source: io::Error },
    #[error("the upstream did not answer in time")]
    Deadline,
    #[error("the upstream's certificate is not acceptable: {0}")]
    Certificate(CertificateProblem),
    #[error("the TLS handshake with the upstream failed")]
    Handshake { source: io::Error },
}

/// Whose fault a failure is; decides between a 4xx, a 502, a 504, a 526 and a page that says "our fault".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Client,
    Upstream,
    Ours,
}

impl Error {
    pub fn fault(&self) -> Fault {
        match self {
            Error::HostName | Error::Dial { .. } => Fault::Client,
            Error::Resolve { .. }
            | Error::NoAddress
            | Error::Connect { .. }
            | Error::Deadline
            | Error::Certificate(_)
            | Error::Handshake { .. } => Fault::Upstream,
            _ => Fault::Ours,
        }
    }

    /// Whether the same request may be sent again without harm: nothing has reached the upstream.
    pub fn is_retry_safe(&self) -> bool {
        matches!(self, Error::Resolve { .. } | Error::NoAddress | Error::Connect { .. } | Error::Deadline)
    }
}
