//! Real TLS over loopback against good and bad origins. The permit is tested by the compiler; these start behind it.
#![allow(clippy::unwrap_used, clippy::panic)]

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::authority::{Authority, date};
use crate::testing::{TestAuthority, TestLeaf, authority_params, days_from_now, leaf_params, private, serve_tls};
use crate::trust::{DestinationRoots, TrustSettings};

const HOST: &str = "origin.example";

struct Fixed(Vec<IpAddr>);

impl Resolver for Fixed {
    fn resolve<'a>(&'a self, _name: &'a str) -> ResolverFuture<'a> {
        Box::pin(async move { Ok(self.0.clone()) })
    }
}

fn settings(authority: &TestAuthority) -> TrustSettings {
    TrustSettings { roots: vec![authority.der.clone()], ..TrustSettings::default() }
}

fn connector(settings: TrustSettings) -> Connector {
    Connector {
        resolver: Arc::new(Fixed(vec![IpAddr::from([127, 0, 0, 1])])),
        trust: Arc::new(Trust::new(settings, SystemTime::now()).unwrap()),
        guard: DialGuard { danger_exempt: vec!["127.0.0.0/8".parse().unwrap()], ..DialGuard::default() },
        limits: ConnectLimits::default(),
    }
}

async fn visit(
    config: Arc<ServerConfig>,
    host: &str,
    obligations: Vec<Obligation>,
    connector: &Connector,
) -> Result<Upstream, Error> {
    let port = serve_tls(config).await.port();
    let destination = Destination::Upstream { host: host.into(), port, addresses: Vec::new() };
    open(destination, obligations, Security::Tls(Alpn::Http2AndHttp1), connector, b"").await
}

async fn problem(leaf: TestLeaf, host: &str, settings: TrustSettings) -> Option<CertificateProblem> {
    match visit(leaf.server_config(&[]), host, Vec::new(), &connector(settings)).await {
        Ok(_) => None,
        Err(Error::Certificate(problem)) => Some(problem),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_good_origin_is_reached_and_described() {
    let authority = TestAuthority::new("Good");
    let leaf = authority.leaf(&leaf_params(HOST));
    let digest: [u8; 32] = Sha256::digest(leaf.chain.first().unwrap()).into();
    let config = leaf.server_config(&[b"h2"]);
    let mut upstream = visit(config, HOST, vec![Obligation::Scan], &connector(settings(&authority))).await.unwrap();
    let tls = upstream.tls.clone().unwrap();
    assert_eq!(tls.alpn.as_deref(), Some(b"h2".as_slice()));
    assert_eq!(tls.version, UpstreamTlsVersion::Tls13);
    assert_eq!(tls.certificate_sha256, digest);
    assert_eq!(tls.passed_through, None);
    assert_eq!(upstream.obligations, [Obligation::Scan]);
    upstream.stream.write_all(b"?").await.unwrap();
    let mut answer = Vec::new();
    upstream.stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"ok");
}

#[tokio::test]
async fn origins_named_by_address_are_verified_by_address() {
    let authority = TestAuthority::new("Good");
    assert_eq!(problem(authority.leaf(&leaf_params("127.0.0.1")), "127.0.0.1", settings(&authority)).await, None);
    let named = authority.leaf(&leaf_params(HOST));
    assert_eq!(problem(named, "127.0.0.1", settings(&authority)).await, Some(CertificateProblem::WrongHost));
}

fn changed(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = leaf_params(HOST);
    change(&mut params);
    params
}

#[tokio::test]
async fn tl_10_bad_leaves_are_refused_with_their_reason() {
    let cases: Vec<(CertificateParams, CertificateProblem)> = vec![
        (
            changed(|leaf| {
                leaf.not_before = date(days_from_now(-9));
                leaf.not_after = date(days_from_now(-2));
            }),
            CertificateProblem::Expired,
        ),
        (changed(|leaf| leaf.not_before = date(days_from_now(2))), CertificateProblem::NotYetValid),
        (leaf_params("other.example"), CertificateProblem::WrongHost),
        (changed(|leaf| leaf.subject_alt_names.clear()), CertificateProblem::WrongHost),
        (changed(|leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]), CertificateProblem::WrongPurpose),
        (changed(|leaf| leaf.extended_key_usages.clear()), CertificateProblem::NoPurpose),
        (changed(|leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]), CertificateProblem::WrongPurpose),
        (changed(|leaf| leaf.key_usages.push(KeyUsagePurpose::KeyCertSign)), CertificateProblem::LeafSignsCertificates),
        (changed(|leaf| leaf.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)), CertificateProblem::AuthorityAsLeaf),
        (
            changed(|leaf| leaf.subject_alt_names.push(SanType::DnsName("*.co.uk".try_into().unwrap()))),
            CertificateProblem::PublicSuffixWildcard,
        ),
    ];
    let authority = TestAuthority::new("Good");
    for (params, expected) in cases {
        assert_eq!(problem(authority.leaf(&params), HOST, settings(&authority)).await, Some(expected));
    }
}

#[tokio::test]
async fn tl_10_bad_chains_are_refused_with_their_reason() {
    let authority = TestAuthority::new("Good");
    let stranger = TestAuthority::new("Stranger").leaf(&leaf_params(HOST));
    assert_eq!(problem(stranger, HOST, settings(&authority)).await, Some(CertificateProblem::UnknownIssuer));

    let key = KeyPair::generate().unwrap();
    let alone = leaf_params(HOST).self_signed(&key).unwrap();
    let alone = TestLeaf { chain: vec![alone.into()], key: private(&key) };
    assert_eq!(problem(alone, HOST, settings(&authority)).await, Some(CertificateProblem::SelfSigned));

    let impostor = TestAuthority::new("Good").leaf(&leaf_params(HOST));
    assert_eq!(problem(impostor, HOST, settings(&authority)).await, Some(CertificateProblem::BadSignature));
}

#[tokio::test]
async fn tl_10_a_leaf_that_signs_another_is_no_authority() {
    let authority = TestAuthority::new("Good");
    let middle_key = KeyPair::generate().unwrap();
    let middle = leaf_params("middle.example");
    let middle_der = authority.sign(&middle, &middle_key).into();
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = leaf_params(HOST).signed_by(&leaf_key, &rcgen::Issuer::new(middle, middle_key)).unwrap();
    let leaf = TestLeaf { chain: vec![leaf.into(), middle_der], key: private(&leaf_key) };
    assert_eq!(problem(leaf, HOST, settings(&authority)).await, Some(CertificateProblem::LeafAsAuthority));
}

#[tokio::test]
async fn the_end_of_a_root_is_honoured() {
    let ended = TestAuthority::from_params(authority_params("Ended", -100, -1));
    let leaf = ended.leaf(&leaf_params(HOST));
    assert_eq!(problem(leaf, HOST, settings(&ended)).await, Some(CertificateProblem::UnknownIssuer));
}

#[tokio::test]
async fn the_own_authority_never_vouches_for_an_upstream() {
    let directory = tempfile::tempdir().unwrap();
    let own = Arc::new(Authority::load_or_create(directory.path(), "Test", SystemTime::now()).unwrap());
    let minter = crate::mint::Minter::new(Arc::clone(&own)).unwrap();
    let host = LeafHost::parse(HOST).unwrap();
    let mint = || {
        let ceiling = crate::mint::VersionCeiling::Tls13;
        minter.server_config(&host, Alpn::Http2AndHttp1, ceiling, SystemTime::now()).unwrap()
    };
    // Even where the operator has put the own authority among the roots.
    let settings = |own: &Authority| TrustSettings {
        roots: vec![own.current().der, TestAuthority::new("Good").der],
        own_authorities: own.own_certificates(),
        own_leaf_key_sha256: None,
        ..TrustSettings::default()
    };
    let before = mint();
    own.rotate("Test", 365, SystemTime::now()).unwrap();
    own.activate(SystemTime::now()).unwrap();
    for config in [before, mint()] {
        let refused = visit(config, HOST, Vec::new(), &connector(settings(&own))).await.err().unwrap();
        assert!(matches!(refused, Error::Certificate(CertificateProblem::OwnAuthority)), "{refused:?}");
    }
}

#[tokio::test]
async fn cx_03_a_destinations_root_holds_there_and_nowhere_else() {
    let (common, private) = (TestAuthority::new("Common"), TestAuthority::new("Private"));
    let settings = || TrustSettings {
        roots: vec![common.der.clone()],
        destinations: vec![DestinationRoots { domain: "corp.example".into(), roots: vec![private.der.clone()] }],
        ..TrustSettings::default()
    };
    for (host, expected) in
        [("corp.example", None), ("git.corp.example", None), ("evilcorp.example", Some(CertificateProblem::UnknownIssuer))]
    {
        assert_eq!(problem(private.leaf(&leaf_params(host)), host, settings()).await, expected, "{host}");
        assert_eq!(problem(common.leaf(&leaf_params(host)), host, settings()).await, None, "{host}");
    }
}

#[tokio::test]
async fn a_revoked_leaf_is_refused_where_a_list_says_so() {
    let authority = TestAuthority::new("Good");
    let revoked = changed(|leaf| leaf.serial_number = Some(rcgen::SerialNumber::from(77u64)));
    let list = |until: i64| {
        let params = rcgen::CertificateRevocationListParams {
            this_update: date(days_from_now(-3)),
            next_update: date(days_from_now(until)),
            crl_number: rcgen::SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: vec![rcgen::RevokedCertParams {
                serial_number: rcgen::SerialNumber::from(77u64),
                revocation_time: date(days_from_now(-3)),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        vec![params.signed_by(&authority.issuer).unwrap().der().clone()]
    };
    let with = |until| TrustSettings { revocation_lists: list(until), ..settings(&authority) };
    assert_eq!(problem(authority.leaf(&revoked), HOST, with(3)).await, Some(CertificateProblem::Revoked));
    assert_eq!(problem(authority.leaf(&leaf_params(HOST)), HOST, with(3)).await, None);
    let stale = problem(authority.leaf(&leaf_params(HOST)), HOST, with(-1)).await;
    assert_eq!(stale, Some(CertificateProblem::RevocationListUnusable));
    assert_eq!(problem(authority.leaf(&revoked), HOST, settings(&authority)).await, None);
}

#[tokio::test]
async fn gw_031_pass_through_goes_on_and_reports() {
    let authority = TestAuthority::new("Good");
    let connector = connector(settings(&authority));
    let pass = || vec![Obligation::UntrustedCertificate { action: UntrustedCertificate::PassThrough }];
    let leaf = TestAuthority::new("Stranger").leaf(&leaf_params(HOST));
    let upstream = visit(leaf.server_config(&[]), HOST, pass(), &connector).await.unwrap();
    assert_eq!(upstream.tls.unwrap().passed_through, Some(CertificateProblem::UnknownIssuer));
    let leaf = authority.leaf(&leaf_params(HOST));
    let upstream = visit(leaf.server_config(&[]), HOST, pass(), &connector).await.unwrap();
    assert_eq!(upstream.tls.unwrap().passed_through, None);
    let leaf = TestAuthority::new("Stranger").leaf(&leaf_params(HOST));
    let error = vec![Obligation::UntrustedCertificate { action: UntrustedCertificate::Error }];
    assert!(visit(leaf.server_config(&[]), HOST, error, &connector).await.is_err());
}

#[tokio::test]
async fn sessions_are_resumed_with_one_kept_configuration() {
    let authority = TestAuthority::new("Good");
    let trust = Trust::new(settings(&authority), SystemTime::now()).unwrap();
    let get = |alpn, handling| trust.client_config(&LeafHost::parse(HOST).unwrap(), alpn, handling, SystemTime::now()).unwrap();
    let first = get(Alpn::Http1, CertificateHandling::Refuse);
    assert!(Arc::ptr_eq(&first, &get(Alpn::Http1, CertificateHandling::Refuse)));
    assert!(!Arc::ptr_eq(&first, &get(Alpn::Http1, CertificateHandling::DangerPassThrough)));
    assert!(!Arc::ptr_eq(&first, &get(Alpn::Http2, CertificateHandling::Refuse)));
}

#[tokio::test]
async fn loops_and_special_addresses_are_not_dialled() {
    let authority = TestAuthority::new("Good");
    let mut connector = connector(settings(&authority));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap();
    connector.guard.own_listeners.push(SocketAddr::from(([0, 0, 0, 0], own.port())));
    let destination = |addresses| Destination::Upstream { host: HOST.into(), port: own.port(), addresses };
    let refused = open(destination(Vec::new()), Vec::new(), Security::Plain, &connector, b"").await.err().unwrap();
    assert!(matches!(refused, Error::Dial { refusal: DialRefusal::OwnListener, .. }));
    // One forbidden address among good ones refuses the name.
    let mixed = vec![IpAddr::from([192, 0, 2, 1]), IpAddr::from([169, 254, 169, 254])];
    let refused = open(destination(mixed), Vec::new(), Security::Plain, &connector, b"").await.err().unwrap();
    assert!(matches!(refused, Error::Dial { refusal: DialRefusal::LinkLocal, .. }));
}

#[tokio::test]
async fn a_dead_address_gives_way_to_a_living_one() {
    let authority = TestAuthority::new("Good");
    let connector = connector(settings(&authority));
    let port = serve_tls(authority.leaf(&leaf_params(HOST)).server_config(&[])).await.port();
    // 127.0.0.2 refuses: the origin listens on 127.0.0.1 only.
    let addresses = vec![IpAddr::from([127, 0, 0, 2]), IpAddr::from([127, 0, 0, 1])];
    let destination = Destination::Upstream { host: HOST.into(), port, addresses };
    let upstream = open(destination, Vec::new(), Security::Tls(Alpn::None), &connector, b"").await.unwrap();
    assert_eq!(upstream.peer, SocketAddr::from(([127, 0, 0, 1], port)));
}

#[tokio::test]
async fn silence_ends_at_the_deadline_and_other_permits_open_nothing() {
    let authority = TestAuthority::new("Good");
    let mut connector = connector(settings(&authority));
    connector.limits.deadline = Duration::from_millis(50);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let destination = Destination::Upstream { host: HOST.into(), port, addresses: Vec::new() };
    let late = open(destination, Vec::new(), Security::Tls(Alpn::None), &connector, b"").await;
    assert!(matches!(late, Err(Error::Deadline)));
    let client = open(Destination::Client, Vec::new(), Security::Plain, &connector, b"").await;
    assert!(matches!(client, Err(Error::PermitPurpose)));
}
