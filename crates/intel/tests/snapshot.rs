//! What a snapshot says: inheritance (CT-06), exceptions, addresses, URLs, hashes and applications (ON-09).
#![allow(clippy::expect_used, reason = "a test that cannot begin has failed")]

use intel::list::{Format, LIMITS, parse};
use intel::{Catalogue, CategoryKind, NamedList, Snapshot};

fn snapshot(lists: &[(&str, CategoryKind, &str)]) -> Snapshot {
    let mut builder = Snapshot::builder();
    for (number, (name, category, text)) in lists.iter().enumerate() {
        let parsed = parse(Format::Auto, text.as_bytes(), LIMITS);
        assert_eq!(parsed.skipped, []);
        for list in NamedList::from_parsed(name, Some(number as i64 + 1), Some(*category), parsed) {
            builder.add_list(list);
        }
    }
    builder.build()
}

const ADS: CategoryKind = CategoryKind::Content(66);
const BUSINESS: CategoryKind = CategoryKind::Content(75);
const MALWARE: CategoryKind = CategoryKind::Security(117);

#[test]
fn an_empty_snapshot_knows_nothing() {
    for snapshot in [Snapshot::empty(), Snapshot::builder().build()] {
        assert!(snapshot.name("example.com").is_empty());
        assert!(snapshot.name("").is_empty());
        assert!(snapshot.address("192.0.2.1".parse().expect("an address")).is_empty());
        assert!(snapshot.url("not a url").is_empty());
        assert!(snapshot.hash("00").is_empty());
    }
}

/// CT-06.
#[test]
fn a_subdomain_inherits_until_it_has_a_category_of_its_own() {
    let snapshot = snapshot(&[
        ("ads", ADS, "example.com\n"),
        ("business", BUSINESS, "shop.example.com\n"),
        ("bad", MALWARE, "example.com\n"),
    ]);
    assert_eq!(**snapshot.name("www.example.com").content, [66]);
    assert_eq!(**snapshot.name("a.shop.example.com").content, [75]);
    assert_eq!(**snapshot.name("a.shop.example.com").security, [117], "a content category hides no threat");
    assert!(snapshot.name("badexample.com").is_empty());
    assert!(snapshot.name("com").is_empty());
}

#[test]
fn a_name_in_several_lists_carries_all_of_them() {
    let snapshot = snapshot(&[("b", BUSINESS, "x.example\n"), ("a", ADS, "x.example\nx.example\n")]);
    let knowledge = snapshot.name("x.example");
    assert_eq!(**knowledge.content, [66, 75]);
    assert_eq!(**knowledge.feeds, [1, 2]);
}

#[test]
fn an_exception_acts_on_its_own_list_and_below() {
    let ads = "||ads.example^\n@@||good.ads.example^\n||deep.good.ads.example^\n";
    let snapshot = snapshot(&[("ads", ADS, ads), ("bad", MALWARE, "||ads.example^\n")]);
    assert_eq!(**snapshot.name("x.ads.example").content, [66]);
    for name in ["good.ads.example", "x.good.ads.example", "deep.good.ads.example"] {
        let knowledge = snapshot.name(name);
        assert!(knowledge.content.is_empty(), "{name}");
        assert_eq!(**knowledge.security, [117], "{name}");
        assert_eq!(**knowledge.feeds, [2], "{name}");
    }
}

#[test]
fn an_exception_of_a_name_alone_or_of_what_is_below_is_kept_apart() {
    let zone = "$TTL 1\n*.a.example CNAME .\nexact.a.example CNAME rpz-passthru.\n*.b.example CNAME .\nb.example CNAME .\n*.b.example CNAME rpz-passthru.\n";
    let snapshot = snapshot(&[("rpz", MALWARE, zone), ("other", ADS, "*.exact.a.example\n")]);
    assert_eq!(**snapshot.name("x.a.example").security, [117]);
    assert!(snapshot.name("exact.a.example").is_empty());
    assert_eq!(**snapshot.name("x.exact.a.example").security, [117]);
    assert_eq!(**snapshot.name("x.exact.a.example").content, [66]);
    assert_eq!(**snapshot.name("b.example").security, [117]);
    assert!(snapshot.name("x.b.example").is_empty());
}

#[test]
fn exceptions_of_two_lists_nest() {
    let snapshot =
        snapshot(&[("ads", ADS, "||a.example^\n@@||b.a.example^\n"), ("bad", MALWARE, "||a.example^\n@@||c.b.a.example^\n")]);
    assert_eq!(**snapshot.name("b.a.example").security, [117]);
    assert!(snapshot.name("c.b.a.example").is_empty());
    assert!(snapshot.name("d.c.b.a.example").is_empty());
}

#[test]
fn a_wildcard_leaves_its_own_name_alone() {
    let snapshot = snapshot(&[("ads", ADS, "*.example.com\n"), ("rpz", MALWARE, "$TTL 1\nonly.example.net CNAME .\n")]);
    assert!(snapshot.name("example.com").is_empty());
    assert_eq!(**snapshot.name("a.b.example.com").content, [66]);
    assert_eq!(**snapshot.name("only.example.net").security, [117]);
    assert!(snapshot.name("below.only.example.net").is_empty());
}

#[test]
fn addresses_urls_and_hashes_are_found_in_any_spelling() {
    let hash = "ab".repeat(32);
    let text = format!("192.0.2.0/24\n2001:db8::/32\nhttps://bad.example/tool.exe\n{hash}\n");
    let snapshot = snapshot(&[("bad", MALWARE, &text)]);
    for ip in ["192.0.2.9", "2001:db8::9", "::ffff:192.0.2.9"] {
        assert_eq!(**snapshot.address(ip.parse().expect("an address")).security, [117], "{ip}");
    }
    assert!(snapshot.address("192.0.3.0".parse().expect("an address")).is_empty());
    for url in ["http://BAD.example/tool.exe", "https://bad.example:443/tool.exe?session=1#top"] {
        assert_eq!(**snapshot.url(url).security, [117], "{url}");
    }
    assert!(snapshot.url("https://bad.example/TOOL.exe").is_empty());
    assert_eq!(**snapshot.hash(&hash.to_uppercase()).security, [117]);
    assert_eq!(snapshot.entries(), 4);
}

#[test]
fn definitions_follow_the_content() {
    let first = snapshot(&[("a", ADS, "x.example\n")]);
    assert_eq!(first.definitions(), snapshot(&[("a", ADS, "x.example\n")]).definitions());
    for other in [("a", ADS, "y.example\n"), ("a", BUSINESS, "x.example\n"), ("b", ADS, "x.example\n"), ("a", ADS, "192.0.2.1\n")]
    {
        assert_ne!(first.definitions(), snapshot(&[other]).definitions(), "{other:?}");
    }
}

/// ON-09: a host that several applications share is a support host of each, and blocking one looks at its own only.
#[test]
fn shared_hosts_are_nobodys_own() {
    let mut builder = Snapshot::builder();
    let catalogue = Catalogue::embedded().expect("the catalogue that ships");
    let id = |name: &str| catalogue.named(name).map(|application| application.id).expect(name);
    let (drive, gmail, dropbox) = (id("Google Drive"), id("Gmail"), id("Dropbox"));
    builder.catalogue(catalogue);
    let snapshot = builder.build();
    let login = snapshot.name("accounts.google.com").applications;
    assert!(login.own_ids.is_empty());
    assert!(login.ids.contains(&drive) && login.ids.contains(&gmail));
    let own = snapshot.name("content.dropboxapi.com").applications;
    assert_eq!(*own.own_ids, [dropbox]);
    assert_eq!(&*own.names[0], "Dropbox");
    assert_eq!(&*own.statuses[0], "unreviewed");
    assert_eq!(snapshot.omitted(), 0);
}

#[test]
fn the_catalogues_that_ship_are_whole() {
    let catalogue = Catalogue::embedded().expect("the catalogue that ships");
    assert!(catalogue.applications.len() >= 400);
    let slack = catalogue.named("Slack").expect("Slack");
    assert!(slack.hosts.iter().any(|host| **host == *"slack-core.com"), "the second file adds to the first");
    let pinned = intel::pinned::embedded().expect("the list that ships");
    for application in &pinned {
        assert!(!application.reason.is_empty() && !application.hosts.is_empty(), "{}", application.application);
        assert!(application.hosts.iter().all(|host| intel::list::is_name(host)), "{}", application.application);
    }
}

#[test]
fn a_catalogue_with_a_mistake_is_refused() {
    let head = "source = \"x\"\n[[type]]\nid = 1\nname = \"t\"\n";
    for (problem, body) in [
        ("undeclared type", "[[application]]\nid = 1\nname = \"a\"\ntype = 2\nhosts = [\"a.example\"]\n"),
        ("no hosts", "[[application]]\nid = 1\nname = \"a\"\ntype = 1\nhosts = []\n"),
        ("upper case", "[[application]]\nid = 1\nname = \"a\"\ntype = 1\nhosts = [\"A.example\"]\n"),
        (
            "a second name",
            "[[application]]\nid = 1\nname = \"a\"\ntype = 1\nhosts = [\"a.example\"]\n[[application]]\nid = 1\nname = \"b\"\nhosts = [\"b.example\"]\n",
        ),
        ("no name and no such number", "[[application]]\nid = 1\nhosts = [\"a.example\"]\n"),
        ("a name without a type", "[[application]]\nid = 1\nname = \"a\"\nhosts = [\"a.example\"]\n"),
        ("unknown key", "[[application]]\nid = 1\nname = \"a\"\ntype = 1\nhosts = [\"a.example\"]\nowner = 1\n"),
    ] {
        assert!(Catalogue::parse(&format!("{head}{body}")).is_err(), "{problem}");
    }
}

/// TL-05: only the host and what is below it.
#[test]
fn pinned_hosts_are_known_with_their_application() {
    let mut builder = Snapshot::builder();
    builder.pinned(intel::pinned::embedded().expect("the list that ships"));
    let snapshot = builder.build();
    assert_eq!(snapshot.pinned("chat.signal.org").map(|name| &**name), Some("Signal"));
    assert_eq!(snapshot.pinned("1.push.apple.com").map(|name| &**name), Some("Apple push notifications"));
    for other in ["signal.org", "notwhatsapp.net", "whatsapp.net.evil.example", "apple.com"] {
        assert_eq!(snapshot.pinned(other), None, "{other}");
    }
    assert_ne!(snapshot.definitions(), Snapshot::builder().build().definitions());
}
