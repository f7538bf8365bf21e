//! Transparent mode on real packets: three network namespaces (client, router, origin), the nftables rules of
//! `docs/transparent.md` as they stand there, the program on the router, and curl on the client. It needs root, iproute2,
//! nftables, curl and openssl, and SEKISHO_TEST_SYSTEM=1; everything that it makes is in the namespaces and goes with them.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops where its own set-up fails")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sekisho");
const GUIDE: &str = include_str!("../../../docs/transparent.md");
/// Says to the test binary, started again inside a namespace, that it is the origin there.
const ORIGIN_FOLDER: &str = "SEKISHO_TEST_ORIGIN_FOLDER";
/// Documentation range (RFC 5737), so that nothing else has these addresses.
const ORIGIN: &str = "203.0.113.2";

/// The text of the guide's block with this label.
fn block(label: &str) -> &'static str {
    let start = GUIDE.find(&format!("```{label}\n")).unwrap_or_else(|| panic!("no block {label}"));
    let text = &GUIDE[start..].split_once('\n').unwrap().1;
    text.split_once("```").unwrap().0
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn must(command: &str) {
    let parts: Vec<&str> = command.split_whitespace().collect();
    let output = run(parts[0], &parts[1..]);
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The namespaces, removed when dropped.
struct Net {
    client: String,
    router: String,
    origin: String,
}

impl Net {
    fn new() -> Net {
        let id = std::process::id();
        let net = Net { client: format!("skc{id}"), router: format!("skr{id}"), origin: format!("sko{id}") };
        for name in [&net.client, &net.router, &net.origin] {
            must(&format!("ip netns add {name}"));
            must(&format!("ip -n {name} link set lo up"));
        }
        let (client, router, origin) = (&net.client, &net.router, &net.origin);
        must(&format!("ip link add c0 netns {client} type veth peer name lan0 netns {router}"));
        must(&format!("ip link add wan0 netns {router} type veth peer name o0 netns {origin}"));
        for (space, link, address) in [
            (client, "c0", "192.0.2.2/24"),
            (router, "lan0", "192.0.2.1/24"),
            (router, "wan0", "203.0.113.1/24"),
            (origin, "o0", "203.0.113.2/24"),
        ] {
            must(&format!("ip -n {space} address add {address} dev {link}"));
            must(&format!("ip -n {space} link set {link} up"));
        }
        must(&format!("ip -n {client} route add default via 192.0.2.1"));
        must(&format!("ip -n {origin} route add default via 203.0.113.1"));
        must(&format!("ip netns exec {router} sysctl -qw net.ipv4.ip_forward=1"));
        net
    }

    fn load(&self, rules: &str) {
        let mut nft = Command::new("ip");
        nft.args(["netns", "exec", &self.router, "nft", "-f", "-"]).stdin(Stdio::piped());
        let mut child = nft.spawn().unwrap();
        child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{rules}");
    }

    fn on_client(&self, arguments: &[&str]) -> Output {
        run("ip", &[&["netns", "exec", &self.client], arguments].concat())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in [&self.client, &self.router, &self.origin] {
            let _ = run("ip", &["netns", "del", name]);
        }
    }
}

/// A process of the test's own, ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(path: &Path, what: &str) {
    let until = Instant::now() + Duration::from_secs(60);
    while !path.exists() {
        assert!(Instant::now() < until, "{what} did not come up");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn test_virus() -> Vec<u8> {
    [r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR", "-STANDARD-ANTIVIRUS-", "TEST-FILE!$H+H*"].concat().into_bytes()
}

/// Not a test of its own: what the origin's namespace runs. It serves one page and one harmless test virus on 80 and 443.
#[test]
fn role_origin() {
    let Some(folder) = std::env::var_os(ORIGIN_FOLDER).map(PathBuf::from) else { return };
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    ca.distinguished_name.push(rcgen::DnType::CommonName, "test origin authority");
    std::fs::write(folder.join("origin-ca.partial"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut leaf = rcgen::CertificateParams::new(vec!["site.example".to_string()]).unwrap();
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = leaf.signed_by(&key, &issuer).unwrap().der().clone();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf], key.into())
        .unwrap();
    let config = Arc::new(config);
    let (plain, tls) = (TcpListener::bind("0.0.0.0:80").unwrap(), TcpListener::bind("0.0.0.0:443").unwrap());
    std::fs::rename(folder.join("origin-ca.partial"), folder.join("origin-ca.pem")).unwrap();
    std::thread::spawn(move || {
        for stream in plain.incoming().flatten() {
            let from = stream.peer_addr().unwrap().ip();
            std::thread::spawn(move || answer(stream, from));
        }
    });
    for stream in tls.incoming().flatten() {
        let (config, from) = (config.clone(), stream.peer_addr().unwrap().ip());
        std::thread::spawn(move || {
            answer(rustls::StreamOwned::new(rustls::ServerConnection::new(config).unwrap(), stream), from)
        });
    }
}

fn answer(mut stream: impl Read + Write, from: std::net::IpAddr) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 16_384 {
        let mut byte = [0];
        if stream.read_exact(&mut byte).is_err() {
            return;
        }
        head.push(byte[0]);
    }
    let body = if head.starts_with(b"GET /virus") { test_virus() } else { format!("clean page for {from}").into_bytes() };
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(&[head.into_bytes(), body].concat());
    let _ = stream.flush();
}

/// Why the test cannot run here, if it cannot.
fn missing() -> Option<String> {
    if std::env::var_os("SEKISHO_TEST_SYSTEM").is_none() {
        return Some("SEKISHO_TEST_SYSTEM=1 is not set".into());
    }
    for program in ["ip", "nft", "curl", "openssl", "sysctl"] {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            return Some(format!("{program} is not installed"));
        }
    }
    let name = format!("skprobe{}", std::process::id());
    let made = run("ip", &["netns", "add", &name]);
    let _ = run("ip", &["netns", "del", &name]);
    (!made.status.success()).then(|| "network namespaces cannot be made here (root is needed)".into())
}

fn start_origin(net: &Net, folder: &Path) -> Running {
    let mut origin = Command::new("ip");
    origin.args(["netns", "exec", &net.origin]).arg(std::env::current_exe().unwrap()).args(["--exact", "role_origin"]);
    origin.env(ORIGIN_FOLDER, folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let running = Running(origin.spawn().unwrap());
    wait_for(&folder.join("origin-ca.pem"), "the origin");
    running
}

fn start_program(net: &Net, folder: &Path) -> Running {
    let config = folder.join("sekisho.toml");
    let text = format!(
        "[web]\ntransparent = \"0.0.0.0:8443\"\n[trust]\nextra_roots = [{:?}]\n[dns]\nupstreams = [\"203.0.113.2:53\"]\n",
        folder.join("origin-ca.pem")
    );
    std::fs::write(&config, text).unwrap();
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let (data, ready) = (folder.join("data"), folder.join("ready.json"));
    let mut program = Command::new("ip");
    program.args(["netns", "exec", &net.router, PROGRAM, "--data"]).arg(data).arg("up").arg("--config").arg(config);
    program.arg("--ready-file").arg(&ready).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let running = Running(program.spawn().unwrap());
    wait_for(&ready, &std::fs::read_to_string(folder.join("log")).unwrap_or_default());
    running
}

fn found(folder: &Path, expression: &str) -> Vec<serde_json::Value> {
    let output = Command::new(PROGRAM)
        .arg("--data")
        .arg(folder.join("data"))
        .args(["search", expression, "--format", "json"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn redirected_and_diverted_connections_are_inspected_and_quic_is_refused() {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    for (way, routes) in [("nft redirect", ""), ("nft tproxy", block("sh tproxy-routes"))] {
        let folder = tempfile::tempdir().unwrap();
        let net = Net::new();
        net.load(block(way));
        for route in routes.lines() {
            let output = run("ip", &["netns", "exec", &net.router, "sh", "-c", route]);
            assert!(output.status.success(), "{route}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let _origin = start_origin(&net, folder.path());
        let _program = start_program(&net, folder.path());
        clients_are_served(way, &net, folder.path());
    }
}

fn clients_are_served(way: &str, net: &Net, folder: &Path) {
    let ca = folder.join("data/ca/sekisho-ca.pem").display().to_string();
    let resolve = format!("site.example:443:{ORIGIN}");
    let curl = |url: &str| {
        net.on_client(&["curl", "-sS", "--max-time", "20", "--noproxy", "*", "--cacert", &ca, "--resolve", &resolve, url])
    };
    // TLS by its server name, and the origin sees the router, which is proof that the gate was in between.
    let clean = curl("https://site.example/clean");
    let text = String::from_utf8_lossy(&clean.stdout).into_owned();
    assert_eq!(text, "clean page for 203.0.113.1", "{way}: {}", String::from_utf8_lossy(&clean.stderr));
    assert!(!curl("https://site.example/virus").status.success(), "{way}: the virus came through");
    // Plain HTTP to an address.
    let plain = curl(&format!("http://{ORIGIN}/clean"));
    assert_eq!(String::from_utf8_lossy(&plain.stdout), "clean page for 203.0.113.1", "{way}");
    assert!(!curl(&format!("http://{ORIGIN}/virus")).status.success(), "{way}: the virus came through over HTTP");
    // QUIC: the answer comes at once and is a refusal, so that a client does not wait.
    let began = Instant::now();
    let target = format!("{ORIGIN}:443");
    let quic = net.on_client(&["timeout", "10", "openssl", "s_client", "-dtls", "-connect", &target]);
    let told = format!("{}{}", String::from_utf8_lossy(&quic.stdout), String::from_utf8_lossy(&quic.stderr));
    // ECONNREFUSED, as errno(3) numbers it on Linux.
    assert!(told.contains("errno=111"), "{way}: {told}");
    assert!(began.elapsed() < Duration::from_secs(8), "{way}: the client had to wait");
    // A connection to the listener itself leads nowhere: the gate does not connect to itself.
    assert!(!net.on_client(&["curl", "-fsS", "--max-time", "5", "http://192.0.2.1:8443/"]).status.success());
    let arrived = "net.onramp.type == \"transparent\" and http.request.method == \"GET\"";
    let events = found(folder, &format!("{arrived} and net.dst.ip == {ORIGIN}"));
    assert_eq!(events.len(), 4, "{way}: {events:#?}");
    for event in &events {
        assert_eq!(event["net.src.ip"], "192.0.2.2", "{way}: the client's own address");
        assert_eq!(event["net.dst.ip"], ORIGIN);
    }
    let outcomes: Vec<_> = events.iter().filter(|event| event["scan.verdict"] == "malicious").collect();
    assert_eq!(outcomes.len(), 2, "{way}: {events:#?}");
}
