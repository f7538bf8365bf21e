//! Chains that our own library refuses to make: short RSA keys and SHA-1 signatures, made with the `openssl` command.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use net::mint::LeafHost;
use net::trust::{CertificateProblem, Trust, TrustSettings};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};

const HOST: &str = "origin.example";
const SETTINGS: &str = "[req]\ndistinguished_name=name\nx509_extensions=authority\n[name]\n\
    [authority]\nbasicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n\
    [leaf]\nsubjectAltName=DNS:origin.example\nextendedKeyUsage=serverAuth\nkeyUsage=critical,digitalSignature\n";

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").current_dir(folder).args(arguments.split(' ')).output().expect("openssl");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What is found against a leaf with this kind of key, signed with this digest by an authority with that kind of key.
fn problem(authority_key: &str, leaf_key: &str, digest: &str) -> Option<CertificateProblem> {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("s.cnf"), SETTINGS).unwrap();
    openssl(at, &format!("genpkey {authority_key} -out ca.key"));
    openssl(at, "req -x509 -new -key ca.key -config s.cnf -subj /CN=Authority -days 10 -out ca.pem");
    openssl(at, &format!("genpkey {leaf_key} -out leaf.key"));
    openssl(at, "req -new -key leaf.key -config s.cnf -subj /CN=origin.example -out leaf.csr");
    let sign = "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 5 -extfile s.cnf -extensions leaf";
    openssl(at, &format!("{sign} -{digest} -out leaf.pem"));
    let now = SystemTime::now();
    let root = CertificateDer::from_pem_file(at.join("ca.pem")).unwrap();
    let leaf = CertificateDer::from_pem_file(at.join("leaf.pem")).unwrap();
    let trust = match Trust::new(TrustSettings { roots: vec![root], ..TrustSettings::default() }, now) {
        Ok(trust) => trust,
        Err(_) => return Some(CertificateProblem::WeakKey),
    };
    let host = LeafHost::parse(HOST).unwrap();
    let unix = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap());
    trust.verifier(&host, now).unwrap().problem(&leaf, &[], &host.server_name().unwrap(), unix)
}

#[test]
fn short_keys_and_weak_digests_are_refused() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("skipped: the openssl command is not installed");
        return;
    }
    let (curve, strong, weak) = (
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
        "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
        "-algorithm RSA -pkeyopt rsa_keygen_bits:1024",
    );
    assert_eq!(problem(curve, strong, "sha256"), None);
    assert_eq!(problem(strong, curve, "sha256"), None);
    assert_eq!(problem(curve, weak, "sha256"), Some(CertificateProblem::WeakKey));
    assert_eq!(problem(weak, strong, "sha256"), Some(CertificateProblem::WeakKey));
    assert_eq!(problem(curve, strong, "sha1"), Some(CertificateProblem::WeakSignature));
    assert_eq!(problem(strong, strong, "sha1"), Some(CertificateProblem::WeakSignature));
}
