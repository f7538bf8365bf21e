//! The whole gate on loopback: real origins, raw clients, a real policy and scanner, and the events that come out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use model::FieldId;
use support::{World, eicar, exchange, get, http1, http2, large_evil, noise, read_head, text, tls_client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A rule of the web gate as policy text.
fn rule(name: &str, action: &str, when: &str, settings: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\ngate = \"web\"\naction = \"{action}\"\nwhen = '{when}'\n{settings}\n")
}

/// A token, and a document with its user.
fn token() -> String {
    checkpoint::token_of(&"a".repeat(checkpoint::TOKEN_SECRET_CHARS))
}

fn user() -> String {
    format!("[[user]]\nemail = \"ann@example.com\"\ntokens = [\"{}\"]\n", checkpoint::secret_digest(&token()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malware_over_plain_http_is_reset_and_named_in_the_event() {
    let world = World::new("").await;
    let mut stream = TcpStream::connect(world.proxy).await.unwrap();
    let url = format!("http://site.example:{}/eicar.com", world.plain.port());
    let (answer, error) = exchange(&mut stream, format!("GET {url} HTTP/1.1\r\nHost: site.example\r\n\r\n").as_bytes()).await;
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(error.map(|error| error.kind()), Some(std::io::ErrorKind::ConnectionReset));
    let events = world.events(1).await;
    // AV-06: URL, name, size, type, hash, engine, signature and rule are in the event.
    let fact = |field| text(&events[0], field);
    assert_eq!(fact(FieldId::HttpUrl), url);
    assert_eq!(fact(FieldId::FileName), "eicar.com");
    assert_eq!(fact(FieldId::FileSize), "68");
    assert_eq!(fact(FieldId::FileSha256), "275a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f");
    assert_eq!(fact(FieldId::ScanVerdict), "malicious");
    assert_eq!(fact(FieldId::VerdictOutcome), "blocked");
    assert!(!fact(FieldId::ScanEngine).is_empty() && !fact(FieldId::ScanSignature).is_empty());
    assert!(fact(FieldId::VerdictRule).contains("malware"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malware_over_https_is_reset_in_every_form() {
    let world = World::new("").await;
    for path in ["/eicar.com", "/eicar.zip", "/chunked", "/large.zip"] {
        assert!(world.get(path).await.is_err(), "{path}");
    }
    for event in world.events(4).await {
        assert_eq!(text(&event, FieldId::ScanVerdict), "malicious");
        assert_eq!(text(&event, FieldId::VerdictOutcome), "blocked");
    }
    assert_eq!(world.seen.requests.load(Ordering::Relaxed), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malware_over_http2_resets_its_stream_only() {
    let world = World::new("").await;
    let host = format!("site.example:{}", world.tls.port());
    let stream = world.tunnel("site.example", world.tls.port(), &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let mut client = http2(Box::new(stream)).await;
    let request = |path: &str| Request::get(format!("https://{host}{path}")).body(Full::default()).unwrap();
    for path in ["/eicar.com", "/large.zip"] {
        assert!(client.send(request(path)).await.is_err(), "{path}");
    }
    let clean = client.send(request("/clean")).await.unwrap();
    assert_eq!((clean.status.as_u16(), clean.body), (200, b"clean body".to_vec()));
    let large = client.send(request("/large.bin")).await.unwrap();
    assert!(large.body == noise(3 << 20));
    let outcomes: Vec<String> = world.events(4).await.iter().map(|event| text(event, FieldId::VerdictOutcome)).collect();
    assert_eq!(outcomes, ["blocked", "blocked", "allowed", "allowed"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clean_files_pass_byte_for_byte_over_one_kept_connection() {
    let world = World::new("").await;
    let host = format!("site.example:{}", world.tls.port());
    let stream = world.tunnel("site.example", world.tls.port(), &["http/1.1"]).await.unwrap();
    let mut client = http1(Box::new(stream)).await;
    let small = client.send(get(&host, "/clean?q=1")).await.unwrap();
    assert_eq!(small.body, b"clean body");
    assert!(!small.headers.contains_key("alt-svc"), "HTTP/3 would lead past the gate (GW-061)");
    let large = client.send(get(&host, "/large.bin")).await.unwrap();
    assert!(large.body == noise(3 << 20));
    drop(client);
    let events = world.events(2).await;
    assert_eq!(text(&events[0], FieldId::HttpUrl), world.url("/clean?q=1"));
    assert_eq!(text(&events[0], FieldId::HttpStatus), "200");
    assert_eq!(text(&events[0], FieldId::BytesIn), "10");
    assert_eq!(text(&events[1], FieldId::BytesIn), (3u64 << 20).to_string());
    assert_eq!(text(&events[1], FieldId::ScanVerdict), "clean");
    let tunnel = world.tunnel_event().await;
    assert_eq!(text(&tunnel, FieldId::SniHost), "site.example");
    assert!(text(&tunnel, FieldId::ClientJa4).starts_with("t13d"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malware_in_an_upload_never_reaches_the_origin() {
    let world = World::new("").await;
    let host = format!("site.example:{}", world.tls.port());
    let stream = world.tunnel("site.example", world.tls.port(), &["http/1.1"]).await.unwrap();
    let mut client = http1(Box::new(stream)).await;
    let post = |body: Vec<u8>| Request::post("/upload/a.bin").header("host", &host).body(Full::new(Bytes::from(body))).unwrap();
    assert_eq!(client.send(post(noise(600_000))).await.unwrap().body, b"thanks");
    assert_eq!(client.send(post(eicar())).await.unwrap().status, 403);
    let head =
        "--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.com\"\r\nContent-Type: application/octet-stream\r\n\r\n";
    let form = [head.as_bytes(), &eicar(), b"\r\n--b--\r\n"].concat();
    let mut request = post(form);
    request.headers_mut().insert("content-type", "multipart/form-data; boundary=b".parse().unwrap());
    assert_eq!(client.send(request).await.unwrap().status, 403, "a form is opened part by part (RFC 7578)");
    let uploads = world.seen.uploads.lock().unwrap().clone();
    assert!(uploads == [noise(600_000)]);
    let events = world.events(3).await;
    assert_eq!(text(&events[0], FieldId::BytesOut), "600000");
    assert_eq!(text(&events[2], FieldId::ScanMember), "a.com");
    assert_eq!(text(&events[1], FieldId::ScanVerdict), "malicious");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_untrusted_origin_is_shown_as_526_with_its_reason() {
    // GW-031 and TL-10: no bytes of the origin, a page over a handshake that works.
    let world = World::new("").await;
    let stream = world.tunnel("site.example", world.bad_tls.port(), &["h2", "http/1.1"]).await.unwrap();
    let host = format!("site.example:{}", world.bad_tls.port());
    let mut request = get(&host, "/");
    request.headers_mut().insert("accept", "text/html".parse().unwrap());
    let page = http1(Box::new(stream)).await.send(request).await.unwrap();
    assert_eq!(page.status.as_u16(), 526);
    assert!(page.text().contains("unknown_issuer"), "{}", page.text());
    let events = world.events(1).await;
    assert_eq!(text(&events[0], FieldId::Failure), "untrusted_certificate");
    assert!(page.text().contains(&text(&events[0], FieldId::Reference)));
    assert_eq!(world.seen.requests.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_host_gets_a_page_with_reason_and_reference() {
    let policy =
        rule("no-play", "block", "http.request.host == \"blocked.example\"", "settings = { block_reason = \"<b>not</b> here\" }");
    let world = World::new(&policy).await;
    let stream = world.tunnel("blocked.example", world.tls.port(), &["http/1.1"]).await.unwrap();
    let mut request = get(&format!("blocked.example:{}", world.tls.port()), "/");
    request.headers_mut().insert("accept", "text/html".parse().unwrap());
    let page = http1(Box::new(stream)).await.send(request).await.unwrap();
    assert_eq!(page.status, 403);
    assert!(page.text().contains("&lt;b&gt;not&lt;/b&gt; here"), "{}", page.text());
    assert!(page.headers["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    let events = world.events(1).await;
    assert_eq!(text(&events[0], FieldId::VerdictRule), "no-play");
    assert!(page.text().contains(&text(&events[0], FieldId::Reference)));
    assert_eq!(world.seen.requests.load(Ordering::Relaxed), 0);
}

/// GW-151: the documented pairs of original and target, and what `include_context` adds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_follow_gw_151() {
    let target = "https://c.example/redirect-path?querystring=Y";
    for (flags, path, expected) in [
        ("", "/path/to/page?querystring=X", "https://c.example/redirect-path?querystring=Y"),
        (
            ", preserve_path_and_query = true",
            "/path/to/page?querystring=X",
            "https://c.example/redirect-path/path/to/page?querystring=Y",
        ),
        (
            ", preserve_path_and_query = true",
            "/path/to/page?querystring=X&k=1",
            "https://c.example/redirect-path/path/to/page?querystring=Y&k=1",
        ),
    ] {
        let settings = format!("settings = {{ redirect = {{ target_uri = \"{target}\"{flags} }} }}");
        let world = World::new(&rule("away", "redirect", "http.request.host == \"site.example\"", &settings)).await;
        let reply = world.plain_get(path).await.unwrap();
        assert_eq!(reply.status, 307);
        assert_eq!(reply.headers["location"], expected);
        assert_eq!(text(&world.events(1).await[0], FieldId::VerdictOutcome), "corrected");
    }
}

/// GW-156: the target is told nothing that it can read, and the operator opens what it was told to the event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gw_156_the_context_of_a_redirect_is_a_token_for_the_operator_alone() {
    let target = "https://c.example/redirect-path?querystring=Y";
    for (action, flags, start) in [
        (
            "redirect",
            ", preserve_path_and_query = true, include_context = true",
            "https://c.example/redirect-path/path/secret?querystring=Y&k=1&sekisho_context=",
        ),
        ("block", ", include_context = true", "https://c.example/redirect-path?querystring=Y&sekisho_context="),
    ] {
        let settings = format!("settings = {{ redirect = {{ target_uri = \"{target}\"{flags} }} }}");
        let policy = rule("away", action, "http.request.host == \"site.example\"", &settings) + &user();
        let world = World::new(&policy).await;
        let reply = world.plain_get_as(&token(), "/path/secret?querystring=X&k=1").await.unwrap();
        let location = reply.headers["location"].to_str().unwrap();
        let sealed = location.strip_prefix(start).unwrap_or_else(|| panic!("{location}"));
        assert!(!sealed.contains("secret") && !sealed.contains("ann"), "{sealed}");
        let event = &world.events(1).await[0];
        let opened = support::context_key().open(sealed).unwrap();
        assert_eq!(format!("{:016x}", opened.reference), text(event, FieldId::Reference));
        assert_eq!(text(event, FieldId::UserEmail), "ann@example.com");
        assert_eq!(text(event, FieldId::RedirectTarget), location);
    }
}

/// GW-152, asked for by the name of its danger: the last two pairs of GW-151 word for word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gw_152_plain_context_uses_the_documented_parameters() {
    let target = "https://c.example/redirect-path?querystring=Y";
    for (action, flags, start) in [
        (
            "redirect",
            ", preserve_path_and_query = true",
            "https://c.example/redirect-path/path/to/page?querystring=Y&k=1&cf_user_email=ann@example.com&cf_site_uri=",
        ),
        ("block", "", "https://c.example/redirect-path?querystring=Y&cf_user_email=ann@example.com&cf_site_uri="),
    ] {
        let settings = format!("settings = {{ redirect = {{ target_uri = \"{target}\", danger_plain_context = true{flags} }} }}");
        let policy = rule("away", action, "http.request.host == \"site.example\"", &settings) + &user();
        let world = World::new(&policy).await;
        let reply = world.plain_get_as(&token(), "/path/to/page?querystring=X&k=1").await.unwrap();
        let location = reply.headers["location"].to_str().unwrap();
        assert!(location.starts_with(start), "{location}");
        for parameter in ["cf_source_ip=127.0.0.1", "cf_rule_id=away", "cf_filter=http", "%3Fquerystring%3DX%26k%3D1"] {
            assert!(location.contains(parameter), "{parameter}: {location}");
        }
    }
}

/// GW-024, GW-150: a rule's own target, then the installation's, then the page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gw_150_an_installation_may_send_all_refused_clients_elsewhere() {
    let policy = rule("plain", "block", "http.request.uri.path == \"/plain\"", "")
        + &rule(
            "own",
            "block",
            "http.request.uri.path == \"/own\"",
            "settings = { redirect = { target_uri = \"https://own.example/\" } }",
        );
    let world = World::with(&policy, |spec| {
        spec.brand.redirect_uri = Some("https://acme.example/blocked".into());
        spec.brand.include_context = true;
    })
    .await;
    let reply = world.plain_get("/plain").await.unwrap();
    assert_eq!(reply.status, 307);
    assert!(reply.headers["location"].to_str().unwrap().starts_with("https://acme.example/blocked?sekisho_context=skx_"));
    assert_eq!(world.plain_get("/own").await.unwrap().headers["location"], "https://own.example/");
    for event in world.events(2).await {
        assert_eq!(text(&event, FieldId::VerdictOutcome), "blocked");
    }
}

/// GW-150, GW-153: the operator's brand, and a letter that names what was refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gw_153_the_page_writes_a_letter_to_the_operator() {
    let policy =
        rule("no-play", "block", "http.request.host == \"site.example\"", "settings = { block_reason = \"not here\" }") + &user();
    let world = World::with(&policy, |spec| {
        spec.brand.name = "Acme".into();
        spec.brand.mailto_address = Some("it@acme.example".into());
    })
    .await;
    let mut request = world.plain_request("/play?level=1");
    request.headers_mut().insert("accept", "text/html".parse().unwrap());
    request.headers_mut().insert("proxy-authorization", format!("Bearer {}", token()).parse().unwrap());
    let page = http1(Box::new(TcpStream::connect(world.proxy).await.unwrap())).await.send(request).await.unwrap().text();
    let reference = text(&world.events(1).await[0], FieldId::Reference);
    let site = format!("Site%20URL:%20http://site.example:{}/play%3Flevel%3D1", world.plain.port());
    for part in [
        "- Acme</title>",
        "mailto:it@acme.example?subject=",
        &site,
        "Source%20IP:%20127.0.0.1",
        "Rule%20ID:%20no-play",
        "User:%20ann@example.com",
        "Block%20reason:%20not%20here",
        &reference,
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("<script") && !page.contains("src=\"http"), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_fields_end_here_and_rules_change_others() {
    let settings = "settings = { set_headers = { \"Restrict-Access-To-Tenants\" = \"corp.example\" } }";
    let world = World::new(&rule("tenant", "allow", "http.request.host == \"site.example\"", settings)).await;
    let host = format!("site.example:{}", world.tls.port());
    let stream = world.tunnel("site.example", world.tls.port(), &["http/1.1"]).await.unwrap();
    let mut request = get(&host, "/headers");
    for (name, value) in
        [("connection", "X-Hop, keep-alive"), ("x-hop", "1"), ("proxy-authorization", "Basic eA=="), ("x-kept", "1")]
    {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let seen = http1(Box::new(stream)).await.send(request).await.unwrap().text();
    assert!(seen.contains("x-kept: 1") && seen.contains("restrict-access-to-tenants: corp.example"), "{seen}");
    for gone in ["x-hop", "proxy-authorization", "connection:"] {
        assert!(!seen.contains(gone), "{seen}");
    }
    assert_eq!(text(&world.events(1).await[0], FieldId::HeaderChanges), "set Restrict-Access-To-Tenants");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_is_relayed_and_recorded() {
    let world = World::new("").await;
    let mut stream = world.tunnel("site.example", world.tls.port(), &["http/1.1"]).await.unwrap();
    let head = format!(
        "GET /echo HTTP/1.1\r\nHost: site.example:{}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        world.tls.port()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    stream.write_all(b"\x81\x02hi").await.unwrap();
    let mut echo = [0; 4];
    tokio::time::timeout(support::PATIENCE, stream.read_exact(&mut echo)).await.unwrap().unwrap();
    assert_eq!(&echo, b"\x81\x02hi");
    drop(stream);
    let events = world.events(1).await;
    assert_eq!(text(&events[0], FieldId::HttpStatus), "101");
    assert_eq!((text(&events[0], FieldId::BytesOut), text(&events[0], FieldId::BytesIn)), ("4".into(), "4".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_with_two_readings_never_reach_the_origin() {
    let world = World::new("").await;
    let port = world.tls.port();
    for (request, status) in [
        (
            format!(
                "POST / HTTP/1.1\r\nHost: site.example:{port}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            "400",
        ),
        (format!("GET / HTTP/1.1\r\nHost: site.example:{port}\r\nHost: other.example\r\n\r\n"), "400"),
        ("GET / HTTP/1.1\r\n\r\n".to_string(), "400"),
        (format!("GET / HTTP/1.1\r\nHost: site.example:{port}\r\nX: a\r\n folded\r\n\r\n"), "400"),
        (format!("GET / HTTP/1.1\r\nHost: other.example:{port}\r\nConnection: close\r\n\r\n"), "421"),
        (format!("GET / HTTP/1.1\r\nHost: site.example:{port}\r\nConnection: close, host\r\n\r\n"), "400"),
    ] {
        let mut stream = world.tunnel("site.example", port, &["http/1.1"]).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{request:?} gave {head:?}");
    }
    assert_eq!(world.seen.requests.load(Ordering::Relaxed), 0);
    for event in world.events(6).await {
        assert!(!text(&event, FieldId::Failure).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_name_of_another_site_is_refused() {
    let world = World::new("").await;
    let stream = world.connect_to("other.example", world.tls.port()).await;
    assert!(tls_client(stream, "site.example", &["http/1.1"], &world.gate_root).await.is_err());
    let event = world.tunnel_event().await;
    assert_eq!(text(&event, FieldId::Failure), "sni_mismatch");
    assert_eq!(text(&event, FieldId::HttpHost), "other.example");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn do_not_inspect_shows_the_origins_own_certificate() {
    let world = World::new(&rule("private", "off", "http.request.host == \"site.example\"", "")).await;
    let stream = world.connect_to("site.example", world.tls.port()).await;
    let stream = tls_client(stream, "site.example", &["http/1.1"], &world.origin_root).await.unwrap();
    let host = format!("site.example:{}", world.tls.port());
    let reply = http1(Box::new(stream)).await.send(get(&host, "/eicar.com")).await.unwrap();
    assert_eq!(reply.body, eicar(), "AC-16: nothing is scanned");
    let event = world.tunnel_event().await;
    assert_eq!(text(&event, FieldId::BypassReason), "policy");
    assert_ne!(text(&event, FieldId::BytesIn), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socks5_leads_to_the_same_inspection() {
    let world = World::new("").await;
    let mut stream = TcpStream::connect(world.socks).await.unwrap();
    stream.write_all(&[5, 1, 0]).await.unwrap();
    let mut two = [0; 2];
    stream.read_exact(&mut two).await.unwrap();
    assert_eq!(two, [5, 0]);
    let name = b"site.example";
    let port = world.tls.port().to_be_bytes();
    stream.write_all(&[&[5, 1, 0, 3, name.len() as u8], name.as_slice(), &port].concat()).await.unwrap();
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!(reply[1], 0);
    let stream = tls_client(stream, "site.example", &["http/1.1"], &world.gate_root).await.unwrap();
    let host = format!("site.example:{}", world.tls.port());
    assert!(http1(Box::new(stream)).await.send(get(&host, "/eicar.com")).await.is_err());
    let events = world.events(1).await;
    assert_eq!(text(&events[0], FieldId::OnRamp), "socks");
    assert_eq!(text(&events[0], FieldId::ScanVerdict), "malicious");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_serves_its_settings_and_its_certificate() {
    let world = World::new("").await;
    let stream = TcpStream::connect(world.proxy).await.unwrap();
    let mut client = http1(Box::new(stream)).await;
    let pac = client.send(get("proxy", "/proxy.pac")).await.unwrap();
    assert_eq!(pac.headers["content-type"], "application/x-ns-proxy-autoconfig");
    assert!(pac.text().contains(&format!("PROXY {}", world.proxy)));
    assert!(client.send(get("proxy", "/sekisho/ca.pem")).await.unwrap().text().starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!(client.send(get("proxy", "/other")).await.unwrap().status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_credentials_is_challenged() {
    let world = World::with("", |spec| spec.require_credentials = true).await;
    let reply = world.plain_get("/clean").await.unwrap();
    assert_eq!(reply.status, 407);
    assert!(reply.headers.contains_key("proxy-authenticate"));
    assert_eq!(text(&world.events(1).await[0], FieldId::Failure), "credentials");
    assert_eq!(world.seen.requests.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_within_a_body_leaves_one_event() {
    let world = World::with("", |spec| spec.scan.downloads = false).await;
    let stream = world.tunnel("site.example", world.tls.port(), &["http/1.1"]).await.unwrap();
    let mut client = http1(Box::new(stream)).await;
    let host = format!("site.example:{}", world.tls.port());
    let mut response = client.raw(get(&host, "/huge.bin")).await.unwrap();
    assert!(response.body_mut().frame().await.unwrap().is_ok());
    drop(response);
    drop(client);
    assert_eq!(text(&world.events(1).await[0], FieldId::Failure), "client_gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_cannot_be_reached_is_a_502() {
    let world = World::new("").await;
    let stream = TcpStream::connect(world.proxy).await.unwrap();
    let request = Request::get("http://nowhere.example/").header("host", "nowhere.example").body(Full::default()).unwrap();
    let reply = http1(Box::new(stream)).await.send(request).await.unwrap();
    assert_eq!(reply.status, 502);
    assert_eq!(text(&world.events(1).await[0], FieldId::Failure), "upstream_name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_the_gate_itself_is_no_loop() {
    let world = World::new("").await;
    let stream = TcpStream::connect(world.proxy).await.unwrap();
    let target = format!("http://127.0.0.1:{}/", world.proxy.port());
    let request = Request::get(target).header("host", "x").body(Full::default()).unwrap();
    let reply = http1(Box::new(stream)).await.send(request).await.unwrap();
    assert_eq!(reply.status, 403);
    assert_eq!(text(&world.events(1).await[0], FieldId::Failure), "destination_refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_downloads_a_clean_file_and_fails_on_malware() {
    if std::process::Command::new("curl").arg("--version").output().is_err() {
        println!("skipped: curl is not installed");
        return;
    }
    let world = World::new("").await;
    let stream = TcpStream::connect(world.proxy).await.unwrap();
    let pem = http1(Box::new(stream)).await.send(get("proxy", "/sekisho/ca.pem")).await.unwrap().body;
    let authority = world.directory.path().join("ca.pem");
    support::write(&authority, &pem);
    for (path, is_clean) in [("/clean", true), ("/large.bin", true), ("/eicar.com", false), ("/large.zip", false)] {
        let (proxy, url, authority) = (format!("http://{}", world.proxy), world.url(path), authority.clone());
        let output = tokio::task::spawn_blocking(move || {
            let mut curl = std::process::Command::new("curl");
            curl.args(["-sS", "--max-time", "20", "--noproxy", "", "-x", &proxy, "--cacert"]).arg(authority).arg(url);
            curl.output().unwrap()
        })
        .await
        .unwrap();
        assert_eq!(output.status.success(), is_clean, "{path}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(large_evil().len() > 2 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_over_the_limit_is_unscannable_and_never_clean() {
    // AV-03 and AV-04: the default lets it pass and says so.
    let world = World::with("", |spec| spec.scan.file_bytes_max = 1 << 20).await;
    let reply = world.get("/large.zip").await.unwrap();
    assert!(reply.body == large_evil());
    let events = world.events(1).await;
    assert_eq!(text(&events[0], FieldId::ScanVerdict), "unscannable");
    assert_eq!(text(&events[0], FieldId::ScanReason), "too_large");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_can_let_an_untrusted_origin_pass_and_another_can_block_it() {
    for (action, status) in [("pass_through", 200), ("block", 403)] {
        let settings = format!("settings = {{ untrusted_cert = \"{action}\" }}");
        let world = World::new(&rule("odd", "allow", "http.request.host == \"site.example\"", &settings)).await;
        let stream = world.tunnel("site.example", world.bad_tls.port(), &["http/1.1"]).await.unwrap();
        let host = format!("site.example:{}", world.bad_tls.port());
        let reply = http1(Box::new(stream)).await.send(get(&host, "/clean")).await.unwrap();
        assert_eq!(reply.status.as_u16(), status, "{action}");
        assert_eq!(text(&world.events(1).await[0], FieldId::CertificateProblem), "unknown_issuer");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_http_are_refused_with_a_reason() {
    let world = World::new("").await;
    let mut stream = world.connect_to("site.example", world.plain.port()).await;
    let (answer, _) = exchange(&mut stream, b"\0\x01binary").await;
    assert!(answer.is_empty());
    assert_eq!(text(&world.tunnel_event().await, FieldId::Failure), "not_http");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hit_can_be_a_page_where_nothing_was_sent() {
    let world = World::with("", |spec| spec.scan.on_hit = gate_web::OnHit::Page).await;
    assert_eq!(world.get("/eicar.com").await.unwrap().status, 403);
    assert!(world.get("/large.zip").await.is_err(), "its head had been sent");
    assert_eq!(world.events(2).await.len(), 2);
}
