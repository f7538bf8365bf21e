//! How each end of a flow looks: on the wire a reset where it was not orderly, in the record the event and status that
//! Spectrum has for it (SP-47, SP-51). Numbers that only a hosted edge can produce (503, 540) are not here.

use std::io::{self, ErrorKind};

use model::Disposition;

use crate::relay::Side;

/// How a flow ended, for the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) status: i64,
    pub(crate) event: &'static str,
    pub(crate) disposition: Disposition,
    /// A word of the events' closed list; none where nothing failed.
    pub(crate) failure: Option<&'static str>,
}

const fn ending(status: i64, event: &'static str, disposition: Disposition, failure: Option<&'static str>) -> Ending {
    Ending { status, event, disposition, failure }
}

pub(crate) const NORMAL: Ending = ending(200, "disconnect", Disposition::Allowed, None);
pub(crate) const IDLE: Ending = ending(200, "disconnect", Disposition::Allowed, Some("idle"));
pub(crate) const CUT: Ending = ending(200, "disconnect", Disposition::Dropped, Some("cut"));
pub(crate) const BAD_SNI: Ending = ending(400, "tlsError", Disposition::Blocked, Some("server_name"));
pub(crate) const REFUSED: Ending = ending(403, "clientFiltered", Disposition::Blocked, None);
pub(crate) const CLIENT_TLS: Ending = ending(443, "tlsError", Disposition::Error, Some("client_handshake"));
pub(crate) const FULL: Ending = ending(500, "clientFiltered", Disposition::Dropped, Some("flows_full"));
pub(crate) const PROXY_HEADER: Ending = ending(999, "clientFiltered", Disposition::Blocked, Some("proxy_header"));
pub(crate) const UNRESOLVED: Ending = ending(530, "resolveOrigin", Disposition::Error, Some("resolve"));

/// TLS did not begin inside the protocol, on one of the sides.
pub(crate) fn no_tls(side: Side, problem: &crate::starttls::Problem) -> Ending {
    let failure = Some(problem.as_str());
    match (side, problem) {
        (Side::Client, crate::starttls::Problem::Injection) => ending(443, "tlsError", Disposition::Blocked, failure),
        (Side::Client, _) => ending(443, "tlsError", Disposition::Error, failure),
        (Side::Origin, _) => ending(520, "originError", Disposition::Error, failure),
    }
}

/// An origin could not be opened.
pub(crate) fn origin_failed(error: &net::Error) -> Ending {
    use net::Error;
    let (status, event, failure) = match error {
        Error::Resolve { .. } | Error::NoAddress => (530, "resolveOrigin", "resolve"),
        Error::Dial { .. } => (532, "resolveOrigin", "dial_refused"),
        Error::Deadline => (522, "originError", "deadline"),
        Error::Connect { source } => match source.kind() {
            ErrorKind::ConnectionRefused => (521, "originError", "upstream_refused"),
            ErrorKind::TimedOut => (522, "originError", "deadline"),
            ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => (523, "originError", "upstream_unreachable"),
            _ => (520, "originError", "upstream_unreachable"),
        },
        Error::Certificate(_) => (520, "originError", "upstream_certificate"),
        Error::Handshake { .. } => (520, "originError", "upstream_handshake"),
        _ => (524, "originError", "internal"),
    };
    ending(status, event, Disposition::Error, Some(failure))
}

/// A side of an open flow failed.
pub(crate) fn side_failed(side: Side, error: &io::Error) -> Ending {
    // What TLS reports of a peer's bytes is of this kind.
    let is_tls = error.kind() == ErrorKind::InvalidData;
    let status = match (side, error.kind()) {
        (Side::Client, ErrorKind::InvalidData) => 490,
        (Side::Client, ErrorKind::ConnectionRefused) => 495,
        (Side::Client, ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) => 496,
        (Side::Client, ErrorKind::TimedOut) => 497,
        (Side::Client, ErrorKind::BrokenPipe) => 498,
        (Side::Client, ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted) => 499,
        (Side::Origin, ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted) => 444,
        (Side::Origin, ErrorKind::TimedOut) => 445,
        (Side::Origin, ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) => 446,
        (Side::Origin, ErrorKind::ConnectionRefused) => 447,
        (Side::Origin, ErrorKind::BrokenPipe) => 448,
        _ => 500,
    };
    match side {
        Side::Client => ending(status, if is_tls { "tlsError" } else { "disconnect" }, Disposition::Error, Some("client_gone")),
        Side::Origin => ending(status, "originError", Disposition::Error, Some("upstream_gone")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SP-51, the part that is decided by what a socket says.
    #[test]
    fn sp_51_each_failure_has_its_number() {
        use ErrorKind::*;
        for (side, kind, status) in [
            (Side::Origin, ConnectionReset, 444),
            (Side::Origin, TimedOut, 445),
            (Side::Origin, HostUnreachable, 446),
            (Side::Origin, ConnectionRefused, 447),
            (Side::Origin, BrokenPipe, 448),
            (Side::Client, InvalidData, 490),
            (Side::Client, ConnectionRefused, 495),
            (Side::Client, HostUnreachable, 496),
            (Side::Client, TimedOut, 497),
            (Side::Client, BrokenPipe, 498),
            (Side::Client, ConnectionReset, 499),
        ] {
            assert_eq!(side_failed(side, &kind.into()).status, status);
        }
        let connect = |kind: ErrorKind| origin_failed(&net::Error::Connect { source: kind.into() }).status;
        let expected = [(ConnectionRefused, 521), (TimedOut, 522), (NetworkUnreachable, 523), (PermissionDenied, 520)];
        assert!(expected.iter().all(|(kind, status)| connect(*kind) == *status));
        assert_eq!(origin_failed(&net::Error::Deadline).status, 522);
        assert_eq!(origin_failed(&net::Error::NoAddress).status, 530);
    }
}
