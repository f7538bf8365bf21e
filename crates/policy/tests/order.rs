//! The documented order of enforcement (features.md 1.2), reproduced or departed from on purpose.
#![allow(clippy::expect_used)]

mod common;

use common::{at, compile, dns, warnings};
use model::{Action, Destination, FieldId, Gate, Question, Station, Timestamp, Value};
use policy::{Decision, WarningKind};

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

#[test]
fn gw_054_the_first_match_decides_and_nothing_later_overrides() {
    let policy = compile(
        r#"
        [[rule]]
        name = "let through"
        gate = "dns"
        action = "allow"
        when = 'dns.fqdn == "example.com"'
        precedence = 1
        [[rule]]
        name = "stop"
        gate = "dns"
        action = "block"
        when = 'any(dns.domains[*] == "example.com")'
        precedence = 2
        "#,
    );
    assert_eq!(at(&policy, &dns("example.com"), Question::Access), ("allow", "let through"));
    assert_eq!(at(&policy, &dns("www.example.com"), Question::Access), ("block", "stop"));
    assert_eq!(at(&policy, &dns("example.org"), Question::Access), ("allow", ""));
}

/// The hosted product blocks here, because it evaluates rules on the question before rules on the answer whatever their
/// precedence. Sekisho means precedence: the rule that needs the answer is waited for, and the one below with it.
#[test]
fn gw_055_precedence_holds_across_stations() {
    let document = r#"
        [[rule]]
        name = "answers in the US"
        gate = "dns"
        action = "allow"
        when = 'dns.dst.geo.country == "US"'
        precedence = 1
        [[rule]]
        name = "example.com"
        gate = "dns"
        action = "block"
        when = 'any(dns.domains[*] == "example.com")'
        precedence = 2
    "#;
    let policy = compile(document);
    let mut facts = dns("example.com");
    let decision = policy.decide(&facts, Question::Access, NOW);
    assert!(matches!(decision, Decision::Undecided { waits_for: FieldId::DnsAnswerCountry, .. }), "{decision:?}");
    let (_, permit) = policy.permit(&facts, Destination::Resolve { name: "example.com".into() }, NOW);
    assert_eq!(permit.expect("leave to resolve meanwhile").station(), Station::Question);
    facts.reach(Station::Answer);
    facts.set(FieldId::DnsAnswerCountry, Value::text("US"));
    assert_eq!(at(&policy, &facts, Question::Access), ("allow", "answers in the US"));
    facts.set(FieldId::DnsAnswerCountry, Value::text("DE"));
    assert_eq!(at(&policy, &facts, Question::Access), ("block", "example.com"));
    let (decision, refusal) = policy.permit(&facts, Destination::Client, NOW);
    assert_eq!(decision.action(), Some(Action::Block));
    assert_eq!(refusal.expect_err("refused").rule.map(|rule| rule.name), Some("example.com".into()));
    assert_eq!(warnings(document), [(WarningKind::MustWait, "rule \"example.com\"".to_owned())]);
}

#[test]
fn gw_056_the_inspect_question_is_independent_of_access() {
    let policy = compile(
        r#"
        [[rule]]
        name = "stop"
        gate = "web"
        action = "block"
        when = 'http.request.host == "bank.example"'
        precedence = 1
        [[rule]]
        name = "leave alone"
        gate = "web"
        action = "off"
        when = 'http.request.host == "bank.example"'
        precedence = 2
        "#,
    );
    let mut facts = model::Facts::new(Gate::Web);
    facts.reach(Station::Handshake);
    facts.set(FieldId::HttpHost, Value::text("bank.example"));
    assert_eq!(at(&policy, &facts, Question::Inspect), ("off", "leave alone"));
    assert_eq!(at(&policy, &facts, Question::Access), ("block", "stop"));
}
