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

/// Rules of one question, and the outcome at each station of a transaction that ends with the last one's facts.
struct Example {
    row: &'static str,
    gate: Gate,
    /// Name, action, expression, in the order of precedence.
    rules: &'static [(&'static str, &'static str, &'static str)],
    facts: &'static [(Station, &'static [(FieldId, &'static str)])],
    expected: &'static [(Station, Question, &'static str, &'static str)],
}

use Question::{Access, Inspect, Isolate, Resolver, Scan};

const EXAMPLES: &[Example] = &[
    Example {
        row: "GW-050: each question is decided at the station at which it is asked",
        gate: Gate::Dns,
        rules: &[
            ("answer", "block", r#"dns.rcode == "NXDOMAIN""#),
            ("question", "block", r#"dns.fqdn == "other.example""#),
            ("upstream", "resolve", r#"any(dns.domains[*] == "example.com")"#),
        ],
        facts: &[
            (Station::Question, &[(FieldId::DnsFqdn, "example.com")]),
            (Station::Answer, &[(FieldId::DnsRcode, "NXDOMAIN")]),
        ],
        expected: &[
            (Station::Question, Resolver, "resolve", "upstream"),
            (Station::Question, Access, "waits", "answer"),
            (Station::Answer, Access, "block", "answer"),
        ],
    },
    Example {
        row: "GW-056: Do Not Inspect is a question of its own, and a block above or below it still blocks",
        gate: Gate::Web,
        rules: &[
            ("stop", "block", r#"http.request.host == "bank.example""#),
            ("leave alone", "off", r#"http.request.host == "bank.example""#),
        ],
        facts: &[(Station::Handshake, &[(FieldId::HttpHost, "bank.example")])],
        expected: &[(Station::Handshake, Inspect, "off", "leave alone"), (Station::Handshake, Access, "block", "stop")],
    },
    Example {
        row: "GW-057: what is not inspected is decided on the host; a rule on the path is waited for and never true",
        gate: Gate::Web,
        rules: &[
            ("leave alone", "off", r#"net.sni.host == "bank.example""#),
            ("path", "block", r#"http.request.uri.path == "/x""#),
        ],
        facts: &[
            (Station::Handshake, &[(FieldId::HttpHost, "bank.example"), (FieldId::SniHost, "bank.example")]),
            (Station::Request, &[]),
        ],
        expected: &[
            (Station::Handshake, Inspect, "off", "leave alone"),
            (Station::Handshake, Access, "waits", "path"),
            (Station::Request, Access, "allow", ""),
        ],
    },
    Example {
        row: "GW-058: what is said about isolation does not end the evaluation",
        gate: Gate::Web,
        rules: &[
            ("not apart", "noisolate", r#"http.request.host == "example.com""#),
            ("page", "block", r#"http.request.uri.path == "/subpage""#),
        ],
        facts: &[(Station::Request, &[(FieldId::HttpHost, "example.com"), (FieldId::HttpPath, "/subpage")])],
        expected: &[(Station::Request, Isolate, "noisolate", "not apart"), (Station::Request, Access, "block", "page")],
    },
    Example {
        row: "GW-059: a rule on the body above an allow is waited for, so that no allow is contradicted later",
        gate: Gate::Web,
        rules: &[
            ("cards", "block", r#"any(dlp.profiles[*] == "cards")"#),
            ("site", "allow", r#"http.request.host == "example.com""#),
        ],
        facts: &[
            (Station::Request, &[(FieldId::HttpHost, "example.com")]),
            (Station::RequestBody, &[(FieldId::DlpProfiles, "cards")]),
        ],
        expected: &[(Station::Request, Access, "waits", "cards"), (Station::RequestBody, Access, "block", "cards")],
    },
    Example {
        row: "AC-17: Do Not Scan leaves access to its own rules",
        gate: Gate::Web,
        rules: &[
            ("trusted", "noscan", r#"http.request.host == "example.com" and http.download.mime == "text/css""#),
            ("none", "block", r#"http.request.host == "example.org""#),
        ],
        facts: &[
            (Station::Request, &[(FieldId::HttpHost, "example.com")]),
            (Station::Response, &[(FieldId::DownloadMime, "text/css")]),
        ],
        expected: &[
            (Station::Request, Scan, "waits", "trusted"),
            (Station::Response, Scan, "noscan", "trusted"),
            (Station::Response, Access, "allow", ""),
        ],
    },
];

#[test]
fn documented_examples_come_out_as_written() {
    for example in EXAMPLES {
        let rules = example.rules.iter().map(|(name, action, when)| {
            let settings = if *action == "resolve" { "settings.resolvers = [\"192.0.2.1:53\"]\n" } else { "" };
            let gate = example.gate.as_str();
            format!("[[rule]]\nname = \"{name}\"\ngate = \"{gate}\"\naction = \"{action}\"\nwhen = '{when}'\n{settings}")
        });
        let policy = compile(&rules.collect::<String>());
        let mut facts = model::Facts::new(example.gate);
        for (station, values) in example.facts {
            facts.reach(*station);
            for (field, text) in *values {
                let value = if field.row().ty.is_array() { Value::texts([text]) } else { Value::text(text) };
                assert!(facts.set(*field, value), "{}", example.row);
                if *field == FieldId::DnsFqdn {
                    facts.set(FieldId::DnsDomains, Value::Parents((*text).into()));
                }
            }
            for (_, question, action, rule) in example.expected.iter().filter(|(at, ..)| at == station) {
                assert_eq!(at(&policy, &facts, *question), (*action, *rule), "{} at {station:?}", example.row);
            }
        }
    }
}
