//! Origins that speak TLS in ways that can be broken, served by the `openssl` command: the handshake must fail, whatever
//! certificate they show. Each run begins with a control that must succeed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use net::mint::{Alpn, LeafHost};
use net::trust::{CertificateHandling, Trust, TrustSettings};
use rustls::ClientConnection;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

const HOST: &str = "origin.example";
const SETTINGS: &str = "[req]\ndistinguished_name=name\nx509_extensions=authority\n[name]\n\
    [authority]\nbasicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n\
    [leaf]\nsubjectAltName=DNS:origin.example\nextendedKeyUsage=serverAuth\n\
    keyUsage=critical,digitalSignature,keyEncipherment\n";

struct Origin(Child);

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").current_dir(folder).args(arguments.split(' ')).output().expect("openssl");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Starts an origin; None where this openssl cannot serve so. The port is the kernel's choice.
fn serve(folder: &Path, options: &str) -> Option<(Origin, u16)> {
    let arguments = format!("s_server -accept 127.0.0.1:0 -cert leaf.pem -key leaf.key {options}");
    let child = Command::new("openssl")
        .current_dir(folder)
        .args(arguments.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl");
    let mut origin = Origin(child);
    let lines = BufReader::new(origin.0.stdout.take()?).lines().map_while(Result::ok);
    let port = lines.filter_map(|line| line.strip_prefix("ACCEPT ")?.rsplit(':').next()?.parse().ok()).next()?;
    Some((origin, port))
}

fn handshake(trust: &Trust, handling: CertificateHandling, port: u16) -> std::io::Result<()> {
    let host = LeafHost::parse(HOST).unwrap();
    let config = trust.client_config(&host, Alpn::None, handling, SystemTime::now()).unwrap();
    let mut client = ClientConnection::new(config, host.server_name().unwrap()).unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    while client.is_handshaking() {
        client.complete_io(&mut stream)?;
    }
    Ok(())
}

#[test]
fn old_versions_and_weak_suites_are_refused_even_with_pass_through() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("skipped: the openssl command is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("s.cnf"), SETTINGS).unwrap();
    openssl(at, "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out ca.key");
    openssl(at, "req -x509 -new -key ca.key -config s.cnf -subj /CN=Authority -days 10 -out ca.pem");
    openssl(at, "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out leaf.key");
    openssl(at, "req -new -key leaf.key -config s.cnf -subj /CN=origin.example -out leaf.csr");
    let sign = "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 5 -extfile s.cnf -extensions leaf";
    openssl(at, &format!("{sign} -sha256 -out leaf.pem"));
    let root = CertificateDer::from_pem_file(at.join("ca.pem")).unwrap();
    let settings = TrustSettings { roots: vec![root], ..TrustSettings::default() };
    let trust = Trust::new(settings, SystemTime::now()).unwrap();
    for (name, options) in [("TLS 1.3", "-tls1_3"), ("TLS 1.2", "-tls1_2")] {
        let (_origin, port) = serve(at, options).expect(name);
        handshake(&trust, CertificateHandling::Refuse, port).expect(name);
    }
    for (name, options) in [
        ("TLS 1.1", "-tls1_1 -cipher ALL:@SECLEVEL=0"),
        ("TLS 1.0", "-tls1 -cipher ALL:@SECLEVEL=0"),
        ("RSA key exchange", "-tls1_2 -cipher AES128-GCM-SHA256"),
        ("CBC with SHA-1", "-tls1_2 -cipher ECDHE-RSA-AES128-SHA"),
        ("finite-field Diffie-Hellman", "-tls1_2 -cipher DHE-RSA-AES128-GCM-SHA256"),
        ("anonymous", "-tls1_2 -cipher AECDH-AES128-SHA:@SECLEVEL=0"),
        ("no encryption", "-tls1_2 -cipher ECDHE-RSA-NULL-SHA:@SECLEVEL=0"),
    ] {
        for handling in [CertificateHandling::Refuse, CertificateHandling::DangerPassThrough] {
            let Some((_origin, port)) = serve(at, options) else {
                println!("skipped: this openssl cannot serve {name}");
                continue;
            };
            assert!(handshake(&trust, handling, port).is_err(), "{name} {handling:?}");
        }
    }
}
