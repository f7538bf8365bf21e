//! All inspectors together: each looks only where it says, none finds anything in an ordinary transaction, and no value of
//! any fact makes one fail.

#![allow(clippy::expect_used, reason = "a test that cannot begin has failed")]

use inspect::INSPECTORS;
use intel::Snapshot;
use model::{Facts, FieldId, Finding, Gate, Type, Value};

fn knowledge() -> Snapshot {
    let mut builder = Snapshot::builder();
    builder.add_brand("paypal.com").add_brand("www.icloud.com");
    builder.build()
}

/// What every inspector of a gate finds when a transaction walks through its stations with all facts known.
fn walk(gate: Gate, facts: &[(FieldId, Value)], knowledge: &Snapshot) -> Vec<Finding> {
    let mut known = Facts::new(gate);
    for (field, value) in facts {
        assert!(known.set(*field, value.clone()), "{field:?}");
    }
    let mut findings = Vec::new();
    for station in gate.stations() {
        known.reach(*station);
        for inspector in INSPECTORS.iter().filter(|inspector| inspector.stations.contains(&(gate, *station))) {
            let found = (inspector.inspect)(&known, knowledge);
            assert!(
                found.iter().all(|finding| *finding.by == *inspector.name && finding.evidence.len() <= 256),
                "{}",
                inspector.name
            );
            findings.extend(found);
        }
    }
    findings
}

fn names(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| &*finding.by).collect()
}

#[test]
fn stations_are_those_of_the_gate_and_names_are_unique() {
    for (place, inspector) in INSPECTORS.iter().enumerate() {
        assert!(!inspector.stations.is_empty(), "{}", inspector.name);
        for (gate, station) in inspector.stations {
            assert!(gate.position(*station).is_some(), "{} {gate:?} {station:?}", inspector.name);
        }
        assert!(INSPECTORS[place + 1..].iter().all(|other| other.name != inspector.name), "{}", inspector.name);
    }
}

#[test]
fn an_ordinary_transaction_has_no_findings() {
    let dns = [
        (FieldId::DnsFqdn, Value::text("www.example.com")),
        (FieldId::DnsResolvedIps, Value::ips(["192.0.2.1".parse().expect("an address")])),
    ];
    let web = [
        (FieldId::HttpHost, Value::text("www.example.com")),
        (FieldId::SniHost, Value::text("www.example.com")),
        (FieldId::HttpUrl, Value::text("https://www.example.com/a?b=c")),
        (FieldId::DownloadMime, Value::text("text/html")),
        (FieldId::FileName, Value::text("index.html")),
        (FieldId::FileType, Value::text("html")),
    ];
    for knowledge in [Snapshot::empty(), knowledge()] {
        assert_eq!(walk(Gate::Dns, &dns, &knowledge), []);
        assert_eq!(walk(Gate::Web, &web, &knowledge), []);
        for gate in Gate::ALL {
            assert_eq!(walk(*gate, &[], &knowledge), []);
        }
    }
}

#[test]
fn a_name_is_looked_at_once_whatever_the_gate() {
    let bad = Value::text("www.paypa1.com");
    let knowledge = knowledge();
    assert_eq!(names(&walk(Gate::Dns, &[(FieldId::DnsFqdn, bad.clone())], &knowledge)), ["name.lookalike"]);
    let inspected = [(FieldId::SniHost, bad.clone()), (FieldId::HttpHost, bad)];
    assert_eq!(names(&walk(Gate::Web, &inspected, &knowledge)), ["name.lookalike"]);
    assert_eq!(walk(Gate::Dns, &inspected[..1], &Snapshot::empty()), [], "no brand, no look-alike");
}

#[test]
fn a_bad_download_has_its_findings_in_order() {
    let facts = [
        (FieldId::HttpHost, Value::text("192.0.2.1")),
        (FieldId::SniHost, Value::text("x")),
        (FieldId::HttpUrl, Value::text("http://192.0.2.1/a?password=hunter2")),
        (FieldId::DownloadMime, Value::text("image/png")),
        (FieldId::FileType, Value::text("exe")),
        (FieldId::FileName, Value::text(format!("{}é.png.exe", "a".repeat(254)))),
    ];
    let findings = walk(Gate::Web, &facts, &Snapshot::empty());
    assert_eq!(names(&findings), ["url.address", "url.credential", "file.disguise", "file.disguise"]);
    assert!(!format!("{findings:?}").contains("hunter2"));
}

/// Odd texts in every text fact, one at a time and all together.
#[test]
fn no_value_makes_an_inspector_fail() {
    let long = "a".repeat(100_000);
    let dots = ".".repeat(1000);
    let odd = [
        "",
        ".",
        "..",
        "xn--",
        "xn--.xn--99999999.com",
        "\u{202e}",
        "日本語.例え",
        "[",
        "[::1",
        "@:@",
        "://@:",
        "?&=&=",
        "a@b:c",
        "%00",
        "\0",
        "xn--a.xn--b.co.uk",
        "1.2.3.4.5.6",
        "é.é.é",
        long.as_str(),
        dots.as_str(),
    ];
    let knowledge = knowledge();
    let texts: Vec<FieldId> = FieldId::all().filter(|field| field.row().ty == Type::Text).collect();
    for text in odd {
        let all: Vec<(FieldId, Value)> = texts.iter().map(|field| (*field, Value::text(text))).collect();
        for gate in Gate::ALL {
            walk(*gate, &all, &knowledge);
            for one in &all {
                walk(*gate, std::slice::from_ref(one), &knowledge);
            }
        }
    }
}
