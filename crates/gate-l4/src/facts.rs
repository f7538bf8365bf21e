//! The rows of the field table that this gate fills in, station by station (SP-50). What is known of addresses and of the
//! server's name the checkpoint adds.

use std::net::SocketAddr;

use checkpoint::Passage;
use model::{FieldId, Station, Value};
use net::hello::ClientHello;
use net::upstream::{UpstreamTls, UpstreamTlsVersion};
use rustls::ServerConnection;

use crate::board::Flow;
use crate::enforce::Ending;
use crate::origins::Origin;
use crate::session::App;

/// Known when a client has connected.
pub(crate) fn learn_app(passage: &mut Passage, app: &App, local: SocketAddr) {
    passage.learn(FieldId::L4App, Value::text(&app.config.name));
    passage.learn(FieldId::L4EdgePort, Value::Int(i64::from(local.port())));
    passage.learn(FieldId::L4OriginProtocol, Value::word("tcp"));
    passage.learn(FieldId::L4ProxyProtocol, Value::word(app.config.proxy_protocol.as_str()));
}

/// The origin that is tried next.
pub(crate) fn learn_origin(passage: &mut Passage, app: &App, origin: &Origin, offset: u16) {
    let socket = origin.socket(offset);
    passage.learn(FieldId::DestinationIp, Value::Ip(socket.ip()));
    passage.learn(FieldId::DestinationPort, Value::Int(i64::from(socket.port())));
    match app.origins.name() {
        Some(name) => passage.learn(FieldId::L4Origin, Value::text(name)),
        None => passage.learn(FieldId::L4Origin, Value::text(socket.ip().to_string())),
    }
}

/// What a client hello says, which is known before the rest of the first bytes.
pub(crate) fn learn_hello(passage: &mut Passage, hello: &ClientHello) {
    if let Some(name) = &hello.server_name {
        passage.learn_host(name);
    }
    passage.learn(FieldId::ClientJa4, Value::text(&hello.ja4));
    if !hello.alpn.is_empty() {
        passage.learn(FieldId::ClientAlpn, Value::texts(hello.alpn.iter().map(|name| String::from_utf8_lossy(name))));
    }
}

/// What was agreed with the client.
pub(crate) fn learn_client_tls(passage: &mut Passage, session: &ServerConnection) {
    passage.learn(FieldId::ClientTlsStatus, Value::word("OK"));
    let version = match session.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLSv1.2",
    };
    passage.learn(FieldId::ClientTlsVersion, Value::word(version));
    if let Some(cipher) = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()) {
        passage.learn(FieldId::ClientTlsCipher, Value::text(cipher));
    }
}

/// What was agreed with the origin.
pub(crate) fn learn_origin_tls(passage: &mut Passage, tls: &UpstreamTls) {
    passage.learn(FieldId::OriginTlsStatus, Value::word("OK"));
    let version = match tls.version {
        UpstreamTlsVersion::Tls12 => "TLSv1.2",
        UpstreamTlsVersion::Tls13 => "TLSv1.3",
    };
    passage.learn(FieldId::OriginTlsVersion, Value::word(version));
    if let Some(cipher) = tls.cipher {
        passage.learn(FieldId::OriginTlsCipher, Value::text(cipher));
    }
    let fingerprint: String = tls.certificate_sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    passage.learn(FieldId::OriginTlsFingerprint, Value::text(fingerprint));
    if let Some(problem) = tls.passed_through {
        passage.learn(FieldId::CertificateProblem, Value::text(problem.as_str()));
    }
}

/// Why an origin's handshake failed.
pub(crate) fn learn_origin_problem(passage: &mut Passage, error: &net::Error) {
    match error {
        net::Error::Certificate(problem) => {
            passage.learn(FieldId::OriginTlsStatus, Value::word("INVALID_CERTIFICATE"));
            passage.learn(FieldId::CertificateProblem, Value::text(problem.as_str()));
        }
        net::Error::Handshake { .. } => passage.learn(FieldId::OriginTlsStatus, Value::word("HANDSHAKE_FAILED")),
        _ => {}
    }
}

/// How far the flow is, for rules that read it.
pub(crate) fn learn_flow(passage: &mut Passage, flow: &Flow, bytes_per_second: u64) {
    let (out, into) = flow.bytes();
    let int = |number: u64| Value::Int(i64::try_from(number).unwrap_or(i64::MAX));
    passage.reach(Station::Flow);
    passage.learn(FieldId::FlowBytesOut, int(out));
    passage.learn(FieldId::FlowBytesIn, int(into));
    passage.learn(FieldId::FlowSeconds, int(flow.seconds()));
    passage.learn(FieldId::FlowRate, int(bytes_per_second));
}

/// The last rows, when the flow has ended.
pub(crate) fn learn_end(passage: &mut Passage, app: &App, site: &str, ending: Ending, has_passed: bool) {
    passage.learn(FieldId::L4Event, Value::word(ending.event));
    passage.learn(FieldId::L4Status, Value::Int(ending.status));
    passage.learn(FieldId::L4IpFirewall, Value::Bool(true));
    passage.learn(FieldId::L4MatchedIpFirewall, Value::word(firewall(passage, ending)));
    passage.learn(FieldId::OriginTlsMode, Value::word(app.config.tls.as_str()));
    if passage.facts().get(FieldId::ClientTlsStatus).is_none() {
        passage.learn(FieldId::ClientTlsStatus, Value::word("UNKNOWN"));
    }
    if !site.is_empty() {
        passage.learn(FieldId::Site, Value::text(site));
    }
    if has_passed {
        passage.learn(FieldId::BypassReason, Value::word("files inside this protocol are not opened"));
    }
}

/// The word of SP-50 for what the rules said of where the client comes from.
fn firewall(passage: &Passage, ending: Ending) -> &'static str {
    let kinds = [(FieldId::SourceAsn, "BLOCK_ASN"), (FieldId::SourceCountry, "BLOCK_COUNTRY"), (FieldId::SourceIp, "BLOCK_IP")];
    let read = kinds.into_iter().find(|(field, _)| passage.is_access_by(*field));
    match read {
        Some((_, word)) if ending.status == 403 => word,
        Some(_) => "ALLOW",
        None => "UNKNOWN",
    }
}
