//! The rows of the field table that the web gate fills in, station by station. Values come from the wire as they are; the
//! checkpoint adds what is known about hosts and files.

use checkpoint::Passage;
use http::request::Parts;
use http::{HeaderMap, StatusCode, Version, header};
use model::{FieldId, Value};
use net::upstream::UpstreamTlsVersion;

use crate::headers::media_type;
use crate::links::Agreed;
use crate::session::{Origin, Shared};

/// Known when the connection's destination is known.
pub(crate) fn learn_origin(passage: &mut Passage, shared: &Shared, origin: &Origin) {
    if !shared.config.endpoint.is_empty() {
        passage.learn(FieldId::ProxyEndpoint, Value::text(&shared.config.endpoint));
    }
    passage.learn(FieldId::DestinationPort, Value::Int(i64::from(origin.port)));
    passage.learn_host(&origin.host);
}

/// The request's own facts.
pub(crate) fn learn_request(passage: &mut Passage, parts: &Parts, origin: &Origin) {
    let path_and_query = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    passage.learn(FieldId::HttpUrl, Value::text(origin.url(path_and_query)));
    passage.learn(FieldId::HttpPath, Value::text(parts.uri.path()));
    passage.learn(FieldId::HttpPathAndQuery, Value::text(path_and_query));
    if let Some(query) = parts.uri.query() {
        passage.learn(FieldId::HttpQuery, Value::text(query));
    }
    passage.learn(FieldId::HttpMethod, Value::text(parts.method.as_str()));
    passage.learn(FieldId::HttpVersion, Value::text(version_text(parts.version)));
    for (name, field) in [(header::USER_AGENT, FieldId::HttpUserAgent), (header::REFERER, FieldId::HttpReferrer)] {
        if let Some(value) = parts.headers.get(name) {
            passage.learn(field, Value::text(String::from_utf8_lossy(value.as_bytes())));
        }
    }
    if let Some(media) = media_type(&parts.headers) {
        passage.learn(FieldId::UploadMime, Value::text(media));
    }
}

/// What was agreed with the origin.
pub(crate) fn learn_agreed(passage: &mut Passage, agreed: &Agreed) {
    passage.learn(FieldId::DestinationIp, Value::Ip(agreed.peer));
    if let Some(version) = agreed.version {
        let text = match version {
            UpstreamTlsVersion::Tls12 => "TLSv1.2",
            UpstreamTlsVersion::Tls13 => "TLSv1.3",
        };
        passage.learn(FieldId::OriginTlsVersion, Value::text(text));
    }
    if let Some(problem) = agreed.passed_through {
        passage.learn(FieldId::CertificateProblem, Value::text(problem.as_str()));
        passage.learn(FieldId::UntrustedAction, Value::text("passThrough"));
    }
}

/// The response's own facts.
pub(crate) fn learn_response(passage: &mut Passage, status: StatusCode, headers: &HeaderMap) {
    passage.learn(FieldId::HttpStatus, Value::Int(i64::from(status.as_u16())));
    if let Some(media) = media_type(headers) {
        passage.learn(FieldId::DownloadMime, Value::text(media));
    }
}

fn version_text(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}
