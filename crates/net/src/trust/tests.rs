#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;

#[test]
fn every_problem_has_its_own_spelling() {
    let spellings: HashSet<&str> = CertificateProblem::ALL.iter().map(|problem| problem.as_str()).collect();
    assert_eq!(spellings.len(), CertificateProblem::ALL.len());
    assert!(spellings.iter().all(|text| text.chars().all(|c| c.is_ascii_lowercase() || c == '_')));
}

#[test]
fn known_key_digests_are_well_formed_and_distinct() {
    let digests: HashSet<_> = KNOWN_KEY_AUTHORITIES.iter().map(|(_, digest)| parse_digest(digest).unwrap()).collect();
    assert_eq!(digests.len(), KNOWN_KEY_AUTHORITIES.len());
}

#[test]
fn the_built_in_roots_load_and_hold_no_known_key() {
    let now = SystemTime::now();
    let settings = TrustSettings { roots: mozilla_roots(), ..TrustSettings::default() };
    let trust = Trust::new(settings, now).unwrap();
    assert!(trust.built.load().valid_until > unix_seconds(now));
    for root in mozilla_roots() {
        let (_, parsed) = x509_parser::parse_x509_certificate(&root).unwrap();
        assert_eq!(trust.built.load().distrusted.problem_of_key(parsed.public_key().raw), None);
    }
}

#[test]
fn roots_are_dropped_when_they_end_and_taken_when_they_begin() {
    let soon = crate::testing::TestAuthority::from_params(crate::testing::authority_params("Soon", 5, 10));
    let settings = TrustSettings { roots: vec![soon.der.clone()], ..TrustSettings::default() };
    let trust = Trust::new(settings, SystemTime::now()).unwrap();
    let believed = |days: i64| {
        let built = trust.built(crate::testing::days_from_now(days)).unwrap();
        built.verifier(0).unwrap().has_roots()
    };
    assert_eq!([believed(0), believed(6), believed(11)], [false, true, false]);
}

#[test]
fn rubbish_roots_are_refused_at_the_start() {
    let settings = TrustSettings { roots: vec![CertificateDer::from(vec![1, 2, 3])], ..TrustSettings::default() };
    assert!(matches!(Trust::new(settings, SystemTime::now()), Err(Error::TrustSettings { .. })));
}

#[test]
fn an_authority_whose_key_is_public_is_refused_even_as_a_configured_root() {
    let authority = crate::testing::TestAuthority::new("Known");
    let leaf = authority.leaf(&crate::testing::leaf_params("origin.example"));
    let now = SystemTime::now();
    let (_, parsed) = x509_parser::parse_x509_certificate(&authority.der).unwrap();
    let mut distrusted = Distrusted::default();
    let settings = TrustSettings { roots: vec![authority.der.clone()], ..TrustSettings::default() };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let problem = |distrusted: Distrusted, chain: &[CertificateDer<'static>]| {
        let built = Built::new(Arc::new(settings.clone()), &provider, Arc::new(distrusted), now).unwrap();
        let name = LeafHost::parse("origin.example").unwrap().server_name().unwrap();
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let (leaf, intermediates) = chain.split_first().unwrap();
        let unix = rustls_pki_types::UnixTime::since_unix_epoch(since);
        built.verifier(0).unwrap().problem(leaf, intermediates, &name, unix)
    };
    assert_eq!(problem(Distrusted::default(), &leaf.chain), None);
    distrusted.known_keys.insert(Sha256::digest(parsed.public_key().raw).into());
    let known_keys = distrusted.known_keys.clone();
    assert_eq!(problem(distrusted, &leaf.chain), Some(CertificateProblem::UnknownIssuer));
    let whole = [leaf.chain, vec![authority.der.clone()]].concat();
    let distrusted = Distrusted { known_keys, ..Distrusted::default() };
    assert_eq!(problem(distrusted, &whole), Some(CertificateProblem::KnownKey));
}

/// TL-07: an authority made while the program runs is never believed upstream from then on, and revocation lists can be
/// taken without a restart. Settings that cannot be used leave the earlier ones in place.
#[test]
fn settings_are_taken_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let own = crate::authority::Authority::load_or_create(directory.path(), "Test", SystemTime::now()).unwrap();
    let trust = Trust::new(TrustSettings::default(), SystemTime::now()).unwrap();
    let key = own.current().public_key_sha256;
    let is_own = |trust: &Trust| trust.built.load().distrusted.own_keys.contains(&key);
    assert!(!is_own(&trust));
    let settings = TrustSettings { own_authorities: own.own_certificates(), ..TrustSettings::default() };
    trust.publish(trust.prepare(settings, SystemTime::now()).unwrap());
    assert!(is_own(&trust));
    let broken = TrustSettings { roots: vec![CertificateDer::from(vec![0])], ..TrustSettings::default() };
    assert!(trust.prepare(broken, SystemTime::now()).is_err());
    assert!(is_own(&trust));
}
