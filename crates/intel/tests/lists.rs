//! The list readers: what each format says, what is refused and where, and that any bytes give a value.

use intel::Scope;
use intel::list::{Format, LIMITS, Limits, Parsed, Reason, canonical_url, parse};

fn read(format: Format, text: &str) -> Parsed {
    parse(format, text.as_bytes(), LIMITS)
}

fn names(entries: &intel::Entries) -> Vec<(&str, Scope)> {
    entries.iter().collect()
}

#[test]
fn lines_that_cannot_be_followed_are_reported_with_their_number() {
    let parsed = read(
        Format::Adblock,
        "! a title\n||ok.example^\n||ads.example^$client=10.0.0.1\n/banner[0-9]+/\nexample.com##.ad\n||bad_*_x.example^\n",
    );
    assert_eq!(names(&parsed.entries), [("ok.example", Scope::Whole)]);
    let lines: Vec<usize> = parsed.skipped.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [3, 4, 5, 6]);
    assert!(parsed.skipped.iter().all(|(_, reason)| *reason == Reason::NotByName));
}

#[test]
fn bounds_are_kept() {
    let limits = Limits { entries_max: 2, line_bytes_max: 20, skipped_max: 1 };
    let parsed = parse(Format::Plain, b"a.example\nb.example\nc.example\nthis-line-is-far-too-long.example\n\xff\xfe\n", limits);
    assert_eq!(parsed.entries.len(), 2);
    assert_eq!(parsed.skipped, [(3, Reason::Full)]);
    assert_eq!(parsed.skipped_count, 3);
}

#[test]
fn hosts_files_name_hosts_and_not_the_machine() {
    let text = "\u{feff}# comment\n127.0.0.1 localhost\n::1 ip6-localhost\n0.0.0.0 Ads.Example. track.example # why\n0.0.0.0 0.0.0.0\nnot an address\n";
    let parsed = read(Format::Auto, text);
    assert_eq!(names(&parsed.entries), [("ads.example", Scope::Whole), ("track.example", Scope::Whole)]);
    assert_eq!(parsed.skipped, [(6, Reason::NotAnEntry)]);
}

#[test]
fn adblock_exceptions_and_important() {
    let text = "||ads.example^\n@@||good.ads.example^\n@@||bad.example^|\n||bad.example^$important\n|exact.example^\n||*.below.example^\n||192.0.2.7^\n";
    let parsed = read(Format::Auto, text);
    assert_eq!(
        names(&parsed.entries),
        [("ads.example", Scope::Whole), ("exact.example", Scope::Exact), ("below.example", Scope::Below)]
    );
    assert_eq!(names(&parsed.exceptions), [("good.ads.example", Scope::Whole), ("bad.example", Scope::Whole)]);
    assert_eq!(names(&parsed.important), [("bad.example", Scope::Whole)]);
    assert_eq!(parsed.addresses.texts().collect::<Vec<_>>(), ["192.0.2.7"]);
}

/// An exception gives way to an important rule, and an important exception does not; neither changes what the other rules
/// of the list say.
#[test]
fn important_rules_are_decided_among_themselves() {
    let text = "||ads.example^\n||other.example^\n@@||example^\n||ads.example^$important\n\
        @@||fine.ads.example^\n@@||best.ads.example^$important\n";
    let mut builder = intel::Snapshot::builder();
    let parsed = read(Format::Adblock, text);
    for list in intel::NamedList::from_parsed("test", Some(3), Some(intel::CategoryKind::Security(117)), parsed) {
        builder.add_list(list);
    }
    let snapshot = builder.build();
    let is_known = |name| snapshot.name(name).security.as_ref() == [117];
    assert!(is_known("ads.example") && is_known("fine.ads.example"));
    assert!(!is_known("other.example") && !is_known("best.ads.example"));
    assert_eq!(snapshot.name("ads.example").feeds.as_ref(), [3]);
}

/// What a zone file may hold beside one record a line (RFC 1035 section 5.1), and what is told rather than guessed.
#[test]
fn response_policy_zones_are_read_as_zone_files() {
    let text = "rpz.example. 2h IN SOA ns.rpz.example. host.rpz.example. (\n  1 ; serial\n  3600 600\n  86400 60 )\n\
        rpz.example. IN NS localhost.\nbad.example.rpz.example. 1h IN CNAME .\n  TXT \"why\"\n*.bad.example.rpz.example. CNAME .\n\
        $INCLUDE more.zone\nodd.example.rpz.example. DNAME elsewhere.example.\n32.7.2.0.192.rpz-client-ip.rpz.example. CNAME .\n\
        32.53.2.0.192.rpz-nsip.rpz.example. CNAME .\nns.example.rpz-nsdname.rpz.example. CNAME .\n\
        garden.example.rpz.example. CNAME walled.garden.\n";
    let parsed = read(Format::Rpz, text);
    let held = names(&parsed.entries);
    assert_eq!(held.first(), Some(&("bad.example", Scope::Exact)));
    assert_eq!(held.last(), Some(&("bad.example", Scope::Below)));
    assert!(held.iter().all(|(name, _)| *name == "bad.example"));
    assert_eq!(
        parsed.skipped,
        [
            (9, Reason::Directive),
            (10, Reason::OtherPolicy),
            (11, Reason::NotByName),
            (12, Reason::NotByName),
            (13, Reason::NotByName),
            (14, Reason::OtherPolicy),
        ]
    );
}

#[test]
fn plain_lists_hold_names_addresses_urls_and_hashes() {
    let hash = "AB".repeat(32);
    let text = format!(
        "# title\nbad.example # note\n*.below.example\n192.0.2.0/24 ; SBL1\n2001:db8::1\nhttps://bad.example/a#b\n{hash}\nnot a name\n"
    );
    let parsed = read(Format::Auto, &text);
    assert_eq!(names(&parsed.entries), [("bad.example", Scope::Whole), ("below.example", Scope::Below)]);
    assert_eq!(parsed.addresses.texts().collect::<Vec<_>>(), ["192.0.2.0/24", "2001:db8::1"]);
    assert_eq!(parsed.urls.texts().collect::<Vec<_>>(), ["https://bad.example/a#b"]);
    assert_eq!(parsed.hashes.texts().collect::<Vec<_>>(), [hash.to_lowercase()]);
    assert_eq!(parsed.skipped, [(8, Reason::NotAnEntry)]);
}

#[test]
fn response_policy_zones_keep_their_policies_apart() {
    let text = "$TTL 300\n$ORIGIN rpz.example.\n@ IN SOA localhost. root.localhost. 1 2 3 4 5\n@ IN NS localhost.\n\
        bad.example CNAME .\n*.bad.example 300 IN CNAME . ; both\nabsolute.example.rpz.example. CNAME *.\n\
        good.bad.example CNAME rpz-passthru.\ndrop.example CNAME rpz-drop.\nelse.example CNAME walled.garden.\n\
        24.0.2.0.192.rpz-ip CNAME .\n128.1.zz.db8.2001.rpz-ip CNAME .\nns.example.rpz-nsdname CNAME .\n";
    let parsed = read(Format::Auto, text);
    assert_eq!(
        names(&parsed.entries),
        [
            ("bad.example", Scope::Exact),
            ("bad.example", Scope::Below),
            ("absolute.example", Scope::Exact),
            ("drop.example", Scope::Exact)
        ]
    );
    assert_eq!(names(&parsed.exceptions), [("good.bad.example", Scope::Exact)]);
    assert_eq!(parsed.addresses.texts().collect::<Vec<_>>(), ["192.0.2.0/24", "2001:db8::1/128"]);
    let reasons: Vec<Reason> = parsed.skipped.iter().map(|(_, reason)| *reason).collect();
    assert_eq!(reasons, [Reason::OtherPolicy, Reason::NotByName]);
}

#[test]
fn urls_that_mean_the_same_compare_equal() {
    let canonical = canonical_url("HTTP://User@Bad.Example:80/A?b#c");
    assert_eq!(canonical.as_deref(), Some("bad.example/A?b"));
    assert_eq!(canonical_url("https://bad.example"), canonical_url("https://bad.example:443/"));
    for refused in ["bad.example/a", "ftp://bad.example/", "http:///x", "https://bad.example/a b", ""] {
        assert_eq!(canonical_url(refused), None, "{refused}");
    }
}

/// A fixed sequence stands for hostile bytes; every prefix of every format's sample is read too.
#[test]
fn any_bytes_give_a_value() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::new();
    for _ in 0..20_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.push(b"|@^$*./:;# \n\t0aZ-_\xff\xc3zz"[(state >> 33) as usize % 22]);
    }
    let rpz: &[u8] = b"$ORIGIN x.\na.rpz-ip CNAME .\n*.zz.zz.rpz-ip CNAME rpz-passthru.\n.. CNAME .";
    for format in [Format::Auto, Format::Hosts, Format::Adblock, Format::Plain, Format::Rpz] {
        for length in (0..rpz.len()).chain([0]) {
            parse(format, &rpz[..length], LIMITS);
        }
        let parsed = parse(format, &bytes, LIMITS);
        assert!(parsed.skipped.len() <= LIMITS.skipped_max);
        assert!(parsed.entries.texts().all(intel::list::is_name));
    }
}
