//! One request on its way to its origin and back. In order: its target is read in one way only, its facts are learned, the
//! policy is asked, its body is taken, it is sent, and its response is received. Two readings of one request are refused
//! (RFC 9112 section 11.2): a second Host, a Host that is not the tunnel's, an authority that no name can be.

use std::net::IpAddr;
use std::sync::Arc;

use checkpoint::{Passage, Permit};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use model::verdict::UntrustedCertificate;
use model::{Action, Destination, FieldId, HeaderChange, Obligation, Question, Session, Station, Value};

use crate::body::WebBody;
use crate::connect::learn_addresses;
use crate::download::Exchange;
use crate::enforce::{self, Answer, Asker};
use crate::facts;
use crate::headers::{apply_changes, asks_for_websocket, names_token, strip_connection_fields};
use crate::links::{LinkError, Sending};
use crate::page::wants_html;
use crate::session::{Origin, Road, Scheme, Trouble, Tunnel, canonical_host};
use crate::spec::OnFronting;
use crate::upload::{self, Outcome};
use crate::websocket;

/// Longest target of a request. Browsers stop at a few thousand; what a rule matches on is never cut.
const TARGET_BYTES_MAX: usize = 16 << 10;

/// Why a request is not passed on.
struct Malformed {
    status: u16,
    failure: &'static str,
    reason: &'static str,
}

const fn malformed(status: u16, failure: &'static str, reason: &'static str) -> Malformed {
    Malformed { status, failure, reason }
}

/// Answers one request.
pub(crate) async fn answer(road: Arc<Road>, session: Option<Session>, request: Request<Incoming>) -> Answer {
    let (parts, incoming) = request.into_parts();
    let mut asker = Asker { host: String::new(), wants_html: wants_html(&parts.headers) };
    let mut passage = road.examine(session.as_ref().unwrap_or(&road.session));
    let origin = match target(&road, &parts) {
        Ok(origin) => origin,
        Err(Malformed { status, failure, reason }) => {
            return Ok(enforce::bad_request(&road, &asker, passage, status, failure, reason));
        }
    };
    asker.host = origin.host.to_string();
    let addresses = match &road.tunnel {
        Some(tunnel) => tunnel.chosen.clone(),
        None => {
            facts::learn_origin(&mut passage, &road.shared, &origin);
            let addresses = road.addresses(&origin.host).await;
            learn_addresses(&mut passage, &addresses);
            passage.reach(Station::Handshake);
            addresses
        }
    };
    facts::learn_request(&mut passage, &parts, &origin);
    if let Some(agreed) = road.links.agreed(&origin) {
        facts::learn_agreed(&mut passage, &agreed);
    }
    passage.reach(Station::Request);
    decide(&road, &asker, passage, Bound { origin, addresses }, parts, incoming).await
}

/// Where a request goes, and the addresses that were looked at.
struct Bound {
    origin: Origin,
    addresses: Vec<IpAddr>,
}

impl Bound {
    /// What a permit for this request is for.
    fn destination(&self) -> Destination {
        Destination::Upstream { host: self.origin.host.clone(), port: self.origin.port, addresses: self.addresses.clone() }
    }
}

async fn decide(road: &Arc<Road>, asker: &Asker, mut passage: Passage, bound: Bound, parts: Parts, incoming: Incoming) -> Answer {
    let permit = match passage.permit(bound.destination()) {
        Ok(permit) => permit,
        Err(refusal) => return Ok(enforce::refuse(road, asker, passage, &refusal)),
    };
    if let Some(trouble) = road.tunnel.as_ref().and_then(|tunnel| tunnel.trouble) {
        return Ok(match (trouble, blocks_untrusted(&permit)) {
            (Trouble::Certificate(problem), true) => enforce::untrusted_blocked(road, asker, passage, problem),
            (trouble, _) => enforce::troubled(road, asker, passage, trouble),
        });
    }
    if asks_for_websocket(&parts.method, parts.version, &parts.headers) {
        let request = Request::from_parts(parts, incoming);
        return websocket::open(road, asker, passage, bound.origin, permit, request).await;
    }
    match upload::take(road, asker, passage, &parts, incoming).await {
        Outcome::Ends(answer) => answer,
        Outcome::Passes(mut passage, body, uploaded) => {
            // A body may have brought facts on which a rule waited.
            let permit = match passage.facts().station() {
                Station::Request => permit,
                _ => match passage.permit(bound.destination()) {
                    Ok(permit) => permit,
                    Err(refusal) => {
                        passage.count(uploaded.load(std::sync::atomic::Ordering::Relaxed), 0);
                        return Ok(enforce::refuse(road, asker, passage, &refusal));
                    }
                },
            };
            let (is_head, path) = (parts.method == Method::HEAD, parts.uri.path().to_owned());
            let exchange = Exchange { road, asker, is_head, path, uploaded };
            send(exchange, passage, &bound.origin, permit, parts, body).await
        }
    }
}

async fn send(
    exchange: Exchange<'_>,
    mut passage: Passage,
    origin: &Origin,
    permit: Permit,
    parts: Parts,
    body: WebBody,
) -> Answer {
    let (road, asker) = (exchange.road, exchange.asker);
    let blocks_untrusted = blocks_untrusted(&permit);
    let request = match outgoing(road, &mut passage, &permit, parts, body) {
        Ok(request) => request,
        Err(Malformed { status, failure, reason }) => {
            return Ok(enforce::bad_request(road, asker, passage, status, failure, reason));
        }
    };
    match sending(road, origin).send(permit, request).await {
        Ok((response, agreed)) => {
            facts::learn_agreed(&mut passage, &agreed);
            exchange.receive(passage, response).await
        }
        Err(LinkError::Open(net::Error::Certificate(problem))) if blocks_untrusted => {
            Ok(enforce::untrusted_blocked(road, asker, passage, problem))
        }
        Err(error) => Ok(enforce::failed(road, asker, passage, &error)),
    }
}

pub(crate) fn sending<'a>(road: &'a Road, origin: &'a Origin) -> Sending<'a> {
    Sending { links: &road.links, origin, leg: road.leg, connector: &road.shared.connector, wait: road.shared.config.response }
}

/// GW-031: the rule asks for the block page in place of the 526 page.
pub(crate) fn blocks_untrusted(permit: &Permit) -> bool {
    let is_block =
        |obligation: &Obligation| matches!(obligation, Obligation::UntrustedCertificate { action: UntrustedCertificate::Block });
    permit.obligations().iter().any(is_block)
}

/// The request as it leaves, but for what the link's protocol adds.
fn outgoing(
    road: &Road,
    passage: &mut Passage,
    permit: &Permit,
    mut parts: Parts,
    body: WebBody,
) -> Result<Request<WebBody>, Malformed> {
    if !strip_connection_fields(&mut parts.headers) {
        return Err(malformed(400, "bad_connection_header", "The request's Connection header is not acceptable."));
    }
    // The body is held or passed on at once; the origin is not asked first.
    parts.headers.remove(header::EXPECT);
    if road.shared.config.scan.downloads && passage.ask(Question::Scan) == Action::Scan {
        prepare_for_scan(&mut parts.headers);
    }
    change_headers(passage, permit, &mut parts.headers);
    if road.tunnel.is_none() {
        parts.headers.append(header::VIA, road.shared.via.clone());
    }
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = parts.uri;
    *request.headers_mut() = parts.headers;
    Ok(request)
}

/// Carries out a permit's header operations and writes them down.
pub(crate) fn change_headers(passage: &mut Passage, permit: &Permit, headers: &mut HeaderMap) {
    let changes: Vec<HeaderChange> = permit.obligations().iter().flat_map(header_changes).cloned().collect();
    if !changes.is_empty() {
        passage.learn(FieldId::HeaderChanges, Value::texts(apply_changes(headers, &changes)));
    }
}

fn header_changes(obligation: &Obligation) -> &[HeaderChange] {
    match obligation {
        Obligation::Headers { changes } => changes,
        _ => &[],
    }
}

/// Asks for a body that the scanner can read: whole, and in no coding but gzip.
fn prepare_for_scan(headers: &mut HeaderMap) {
    let is_media =
        headers.get("sec-fetch-dest").is_some_and(|destination| matches!(destination.as_bytes(), b"video" | b"audio" | b"track"));
    if !is_media {
        headers.remove(header::RANGE);
        headers.remove(header::IF_RANGE);
    }
    let coding = match names_token(headers, header::ACCEPT_ENCODING, "gzip") {
        true => "gzip, identity",
        false => "identity",
    };
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(coding));
}

/// The one origin of a request.
fn target(road: &Road, parts: &Parts) -> Result<Origin, Malformed> {
    if parts.uri.path_and_query().map_or(0, |path| path.as_str().len()) > TARGET_BYTES_MAX {
        return Err(malformed(414, "target_too_long", "The address is too long."));
    }
    // RFC 9110 section 10.1.1 knows one expectation; the gate answers it itself.
    if parts.headers.get_all(header::EXPECT).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(malformed(417, "expectation", "The request expects what this gateway does not know."));
    }
    if parts.method == Method::CONNECT {
        return Err(malformed(400, "connect_in_tunnel", "A tunnel inside a tunnel is not opened."));
    }
    let host = host_field(&parts.headers)?;
    match (&road.tunnel, road.intercepted_port) {
        (Some(tunnel), _) => tunnel_target(road, tunnel, parts, host),
        (None, Some(port)) => intercepted_target(parts, host, port),
        (None, None) => proxy_target(road, parts, host),
    }
}

/// The Host field, which may stand once (RFC 9112 section 3.2).
fn host_field(headers: &HeaderMap) -> Result<Option<&str>, Malformed> {
    let mut values = headers.get_all(header::HOST).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(malformed(400, "duplicate_host", "The request names two hosts."));
    }
    first.map(|value| value.to_str().map_err(|_| malformed(400, "bad_host", "The request's host cannot be read."))).transpose()
}

fn proxy_target(road: &Road, parts: &Parts, host: Option<&str>) -> Result<Origin, Malformed> {
    if host.is_none() && parts.version == http::Version::HTTP_11 {
        return Err(malformed(400, "absent_host", "The request has no Host."));
    }
    if passed_here_before(road, &parts.headers) {
        return Err(malformed(508, "loop", "The request has passed this gateway before."));
    }
    let is_http = parts.uri.scheme_str().is_some_and(|scheme| scheme.eq_ignore_ascii_case("http"));
    let authority = parts.uri.authority().filter(|_| is_http);
    let authority =
        authority.ok_or(malformed(400, "bad_target", "Only http addresses can be fetched; use CONNECT for others."))?;
    // RFC 9112 section 3.2.2: with an absolute target the Host field is ignored and replaced.
    origin_of(authority.as_str(), Scheme::Http)
}

/// The site is what Host says, at the port that the client reached. Its addresses are looked up here: a false Host leads
/// to that host, and not past the policy.
fn intercepted_target(parts: &Parts, host: Option<&str>, port: u16) -> Result<Origin, Malformed> {
    let host = host.ok_or(malformed(400, "absent_host", "The request has no Host."))?;
    let mut origin = origin_of(host, Scheme::Http)?;
    let named = parts.uri.authority().map(|authority| origin_of(authority.as_str(), Scheme::Http)).transpose()?;
    if named.is_some_and(|named| named != origin) {
        return Err(malformed(400, "host_mismatch", "The request names two hosts."));
    }
    origin.port = port;
    Ok(origin)
}

fn passed_here_before(road: &Road, headers: &HeaderMap) -> bool {
    let own = road.shared.via.as_bytes();
    headers.get_all(header::VIA).iter().any(|value| value.as_bytes().split(|b| *b == b',').any(|hop| hop.trim_ascii() == own))
}

/// Inside a tunnel every writing of the host must be the tunnel's: a Host of another site is domain fronting.
fn tunnel_target(road: &Road, tunnel: &Tunnel, parts: &Parts, host: Option<&str>) -> Result<Origin, Malformed> {
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    if host.is_none() && authority.is_none() {
        return Err(malformed(400, "absent_host", "The request has no Host."));
    }
    for named in [host, authority].into_iter().flatten().filter(|named| !tunnel.origin.is_written(named)) {
        let named = origin_of(named, tunnel.origin.scheme)?;
        if named != tunnel.origin && road.shared.config.on_fronting == OnFronting::Refuse {
            // RFC 9110 section 15.5.20: the client may ask again on a connection of its own.
            return Err(malformed(421, "host_mismatch", "The request is for another site than its connection."));
        }
    }
    Ok(tunnel.origin.clone())
}

fn origin_of(authority: &str, scheme: Scheme) -> Result<Origin, Malformed> {
    let unreadable = || malformed(400, "bad_host", "The request's host cannot be read.");
    let (host, port) = split_port(authority).ok_or_else(unreadable)?;
    let host = canonical_host(host).ok_or_else(unreadable)?;
    Ok(Origin { scheme, host, port: port.unwrap_or(scheme.default_port()) })
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`. Nothing else, and no user information.
pub(crate) fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let end = match authority.starts_with('[') {
        true => authority.find(']')? + 1,
        false => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at(end);
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Some((host, None)),
        None => None,
        Some(digits) => {
            let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| digits.parse().ok()).flatten().filter(|port| *port != 0).map(|port| (host, Some(port)))
        }
    }
}

/// A response of the gate itself, for its own paths.
pub(crate) fn own(media: &'static str, body: bytes::Bytes) -> Response<WebBody> {
    let mut response = Response::new(WebBody::whole(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_with_two_readings_are_refused() {
        for bad in ["a:b", "a:", "a:0", "a:65536", "a:+1", "a:1:2", "[::1", "[::1]x", "[::1]:", "user@a:80"] {
            let host = split_port(bad).and_then(|(host, _)| canonical_host(host));
            assert_eq!(host, None, "{bad}");
        }
        assert_eq!(split_port("a.example:8080"), Some(("a.example", Some(8080))));
        assert_eq!(split_port("[::1]:1"), Some(("[::1]", Some(1))));
    }
}
