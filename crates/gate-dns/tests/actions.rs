//! The actions of features.md 1.4 that concern DNS, asked of the whole gate over loopback: AC-01 to AC-07 by record type
//! (AT-04), and what the final event says of each.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod rig;

use checkpoint::testing::Harness;
use hickory_proto::op::Edns;
use hickory_proto::rr::RecordType::{self, A, AAAA, ANY, CNAME, HTTPS, MX, TXT};
use hickory_proto::rr::rdata::opt::EdnsOption;
use model::FieldId;
use rig::{Manner, Rig, Upstream, extended_errors, query, shown, spec};

const POLICY: &str = r#"
[[rule]]
name = "bad names"
gate = "dns"
action = "block"
when = 'any(dns.domains[*] == "bad.example")'
settings = { block_reason = "known bad" }

[[rule]]
name = "bad addresses"
gate = "dns"
action = "block"
when = 'any(dns.resolved_ips[*] == 192.0.2.66)'

[[rule]]
name = "trackers behind aliases"
gate = "dns"
action = "block"
when = 'any(dns.response.cname[*] == "tracker.example.net")'

[[rule]]
name = "portal"
gate = "dns"
action = "override"
when = 'dns.fqdn == "portal.example"'
settings = { override_ips = ["192.0.2.10", "2001:db8::10"] }

[[rule]]
name = "moved"
gate = "dns"
action = "override"
when = 'dns.fqdn == "old.example"'
settings = { override_host = "www.example.com" }

[[rule]]
name = "safe"
gate = "dns"
action = "safesearch"
when = 'any(dns.domains[*] in {"google.com" "google.co.jp"})'

[[rule]]
name = "restricted"
gate = "dns"
action = "ytrestricted"
when = 'any(dns.domains[*] == "youtube.com")'
"#;

/// One question, what the client sees, and what the record says: outcome, rule, decision.
async fn check(rig: &Rig, cases: &[(&str, RecordType, &str, &str)]) {
    for (host, kind, answer, recorded) in cases {
        let before = rig.events().len();
        assert_eq!(shown(&rig.ask(host, *kind).await), *answer, "{host} {kind}");
        assert_eq!(rig.events().len(), before + 1, "{host} {kind}: one final event");
        let fact = |field| rig.last(field).unwrap_or_default();
        let seen = [fact(FieldId::VerdictOutcome), fact(FieldId::VerdictRule), fact(FieldId::DnsDecision)].join("/");
        assert_eq!(seen, *recorded, "{host} {kind}");
    }
}

#[tokio::test]
async fn ac_01_what_no_rule_concerns_is_answered_by_the_upstream() {
    let rig = Rig::start(POLICY).await;
    check(
        &rig,
        &[
            ("www.example.com", A, "NoError [192.0.2.1]", "allowed//allowedOnNoPolicyMatch"),
            ("www.example.com", AAAA, "NoError [2001:db8::1]", "allowed//allowedOnNoPolicyMatch"),
            ("www.example.com", TXT, "NoError [hello]", "allowed//allowedOnNoPolicyMatch"),
            ("www.example.com", MX, "NoError [10 mail.example.com]", "allowed//allowedOnNoPolicyMatch"),
            (
                "alias.example.com",
                A,
                "NoError [middle.example.net target.example.net 192.0.2.7]",
                "allowed//allowedOnNoPolicyMatch",
            ),
            ("missing.example.com", A, "NXDomain [] +soa", "allowed//allowedOnNoPolicyMatch"),
            ("target.example.net", TXT, "NoError [] +soa", "allowed//allowedOnNoPolicyMatch"),
        ],
    )
    .await;
    assert_eq!(rig.last(FieldId::DnsUpstream), Some(rig.upstream.address.to_string()));
}

/// GW-032: the upstream is told not to verify, and its unverified answers are kept apart.
#[tokio::test]
async fn ac_01_a_rule_accepts_answers_that_do_not_verify() {
    let rig = Rig::start(
        r#"
        [[rule]]
        name = "broken zone"
        gate = "dns"
        action = "allow"
        when = 'dns.fqdn == "www.example.com"'
        settings = { danger_skip_dnssec = true }
        "#,
    )
    .await;
    rig.ask("www.example.com", A).await;
    rig.ask("target.example.net", A).await;
    assert_eq!(rig.upstream.asked(), ["udp unchecked A www.example.com", "udp A target.example.net"]);
    assert_eq!(rig.last(FieldId::VerdictOutcome).as_deref(), Some("allowed"));
}

#[tokio::test]
async fn ac_02_a_blocked_name_has_no_address_of_any_kind_and_is_never_asked_for() {
    let rig = Rig::start(POLICY).await;
    let by_name = "blocked/bad names/blockedByQueryName";
    check(
        &rig,
        &[
            ("www.bad.example", A, "NoError [0.0.0.0] ede15", by_name),
            ("www.bad.example", AAAA, "NoError [::] ede15", by_name),
            ("www.bad.example", HTTPS, "NoError [] +soa ede15", by_name),
            ("www.bad.example", TXT, "NoError [] +soa ede15", by_name),
            ("www.bad.example", MX, "NoError [] +soa ede15", by_name),
            ("www.bad.example", ANY, "NoError [] +soa ede15", by_name),
        ],
    )
    .await;
    assert_eq!(rig.upstream.asked(), Vec::<String>::new());
    let answer = rig.ask("WWW.Bad.Example", A).await;
    assert_eq!(extended_errors(&answer), [(15, "known bad".to_owned())]);
    assert_eq!(answer.queries[0].name().to_ascii(), "WWW.Bad.Example.");
    assert_eq!(rig.last(FieldId::DnsExtendedErrors).as_deref(), Some("15"));
    assert_eq!(rig.last(FieldId::VerdictReason).as_deref(), Some("known bad"));
    assert_eq!(rig.last(FieldId::DnsFqdn).as_deref(), Some("www.bad.example"));
    let plain = rig.udp(&rig::plain_query("www.bad.example", A).to_vec().unwrap()).await.unwrap();
    assert!(plain.edns.is_none());
}

/// GW-055, DN-16, DN-18 and CT-07: rules that need the answer decide when it is there, cached or not.
#[tokio::test]
async fn ac_02_an_answer_is_refused_for_what_it_says() {
    let rig = Rig::start(POLICY).await;
    for _ in 0..2 {
        check(
            &rig,
            &[
                ("c2.example.com", A, "NoError [0.0.0.0] ede15", "blocked/bad addresses/blockedRule"),
                ("tracked.example.com", A, "NoError [0.0.0.0] ede15", "blocked/trackers behind aliases/blockedRule"),
            ],
        )
        .await;
    }
    assert_eq!(rig.upstream.asked().len(), 2);
    assert_eq!(rig.last(FieldId::DnsCached).as_deref(), Some("true"));
    assert_eq!(rig.last(FieldId::DnsResponseCname).as_deref(), Some("tracker.example.net"));
}

#[tokio::test]
async fn ac_03_an_override_answers_in_place_of_the_upstream() {
    let rig = Rig::start(POLICY).await;
    let applied = "corrected//overrideApplied";
    check(
        &rig,
        &[
            ("portal.example", A, "NoError [192.0.2.10]", applied),
            ("portal.example", AAAA, "NoError [2001:db8::10]", applied),
            ("portal.example", TXT, "NoError [] +soa", applied),
            ("portal.example", HTTPS, "NoError [] +soa", applied),
        ],
    )
    .await;
    assert!(rig.upstream.asked().is_empty());
    check(
        &rig,
        &[
            ("old.example", A, "NoError [www.example.com 192.0.2.1]", applied),
            ("old.example", CNAME, "NoError [www.example.com]", applied),
            ("old.example", MX, "NoError [www.example.com 10 mail.example.com]", applied),
        ],
    )
    .await;
    assert_eq!(rig.upstream.asked(), ["udp A www.example.com", "udp MX www.example.com"]);
}

#[tokio::test]
async fn ac_04_and_ac_05_search_and_video_hosts_become_their_safe_hosts() {
    let rig = Rig::start(POLICY).await;
    let safe = "corrected//overrideForSafeSearch";
    check(
        &rig,
        &[
            ("www.google.com", A, "NoError [forcesafesearch.google.com 192.0.2.99]", safe),
            ("www.google.co.jp", A, "NoError [forcesafesearch.google.com 192.0.2.99]", safe),
            ("www.google.com", HTTPS, "NoError [forcesafesearch.google.com] +soa", safe),
            ("www.youtube.com", A, "NoError [restrict.youtube.com 192.0.2.98]", safe),
            ("google.com", MX, "NoError [10 smtp.google.com]", "allowed//allowedOnNoPolicyMatch"),
        ],
    )
    .await;
}

#[tokio::test]
async fn ac_06_times_to_live_are_capped_and_the_record_says_so() {
    let upstream = Upstream::start(Manner::Honest).await;
    let spec = gate_dns::DnsGateSpec { answer_ttl_seconds_max: Some(20), ..spec(&upstream) };
    let rig = Rig::with(POLICY, upstream, spec, None).await;
    let answer = rig.ask("www.example.com", A).await;
    assert_eq!(answer.answers[0].ttl, 20);
    assert_eq!(rig.last(FieldId::DnsMaxTtl).as_deref(), Some("20"));
    assert_eq!(rig.last(FieldId::DnsUpstreamTtls).as_deref(), Some("300"));
    rig.ask("alias.example.com", A).await;
    assert_eq!(rig.last(FieldId::DnsUpstreamTtls).as_deref(), Some("300,300,300"));
}

#[tokio::test]
async fn ac_07_a_rule_chooses_the_resolver_which_may_give_private_addresses() {
    let internal = Upstream::start(Manner::Honest).await;
    let rule = r#"
        [[rule]]
        name = "internal"
        gate = "dns"
        action = "resolve"
        when = 'any(dns.domains[*] == "corp.example")'
    "#;
    let policy = format!("{rule}settings = {{ resolvers = [\"{}\"] }}", internal.address);
    let rig = Rig::start(&policy).await;
    assert_eq!(shown(&rig.ask("db.corp.example", A).await), "NoError [10.1.2.3]");
    assert_eq!(internal.asked(), ["udp A db.corp.example"]);
    assert!(rig.upstream.asked().is_empty());
    assert_eq!(rig.last(FieldId::DnsUpstream), Some(internal.address.to_string()));
}

#[tokio::test]
async fn private_addresses_of_public_names_are_taken_out() {
    let rig = Rig::start("").await;
    let rebinding = "corrected//blockedByRebindingProtection";
    check(
        &rig,
        &[
            ("rebind.example.com", A, "NoError [192.0.2.9]", rebinding),
            ("private.example.com", A, "NoError [] +soa ede15", rebinding),
            ("nas.local", A, "NoError [192.168.1.5]", "allowed//allowedOnNoPolicyMatch"),
        ],
    )
    .await;
    let upstream = Upstream::start(Manner::Honest).await;
    let allowed = vec!["example.com".to_owned()];
    let spec = gate_dns::DnsGateSpec { rebinding_allowed: allowed, ..spec(&upstream) };
    let rig = Rig::with("", upstream, spec, None).await;
    assert_eq!(shown(&rig.ask("private.example.com", A).await), "NoError [192.168.1.1]");
}

/// RFC 8482, and hints that would lead past the web gate.
#[tokio::test]
async fn any_is_small_and_https_records_name_no_http3() {
    let rig = Rig::start("").await;
    assert_eq!(shown(&rig.ask("www.example.com", ANY).await), "NoError [RFC8482]");
    let answer = shown(&rig.ask("www.example.com", HTTPS).await);
    assert!(answer.contains("alpn=h2") && !answer.contains("h3"), "{answer}");
    assert_eq!(rig.upstream.asked(), ["udp HTTPS www.example.com"]);
}

/// RFC 6840 section 5.8: an upstream on this machine is believed about signatures, and those who ask are told.
#[tokio::test]
async fn verified_answers_are_marked_for_those_who_ask() {
    let rig = Rig::start(POLICY).await;
    for (host, wants, told) in [
        ("www.example.com", true, true),
        ("www.example.com", false, false),
        ("www.bad.example", true, false),
        ("old.example", true, false),
    ] {
        let mut question = rig::plain_query(host, A);
        question.metadata.authentic_data = wants;
        let answer = rig.udp(&question.to_vec().unwrap()).await.unwrap();
        assert_eq!(answer.metadata.authentic_data, told, "{host} {wants}");
    }
}

/// DN-14: a client names categories in EDNS option 65050, and a rule refuses names that have one of them.
#[tokio::test]
async fn categories_of_the_request_are_compared_with_those_of_the_name() {
    let policy = r#"
        [[rule]]
        name = "as the client wishes"
        gate = "dns"
        action = "block"
        when = 'dns.categories_in_request_context_matches == true'
    "#;
    let upstream = Upstream::start(Manner::Honest).await;
    let (names, spec) = (Harness::with_names(policy, &[("example.com", 66)]), spec(&upstream));
    let rig = Rig::with_harness(names, upstream, spec, None).await;
    for (host, context, answer) in [
        ("www.example.com", Some(&[0, 117, 0, 66][..]), "NoError [0.0.0.0] ede15"),
        ("www.example.com", Some(&[0, 117]), "NoError [192.0.2.1]"),
        ("www.example.com", Some(&[0, 117, 0]), "NoError [192.0.2.1]"),
        ("www.example.com", Some(&[]), "NoError [192.0.2.1]"),
        ("target.example.net", Some(&[0, 66]), "NoError [192.0.2.7]"),
        ("www.example.com", None, "NoError [192.0.2.1]"),
    ] {
        let mut question = rig::plain_query(host, A);
        let mut edns = Edns::new();
        if let Some(context) = context {
            edns.options_mut().insert(EdnsOption::Unknown(65_050, context.to_vec()));
        }
        question.set_edns(edns);
        let shown = shown(&rig.udp(&question.to_vec().unwrap()).await.unwrap());
        assert_eq!(shown, answer, "{host} {context:?}");
    }
}

/// RFC 6761 and RFC 7686: what has no place in the DNS is not asked of strangers.
#[tokio::test]
async fn special_names_are_answered_here() {
    let rig = Rig::start("").await;
    for (host, kind, answer) in [
        ("localhost", A, "NoError [127.0.0.1]"),
        ("x.localhost", AAAA, "NoError [::1]"),
        ("localhost", TXT, "NoError [] +soa"),
        ("secret.onion", A, "NXDomain [] +soa"),
        ("a.invalid", AAAA, "NXDomain [] +soa"),
    ] {
        assert_eq!(shown(&rig.ask(host, kind).await), answer, "{host} {kind}");
    }
    assert!(rig.upstream.asked().is_empty());
    assert_eq!(rig.last(FieldId::VerdictOutcome).as_deref(), Some("allowed"));
}

/// Every message leaves one event, also those that are not questions.
#[tokio::test]
async fn malformed_messages_are_refused_by_code_and_recorded_once() {
    let rig = Rig::start("").await;
    let valid = query("www.example.com", A);
    let mut notify = valid.clone();
    notify[2] |= 4 << 3;
    let mut two = valid.clone();
    two[5] = 2;
    for (bytes, code, failure) in
        [(notify, 4, "opcode_unsupported"), (two, 1, "malformed_query"), (valid[..20].to_vec(), 1, "malformed_query")]
    {
        let before = rig.events().len();
        let reply = rig.udp_raw(&bytes).await.unwrap();
        assert_eq!((reply[3] & 0x0f, &reply[..2]), (code, &bytes[..2]));
        assert_eq!(rig.events().len(), before + 1);
        assert_eq!(rig.last(FieldId::Failure).as_deref(), Some(failure));
        assert_eq!(rig.last(FieldId::VerdictOutcome).as_deref(), Some("error"));
    }
}
