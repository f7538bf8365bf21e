//! The x509-limbo suite (C2SP, Apache-2.0) against the upstream verifier. Where it believes a chain that the suite would
//! refuse, or the other way round, the case must stand in `limbo-known.txt` with a reason, and nothing else may stand
//! there. Needs the suite at `$SEKISHO_SHARED_DATA/tls/limbo.json`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use net::mint::LeafHost;
use net::trust::{Trust, TrustSettings};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use serde::Deserialize;

/// Cases without their own time are checked at this one, 2026-06-01.
const DEFAULT_TIME_SECONDS: u64 = 1_780_272_000;
/// Chains that we believe and the suite does not; each stands in `limbo-known.txt`. This number may only fall.
const OVER_ACCEPTANCES: usize = 37;

#[derive(Deserialize)]
struct Suite {
    testcases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    id: String,
    features: Vec<String>,
    validation_kind: String,
    trusted_certs: Vec<String>,
    untrusted_intermediates: Vec<String>,
    peer_certificate: String,
    validation_time: Option<String>,
    expected_result: String,
    expected_peer_name: Option<PeerName>,
    max_chain_depth: Option<u32>,
    crls: Vec<String>,
}

#[derive(Deserialize)]
struct PeerName {
    kind: String,
    value: String,
}

#[test]
fn limbo_differs_only_where_known() {
    let Some(folder) = std::env::var_os("SEKISHO_SHARED_DATA") else {
        println!("skipped: SEKISHO_SHARED_DATA is not set");
        return;
    };
    let path = PathBuf::from(folder).join("tls/limbo.json");
    let suite: Suite = serde_json::from_slice(&std::fs::read(&path).expect("the suite")).expect("its schema");
    let mut differences = BTreeMap::new();
    let (mut applicable, mut accepted_wrongly, mut refused_wrongly) = (0, 0, 0);
    for case in suite.testcases.iter().filter(|case| is_applicable(case)) {
        applicable += 1;
        let refusal = judge(case);
        match (case.expected_result.as_str(), &refusal) {
            ("SUCCESS", Some(reason)) => {
                refused_wrongly += 1;
                differences.insert(case.id.clone(), format!("refused {reason}"));
            }
            ("FAILURE", None) => {
                accepted_wrongly += 1;
                differences.insert(case.id.clone(), "accepted".to_owned());
            }
            _ => {}
        }
    }
    println!("{applicable} applicable, {accepted_wrongly} accepted wrongly, {refused_wrongly} refused wrongly");
    let known = known_differences();
    let found: Vec<(&String, &String)> = differences.iter().collect();
    let expected: Vec<(&String, &String)> = known.iter().collect();
    for (id, outcome) in &found {
        if known.get(*id) != Some(*outcome) {
            println!("not known: {id} | {outcome}");
        }
    }
    assert_eq!(found, expected);
    assert_eq!(accepted_wrongly, OVER_ACCEPTANCES);
}

/// A server's certificate for one name, with the default path length.
fn is_applicable(case: &Case) -> bool {
    case.validation_kind == "SERVER"
        && case.expected_peer_name.is_some()
        && case.max_chain_depth.is_none()
        && !case.features.iter().any(|feature| feature == "max-chain-depth")
}

/// The reason for a refusal, or None where the chain is believed.
fn judge(case: &Case) -> Option<String> {
    let now = case_time(case);
    let name = case.expected_peer_name.as_ref()?;
    assert!(matches!(name.kind.as_str(), "DNS" | "IP"));
    let Ok(host) = LeafHost::parse(&name.value) else { return Some("host".to_owned()) };
    let Some(roots) = certificates(&case.trusted_certs) else { return Some("root".to_owned()) };
    let lists = case.crls.iter().map(|pem| CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap());
    let settings = TrustSettings { roots, revocation_lists: lists.collect(), ..TrustSettings::default() };
    let Ok(trust) = Trust::new(settings, now) else { return Some("settings".to_owned()) };
    let Some(intermediates) = certificates(&case.untrusted_intermediates) else { return Some("pem".to_owned()) };
    let Ok(leaf) = CertificateDer::from_pem_slice(case.peer_certificate.as_bytes()) else {
        return Some("pem".to_owned());
    };
    let unix = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap());
    let verifier = trust.verifier(&host, now).unwrap();
    let problem = verifier.problem(&leaf, &intermediates, &host.server_name().unwrap(), unix);
    problem.map(|problem| problem.as_str().to_owned())
}

fn certificates(pems: &[String]) -> Option<Vec<CertificateDer<'static>>> {
    pems.iter().map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).ok()).collect()
}

/// `2024-01-01T00:00:00+00:00`, always in UTC in this suite.
fn case_time(case: &Case) -> SystemTime {
    let Some(text) = &case.validation_time else { return UNIX_EPOCH + Duration::from_secs(DEFAULT_TIME_SECONDS) };
    assert!(text.ends_with("+00:00") || text.ends_with('Z'), "{text}");
    let number = |from: usize, to: usize| text.get(from..to).unwrap().parse::<u8>().unwrap();
    let year = text.get(0..4).unwrap().parse::<i32>().unwrap();
    let month = time::Month::try_from(number(5, 7)).unwrap();
    let date = time::Date::from_calendar_date(year, month, number(8, 10)).unwrap();
    let clock = time::Time::from_hms(number(11, 13), number(14, 16), number(17, 19)).unwrap();
    date.with_time(clock).assume_utc().into()
}

/// Lines of `id | outcome | reason`.
fn known_differences() -> BTreeMap<String, String> {
    let lines = include_str!("limbo-known.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parse = |line: &str| {
        let parts: Vec<&str> = line.split(" | ").collect();
        let [id, outcome, reason] = parts.as_slice() else { panic!("malformed line: {line}") };
        assert!(!reason.trim().is_empty(), "no reason for {id}");
        ((*id).to_owned(), (*outcome).to_owned())
    };
    lines.map(parse).collect()
}
