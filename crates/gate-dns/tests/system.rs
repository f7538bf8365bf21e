//! The gate between programs of other authors: BIND serves a signed tree that `dnssec-signzone` made; `dig`, `delv`, `kdig`,
//! `curl` and Unbound ask. Needs SEKISHO_TEST_SYSTEM=1 and the Debian packages that `.ci/run` names; nothing leaves loopback.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed")]

mod rig;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use gate_dns::{DnsGateSpec, DnssecMode};
use rig::{Manner, Rig, Upstream, spec};
use rustls::pki_types::PrivatePkcs8KeyDer;

const TOP: &str = "$TTL 300\n@ IN SOA ns. host. 1 3600 600 86400 30\n@ IN NS ns.\n";

const ZONES: [(&str, &str, &[&str]); 5] = [
    (
        "signed.example",
        "www IN A 192.0.2.1\nTampered IN A 192.0.2.1\n*.wild IN A 192.0.2.2\nalias IN CNAME www.Hashed.example.\n\
         old IN DNAME New.signed.example.\nwww.new IN A 192.0.2.3\nbig IN TXT \"",
        &["-z"],
    ),
    ("hashed.example", "www IN A 192.0.2.4\nopen IN NS ns.\n", &["-z", "-3", "abcd", "-H", "5", "-A"]),
    ("plain.example", "www IN A 192.0.2.5\n", &[]),
    ("example", "signed IN NS ns.\nhashed IN NS ns.\nplain IN NS ns.\n", &["-z", "-g"]),
    (".", "ns. IN A 127.0.0.1\nexample. IN NS ns.\n", &["-z", "-g"]),
];

/// A process that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a server and waits until it says that it is ready.
fn start(command: &mut Command, ready: &str) -> Running {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let running = Running(child);
    let (mut said, mut line) = (String::new(), String::new());
    while lines.read_line(&mut line).unwrap() > 0 {
        if line.contains(ready) {
            std::thread::spawn(move || std::io::copy(&mut lines.into_inner(), &mut std::io::sink()));
            return running;
        }
        said.push_str(&line);
        line.clear();
    }
    panic!("it did not start: {said}");
}

/// What a program prints. A thread waits for it, so that the gate under test goes on.
async fn output(program: &str, arguments: &str) -> String {
    let mut command = Command::new(program);
    command.args(arguments.split_whitespace());
    let done = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr)
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).current_dir(folder).args(arguments).output().unwrap();
    assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// A port that is free for both protocols.
fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
            return udp.local_addr().unwrap().port();
        }
    }
}

/// Signs the zones, spoils one record after that, and writes the root's key in two forms. Returns BIND's configuration.
fn sign(folder: &Path, port: u16) -> String {
    let mut config = format!(
        "options {{ directory \"{}\"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion no;\n\
         pid-file none; session-keyfile none; }};\ncontrols {{ }};\n",
        folder.display()
    );
    for (zone, records, arguments) in ZONES {
        let file = format!("{}.zone", zone.trim_matches('.'));
        let long =
            if zone == "signed.example" { format!("{}\"\n", "x".repeat(200) + &"\" \"yyyy".repeat(400)) } else { String::new() };
        std::fs::write(folder.join(&file), format!("{TOP}{records}{long}")).unwrap();
        let mut served = file.clone();
        if !arguments.is_empty() {
            run(folder, "dnssec-keygen", &["-q", "-a", "ECDSAP256SHA256", "-f", "KSK", zone]);
            run(folder, "dnssec-signzone", &[&["-S", "-K", ".", "-o", zone][..], arguments, &[file.as_str()]].concat());
            served.push_str(".signed");
        }
        if zone == "signed.example" {
            let path = folder.join(&served);
            let text = std::fs::read_to_string(&path).unwrap();
            let place = text.find("Tampered").or_else(|| text.find("tampered")).unwrap();
            let (before, after) = text.split_at(place);
            std::fs::write(&path, format!("{before}{}", after.replacen("192.0.2.1", "203.0.113.66", 1))).unwrap();
        }
        config.push_str(&format!("zone \"{zone}\" {{ type primary; file \"{served}\"; }};\n"));
    }
    let keys = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let key = keys.into_iter().find(|name| name.starts_with("K.+") && name.ends_with(".key")).unwrap();
    let key = std::fs::read_to_string(folder.join(key)).unwrap();
    let line = key.lines().find(|line| line.contains("DNSKEY")).unwrap();
    std::fs::write(folder.join("anchor.key"), format!("{line}\n")).unwrap();
    let (flags, rest) = line.split_once("DNSKEY ").unwrap().1.split_at("257 3 13".len());
    std::fs::write(
        folder.join("anchor.bind"),
        format!("trust-anchors {{ \".\" static-key {flags} \"{}\"; }};\n", rest.replace(' ', "")),
    )
    .unwrap();
    config
}

fn tls() -> Arc<rustls::ServerConfig> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key.into()).unwrap())
}

/// DNSSEC from both sides: the gate validates what BIND serves, and hands on what `delv` and Unbound validate again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_of_others_agree_about_a_signed_tree() {
    if std::env::var_os("SEKISHO_TEST_SYSTEM").is_none() {
        eprintln!("skipped: SEKISHO_TEST_SYSTEM=1 is not set");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let upstream_port = free_port();
    std::fs::write(path.join("named.conf"), sign(path, upstream_port)).unwrap();
    let named = format!("{}/named.conf", path.display());
    let _named = start(Command::new("named").args(["-g", "-c", &named]), "all zones loaded");

    let unused = Upstream::start(Manner::Silent).await;
    let settings = DnsGateSpec {
        upstreams: vec![format!("127.0.0.1:{upstream_port}")],
        dnssec: DnssecMode::Validate,
        dnssec_trust_anchor_file: Some(path.join("anchor.key")),
        dot: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        ..spec(&unused)
    };
    let policy = r#"
        [[rule]]
        name = "bad"
        gate = "dns"
        action = "block"
        when = 'any(dns.domains[*] == "bad.example")'
        settings = { block_reason = "known bad" }
    "#;
    let rig = Rig::with(policy, unused, settings, Some(tls())).await;
    let (udp, dot) = (rig.address("udp").port(), rig.address("dot").port());

    // dig: every kind of answer, its code, AD, and the extended error.
    for (question, wanted) in [
        ("www.signed.example A", &["status: NOERROR", "flags: qr rd ra ad;", "192.0.2.1", "RRSIG"][..]),
        ("a.wild.signed.example A", &["NOERROR", "rd ra ad;", "192.0.2.2", "NSEC"]),
        ("alias.signed.example A", &["NOERROR", "rd ra ad;", "192.0.2.4"]),
        ("www.old.signed.example A", &["NOERROR", "rd ra ad;", "192.0.2.3", "DNAME"]),
        ("missing.signed.example A", &["NXDOMAIN", "rd ra ad;"]),
        ("www.signed.example MX", &["NOERROR", "rd ra ad;", "ANSWER: 0"]),
        ("www.hashed.example MX", &["NOERROR", "rd ra ad;", "NSEC3"]),
        ("missing.hashed.example A", &["NXDOMAIN", "flags: qr rd ra;"]),
        ("www.plain.example A", &["NOERROR", "flags: qr rd ra;", "192.0.2.5"]),
        ("tampered.signed.example A", &["SERVFAIL", "EDE: 6 (DNSSEC Bogus)"]),
        ("+cdflag tampered.signed.example A", &["NOERROR", "203.0.113.66"]),
        ("+ignore big.signed.example TXT", &["flags: qr tc rd ra"]),
        ("+nocookie big.signed.example TXT", &["Truncated, retrying in TCP", "rd ra ad;"]),
        ("WwW.sIgNed.example A", &["WwW.sIgNed.example.\t"]),
        ("bad.example A", &["NOERROR", "0.0.0.0", "EDE: 15 (Blocked): (known bad)"]),
        ("bad.example HTTPS", &["NOERROR", "ANSWER: 0"]),
        ("www.signed.example ANY", &["NOERROR", "RFC8482"]),
        ("+edns=1 +noednsneg www.signed.example A", &["BADVERS"]),
        ("+opcode=notify www.signed.example SOA", &["NOTIMP"]),
        ("version.bind CH TXT", &["REFUSED"]),
        ("+tcp +keepopen www.signed.example A www.plain.example A", &["192.0.2.1", "192.0.2.5"]),
    ] {
        let said = output("dig", &format!("@127.0.0.1 -p {udp} +dnssec +time=5 {question}")).await;
        for wanted in wanted {
            assert!(said.contains(wanted), "{question}: no {wanted:?} in {said}");
        }
    }

    // delv validates by itself, with keys that it asks the gate for.
    let anchor = path.join("anchor.bind");
    for (question, wanted) in [
        ("www.signed.example A", "; fully validated"),
        ("alias.signed.example A", "; fully validated"),
        ("missing.signed.example A", "; negative response, fully validated"),
        ("www.plain.example A", "; unsigned answer"),
        ("+cdflag tampered.signed.example A", "resolution failed"),
    ] {
        let said = output("delv", &format!("@127.0.0.1 -p {udp} -a {} +root=. {question}", anchor.display())).await;
        assert!(said.contains(wanted), "{question}: no {wanted:?} in {said}");
    }

    // Unbound forwards to the gate and validates again.
    let own = free_port();
    let unbound = format!(
        "server:\n directory: \"{0}\"\n chroot: \"\"\n username: \"\"\n pidfile: \"\"\n use-syslog: no\n interface: 127.0.0.1@{own}\n\
         \x20do-not-query-localhost: no\n trust-anchor-file: \"{0}/anchor.key\"\n verbosity: 1\n\
         forward-zone:\n name: \".\"\n forward-addr: 127.0.0.1@{udp}\n",
        path.display()
    );
    std::fs::write(path.join("unbound.conf"), unbound).unwrap();
    let file = format!("{}/unbound.conf", path.display());
    let _unbound = start(Command::new("unbound").args(["-d", "-c", &file]), "start of service");
    for (question, wanted) in [
        ("www.signed.example A", "flags: qr rd ra ad;"),
        ("www.old.signed.example A", "flags: qr rd ra ad;"),
        ("missing.signed.example A", "flags: qr rd ra ad;"),
        ("www.plain.example A", "flags: qr rd ra;"),
        ("tampered.signed.example A", "SERVFAIL"),
    ] {
        let said = output("dig", &format!("@127.0.0.1 -p {own} +dnssec {question}")).await;
        assert!(said.contains(wanted), "{question} by unbound: no {wanted:?} in {said}");
    }

    // kdig pads and reuses one TLS connection; curl speaks both versions of HTTP and both forms.
    let said =
        output("kdig", &format!("@127.0.0.1 -p {dot} +tls +dnssec +padding +keepopen www.signed.example A www.plain.example A"))
            .await;
    assert!(said.contains("TLS session") && said.contains("192.0.2.1") && said.contains("192.0.2.5"), "{said}");
    assert!(said.contains("PADDING"), "{said}");
    let doh = rig.address("doh");
    for version in ["--http1.1", "--http2"] {
        let said = output("curl", &format!("-sS -k {version} https://{doh}/dns-query?name=www.signed.example&type=A&do=1")).await;
        assert!(said.contains("\"AD\":true") && said.contains("192.0.2.1"), "{said}");
    }
    let question = path.join("question");
    std::fs::write(&question, rig::query("www.plain.example", hickory_proto::rr::RecordType::A)).unwrap();
    let post = format!(
        "-sS -k --http1.1 -D - -o {0}.answer -H content-type:application/dns-message --data-binary @{0} https://{doh}/dns-query",
        question.display()
    );
    let said = output("curl", &post).await;
    assert!(said.contains("200 OK") && said.contains("application/dns-message") && said.contains("max-age=300"), "{said}");
    let mut answer = Vec::new();
    std::fs::File::open(format!("{}.answer", question.display())).unwrap().read_to_end(&mut answer).unwrap();
    assert_eq!(rig::shown(&hickory_proto::op::Message::from_vec(&answer).unwrap()), "NoError [192.0.2.5]");
}
