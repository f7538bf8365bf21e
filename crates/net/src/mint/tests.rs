#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ClientConnection;
use rustls::ServerConnection;

use super::*;
use crate::trust::{CertificateHandling, Trust, TrustSettings};

struct Bench {
    _directory: tempfile::TempDir,
    authority: Arc<Authority>,
    minter: Minter,
}

fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let authority = Arc::new(Authority::load_or_create(directory.path(), "Test", SystemTime::now()).unwrap());
    let minter = Minter::new(Arc::clone(&authority)).unwrap();
    Bench { _directory: directory, authority, minter }
}

impl Bench {
    fn config(&self, host: &str, alpn: Alpn, ceiling: VersionCeiling) -> Arc<ServerConfig> {
        self.minter.server_config(&LeafHost::parse(host).unwrap(), alpn, ceiling, SystemTime::now()).unwrap()
    }
}

/// A whole handshake in memory; returns the client that has verified the leaf like any upstream's.
fn handshake(root: &crate::authority::AuthorityCertificate, host: &str, server: Arc<ServerConfig>) -> ClientConnection {
    let settings = TrustSettings { roots: vec![root.der.clone()], ..TrustSettings::default() };
    let trust = Trust::new(settings, SystemTime::now()).unwrap();
    let host = LeafHost::parse(host).unwrap();
    let config = trust.client_config(&host, Alpn::Http2AndHttp1, CertificateHandling::Refuse, SystemTime::now());
    let mut client = ClientConnection::new(config.unwrap(), host.server_name().unwrap()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    for _ in 0..6 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        if !wire.is_empty() {
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    assert!(!client.is_handshaking());
    client
}

#[test]
fn a_minted_leaf_passes_our_own_strict_verifier() {
    let bench = bench();
    for host in ["www.example.com", "192.0.2.7", "2001:db8::7", "xn--bcher-kva.example"] {
        let server = bench.config(host, Alpn::Http2AndHttp1, VersionCeiling::Tls13);
        let client = handshake(&bench.authority.current(), host, server);
        assert_eq!(client.alpn_protocol(), Some(b"h2".as_slice()), "{host}");
        assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    }
}

#[test]
fn the_ceiling_holds_the_client_leg_at_the_upstreams_version() {
    let bench = bench();
    let server = bench.config("www.example.com", Alpn::Http1, VersionCeiling::Tls12);
    let client = handshake(&bench.authority.current(), "www.example.com", server);
    assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
    assert_eq!(client.alpn_protocol(), Some(b"http/1.1".as_slice()));
}

#[test]
fn the_leaf_says_what_it_is_for_and_no_more() {
    let bench = bench();
    let long = format!("{}.{}.example.com", "a".repeat(60), "b".repeat(60));
    for host in ["www.example.com", long.as_str()] {
        let server = bench.config(host, Alpn::Http1, VersionCeiling::Tls13);
        let client = handshake(&bench.authority.current(), host, server);
        let leaf = client.peer_certificates().unwrap().first().unwrap().clone();
        let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
        let name = leaf.subject().iter_common_name().next().unwrap().as_str().unwrap();
        assert!(name.chars().count() <= COMMON_NAME_CHARACTERS_MAX);
        let purpose = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(purpose.server_auth && !purpose.client_auth && !purpose.any);
        assert!(!leaf.is_ca());
        let has_authority_key = leaf.extensions().iter().any(|extension| {
            matches!(
                extension.parsed_extension(),
                x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(id) if id.key_identifier.is_some()
            )
        });
        assert!(has_authority_key);
        let days = (leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp()) / 86_400;
        assert_eq!(days, 15);
    }
}

#[test]
fn one_host_is_minted_once_and_every_difference_separately() {
    let bench = bench();
    let first = bench.config("www.example.com", Alpn::Http1, VersionCeiling::Tls13);
    let same = bench.config("WWW.example.com.", Alpn::Http1, VersionCeiling::Tls13);
    assert!(Arc::ptr_eq(&first, &same));
    for (host, alpn, ceiling) in [
        ("example.com", Alpn::Http1, VersionCeiling::Tls13),
        ("www.example.com", Alpn::Http2AndHttp1, VersionCeiling::Tls13),
        ("www.example.com", Alpn::Http1, VersionCeiling::Tls12),
    ] {
        assert!(!Arc::ptr_eq(&first, &bench.config(host, alpn, ceiling)));
    }
}

#[test]
fn concurrent_callers_share_one_minting() {
    let bench = bench();
    let distinct = AtomicUsize::new(0);
    let first = bench.config("busy.example.com", Alpn::Http1, VersionCeiling::Tls13);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let config = bench.config("busy.example.com", Alpn::Http1, VersionCeiling::Tls13);
                distinct.fetch_add(usize::from(!Arc::ptr_eq(&config, &first)), Ordering::Relaxed);
            });
        }
    });
    assert_eq!(distinct.into_inner(), 0);
}

#[test]
fn tl_07_activation_changes_the_issuer_of_the_next_handshake() {
    let bench = bench();
    let before = bench.config("www.example.com", Alpn::Http1, VersionCeiling::Tls13);
    let next = bench.authority.rotate("Test", 365, SystemTime::now()).unwrap();
    assert!(Arc::ptr_eq(&before, &bench.config("www.example.com", Alpn::Http1, VersionCeiling::Tls13)));
    bench.authority.activate(SystemTime::now()).unwrap();
    let after = bench.config("www.example.com", Alpn::Http1, VersionCeiling::Tls13);
    handshake(&next, "www.example.com", after);
}

#[test]
fn hosts_that_tls_cannot_name_are_refused() {
    for host in ["", ".", "*.example.com", "a b", "exa\0mple.com", "-", "[::1", &"a".repeat(300)] {
        assert!(LeafHost::parse(host).is_err(), "{host:?}");
    }
    assert_eq!(LeafHost::parse("[2001:db8::1]").unwrap(), LeafHost::Address("2001:db8::1".parse().unwrap()));
}
