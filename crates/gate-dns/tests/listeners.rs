//! The ways to the gate: UDP with its bounds, TCP with several questions under way, TLS, and HTTPS in both versions and
//! both forms (ON-01 to ON-04). The same question gets the same answer by each.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod rig;

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use gate_dns::DnsGateSpec;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType::{self, A, TXT};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::FieldId;
use rig::{Manner, Rig, Upstream, plain_query, query, read_message, shown, spec, write_message};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

const TOKENS: &str = r#"
[[user]]
email = "ada@example.com"
name = "Ada"

[[location]]
name = "home"
doh_token = "t0ken"
user = "ada@example.com"
"#;

/// A certificate for `localhost`: the server's side, and what a client needs to trust it.
fn certificate() -> (Arc<ServerConfig>, RootCertStore, String) {
    let made =
        rcgen::generate_simple_self_signed(["localhost", "t0ken.localhost", "other.localhost"].map(str::to_owned)).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    (Arc::new(server), roots, made.cert.pem())
}

fn client_tls(roots: RootCertStore, protocol: &str) -> TlsConnector {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    TlsConnector::from(Arc::new(config))
}

#[tokio::test]
async fn a_long_answer_is_cut_over_udp_and_whole_over_tcp() {
    let rig = Rig::start("").await;
    let cut = rig.ask("big.example.com", TXT).await;
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    let whole = rig.tcp(&query("big.example.com", TXT)).await;
    assert_eq!(whole.answers.len(), 1);
    assert_eq!(rig.last(FieldId::OnRamp).as_deref(), Some("tcp"));
}

#[tokio::test]
async fn several_questions_travel_over_one_connection() {
    let rig = Rig::start("").await;
    let mut stream = TcpStream::connect(rig.address("tcp")).await.unwrap();
    for (id, host) in [(1, "www.example.com"), (2, "missing.example.com"), (3, "target.example.net")] {
        let mut message = plain_query(host, A);
        message.metadata.id = id;
        write_message(&mut stream, &message.to_vec().unwrap()).await;
    }
    let mut answers = Vec::new();
    for _ in 0..3 {
        let answer = timeout(rig::WAIT, read_message(&mut stream)).await.unwrap().unwrap();
        answers.push((answer.metadata.id, shown(&answer)));
    }
    answers.sort();
    let shown: Vec<_> = answers.iter().map(|(id, shown)| (*id, shown.as_str())).collect();
    assert_eq!(shown, [(1, "NoError [192.0.2.1]"), (2, "NXDomain [] +soa"), (3, "NoError [192.0.2.7]")]);
}

/// A peer that sends no question loses its connection, and the gate goes on.
#[tokio::test]
async fn a_stream_of_nonsense_is_closed() {
    let rig = Rig::start("").await;
    let mut stream = TcpStream::connect(rig.address("tcp")).await.unwrap();
    write_message(&mut stream, &[0; 5]).await;
    assert!(timeout(rig::WAIT, read_message(&mut stream)).await.unwrap().is_none());
    assert_eq!(shown(&rig.ask("www.example.com", A).await), "NoError [192.0.2.1]");
}

#[tokio::test]
async fn a_client_over_its_rate_is_sent_to_tcp() {
    let upstream = Upstream::start(Manner::Honest).await;
    let spec = DnsGateSpec { client_queries_per_second_max: 1, client_query_burst_max: 2, ..spec(&upstream) };
    let rig = Rig::with("", upstream, spec, None).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut cut = 0;
    for _ in 0..6 {
        socket.send_to(&query("www.example.com", A), rig.address("udp")).await.unwrap();
        let mut buffer = [0; 1500];
        timeout(rig::WAIT, socket.recv(&mut buffer)).await.unwrap().unwrap();
        cut += usize::from(buffer[2] & 0x02 != 0);
    }
    assert!((3..=4).contains(&cut), "{cut}");
}

/// ON-04, RFC 7858: with padding where the client pads.
#[tokio::test]
async fn questions_come_over_tls() {
    let (tls, roots, _) = certificate();
    let upstream = Upstream::start(Manner::Honest).await;
    let spec = DnsGateSpec { dot: vec![SocketAddr::from(([127, 0, 0, 1], 0))], ..spec(&upstream) };
    let rig = Rig::with("", upstream, spec, Some(tls)).await;
    let tcp = TcpStream::connect(rig.address("dot")).await.unwrap();
    let mut stream = client_tls(roots, "dot").connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap();
    for _ in 0..2 {
        write_message(&mut stream, &query("www.example.com", A)).await;
        let answer = timeout(rig::WAIT, read_message(&mut stream)).await.unwrap().unwrap();
        assert_eq!(shown(&answer), "NoError [192.0.2.1]");
    }
    assert_eq!(rig.last(FieldId::OnRamp).as_deref(), Some("dot"));
}

/// ON-04: the first label of the name that a client connects to is a token where somebody has it, and else means nothing.
#[tokio::test]
async fn a_name_asked_for_over_tls_names_the_location() {
    let (tls, roots, _) = certificate();
    let upstream = Upstream::start(Manner::Honest).await;
    let spec = DnsGateSpec { dot: vec![SocketAddr::from(([127, 0, 0, 1], 0))], ..spec(&upstream) };
    let rig = Rig::with(TOKENS, upstream, spec, Some(tls)).await;
    for (name, location, user) in [("t0ken.localhost", "home", "ada@example.com"), ("other.localhost", "", "")] {
        let tcp = TcpStream::connect(rig.address("dot")).await.unwrap();
        let mut stream = client_tls(roots.clone(), "dot").connect(ServerName::try_from(name).unwrap(), tcp).await.unwrap();
        write_message(&mut stream, &query("www.example.com", A)).await;
        let answer = timeout(rig::WAIT, read_message(&mut stream)).await.unwrap().unwrap();
        assert_eq!(shown(&answer), "NoError [192.0.2.1]");
        let facts = [FieldId::Location, FieldId::UserEmail].map(|field| rig.last(field).unwrap_or_default());
        assert_eq!(facts, [location, user], "{name}");
    }
}

/// A gate asks another over TLS, one connection for many questions, and refuses one whose certificate it does not trust.
#[tokio::test]
async fn upstreams_are_asked_over_tls() {
    let (tls, _, pem) = certificate();
    let upstream = Upstream::start(Manner::Honest).await;
    let far = DnsGateSpec { dot: vec![SocketAddr::from(([127, 0, 0, 1], 0))], ..spec(&upstream) };
    let far = Rig::with("", upstream.clone(), far, Some(tls)).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pem).unwrap();
    let near = DnsGateSpec {
        upstreams: vec![format!("tls://{}#localhost", far.address("dot"))],
        upstream_ca_file: Some(file.path().to_owned()),
        ..spec(&upstream)
    };
    let trusting = Rig::with("", upstream.clone(), near.clone(), None).await;
    for (host, answer) in [("www.example.com", "NoError [192.0.2.1]"), ("target.example.net", "NoError [192.0.2.7]")] {
        assert_eq!(shown(&trusting.ask(host, A).await), answer);
    }
    assert_eq!(trusting.last(FieldId::DnsUpstream), Some(format!("tls://{}", far.address("dot"))));
    let ports: Vec<_> = far.events().iter().map(|event| event.facts.get(FieldId::SourcePort).cloned()).collect();
    assert!(ports.len() == 2 && ports[0] == ports[1], "{ports:?}");

    let wary = Rig::with("", upstream, DnsGateSpec { upstream_ca_file: None, ..near }, None).await;
    assert_eq!(shown(&wary.ask("www.example.com", A).await), "ServFail [] ede23");
}

async fn http(rig: &Rig, version: http::Version, request: Request<Full<Bytes>>) -> (StatusCode, Bytes, String) {
    let stream = TokioIo::new(TcpStream::connect(rig.address("doh")).await.unwrap());
    let response = if version == http::Version::HTTP_2 {
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    };
    let (parts, body) = response.into_parts();
    let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    let headers = format!("{} {}", header("content-type"), header("cache-control"));
    (parts.status, body.collect().await.unwrap().to_bytes(), headers.trim().to_owned())
}

fn get(rig: &Rig, path: &str) -> Request<Full<Bytes>> {
    let uri = format!("http://{}{path}", rig.address("doh"));
    Request::builder().uri(uri).header("host", "localhost").body(Full::default()).unwrap()
}

fn post(rig: &Rig, path: &str, kind: &str, body: Vec<u8>) -> Request<Full<Bytes>> {
    let builder = Request::builder().method(Method::POST).header("content-type", kind);
    builder.uri(format!("http://{}{path}", rig.address("doh"))).body(Full::new(body.into())).unwrap()
}

fn get_message(host: &str, kind: RecordType) -> String {
    format!("/dns-query?dns={}", URL_SAFE_NO_PAD.encode(query(host, kind)))
}

/// ON-02, RFC 8484: both methods, both versions.
#[tokio::test]
async fn questions_come_over_https_as_messages() {
    let rig = Rig::start("").await;
    for version in [http::Version::HTTP_11, http::Version::HTTP_2] {
        for request in [
            get(&rig, &get_message("www.example.com", A)),
            post(&rig, "/dns-query", "application/dns-message", query("www.example.com", A)),
        ] {
            let (status, body, headers) = http(&rig, version, request).await;
            assert_eq!(status, StatusCode::OK);
            assert_eq!(headers.split(' ').next(), Some("application/dns-message"));
            assert!(headers.contains("max-age="), "{headers}");
            assert_eq!(shown(&Message::from_vec(&body).unwrap()), "NoError [192.0.2.1]");
        }
    }
    assert_eq!(rig.last(FieldId::OnRamp).as_deref(), Some("doh"));
    assert_eq!(rig.events().len(), 4);
}

#[tokio::test]
async fn questions_come_over_https_as_json() {
    let rig = Rig::start("").await;
    let (status, body, headers) = http(&rig, http::Version::HTTP_11, get(&rig, "/dns-query?name=Alias.example.com&type=A")).await;
    assert_eq!((status, headers.as_str()), (StatusCode::OK, "application/dns-json"));
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["Status"], 0);
    assert_eq!(answer["Question"][0]["name"], "alias.example.com");
    assert_eq!(answer["Answer"][0]["data"], "middle.example.net");
    assert_eq!(answer["Answer"][2]["data"], "192.0.2.7");
    assert_eq!(answer["Answer"][2]["type"], 1);
}

#[tokio::test]
async fn requests_that_are_no_questions_are_refused_by_status() {
    let rig = Rig::start("").await;
    let message = "application/dns-message";
    for (request, status) in [
        (get(&rig, "/"), StatusCode::NOT_FOUND),
        (get(&rig, "/dns-query"), StatusCode::BAD_REQUEST),
        (get(&rig, "/dns-query?dns=!"), StatusCode::BAD_REQUEST),
        (get(&rig, "/dns-query?dns=AAAA"), StatusCode::BAD_REQUEST),
        (post(&rig, "/dns-query", "text/plain", query("a.example", A)), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (post(&rig, "/dns-query", message, vec![0; 5000]), StatusCode::PAYLOAD_TOO_LARGE),
        (
            Request::builder().method("PUT").uri("/dns-query").header("host", "x").body(Full::default()).unwrap(),
            StatusCode::METHOD_NOT_ALLOWED,
        ),
    ] {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        assert_eq!(http(&rig, http::Version::HTTP_11, request).await.0, status, "{method} {uri}");
    }
}

/// ON-01 and ON-03: a token says who asks, and can be required.
#[tokio::test]
async fn a_token_names_the_location_and_its_user() {
    let upstream = Upstream::start(Manner::Honest).await;
    let spec = DnsGateSpec { doh_requires_token: true, ..spec(&upstream) };
    let rig = Rig::with(TOKENS, upstream, spec, None).await;
    let with_token = get_message("www.example.com", A).replace("/dns-query", "/dns-query/t0ken");
    let (status, _, _) = http(&rig, http::Version::HTTP_11, get(&rig, &with_token)).await;
    assert_eq!(status, StatusCode::OK);
    let facts = [FieldId::Location, FieldId::DohSubdomain, FieldId::UserEmail].map(|field| rig.last(field).unwrap_or_default());
    assert_eq!(facts, ["home", "t0ken", "ada@example.com"]);
    for path in [get_message("www.example.com", A), with_token.replace("t0ken", "stranger")] {
        assert_eq!(http(&rig, http::Version::HTTP_11, get(&rig, &path)).await.0, StatusCode::FORBIDDEN, "{path}");
    }
}

/// ON-03: a user's own token says who asks until its time is over, and stands in no record.
#[tokio::test]
async fn on_03_a_users_token_proves_the_user_until_it_ends() {
    let token = |letter: &str| checkpoint::token_of(&letter.repeat(checkpoint::TOKEN_SECRET_CHARS));
    let digest = |letter: &str| checkpoint::secret_digest(&token(letter));
    let policy = format!(
        "[[user]]\nemail = \"ada@example.com\"\ntokens = [\"{}\", {{ sha256 = \"{}\", expires = \"2099-01-01T00:00:00Z\" }}, \
         {{ sha256 = \"{}\", name = \"old laptop\", expires = \"2020-01-01T00:00:00Z\" }}]\n",
        digest("a"),
        digest("b"),
        digest("c")
    );
    let upstream = Upstream::start(Manner::Honest).await;
    let spec = DnsGateSpec { doh_requires_token: true, ..spec(&upstream) };
    let rig = Rig::with(&policy, upstream, spec, None).await;
    for (letter, status, user, failure) in [
        ("a", 200, Some("ada@example.com"), None),
        ("b", 200, Some("ada@example.com"), None),
        ("c", 403, None, Some("token_expired")),
        ("d", 403, None, Some("token_required")),
    ] {
        let path = get_message("www.example.com", A).replace("/dns-query", &format!("/dns-query/{}", token(letter)));
        assert_eq!(http(&rig, http::Version::HTTP_11, get(&rig, &path)).await.0.as_u16(), status, "{letter}");
        assert_eq!(rig.last(FieldId::UserEmail).as_deref(), user, "{letter}");
        assert_eq!(rig.last(FieldId::Failure).as_deref(), failure, "{letter}");
        assert_eq!(rig.last(FieldId::DohSubdomain), None, "{letter}: the record holds no secret");
    }
}

/// ON-01: each way in can be closed, or kept to some networks, location by location.
#[tokio::test]
async fn on_01_a_location_says_who_may_come_by_which_way() {
    for (endpoints, udp, doh, failure) in [
        ("", true, true, None),
        ("ipv4 = { enabled = false }", false, true, Some("endpoint_off")),
        ("ipv6 = { enabled = false }", true, true, None),
        ("ipv4 = { networks = [\"192.0.2.0/24\", \"127.0.0.0/8\"] }", true, true, None),
        ("ipv4 = { networks = [\"192.0.2.0/24\"] }", false, true, Some("endpoint_network")),
        ("doh = { enabled = false }", true, false, Some("endpoint_off")),
        ("doh = { require_token = true }", true, false, Some("token_required")),
    ] {
        let policy = format!("[[location]]\nname = \"here\"\nnetworks = [\"127.0.0.0/8\"]\n[location.endpoints]\n{endpoints}\n");
        let rig = Rig::start(&policy).await;
        let answer = rig.ask("www.example.com", A).await;
        assert_eq!(shown(&answer), if udp { "NoError [192.0.2.1]" } else { "Refused [] ede18" }, "{endpoints}");
        let after_udp = rig.last(FieldId::Failure);
        let (status, ..) = http(&rig, http::Version::HTTP_11, get(&rig, &get_message("www.example.com", A))).await;
        assert_eq!(status == StatusCode::OK, doh, "{endpoints}");
        assert_eq!(after_udp.or(rig.last(FieldId::Failure)).as_deref(), failure, "{endpoints}");
        assert_eq!(rig.last(FieldId::Location).as_deref(), Some("here"));
    }
}

#[tokio::test]
async fn listeners_that_need_a_certificate_do_not_open_without() {
    let upstream = Upstream::start(Manner::Honest).await;
    let harness = checkpoint::testing::Harness::new("");
    for spec in [
        DnsGateSpec { dot: vec!["127.0.0.1:0".parse().unwrap()], ..spec(&upstream) },
        DnsGateSpec { doh: vec!["0.0.0.0:0".parse().unwrap()], ..spec(&upstream) },
    ] {
        let config = gate_dns::DnsGateConfig::resolve(spec).unwrap();
        let bound = gate_dns::bind(config, harness.checkpoint.clone(), None).await;
        assert!(matches!(bound, Err(gate_dns::Error::NoCertificate { .. })));
    }
}

/// What has begun is answered before the gate ends.
#[tokio::test]
async fn stopping_lets_questions_finish() {
    let rig = Rig::start("").await;
    rig.upstream.behave(Manner::Silent);
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.send_to(&query("www.example.com", A), rig.address("udp")).await.unwrap();
    while rig.upstream.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    let harness = rig.stop().await;
    let mut buffer = [0; 1500];
    let bytes = timeout(rig::WAIT, client.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(shown(&Message::from_vec(&buffer[..bytes]).unwrap()), "ServFail [] ede22");
    assert_eq!(harness.events().len(), 1);
}
