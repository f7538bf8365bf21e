//! TLS on either side: modes, names, versions, client certificates, and TLS that begins inside a protocol.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails should stop")]

mod rig;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::SystemTime;

use model::FieldId;
use net::authority::Authority;
use net::mint::{Alpn, LeafHost, Minter};
use rig::{Rig, app, echo, rig, text};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const TLS: &str = "tls = \"flexible\"\ntls_settings = { names = [\"svc.example\"] }";

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

async fn secured(
    tcp: TcpStream,
    roots: &[CertificateDer<'static>],
    name: &str,
    versions: &[&'static SupportedProtocolVersion],
    identity: Option<Identity>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut store = RootCertStore::empty();
    roots.iter().for_each(|root| store.add(root.clone()).unwrap());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let builder = builder.with_root_certificates(store);
    let config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name.to_owned()).unwrap(), tcp).await
}

async fn over_tls(rig: &Rig, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let roots = [rig.authority.current().der.clone()];
    secured(rig.connect().await, &roots, name, rustls::ALL_VERSIONS, None).await
}

async fn exchange(stream: &mut TlsStream<TcpStream>, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(bytes).await?;
    stream.shutdown().await?;
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await?;
    Ok(heard)
}

/// SP-31, SP-50: a plaintext service gets TLS, and the row says what was agreed.
#[tokio::test]
async fn sp_31_flexible_adds_tls() {
    let rig = rig("", &app(echo(b"").await, TLS)).await;
    let mut stream = over_tls(&rig, "svc.example").await.unwrap();
    assert_eq!(exchange(&mut stream, b"hello\r\n").await.unwrap(), b"hello\r\n");
    let event = rig.event().await;
    for (field, expected) in [
        (FieldId::SniHost, "svc.example"),
        (FieldId::ClientTlsVersion, "TLSv1.3"),
        (FieldId::ClientTlsStatus, "OK"),
        (FieldId::OriginTlsMode, "flexible"),
        (FieldId::OriginTlsVersion, ""),
        (FieldId::L4Status, "200"),
    ] {
        assert_eq!(text(&event, field), expected, "{field:?}");
    }
    assert!(text(&event, FieldId::ClientTlsCipher).starts_with("TLS13_") && text(&event, FieldId::ClientJa4).starts_with("t13d"));
}

/// SP-51: 400 for a name that no certificate has; 443 where no handshake comes.
#[tokio::test]
async fn sp_51_bad_names_and_handshakes_have_their_numbers() {
    let rig = rig("", &app(echo(b"").await, TLS)).await;
    assert!(over_tls(&rig, "other.example").await.is_err());
    assert!(rig::say(rig.connect().await, b"GET / HTTP/1.1\r\n\r\n").await.is_err());
    let events = rig.events(2).await;
    assert_eq!(events.iter().map(|event| text(event, FieldId::L4Status)).collect::<Vec<_>>(), ["400", "443"]);
    assert_eq!(text(&events[0], FieldId::ClientTlsStatus), "INVALID_SNI");
    assert_eq!(text(&events[1], FieldId::ClientTlsStatus), "HANDSHAKE_FAILED");
    assert!(events.iter().all(|event| text(event, FieldId::L4Event) == "tlsError"));
}

/// A rule on the server's name decides before the handshake is answered.
#[tokio::test]
async fn a_rule_reads_the_name_before_the_handshake() {
    let policy = "[[rule]]\nname = \"no svc\"\ngate = \"l4\"\naction = \"block\"\nwhen = 'net.sni.host == \"svc.example\"'\n";
    let rig = rig(policy, &app(echo(b"").await, TLS)).await;
    assert!(over_tls(&rig, "svc.example").await.is_err());
    let event = rig.event().await;
    assert_eq!((text(&event, FieldId::VerdictRule), text(&event, FieldId::L4Status)), ("no svc".into(), "403".into()));
}

/// SP-34: the minimum can be raised.
#[tokio::test]
async fn sp_34_the_minimum_version_is_kept() {
    for (minimum, works) in [("1.2", true), ("1.3", false)] {
        let settings =
            format!("tls = \"flexible\"\ntls_settings = {{ names = [\"svc.example\"], minimum_version = \"{minimum}\" }}");
        let rig = rig("", &app(echo(b"").await, &settings)).await;
        let roots = [rig.authority.current().der.clone()];
        let old = secured(rig.connect().await, &roots, "svc.example", &[&rustls::version::TLS12], None).await;
        assert_eq!(old.is_ok(), works, "{minimum}");
    }
}

/// An origin that speaks TLS with a certificate for `origin.example`, and sends back what it gets.
async fn secure_origin(authority: &Arc<Authority>, clear: bool) -> SocketAddr {
    let minter = Arc::new(Minter::new(authority.clone()).unwrap());
    let names = vec![LeafHost::parse("origin.example").unwrap()];
    let config = Arc::new(minter.listener_config(names, Alpn::None, None, SystemTime::now()).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let acceptor = TlsAcceptor::from(config.clone());
            tokio::spawn(async move {
                if clear {
                    for (says, hears) in
                        [("220 mail ESMTP\r\n", "EHLO "), ("250-mail\r\n250 STARTTLS\r\n", "STARTTLS\r\n"), ("220 go\r\n", "")]
                    {
                        tcp.write_all(says.as_bytes()).await.unwrap();
                        let mut heard = [0; 256];
                        if !hears.is_empty() {
                            let count = tcp.read(&mut heard).await.unwrap();
                            assert!(heard[..count].starts_with(hears.as_bytes()));
                        }
                    }
                }
                let Ok(mut stream) = acceptor.accept(tcp).await else { return };
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    stream.write_all(&buffer[..count]).await.unwrap();
                }
                let _ = stream.shutdown().await;
            });
        }
    });
    address
}

async fn rig_before(clear: bool, more: &str) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let authority = Arc::new(Authority::load_or_create(folder.path(), "Test", SystemTime::now()).unwrap());
    let origin = secure_origin(&authority, clear).await;
    let roots = vec![authority.current().der.clone()];
    rig::rig_with("", &app(origin, more), folder, authority, roots).await
}

/// SP-32, SP-33: `full` takes any certificate, `strict` the right one alone.
#[tokio::test]
async fn sp_32_and_33_the_way_to_the_origin() {
    for (mode, name, status) in
        [("strict", "origin.example", "200"), ("strict", "other.example", "520"), ("full", "other.example", "200")]
    {
        let more = format!("tls = \"{mode}\"\ntls_settings = {{ names = [\"svc.example\"], origin_name = \"{name}\" }}");
        let rig = rig_before(false, &more).await;
        let mut stream = over_tls(&rig, "svc.example").await.unwrap();
        let heard = exchange(&mut stream, b"hello\r\n").await;
        assert_eq!(heard.is_ok_and(|heard| heard == b"hello\r\n"), status == "200", "{mode} {name}");
        let event = rig.event().await;
        assert_eq!(text(&event, FieldId::L4Status), status, "{mode} {name}");
        if status == "200" {
            assert_eq!(text(&event, FieldId::OriginTlsVersion), "TLSv1.3");
            assert_eq!(text(&event, FieldId::OriginTlsFingerprint).len(), 64);
        } else {
            assert_eq!(text(&event, FieldId::OriginTlsStatus), "INVALID_CERTIFICATE");
        }
    }
}

/// Several certificates by name; a client of an authority is the user whose certificate it shows.
#[tokio::test]
async fn certificates_by_name_and_clients_by_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let mut roots = Vec::new();
    for name in ["a.example", "b.example"] {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        write(&format!("{name}.pem"), &made.cert.pem());
        write(&format!("{name}.key"), &made.signing_key.serialize_pem());
        roots.push(made.cert.der().clone());
    }
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    write("clients.pem", &authority.pem());
    let issuer = rcgen::Issuer::new(params, authority_key);
    let client_key = rcgen::KeyPair::generate().unwrap();
    let client = rcgen::CertificateParams::new(["ann".to_owned()]).unwrap().signed_by(&client_key, &issuer).unwrap();
    let fingerprint: String =
        <sha2::Sha256 as sha2::Digest>::digest(client.der()).iter().map(|byte| format!("{byte:02x}")).collect();

    let path = |name: &str| folder.path().join(name).display().to_string();
    let pair = |name: &str| {
        format!("{{ certificate = \"{}\", key = \"{}\" }}", path(&format!("{name}.pem")), path(&format!("{name}.key")))
    };
    let settings = format!(
        "tls = \"flexible\"\n[app.tls_settings]\ncertificates = [{}, {}]\nclient_authorities = \"{}\"\n",
        pair("a.example"),
        pair("b.example"),
        path("clients.pem")
    );
    let policy = format!(
        "[[user]]\nemail = \"ann@corp.example\"\ncertificates = [\"{fingerprint}\"]\n\
         [[rule]]\nname = \"only ann\"\ngate = \"l4\"\naction = \"block\"\nwhen = 'not identity.email == \"ann@corp.example\"'\n"
    );
    let rig = rig(&policy, &app(echo(b"").await, &settings)).await;
    let identity = || (vec![client.der().clone()], PrivateKeyDer::try_from(client_key.serialize_der()).unwrap());
    for name in ["a.example", "b.example"] {
        let mut stream = secured(rig.connect().await, &roots, name, rustls::ALL_VERSIONS, Some(identity())).await.unwrap();
        assert_eq!(exchange(&mut stream, b"x").await.unwrap(), b"x");
    }
    // TLS 1.3 clients hear of it when they read.
    if let Ok(mut stream) = secured(rig.connect().await, &roots, "a.example", rustls::ALL_VERSIONS, None).await {
        assert!(exchange(&mut stream, b"x").await.is_err());
    }
    let events = rig.events(3).await;
    assert_eq!(text(&events[0], FieldId::UserEmail), "ann@corp.example");
    assert_eq!(text(&events[2], FieldId::L4Status), "443");
}

/// SP-36: clients get STARTTLS before an origin that has none.
#[tokio::test]
async fn sp_36_clients_get_starttls() {
    let rig = rig("", &app(echo(b"220 mail ESMTP\r\n").await, &format!("{TLS}\nstarttls = \"smtp\""))).await;
    let mut tcp = rig.connect().await;
    let mut buffer = [0; 256];
    for (says, hears) in
        [("", "220 svc.example"), ("EHLO me\r\n", "250-svc.example\r\n250 STARTTLS\r\n"), ("STARTTLS\r\n", "220 2.0.0")]
    {
        tcp.write_all(says.as_bytes()).await.unwrap();
        let count = tcp.read(&mut buffer).await.unwrap();
        assert!(buffer[..count].starts_with(hears.as_bytes()), "{says}: {}", String::from_utf8_lossy(&buffer[..count]));
    }
    let roots = [rig.authority.current().der.clone()];
    let mut stream = secured(tcp, &roots, "svc.example", rustls::ALL_VERSIONS, None).await.unwrap();
    // The origin's greeting is not given twice: the first words are the answer to these.
    assert_eq!(exchange(&mut stream, b"EHLO me\r\n").await.unwrap(), b"EHLO me\r\n");
    let event = rig.event().await;
    assert_eq!((text(&event, FieldId::DetectedProtocol), text(&event, FieldId::L4Status)), ("smtp".into(), "200".into()));
}

/// CVE-2011-0411: words that were sent in the clear behind STARTTLS reach nobody.
#[tokio::test]
async fn starttls_injection_is_refused_and_recorded() {
    let rig = rig("", &app(echo(b"220 mail ESMTP\r\n").await, &format!("{TLS}\nstarttls = \"smtp\""))).await;
    let heard = rig::say(rig.connect().await, b"STARTTLS\r\nMAIL FROM:<a@b.example>\r\n").await;
    assert!(!heard.is_ok_and(|heard| String::from_utf8_lossy(&heard).contains("220 2.0.0")));
    let event = rig.event().await;
    assert_eq!(
        (text(&event, FieldId::Failure), text(&event, FieldId::VerdictOutcome)),
        ("starttls_injection".into(), "blocked".into())
    );
    assert_eq!(text(&event, FieldId::BytesOut), "0");
}

/// SP-36, the other way round: clients in the clear, and an origin that wants STARTTLS.
#[tokio::test]
async fn sp_36_an_origin_is_asked_for_starttls() {
    for (name, status) in [("origin.example", "200"), ("other.example", "520")] {
        let more = format!(
            "tls = \"strict\"\nstarttls = \"smtp\"\ndanger_clear_clients = true\ntls_settings = {{ origin_name = \"{name}\" }}"
        );
        let rig = rig_before(true, &more).await;
        let heard = rig::say(rig.connect().await, b"EHLO me\r\n").await;
        assert_eq!(heard.is_ok_and(|heard| heard == b"220 mail ESMTP\r\nEHLO me\r\n"), status == "200", "{name}");
        assert_eq!(text(&rig.event().await, FieldId::L4Status), status, "{name}");
    }
}

/// SP-36 with a client that is not ours.
#[tokio::test(flavor = "multi_thread")]
async fn sp_36_openssl_starts_tls_in_every_protocol() {
    if std::env::var_os("SEKISHO_TEST_SYSTEM").is_none() {
        return println!("skipped: needs openssl; set SEKISHO_TEST_SYSTEM=1");
    }
    const MYSQL: &[u8] = b"\x4a\0\0\0\x0a8.0.36\0\x08\0\0\0abcdefgh\0\xff\xf7\xff\x02\0\xff\xdf\x15\0\0\0\0\0\0\0\0\0\0ijklmnopqrst\0caching_sha2_password\0";
    for (protocol, greeting) in [
        ("smtp", b"220 mail ESMTP\r\n".as_slice()),
        ("imap", b"* OK ready\r\n"),
        ("pop3", b"+OK ready\r\n"),
        ("ftp", b"220 ready\r\n"),
        ("ldap", b""),
        ("postgres", b""),
        ("xmpp", b""),
        ("mysql", MYSQL),
    ] {
        let rig = rig("", &app(echo(greeting).await, &format!("{TLS}\nstarttls = \"{protocol}\""))).await;
        let folder = tempfile::tempdir().unwrap();
        let roots = folder.path().join("ca.pem");
        write_pem(&roots, &rig.authority.current().der);
        let mut child = tokio::process::Command::new("openssl")
            .args(["s_client", "-starttls", protocol, "-verify_return_error", "-verify_hostname", "svc.example"])
            .args(["-servername", "svc.example", "-name", "svc.example", "-connect", &rig.address.to_string(), "-CAfile"])
            .arg(&roots)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"inside it\n").await.unwrap();
        let mut heard = String::new();
        let mut output = child.stdout.take().unwrap();
        let wanted = if protocol == "mysql" { "Verify return code: 0 (ok)" } else { "inside it\n" };
        let reading = async {
            let mut buffer = [0; 4096];
            while !heard.contains(wanted) || !heard.contains("Verify return code: 0 (ok)") {
                let Ok(count @ 1..) = output.read(&mut buffer).await else { break };
                heard.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        };
        let _ = tokio::time::timeout(rig::PATIENCE, reading).await;
        assert!(heard.contains(wanted) && heard.contains("Verify return code: 0 (ok)"), "{protocol}: {heard}");
    }
}

fn write_pem(path: &Path, der: &[u8]) {
    let digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".as_bytes();
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for (place, group) in der.chunks(3).enumerate() {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit)) & 63;
            text.push(if digit > group.len() { '=' } else { char::from(digits[value as usize]) });
        }
        if place % 16 == 15 {
            text.push('\n');
        }
    }
    std::fs::write(path, text + "\n-----END CERTIFICATE-----\n").unwrap();
}
