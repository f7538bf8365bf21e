//! The expression language as a table: facts, an expression, its truth (features.md 1.3.1 and 1.3.2, WF-01 to WF-25), and
//! every canonical form reads back as itself (GW-010).
#![allow(clippy::expect_used, clippy::panic)]

mod common;

use std::sync::Arc;

use common::compile;
use model::{Facts, FieldId, Gate, Station, Value};
use policy::Filter;

/// A finished web transaction with one fact of every type.
fn record() -> Facts {
    let mut facts = Facts::new(Gate::Web);
    facts.reach(Station::Record);
    let texts = |texts: &[&str]| -> Arc<[Arc<str>]> { texts.iter().map(|text| Arc::from(*text)).collect() };
    let attributes = Value::TextMap(Arc::from([(Arc::from("http://schema/role"), texts(&["Test User", "Admin"]))]));
    let facts_set = [
        (FieldId::HttpHost, Value::text("www.example.com")),
        (FieldId::HttpDomains, Value::Parents("www.example.com".into())),
        (FieldId::HttpUrl, Value::text("https://www.example.com/r/Gaming?a=1*2")),
        (FieldId::HttpStatus, Value::Int(200)),
        (FieldId::SourceIp, Value::Ip("10.0.0.7".parse().expect("address"))),
        (FieldId::WebDestinationIps, Value::ips(["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().expect("address")))),
        (FieldId::HttpContentCategory, Value::ints([1, 68])),
        (FieldId::GroupNames, Value::texts(["finance", "staff"])),
        (FieldId::SamlAttributes, attributes),
        (FieldId::IsMalicious, Value::Bool(true)),
        (FieldId::Time, Value::Int(1_767_225_600_000_000)),
        (FieldId::UserEmail, Value::text("Ann@Example.com")),
        (FieldId::DurationMs, Value::Int(-3)),
        (FieldId::HttpMethod, Value::text("a\"b\\c")),
        (FieldId::DownloadFileTypes, Value::texts(Vec::<String>::new())),
    ];
    for (field, value) in facts_set {
        assert!(facts.set(field, value), "{field:?}");
    }
    facts
}

#[test]
fn every_operator_means_what_the_dialect_says() {
    let facts = record();
    let rows: &[(&str, &str, bool)] = &[
        // Ordering, both spellings.
        ("WF-02", "http.response.status_code == 200", true),
        ("WF-02", "http.response.status_code eq 200", true),
        ("WF-02", "http.response.status_code != 200", false),
        ("WF-02", "http.response.status_code ne 404", true),
        ("WF-02", "http.response.status_code >= 200 and http.response.status_code ge 200", true),
        ("WF-02", "http.response.status_code <= 199 or http.response.status_code le 199", false),
        ("WF-02", "http.response.status_code > 199 && http.response.status_code gt 199", true),
        ("WF-02", "http.response.status_code < 201 && http.response.status_code lt 201", true),
        ("WF-02", "event.duration_ms == -3", true),
        ("WF-02", "http.response.status_code == 0xC8", true),
        ("WF-02", r#"http.request.host > "www""#, true),
        ("WF-02", "net.src.ip == 10.0.0.7", true),
        ("WF-02", "net.src.ip > 10.0.0.6", true),
        ("WF-02", "net.src.ip != 2001:db8::1", true),
        ("HT-08", r#"http.response.status_code == "200""#, true),
        ("WF-02", "scan.malicious", true),
        ("WF-02", "scan.malicious == false", false),
        ("WF-02", r#"event.time >= "2026-01-01T00:00:00Z""#, true),
        ("WF-02", r#"event.time < "2026-01-01T09:00:00+09:00""#, false),
        ("WF-02", "time == 1767225600000000", true),
        // Text.
        ("WF-03", r#"http.request.uri contains "/r/""#, true),
        ("WF-03", r#"http.request.uri matches "/r/[gG]aming\?""#, true),
        ("WF-23", r#"http.request.uri ~ "/r/gaming""#, false),
        ("WF-03", r#"http.request.uri ~ r"\.com/""#, true),
        ("WF-03", r##"http.request.method ~ r#"a"b"#"##, true),
        ("WF-03", r#"http.request.method ~ "a\"b""#, true),
        ("WF-03", r#"http.request.uri wildcard "*EXAMPLE.com/r/*""#, true),
        ("WF-03", r#"http.request.uri strict wildcard "*EXAMPLE.com/r/*""#, false),
        ("WF-03", r#"http.request.uri strict wildcard "https://*a=1\\*2""#, true),
        ("WF-03", r#"http.request.uri wildcard "https://www""#, false),
        ("WF-03", r#"http.request.host wildcard "*""#, true),
        // Numbers.
        ("WF-04", "http.response.status_code & 8", true),
        ("WF-04", "http.response.status_code bitwise_and 7", false),
        // Sets.
        ("WF-05", "http.response.status_code in {404 200}", true),
        ("WF-05", "http.response.status_code in {400..499, 500..599}", false),
        ("WF-05", "http.response.status_code in {-5..-1 100..299}", true),
        ("WF-21", r#"not(http.request.host in {"a" "b"})"#, true),
        ("WF-21", r#"http.request.host not in {"a" "www.example.com"}"#, false),
        ("WF-05", "net.src.ip in {10.0.0.0/8}", true),
        ("WF-05", "net.src.ip in {192.168.0.0/16 10.0.0.1..10.0.0.6}", false),
        ("WF-05", "net.src.ip in {}", false),
        ("WF-05", "any(http.conn.dst_ip[*] in {2001:db8::/32})", true),
        // Logic and its precedence.
        ("WF-06", "true or false and false", true),
        ("WF-06", "(true or false) and false", false),
        ("WF-06", "true xor true or true", true),
        ("WF-06", "true ^^ true && false", true),
        ("WF-06", "true xor true xor true", true),
        ("WF-06", "!false && not false", true),
        ("WF-06", "not true or true", true),
        ("WF-25", "true && true || false", true),
        // Quantifiers and indexes.
        ("WF-07", r#"any(http.request.domains[*] == "example.com")"#, true),
        ("WF-07", r#"all(http.request.domains[*] contains "com")"#, true),
        ("WF-07", r#"all(http.request.domains[*] == "com")"#, false),
        ("WF-07", r#"any(not http.request.domains[*] == "com")"#, true),
        ("WF-07", r#"any(http.request.domains[*] not in {"com" "example.com" "www.example.com"})"#, false),
        ("WF-07", r#"any(http.request.domains[*] != "com")"#, true),
        ("WF-07", r#"any((http.request.domains[*] == "com"))"#, true),
        ("WF-08", r#"http.request.domains[2] == "com""#, true),
        ("WF-08", r#"http.request.domains[3] == "com""#, false),
        ("WF-08", r#"http.request.domains[3] != "com""#, true),
        ("WF-08", r#"any(identity.saml_attributes["http://schema/role"][*] == "Admin")"#, true),
        ("ID-03", r#"any(identity.saml_attributes["http://schema/role"] in {"Test User"})"#, true),
        ("ID-03", r#"any(identity.saml_attributes["http://schema/none"] in {"Test User"})"#, false),
        ("WF-08", r#"identity.saml_attributes["http://schema/role"][0] == "Test User""#, true),
        ("WF-14", r#"any(identity.groups[*].name in {"finance"})"#, true),
        ("WF-14", r#"any(identity.groups.name[*] in {"finance"})"#, true),
        ("WF-14", r#"identity.groups[1].name == "staff""#, true),
        // Literals.
        ("WF-09", r#"http.request.method == "a\"b\\c""#, true),
        ("WF-09", r#"http.request.method == "\x61\042b\134c""#, true),
        ("WF-09", r##"http.request.method == r#"a"b\c"#"##, true),
        ("WF-09", "http.request.method == 61:22:62:5C:63", true),
        ("DN-01", r#"http.request.host == "WWW.Example.COM.""#, true),
        // Absent values.
        ("WF-10", r#"http.request.referrer != "x""#, true),
        ("WF-10", r#"http.request.referrer == """#, false),
        ("WF-10", r#"not http.request.referrer == "x""#, true),
        ("WF-10", r#"http.request.referrer not in {"x"}"#, true),
        ("WF-10", "http.conn.dst_port < 1", false),
        ("WF-10", "net.src.internal_src_ip != 10.0.0.1", true),
        ("WF-10", r#"any(app.names[*] != "x")"#, false),
        ("WF-10", r#"all(app.names[*] == "x")"#, true),
        ("WF-10", r#"all(http.download.file.types[*] == "x")"#, true),
        ("WF-10", r#"any(http.download.file.types[*] == "x")"#, false),
        // Functions.
        ("WF-13", r#"concat(http.request.method, "/", identity.email) contains "c/Ann""#, true),
        ("WF-13", r#"lower(identity.email) == "ann@example.com""#, true),
        ("WF-13", r#"upper(identity.email) == "ANN@EXAMPLE.COM""#, true),
        ("WF-13", "len(http.request.method) == 5", true),
        ("WF-13", "len(http.request.domains) == 3", true),
        ("WF-13", "len(identity.saml_attributes[\"http://schema/role\"]) > 1", true),
        ("WF-13", "any(len(http.request.domains[*]) == 3)", true),
        ("WF-13", r#"starts_with(http.request.host, "www.")"#, true),
        ("WF-13", r#"ends_with(http.request.host, ".org")"#, false),
        ("WF-13", r#"any(ends_with(identity.groups.name[*], "nance"))"#, true),
        ("WF-13", r#"any(concat("g:", identity.groups.name[*]) == "g:staff")"#, true),
        ("WF-13", r#"any(lower(identity.groups[*].name) == "staff")"#, true),
        // Arrays compared as if they were one value.
        ("DN-15", r#"http.request.domains == "example.com""#, true),
        ("DN-15", r#"http.request.domains != "example.com""#, false),
        ("DN-15", r#"http.request.domains != "example.org""#, true),
        ("DN-15", "http.conn.dst_ip == 192.0.2.1", true),
        ("DN-15", "http.conn.content_category in {68}", true),
        ("GW-004", "", true),
        ("GW-004", " \n\t", true),
    ];
    for (row, expression, truth) in rows {
        let filter = Filter::parse(expression).unwrap_or_else(|problem| panic!("{row} {expression}: {problem}"));
        assert_eq!(filter.matches(&facts), *truth, "{row} {expression}");
        let again = Filter::parse(&filter.canonical()).unwrap_or_else(|problem| panic!("{}: {problem}", filter.canonical()));
        assert_eq!(again.canonical(), filter.canonical(), "{row} {expression}");
        assert_eq!(again.matches(&facts), *truth, "{row} {}", filter.canonical());
    }
}

#[test]
fn gw_010_canonical_forms_are_plain() {
    for (written, canonical) in [
        (r#"any( identity.groups[*].name  in {"b","a" "a"})"#, r#"any(identity.groups.name[*] in {"a" "b"})"#),
        ("dns.src_ip eq 10.0.0.1", "net.src.ip == 10.0.0.1"),
        ("net.dst.ip in {10.0.0.0..10.0.0.255 10.0.1.0/24}", "net.dst.ip in {10.0.0.0/23}"),
        ("http.response.status_code in {1 2 3 7}", "http.response.status_code in {1..3 7}"),
        ("true && (false || true)", "true and (false or true)"),
        ("! ( http.request.host ~ \"a\")", "not http.request.host matches \"a\""),
        (r#"net.sni.domains == "Example.com""#, r#"any(net.sni.domains[*] == "example.com")"#),
        ("scan.malicious", "scan.malicious"),
    ] {
        assert_eq!(Filter::parse(written).expect(written).canonical(), canonical);
    }
}

#[test]
fn unknown_follows_kleene() {
    let mut facts = Facts::new(Gate::Dns);
    facts.reach(Station::Question);
    facts.set(FieldId::DnsFqdn, Value::text("example.com"));
    let late = r#"dns.rcode == "NXDOMAIN""#;
    let (yes, no) = (r#"dns.fqdn == "example.com""#, r#"dns.fqdn == "example.org""#);
    for (expression, truth) in [
        (format!("{late} or {yes}"), "true"),
        (format!("{late} or {no}"), "unknown"),
        (format!("{late} and {yes}"), "unknown"),
        (format!("{late} and {no}"), "false"),
        (format!("{no} and {late}"), "false"),
        (format!("not ({late})"), "unknown"),
        (format!("{late} xor {yes}"), "unknown"),
        (format!("not ({late} and {no})"), "true"),
        ("any(dns.resolved_ips[*] == 192.0.2.1)".to_owned(), "unknown"),
        ("len(dns.resolved_ips) == 0".to_owned(), "unknown"),
        (r#"any(concat(dns.rcode, dns.domains[*]) == "x")"#.to_owned(), "false"),
    ] {
        let policy = compile(&format!("[[rule]]\nname = \"r\"\ngate = \"dns\"\naction = \"block\"\nwhen = '''{expression}'''\n"));
        let explanation = policy.explain(&facts, model::Timestamp(0));
        let rules = &explanation.questions.last().expect("access").rules;
        assert_eq!(rules[0].value, truth, "{expression}");
    }
}

#[test]
fn a_search_names_what_an_index_may_use() {
    let filter = Filter::parse(
        r#"identity.email == "ann@example.com" and any(http.request.domains[*] == "example.com")
           and http.response.status_code in {200} and (net.src.ip == 10.0.0.1 or true) and not scan.malicious
           and all(app.ids[*] == 1) and file.sha256 in {"aa"}"#,
    )
    .expect("filter");
    let named: Vec<_> = filter.equalities().into_iter().map(|(field, value)| (field.row().name, value.to_string())).collect();
    let expected = [("identity.email", "ann@example.com"), ("http.request.domains", "example.com"), ("file.sha256", "aa")];
    assert_eq!(named, expected.map(|(name, value)| (name, value.to_owned())));
}
