//! The rows of features.md 1.1 to 1.4 and 8.2 that no other file here covers, each as a table: what is accepted, what it
//! means, and what is refused and how.
#![allow(clippy::expect_used, clippy::panic)]

mod common;

use common::{at, compile, document, problems, told};
use model::{Action, Facts, FieldId, Gate, Question, Station, Value};
use policy::import::cloudflare;
use policy::{Filter, MATRIX, Policy};
use serde_json::json;

/// A finished web transaction with three groups, a status, a port and two addresses.
fn record() -> Facts {
    let mut facts = Facts::new(Gate::Web);
    facts.reach(Station::Record);
    for (field, value) in [
        (FieldId::GroupNames, Value::texts(["finance", "staff", "admins"])),
        (FieldId::HttpHost, Value::text("www.example.com")),
        (FieldId::HttpStatus, Value::Int(83)),
        (FieldId::DestinationPort, Value::Int(8080)),
        (FieldId::SourceIp, Value::Ip("10.0.0.7".parse().expect("address"))),
        (FieldId::WebDestinationIps, Value::ips(["192.0.2.1", "2001:db8::5"].map(|ip| ip.parse().expect("address")))),
        (FieldId::HttpPath, Value::text("/a b\\c\"d\te")),
        (FieldId::DownloadFileSize, Value::Int(10)),
    ] {
        assert!(facts.set(field, value), "{field:?}");
    }
    facts
}

#[test]
fn wf_07_logic_inside_a_quantifier_is_said_of_each_element() {
    let facts = record();
    for (expression, truth) in [
        (r#"any(identity.groups.name[*] == "x" or identity.groups.name[*] == "staff")"#, true),
        (
            r#"any(identity.groups.name[*] == "x" || identity.groups[*].name contains "dmi" or identity.groups.name[*] == "y")"#,
            true,
        ),
        (r#"any(identity.groups.name[*] == "x" or identity.groups.name[*] == "y")"#, false),
        (r#"all(identity.groups.name[*] contains "a" and len(identity.groups.name[*]) > 5)"#, false),
        (r#"all(len(identity.groups.name[*]) < 8 && len(identity.groups.name[*]) > 4)"#, true),
        (r#"any(not identity.groups.name[*] contains "a" or identity.groups.name[*] == "y")"#, false),
        (r#"any(not (identity.groups.name[*] == "staff" and identity.groups.name[*] contains "s"))"#, true),
        (r#"all(not (identity.groups.name[*] == "x" or identity.groups.name[*] == "staff"))"#, false),
        (r#"all(not (identity.groups.name[*] == "x" or identity.groups.name[*] == "y"))"#, true),
        (r#"any((identity.groups.name[*] == "x") or (identity.groups.name[*] not in {"finance" "staff" "admins"}))"#, false),
    ] {
        let filter = Filter::parse(expression).unwrap_or_else(|problem| panic!("{expression}: {problem}"));
        assert_eq!(filter.matches(&facts), truth, "{expression}");
        let again = Filter::parse(&filter.canonical()).unwrap_or_else(|problem| panic!("{}: {problem}", filter.canonical()));
        assert_eq!(again.matches(&facts), truth, "{}", filter.canonical());
    }
    for (expression, column, message) in [
        (r#"any(identity.groups.name[*] == "x" and identity.groups.name[*] == "y")"#, 36, "`and` inside `any`"),
        (r#"all(identity.groups.name[*] == "x" or identity.groups.name[*] == "y")"#, 36, "`or` inside `all`"),
        (r#"any(identity.groups.name[*] == "x" xor identity.groups.name[*] == "y")"#, 36, "`xor` inside `any`"),
        (r#"any(not (identity.groups.name[*] == "x" or identity.groups.name[*] == "y"))"#, 41, "`or` inside `all`"),
        (r#"any(identity.groups.name[*] == "x" or app.names[*] == "y")"#, 5, "runs over two arrays"),
        (r#"any(identity.groups.name[*] == "x" or http.request.host == "y")"#, 1, "nothing in here runs over an array"),
    ] {
        let problem = Filter::parse(expression).map(|filter| filter.canonical()).expect_err(expression);
        assert!(problem.to_string().contains(message), "{expression}: {problem}");
        assert_eq!(problem.position.map(|position| position.column), Some(column), "{expression}: {problem}");
    }
}

/// The open engine reads a leading zero as octal, so an imported rule that has one must mean the same here.
#[test]
fn wf_09_numbers_have_one_reading() {
    let facts = record();
    for (expression, truth) in [
        ("http.response.status_code == 0123", true),
        ("http.response.status_code == 83", true),
        ("http.response.status_code == 0x53", true),
        ("http.response.status_code == 0X53", false),
        ("http.response.status_code in {0120..0x60}", true),
        ("http.response.status_code in {0}", false),
        ("http.response.status_code >= 00", true),
        ("http.response.status_code > -1", true),
        (r#"http.response.status_code in {"83" "404"}"#, true),
        (r#"http.response.status_code == "0123""#, true),
    ] {
        match (Filter::parse(expression), expression.contains("0X")) {
            (Ok(filter), false) => assert_eq!(filter.matches(&facts), truth, "{expression}"),
            (Err(problem), true) => assert!(problem.to_string().contains("a number"), "{problem}"),
            (parsed, _) => panic!("{expression}: {parsed:?}"),
        }
    }
    for expression in ["08", "0x", "0xG", "-010", "\"+5\"", "\"0x-5\"", "\"0x+5\"", "1.5", "--5", "\"\"", "9223372036854775808"] {
        let expression = format!("http.response.status_code == {expression}");
        assert!(Filter::parse(&expression).is_err(), "{expression}");
    }
}

#[test]
fn wf_09_text_has_its_escapes_and_no_others() {
    let facts = record();
    for (expression, truth) in [
        (r#"http.request.uri.path == "/a b\\c\"d\x09e""#, true),
        (r#"http.request.uri.path == "\x2Fa\040b\134c\042d\011e""#, true),
        ("http.request.uri.path == 2F:61:20:62:5c:63:22:64:09:65", true),
        ("http.request.uri.path == r##\"/a b\\c\"d\te\"##", true),
        ("http.request.uri.path matches r\"\\\\c.d\\te$\"", true),
        ("http.request.uri.path matches \"b\\\\c\\\"d\"", true),
        ("http.request.uri.path contains \"\\\\c\"", true),
        ("http.request.uri.path contains r\"\\c\"", true),
        ("http.request.uri.path wildcard r\"/A*\\\\c*\"", true),
        ("http.request.uri.path strict wildcard r\"/A*\"", false),
    ] {
        let filter = Filter::parse(expression).unwrap_or_else(|problem| panic!("{expression}: {problem}"));
        assert_eq!(filter.matches(&facts), truth, "{expression}");
        let again = Filter::parse(&filter.canonical()).unwrap_or_else(|problem| panic!("{}: {problem}", filter.canonical()));
        assert_eq!(again.matches(&facts), truth, "{}", filter.canonical());
    }
    for text in
        [r#""\n""#, r#""\8""#, r#""\x4""#, r#""\400""#, r#""\u{41}""#, r#""\xC3""#, "1:2", "61:6", "61:ZZ", "FF:FE", "'a'"]
    {
        let expression = format!("http.request.host == {text}");
        assert!(Filter::parse(&expression).is_err(), "{expression}");
    }
}

#[test]
fn wf_05_sets_mix_addresses_networks_and_ranges() {
    let facts = record();
    for (set, truth) in [
        ("{10.0.0.7}", true),
        ("{192.0.2.0/24 10.0.0.5..10.0.0.9 2001:db8::/32}", true),
        ("{10.0.0.8..10.0.0.9, 10.0.0.1/30, ::/0}", false),
        ("{\"10.0.0.0/8\"}", true),
        ("{::ffff:10.0.0.7}", false),
    ] {
        let filter = Filter::parse(&format!("net.src.ip in {set}")).unwrap_or_else(|problem| panic!("{set}: {problem}"));
        assert_eq!(filter.matches(&facts), truth, "{set}");
    }
    for (expression, truth) in [
        ("any(http.conn.dst_ip[*] in {2001:db8::1..2001:db8::f})", true),
        ("all(http.conn.dst_ip[*] in {2001:db8::/32 192.0.2.0/30})", true),
        ("not any(http.conn.dst_ip[*] in {10.0.0.0/8})", true),
        ("any(http.conn.dst_ip[*] not in {192.0.2.1})", true),
        ("net.dst.port in {80 443 8000..8999}", true),
        ("not(net.dst.port in {80 443})", true),
    ] {
        let filter = Filter::parse(expression).unwrap_or_else(|problem| panic!("{expression}: {problem}"));
        assert_eq!(filter.matches(&facts), truth, "{expression}");
    }
    for set in ["{10.0.0.0/33}", "{10.0.0.9..10.0.0.1}", "{10.0.0.1..::1}", "{10.0.0.0/8..11.0.0.0/8}", "{10.0.0}", "{a}"] {
        assert!(Filter::parse(&format!("net.src.ip in {set}")).is_err(), "{set}");
    }
}

#[test]
fn wf_06_precedence_is_or_then_xor_then_and_then_not() {
    let facts = record();
    let value = |bit: u8| if bit == 0 { "false" } else { "true" };
    for bits in 0..16u8 {
        let [a, b, c, d] = [bits & 1, bits >> 1 & 1, bits >> 2 & 1, bits >> 3 & 1];
        let expected = a | (b ^ (c & (1 - d)));
        for text in [
            format!("{} or {} xor {} and not {}", value(a), value(b), value(c), value(d)),
            format!("{} || {} ^^ {} && !{}", value(a), value(b), value(c), value(d)),
            format!("({}) or (({}) xor (({}) and (not ({}))))", value(a), value(b), value(c), value(d)),
        ] {
            let filter = Filter::parse(&text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
            assert_eq!(filter.matches(&facts), expected == 1, "{text} as {}", filter.canonical());
        }
    }
}

#[test]
fn wf_11_lists_are_called_by_name_or_identifier_with_hyphens() {
    for name in ["01302951-49f9-47c9-a400-0297e60b6a10", "534bce67f1", "bad.names", "a_b-c", "UPPER"] {
        let toml = format!(
            "[[rule]]\nname = \"r\"\ngate = \"dns\"\naction = \"block\"\nwhen = 'any(dns.domains[*] in ${name})'\n\
             [[list]]\nname = \"{name}\"\nkind = \"domain\"\nentries = [\"bad.example\"]\n"
        );
        assert_eq!(at(&compile(&toml), &common::dns("a.bad.example"), Question::Access), ("block", "r"), "{name}");
    }
    let unknown = told(&problems("[[rule]]\nname = \"r\"\ngate = \"dns\"\naction = \"block\"\nwhen = 'dns.fqdn not in $gone'\n"));
    assert!(unknown.contains("line 1 column 17: there is no list `gone`"), "{unknown}");
}

#[test]
fn gw_001_to_006_the_rule_itself() {
    for (toml, error) in [
        ("[[rule]]\ngate = \"dns\"\naction = \"block\"\n", "missing field `name`"),
        ("[[rule]]\nname = \"a\"\naction = \"block\"\n", "missing field `gate`"),
        ("[[rule]]\nname = \"a\"\ngate = \"dns\"\n", "missing field `action`"),
        ("[[rule]]\nname = \"a\"\ngate = [\"dns\", \"http\"]\naction = \"block\"\n", "gate"),
        ("[[rule]]\nname = \"a\"\ngate = \"dns\"\naction = \"deny\"\n", "unknown variant `deny`"),
        ("[[rule]]\nname = \"a\"\ngate = \"dns\"\naction = \"block\"\nenabld = true\n", "unknown field `enabld`"),
        (
            "[[rule]]\nname = \"a\"\ngate = \"dns\"\naction = \"block\"\n[rule.settings]\nblok_page = true\n",
            "unknown field `blok_page`",
        ),
    ] {
        let told = policy::Document::from_toml(toml).map(|_| ()).expect_err(toml);
        let told = format!("{told}: {}", std::error::Error::source(&told).map(ToString::to_string).unwrap_or_default());
        assert!(told.contains(error), "{toml}\n{told}");
    }
    // GW-004: three expressions, all of which must hold; an absent one does.
    let policy = compile(
        "[[rule]]\nname = \"r\"\ngate = \"web\"\naction = \"block\"\nidentity = 'identity.email == \"ann@example.com\"'\n",
    );
    let mut facts = Facts::new(Gate::Web);
    facts.reach(Station::Request);
    assert_eq!(at(&policy, &facts, Question::Access).0, "allow");
    facts.set(FieldId::UserEmail, Value::text("ann@example.com"));
    assert_eq!(at(&policy, &facts, Question::Access), ("block", "r"));
    // GW-006: a disabled rule is not read at all, so nothing about it can be wrong.
    let policy = compile("[[rule]]\nname = \"r\"\ngate = \"web\"\naction = \"block\"\nenabled = false\nwhen = 'no such thing'\n");
    assert_eq!(at(&policy, &facts, Question::Access), ("allow", ""));
}

#[test]
fn gw_005_lower_precedence_is_read_first_wherever_it_stands() {
    let rule = |name: &str, action: &str, precedence: &str| {
        format!("[[rule]]\nname = \"{name}\"\ngate = \"dns\"\naction = \"{action}\"\nwhen = 'dns.fqdn == \"a\"'\n{precedence}\n")
    };
    let toml = rule("none", "block", "") + &rule("late", "block", "precedence = 20") + &rule("early", "allow", "precedence = 10");
    assert_eq!(at(&compile(&toml), &common::dns("a"), Question::Access), ("allow", "early"));
    let toml = rule("first", "block", "") + &rule("second", "allow", "");
    assert_eq!(at(&compile(&toml), &common::dns("a"), Question::Access), ("block", "first"));
    // CX-08: what the hosted API accepts and then differs from for ever is refused when it is written.
    for wrong in ["precedence = 0", "precedence = -5"] {
        let told = told(&problems(&rule("r", "block", wrong)));
        assert!(told.contains("rule \"r\", precedence: a precedence below 1; expected 1 or more"), "{told}");
    }
    // GW-011: two rules of one gate are never in an order that nobody chose; gates are apart from each other.
    let twice = rule("a", "block", "precedence = 7") + &rule("b", "allow", "precedence = 7");
    assert!(told(&problems(&twice)).contains("the rule \"a\" has the same precedence"));
    compile(
        &(rule("a", "block", "precedence = 7")
            + &rule("b", "block", "precedence = 7").replace("dns", "web").replace("web.fqdn", "net.sni.host")),
    );
}

/// CX-07: what was written is what is kept, and the canonical form stands beside it.
#[test]
fn gw_010_the_source_is_kept_as_it_was_written() {
    let when = "any( dns.domains[*]   in {\"b.example\"   \"a.example\"} )";
    let document = document(&format!("[[rule]]\nname = \"r\"\ngate = \"dns\"\naction = \"block\"\nwhen = '{when}'\n"));
    let (policy, _) = Policy::compile(&document).expect("compiles");
    assert_eq!(policy.document().rules[0].when, when);
    assert_eq!(Filter::parse(when).expect("parses").canonical(), r#"any(dns.domains[*] in {"a.example" "b.example"})"#);
    let written = document.to_toml().expect("written");
    assert_eq!(policy::Document::from_toml(&written).expect("read").to_toml().expect("written"), written);
}

/// Every pair of gate and action compiles or is refused by its name, with what is possible there (AC-01 to AC-20).
#[test]
fn the_action_matrix_is_closed() {
    let needs = |action: Action| match action {
        Action::Override => "settings.override_ips = [\"192.0.2.1\"]\n",
        Action::Resolve => "settings.resolvers = [\"192.0.2.1:53\"]\n",
        Action::Redirect => "settings.redirect = { target_uri = \"https://a.example/\" }\n",
        _ => "",
    };
    for gate in Gate::ALL {
        for action in Action::ALL {
            let (gate_name, action_name) = (gate.as_str(), action.as_str());
            let toml = format!("[[rule]]\nname = \"r\"\ngate = \"{gate_name}\"\naction = \"{action_name}\"\n{}", needs(*action));
            let is_known = MATRIX.iter().any(|pair| pair.gate == *gate && pair.action == *action);
            match Policy::compile(&document(&toml)) {
                Ok(_) => assert!(is_known, "{action_name} at {gate_name} compiles and is in no row"),
                Err(problems) => {
                    let told = told(&problems);
                    let refused = format!("`{action_name}` is not carried out at `{gate_name}`");
                    let is_named = told.contains(&refused) && told.contains("; expected one of allow, block");
                    assert!(!is_known && is_named, "{told}");
                }
            }
        }
    }
}

/// Every field that a gate sees too late for an action is refused with the pair's name; every other compiles.
#[test]
fn fields_that_come_too_late_for_an_action_are_refused_by_name() {
    for pair in MATRIX.iter().filter(|pair| !matches!(pair.action, Action::Override | Action::Resolve | Action::Redirect)) {
        for field in FieldId::all() {
            let row = field.row();
            let Some(station) = row.station(pair.gate) else { continue };
            let test = match row.ty {
                model::Type::Bool => row.name.to_owned(),
                model::Type::Int => format!("{} == 1", row.name),
                model::Type::Ip => format!("{} == 192.0.2.1", row.name),
                model::Type::Text => format!("{} == \"x\"", row.name),
                model::Type::Time => format!("{} > \"2026-01-01T00:00:00Z\"", row.name),
                model::Type::Ints => format!("any({}[*] == 1)", row.name),
                model::Type::Ips => format!("any({}[*] == 192.0.2.1)", row.name),
                model::Type::Texts => format!("any({}[*] == \"x\")", row.name),
                model::Type::TextMap => format!("any({}[\"k\"][*] == \"x\")", row.name),
            };
            let (gate, action) = (pair.gate.as_str(), pair.action.as_str());
            let toml = format!("[[rule]]\nname = \"r\"\ngate = \"{gate}\"\naction = \"{action}\"\nwhen = '{test}'\n");
            match Policy::compile(&document(&toml)) {
                Ok(_) => assert!(pair.stations.contains(&station), "{action} at {gate} with {}", row.name),
                Err(problems) => {
                    let told = told(&problems);
                    let is_named = told.contains(&format!("`{action}` with `{}`", row.name));
                    assert!(!pair.stations.contains(&station) && is_named, "{told}");
                }
            }
        }
    }
}

#[test]
fn ht_13_a_body_phase_and_selectors_of_the_other_body_are_refused() {
    for (when, is_refused) in [
        (r#"http.body_phase == "download" and any(http.upload.file.types[*] in {"exe"})"#, true),
        (r#"http.upload.file.size >= 1 and http.body_phase == "download""#, true),
        (r#"http.body_phase == "upload" and http.download.mime == "image/png""#, true),
        (r#"http.body_phase == "upload" and (http.request.method == "PUT" and http.download.file.size > 1)"#, true),
        (r#"http.body_phase == "download" and any(http.download.file.types[*] in {"exe"})"#, false),
        (r#"http.body_phase == "upload" and http.upload.file.size > 1"#, false),
        (r#"http.body_phase == "upload" or any(http.download.file.types[*] in {"exe"})"#, false),
    ] {
        let toml = format!("[[rule]]\nname = \"r\"\ngate = \"web\"\naction = \"block\"\nwhen = '{when}'\n");
        match Policy::compile(&document(&toml)) {
            Ok(_) => assert!(!is_refused, "{when}"),
            Err(problems) => assert!(is_refused && told(&problems).contains("the two never meet"), "{}", told(&problems)),
        }
    }
}

#[test]
fn an_import_names_what_a_rule_may_not_say_twice() {
    let export = json!([
        {"id": "1", "name": "two layers", "action": "block", "filters": ["dns", "http"], "traffic": "", "precedence": 1, "enabled": true},
        {"id": "2", "name": "no layer", "action": "block", "traffic": "", "precedence": 2, "enabled": true},
        {"id": "3", "name": "renewed", "action": "block", "filters": ["dns"], "traffic": "dns.fqdn == \"a\"", "precedence": 3,
         "enabled": true, "expiration": {"expires_at": "2030-01-01T00:00:00Z", "duration": 60}},
        {"id": "4", "name": "zoneless", "action": "block", "filters": ["dns"], "traffic": "dns.fqdn == \"b\"", "precedence": 4,
         "enabled": true, "schedule": {"mon": "09:00-17:00"}}
    ]);
    let imported = cloudflare(&[&export.to_string()]).expect("an export");
    let told = imported.report.to_string();
    for expected in [
        "left behind: rule \"two layers\": names the layers dns and http; a rule has one (GW-003)",
        "left behind: rule \"no layer\": rules of the layer ``",
        "left behind: rule \"renewed\": its setting `expiration.duration`",
        "left behind: rule \"zoneless\": switched off: the schedule names no time zone",
    ] {
        assert!(told.contains(expected), "{expected}\n{told}");
    }
    assert_eq!(imported.document.rules.iter().map(|rule| &*rule.name).collect::<Vec<_>>(), ["renewed", "zoneless"]);
    assert_eq!(imported.document.rules[0].expires.as_deref(), Some("2030-01-01T00:00:00Z"));
}

/// ON-07: every list type of the hosted product that compares what an edge knows.
#[test]
fn on_07_lists_of_every_known_type_are_imported() {
    let list = |id: &str, kind: &str, items: &[&str]| json!({"id": id, "name": id, "type": kind, "items": items});
    let rule = |id: &str, traffic: &str, precedence: i64| json!({"id": id, "name": id, "action": "block", "filters": ["dns"], "traffic": traffic, "precedence": precedence, "enabled": true});
    let export = json!([
        list("d", "DOMAIN", &["a.example"]),
        list("u", "URL", &["https://a.example/x"]),
        list("e", "EMAIL", &["ann@example.com"]),
        list("i", "IP", &["192.0.2.0/24", "2001:db8::1"]),
        list("c", "CATEGORY", &["68", "80"]),
        list("l", "LOCATION", &["office"]),
        list("s", "SERIAL", &["8GE8721REF"]),
        list("v", "DEVICE", &["x"]),
        list("g", "AAGUID", &["x"]),
        rule("by category", "any(dns.security_category[*] in $c)", 1),
        rule("by place", "dns.location in $l", 2)
    ]);
    let imported = cloudflare(&[&export.to_string()]).expect("an export");
    let told = imported.report.to_string();
    for kind in ["SERIAL", "DEVICE", "AAGUID"] {
        assert!(told.contains(&format!("lists of type {kind} compare what this edge does not know")), "{told}");
    }
    assert_eq!(told.matches("left behind").count(), 3, "{told}");
    let (policy, _) = Policy::compile(&imported.document).unwrap_or_else(|problems| panic!("{}", common::told(&problems)));
    let mut facts = common::dns("x.example");
    facts.set(FieldId::DnsSecurityCategory, Value::ints([80]));
    assert_eq!(at(&policy, &facts, Question::Access), ("block", "by category"));
    let mut facts = common::dns("x.example");
    facts.set(FieldId::Location, Value::text("office"));
    assert_eq!(at(&policy, &facts, Question::Access), ("block", "by place"));
}
