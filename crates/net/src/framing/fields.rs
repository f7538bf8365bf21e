//! Framing rules on fields that are already parsed, for HTTP/2 and as a second look at HTTP/1; and the removal of fields
//! that belong to one connection only (RFC 9110 section 7.6.1, RFC 9113 section 8.2.2).

use http::header::{self, HeaderMap, HeaderName};
use http::request::Parts;
use http::{Method, Version};

use super::FramingProblem;

/// Fields of one hop, beside those that `Connection` names. `Proxy-Authorization` is for us, never for the upstream.
const HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

/// Fields that `Connection` may name but that are never taken away: without them the request is another one.
const END_TO_END: [HeaderName; 3] = [header::HOST, header::CONTENT_LENGTH, header::AUTHORIZATION];

/// Refuses what two readers could take differently.
pub fn check_parts(parts: &Parts) -> Result<(), FramingProblem> {
    let count = |name: HeaderName| parts.headers.get_all(name).iter().count();
    if count(header::HOST) > 1 {
        return Err(FramingProblem::HostRepeated);
    }
    if count(header::CONTENT_LENGTH) > 1 {
        return Err(FramingProblem::LengthRepeated);
    }
    if count(header::TRANSFER_ENCODING) > 1 {
        return Err(FramingProblem::EncodingRepeated);
    }
    if count(header::TRANSFER_ENCODING) == 1 && count(header::CONTENT_LENGTH) == 1 {
        return Err(FramingProblem::LengthAndEncoding);
    }
    check_authority(parts)
}

/// RFC 9113 section 8.3.1: `host` and `:authority` must be the same. In HTTP/1 a proxy goes by the target, but a client
/// that says two things is not forwarded.
fn check_authority(parts: &Parts) -> Result<(), FramingProblem> {
    let host = match parts.headers.get(header::HOST) {
        Some(host) => Some(host.to_str().map_err(|_| FramingProblem::HostMalformed)?),
        None => None,
    };
    let default_port = match parts.uri.scheme_str() {
        Some("http" | "ws") => 80,
        _ => 443,
    };
    match (parts.uri.authority(), host) {
        (Some(authority), Some(host)) if !authorities_agree(authority.as_str(), host, default_port) => {
            Err(FramingProblem::AuthorityMismatch)
        }
        (None, None) if parts.version >= Version::HTTP_11 && parts.method != Method::CONNECT => Err(FramingProblem::HostAbsent),
        _ => Ok(()),
    }
}

/// Whether two authorities (of a CONNECT, a Host field, an SNI) name the same host and port. Case, a final dot and the
/// default port do not matter.
pub fn authorities_agree(one: &str, other: &str, default_port: u16) -> bool {
    match (split_authority(one, default_port), split_authority(other, default_port)) {
        (Some(one), Some(other)) => one == other,
        _ => false,
    }
}

fn split_authority(text: &str, default_port: u16) -> Option<(String, u16)> {
    if text.contains(['@', '/', '?', '#', ' ']) {
        return None;
    }
    let port_at = text.rfind(':').filter(|colon| text.get(*colon..).is_some_and(|tail| !tail.contains(']')));
    let (host, port) = match port_at {
        Some(colon) => {
            let digits = text.get(colon + 1..)?;
            let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            (text.get(..colon)?, if is_number { digits.parse().ok()? } else { return None })
        }
        None => (text, default_port),
    };
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if host.is_empty() { None } else { Some((host, port)) }
}

/// Takes the fields of this hop away, those that `Connection` names included (an attack that removes `Host` or a
/// credential by naming it there finds them still in place).
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| !END_TO_END.contains(name))
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn check(uri: &str, fields: &[(&str, &str)]) -> Result<(), FramingProblem> {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        check_parts(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn doubtful_fields_are_refused() {
        for (uri, fields, problem) in [
            ("/", vec![("host", "a"), ("host", "a")], FramingProblem::HostRepeated),
            ("/", vec![], FramingProblem::HostAbsent),
            ("/", vec![("host", "a"), ("content-length", "1"), ("content-length", "1")], FramingProblem::LengthRepeated),
            (
                "/",
                vec![("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
                FramingProblem::EncodingRepeated,
            ),
            (
                "/",
                vec![("host", "a"), ("content-length", "1"), ("transfer-encoding", "chunked")],
                FramingProblem::LengthAndEncoding,
            ),
            ("https://a/", vec![("host", "b")], FramingProblem::AuthorityMismatch),
        ] {
            assert_eq!(check(uri, &fields), Err(problem), "{uri} {fields:?}");
        }
        assert_eq!(check("https://a/", &[]), Ok(()));
        assert_eq!(check("https://a/", &[("host", "A.:443")]), Ok(()));
        assert_eq!(check("http://a/", &[("host", "a:80")]), Ok(()));
        assert_eq!(check("/", &[("host", "a")]), Ok(()));
    }

    #[test]
    fn authorities_are_compared_by_host_and_port() {
        for (one, other, agree) in [
            ("a.example:443", "A.EXAMPLE", true),
            ("a.example", "a.example.:443", true),
            ("a.example:8443", "a.example", false),
            ("front.example", "hidden.example", false),
            ("[2001:db8::1]:443", "[2001:DB8::1]", true),
            ("a.example:+443", "a.example", false),
            ("user@a.example", "a.example", false),
            ("", "", false),
        ] {
            assert_eq!(authorities_agree(one, other, 443), agree, "{one} {other}");
        }
    }

    #[test]
    fn fields_of_one_hop_are_taken_away_and_host_stays() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Hop, host"),
            ("connection", "authorization, x-other"),
            ("x-hop", "1"),
            ("x-other", "1"),
            ("te", "trailers"),
            ("proxy-authorization", "Basic c2VjcmV0"),
            ("proxy-connection", "keep-alive"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAA"),
            ("host", "a"),
            ("authorization", "kept"),
            ("accept", "kept"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "authorization", "host"]);
    }
}
