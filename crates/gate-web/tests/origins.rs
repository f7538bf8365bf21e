//! Origins whose TLS must not be believed, through the whole gate: each is answered with a page that names the reason and
//! leaves an event, and none is sent a byte of the request. Three good origins are the control. Certificates are made here;
//! what our library refuses to make is made, and served, by the `openssl` command; what that refuses to serve is played by
//! a responder that writes the bytes of a ServerHello.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use checkpoint::testing::Harness;
use model::FieldId;
use net::trust::TrustSettings;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, NameConstraints, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivatePkcs8KeyDer};
use support::{World, get, http1, text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const HOST: &str = "site.example";

/// An authority of the test.
struct Authority {
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

fn authority(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Authority {
    let (params, key) = authority_params(name, change);
    let der = params.self_signed(&key).unwrap().der().clone();
    Authority { der, issuer: Issuer::new(params, key) }
}

fn authority_params(name: &str, change: impl FnOnce(&mut CertificateParams)) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    change(&mut params);
    (params, KeyPair::generate().unwrap())
}

/// A chain and its key, as a server holds them.
struct Served {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

fn leaf(issuer: &Authority, change: impl FnOnce(&mut CertificateParams)) -> Served {
    let mut params = CertificateParams::new(vec![HOST.into()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let chain = vec![params.signed_by(&key, &issuer.issuer).unwrap().der().clone()];
    Served { chain, key: key.serialize_der() }
}

/// Serves a chain; counts the bytes of requests that it is sent.
async fn serve(served: Served, bytes: Arc<AtomicUsize>) -> u16 {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(served.chain, PrivatePkcs8KeyDer::from(served.key).into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, bytes) = (acceptor.clone(), bytes.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = [0; 4096];
                let count = stream.read(&mut request).await.unwrap_or(0);
                bytes.fetch_add(count, Ordering::Relaxed);
                if count > 0 {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\ngood").await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    port
}

/// Answers every hello with these bytes.
async fn respond(hello: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let hello = hello.clone();
            tokio::spawn(async move {
                let mut read = [0; 4096];
                let _ = stream.read(&mut read).await;
                let _ = stream.write_all(&hello).await;
                let _ = stream.read(&mut read).await;
            });
        }
    });
    port
}

/// A ServerHello that chooses a version and a suite (RFC 5246 section 7.4.1.3; RFC 6101 for SSL 3.0).
fn server_hello(version: [u8; 2], suite: [u8; 2]) -> Vec<u8> {
    let mut body = version.to_vec();
    body.extend([7; 32]);
    body.push(0);
    body.extend(suite);
    body.push(0);
    let mut handshake = vec![2, 0, 0, body.len() as u8];
    handshake.extend(body);
    let mut record = vec![22, version[0], version[1], 0, handshake.len() as u8];
    record.extend(handshake);
    record
}

/// What a client sees of one origin, and its event.
struct Seen {
    status: u16,
    page: String,
    problem: String,
    /// LG-02.
    action: String,
    failure: String,
    outcome: String,
}

async fn visit(world: &World, port: u16) -> Seen {
    visit_as(world, HOST, port).await
}

async fn visit_as(world: &World, host: &str, port: u16) -> Seen {
    let before = world.harness.events().len();
    let stream = world.tunnel(host, port, &["http/1.1"]).await.unwrap();
    let mut request = get(&format!("{host}:{port}"), "/");
    request.headers_mut().insert("accept", "text/html".parse().unwrap());
    let reply = http1(Box::new(stream)).await.send(request).await.unwrap();
    for _ in 0..500 {
        let events = world.harness.events();
        let event = events.iter().skip(before).find(|event| text(event, FieldId::HttpMethod) == "GET");
        if let Some(event) = event {
            return Seen {
                status: reply.status.as_u16(),
                page: reply.text(),
                problem: text(event, FieldId::CertificateProblem),
                action: text(event, FieldId::UntrustedAction),
                failure: text(event, FieldId::Failure),
                outcome: text(event, FieldId::VerdictOutcome),
            };
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("no event")
}

/// The chains, each with the word for what is wrong with it, and the settings by which they are judged.
fn chains() -> (Vec<(&'static str, &'static str, Served)>, TrustSettings) {
    let root = authority("Good root", |_| ());
    let unknown = authority("Unknown root", |_| ());
    let expired_root = authority("Expired root", |params| {
        params.not_before = date_time_ymd(2015, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    let constrained = intermediate(&root, "Constrained", |params| {
        let permitted_subtrees = vec![GeneralSubtree::DnsName("other.example".into())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
    });
    let no_authority = intermediate(&root, "Not an authority", |params| {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    });
    let serial = SerialNumber::from(77u64);
    let revoked = leaf(&root, |params| params.serial_number = Some(serial.clone()));
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(2090, 1, 1),
        crl_number: SerialNumber::from(1u64),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: serial,
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&root.issuer).unwrap();
    let mut tampered = leaf(&root, |_| ());
    let mut bytes = tampered.chain[0].to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    tampered.chain[0] = CertificateDer::from(bytes);
    let alone = {
        let mut params = CertificateParams::new(vec![HOST.into()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        Served { chain: vec![params.self_signed(&key).unwrap().der().clone()], key: key.serialize_der() }
    };
    let behind = |middle: &(Authority, CertificateDer<'static>)| {
        let mut served = leaf(&middle.0, |_| ());
        served.chain.push(middle.1.clone());
        served
    };
    let ended = |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    };
    let future = |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(2080, 1, 1);
        params.not_after = date_time_ymd(2081, 1, 1);
    };
    let nameless = |params: &mut CertificateParams| {
        params.subject_alt_names.clear();
        params.distinguished_name.push(DnType::CommonName, HOST);
    };
    let suffix = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("*.co.uk".try_into().unwrap())];
    };
    let chains = vec![
        ("good", "", leaf(&root, |_| ())),
        ("expired", "expired", leaf(&root, ended)),
        ("not yet valid", "not_yet_valid", leaf(&root, future)),
        ("self-signed", "self_signed", alone),
        ("unknown authority", "unknown_issuer", leaf(&unknown, |_| ())),
        (
            "wrong host",
            "wrong_host",
            leaf(&root, |params| params.subject_alt_names = vec![rcgen::SanType::DnsName("else.example".try_into().unwrap())]),
        ),
        ("bad signature", "bad_signature", tampered),
        ("a leaf as authority", "leaf_as_authority", behind(&no_authority)),
        (
            "an authority as leaf",
            "authority_as_leaf",
            leaf(&root, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        (
            "for clients only",
            "wrong_purpose",
            leaf(&root, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
        ),
        ("for nothing", "no_purpose", leaf(&root, |params| params.extended_key_usages.clear())),
        ("name constraints", "name_constraint", behind(&constrained)),
        ("a common name only", "wrong_host", leaf(&root, nameless)),
        ("a public suffix", "public_suffix_wildcard", leaf(&root, suffix)),
        ("an expired root", "unknown_issuer", leaf(&expired_root, |_| ())),
        ("revoked", "revoked", revoked),
    ];
    let settings = TrustSettings {
        roots: vec![root.der.clone(), expired_root.der.clone()],
        revocation_lists: vec![CertificateRevocationListDer::from(list.der().to_vec())],
        ..TrustSettings::default()
    };
    (chains, settings)
}

/// An intermediate under a root: what signs with it, and its certificate.
fn intermediate(
    root: &Authority,
    name: &str,
    change: impl FnOnce(&mut CertificateParams),
) -> (Authority, CertificateDer<'static>) {
    let (params, key) = authority_params(name, change);
    let der = params.signed_by(&key, &root.issuer).unwrap().der().clone();
    (Authority { der: der.clone(), issuer: Issuer::new(params, key) }, der)
}

fn adopt(settings: TrustSettings) -> impl FnOnce(&mut TrustSettings) {
    move |present| {
        present.roots = settings.roots;
        present.revocation_lists = settings.revocation_lists;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_chains_are_refused_with_a_page_that_names_the_reason() {
    let (chains, settings) = chains();
    let world = World::of(Harness::new(""), |_| (), adopt(settings)).await;
    let mut wrong = Vec::new();
    for (name, problem, served) in chains {
        let bytes = Arc::new(AtomicUsize::new(0));
        let port = serve(served, bytes.clone()).await;
        // A whole public domain in a wildcard covers sites of others.
        let host = if problem == "public_suffix_wildcard" { "site.co.uk" } else { HOST };
        let seen = visit_as(&world, host, port).await;
        let is_right = match problem {
            "" => seen.status == 200 && seen.page == "good" && seen.outcome == "allowed",
            _ => {
                let told = seen.page.contains(&format!("({problem})")) && seen.page.contains("cannot be trusted");
                seen.status == 526
                    && told
                    && seen.problem == problem
                    && seen.failure == "untrusted_certificate"
                    && seen.outcome == "error"
                    && bytes.load(Ordering::Relaxed) == 0
            }
        };
        if !is_right {
            wrong.push(format!("{name}: {} {} {} {}", seen.status, seen.problem, seen.failure, bytes.load(Ordering::Relaxed)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The gate's own authority never vouches for an origin, even where an operator trusts it by mistake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gates_own_authority_is_no_origins_authority() {
    let world = World::new("").await;
    // The gate as the origin of itself: its minted leaf, served by another listener.
    let folder = tempfile::tempdir().unwrap();
    let other =
        Arc::new(net::authority::Authority::load_or_create(folder.path(), "Other", std::time::SystemTime::now()).unwrap());
    let minter = net::mint::Minter::new(other.clone()).unwrap();
    let host = net::mint::LeafHost::parse(HOST).unwrap();
    let now = std::time::SystemTime::now();
    let minted = |minter: &net::mint::Minter| {
        minter.server_config(&host, net::mint::Alpn::Http1, net::mint::VersionCeiling::Tls13, now).unwrap()
    };
    let own = net::mint::Minter::new(world.authority.clone()).unwrap();
    for (config, problem) in [(minted(&own), "own_authority"), (minted(&minter), "unknown_issuer")] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = tokio_rustls::TlsAcceptor::from(config.clone()).accept(stream).await;
            }
        });
        let seen = visit(&world, port).await;
        assert_eq!((seen.status, seen.problem.as_str()), (526, problem));
    }
}

/// GW-031: a rule may ask for the block page, or let the origin pass; the event names the problem in each case.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gw_031_each_behaviour_holds_for_each_kind_of_problem() {
    for (action, status, outcome) in [("error", 526, "error"), ("block", 403, "blocked"), ("pass_through", 200, "allowed")] {
        let policy = format!(
            "[[rule]]\nname = \"odd\"\ngate = \"web\"\naction = \"allow\"\nwhen = 'http.request.host == \"{HOST}\"'\nsettings = {{ untrusted_cert = \"{action}\" }}\n"
        );
        let (chains, settings) = chains();
        let world = World::of(Harness::new(&policy), |_| (), adopt(settings)).await;
        for (name, problem, served) in chains {
            if !["expired", "self_signed", "unknown_issuer", "wrong_host", "revoked"].contains(&problem) {
                continue;
            }
            let bytes = Arc::new(AtomicUsize::new(0));
            let port = serve(served, bytes.clone()).await;
            let seen = visit(&world, port).await;
            assert_eq!(
                (seen.status, seen.problem.as_str(), seen.outcome.as_str()),
                (status, problem, outcome),
                "{action} {name}"
            );
            assert_eq!(bytes.load(Ordering::Relaxed) > 0, action == "pass_through", "{action} {name}");
            assert_eq!(seen.action.replace("passThrough", "pass_through"), action, "{name}");
        }
    }
}

/// Versions and suites that no library of today serves (SSL 3.0, RC4, export, small groups, no encryption).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protocols_of_the_past_are_refused() {
    let world = World::new("").await;
    for (name, version, suite) in [
        ("SSL 3.0", [3, 0], [0, 0x2f]),
        ("TLS 1.0", [3, 1], [0, 0x2f]),
        ("TLS 1.1", [3, 2], [0, 0x2f]),
        ("RC4", [3, 3], [0, 5]),
        ("export", [3, 3], [0, 3]),
        ("export with 512-bit Diffie-Hellman", [3, 3], [0, 0x14]),
        ("finite-field Diffie-Hellman", [3, 3], [0, 0x9e]),
        ("anonymous Diffie-Hellman", [3, 3], [0, 0x34]),
        ("3DES", [3, 3], [0, 0x0a]),
        ("no encryption", [3, 3], [0, 2]),
        ("RSA key exchange", [3, 3], [0, 0x9c]),
        ("CBC with SHA-1", [3, 3], [0xc0, 0x13]),
    ] {
        let port = respond(server_hello(version, suite)).await;
        let seen = visit(&world, port).await;
        assert_eq!((seen.status, seen.failure.as_str()), (502, "upstream_handshake"), "{name}");
        assert!(seen.page.contains("No safe connection"), "{name}");
    }
}

// What the `openssl` command makes and serves.

struct Origin(Child);

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const SETTINGS: &str = "[req]\ndistinguished_name=name\nx509_extensions=authority\n[name]\n\
    [authority]\nbasicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n\
    [leaf]\nsubjectAltName=DNS:site.example\nextendedKeyUsage=serverAuth\n\
    keyUsage=critical,digitalSignature,keyEncipherment\n";

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").current_dir(folder).args(arguments.split(' ')).output().expect("openssl");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An origin with a status page; None where this openssl cannot serve so.
fn s_server(folder: &Path, options: &str) -> Option<(Origin, u16)> {
    let arguments = format!("s_server -www -accept 127.0.0.1:0 {options}");
    let mut child = Command::new("openssl");
    child.current_dir(folder).args(arguments.split_whitespace());
    let mut origin = Origin(child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("openssl"));
    let lines = BufReader::new(origin.0.stdout.take()?).lines().map_while(Result::ok);
    let port = lines.filter_map(|line| line.strip_prefix("ACCEPT ")?.rsplit(':').next()?.parse().ok()).next()?;
    Some((origin, port))
}

const CURVE: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
const RSA: &str = "-algorithm RSA -pkeyopt rsa_keygen_bits:2048";

fn make_chains(at: &Path) {
    std::fs::write(at.join("s.cnf"), SETTINGS).unwrap();
    openssl(at, &format!("genpkey {RSA} -out ca.key"));
    openssl(at, "req -x509 -new -key ca.key -config s.cnf -subj /CN=Authority -days 10 -out ca.pem");
    for (name, kind, digest) in [
        ("curve", CURVE, "sha256"),
        ("rsa", RSA, "sha256"),
        ("sha1", CURVE, "sha1"),
        ("short", "-algorithm RSA -pkeyopt rsa_keygen_bits:1024", "sha256"),
    ] {
        openssl(at, &format!("genpkey {kind} -out {name}.key"));
        openssl(at, &format!("req -new -key {name}.key -config s.cnf -subj /CN=site.example -out {name}.csr"));
        openssl(
            at,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 5 -extfile s.cnf -extensions leaf -{digest} -out {name}.pem"
            ),
        );
    }
    // A weak signature one step above the leaf.
    openssl(at, &format!("genpkey {CURVE} -out middle.key"));
    openssl(at, "req -new -key middle.key -config s.cnf -subj /CN=Middle -out middle.csr");
    openssl(
        at,
        "x509 -req -in middle.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 5 -extfile s.cnf -extensions authority -sha1 -out middle.pem",
    );
    openssl(at, &format!("genpkey {CURVE} -out below.key"));
    openssl(at, "req -new -key below.key -config s.cnf -subj /CN=site.example -out below.csr");
    openssl(
        at,
        "x509 -req -in below.csr -CA middle.pem -CAkey middle.key -CAcreateserial -days 5 -extfile s.cnf -extensions leaf -sha256 -out below.pem",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weak_keys_digests_and_suites_that_openssl_serves_are_refused() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("skipped: the openssl command is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    make_chains(at);
    let root = CertificateDer::from_pem_file(at.join("ca.pem")).unwrap();
    let world = World::of(Harness::new(""), |_| (), move |settings| settings.roots = vec![root]).await;
    for (name, options, expected) in [
        ("EC, TLS 1.3", "-cert curve.pem -key curve.key -tls1_3", (200, "")),
        ("EC, TLS 1.2", "-cert curve.pem -key curve.key -tls1_2", (200, "")),
        ("RSA-2048", "-cert rsa.pem -key rsa.key", (200, "")),
        ("SHA-1 leaf", "-cert sha1.pem -key sha1.key", (526, "weak_signature")),
        ("SHA-1 intermediate", "-cert below.pem -key below.key -cert_chain middle.pem", (526, "weak_signature")),
        ("RSA-1024 leaf", "-cert short.pem -key short.key -cipher ALL:@SECLEVEL=0", (526, "weak_key")),
        ("TLS 1.0", "-cert rsa.pem -key rsa.key -tls1 -cipher ALL:@SECLEVEL=0", (502, "")),
        ("TLS 1.1", "-cert rsa.pem -key rsa.key -tls1_1 -cipher ALL:@SECLEVEL=0", (502, "")),
        (
            "Diffie-Hellman of 1024 bits",
            "-cert rsa.pem -key rsa.key -tls1_2 -cipher DHE-RSA-AES128-GCM-SHA256:@SECLEVEL=0",
            (502, ""),
        ),
        ("anonymous", "-cert rsa.pem -key rsa.key -tls1_2 -cipher AECDH-AES128-SHA:@SECLEVEL=0", (502, "")),
        ("no encryption", "-cert rsa.pem -key rsa.key -tls1_2 -cipher ECDHE-RSA-NULL-SHA:@SECLEVEL=0", (502, "")),
        ("RSA key exchange", "-cert rsa.pem -key rsa.key -tls1_2 -cipher AES128-GCM-SHA256", (502, "")),
        ("CBC with SHA-1", "-cert rsa.pem -key rsa.key -tls1_2 -cipher ECDHE-RSA-AES128-SHA", (502, "")),
    ] {
        let Some((_origin, port)) = s_server(at, options) else {
            println!("skipped: this openssl cannot serve {name}");
            continue;
        };
        let seen = visit(&world, port).await;
        assert_eq!((seen.status, seen.problem.as_str()), expected, "{name}: {}", seen.failure);
    }
}
