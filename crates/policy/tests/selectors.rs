//! Every documented selector of the hosted product that an edge can know parses in a rule of its layer and matches facts
//! (features.md 1.3.3 to 1.3.7); the rest are refused with their reason.
#![allow(clippy::expect_used, clippy::panic)]

mod common;

use common::{at, compile, problems, told};
use model::{Action, Facts, FieldId, Gate, Value};

fn ip(text: &str) -> Value {
    Value::Ip(text.parse().expect("address"))
}

fn ips(text: &str) -> Value {
    Value::ips([text.parse().expect("address")])
}

fn map(key: &str, value: &str) -> Value {
    Value::TextMap([(key.into(), [value.into()].into())].into())
}

#[test]
fn known_selectors_match() {
    use FieldId::*;
    use Gate::{Dns, L4, Web};
    let text = |text: &str| Value::text(text);
    let texts = |one: &str| Value::texts([one]);
    let rows: Vec<(&str, Gate, &str, FieldId, Value)> = vec![
        ("DN-01", Dns, r#"dns.fqdn == "test.example.com""#, DnsFqdn, text("test.example.com")),
        ("DN-02", Dns, r#"any(dns.domains[*] == "example.com")"#, DnsDomains, Value::Parents("a.example.com".into())),
        ("DN-03", Dns, r#"dns.query_rtype == "TXT""#, DnsQueryType, text("TXT")),
        ("DN-04", Dns, "any(dns.content_category[*] in {1})", DnsContentCategory, Value::ints([1])),
        ("DN-05", Dns, "any(dns.security_category[*] in {68 80})", DnsSecurityCategory, Value::ints([80])),
        ("DN-06", Dns, "any(app.ids[*] in {505})", AppOwnIds, Value::ints([505])),
        ("DN-06", Dns, "any(app.type.ids[*] in {25})", AppOwnTypeIds, Value::ints([25])),
        ("DN-07", Dns, "any(dns.indicator_feed[*] in {7})", DnsIndicatorFeed, Value::ints([7])),
        ("DN-08", Dns, r#"dns.location in {"uuid1" "uuid2"}"#, Location, text("uuid2")),
        ("DN-09", Dns, r#"dns.doh_subdomain == "abcdefg""#, DohSubdomain, text("abcdefg")),
        ("DN-10", Dns, "any(dns.resolved_ip[*] == 198.51.100.0)", DnsResolverIp, ips("198.51.100.0")),
        ("DN-11", Dns, "dns.src_ip == 198.51.100.0", SourceIp, ip("198.51.100.0")),
        ("DN-12", Dns, "dns.src_internal_ip == 10.10.0.1", SourceInternalIp, ip("10.10.0.1")),
        ("DN-13", Dns, r#"dns.src.geo.continent == "EU""#, SourceContinent, text("EU")),
        ("DN-13", Dns, r#"dns.src.geo.country == "JP""#, SourceCountry, text("JP")),
        ("DN-14", Dns, "dns.categories_in_request_context_matches", DnsRequestContextMatches, Value::Bool(true)),
        ("DN-16", Dns, "any(dns.resolved_ips[*] == 198.51.100.0)", DnsResolvedIps, ips("198.51.100.0")),
        ("DN-17", Dns, r#"dns.dst.geo.continent == "EU""#, DnsAnswerContinent, text("EU")),
        ("DN-17", Dns, r#"dns.dst.geo.country == "RU""#, DnsAnswerCountry, text("RU")),
        ("DN-18", Dns, r#"any(dns.response.cname[*] in {"x.example"})"#, DnsResponseCname, texts("x.example")),
        ("DN-18", Dns, r#"any(dns.response.mx[*] in {"x"})"#, DnsResponseMx, texts("x")),
        ("DN-18", Dns, r#"any(dns.response.ptr[*] in {"x"})"#, DnsResponsePtr, texts("x")),
        ("DN-18", Dns, r#"any(dns.response.txt[*] in {"x"})"#, DnsResponseTxt, texts("x")),
        ("DN-19", Dns, r#"identity.email == "user@example.com""#, UserEmail, text("user@example.com")),
        ("HT-01", Web, r#"http.request.host == "x""#, HttpHost, text("x")),
        ("HT-01", Web, r#"http.conn.hostname == "x""#, HttpHost, text("x")),
        ("HT-02", Web, r#"any(http.request.domains[*] == "example.com")"#, HttpDomains, Value::Parents("example.com".into())),
        ("HT-02", Web, r#"any(http.conn.domains[*] == "example.com")"#, HttpDomains, Value::Parents("b.example.com".into())),
        ("HT-03", Web, r#"http.request.uri matches "/r/gaming""#, HttpUrl, text("https://a/r/gaming")),
        ("HT-04", Web, r#"http.request.uri.path == "/foo/bar""#, HttpPath, text("/foo/bar")),
        ("HT-05", Web, r#"http.request.uri.path_and_query == "/foo?a%242""#, HttpPathAndQuery, text("/foo?a%242")),
        ("HT-06", Web, r#"http.request.uri.query == "a=1""#, HttpQuery, text("a=1")),
        ("HT-07", Web, r#"http.request.method == "GET""#, HttpMethod, text("GET")),
        ("HT-08", Web, r#"http.response.status_code == "200""#, HttpStatus, Value::Int(200)),
        ("HT-08", Web, "http.response.status_code >= 200", HttpStatus, Value::Int(200)),
        ("HT-09", Web, "any(http.request.uri.content_category[*] in {1})", HttpContentCategory, Value::ints([1])),
        ("HT-09", Web, "any(http.conn.security_category[*] in {1})", HttpSecurityCategory, Value::ints([1])),
        ("HT-10", Web, "any(app.ids[*] in {505})", AppOwnIds, Value::ints([505])),
        ("HT-10", Web, "any(app.hosts_ids[*] in {505}) or any(app.supports_ids[*] in {505})", AppOwnIds, Value::ints([505])),
        ("HT-10", Web, "any(app.hosts_ids[*] in {505}) or any(app.supports_ids[*] in {505})", AppSupportIds, Value::ints([505])),
        ("HT-11", Web, r#"any(app.statuses[*] == "approved")"#, AppOwnStatuses, texts("approved")),
        ("HT-13", Web, r#"http.body_phase == "download""#, BodyPhase, text("download")),
        ("HT-14", Web, r#"http.download.mime == "image/png""#, DownloadMime, text("image/png")),
        ("HT-14", Web, r#"http.upload.mime == "image/png""#, UploadMime, text("image/png")),
        ("HT-15", Web, r#"any(http.download.file.types[*] in {"docx" "7z"})"#, DownloadFileTypes, texts("7z")),
        ("HT-15", Web, r#"any(http.upload.file.types[*] in {"docx" "7z"})"#, UploadFileTypes, texts("docx")),
        ("HT-16", Web, "http.download.file.size >= 10", DownloadFileSize, Value::Int(10)),
        ("HT-16", Web, "http.upload.file.size < 10", UploadFileSize, Value::Int(9)),
        ("HT-17", Web, r#"any(dlp.profiles[*] in {"uuid"})"#, DlpProfiles, texts("uuid")),
        ("HT-18", Web, "any(http.conn.dst_ip[*] in {10.0.0.0/8})", WebDestinationIps, ips("10.1.2.3")),
        ("HT-18", Web, r#"http.dst_ip.geo.continent == "AS""#, DestinationContinent, text("AS")),
        ("HT-18", Web, r#"http.dst_ip.geo.country == "JP""#, DestinationCountry, text("JP")),
        ("HT-19", Web, "http.conn.src_ip == 10.0.0.1", SourceIp, ip("10.0.0.1")),
        ("HT-19", Web, "http.conn.internal_src_ip == 10.0.0.1", SourceInternalIp, ip("10.0.0.1")),
        ("HT-19", Web, r#"http.src_ip.geo.country == "JP""#, SourceCountry, text("JP")),
        ("HT-20", Web, r#"proxy.endpoint == "main""#, ProxyEndpoint, text("main")),
        ("HT-23", Web, r#"net.onramp.type == "proxy""#, OnRamp, text("proxy")),
        ("NW-01", L4, "net.dst.ip in {10.0.0.0/8}", DestinationIp, ip("10.0.0.1")),
        ("NW-02", L4, "net.dst.port in {80 443}", DestinationPort, Value::Int(443)),
        ("NW-03", L4, "net.src.ip in {10.0.0.0/8}", SourceIp, ip("10.0.0.1")),
        ("NW-03", L4, "net.src.port > 1024", SourcePort, Value::Int(2000)),
        ("NW-03", L4, "net.src.internal_src_ip == 10.0.0.1", SourceInternalIp, ip("10.0.0.1")),
        ("NW-04", L4, r#"net.dst.geo.country == "JP" and net.dst.geo.continent != "EU""#, DestinationCountry, text("JP")),
        ("NW-04", L4, r#"net.src.geo.continent == "AS""#, SourceContinent, text("AS")),
        ("NW-05", L4, r#"net.protocol == "tcp""#, Protocol, text("tcp")),
        ("NW-06", L4, r#"net.protocol.detection == "ssh""#, DetectedProtocol, text("ssh")),
        ("NW-07", L4, r#"net.sni.host == "www.example.com""#, SniHost, text("www.example.com")),
        ("NW-07", L4, r#"net.sni.domains == "example.com""#, SniDomains, Value::Parents("www.example.com".into())),
        ("NW-08", L4, "any(net.fqdn.content_category[*] in {1})", FqdnContentCategory, Value::ints([1])),
        ("NW-08", L4, "any(net.fqdn.security_category[*] in {80})", FqdnSecurityCategory, Value::ints([80])),
        ("ID-01", Web, r#"identity.email == "user@example.com""#, UserEmail, text("user@example.com")),
        ("ID-01", Web, r#"identity.name == "Test User""#, UserName, text("Test User")),
        ("ID-02", Web, r#"any(identity.groups[*].id in {"g"})"#, GroupIds, texts("g")),
        ("ID-02", Web, r#"any(identity.groups[*].name in {"g"})"#, GroupNames, texts("g")),
        ("ID-02", Web, r#"any(identity.groups[*].email in {"g"})"#, GroupEmails, texts("g")),
        ("ID-02", Web, r#"any(identity.groups.name[*] in {"finance"})"#, GroupNames, texts("finance")),
        (
            "ID-03",
            Web,
            r#"any(identity.saml_attributes["http://a/name"] in {"Test User"})"#,
            SamlAttributes,
            map("http://a/name", "Test User"),
        ),
        ("ID-04", Web, r#"any(identity.oidc_claims["dept"] in {"it"})"#, OidcClaims, map("dept", "it")),
    ];
    for (row, gate, expression, field, value) in rows {
        let toml = format!("[[rule]]\nname = \"r\"\ngate = \"{}\"\naction = \"block\"\nwhen = '{expression}'\n", gate.as_str());
        let policy = compile(&toml);
        let mut facts = Facts::new(gate);
        facts.reach(*gate.stations().last().expect("a gate has stations"));
        assert_eq!(at(&policy, &facts, Action::Block.question()).0, "allow", "{row} {expression} without the fact");
        assert!(facts.set(field, value), "{row}");
        assert_eq!(at(&policy, &facts, Action::Block.question()).0, "block", "{row} {expression}");
    }
}

/// ON-09: a refusal is by the application's own hosts, everything else by those that it needs too.
#[test]
fn on_09_a_refusal_reads_own_hosts_and_leave_reads_all() {
    let shared_host = |gate: Gate| {
        let mut facts = Facts::new(gate);
        facts.reach(*gate.stations().last().expect("a gate has stations"));
        for (field, value) in [
            (FieldId::AppIds, Value::ints([505, 506])),
            (FieldId::AppSupportIds, Value::ints([505, 506])),
            (FieldId::AppTypeIds, Value::ints([13])),
            (FieldId::AppNames, Value::texts(["Drive", "Mail"])),
            (FieldId::AppStatuses, Value::texts(["unapproved"])),
        ] {
            assert!(facts.set(field, value));
        }
        facts
    };
    for expression in [
        "any(app.ids[*] in {505})",
        "any(app.type.ids[*] in {13})",
        r#"any(app.names[*] == "Drive")"#,
        r#"any(app.statuses[*] == "unapproved")"#,
        r#"not all(app.ids[*] != 505)"#,
    ] {
        for (action, settings, expected) in [
            ("block", "", "allow"),
            ("redirect", "settings = { redirect = { target_uri = \"https://a.example\" } }", "allow"),
            ("off", "", "off"),
            ("noscan", "", "noscan"),
        ] {
            let toml =
                format!("[[rule]]\nname = \"r\"\ngate = \"web\"\naction = \"{action}\"\nwhen = '{expression}'\n{settings}\n");
            let question = match action {
                "off" => Action::DoNotInspect.question(),
                "noscan" => Action::DoNotScan.question(),
                _ => Action::Block.question(),
            };
            assert_eq!(at(&compile(&toml), &shared_host(Gate::Web), question).0, expected, "{action} {expression}");
        }
    }
    let explicit = "[[rule]]\nname = \"r\"\ngate = \"web\"\naction = \"block\"\nwhen = 'any(app.supports_ids[*] in {505})'\n";
    assert_eq!(at(&compile(explicit), &shared_host(Gate::Web), Action::Block.question()).0, "block", "what is written is meant");
}

#[test]
fn selectors_that_are_not_known_here_say_why() {
    for (name, reason) in model::field::NOT_KNOWN_HERE {
        let toml = format!("[[rule]]\nname = \"r\"\ngate = \"web\"\naction = \"block\"\nwhen = 'any({name}[*] == \"x\")'\n");
        let told = told(&problems(&toml));
        assert!(told.contains(name) && told.contains(reason) && told.contains("column 5"), "{told}");
    }
}

#[test]
fn ct_03_the_recommended_block_set_compiles() {
    let policy = compile(
        r#"
        [[rule]]
        name = "threats"
        gate = "dns"
        action = "block"
        when = 'any(dns.security_category[*] in {68 178 80 83 176 175 117 131 134 151 153})'
        "#,
    );
    let mut facts = common::dns("bad.example");
    facts.set(FieldId::DnsSecurityCategory, Value::ints([32, 176]));
    assert_eq!(at(&policy, &facts, Action::Block.question()), ("block", "threats"));
}
