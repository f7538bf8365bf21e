//! Validation over the whole gate: a signed world on loopback, with its own root, in every state that RFC 4033 section 5
//! names, and the reasons of RFC 8914 for what does not verify.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod rig;

use std::io::Write;
use std::sync::{Arc, Mutex};

use gate_dns::{DnsGateSpec, DnssecMode};
use hickory_proto::op::{Edns, Message};
use hickory_proto::rr::RecordType::{self, A, MX, RRSIG, TXT};
use model::FieldId;
use rig::signed::World;
use rig::{Manner, Rig, Upstream, plain_query, shown, spec};

struct Signed {
    rig: Rig,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Signed {
    async fn start(policy: &str, change: impl FnOnce(&mut DnsGateSpec)) -> Signed {
        let world = World::new();
        let mut anchor = tempfile::NamedTempFile::new().unwrap();
        anchor.write_all(world.anchor().as_bytes()).unwrap();
        let (address, asked) = world.serve().await;
        let unused = Upstream::start(Manner::Silent).await;
        let mut spec = DnsGateSpec {
            upstreams: vec![address.to_string()],
            dnssec: DnssecMode::Validate,
            dnssec_trust_anchor_file: Some(anchor.path().to_owned()),
            ..spec(&unused)
        };
        change(&mut spec);
        Signed { rig: Rig::with(policy, unused, spec, None).await, asked }
    }

    /// A client that understands signatures: DO set, CD as told.
    async fn ask(&self, host: &str, kind: RecordType, unchecked: bool) -> Message {
        let mut message = plain_query(host, kind);
        let mut edns = Edns::new();
        edns.set_max_payload(1232).set_dnssec_ok(true);
        message.set_edns(edns);
        message.metadata.checking_disabled = unchecked;
        self.rig.udp(&message.to_vec().unwrap()).await.unwrap()
    }

    async fn shown(&self, host: &str, kind: RecordType) -> String {
        let mut message = self.ask(host, kind, false).await;
        message.answers.retain(|record| record.record_type() != RRSIG && record.record_type() != RecordType::DNAME);
        format!("{}{}", shown(&message), if message.metadata.authentic_data { " ad" } else { "" })
    }
}

/// RFC 4035 section 4.3: secure, insecure and bogus, by every way of denial and along every kind of alias.
#[tokio::test]
async fn every_state_of_a_zone_is_told_apart() {
    let world = Signed::start("", |_| {}).await;
    for (host, kind, expected) in [
        ("www.signed.example", A, "NoError [192.0.2.1] ad"),
        ("WWW.Signed.Example", A, "NoError [192.0.2.1] ad"),
        ("www.signed.example", MX, "NoError [] +soa ad"),
        ("missing.signed.example", A, "NXDomain [] +soa ad"),
        ("wild.signed.example", A, "NoError [] +soa ad"),
        ("a.wild.signed.example", A, "NoError [192.0.2.1] +soa ad"),
        ("a.b.wild.signed.example", A, "NoError [192.0.2.1] +soa ad"),
        ("a.wild.signed.example", MX, "NoError [] +soa ad"),
        ("uncovered.wild.signed.example", A, "ServFail [] ede12"),
        ("a.elsewhere.signed.example", A, "NoError [www.signed.example 192.0.2.1] +soa ad"),
        ("www.old.signed.example", A, "NoError [www.new.signed.example 192.0.2.1] ad"),
        ("alias.signed.example", A, "NoError [www.plain.example 192.0.2.1]"),
        ("alias2.signed.example", A, "NoError [www.hashed.example 192.0.2.1] ad"),
        ("lost.signed.example", A, "NXDomain [missing.hashed.example] +soa"),
        ("www.plain.example", A, "NoError [192.0.2.1]"),
        ("www.plain.example", MX, "NoError [] +soa"),
        ("missing.plain.example", A, "NXDomain [] +soa"),
        ("www.hashed.example", A, "NoError [192.0.2.1] ad"),
        ("www.hashed.example", TXT, "NoError [] +soa ad"),
        // RFC 5155 section 9.2: a denial with opt-out does not exclude an unsigned delegation.
        ("missing.hashed.example", A, "NXDomain [] +soa"),
        ("www.open.hashed.example", A, "NoError [192.0.2.1]"),
        ("missing.open.hashed.example", A, "NXDomain [] +soa"),
        ("www.closed.example", A, "NoError [192.0.2.1] ad"),
        ("anything.closed.example", A, "NoError [192.0.2.1] +soa ad"),
        ("anything.closed.example", MX, "NoError [] +soa ad"),
        // RFC 9276 section 3.2.
        ("www.many.example", A, "NoError [192.0.2.1] ad"),
        ("missing.many.example", A, "NXDomain [] +soa ede27"),
        ("missing.excess.example", A, "ServFail [] ede6"),
    ] {
        assert_eq!(world.shown(host, kind).await, expected, "{host} {kind}");
    }
}

/// RFC 8914 sections 4.7 to 4.13: each reason by its code, in the answer and in the record.
#[tokio::test]
async fn what_does_not_verify_is_a_servfail_with_its_reason() {
    let world = Signed::start("", |_| {}).await;
    for (host, code) in [
        ("tampered.signed.example", 6),
        ("expired.signed.example", 7),
        ("early.signed.example", 8),
        ("stranger.signed.example", 9),
        ("www.broken.example", 9),
        ("www.stripped.example", 10),
        ("unsigned.signed.example", 10),
        ("nodenial.signed.example", 12),
    ] {
        assert_eq!(world.shown(host, A).await, format!("ServFail [] ede{code}"), "{host}");
        assert_eq!(world.rig.last(FieldId::Failure).as_deref(), Some("dnssec_bogus"));
        assert_eq!(world.rig.last(FieldId::DnsExtendedErrors), Some(code.to_string()));
    }
    // An unsigned name whose alias leads to a signed one is as good as its weakest part.
    assert_eq!(world.shown("forged.plain.example", A).await, "NoError [www.signed.example 192.0.2.1]");
}

/// Signatures go to those who ask for them (RFC 4035 section 3.2.1), the mark to those who understand it (RFC 6840
/// section 5.7), and a client that checks by itself gets what it checks (section 5.9).
#[tokio::test]
async fn the_bits_of_the_client_are_respected() {
    let world = Signed::start("", |_| {}).await;
    let plain = world.rig.udp(&plain_query("www.signed.example", A).to_vec().unwrap()).await.unwrap();
    assert_eq!((plain.answers.len(), plain.metadata.authentic_data), (1, false));
    let mut aware = plain_query("www.signed.example", A);
    aware.metadata.authentic_data = true;
    let aware = world.rig.udp(&aware.to_vec().unwrap()).await.unwrap();
    assert_eq!((aware.answers.len(), aware.metadata.authentic_data), (1, true));
    let full = world.ask("www.signed.example", A, false).await;
    assert_eq!((full.answers.len(), full.metadata.authentic_data), (2, true));
    let substituted = world.ask("www.old.signed.example", A, false).await;
    let kinds: Vec<_> = substituted.answers.iter().map(|record| record.record_type()).collect();
    assert_eq!(kinds, [RecordType::DNAME, RRSIG, RecordType::CNAME, A, RRSIG]);
    let unchecked = world.ask("tampered.signed.example", A, true).await;
    assert_eq!((unchecked.answers.len(), unchecked.metadata.authentic_data), (2, false));
    assert!(unchecked.metadata.checking_disabled);
    assert_eq!(world.shown("tampered.signed.example", A).await, "ServFail [] ede6");
}

/// GW-032 and AC-01: a rule, or the settings, take a name out.
#[tokio::test]
async fn a_rule_or_a_setting_accepts_what_does_not_verify() {
    let policy = r#"
        [[rule]]
        name = "broken zone"
        gate = "dns"
        action = "allow"
        when = 'dns.fqdn == "tampered.signed.example"'
        settings = { insecure_disable_dnssec_validation = true }
    "#;
    let world = Signed::start(policy, |spec| spec.dnssec_danger_exempt = vec!["broken.example".to_owned()]).await;
    assert_eq!(world.shown("tampered.signed.example", A).await, "NoError [203.0.113.66]");
    assert_eq!(world.shown("www.broken.example", A).await, "NoError [192.0.2.1]");
    assert_eq!(world.shown("expired.signed.example", A).await, "ServFail [] ede7");
    let off = Signed::start("", |spec| spec.dnssec = DnssecMode::Off).await;
    assert_eq!(off.shown("tampered.signed.example", A).await, "NoError [203.0.113.66]");
}

/// Keys and delegations are asked for once for all names below them.
#[tokio::test]
async fn the_way_to_the_root_is_remembered() {
    let world = Signed::start("", |_| {}).await;
    world.shown("www.signed.example", A).await;
    let first = world.asked.lock().unwrap().clone();
    for needed in ["DNSKEY .", "DS example.", "DNSKEY example.", "DS signed.example.", "DNSKEY signed.example."] {
        assert_eq!(first.iter().filter(|line| *line == needed).count(), 1, "{needed} in {first:?}");
    }
    world.shown("www.new.signed.example", A).await;
    assert_eq!(world.asked.lock().unwrap()[first.len()..], ["A www.new.signed.example."]);
}

/// A settings file that names no key is refused at the start.
#[test]
fn a_trust_anchor_file_that_cannot_be_read_is_an_error() {
    let spec = DnsGateSpec { dnssec_trust_anchor_file: Some("/nowhere".into()), ..DnsGateSpec::default() };
    assert!(matches!(gate_dns::DnsGateConfig::resolve(spec), Err(gate_dns::Error::TrustAnchors { .. })));
}
