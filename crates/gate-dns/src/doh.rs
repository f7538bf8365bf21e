//! DNS over HTTPS: wire messages by GET and POST (RFC 8484), and the JSON form that resolvers in use share (ON-02). A token
//! in the path, or in the `cf-dns-location` header, says which location or user is asking (ON-01, ON-03).

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use model::Transport;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::decode::{Decoded, decode};
use crate::events::{Counter, count};
use crate::json;
use crate::session::{Shared, Visit};

const PATH: &str = "/dns-query";
const MESSAGE: &str = "application/dns-message";
const JSON: &str = "application/dns-json";

/// A posted question, as long as the decoder takes one.
const BODY_BYTES_MAX: usize = 4096;

/// A token is short enough for a label of the host form of the same thing.
const TOKEN_BYTES_MAX: usize = 64;

/// Requests of one HTTP/2 connection under way (RFC 9113 section 6.5.2 advises at least 100).
const STREAMS_MAX: u32 = 100;

/// Time for the head of a request, and for a body after it.
const REQUEST_WAIT: Duration = Duration::from_secs(10);

/// An HTTP/2 connection that does not answer a ping is gone.
const PING_INTERVAL: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    One,
    Two,
}

/// Who is at the other end of the connection.
#[derive(Clone)]
struct Ends {
    client: SocketAddr,
    local: SocketAddr,
}

pub(crate) fn agreed_version(protocol: Option<&[u8]>) -> HttpVersion {
    if protocol == Some(b"h2") { HttpVersion::Two } else { HttpVersion::One }
}

/// Without TLS the first bytes tell: no request of HTTP/1 begins with `PRI` (RFC 9113 section 3.4).
pub(crate) async fn version_of(stream: &TcpStream) -> io::Result<HttpVersion> {
    let mut start = [0; 3];
    let seen = timeout(REQUEST_WAIT, stream.peek(&mut start)).await??;
    Ok(if &start[..seen] == b"PRI" { HttpVersion::Two } else { HttpVersion::One })
}

pub(crate) async fn converse<S>(
    stream: S,
    version: HttpVersion,
    client: SocketAddr,
    local: SocketAddr,
    shared: Arc<Shared>,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let ends = Ends { client, local };
    let service = service_fn(move |request| {
        let (shared, ends) = (Arc::clone(&shared), ends.clone());
        async move { Ok::<_, Infallible>(respond(&shared, &ends, request).await) }
    });
    let stopping = shutdown.wait_for(|stopping| *stopping);
    match version {
        HttpVersion::One => {
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(REQUEST_WAIT);
            let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
            tokio::select! {
                ended = connection.as_mut() => return ended.map_err(io::Error::other),
                _ = stopping => connection.as_mut().graceful_shutdown(),
            }
            connection.await.map_err(io::Error::other)
        }
        HttpVersion::Two => {
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX).keep_alive_interval(PING_INTERVAL);
            let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
            tokio::select! {
                ended = connection.as_mut() => return ended.map_err(io::Error::other),
                _ = stopping => connection.as_mut().graceful_shutdown(),
            }
            connection.await.map_err(io::Error::other)
        }
    }
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Message(Vec<u8>),
    Json(Vec<u8>),
}

async fn respond(shared: &Arc<Shared>, ends: &Ends, request: Request<Incoming>) -> Response<Full<Bytes>> {
    count(Counter::QueriesDoh);
    let token = match token_of(request.uri().path(), request.headers()) {
        Ok(token) => token,
        Err(status) => return refuse(status),
    };
    if !shared.limit.admits(ends.client.ip(), Instant::now()) {
        count(Counter::RateLimited);
        return refuse(StatusCode::TOO_MANY_REQUESTS);
    }
    let visit = shared.visit(ends.client, ends.local, Transport::Doh, token.as_deref());
    let lacks_token = shared.config.spec.doh_requires_token && !visit.has_token;
    if let Some(reason) = visit.refusal.or(lacks_token.then_some("token_required")) {
        shared.turn_away_unread(&visit, reason);
        return refuse(StatusCode::FORBIDDEN);
    }
    match read(request).await {
        Ok(Asked::Message(bytes)) => match answer(shared, visit, &bytes).await {
            Some(reply) => message_response(reply),
            None => refuse(StatusCode::BAD_REQUEST),
        },
        Ok(Asked::Json(bytes)) => match answer(shared, visit, &bytes).await.as_deref().and_then(json::render) {
            Some(text) => plain_response(StatusCode::OK, JSON, text.into()),
            None => refuse(StatusCode::BAD_REQUEST),
        },
        Err(status) => refuse(status),
    }
}

async fn answer(shared: &Arc<Shared>, visit: Visit, bytes: &[u8]) -> Option<Vec<u8>> {
    match decode(bytes) {
        Decoded::Query(query) => Some(Arc::clone(shared).transact_in_turn(visit, query).await),
        Decoded::Reject { reply, failure } => {
            shared.reject(&visit, bytes.len(), reply.len(), failure);
            Some(reply)
        }
        Decoded::Drop => None,
    }
}

/// The token of the path, or of the header, where there is one.
fn token_of(path: &str, headers: &HeaderMap) -> Result<Option<String>, StatusCode> {
    let in_path = match path.strip_prefix(PATH) {
        Some("" | "/") => None,
        Some(rest) => Some(rest.strip_prefix('/').ok_or(StatusCode::NOT_FOUND)?),
        None => return Err(StatusCode::NOT_FOUND),
    };
    let in_header = headers.get("cf-dns-location").and_then(|value| value.to_str().ok());
    let Some(token) = in_path.or(in_header) else { return Ok(None) };
    let is_plain = token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if is_plain && (1..=TOKEN_BYTES_MAX).contains(&token.len()) { Ok(Some(token.to_owned())) } else { Err(StatusCode::NOT_FOUND) }
}

async fn read(request: Request<Incoming>) -> Result<Asked, StatusCode> {
    match *request.method() {
        Method::GET => read_get(request.uri().query().unwrap_or_default(), wants_json(request.headers())),
        Method::POST => {
            let kind = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
            if kind != MESSAGE {
                return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
            }
            let body = timeout(REQUEST_WAIT, Limited::new(request.into_body(), BODY_BYTES_MAX).collect()).await;
            let body = body.map_err(|_| StatusCode::REQUEST_TIMEOUT)?.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
            Ok(Asked::Message(body.to_bytes().into()))
        }
        _ => Err(StatusCode::METHOD_NOT_ALLOWED),
    }
}

fn wants_json(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|accepted| accepted.contains(JSON))
}

/// `dns` carries a message. `name` is the JSON form, which clients ask for with or without the header.
pub(crate) fn read_get(query: &str, json: bool) -> Result<Asked, StatusCode> {
    let parameter = |wanted: &str| {
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == wanted).map(|(_, value)| value)
    };
    if let Some(message) = parameter("dns").filter(|_| !json) {
        let bytes = URL_SAFE_NO_PAD.decode(message.trim_end_matches('=')).map_err(|_| StatusCode::BAD_REQUEST)?;
        return Ok(Asked::Message(bytes));
    }
    let name = parameter("name").ok_or(StatusCode::BAD_REQUEST)?;
    let is_set = |wanted| matches!(parameter(wanted), Some("1" | "true"));
    let question = json::Question {
        name: json::percent_decoded(name).ok_or(StatusCode::BAD_REQUEST)?,
        kind: parameter("type").unwrap_or("A").to_owned(),
        dnssec_ok: is_set("do"),
        checking_disabled: is_set("cd"),
    };
    question.encode().map(Asked::Json).ok_or(StatusCode::BAD_REQUEST)
}

/// Caches between may keep an answer as long as its shortest record (RFC 8484 section 5.1).
fn message_response(reply: Vec<u8>) -> Response<Full<Bytes>> {
    let age = json::shortest_ttl(&reply).unwrap_or(0);
    let mut response = plain_response(StatusCode::OK, MESSAGE, reply.into());
    if let Ok(value) = format!("max-age={age}").parse() {
        response.headers_mut().insert(CACHE_CONTROL, value);
    }
    response
}

fn refuse(status: StatusCode) -> Response<Full<Bytes>> {
    plain_response(status, "text/plain", Bytes::from_static(status.canonical_reason().unwrap_or_default().as_bytes()))
}

fn plain_response(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_from_the_path_first_and_is_plain() {
        let mut headers = HeaderMap::new();
        assert_eq!(token_of("/dns-query", &headers), Ok(None));
        headers.insert("cf-dns-location", "header1".parse().unwrap());
        assert_eq!(token_of("/dns-query", &headers), Ok(Some("header1".to_owned())));
        assert_eq!(token_of("/dns-query/path1", &headers), Ok(Some("path1".to_owned())));
        for path in ["/", "/dns-queryx", "/dns-query/a/b", "/dns-query/a%20b", &format!("/dns-query/{}", "a".repeat(65))] {
            assert_eq!(token_of(path, &headers), Err(StatusCode::NOT_FOUND), "{path}");
        }
    }

    #[test]
    fn a_get_is_a_message_or_json_or_refused() {
        assert_eq!(read_get("dns=AAAB", false), Ok(Asked::Message(vec![0, 0, 1])));
        assert!(matches!(read_get("name=example.com&type=AAAA&do=1", false), Ok(Asked::Json(_))));
        for wrong in ["", "dns=%%%", "name=", "name=a&type=NOPE", "name=%zz", "type=A"] {
            assert_eq!(read_get(wrong, false), Err(StatusCode::BAD_REQUEST), "{wrong}");
        }
    }
}
