//! What a policy is refused for, and that the message says where, what was expected and the nearest known name; limits of
//! the language (WF-12); and that no text whatever makes the parser fall over.
#![allow(clippy::expect_used, clippy::panic)]

mod common;

use common::{compiled, document, problems, told, warnings};
use policy::{Filter, MATRIX, Policy, WarningKind, permits_station};

/// Expression, line and column, what the message contains, and the nearest name.
type Row = (&'static str, (usize, usize), &'static str, Option<&'static str>);

/// Expression, line and column, what the message contains, and the nearest name.
const EXPRESSIONS: &[Row] = &[
    (r#"dns.fqdm == "x""#, (1, 1), "there is no field `dns.fqdm`", Some("dns.fqdn")),
    ("true and\n  http.request.hots == \"x\"", (2, 3), "there is no field", Some("http.request.host")),
    (r#"dns.fqdn = "x""#, (1, 10), "`=` means nothing here", None),
    (r#"dns.fqdn == x"#, (1, 13), "text in quotes, `\"x\"`", None),
    (r#"dns.fqdn == 1"#, (1, 13), "text in quotes", None),
    (r#"dns.fqdn"#, (1, 1), "a Bytes alone is neither true nor false", None),
    (r#"dns.fqdn =="#, (1, 12), "the expression ends too early", None),
    (r#"dns.fqdn == "x" dns.rcode == "y""#, (1, 17), "expected `and`, `or`, `xor` or the end", None),
    (r#"dns.fqdn == "x"#, (1, 13), "does not end", None),
    (r##"dns.fqdn == r#"x""##, (1, 13), "does not end", None),
    (r#"dns.fqdn == "\q""#, (1, 13), "escape", None),
    (r#"dns.fqdn == "\xFF""#, (1, 13), "not UTF-8", None),
    (r#"(dns.fqdn == "x""#, (1, 17), "expected `)`", None),
    (r#"dns.fqdn in {"a" 5}"#, (1, 18), "text in quotes", None),
    (r#"dns.fqdn in {"a""#, (1, 17), "ends too early", None),
    ("dns.src_ip == 10.0.0.0/8", (1, 15), "use `in {...}` for a network", None),
    ("dns.src_ip in {10.0.0.300}", (1, 16), "an address, a network or a range", None),
    ("dns.src_ip in {10.0.0.9..10.0.0.1}", (1, 16), "an address, a network or a range", None),
    ("http.response.status_code == abc", (1, 30), "expected a number", None),
    ("http.response.status_code == 99999999999999999999", (1, 30), "expected a number", None),
    (r#"http.response.status_code contains "2""#, (1, 27), "`contains` does not work on Int", None),
    ("dns.fqdn & 1", (1, 10), "`&` does not work on Bytes", None),
    (r#"dns.fqdn matches "(""#, (1, 18), "the pattern cannot be used", None),
    (r#"dns.fqdn matches "a(?=b)""#, (1, 18), "look-around", None),
    (r#"dns.fqdn matches "(a)\1""#, (1, 18), "the pattern cannot be used", None),
    (r#"dns.fqdn wildcard "a**""#, (1, 19), "two stars in a row", None),
    (r#"dns.fqdn wildcard "a\\b""#, (1, 19), "escapes nothing", None),
    (r#"dns.fqdn strict "a""#, (1, 10), "`strict wildcard`", None),
    (r#"dns.domains[*] == "x""#, (1, 1), "`any(...)` or `all(...)` around it", None),
    (r#"any(dns.fqdn == "x")"#, (1, 1), "nothing in here runs over an array", None),
    (r#"any(any(dns.domains[*] == "x"))"#, (1, 5), "do not nest", None),
    (r#"any(dns.domains[*] == "x" and true)"#, (1, 27), "`and` inside `any` would be said of one element", None),
    (r#"any(dns.domains[*] == "x" true)"#, (1, 27), "expected `)`", None),
    (r#"dns.fqdn[0] == "x""#, (1, 9), "no index", None),
    (r#"dns.domains["a"] == "x""#, (1, 12), "`[*]` or `[0]`", None),
    (r#"identity.saml_attributes == "x""#, (1, 26), "`[\"name\"]` after it", None),
    (r#"any(identity.groups[*].nam == "x")"#, (1, 23), "`.id`, `.name` or `.email`", None),
    ("dns.fqdn in $nowhere", (1, 13), "there is no list `nowhere`", None),
    ("dns.fqdn in $", (1, 13), "`$` without a name", None),
    (r#"lowr(dns.fqdn) == "x""#, (1, 1), "there is no function `lowr`", Some("lower")),
    (r#"lower(dns.src_ip) == "x""#, (1, 17), "expected text", None),
    (r#"concat(dns.domains[*], identity.groups.name[*]) == "x""#, (1, 24), "one `[*]` in a call", None),
    (r#"event.time > "yesterday""#, (1, 14), "a time as", None),
    ("scan.malicious == 1", (1, 19), "`true` or `false`", None),
    ("scan.malicious in {true}", (1, 20), "before `in`", None),
    ("dns.fqdn == \"日本\" and ¤", (1, 22), "means nothing here", None),
    (r#"access.target"#, (1, 1), "not known here: access applications", None),
];

#[test]
fn an_error_says_where_what_and_the_nearest_name() {
    for (expression, (line, column), message, nearest) in EXPRESSIONS {
        let problem = Filter::parse(expression).map(|filter| filter.canonical()).expect_err(expression);
        let told = problem.to_string();
        assert!(told.contains(message), "{expression}: {told}");
        let position = problem.position.unwrap_or_else(|| panic!("{expression}: {told}"));
        assert_eq!((position.line, position.column), (*line, *column), "{expression}: {told}");
        assert_eq!(problem.nearest.as_deref(), *nearest, "{expression}: {told}");
    }
}

#[test]
fn wf_12_limits_hold_at_their_edge() {
    let parentheses = |depth: usize| format!("{}true{}", "(".repeat(depth), ")".repeat(depth));
    assert!(Filter::parse(&parentheses(128)).is_ok());
    assert!(Filter::parse(&parentheses(129)).expect_err("too deep").to_string().contains("at most 128 levels"));
    assert!(Filter::parse(&format!("{}true", "not ".repeat(128))).is_ok());
    assert!(Filter::parse(&format!("{}true", "not ".repeat(129))).is_err());
    assert!(Filter::parse(&format!("{}true", "true xor ".repeat(129))).is_err());
    let calls = |depth: usize| format!("{}dns.fqdn{} == \"x\"", "lower(".repeat(depth), ")".repeat(depth));
    assert!(Filter::parse(&calls(128)).is_ok());
    assert!(Filter::parse(&calls(129)).is_err());
    let stars = |count: usize| format!("dns.fqdn wildcard \"{}\"", "a*".repeat(count));
    assert!(Filter::parse(&stars(16)).is_ok());
    assert!(Filter::parse(&stars(17)).expect_err("too many").to_string().contains("at most 16"));
    let pattern = |count: usize| format!("dns.fqdn matches \"(\\\\pL{{{count}}}){{{count}}}\"").replace("\\\\", "\\");
    assert!(Filter::parse(&pattern(2)).is_ok());
    assert!(Filter::parse(&pattern(900)).is_err());
    let wide = format!("dns.fqdn in {{{}}}", "\"a\" ".repeat(70_000));
    assert!(Filter::parse(&wide).expect_err("too long").to_string().contains("at most 262144 bytes"));
    assert!(Filter::parse("true or ".repeat(30_000).trim_end_matches(" or ")).is_ok());
}

fn rule(gate: &str, action: &str, when: &str, more: &str) -> String {
    format!("[[rule]]\nname = \"r\"\ngate = \"{gate}\"\naction = \"{action}\"\nwhen = '{when}'\n{more}\n")
}

#[test]
fn pairs_that_cannot_be_enforced_are_refused_by_name() {
    for (gate, action, when, more, expected) in [
        ("web", "off", r#"http.request.uri.path == "/a""#, "", "`off` with `http.request.uri.path`"),
        ("web", "off", r#"http.body_phase == "upload""#, "", "`off` with `http.body_phase`"),
        ("web", "noisolate", "http.response.status_code == 200", "", "`noisolate` with `http.response.status_code`"),
        ("web", "isolate", "", "", "`isolate` is not carried out at `web`: there is no remote browser to open the page in"),
        ("web", "quarantine", "", "", "`quarantine` is not carried out at `web`: there is no sandbox that runs files"),
        (
            "web",
            "redirect",
            r#"any(http.download.file.types[*] == "exe")"#,
            "settings.redirect.target_uri = \"https://a/\"",
            "`redirect` with `http.download.file.types`",
        ),
        ("web", "noscan", r#"file.sha256 == "x""#, "", "`noscan` with `file.sha256`"),
        (
            "dns",
            "override",
            "any(dns.resolved_ips[*] == 192.0.2.1)",
            "settings.override_host = \"a\"",
            "`override` with `dns.resolved_ips`",
        ),
        ("dns", "safesearch", r#"dns.dst.geo.country == "JP""#, "", "`safesearch` with `dns.dst.geo.country`"),
        ("dns", "ytrestricted", r#"any(dns.response.cname[*] == "x")"#, "", "`ytrestricted` with `dns.response.cname`"),
        ("dns", "resolve", r#"dns.rcode == "X""#, "settings.resolvers = [\"192.0.2.1:53\"]", "`resolve` with `dns.rcode`"),
        ("dns", "block", r#"http.request.host == "x""#, "", "`http.request.host` is never known at `dns`"),
        ("dns", "block", r#"verdict.outcome == "x""#, "", "known only in the record"),
        ("dns", "isolate", "", "", "`isolate` is not carried out at `dns`"),
        ("web", "override", "", "", "`override` is not carried out at `web`"),
        ("web", "quarantine", "", "", "`quarantine` is not carried out at `web`"),
        ("l4", "l4_override", "", "", "`l4_override` is not carried out at `l4`"),
        (
            "web",
            "block",
            r#"http.body_phase == "upload" and any(http.download.file.types[*] == "exe")"#,
            "",
            "the two never meet",
        ),
        ("web", "block", r#"http.body_phase == "download" and http.upload.file.size > 1"#, "", "the two never meet"),
        (
            "web",
            "allow",
            "http.response.status_code == 200",
            "settings.set_headers = { X-A = \"b\" }",
            "header changes are made when the request is sent",
        ),
        (
            "web",
            "allow",
            r#"http.request.method == "GET""#,
            "settings.untrusted_cert = \"pass_through\"",
            "the certificate is judged at the handshake",
        ),
        ("web", "allow", "", "settings.set_headers = { Content-Length = \"1\" }", "frames the message"),
        ("web", "allow", "", "settings.set_headers = { \"a b\" = \"1\" }", "is no header name"),
        ("web", "allow", "", "settings.set_headers = { A = \"b\\r\\nC: d\" }", "control characters"),
        ("web", "allow", "", "settings.set_headers = { A = \"@{identity.emial}\" }", "did you mean `identity.email`?"),
        ("web", "allow", "", "settings.set_headers = { A = \"@{device.posture}\" }", "not known here"),
        ("web", "block", "", "settings.set_headers = { A = \"b\" }", "header changes has no meaning for `block` at `web`"),
        ("web", "block", "", "settings.block_page = true", "block_page has no meaning for `block` at `web`"),
        ("dns", "allow", "", "settings.block_reason = \"x\"", "block_reason has no meaning for `allow` at `dns`"),
        ("dns", "block", "", "settings.override_ips = [\"192.0.2.1\"]", "override_ips has no meaning"),
        ("dns", "override", "", "", "one of `override_host` and `override_ips`"),
        ("dns", "resolve", "", "", "no resolver is named"),
        ("web", "redirect", "", "", "no target is named"),
        ("web", "redirect", "", "settings.redirect.target_uri = \"javascript:alert(1)\"", "an absolute http or https URL"),
        ("dns", "block", "", "schedule = { mon = \"9:00-10:00\", time_zone = \"Asia/Tokyo\" }", "is no list of hours"),
        ("dns", "block", "", "schedule = { mon = \"09:00-10:00\" }", "names no time zone"),
        (
            "dns",
            "block",
            "",
            "schedule = { mon = \"09:00-10:00\", time_zone = \"Asia/Edo\" }",
            "there is no time zone `Asia/Edo`",
        ),
        ("dns", "block", "", "schedule = { mon = \"10:00-11:00,09:00-10:00\", time_zone = \"UTC\" }", "rising"),
        ("dns", "block", "", "schedule = { mon = \"00:00-24:01\", time_zone = \"UTC\" }", "is no list of hours"),
        ("dns", "block", "", "expires = \"2026-01-01\"", "RFC 3339 with an offset"),
        ("dns", "block", "", "expires = \"2026-01-01T00:00:00\"", "RFC 3339 with an offset"),
        ("dns", "block", "any(device_posture.checks.passed[*] == \"x\")", "", "posture comes from a client agent"),
    ] {
        let toml = rule(gate, action, when, more);
        let told = told(&problems(&toml));
        assert!(told.contains(expected) && told.contains("rule \"r\""), "{toml}\n{told}");
    }
}

#[test]
fn the_matrix_is_data() {
    for pair in MATRIX {
        assert!(pair.stations.iter().all(|station| permits_station(pair.gate, pair.action, *station)));
        assert!(pair.gate.questions().contains(&pair.action.question()), "{pair:?}");
        assert!(pair.stations.iter().all(|station| pair.gate.position(*station).is_some()), "{pair:?}");
    }
}

#[test]
fn documents_are_checked_as_a_whole() {
    let two = |first: &str, second: &str| {
        let one = |name: &str, more: &str| {
            format!("[[rule]]\nname = \"{name}\"\ngate = \"dns\"\naction = \"block\"\nwhen = 'dns.fqdn == \"{name}\"'\n{more}\n")
        };
        one("a", first) + &one("b", second)
    };
    for (toml, expected) in [
        (two("precedence = 1", "precedence = 1"), "the rule \"a\" has the same precedence"),
        (two("id = \"x\"", "id = \"x\""), "the same identifier `x`"),
        (two("", "id = \"a\""), "the same identifier `a`"),
        (
            "[[list]]\nname = \"a\"\nkind = \"ip\"\n[[list]]\nname = \"a\"\nkind = \"ip\"\n".to_owned(),
            "another list is called `a`",
        ),
        ("[[list]]\nname = \"a\"\nkind = \"domain\"\nentries = [\"http://x/\"]\n".to_owned(), "`http://x/` is no entry"),
        ("[[list]]\nname = \"a\"\nkind = \"hash\"\nentries = [\"xyz\"]\n".to_owned(), "`xyz` is no entry"),
        (
            "[[list]]\nname = \"a\"\nkind = \"ip\"\nentries = [\"x\"]\nsource = \"f\"\n".to_owned(),
            "entries or a source, not both",
        ),
        ("[[user]]\nemail = \"a@b\"\ngroups = [\"staf\"]\n[[group]]\nname = \"staff\"\n".to_owned(), "did you mean `staff`?"),
        ("[[user]]\nemail = \"a@b\"\ntokens = [\"x\"]\n".to_owned(), "SHA-256 in hexadecimal"),
        (
            format!("[[user]]\nemail = \"a@b\"\ntokens = [{{ sha256 = \"{}\", expires = \"tomorrow\" }}]\n", "0".repeat(64)),
            "`tomorrow` is no moment",
        ),
        (
            "[[location]]\nname = \"hq\"\n[location.endpoints]\nproxy = { require_token = true }\n".to_owned(),
            "a client of `proxy` cannot show a token",
        ),
        ("[[user]]\nemail = \"a@b\"\n[[user]]\nemail = \"a@b\"\n".to_owned(), "stands twice"),
        (
            "[[location]]\nname = \"a\"\nnetworks = [\"10.0.0.0/8\"]\n[[location]]\nname = \"b\"\nnetworks = [\"10.1.0.0/8\"]\n"
                .to_owned(),
            "location \"10.0.0.0/8\", networks: stands twice",
        ),
        ("[[location]]\nname = \"hq\"\nuser = \"a@c\"\n[[user]]\nemail = \"a@b\"\n".to_owned(), "there is no user `a@c`"),
        (
            "[[list]]\nname = \"a\"\nkind = \"ip\"\n".to_owned() + &rule("dns", "block", "dns.fqdn in $a", ""),
            "the list `a` holds Ip",
        ),
        (
            "[[list]]\nname = \"bad-names\"\nkind = \"domain\"\n".to_owned()
                + &rule("dns", "block", "dns.fqdn in $bad_names", ""),
            "did you mean `bad-names`?",
        ),
    ] {
        let told = told(&problems(&toml));
        assert!(told.contains(expected), "{toml}\n{told}");
    }
    for wrong in [
        "[[rule]]\nname = \"a\"\n",
        "[[rules]]\n",
        "[[rule]]\nname = \"a\"\ngate = \"dns\"\naction = \"blok\"\n",
        "[[location]]\nname = \"a\"\nnetworks = [\"10.0.0.0/33\"]\n",
    ] {
        assert!(policy::Document::from_toml(wrong).is_err(), "{wrong}");
    }
    let file = |name: &str, toml: &str| (name.to_owned(), document(toml));
    let merged = policy::Document::merge(vec![file("b.toml", &rule("dns", "block", "x", "")), file("a.toml", "[settings]\n")]);
    let problems = Policy::compile(&merged.expect("merged")).map(|_| ()).expect_err("no such field");
    assert!(
        told(&problems).starts_with("b.toml, rule \"r\", when: line 1 column 1: there is no field `x`"),
        "{}",
        told(&problems)
    );
    assert!(policy::Document::merge(vec![file("b.toml", "[settings]\n"), file("a.toml", "[settings]\n")]).is_err());
}

#[test]
fn a_document_survives_being_written() {
    let toml = "[settings]\ntime_zone = \"Asia/Tokyo\"\n".to_owned()
        + &rule(
            "dns",
            "block",
            "dns.fqdn in $bad",
            "precedence = 3\nschedule = { mon = \"08:00-12:00\" }\nsettings.block_reason = \"no\"",
        )
        + "[[list]]\nname = \"bad\"\nkind = \"domain\"\nentries = [\"bad.example\"]\n[[location]]\nname = \"hq\"\nnetworks = [\"10.0.0.0/8\"]\nfail = \"open\"\n";
    let written = document(&toml).to_toml().expect("written");
    assert_eq!(document(&written), document(&toml), "{written}");
    assert_eq!(
        document("[[rule]]\nname = \"r\"\ngate = \"dns\"\naction = \"block\"\ntraffic = \"true\"\n").rules[0].when,
        "true"
    );
}

#[test]
fn what_compiles_and_still_surprises_is_warned_of() {
    let named = |name: &str, action: &str, when: &str, more: &str| {
        rule("dns", action, when, more).replace("name = \"r\"", &format!("name = \"{name}\""))
    };
    let always = named("all", "allow", "", "");
    let expect = |toml: &str, expected: &[(WarningKind, &str)]| {
        let expected: Vec<_> = expected.iter().map(|(kind, name)| (*kind, format!("rule \"{name}\""))).collect();
        assert_eq!(warnings(toml), expected, "{toml}");
    };
    use WarningKind::*;
    let below = named("below", "block", r#"dns.fqdn == "a""#, "");
    expect(&(always.clone() + &below), &[(NeverTakesEffect, "below")]);
    expect(&(always.clone() + &named("other question", "safesearch", "", "")), &[]);
    expect(&(named("hours", "allow", "", "schedule = { mon = \"00:00-24:00\", time_zone = \"UTC\" }") + &below), &[]);
    expect(&(named("ends", "allow", "", "expires = \"2030-01-01T00:00:00Z\"") + &below), &[]);
    expect(
        &(named("a", "allow", r#"dns.fqdn == "a""#, "") + &named("b", "block", r#"dns.fqdn eq "A""#, "")),
        &[(NeverTakesEffect, "b")],
    );
    expect(&named("never", "block", "false", ""), &[(NeverTakesEffect, "never")]);
    expect(&named("array", "block", r#"dns.domains == "a""#, ""), &[(BareArray, "array")]);
    expect(&named("late", "block", "any(dns.resolved_ips[*] == 192.0.2.1)", ""), &[(MustWait, "late")]);
    expect(&(named("late", "allow", r#"dns.rcode == "X""#, "") + &below), &[(MustWait, "below")]);
    expect(&(below.clone() + &named("late", "allow", r#"dns.rcode == "X""#, "")), &[]);
    expect(&rule("mail", "block", "", "").replace("\"r\"", "\"no gate\""), &[(NeverTakesEffect, "no gate")]);
    let list = "[[list]]\nname = \"off\"\nkind = \"domain\"\nentries = [\"a\"]\nenabled = false\n";
    expect(&(list.to_owned() + &named("uses", "block", "dns.fqdn in $off", "")), &[(EmptyList, "uses")]);
    let (policy, _) = compiled(&named("old", "block", "", "expires = \"2026-01-01T00:00:00+09:00\""));
    let moment = |text: &str| model::Timestamp(text.parse::<jiff::Timestamp>().expect("moment").as_microsecond());
    assert!(policy.expired(moment("2025-12-31T14:59:59Z")).is_empty());
    assert_eq!(policy.expired(moment("2025-12-31T15:00:00Z")).len(), 1);
}

/// Pseudo-random soup of tokens and bytes; a fixed seed, so that a failure comes again.
#[test]
fn no_text_makes_the_parser_fall_over() {
    const PIECES: &[&str] = &[
        "dns.fqdn",
        "dns.domains",
        "net.src.ip",
        "identity.groups",
        "identity.saml_attributes",
        ".name",
        "http.response.status_code",
        "scan.malicious",
        "event.time",
        "==",
        "!=",
        ">=",
        "<",
        "in",
        "not in",
        "contains",
        "matches",
        "~",
        "wildcard",
        "strict",
        "&",
        "and",
        "or",
        "xor",
        "not",
        "!",
        "&&",
        "||",
        "^^",
        "(",
        ")",
        "{",
        "}",
        "[",
        "]",
        "[*]",
        "[0]",
        ",",
        "*",
        "any(",
        "all(",
        "concat(",
        "lower(",
        "len(",
        "starts_with(",
        "\"a\"",
        "\"\\",
        "r#\"a\"#",
        "r\"",
        "\"\\x4\"",
        "\"\\777\"",
        "5",
        "-5",
        "1..5",
        "-3..-1",
        "5..1",
        "10.0.0.0/8",
        "10.0.0.1..10.0.0.9",
        "::1",
        "::/0",
        "01:2E:F3",
        "$list",
        "$",
        "true",
        "false",
        "日",
        "\u{0}",
        " ",
        "\n",
        "\\",
        "\"",
        "0x",
        "99999999999999999999",
    ];
    let mut scatter = testkit::Scatter::new(0x9E37_79B9_7F4A_7C15);
    let mut next = |below: usize| scatter.below(below);
    let mut finished = common::dns("a");
    finished.reach(model::Station::Record);
    let transactions = [common::dns("a"), finished, model::Facts::new(model::Gate::Web)];
    let mut parsed = 0;
    for _ in 0..20_000 {
        let mut soup = String::new();
        for _ in 0..next(12) {
            soup.push_str(PIECES[next(PIECES.len())]);
            if next(4) > 0 {
                soup.push(' ');
            }
        }
        if let Ok(filter) = Filter::parse(&soup) {
            parsed += 1;
            let truths: Vec<bool> = transactions.iter().map(|facts| filter.matches(facts)).collect();
            let canonical = filter.canonical();
            let again = Filter::parse(&canonical).unwrap_or_else(|problem| panic!("{soup} -> {canonical}: {problem}"));
            assert_eq!(again.canonical(), canonical, "{soup}");
            let again: Vec<bool> = transactions.iter().map(|facts| again.matches(facts)).collect();
            assert_eq!(again, truths, "{soup} -> {canonical}");
        }
    }
    assert!(parsed > 200, "only {parsed} of the soups were expressions");
}

#[test]
fn an_unknown_key_of_a_document_is_refused_with_its_neighbour() {
    let told = |text| policy::Document::from_toml(text).err().map(|error| error.to_string()).unwrap_or_default();
    let near = told("[[list]]\nname = \"a\"\nentires = []\n");
    assert!(near.contains("line 3") && near.ends_with("did you mean `entries`?"), "{near}");
    let far = told("[[list]]\nname = \"a\"\nzzzzzzzz = []\n");
    assert!(far.contains("zzzzzzzz") && !far.contains("did you mean"), "{far}");
}
