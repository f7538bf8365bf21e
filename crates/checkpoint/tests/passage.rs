//! However a transaction ends, it leaves exactly one final event, and the event says what was decided and by which rule.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops where its own set-up fails")]

use std::io::{Seek, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use checkpoint::testing::Harness;
use checkpoint::{Credential, FailureMode, LogPrivacy, PrivacyRule, ScanVerdict, Settings};
use model::{
    Action, Destination, Disposition, Event, FieldId, Gate, Question, Session, Station, Text, Timestamp, Transport, Value,
};

const BLOCK_EXAMPLE: &str = r#"
[[rule]]
id = "no-example"
name = "No example"
gate = "dns"
action = "block"
when = 'any(dns.domains[*] == "example.com")'
settings = { block_reason = "not today" }

[[rule]]
id = "no-scan"
name = "Trusted mirror"
gate = "web"
action = "noscan"
when = 'http.request.host == "mirror.example"'
"#;

fn session(harness: &Harness, gate: Gate) -> Session {
    Session {
        id: harness.checkpoint.next_session(),
        gate,
        transport: Transport::Udp,
        began: Timestamp(0),
        client: SocketAddr::from(([192, 0, 2, 1], 5000)),
        local: SocketAddr::from(([127, 0, 0, 1], 53)),
        location: Text::default(),
        identity: None,
    }
}

fn text(event: &Event, field: FieldId) -> String {
    event.facts.get(field).map(ToString::to_string).unwrap_or_default()
}

fn resolve(name: &str) -> Destination {
    Destination::Resolve { name: name.into() }
}

fn file(bytes: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

/// The standard harmless test file, put together at run time.
fn test_virus() -> Vec<u8> {
    [r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR", "-STANDARD-ANTIVIRUS-", "TEST-FILE!$H+H*"].concat().into_bytes()
}

#[test]
fn a_blocked_name_is_refused_and_its_event_names_the_rule() {
    let harness = Harness::new(BLOCK_EXAMPLE);
    let mut passage = harness.checkpoint.examine(&session(&harness, Gate::Dns));
    passage.learn_host("WWW.example.com.");
    passage.reach(Station::Question);
    let Err(refusal) = passage.permit(resolve("www.example.com")) else { panic!("a permit was given") };
    assert_eq!(refusal.action, Action::Block);
    passage.finish(Disposition::Blocked);

    let events = harness.events();
    assert_eq!(events.len(), 1);
    assert_eq!(text(&events[0], FieldId::DnsFqdn), "www.example.com");
    assert_eq!(text(&events[0], FieldId::VerdictRule), "No example");
    assert_eq!(text(&events[0], FieldId::VerdictReason), "not today");
    assert_eq!(text(&events[0], FieldId::VerdictOutcome), "blocked");
    assert_eq!(text(&events[0], FieldId::SourceIp), "192.0.2.1");
}

#[test]
fn a_name_that_no_rule_matches_gets_a_permit_for_that_name_alone() {
    let harness = Harness::new(BLOCK_EXAMPLE);
    let mut passage = harness.checkpoint.examine(&session(&harness, Gate::Dns));
    passage.learn_host("example.org");
    passage.reach(Station::Question);
    let Ok(permit) = passage.permit(resolve("example.org")) else { panic!("refused") };
    assert_eq!(permit.destination(), &resolve("example.org"));
    passage.finish(Disposition::Allowed);
    assert_eq!(harness.events().len(), 1);
}

#[test]
fn a_dropped_passage_leaves_one_event() {
    let harness = Harness::new("");
    drop(harness.checkpoint.examine(&session(&harness, Gate::Dns)));
    let mut failed = harness.checkpoint.examine(&session(&harness, Gate::Dns));
    failed.fail("client_gone");
    failed.fail("deadline");
    drop(failed);
    let events = harness.events();
    assert_eq!(events.len(), 2);
    assert_eq!(text(&events[0], FieldId::VerdictOutcome), "no_action");
    assert_eq!(text(&events[1], FieldId::VerdictOutcome), "error");
    assert_eq!(text(&events[1], FieldId::Failure), "client_gone");
    assert_ne!(text(&events[0], FieldId::Reference), text(&events[1], FieldId::Reference));
}

#[test]
fn a_cancelled_task_leaves_one_event() {
    let harness = Harness::new("");
    let passage = harness.checkpoint.examine(&session(&harness, Gate::Web));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let task = tokio::spawn(async move {
            let _held = passage;
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
        task.abort();
        let _ = task.await;
    });
    assert_eq!(harness.events().len(), 1);
}

#[test]
fn a_panicking_task_leaves_one_event() {
    let harness = Harness::new("");
    let passage = harness.checkpoint.examine(&session(&harness, Gate::Web));
    let ended = std::thread::spawn(move || {
        let _held = passage;
        panic!("on purpose");
    })
    .join();
    assert!(ended.is_err());
    assert_eq!(harness.events().len(), 1);
}

#[tokio::test]
async fn malware_refuses_every_later_permit() {
    let harness = Harness::new("");
    let mut passage = harness.checkpoint.examine(&session(&harness, Gate::Web));
    passage.learn_host("files.example");
    passage.reach(Station::ResponseBody);
    let verdict = passage.scan(file(&test_virus()), "invoice.com").await;
    assert_eq!(verdict, ScanVerdict::Malicious);
    for _ in 0..2 {
        let Err(refusal) = passage.permit(Destination::Client) else { panic!("malware got a permit") };
        assert_eq!(refusal.rule.map(|rule| rule.id.to_string()).as_deref(), Some("builtin.malware"));
    }
    passage.finish(Disposition::Blocked);
    let events = harness.events();
    assert_eq!(text(&events[0], FieldId::ScanVerdict), "malicious");
    assert_eq!(text(&events[0], FieldId::VerdictRuleId), "builtin.malware");
    assert_eq!(text(&events[0], FieldId::FileName), "invoice.com");
    assert_eq!(text(&events[0], FieldId::FileSha256).len(), 64);
}

#[test]
fn a_noscan_rule_is_an_answer_to_ask() {
    let harness = Harness::new(BLOCK_EXAMPLE);
    for (host, action) in [("mirror.example", Action::DoNotScan), ("other.example", Action::Scan)] {
        let mut passage = harness.checkpoint.examine(&session(&harness, Gate::Web));
        passage.learn_host(host);
        passage.reach(Station::Request);
        assert_eq!(passage.ask(Question::Scan), action, "{host}");
        passage.finish(Disposition::Allowed);
    }
    assert_eq!(text(&harness.events()[0], FieldId::VerdictRules), "scan=noscan:Trusted mirror");
}

#[test]
fn a_child_knows_its_connection_and_has_its_own_event() {
    let harness = Harness::new("");
    let mut tunnel = harness.checkpoint.examine(&session(&harness, Gate::Web));
    tunnel.learn_host("example.org");
    let child = tunnel.child();
    assert_ne!(child.reference(), tunnel.reference());
    assert_eq!(child.facts().get(FieldId::HttpHost), Some(&Value::text("example.org")));
    child.finish(Disposition::Allowed);
    tunnel.finish(Disposition::Allowed);
    assert_eq!(harness.events().len(), 2);
}

#[test]
fn what_may_not_be_kept_is_not_in_the_event() {
    let privacy = vec![PrivacyRule { group: String::new(), keep: LogPrivacy::CountsOnly }];
    let settings = Settings { privacy, unscannable: FailureMode::Closed, ..Settings::default() };
    let harness = Harness::with_settings("", settings);
    let mut passage = harness.checkpoint.examine(&session(&harness, Gate::Dns));
    passage.learn_host("secret.example");
    passage.finish(Disposition::Allowed);
    let event = &harness.events()[0];
    for field in [FieldId::DnsFqdn, FieldId::DnsDomains, FieldId::SourceIp] {
        assert_eq!(event.facts.get(field), None);
    }
    assert_eq!(text(event, FieldId::VerdictOutcome), "allowed");
}

#[test]
fn a_token_names_its_user_and_a_wrong_one_nobody() {
    let token = checkpoint::token_of(&"k".repeat(checkpoint::TOKEN_SECRET_CHARS));
    let policy = format!(
        "[[group]]\nname = \"finance\"\nid = \"g1\"\n[[user]]\nemail = \"ann@example.com\"\ngroups = [\"finance\"]\ntokens = [\"{}\"]\n\
         [[location]]\nname = \"office\"\nnetworks = [\"192.0.2.0/24\"]\nuser = \"ann@example.com\"\ndoh_token = \"t1\"\n",
        checkpoint::secret_digest(&token)
    );
    let harness = Harness::new(&policy);
    let ann = harness.checkpoint.identify(&Credential::Token(&token)).unwrap();
    assert_eq!((&*ann.email, &*ann.groups[0].id, &*ann.how), ("ann@example.com", "g1", "token"));
    let basic = Credential::Basic { user: "ann@example.com", password: &token };
    assert!(harness.checkpoint.identify(&basic).is_ok());
    assert!(harness.checkpoint.identify(&Credential::Token("skt_nonsense")).is_err());
    assert_eq!(&*harness.checkpoint.locate([192, 0, 2, 9].into(), None).unwrap().name, "office");
    assert!(harness.checkpoint.locate([192, 0, 3, 9].into(), None).is_none());
    assert!(harness.checkpoint.locate([192, 0, 2, 9].into(), Some("unknown")).is_none());
}

/// GW-021: what a header variable cannot name becomes nothing, and the record says so.
#[test]
fn gw_021_a_variable_that_is_not_known_is_written_down() {
    let rule = "[[rule]]\nname = \"tenant\"\ngate = \"web\"\naction = \"allow\"\n\
        settings = { set_headers = { \"X-User\" = \"@{identity.email} from @{source.ip}\" } }\n";
    let harness = Harness::new(rule);
    let mut passage = harness.checkpoint.examine(&session(&harness, Gate::Web));
    passage.learn_host("login.example");
    passage.reach(Station::Request);
    let destination = Destination::Upstream { host: "login.example".into(), port: 443, addresses: Vec::new() };
    assert!(passage.permit(destination).is_ok());
    passage.finish(Disposition::Allowed);
    let findings = harness.events()[0].facts.get(FieldId::Findings).map(Value::to_string).unwrap_or_default();
    assert!(findings.contains("@{identity.email} is not known") && !findings.contains("source.ip"), "{findings}");
}

fn listed(kind: intel::Kind, text: &str) -> intel::Snapshot {
    let mut entries = intel::Entries::new();
    entries.push(text, intel::Scope::Whole);
    let mut builder = intel::Snapshot::builder();
    builder.add_list(intel::NamedList {
        name: Arc::from("listed"),
        feed_id: Some(3),
        category: Some(intel::CategoryKind::Security(117)),
        kind,
        entries,
        exceptions: intel::Entries::new(),
    });
    builder.build()
}

#[test]
fn a_listed_name_is_blocked_by_its_category() {
    let policy =
        "[[rule]]\nname = \"threats\"\ngate = \"dns\"\naction = \"block\"\nwhen = 'any(dns.security_category[*] == 117)'\n";
    let harness = Harness::with_knowledge(policy, Settings::default(), listed(intel::Kind::Domains, "bad.example"));
    for (name, is_blocked) in [("www.bad.example", true), ("good.example", false)] {
        let mut passage = harness.checkpoint.examine(&session(&harness, Gate::Dns));
        passage.learn_host(name);
        passage.reach(Station::Question);
        assert_eq!(passage.permit(resolve(name)).is_err(), is_blocked, "{name}");
        passage.finish(Disposition::Allowed);
    }
    assert_eq!(text(&harness.events()[0], FieldId::DnsIndicatorFeed), "3");

    let mut passage = harness.checkpoint.examine(&session(&harness, Gate::Dns));
    passage.learn_host("alias.example");
    passage.reach(Station::Question);
    assert!(passage.permit(resolve("alias.example")).is_ok());
    passage.learn_alias("cdn.bad.example");
    passage.reach(Station::Answer);
    assert!(passage.permit(Destination::Client).is_err(), "every name of the chain counts (CT-07)");
    assert!(passage.is_by_rule(Question::Access));
    passage.finish(Disposition::Blocked);
}

#[test]
fn a_listed_url_has_its_category_beside_those_of_its_host() {
    let knowledge = listed(intel::Kind::Urls, "http://files.example/evil.exe");
    let harness = Harness::with_knowledge("", Settings::default(), knowledge);
    let mut passage = harness.checkpoint.examine(&session(&harness, Gate::Web));
    passage.learn(FieldId::HttpSecurityCategory, Value::ints([68]));
    passage.learn(FieldId::HttpUrl, Value::text("http://files.example/evil.exe?x=1"));
    assert_eq!(text_of(&passage, FieldId::HttpSecurityCategory), "117,68");
    passage.finish(Disposition::Allowed);
}

fn text_of(passage: &checkpoint::Passage, field: FieldId) -> String {
    passage.facts().get(field).map(ToString::to_string).unwrap_or_default()
}

#[tokio::test]
async fn a_listed_file_is_malware_though_no_engine_knows_it() {
    // SHA-256 of the three bytes `abc` (FIPS 180-4, appendix B.1).
    let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let harness = Harness::with_knowledge("", Settings::default(), listed(intel::Kind::Hashes, hash));
    let mut passage = harness.checkpoint.examine(&session(&harness, Gate::Web));
    passage.reach(Station::ResponseBody);
    assert_eq!(passage.scan(file(b"abc"), "abc.txt").await, ScanVerdict::Malicious);
    assert!(passage.permit(Destination::Client).is_err());
    passage.finish(Disposition::Blocked);
    assert_eq!(text(&harness.events()[0], FieldId::ScanVerdict), "malicious");
}

#[tokio::test]
async fn the_same_bytes_are_opened_once_and_judged_each_time() {
    let harness = Harness::new("");
    let no_file = || Err(std::io::Error::other("the file was made again"));
    for is_first in [true, false] {
        let mut passage = harness.checkpoint.examine(&session(&harness, Gate::Web));
        passage.reach(Station::ResponseBody);
        let virus = test_virus();
        let parts = [&virus[..10], &virus[10..]];
        let verdict = match is_first {
            true => passage.scan_held(parts, "a.com", || Ok(file(&virus))).await,
            false => passage.scan_held(parts, "b.com", no_file).await,
        };
        assert_eq!(verdict.unwrap(), ScanVerdict::Malicious);
        assert!(passage.permit(Destination::Client).is_err());
        passage.finish(Disposition::Blocked);
    }
    let mut other = harness.checkpoint.examine(&session(&harness, Gate::Web));
    assert!(other.scan_held([b"other"], "c.com", no_file).await.is_err());
    let events = harness.events();
    assert_eq!(text(&events[1], FieldId::FileName), "b.com");
    assert_eq!(text(&events[0], FieldId::FileSha256), text(&events[1], FieldId::FileSha256));
}

/// A question whose answer leads over `alias` to `address`, and what a rule said in the end.
fn outcome(harness: &Harness, alias: &str, address: [u8; 4]) -> String {
    let mut passage = harness.checkpoint.examine(&session(harness, Gate::Dns));
    passage.learn_host("www.example.com");
    passage.reach(Station::Question);
    if passage.permit(Destination::Resolve { name: "www.example.com".into() }).is_err() {
        return "blocked".to_owned();
    }
    passage.learn(FieldId::DnsResolvedIps, Value::ips([std::net::IpAddr::from(address)]));
    passage.learn_alias(alias);
    passage.reach(Station::Answer);
    let is_refused = passage.permit(Destination::Client).is_err();
    passage.finish(Disposition::Allowed);
    if is_refused { "blocked" } else { "allowed" }.to_owned()
}

/// GW-033: categories and feeds of the answer's addresses count where the rule says so, and else those of names alone.
#[test]
fn gw_033_addresses_of_the_answer_are_matched_where_a_rule_says_so() {
    for (field, setting, expected) in [
        ("dns.security_category", "", "allowed"),
        ("dns.security_category", "ip_categories = true", "blocked"),
        ("dns.security_category", "ip_indicator_feeds = true", "allowed"),
        ("dns.indicator_feed", "ip_indicator_feeds = true", "blocked"),
        ("dns.indicator_feed", "ip_categories = true", "allowed"),
    ] {
        let rule = format!(
            "[[rule]]\nname = \"r\"\ngate = \"dns\"\naction = \"block\"\nwhen = 'any({field}[*] in {{3 117}})'\nsettings = {{ {setting} }}\n"
        );
        let knowledge = listed(intel::Kind::Addresses, "198.51.100.7");
        let harness = Harness::with_knowledge(&rule, Settings::default(), knowledge);
        assert_eq!(outcome(&harness, "cdn.example.net", [198, 51, 100, 7]), expected, "{field} {setting}");
        assert_eq!(outcome(&harness, "cdn.example.net", [198, 51, 100, 8]), "allowed", "{field} {setting}");
    }
}

/// GW-034: a rule can leave the categories of names out that the queried one leads to.
#[test]
fn gw_034_categories_of_aliases_are_left_out_where_a_rule_says_so() {
    for (setting, expected) in [("", "blocked"), ("ignore_cname_category_matches = true", "allowed")] {
        let rule = format!(
            "[[rule]]\nname = \"r\"\ngate = \"dns\"\naction = \"block\"\nwhen = 'any(dns.security_category[*] in {{117}})'\nsettings = {{ {setting} }}\n"
        );
        let harness = Harness::with_knowledge(&rule, Settings::default(), listed(intel::Kind::Domains, "tracker.example"));
        assert_eq!(outcome(&harness, "tracker.example", [192, 0, 2, 1]), expected, "{setting}");
        let own = Harness::with_knowledge(&rule, Settings::default(), listed(intel::Kind::Domains, "www.example.com"));
        assert_eq!(outcome(&own, "cdn.example.net", [192, 0, 2, 1]), "blocked", "{setting}: its own count in any case");
    }
}

/// ID-05: the spellings of a mailbox are one user where the policy says so, in texts, sets and lists.
#[test]
fn id_05_spellings_of_a_mailbox_are_one_user() {
    let tests =
        ["identity.email == \"Ann.Lee+x@example.com\"", "identity.email in {\"annlee@example.com\"}", "identity.email in $staff"];
    for (setting, expected) in [("", false), ("[settings]\nextended_email_matching = true\n", true)] {
        for test in tests {
            let policy = format!(
                "{setting}[[list]]\nname = \"staff\"\nkind = \"email\"\nentries = [\"an.nlee@example.com\"]\n\
                 [[user]]\nemail = \"ann.lee@example.com\"\n[[user]]\nemail = \"ann@example.com\"\n\
                 [[rule]]\nname = \"r\"\ngate = \"dns\"\naction = \"block\"\nidentity = '{test}'\n"
            );
            let harness = Harness::new(&policy);
            let is_refused = |email: &str| {
                let identity = harness.checkpoint.user(email);
                let mut passage = harness.checkpoint.examine(&Session { identity, ..session(&harness, Gate::Dns) });
                passage.learn_host("example.com");
                passage.reach(Station::Question);
                let refused = passage.permit(Destination::Resolve { name: "example.com".into() }).is_err();
                passage.finish(Disposition::Allowed);
                refused
            };
            assert_eq!(is_refused("ann.lee@example.com"), expected, "{setting}{test}");
            assert!(!is_refused("ann@example.com"), "{setting}{test}");
        }
    }
}
