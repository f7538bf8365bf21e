//! The edges of the web gate: clients behind balancers, users by password and certificate, bodies in parts and codings,
//! scanners that do not answer, applications that share hosts, and the end of the gate.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use checkpoint::testing::{Harness, Stuck};
use checkpoint::{FailureMode, Settings};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use model::FieldId;
use support::{World, eicar, get, http1, http2, read_head, text, tls_client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn rule(name: &str, action: &str, when: &str, settings: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\ngate = \"web\"\naction = \"{action}\"\nwhen = '{when}'\n{settings}\n")
}

fn closed() -> Settings {
    Settings { unscannable: FailureMode::Closed, ..Settings::default() }
}

// Balancers.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_balancer_says_who_the_client_is_and_nobody_else_does() {
    let world = World::with("", |spec| spec.proxy_protocol_from = vec!["127.0.0.0/8".parse().unwrap()]).await;
    let request = format!(
        "GET http://site.example:{}/clean HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n\r\n",
        world.plain.port()
    );
    let v2 = net::proxyprotocol::encode_v2("203.0.113.9:4000".parse().unwrap(), "198.51.100.1:8080".parse().unwrap());
    for header in [b"PROXY TCP4 203.0.113.9 198.51.100.1 4000 8080\r\n".to_vec(), v2] {
        let mut stream = TcpStream::connect(world.proxy).await.unwrap();
        let (answer, _) = support::exchange(&mut stream, &[header, request.clone().into_bytes()].concat()).await;
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    for event in world.events(2).await {
        assert_eq!((text(&event, FieldId::SourceIp), text(&event, FieldId::SourcePort)), ("203.0.113.9".into(), "4000".into()));
    }
    // A trusted balancer that sends no header is misconfigured: nothing of what it sends is served.
    let mut stream = TcpStream::connect(world.proxy).await.unwrap();
    let (answer, _) = support::exchange(&mut stream, request.as_bytes()).await;
    assert!(answer.is_empty());
    let stranger = World::with("", |spec| spec.proxy_protocol_from = vec!["192.0.2.0/24".parse().unwrap()]).await;
    let mut stream = TcpStream::connect(stranger.proxy).await.unwrap();
    let forged = format!("PROXY TCP4 203.0.113.9 198.51.100.1 4000 8080\r\n{request}");
    let (answer, _) = support::exchange(&mut stream, forged.as_bytes()).await;
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    for event in stranger.events(1).await {
        assert_eq!(text(&event, FieldId::SourceIp), "127.0.0.1");
    }
    assert_eq!(stranger.seen.requests.load(Ordering::Relaxed), 0);
}

/// ON-05: an endpoint serves the networks that it names; a PROXY header from elsewhere does not change who asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_05_a_client_of_another_network_is_refused() {
    for (networks, is_served) in [("127.0.0.0/8", true), ("192.0.2.0/24", false)] {
        let world = World::with("", |spec| spec.clients_from = vec![networks.parse().unwrap()]).await;
        assert_eq!(world.plain_get("/clean").await.is_ok(), is_served, "{networks}");
        if !is_served {
            let mut stream = TcpStream::connect(world.socks).await.unwrap();
            let (answer, _) = support::exchange(&mut stream, &[5, 1, 0]).await;
            assert!(answer.is_empty());
            assert_eq!(text(&world.tunnel_event().await, FieldId::Failure), "client_network");
            assert_eq!(world.seen.connections.load(Ordering::Relaxed), 0);
        }
    }
}

/// ON-01, ON-05: a location can close a door of the gate to its clients, or keep it to some of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_01_a_location_closes_single_doors() {
    for (endpoints, is_served, failure) in [
        ("socks = { enabled = false }", true, "endpoint_off"),
        ("proxy = { enabled = false }\nsocks = { enabled = false }", false, "endpoint_off"),
        ("proxy = { networks = [\"127.0.0.0/8\"] }\nsocks = { networks = [\"192.0.2.0/24\"] }", true, "endpoint_network"),
    ] {
        let policy = format!("[[location]]\nname = \"here\"\nnetworks = [\"127.0.0.0/8\"]\n[location.endpoints]\n{endpoints}\n");
        let world = World::with(&policy, |_| ()).await;
        let mut stream = TcpStream::connect(world.socks).await.unwrap();
        let (answer, _) = support::exchange(&mut stream, &[5, 1, 0]).await;
        assert!(answer.is_empty(), "{endpoints}");
        let event = world.tunnel_event().await;
        assert_eq!(
            (text(&event, FieldId::Failure), text(&event, FieldId::VerdictOutcome)),
            (failure.to_owned(), "blocked".to_owned()),
            "{endpoints}"
        );
        assert_eq!(world.plain_get("/clean").await.is_ok(), is_served, "{endpoints}");
    }
}

/// ON-03: the record says that a token was refused for its time, over HTTP and SOCKS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_03_a_token_that_has_ended_is_refused_by_reason() {
    let token = |letter: &str| checkpoint::token_of(&letter.repeat(checkpoint::TOKEN_SECRET_CHARS));
    let digest = |letter: &str| checkpoint::secret_digest(&token(letter));
    let policy = format!(
        "[[user]]\nemail = \"ann@example.com\"\ntokens = [{{ sha256 = \"{}\", expires = \"2099-01-01T00:00:00Z\" }}, \
         {{ sha256 = \"{}\", expires = \"2020-01-01T00:00:00Z\" }}]\n",
        digest("a"),
        digest("b")
    );
    let world = World::with(&policy, |spec| spec.require_credentials = true).await;
    for (number, (letter, status, failure)) in
        [("a", 200, ""), ("b", 407, "token_expired"), ("c", 407, "credentials")].into_iter().enumerate()
    {
        let mut request = world.plain_request("/clean");
        request.headers_mut().insert("proxy-authorization", format!("Bearer {}", token(letter)).parse().unwrap());
        let reply = http1(Box::new(TcpStream::connect(world.proxy).await.unwrap())).await.send(request).await.unwrap();
        assert_eq!(reply.status.as_u16(), status, "{letter}");
        let events = world.events(number + 1).await;
        assert_eq!(text(&events[number], FieldId::Failure), failure, "{letter}");
    }
    let mut stream = TcpStream::connect(world.socks).await.unwrap();
    let (user, password) = (b"ann@example.com", token("b"));
    let hello = [&[5, 1, 2, 1, user.len() as u8], user.as_slice(), &[password.len() as u8], password.as_bytes()].concat();
    let (answer, _) = support::exchange(&mut stream, &hello).await;
    assert_eq!(answer[..3], [5, 2, 1]);
    assert_eq!(text(&world.tunnel_event().await, FieldId::Failure), "token_expired");
}

/// ON-06: a PAC file of the operator's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_06_the_operators_own_pac_file_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.pac");
    let script = "function FindProxyForURL(url, host) { return \"PROXY gate.acme.example:8080\"; }";
    support::write(&path, script.as_bytes());
    let world = World::with("", |spec| spec.pac_file = Some(path)).await;
    let mut client = http1(Box::new(TcpStream::connect(world.proxy).await.unwrap())).await;
    let reply = client.send(get("proxy", "/wpad.dat")).await.unwrap();
    assert_eq!(
        (reply.text().as_str(), &reply.headers["content-type"]),
        (script, &"application/x-ns-proxy-autoconfig".parse().unwrap())
    );
}

// Users.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_proves_a_user_over_http_and_socks() {
    let hash = checkpoint::password_hash("correct horse battery", &[3; 16]).unwrap();
    let policy = format!("[[user]]\nemail = \"ann@example.com\"\npassword = \"{hash}\"\n");
    let world = World::with(&policy, |spec| spec.require_credentials = true).await;
    let basic = |password: &str| {
        use base64::Engine;
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("ann@example.com:{password}")))
    };
    for (password, status) in [("correct horse battery", 200), ("wrong", 407), ("correct horse battery", 200)] {
        let mut request = world.plain_request("/clean");
        request.headers_mut().insert("proxy-authorization", basic(password).parse().unwrap());
        let reply = http1(Box::new(TcpStream::connect(world.proxy).await.unwrap())).await.send(request).await.unwrap();
        assert_eq!(reply.status.as_u16(), status, "{password}");
    }
    let events = world.events(3).await;
    assert_eq!(text(&events[0], FieldId::UserEmail), "ann@example.com");
    assert_eq!(text(&events[0], FieldId::IdentityHow), "password");
    assert_eq!(text(&events[1], FieldId::UserEmail), "");
    for (password, accepted) in [("correct horse battery", 0), ("wrong", 1)] {
        let mut stream = TcpStream::connect(world.socks).await.unwrap();
        stream.write_all(&[5, 1, 2]).await.unwrap();
        let mut two = [0; 2];
        stream.read_exact(&mut two).await.unwrap();
        assert_eq!(two, [5, 2]);
        let user = b"ann@example.com";
        stream
            .write_all(&[&[1, user.len() as u8], user.as_slice(), &[password.len() as u8], password.as_bytes()].concat())
            .await
            .unwrap();
        stream.read_exact(&mut two).await.unwrap();
        assert_eq!(two[1].min(1), accepted, "{password}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_proves_a_user_to_the_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, ann, stranger) = client_certificates();
    let path = folder.path().join("clients.pem");
    support::write(&path, authority.as_bytes());
    let policy = format!("[[user]]\nemail = \"ann@example.com\"\ncertificates = [\"{}\"]\n", ann.fingerprint());
    let world = World::with(&policy, |spec| {
        spec.proxy_tls = Some("127.0.0.1:0".parse().unwrap());
        spec.client_authorities = Some(path.clone());
        spec.require_credentials = true;
    })
    .await;
    let reply = ask_secure_proxy(&world, Some(ann)).await.unwrap();
    assert_eq!(reply.0, 200);
    assert!(reply.1.starts_with("HTTPS 127.0.0.1:"), "the PAC file of a secure proxy names one: {}", reply.1);
    assert_eq!(ask_secure_proxy(&world, None).await.unwrap().0, 407);
    assert!(ask_secure_proxy(&world, Some(stranger)).await.is_err(), "a certificate of another authority is no certificate");
    let events = world.events(2).await;
    assert_eq!(text(&events[0], FieldId::UserEmail), "ann@example.com");
    assert_eq!(text(&events[0], FieldId::IdentityHow), "certificate");
    assert_eq!(text(&events[1], FieldId::Failure), "credentials");
    // A tunnel inside the secured connection is inspected like any other.
    let stream = secure_proxy(&world, None).await.unwrap();
    drop(stream);
}

struct ClientCertificate {
    der: rustls::pki_types::CertificateDer<'static>,
    key: Vec<u8>,
}

impl ClientCertificate {
    fn fingerprint(&self) -> String {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.der);
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The PEM of an authority, a certificate of it, and one of another.
fn client_certificates() -> (String, ClientCertificate, ClientCertificate) {
    let made = |name: &str| {
        let mut authority = rcgen::CertificateParams::default();
        authority.distinguished_name.push(rcgen::DnType::CommonName, name);
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        authority.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = authority.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(authority, key);
        let mut leaf = rcgen::CertificateParams::new(vec!["ann".into()]).unwrap();
        leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let key = rcgen::KeyPair::generate().unwrap();
        let der = leaf.signed_by(&key, &issuer).unwrap().der().clone();
        (pem, ClientCertificate { der, key: key.serialize_der() })
    };
    let ((pem, ann), (_, stranger)) = (made("Clients"), made("Others"));
    (pem, ann, stranger)
}

async fn secure_proxy(
    world: &World,
    shown: Option<ClientCertificate>,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(world.gate_root.clone()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match shown {
        Some(ClientCertificate { der, key }) => {
            builder.with_client_auth_cert(vec![der], rustls::pki_types::PrivatePkcs8KeyDer::from(key).into()).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(world.secure_proxy.unwrap()).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// The status of a plain request, and what the PAC file returns.
async fn ask_secure_proxy(world: &World, shown: Option<ClientCertificate>) -> std::io::Result<(u16, String)> {
    let stream = secure_proxy(world, shown).await?;
    let mut client = http1(Box::new(stream)).await;
    let status = client.send(world.plain_request("/clean")).await.map_err(std::io::Error::other)?.status.as_u16();
    let pac = client.send(get("proxy", "/proxy.pac")).await.map(|reply| reply.text()).unwrap_or_default();
    Ok((status, pac.split("return \"").last().unwrap_or_default().to_owned()))
}

// Bodies.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coding_that_was_not_offered_and_cannot_be_scanned_is_refused() {
    let world = World::new("").await;
    for coding in ["br", "deflate", "gzip, br", "zstd"] {
        let reply = world.get(&format!("/coded/{coding}").replace(", ", ",")).await.unwrap();
        assert_eq!(reply.status, 502, "{coding}");
    }
    assert!(world.get("/coded/gzip").await.is_err(), "gzip is undone by the scanner, whatever the label says");
    let page = world.get("/gzip-page").await.unwrap();
    assert_eq!(page.body, support::gzip(b"clean page"), "what is clean passes as it came");
    let offered: Vec<String> = world
        .seen
        .heads
        .lock()
        .unwrap()
        .iter()
        .map(|(_, headers)| headers.get("accept-encoding").map_or(String::new(), |value| value.to_str().unwrap().to_owned()))
        .collect();
    assert!(offered.iter().all(|offer| offer == "identity"), "{offered:?}");
    let events = world.events(6).await;
    for event in &events[..4] {
        assert_eq!(text(event, FieldId::Failure), "content_coding");
        assert_eq!(text(event, FieldId::ScanVerdict), "", "it was not scanned and is not called clean");
    }
    assert_eq!(text(&events[4], FieldId::ScanVerdict), "malicious");
    // AC-17: what is not scanned is not touched.
    let world = World::new(&rule("trusted", "noscan", "http.request.host == \"site.example\"", "")).await;
    assert_eq!(world.get("/coded/br").await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_do_not_lead_around_the_scanner() {
    let world = World::of(Harness::with_settings("", closed()), |_| (), |_| ()).await;
    let host = format!("site.example:{}", world.tls.port());
    let ranged = |path: &str, destination: &'static str| {
        let mut request = get(&host, path);
        request.headers_mut().insert("range", "bytes=0-39".parse().unwrap());
        request.headers_mut().insert("sec-fetch-dest", destination.parse().unwrap());
        request
    };
    let send = async |request| {
        let stream = world.tunnel("site.example", world.tls.port(), &["http/1.1"]).await.unwrap();
        http1(Box::new(stream)).await.send(request).await
    };
    // A file is fetched whole, whatever part was asked for.
    assert!(send(ranged("/eicar.com", "document")).await.is_err());
    // A player keeps its ranges, of what is labelled media.
    assert_eq!(send(ranged("/partial-video", "video")).await.unwrap().status, 206);
    // A part of anything else is never called clean.
    let refused = send(ranged("/partial", "video")).await.unwrap();
    assert_eq!(refused.status, 403);
    {
        let heads = world.seen.heads.lock().unwrap();
        let asked: Vec<bool> = heads.iter().map(|(_, headers)| headers.contains_key("range")).collect();
        assert_eq!(asked, [false, true, true]);
    }
    let events = world.events(3).await;
    assert_eq!(text(&events[2], FieldId::ScanReason), "partial_content");
    assert_eq!(text(&events[2], FieldId::VerdictRuleId), "builtin.unscannable");
    assert_eq!(text(&events[2], FieldId::VerdictOutcome), "blocked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_and_codings_of_uploads_are_never_called_clean() {
    let post = |host: &str, name: &'static str, value: &'static str, body: Vec<u8>| {
        Request::post("/upload").header("host", host).header(name, value).body(Full::new(Bytes::from(body))).unwrap()
    };
    for (mode, status) in [(FailureMode::Open, 200), (FailureMode::Closed, 403)] {
        let settings = Settings { unscannable: mode, ..Settings::default() };
        let world = World::of(Harness::with_settings("", settings), |_| (), |_| ()).await;
        let host = format!("site.example:{}", world.tls.port());
        let stream = world.tunnel("site.example", world.tls.port(), &["http/1.1"]).await.unwrap();
        let mut client = http1(Box::new(stream)).await;
        for (name, value) in [("content-range", "bytes 0-9/20"), ("content-encoding", "br")] {
            let reply = client.send(post(&host, name, value, b"0123456789".to_vec())).await.unwrap();
            assert_eq!(reply.status.as_u16(), status, "{name} {mode:?}");
        }
        let hit = client.send(post(&host, "content-range", "bytes 0-67/100", eicar())).await.unwrap();
        assert_eq!(hit.status, 403, "a part with malware in it is refused in either mode");
        let events = world.events(3).await;
        assert_eq!(text(&events[0], FieldId::ScanReason), "partial_content");
        assert_eq!(text(&events[1], FieldId::ScanReason), "content_coding");
        assert_eq!(text(&events[0], FieldId::ScanVerdict), "unscannable");
        assert_eq!(text(&events[2], FieldId::ScanVerdict), "malicious");
        let rules = if mode == FailureMode::Closed { "builtin.unscannable" } else { "" };
        assert_eq!(text(&events[0], FieldId::VerdictRuleId), rules);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_cannot_be_scanned_is_refused_by_a_named_rule_where_that_fails_closed() {
    let world = World::of(Harness::with_settings("", closed()), |spec| spec.scan.file_bytes_max = 1 << 20, |_| ()).await;
    // AV-03: too large by its announced length, too large by what came, and too large to be sent.
    assert_eq!(world.get("/large.bin").await.unwrap().status, 403);
    let host = format!("site.example:{}", world.tls.port());
    let stream = world.tunnel("site.example", world.tls.port(), &["http/1.1"]).await.unwrap();
    let body = Full::new(Bytes::from(support::noise(2 << 20)));
    let post = Request::post("/upload").header("host", &host).body(body).unwrap();
    assert_eq!(http1(Box::new(stream)).await.send(post).await.unwrap().status, 403);
    for event in world.events(2).await {
        assert_eq!(text(&event, FieldId::ScanReason), "too_large");
        assert_eq!(text(&event, FieldId::VerdictRuleId), "builtin.unscannable");
        assert!(text(&event, FieldId::VerdictReason).contains("could not be scanned"));
        assert_eq!(text(&event, FieldId::VerdictOutcome), "blocked");
    }
    assert!(world.seen.uploads.lock().unwrap().is_empty());
}

/// The scanner never answers: the deadline holds, and the event says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scanner_that_does_not_answer_is_not_waited_for() {
    for (mode, status) in [(FailureMode::Open, 200), (FailureMode::Closed, 403)] {
        let settings = Settings { unscannable: mode, scan_deadline_ms: 100, ..Settings::default() };
        let world = World::of(Harness::with_scanner("", settings, Arc::new(Stuck)), |_| (), |_| ()).await;
        let began = Instant::now();
        assert_eq!(world.get("/clean").await.unwrap().status.as_u16(), status, "{mode:?}");
        assert!(began.elapsed() < Duration::from_secs(10));
        let event = &world.events(1).await[0];
        assert_eq!(text(event, FieldId::ScanVerdict), "unscannable");
        assert_eq!(text(event, FieldId::ScanReason), "time_limit");
        let rule = if mode == FailureMode::Closed { "builtin.unscannable" } else { "" };
        assert_eq!(text(event, FieldId::VerdictRuleId), rule);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_requests_continue_and_trailers_pass() {
    let world = World::new("").await;
    let host = format!("site.example:{}", world.tls.port());
    let stream = world.tunnel("site.example", world.tls.port(), &["http/1.1"]).await.unwrap();
    let mut client = http1(Box::new(stream)).await;
    let mut head = get(&host, "/large.bin");
    *head.method_mut() = Method::HEAD;
    let reply = client.send(head).await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.body.len()), (200, 0));
    assert_eq!(reply.headers["content-length"], (3 << 20).to_string());
    let stream = world.tunnel("site.example", world.tls.port(), &["h2"]).await.unwrap();
    let trailing = Request::get(format!("https://{host}/trailers")).header("te", "trailers").body(Full::default()).unwrap();
    let body = http2(Box::new(stream)).await.raw(trailing).await.unwrap().into_body().collect().await.unwrap();
    let trailers = body.trailers().unwrap();
    assert_eq!(trailers["x-checksum"], "abc");
    assert!(!trailers.contains_key("set-cookie"), "RFC 9110 section 6.5.1: it has no meaning there, and readers disagree");
    // RFC 9110 section 6.5.1: over HTTP/1 they are for a client that says it takes them.
    for (takes, expected) in [("TE: trailers\r\nConnection: TE, close\r\n", true), ("Connection: close\r\n", false)] {
        let mut stream = world.tunnel("site.example", world.tls.port(), &["http/1.1"]).await.unwrap();
        let request = format!("GET /trailers HTTP/1.1\r\nHost: {host}\r\n{takes}\r\n");
        let (answer, _) = support::exchange(&mut stream, request.as_bytes()).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("with trailers"), "{answer}");
        assert_eq!(answer.contains("x-checksum: abc"), expected, "{answer}");
    }
    // RFC 9110 section 10.1.1: the client waits for leave to send, and gets it from the gate.
    let mut stream = world.tunnel("site.example", world.tls.port(), &["http/1.1"]).await.unwrap();
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 100"));
    let (answer, _) = support::exchange(&mut stream, b"hello").await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(*world.seen.uploads.lock().unwrap(), [b"hello".to_vec()]);
    world.events(5).await;
}

// Rules.

/// ON-09 at the gate: blocking one product leaves the login that it shares with another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_09_blocking_an_application_leaves_what_it_shares() {
    let policy = rule("no-drive", "block", "any(app.names[*] == \"Google Drive\")", "");
    let world = World::of(Harness::with_shipped_knowledge(&policy, Settings::default()), |_| (), |_| ()).await;
    let mut client = http1(Box::new(TcpStream::connect(world.proxy).await.unwrap())).await;
    for (host, status) in [("drive.google.com", 403), ("accounts.google.com", 200), ("mail.google.com", 200)] {
        let target = format!("http://{host}:{}/clean", world.plain.port());
        let request = Request::get(target).header("host", host).body(Full::default()).unwrap();
        assert_eq!(client.send(request).await.unwrap().status.as_u16(), status, "{host}");
    }
    let events = world.events(3).await;
    assert_eq!(text(&events[0], FieldId::VerdictRule), "no-drive");
    // A shared host is logged for all that need it, and acted on for none.
    let shared = text(&events[1], FieldId::AppNames);
    assert!(shared.contains("Google Drive") && shared.contains("Gmail"), "{shared}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pinned_applications_are_left_alone_unless_the_operator_asks() {
    for (leaves, reason) in [(true, "pinned_application"), (false, "")] {
        let harness = Harness::with_shipped_knowledge("", Settings::default());
        let world = World::of(harness, |spec| spec.leave_pinned_alone = leaves, |_| ()).await;
        let stream = world.connect_to("chat.signal.org", world.tls.port()).await;
        let origin = tls_client(stream, "chat.signal.org", &["http/1.1"], &world.gate_root).await;
        assert_eq!(origin.is_err(), leaves, "a client with our authority alone sees the origin's own certificate");
        drop(origin);
        assert_eq!(text(&world.tunnel_event().await, FieldId::BypassReason), reason);
    }
}

/// GW-052: a blocked destination is not even connected to; GW-056, GW-057: `off` decides before every other rule.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_sends_no_packet_and_off_beats_block() {
    let policy = rule("no", "block", "http.request.host == \"site.example\"", "");
    let world = World::new(&policy).await;
    let stream = world.tunnel("site.example", world.tls.port(), &["http/1.1"]).await.unwrap();
    let host = format!("site.example:{}", world.tls.port());
    assert_eq!(http1(Box::new(stream)).await.send(get(&host, "/")).await.unwrap().status, 403);
    assert_eq!(world.seen.connections.load(Ordering::Relaxed), 0);
    let policy = rule("no", "block", "http.request.uri.path == \"/clean\"", "")
        + &rule("private", "off", "any(http.request.domains[*] == \"example\")", "");
    let world = World::new(&policy).await;
    let stream = world.connect_to("site.example", world.tls.port()).await;
    let stream = tls_client(stream, "site.example", &["http/1.1"], &world.origin_root).await.unwrap();
    let host = format!("site.example:{}", world.tls.port());
    assert_eq!(http1(Box::new(stream)).await.send(get(&host, "/clean")).await.unwrap().status, 200);
}

/// GW-020, GW-021: operations in their order, with what is known of the user, and bounds that the compiler keeps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gw_020_and_gw_021_header_operations_name_the_user() {
    let digest = checkpoint::secret_digest(&checkpoint::token_of(&"a".repeat(checkpoint::TOKEN_SECRET_CHARS)));
    let policy = rule(
        "headers",
        "allow",
        "http.request.host == \"site.example\"",
        "settings = { delete_headers = [\"x-gone\"], set_headers = { \"x-user\" = \"u=@{identity.email} ip=@{source.ip}\", \"x-none\" = \"[@{device.id}]\" }, add_headers = { \"x-added\" = [\"1\", \"2\"] } }",
    ) + &format!("[[user]]\nemail = \"ann@example.com\"\ntokens = [\"{digest}\"]\n");
    let world = World::new(&policy).await;
    let mut request = world.plain_request("/headers");
    let token = checkpoint::token_of(&"a".repeat(checkpoint::TOKEN_SECRET_CHARS));
    for (name, value) in [
        ("proxy-authorization", format!("Bearer {token}")),
        ("x-gone", "1".into()),
        ("x-user", "forged".into()),
        ("x-added", "0".into()),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let stream = TcpStream::connect(world.proxy).await.unwrap();
    let seen = http1(Box::new(stream)).await.send(request).await.unwrap().text();
    assert!(seen.contains("x-user: u=ann@example.com ip=127.0.0.1\n") && !seen.contains("forged"), "{seen}");
    assert!(seen.contains("x-none: []\n") && !seen.contains("x-gone"), "{seen}");
    assert!(seen.contains("x-added: 0\n") && seen.contains("x-added: 1\n") && seen.contains("x-added: 2\n"), "{seen}");
    let changes = text(&world.events(1).await[0], FieldId::HeaderChanges);
    assert!(changes.contains("delete x-gone") && changes.contains("set x-user") && changes.contains("add x-added"), "{changes}");
}

/// ON-11: each service's headers reach its own hosts, and no others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_11_tenant_headers_go_to_their_own_service() {
    let services: &[(&str, &[&str])] = &[
        ("login.microsoftonline.com", &["Restrict-Access-To-Tenants", "Restrict-Access-Context"]),
        ("login.live.com", &["Sec-Restrict-Tenant-Access-Policy"]),
        ("accounts.google.com", &["X-GoogApps-Allowed-Domains"]),
        ("acme.slack.com", &["X-Slack-Allowed-Workspaces-Requester", "X-Slack-Allowed-Workspaces"]),
        ("www.dropbox.com", &["X-Dropbox-allowed-Team-Ids"]),
        ("chatgpt.com", &["Chatgpt-Allowed-Workspace-Id"]),
    ];
    let policy: String = services
        .iter()
        .map(|(host, headers)| {
            let set: Vec<String> = headers.iter().map(|name| format!("{name} = \"own tenant\"")).collect();
            let settings = format!("settings = {{ set_headers = {{ {} }} }}", set.join(", "));
            rule(host, "allow", &format!("http.request.host == \"{host}\""), &settings)
        })
        .collect();
    let world = World::new(&policy).await;
    let mut client = http1(Box::new(TcpStream::connect(world.proxy).await.unwrap())).await;
    for (host, own) in services.iter().copied().chain([("other.example", [].as_slice())]) {
        let target = format!("http://{host}:{}/headers", world.plain.port());
        let request = Request::get(target).header("host", host).body(Full::default()).unwrap();
        let seen = client.send(request).await.unwrap().text();
        for (_, headers) in services {
            for name in *headers {
                let is_sent = seen.contains(&format!("{}: own tenant", name.to_lowercase()));
                assert_eq!(is_sent, own.contains(name), "{name} at {host}: {seen}");
            }
        }
    }
}

// Protocols.

/// A frame of HTTP/2 (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// TL-12: the client is told the bound, and the stream that is one too many is refused (RFC 9113 section 5.1.2).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tl_12_the_257th_stream_of_a_connection_is_refused() {
    let world = World::new("").await;
    let mut stream = world.tunnel("site.example", world.tls.port(), &["h2"]).await.unwrap();
    let host = format!("site.example:{}", world.tls.port());
    // GET, https, and two literals that are not indexed (RFC 7541 sections 6.1 and 6.2.2).
    let mut block = vec![0x82, 0x87, 0x04, 6];
    block.extend(b"/never");
    block.extend([0x01, host.len() as u8]);
    block.extend(host.as_bytes());
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(4, 0, 0, &[]));
    for number in 0..257u32 {
        sent.extend(frame(1, 0x05, 2 * number + 1, &block));
    }
    stream.write_all(&sent).await.unwrap();
    let (mut bound, mut refused) = (None, Vec::new());
    let reading = async {
        while refused.is_empty() {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            stream.read_exact(&mut payload).await.unwrap();
            let number = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            match head[3] {
                4 => {
                    bound = payload
                        .chunks(6)
                        .find(|setting| setting[..2] == [0, 3])
                        .map(|setting| setting[2..].to_vec())
                        .or(bound.take())
                }
                3 => refused.push((number, payload)),
                _ => {}
            }
        }
    };
    tokio::time::timeout(support::PATIENCE, reading).await.expect("a refusal in time");
    assert_eq!(bound, Some(256u32.to_be_bytes().to_vec()));
    assert_eq!(refused, [(513, 7u32.to_be_bytes().to_vec())], "REFUSED_STREAM");
}

/// TL-02: both legs agree on the hybrid key exchange that browsers offer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tl_02_key_exchange_is_hybrid_on_the_clients_leg() {
    let world = World::new("").await;
    let stream = world.tunnel("site.example", world.tls.port(), &["http/1.1"]).await.unwrap();
    let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
}

// The end.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_lets_what_is_under_way_end_and_takes_nothing_new() {
    let world = World::with("", |spec| spec.limits.drain_seconds = 10).await;
    let stream = world.tunnel("site.example", world.tls.port(), &["http/1.1"]).await.unwrap();
    let mut client = http1(Box::new(stream)).await;
    let host = format!("site.example:{}", world.tls.port());
    let slow = tokio::spawn(async move { client.send(get(&host, "/slow")).await });
    while world.seen.requests.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.drained().await;
    assert_eq!(slow.await.unwrap().unwrap().body, b"slow body");
    assert!(TcpStream::connect(world.proxy).await.is_err(), "the listener is gone");
    assert_eq!(text(&world.events(1).await[0], FieldId::VerdictOutcome), "allowed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_in_its_time_whatever_a_client_does() {
    let world = World::with("", |spec| spec.limits.drain_seconds = 1).await;
    let stream = world.tunnel("site.example", world.tls.port(), &["h2"]).await.unwrap();
    let mut client = http2(Box::new(stream)).await;
    let host = format!("https://site.example:{}/never", world.tls.port());
    tokio::spawn(async move { drop(client.send(Request::get(host).body(Full::default()).unwrap()).await) });
    while world.seen.requests.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let began = Instant::now();
    world.drained().await;
    assert!(began.elapsed() < Duration::from_secs(5));
}
