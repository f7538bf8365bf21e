//! What permits oblige to, and how refusals are shown (features.md 1.1 and 1.5).
#![allow(clippy::expect_used)]

mod common;

use common::{compile, dns};
use model::verdict::UntrustedCertificate;
use model::{Destination, Facts, FieldId, Gate, HeaderChange, Obligation, Question, Station, Timestamp, Value};
use policy::{Decision, Policy, Refusal};

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

fn obligations(policy: &Policy, facts: &Facts) -> Vec<Obligation> {
    let (_, permit) = policy.permit(facts, Destination::Client, NOW);
    permit.expect("permitted").into_parts().1
}

fn refusal(policy: &Policy, facts: &Facts) -> Refusal {
    policy.permit(facts, Destination::Client, NOW).1.expect_err("refused")
}

fn web(path: &str, query: &str) -> Facts {
    let mut facts = Facts::new(Gate::Web);
    facts.reach(Station::Request);
    facts.set(FieldId::HttpHost, Value::text("example.com"));
    facts.set(FieldId::HttpPath, Value::text(path));
    facts.set(FieldId::HttpQuery, Value::text(query));
    facts.set(FieldId::UserEmail, Value::text("user@example.com"));
    facts
}

#[test]
fn gw_028_gw_035_answers_and_resolvers_are_obligations_of_the_question() {
    let policy = compile(
        r#"
        [[rule]]
        name = "inside"
        gate = "dns"
        action = "resolve"
        when = 'any(dns.domains[*] == "corp.example")'
        settings.resolvers = ["192.0.2.53:53", "[2001:db8::53]:5353"]
        [[rule]]
        name = "printer"
        gate = "dns"
        action = "override"
        when = 'dns.fqdn == "printer.corp.example"'
        settings.override_ips = ["10.0.0.9"]
        [[rule]]
        name = "moved"
        gate = "dns"
        action = "override"
        when = 'dns.fqdn == "old.corp.example"'
        settings.override_host = "New.corp.example."
        [[rule]]
        name = "safe"
        gate = "dns"
        action = "safesearch"
        when = 'dns.fqdn == "www.google.com"'
        [[rule]]
        name = "tube"
        gate = "dns"
        action = "ytrestricted"
        when = 'dns.fqdn == "www.youtube.com"'
        [[rule]]
        name = "unsigned"
        gate = "dns"
        action = "allow"
        when = 'dns.fqdn == "bogus.example"'
        settings.danger_skip_dnssec = true
        "#,
    );
    let resolvers = Obligation::Resolvers {
        addresses: vec!["192.0.2.53:53", "[2001:db8::53]:5353"].into_iter().map(|a| a.parse().expect("address")).collect(),
    };
    let printer = Obligation::Override { addresses: vec!["10.0.0.9".parse().expect("address")], host: None };
    let moved = Obligation::Override { addresses: vec![], host: Some("new.corp.example".into()) };
    let mut facts = dns("printer.corp.example");
    assert_eq!(obligations(&policy, &facts), [resolvers.clone(), printer]);
    facts.reach(Station::Answer);
    assert_eq!(obligations(&policy, &facts), [], "the answer in hand is not replaced again");
    assert_eq!(obligations(&policy, &dns("old.corp.example")), [resolvers, moved]);
    assert_eq!(obligations(&policy, &dns("www.google.com")), [Obligation::SafeSearch]);
    assert_eq!(obligations(&policy, &dns("www.youtube.com")), [Obligation::YoutubeRestricted]);
    assert_eq!(obligations(&policy, &dns("bogus.example")), [Obligation::DangerSkipDnssec]);
    assert_eq!(obligations(&policy, &dns("example.com")), []);
}

#[test]
fn gw_020_gw_021_headers_are_deleted_set_then_added_and_name_facts() {
    let policy = compile(
        r#"
        [[rule]]
        name = "tenant"
        gate = "web"
        action = "allow"
        when = 'http.request.host == "example.com"'
        [rule.settings]
        untrusted_cert = "pass_through"
        add_headers = { X-Two = ["1", "2"] }
        set_headers = { X-User = "<@{identity.email}> @{identity.groups}", X-Path = "@{identity.name}" }
        delete_headers = ["Forwarded"]
        "#,
    );
    let mut facts = web("/", "");
    facts.set(FieldId::UserName, Value::text("evil\r\nX-Admin: yes"));
    let set = |name: &str, value: &str| HeaderChange::Set { name: name.into(), value: value.into() };
    let add = |value: &str| HeaderChange::Add { name: "X-Two".into(), value: value.into() };
    let changes = vec![
        HeaderChange::Delete { name: "Forwarded".into() },
        set("X-Path", ""),
        set("X-User", "<user@example.com> "),
        add("1"),
        add("2"),
    ];
    let untrusted = Obligation::UntrustedCertificate { action: UntrustedCertificate::PassThrough };
    assert_eq!(obligations(&policy, &facts), [untrusted.clone(), Obligation::Headers { changes }]);
    facts.reach(Station::Response);
    assert_eq!(obligations(&policy, &facts), [untrusted], "the request has been sent");
}

#[test]
fn gw_151_redirects_keep_what_they_are_told_to() {
    let target = |more: &str| {
        compile(&format!(
            "[[rule]]\nname = \"r\"\ngate = \"web\"\naction = \"redirect\"\nsettings.redirect = {{ target_uri = \"https://c.com/redirect-path?querystring=Y\"{more} }}"
        ))
    };
    let location =
        |policy: &Policy, path: &str, query: &str| refusal(policy, &web(path, query)).location.expect("location").to_string();
    let keeping = target(", preserve_path_and_query = true, include_context = true");
    assert_eq!(location(&keeping, "/path/to/page", "querystring=X"), "https://c.com/redirect-path/path/to/page?querystring=Y");
    assert_eq!(
        location(&keeping, "/path/to/page", "querystring=X&k=1"),
        "https://c.com/redirect-path/path/to/page?querystring=Y&k=1"
    );
    assert_eq!(location(&keeping, "", ""), "https://c.com/redirect-path?querystring=Y");
    assert_eq!(refusal(&keeping, &web("/", "")).context, policy::Context::Sealed);
    for (path, query) in [(".evil.example/", ""), ("@evil.example/", ""), ("/a\r\nSet-Cookie: b", "k=1\n")] {
        assert_eq!(location(&keeping, path, query), "https://c.com/redirect-path?querystring=Y");
    }
    let plain = target("");
    assert_eq!(location(&plain, "/path", "querystring=X"), "https://c.com/redirect-path?querystring=Y");
    assert_eq!(refusal(&plain, &web("/", "")).context, policy::Context::None);
    let readable = target(", include_context = true, danger_plain_context = true");
    assert_eq!(refusal(&readable, &web("/", "")).context, policy::Context::DangerPlain);
}

#[test]
fn gw_022_gw_023_a_refusal_says_why_and_how_it_is_shown() {
    let policy = compile(
        r#"
        [settings]
        block_reason = "ask the help desk"
        [[rule]]
        id = "7"
        name = "bad"
        gate = "dns"
        action = "block"
        when = 'dns.fqdn == "bad.example"'
        settings = { block_page = true, block_reason = "known to be bad" }
        [[rule]]
        name = "rest"
        gate = "dns"
        action = "block"
        "#,
    );
    let bad = refusal(&policy, &dns("bad.example"));
    assert_eq!((&*bad.reason, bad.shows_page, bad.rule.map(|rule| rule.id)), ("known to be bad", true, Some("7".into())));
    let rest = refusal(&policy, &dns("example.com"));
    assert_eq!((&*rest.reason, rest.shows_page, rest.location), ("ask the help desk", false, None));
    let plain = compile("[[rule]]\nname = \"r\"\ngate = \"dns\"\naction = \"block\"\n");
    assert_eq!(&*refusal(&plain, &dns("a.example")).reason, "refused by policy");
}

#[test]
fn an_empty_policy_answers_every_question_with_its_default() {
    let policy = Policy::empty().with_revision(3);
    assert_eq!(policy.clone().revision(), 3);
    for (gate, expected) in
        [(Gate::Dns, vec!["resolve", "allow", "allow"]), (Gate::Web, vec!["on", "noisolate", "scan", "allow"])]
    {
        let facts = Facts::new(gate);
        let answers: Vec<_> = gate
            .questions()
            .iter()
            .map(|question| policy.answer(*question, policy.decide(&facts, *question, NOW)).expect("a default").action.as_str())
            .collect();
        assert_eq!(answers, expected);
        assert_eq!(policy.decide(&facts, Question::Access, NOW), Decision::Default(model::Action::Allow));
    }
}

#[test]
fn cx_09_an_explanation_lists_every_rule_and_what_it_waits_for() {
    let policy = compile(
        r#"
        [[rule]]
        name = "no"
        gate = "dns"
        action = "block"
        when = 'dns.fqdn == "a.example"'
        identity = 'identity.email == "x"'
        [[rule]]
        name = "late"
        gate = "dns"
        action = "allow"
        when = 'dns.dst.geo.country == "JP" or dns.rcode eq "NXDOMAIN"'
        [[rule]]
        name = "ended"
        gate = "dns"
        action = "block"
        expires = "2020-01-01T00:00:00Z"
        [[rule]]
        name = "rest"
        gate = "dns"
        action = "block"
        "#,
    )
    .with_revision(9);
    let explanation = serde_json::to_value(policy.explain(&dns("example.com"), NOW)).expect("json");
    let access = &explanation["questions"][2];
    assert_eq!(
        (&explanation["revision"], &explanation["station"], &access["question"]),
        (&9.into(), &"question".into(), &"access".into())
    );
    assert_eq!((&access["action"], &access["rule"]), (&serde_json::Value::Null, &"late".into()));
    let row = |at: usize| {
        let rule = &access["rules"][at];
        (rule["name"].as_str().expect("name"), rule["value"].as_str().expect("value"), rule["is_read"].as_bool().expect("read"))
    };
    let rows: Vec<_> = (0..4).map(row).collect();
    assert_eq!(rows, [("no", "false", true), ("late", "unknown", true), ("ended", "inactive", false), ("rest", "true", false)]);
    assert_eq!(access["rules"][0]["expression"], r#"(dns.fqdn == "a.example") and (identity.email == "x")"#);
    assert_eq!(access["rules"][1]["waits_for"], serde_json::json!(["dns.dst.geo.country", "dns.rcode"]));
    assert_eq!(access["rules"][1]["canonical"], r#"dns.dst.geo.country == "JP" or dns.rcode == "NXDOMAIN""#);
    assert_eq!(access["rules"][1]["decides_at"], "answer");
}
