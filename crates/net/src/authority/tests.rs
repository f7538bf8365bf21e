#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

fn after_days(days: u64) -> SystemTime {
    now() + Duration::from_secs(days * 86_400)
}

#[test]
fn the_key_file_is_private_and_one_that_is_not_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let inside = directory.path().join("authority");
    Authority::load_or_create(&inside, "Test", now()).unwrap();
    let path = inside.join(CURRENT_FILE);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&inside).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(!fs::read_to_string(inside.join(PUBLIC_FILE)).unwrap().contains("PRIVATE"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let refused = Authority::load_or_create(&inside, "Test", now()).err().unwrap();
    assert!(matches!(refused, Error::AuthorityExposed { mode: 0o640, .. }));
}

#[test]
fn a_second_start_finds_the_same_authority_and_a_second_installation_another() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let made = Authority::load_or_create(first.path(), "Test", now()).unwrap().current();
    let found = Authority::load_or_create(first.path(), "Other", after_days(10)).unwrap().current();
    let other = Authority::load_or_create(second.path(), "Test", now()).unwrap().current();
    assert_eq!(made.fingerprint, found.fingerprint);
    assert_ne!(made.public_key_sha256, other.public_key_sha256);
    assert_ne!(made.common_name, other.common_name);
}

#[test]
fn tl_07_validity_defaults_to_1825_days_and_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::load_or_create(directory.path(), &"long ".repeat(40), now()).unwrap();
    assert_eq!(authority.current().not_after, after_days(1825));
    assert!(authority.current().common_name.chars().count() <= COMMON_NAME_CHARACTERS_MAX);
    for days in [0, VALIDITY_DAYS_MAX + 1] {
        assert!(matches!(authority.rotate("Test", days, now()), Err(Error::AuthorityValidity { .. })));
    }
}

#[test]
fn the_certificate_may_sign_certificates_and_revocation_lists_only() {
    let directory = tempfile::tempdir().unwrap();
    let current = Authority::load_or_create(directory.path(), "Test", now()).unwrap().current();
    let (_, parsed) = x509_parser::parse_x509_certificate(&current.der).unwrap();
    let usage = parsed.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
    assert!(parsed.is_ca());
    assert_eq!(pem_certificate(&current.der).as_str(), &*current.pem);
    assert_eq!(CertificateDer::from_pem_slice(current.pem.as_bytes()).unwrap(), current.der);
}

#[test]
fn tl_07_rotation_keeps_two_and_remembers_the_retired() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::load_or_create(directory.path(), "Test", now()).unwrap();
    assert!(matches!(authority.activate(now()), Err(Error::NoNextAuthority)));
    let before = authority.current();
    let next = authority.rotate("Test", 365, now()).unwrap();
    assert_eq!(authority.current().fingerprint, before.fingerprint);
    let reloaded = Authority::load_or_create(directory.path(), "Test", now()).unwrap();
    assert_eq!(reloaded.next().unwrap().fingerprint, next.fingerprint);
    assert_eq!(authority.activate(now()).unwrap().fingerprint, next.fingerprint);
    let reloaded = Authority::load_or_create(directory.path(), "Test", now()).unwrap();
    for view in [&authority, &reloaded] {
        assert!(view.next().is_none());
        assert_eq!(view.current().fingerprint, next.fingerprint);
        let own: Vec<_> = view.own_certificates().iter().map(|own| own.fingerprint).collect();
        assert_eq!(own, [next.fingerprint, before.fingerprint]);
    }
    assert_eq!(fs::read_to_string(authority.public_path()).unwrap().as_str(), &*next.pem);
}

/// Two processes, as `ca rotate` beside a running gate: both certificates are handed out in between, and the gate signs with
/// the new one without a restart.
#[test]
fn tl_07_a_running_authority_takes_what_another_process_made() {
    let directory = tempfile::tempdir().unwrap();
    let running = Authority::load_or_create(directory.path(), "Test", now()).unwrap();
    let command = Authority::load_or_create(directory.path(), "Test", now()).unwrap();
    let before = running.current();
    let next = command.rotate("Test", 365, now()).unwrap();
    assert!(!running.publish(running.read_again().unwrap()));
    assert_eq!(running.next().unwrap().fingerprint, next.fingerprint);
    let both = format!("{}{}", before.pem, next.pem);
    assert_eq!(running.trust_pem(), both);
    assert_eq!(fs::read_to_string(running.public_path()).unwrap(), both);
    command.activate(now()).unwrap();
    let reading = running.read_again().unwrap();
    assert_eq!(running.current().fingerprint, before.fingerprint, "what was read is not in use");
    assert_eq!(reading.own_certificates()[0].fingerprint, next.fingerprint);
    assert!(running.publish(reading));
    assert_eq!(running.current().fingerprint, next.fingerprint);
    assert_eq!(running.own_certificates().len(), 2);
    write_private(&directory.path().join(CURRENT_FILE), b"rubbish").unwrap();
    assert!(running.read_again().is_err());
    assert_eq!(running.current().fingerprint, next.fingerprint, "a bad file leaves the earlier one in place");
}

#[test]
fn tl_08_one_that_ends_within_30_days_is_not_activated() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::load_or_create(directory.path(), "Test", now()).unwrap();
    let before = authority.current();
    authority.rotate("Test", 29, now()).unwrap();
    assert!(matches!(authority.activate(now()), Err(Error::AuthorityEndsSoon { days: 29 })));
    assert_eq!(authority.current().fingerprint, before.fingerprint);
    authority.rotate("Test", 30, now()).unwrap();
    authority.activate(now()).unwrap();
}

#[test]
fn tl_08_notices_come_at_90_30_7_and_1_days() {
    let end = after_days(1000);
    let at = |days: u64| expiry_notice(end, after_days(1000 - days));
    assert_eq!(at(91), None);
    assert_eq!(at(90), Some(ExpiryNotice::Days90));
    assert_eq!(at(31), Some(ExpiryNotice::Days90));
    assert_eq!(at(30), Some(ExpiryNotice::Days30));
    assert_eq!(at(7), Some(ExpiryNotice::Days7));
    assert_eq!(at(1), Some(ExpiryNotice::Days1));
    assert_eq!(at(0), Some(ExpiryNotice::Ended));
    assert_eq!(expiry_notice(UNIX_EPOCH, now()), Some(ExpiryNotice::Ended));
}

#[test]
fn a_bundle_with_a_foreign_key_or_rubbish_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::load_or_create(directory.path(), "Test", now()).unwrap();
    let path = directory.path().join(CURRENT_FILE);
    let foreign = KeyPair::generate().unwrap();
    write_private(&path, format!("{}{}", authority.current().pem, foreign.serialize_pem()).as_bytes()).unwrap();
    let reload = || Authority::load_or_create(directory.path(), "Test", now()).err().unwrap();
    assert!(matches!(reload(), Error::AuthorityKeyMismatch { .. }));
    write_private(&path, b"rubbish").unwrap();
    assert!(matches!(reload(), Error::AuthorityMalformed { .. }));
}
