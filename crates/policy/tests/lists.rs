//! Lists of every kind: what they hold, what a look-up finds, and how much memory a million names take.
#![allow(clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use common::{at, compile, dns, document};
use model::{Facts, FieldId, Gate, Question, Station, Value};
use policy::Policy;
use policy::list::{ENTRIES_MAX, Kind, Table};

/// What a list of a million domains may take.
const MILLION_BYTES_MAX: usize = 40 * 1024 * 1024;

fn table(kind: Kind, entries: &[&str]) -> Table {
    let (table, problems) = Table::build(kind, entries.iter().copied());
    assert!(problems.is_empty(), "{problems:?}");
    table
}

#[test]
fn look_ups_follow_the_kind() {
    let domains = table(Kind::Domain, &["Example.com.", "b.example.org", " padded.example ", "", "example.com"]);
    assert_eq!(domains.len(), 3);
    for (name, is_in) in
        [("example.com", true), ("EXAMPLE.com.", true), ("www.example.com", false), ("padded.example", true), ("", false)]
    {
        assert_eq!(domains.has_text(name), is_in, "{name}");
    }
    let urls = table(Kind::Url, &["https://a/B"]);
    assert!(urls.has_text("https://a/B") && !urls.has_text("https://a/b"));
    let hashes = table(
        Kind::Hash,
        &["275A021BBFB6489E54D471899F7DB9D1663FC695EC2FE2A2C4538AABF651FD0F", "44d88612fea8a8f36de82e1278abb02f"],
    );
    assert!(hashes.has_text("275a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f"));
    assert!(hashes.has_text("44D88612FEA8A8F36DE82E1278ABB02F") && !hashes.has_text("44d8") && !hashes.has_text("zz"));
    let emails = table(Kind::Email, &["Ann@Example.com"]);
    assert!(emails.has_text("ann@example.com") && emails.has_text("ANN@EXAMPLE.COM") && !emails.has_text("ann"));
    let ips = table(Kind::Ip, &["10.0.0.0/8", "192.0.2.5..192.0.2.9", "2001:db8::/32", "198.51.100.1"]);
    for (ip, is_in) in [
        ("10.255.255.255", true),
        ("11.0.0.0", false),
        ("192.0.2.9", true),
        ("192.0.2.10", false),
        ("2001:db8:ffff::", true),
        ("::1", false),
    ] {
        assert_eq!(ips.has_ip(ip.parse::<IpAddr>().expect("address")), is_in, "{ip}");
    }
    let ints = table(Kind::Int, &["68", "80", "-1"]);
    assert!(ints.has_int(68) && ints.has_int(-1) && !ints.has_int(69));
    assert!(!ints.has_text("68") && !domains.has_int(1));
    let (_, problems) = Table::build(Kind::Domain, ["ok.example", "*.x", "http://y", "a b"].into_iter());
    assert_eq!(problems.len(), 3);
    let (_, problems) = Table::build(Kind::Ip, vec!["x"; 100].into_iter());
    assert_eq!(problems.len(), 21, "twenty by name and one for the rest");
}

#[test]
fn a_domain_in_a_list_covers_all_below_it_on_the_parents_only() {
    let policy = compile(
        r#"
        [[rule]]
        name = "exact"
        gate = "dns"
        action = "block"
        when = 'dns.fqdn in $01302951-49f9-47c9-a400-0297e60b6a10'
        [[rule]]
        name = "within"
        gate = "dns"
        action = "block"
        when = 'any(dns.domains[*] in $bad-names)'
        [[list]]
        id = "01302951-49f9-47c9-a400-0297e60b6a10"
        name = "bad-names"
        kind = "domain"
        entries = ["bad.example"]
        "#,
    );
    assert_eq!(at(&policy, &dns("bad.example"), Question::Access), ("block", "exact"));
    assert_eq!(at(&policy, &dns("very.bad.example"), Question::Access), ("block", "within"));
    assert_eq!(at(&policy, &dns("notbad.example"), Question::Access), ("allow", ""));
    assert!(policy.list("bad-names").is_some() && policy.list("other").is_none());
    assert!(
        policy::Filter::parse_with("any(dns.domains[*] in $bad-names)", &policy).expect("filter").matches(&dns("a.bad.example"))
    );
}

#[test]
fn a_list_with_a_source_is_filled_from_outside() {
    let document = document(
        r#"
        [[rule]]
        name = "feed"
        gate = "web"
        action = "block"
        when = 'any(http.conn.dst_ip[*] in $feed)'
        [[list]]
        name = "feed"
        kind = "ip"
        source = "https://feeds.example/ips.txt"
        "#,
    );
    let mut facts = Facts::new(Gate::Web);
    facts.reach(Station::Handshake);
    facts.set(FieldId::WebDestinationIps, Value::ips(["192.0.2.1".parse().expect("address")]));
    let (empty, warnings) = Policy::compile(&document).expect("compiles without its contents");
    assert_eq!(warnings.len(), 1);
    assert_eq!(at(&empty, &facts, Question::Access).0, "allow");
    let fill = |kind, entry| BTreeMap::from([("feed".to_owned(), Arc::new(table(kind, &[entry])))]);
    let (filled, warnings) = Policy::compile_with(&document, &fill(Kind::Ip, "192.0.2.0/24")).expect("compiles");
    assert!(warnings.is_empty());
    assert_eq!(at(&filled, &facts, Question::Access).0, "block");
    assert!(Policy::compile_with(&document, &fill(Kind::Domain, "a.example")).is_err());
}

/// Names of 20 bytes on the average, as in the public block lists.
fn million() -> Vec<String> {
    (0..ENTRIES_MAX as u64).map(|n| format!("{:x}.{}.example", n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 28, n % 977)).collect()
}

#[test]
fn a_million_domains_stay_under_forty_mebibytes() {
    let names = million();
    let average = names.iter().map(String::len).sum::<usize>() / names.len();
    assert!((18..=24).contains(&average), "{average} bytes a name");
    let (table, problems) = Table::build(Kind::Domain, names.iter().map(String::as_str));
    assert!(problems.is_empty());
    assert!(table.heap_bytes() < MILLION_BYTES_MAX, "{} bytes", table.heap_bytes());
    assert!(table.len() > 990_000);
    assert!(names.iter().step_by(997).all(|name| table.has_text(name)));
    assert!(!names.iter().step_by(997).any(|name| table.has_text(&name[1..]) && !names.contains(&name[1..].to_owned())));
    let longer: Vec<String> = names.into_iter().chain(["one.more.example".to_owned()]).collect();
    let (_, problems) = Table::build(Kind::Domain, longer.iter().map(String::as_str));
    assert!(problems.iter().any(|problem| problem.to_string().contains("at most 1000000 entries")), "{problems:?}");
}
